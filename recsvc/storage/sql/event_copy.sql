-- look_up_event_types --
-- The event types of these names.
SELECT event_type, event_type_key, weight FROM event_types
WHERE tenant_key = %(tenant)s AND event_type = ANY (%(event_types)s::text[]);

-- look_up_items --
-- The keys of these items; names come joined by line feeds, which none can hold, since arrays are slower to send.
SELECT array_agg(item_id) AS ids, array_agg(item_key) AS keys FROM items
WHERE tenant_key = %(tenant)s AND item_id = ANY (string_to_array(%(item_ids)s, E'\n'));

-- look_up_users --
-- The keys of these users, and then of these sessions, both named as in look_up_items.
SELECT array_agg(user_id) AS ids, array_agg(user_key) AS keys FROM users
WHERE tenant_key = %(tenant)s AND kind = 0 AND user_id = ANY (string_to_array(%(user_ids)s, E'\n'))
UNION ALL
SELECT array_agg(user_id), array_agg(user_key) FROM users
WHERE tenant_key = %(tenant)s AND kind = 1 AND user_id = ANY (string_to_array(%(session_ids)s, E'\n'));

-- create_users --
-- Users and sessions that were not there a moment ago, in the order of write_events; named as in look_up_items.
INSERT INTO users (tenant_key, kind, user_id)
SELECT %(tenant)s, kind, user_id
FROM (SELECT 0 AS kind, unnest(string_to_array(%(user_ids)s, E'\n')) AS user_id
      UNION ALL SELECT 1, unnest(string_to_array(%(session_ids)s, E'\n'))) AS n
ORDER BY kind, user_id
-- Updates nothing, and locks the row that another batch has just made.
ON CONFLICT (tenant_key, kind, user_id) DO UPDATE SET user_id = excluded.user_id;

-- touch_users --
-- The states of these users lag now. In the order of their keys, as in write_events, and last of all: other batches about
-- the same users wait from here on.
WITH touched AS (
    INSERT INTO user_state (tenant_key, user_key)
    SELECT %(tenant)s, user_key FROM unnest(%(user_keys)s::bigint[]) AS user_key ORDER BY user_key
    ON CONFLICT (tenant_key, user_key) DO UPDATE SET version = user_state.version + 1
    RETURNING user_key, version
)
SELECT array_agg(user_key) AS user_keys, array_agg(version) AS versions FROM touched;

-- leave_role --
-- Become the owner of the tables until take_role: for COPY, and for nothing else.
SELECT set_config('role', 'none', true);

-- take_role --
-- Be the role of requests again.
SELECT set_config('role', 'recsvc_app', true);

-- copy_event_ids --
-- Ids of new events of the transaction's tenant.
COPY event_ids (event_id, event_time) FROM STDIN (FORMAT BINARY);

-- copy_events --
-- New events of the transaction's tenant.
COPY events (event_time, event_id, event_type_key, user_key, item_key, session_id, value, recommendation_id, context,
             properties) FROM STDIN (FORMAT BINARY);

-- copy_item_signals --
-- What new events say about items, of the transaction's tenant.
COPY item_signals (item_keys, log_weights, ages_s) FROM STDIN (FORMAT BINARY);
