-- catalogue_size --
-- How many items a tenant has, counted no further than wanted.
SELECT count(*) AS items FROM (SELECT FROM items WHERE tenant_key = %(tenant)s LIMIT %(limit)s) counted;

-- tenant_version --
-- Which changes of the catalogue and the model are in what is read here.
SELECT version FROM tenant_versions WHERE tenant_key = %(tenant)s;

-- catalogue --
-- What lists need to know of all items, in the order of their ids.
SELECT array_agg(item_key) AS item_keys, array_agg(item_id) AS item_ids, array_agg(is_open) AS is_open,
       array_agg(publish_s) AS publish_s, array_agg(expire_time) AS expire_times, array_agg(newness) AS newness,
       array_agg(is_derived) AS is_derived, array_agg(derived_event_count) AS derived_event_counts
FROM (
    SELECT i.item_key, i.item_id, i.available AND NOT i.hidden AS is_open, i.expire_time,
           extract(epoch FROM i.publish_time)::float8 AS publish_s,
           extract(epoch FROM coalesce(i.publish_time, i.create_time))::float8 AS newness,
           d.item_key IS NOT NULL AS is_derived, d.event_count AS derived_event_count
    FROM items i
    LEFT JOIN derived_items d ON d.tenant_key = i.tenant_key AND d.model_key = %(model)s AND d.item_key = i.item_key
    WHERE i.tenant_key = %(tenant)s
    ORDER BY i.item_id
) ordered;

-- counters --
-- The counters of items.
SELECT array_agg(item_key) AS item_keys, array_agg(event_count) AS event_counts, array_agg(popularity) AS popularity,
       array_agg(trend_day) AS trend_day, array_agg(trend_week) AS trend_week,
       array_agg(derived_event_count) AS derived_event_counts
FROM item_stats WHERE tenant_key = %(tenant)s;

-- vectors --
-- The vectors of items in a model.
SELECT item_key, vector FROM item_factors
WHERE tenant_key = %(tenant)s AND shard = %(shard)s AND model_key = %(model)s;

-- some_vectors --
-- The vectors of some items in a model.
SELECT item_key, vector FROM item_factors
WHERE tenant_key = %(tenant)s AND shard = %(shard)s AND model_key = %(model)s AND item_key = ANY (%(items)s::bigint[]);

-- neighbors --
-- The neighbours of items in a model, best first.
SELECT item_key, neighbor_keys[1:%(neighbors_per_item)s] AS keys, weights[1:%(neighbors_per_item)s] AS weights
FROM item_neighbors WHERE tenant_key = %(tenant)s AND model_key = %(model)s;

-- transitions --
-- What comes after items in a model.
SELECT item_key, successor_keys AS keys, weights
FROM item_transitions WHERE tenant_key = %(tenant)s AND model_key = %(model)s;

-- subject_states --
-- What is known of some users and sessions, in the order asked, NULL for whom nobody knows, arrays as they are sent; and
-- the tenant's version, by which a snapshot of it is current or not.
SELECT (SELECT version FROM tenant_versions WHERE tenant_key = %(tenant)s) AS tenant_version, u.user_key, s.version, s.folded_version, s.model_key, coalesce(cardinality(s.item_keys), 0) AS history_size,
       array_send(s.item_keys[1:%(history)s]) AS item_keys, array_send(s.weights[1:%(history)s]) AS weights,
       array_send(s.ages[1:%(history)s]) AS ages, array_send(s.seen_keys) AS seen_keys, CASE WHEN s.model_key = %(model)s THEN s.vector END AS vector
FROM unnest(%(kinds)s::smallint[], %(user_ids)s::text[]) WITH ORDINALITY AS n (kind, user_id, ordinal)
LEFT JOIN users u ON u.tenant_key = %(tenant)s AND u.kind = n.kind AND u.user_id = n.user_id
LEFT JOIN user_state s ON s.tenant_key = u.tenant_key AND s.user_key = u.user_key
ORDER BY n.ordinal;
