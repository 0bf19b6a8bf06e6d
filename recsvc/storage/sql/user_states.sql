-- user_key --
-- The key of a user or session.
SELECT user_key FROM users WHERE tenant_key = %(tenant)s AND kind = %(kind)s AND user_id = %(user_id)s;

-- identities --
-- What callers name some users and sessions.
SELECT user_key, kind, user_id FROM users WHERE tenant_key = %(tenant)s AND user_key = ANY (%(users)s::bigint[]);

-- histories --
-- What the newest events of some users say, items newest first, together with the version that this is the truth of: one
-- statement, so one snapshot. Events of the same time are all read or none, so that no order among them matters. Arrays
-- are as they are sent.
SELECT s.user_key, s.version, array_send(h.item_keys) AS item_keys, array_send(h.signals) AS signals,
       array_send(h.seen) AS seen, array_send(h.last_times) AS last_times
FROM user_state s CROSS JOIN LATERAL (
    SELECT array_agg(i.item_key ORDER BY i.last_time DESC, i.item_key) AS item_keys,
           array_agg(i.signal ORDER BY i.last_time DESC, i.item_key) AS signals,
           array_agg(i.seen ORDER BY i.last_time DESC, i.item_key) AS seen,
           array_agg(i.last_time ORDER BY i.last_time DESC, i.item_key) AS last_times
    FROM (
        SELECT n.item_key,
               sum(event_signal_v1(t.event_type, t.weight, n.value)
                   * decay_v1(extract(epoch FROM now() - n.event_time)::float8, t.half_life_s)) AS signal,
               bool_or(t.counts_as_seen) AS seen,
               max(n.event_time) AS last_time
        FROM (
            SELECT e.item_key, e.event_type_key, e.value, e.event_time FROM events e
            WHERE e.tenant_key = s.tenant_key AND e.user_key = s.user_key
            ORDER BY e.event_time DESC FETCH FIRST (%(newest)s::bigint) ROWS WITH TIES
        ) n JOIN event_types t ON t.tenant_key = s.tenant_key AND t.event_type_key = n.event_type_key
        GROUP BY n.item_key
    ) i
) h
WHERE s.tenant_key = %(tenant)s AND s.user_key = ANY (%(users)s::bigint[]);

-- factors --
-- Vectors of some items, for folding users in, in the order of the items' keys; arrays and vectors as they are sent.
SELECT array_send(array_agg(item_key ORDER BY item_key)) AS item_keys,
       array_send(array_agg(fold_in_scale ORDER BY item_key)) AS scales,
       string_agg(halfvec_send(vector), ''::bytea ORDER BY item_key) AS vectors
FROM item_factors
WHERE tenant_key = %(tenant)s AND shard = %(shard)s AND model_key = %(model)s AND item_key = ANY (%(items)s::bigint[]);

-- store_states --
-- Put folded states in place, unless a later version was folded meanwhile; who has no later events is dirty no more. A state
-- that caches have not heard of is there to be read, and does not count as folded.
-- The rows are locked in the order of their keys, as those who record events lock them.
WITH incoming AS (
    -- Arrays of different lengths do not make an array: each comes as text, read in a sixth of JSON's time.
    SELECT user_key, version, item_keys::bigint[], weights::real[], ages::integer[], seen_keys::bigint[], vector
    FROM unnest(
        %(user_keys)b::bigint[], %(versions)b::bigint[], %(item_keys)b::text[], %(weights)b::text[], %(ages)b::text[],
        %(seen_keys)b::text[], %(vectors)b::vector[]
    ) AS n (user_key, version, item_keys, weights, ages, seen_keys, vector)
), held AS MATERIALIZED (
    SELECT user_key FROM user_state
    WHERE tenant_key = %(tenant)s AND user_key IN (SELECT user_key FROM incoming)
    ORDER BY user_key FOR NO KEY UPDATE
), stored AS (
    UPDATE user_state s
    SET folded_version = CASE WHEN %(is_announced)s THEN n.version ELSE s.folded_version END, model_key = %(model)s, item_keys = n.item_keys, weights = n.weights,
        ages = n.ages, seen_keys = n.seen_keys, vector = n.vector, fold_time = now()
    FROM held JOIN incoming n USING (user_key)
    WHERE s.tenant_key = %(tenant)s AND s.user_key = n.user_key AND s.folded_version <= n.version
    RETURNING s.user_key, s.folded_version = s.version AS clean
)
DELETE FROM dirty_users d USING stored
WHERE d.tenant_key = %(tenant)s AND d.user_key = stored.user_key AND stored.clean;

-- take_dirty_users --
-- Some users of any tenant whose state lags behind their events, those who wait longest, each for one projector only.
-- When it dies, another one takes them.
UPDATE dirty_users d SET taken_until = now() + make_interval(secs => %(taken_s)s)
FROM (
    SELECT tenant_key, user_key FROM dirty_users
    WHERE taken_until < now()
    ORDER BY since LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) longest
WHERE d.tenant_key = longest.tenant_key AND d.user_key = longest.user_key
RETURNING d.tenant_key, d.user_key;

-- lag --
-- How far the states of all tenants lag behind: how long the longest has waited, from the end of an index, and how many
-- do, counted up to a limit.
SELECT coalesce(extract(epoch FROM now() - (SELECT min(since) FROM dirty_users)), 0)::float8 AS oldest_s,
       (SELECT count(*) FROM (SELECT FROM dirty_users LIMIT %(limit)s) counted) AS users;

-- states_of_other_models --
-- Users of any tenant whose state was folded in with another model than the one that serves: with each switch of models
-- all of them. Found from both sides of the active model's key, so that an index leads to them and nothing is read
-- when there are none.
SELECT t.tenant_key, f.user_key
FROM tenants t,
     LATERAL (
         (SELECT s.user_key FROM user_state s
          WHERE s.tenant_key = t.tenant_key AND s.model_key < t.active_model_key LIMIT %(limit)s)
         UNION ALL
         (SELECT s.user_key FROM user_state s
          WHERE s.tenant_key = t.tenant_key AND s.model_key > t.active_model_key LIMIT %(limit)s)
         UNION ALL
         (SELECT s.user_key FROM user_state s
          WHERE s.tenant_key = t.tenant_key AND s.model_key IS NULL LIMIT %(limit)s)
     ) f
WHERE t.active_model_key IS NOT NULL
LIMIT %(limit)s;
