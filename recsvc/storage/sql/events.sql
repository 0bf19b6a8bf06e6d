-- keep_referenced --
-- Let no item or event type of the tenant be deleted until the commit. A statement of its own, before those that look any
-- up: what they see is what was committed when they began.
SELECT pg_advisory_xact_lock_shared(hashtextextended('recsvc.events', current_tenant_v1()));

-- await_event_writers --
-- Wait for those who share that lock, for seconds at most: all who come later wait behind this.
SELECT set_config('lock_timeout', '5s', true),
       pg_advisory_xact_lock(hashtextextended('recsvc.events', current_tenant_v1())),
       set_config('lock_timeout', '0', true);

-- write_events --
-- Everything that one batch of events changes, in one statement: idempotency keys, new users, events, dirty users and
-- what is to be added to the counters of items. Rows are locked in the order of their keys in every batch, so that two
-- batches never deadlock.
WITH incoming AS (
    -- An array that is NULL has no value for any of them. Made as binary they cost half of what text does.
    SELECT * FROM unnest(
        %(event_ids)b::text[], %(event_types)b::text[], %(kinds)b::smallint[], %(user_ids)b::text[],
        %(session_ids)b::text[], %(item_ids)b::text[], %(event_values)b::double precision[],
        %(event_times)b::timestamptz[], %(recommendation_ids)b::text[], %(contexts)b::jsonb[], %(properties)b::jsonb[]
    ) AS n (event_id, event_type, kind, user_id, session_id, item_id, value, event_time, recommendation_id, context,
            properties)
), resolved AS MATERIALIZED (
    SELECT n.*, t.event_type_key, t.weight, i.item_key
    FROM incoming n
    LEFT JOIN event_types t ON t.tenant_key = %(tenant)s AND t.event_type = n.event_type
    LEFT JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
), fresh AS (
    INSERT INTO event_ids (tenant_key, event_id, event_time)
    SELECT %(tenant)s, event_id, event_time FROM resolved
    WHERE event_type_key IS NOT NULL AND item_key IS NOT NULL
    ORDER BY event_id
    ON CONFLICT DO NOTHING
    RETURNING event_id
), accepted AS MATERIALIZED (
    SELECT r.* FROM resolved r JOIN fresh USING (event_id)
), actors AS (
    SELECT DISTINCT kind, user_id FROM accepted
), known AS MATERIALIZED (
    SELECT a.kind, a.user_id, u.user_key
    FROM actors a JOIN users u ON u.tenant_key = %(tenant)s AND u.kind = a.kind AND u.user_id = a.user_id
), created AS (
    INSERT INTO users (tenant_key, kind, user_id)
    SELECT %(tenant)s, a.kind, a.user_id
    FROM actors a LEFT JOIN known k USING (kind, user_id)
    WHERE k.user_key IS NULL
    ORDER BY a.kind, a.user_id
    -- Updates nothing, but returns the row that another batch has just made.
    ON CONFLICT (tenant_key, kind, user_id) DO UPDATE SET user_id = excluded.user_id
    RETURNING kind, user_id, user_key
), subjects AS MATERIALIZED (
    SELECT * FROM known UNION ALL SELECT * FROM created
), stored AS (
    INSERT INTO events (tenant_key, event_time, event_id, event_type_key, user_key, item_key, session_id, value,
                        recommendation_id, context, properties)
    SELECT %(tenant)s, a.event_time, a.event_id, a.event_type_key, s.user_key, a.item_key, a.session_id, a.value,
           a.recommendation_id, a.context, a.properties
    FROM accepted a JOIN subjects s USING (kind, user_id)
    RETURNING 1
), touched AS (
    INSERT INTO user_state (tenant_key, user_key)
    -- Last of all: other batches about the same users wait from here on.
    SELECT %(tenant)s, user_key FROM subjects WHERE (SELECT count(*) FROM stored) > 0 ORDER BY user_key
    ON CONFLICT (tenant_key, user_key) DO UPDATE SET version = user_state.version + 1
    RETURNING user_key, version
), signals AS (
    INSERT INTO item_signals (tenant_key, item_keys, log_weights, ages_s)
    SELECT %(tenant)s, array_agg(item_key), array_agg(ln(signal) / ln(2::double precision)),
           array_agg(extract(epoch FROM event_time - '2020-01-01T00:00:00Z')::double precision)
    FROM (SELECT item_key, event_time, event_signal_v1(event_type, weight, value) AS signal FROM accepted) told
    WHERE signal > 0 HAVING count(*) > 0
)
-- What is worth a word: the events that were not stored, and all users whose state lags now.
SELECT r.event_id, r.event_type_key IS NULL AS unknown_type, r.item_key IS NULL AS unknown_item,
       NULL::bigint[] AS user_keys, NULL::bigint[] AS versions
FROM resolved r LEFT JOIN fresh f USING (event_id)
WHERE f.event_id IS NULL
UNION ALL
SELECT NULL, NULL, NULL, array_agg(user_key), array_agg(version) FROM touched;

-- stored_event_ids --
-- Those of some ids under which events are stored.
SELECT event_id FROM event_ids WHERE tenant_key = %(tenant)s AND event_id = ANY (%(event_ids)s::text[]);

-- present_versions --
-- The versions of the states of these users.
SELECT DISTINCT s.user_key, s.version
FROM unnest(%(kinds)s::smallint[], %(user_ids)s::text[]) AS asked (kind, user_id)
JOIN users u ON u.tenant_key = %(tenant)s AND u.kind = asked.kind AND u.user_id = asked.user_id
JOIN user_state s ON s.tenant_key = u.tenant_key AND s.user_key = u.user_key;

