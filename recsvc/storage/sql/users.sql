-- get_user --
-- One known user.
SELECT * FROM users WHERE tenant_key = %(tenant)s AND kind = 0 AND user_id = %(user_id)s;

-- lock_subjects --
-- The two who are to be merged, in the order of their keys, held until the end of the transaction.
SELECT * FROM users
WHERE tenant_key = %(tenant)s AND ((kind = %(kind)s AND user_id = %(source_id)s) OR (kind = 0 AND user_id = %(user_id)s))
ORDER BY user_key FOR UPDATE;

-- lock_states --
-- Wait for the events that are being recorded for these users, and let no more come until the commit: every batch of
-- events holds the state of each of its users. What runs after this statement sees those events.
SELECT FROM user_state WHERE tenant_key = %(tenant)s AND user_key = ANY (%(users)s::bigint[])
ORDER BY user_key FOR UPDATE;

-- lock_user --
-- One known user, held until the end of the transaction.
SELECT * FROM users WHERE tenant_key = %(tenant)s AND kind = %(kind)s AND user_id = %(user_id)s FOR UPDATE;

-- list_users --
-- A page of known users.
SELECT * FROM users u WHERE u.tenant_key = %(tenant)s AND u.kind = 0 AND {filter} AND {after}
ORDER BY {order} LIMIT %(limit)s;

-- upsert_user --
-- Create or replace a profile.
INSERT INTO users AS u (tenant_key, kind, user_id, attributes, labels)
VALUES (%(tenant)s, 0, %(user_id)s, %(attributes)s, %(labels)s)
ON CONFLICT (tenant_key, kind, user_id) DO UPDATE SET
    attributes = excluded.attributes, labels = excluded.labels, update_time = now()
RETURNING *;

-- upsert_users --
-- Create or replace many profiles.
INSERT INTO users (tenant_key, kind, user_id, attributes, labels)
SELECT %(tenant)s, 0, n.user_id, n.attributes, n.labels
FROM jsonb_to_recordset(%(users)s) AS n (user_id text, attributes jsonb, labels text[])
ORDER BY n.user_id
ON CONFLICT (tenant_key, kind, user_id) DO UPDATE SET
    attributes = excluded.attributes, labels = excluded.labels, update_time = now();

-- erase_user --
-- Everything that is held of a user. What stays are counters of items, which tell of nobody.
WITH subject AS MATERIALIZED (
    SELECT user_key FROM users
    WHERE tenant_key = %(tenant)s AND kind = 0 AND user_id = %(user_id)s FOR UPDATE
), gone_events AS (
    DELETE FROM events e USING subject s WHERE e.tenant_key = %(tenant)s AND e.user_key = s.user_key
    RETURNING e.event_id
), gone_ids AS (
    DELETE FROM event_ids n USING gone_events g WHERE n.tenant_key = %(tenant)s AND n.event_id = g.event_id
), gone_shown AS (
    DELETE FROM shown w USING subject s WHERE w.tenant_key = %(tenant)s AND w.user_key = s.user_key RETURNING 1
), gone_state AS (
    DELETE FROM user_state t USING subject s WHERE t.tenant_key = %(tenant)s AND t.user_key = s.user_key RETURNING 1
), gone_user AS (
    DELETE FROM users u USING subject s WHERE u.tenant_key = %(tenant)s AND u.user_key = s.user_key RETURNING 1
)
SELECT (SELECT user_key FROM subject) AS user_key, (SELECT count(*) FROM gone_events) AS events,
       (SELECT count(*) FROM gone_shown) AS shown, (SELECT count(*) FROM gone_state) AS states,
       (SELECT count(*) FROM gone_user) AS users;

-- shown_to_user --
-- Lists that were shown to a user, as of the transaction's snapshot.
SELECT w.recommendation_id, w.strategy, w.create_time,
       ARRAY(SELECT i.item_id FROM unnest(w.item_keys) WITH ORDINALITY AS e (item_key, ordinal)
             JOIN items i ON i.tenant_key = w.tenant_key AND i.item_key = e.item_key ORDER BY e.ordinal) AS item_ids
FROM shown w WHERE w.tenant_key = %(tenant)s AND w.user_key = %(user)s
ORDER BY w.create_time;

-- ensure_user --
-- A known user, created when there is none; held until the end of the transaction.
INSERT INTO users (tenant_key, kind, user_id) VALUES (%(tenant)s, 0, %(user_id)s)
ON CONFLICT (tenant_key, kind, user_id) DO UPDATE SET labels = users.labels
RETURNING *;

-- merge_users --
-- Move the history of one subject to another and forget the first.
WITH moved AS (
    UPDATE events SET user_key = %(target)s WHERE tenant_key = %(tenant)s AND user_key = %(source)s RETURNING 1
), moved_shown AS (
    UPDATE shown SET user_key = %(target)s WHERE tenant_key = %(tenant)s AND user_key = %(source)s
), gone_state AS (
    DELETE FROM user_state WHERE tenant_key = %(tenant)s AND user_key = %(source)s
), state AS (
    INSERT INTO user_state (tenant_key, user_key) VALUES (%(tenant)s, %(target)s)
    ON CONFLICT (tenant_key, user_key) DO UPDATE SET version = user_state.version + 1
    RETURNING version
)
SELECT (SELECT count(*) FROM moved) AS moved, (SELECT version FROM state) AS version;

-- forget_subject --
-- Delete a subject whose history has moved.
DELETE FROM users WHERE tenant_key = %(tenant)s AND user_key = %(source)s;