-- ensure_partitions --
-- Make the monthly partitions that these events need.
SELECT ensure_event_partition_v1(moment) FROM unnest(%(moments)s::timestamptz[]) AS moment;

-- list_events --
-- A page of events.
SELECT e.event_id, t.event_type, known.user_id,
       CASE WHEN u.kind = 1 THEN u.user_id ELSE e.session_id END AS session_id,
       i.item_id, e.value, e.event_time, e.recommendation_id, e.context, e.properties, e.create_time
FROM events e
JOIN event_types t ON t.tenant_key = e.tenant_key AND t.event_type_key = e.event_type_key
JOIN users u ON u.tenant_key = e.tenant_key AND u.user_key = e.user_key
LEFT JOIN users known ON known.tenant_key = e.tenant_key AND known.user_key = e.user_key AND known.kind = 0
JOIN items i ON i.tenant_key = e.tenant_key AND i.item_key = e.item_key
WHERE e.tenant_key = %(tenant)s AND {filter} AND {after}
ORDER BY {order} LIMIT %(limit)s;

-- export_events --
-- All events that match, as of the transaction's snapshot.
SELECT e.event_id, t.event_type, known.user_id,
       CASE WHEN u.kind = 1 THEN u.user_id ELSE e.session_id END AS session_id,
       i.item_id, e.value, e.event_time, e.recommendation_id, e.context, e.properties, e.create_time
FROM events e
JOIN event_types t ON t.tenant_key = e.tenant_key AND t.event_type_key = e.event_type_key
JOIN users u ON u.tenant_key = e.tenant_key AND u.user_key = e.user_key
LEFT JOIN users known ON known.tenant_key = e.tenant_key AND known.user_key = e.user_key AND known.kind = 0
JOIN items i ON i.tenant_key = e.tenant_key AND i.item_key = e.item_key
WHERE e.tenant_key = %(tenant)s AND {filter}
  AND (%(modified_after)s::timestamptz IS NULL OR e.create_time >= %(modified_after)s);

-- delete_expired --
-- Some events that are older than their tenant keeps them, with their ids; their users are to be folded in again. Users
-- are locked in the order of their keys, as write_events does.
WITH expired AS MATERIALIZED (
    SELECT e.tenant_key, e.event_time, e.event_id
    FROM tenants t CROSS JOIN LATERAL (
        SELECT * FROM events e
        WHERE e.tenant_key = t.tenant_key
          AND e.event_time < now() - make_interval(secs => rtrim(t.settings ->> 'event_retention', 's')::float8)
        ORDER BY e.event_time LIMIT %(limit)s
    ) e
    WHERE t.settings ? 'event_retention'
    LIMIT %(limit)s
), deleted AS (
    DELETE FROM events e USING expired x
    WHERE e.tenant_key = x.tenant_key AND e.event_time = x.event_time AND e.event_id = x.event_id
    RETURNING e.tenant_key, e.event_id, e.user_key
), forgotten AS (
    DELETE FROM event_ids i USING deleted d WHERE i.tenant_key = d.tenant_key AND i.event_id = d.event_id
), held AS MATERIALIZED (
    SELECT tenant_key, user_key FROM user_state
    WHERE (tenant_key, user_key) IN (SELECT tenant_key, user_key FROM deleted)
    ORDER BY tenant_key, user_key FOR UPDATE
), touched AS (
    UPDATE user_state s SET version = s.version + 1 FROM held h
    WHERE s.tenant_key = h.tenant_key AND s.user_key = h.user_key
    RETURNING s.tenant_key, s.user_key, s.version
)
SELECT d.tenant_key, d.deleted, t.user_keys, t.versions
FROM (SELECT tenant_key, count(*) AS deleted FROM deleted GROUP BY tenant_key) d
LEFT JOIN (SELECT tenant_key, array_agg(user_key) AS user_keys, array_agg(version) AS versions
           FROM touched GROUP BY tenant_key) t USING (tenant_key);

-- list_event_types --
-- A page of event types by name.
SELECT * FROM event_types WHERE tenant_key = %(tenant)s AND event_type > %(after)s
ORDER BY event_type LIMIT %(limit)s;

-- get_event_type --
-- One event type, held until the end of the transaction.
SELECT * FROM event_types WHERE tenant_key = %(tenant)s AND event_type = %(event_type)s FOR UPDATE;

-- upsert_event_type --
-- Create or change an event type.
INSERT INTO event_types (tenant_key, event_type, weight, half_life_s, counts_as_seen, conversion)
VALUES (%(tenant)s, %(event_type)s, %(weight)s, %(half_life_s)s, %(counts_as_seen)s, %(conversion)s)
ON CONFLICT (tenant_key, event_type) DO UPDATE SET
    weight = excluded.weight, half_life_s = excluded.half_life_s, counts_as_seen = excluded.counts_as_seen,
    conversion = excluded.conversion, update_time = now()
RETURNING *;

-- dirty_all_users --
-- An event type means something else now, so every user must be folded in again.
UPDATE user_state SET version = version + 1 WHERE tenant_key = %(tenant)s;

-- event_type_in_use --
-- Whether events of this type are stored.
SELECT EXISTS (SELECT FROM events e WHERE e.tenant_key = %(tenant)s AND e.event_type_key = %(event_type_key)s) AS used;

-- delete_event_type --
-- Delete an event type.
DELETE FROM event_types WHERE tenant_key = %(tenant)s AND event_type = %(event_type)s;
