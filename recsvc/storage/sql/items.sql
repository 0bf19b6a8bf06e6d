-- upsert_items --
-- Create or replace items; the only statement that writes any. An item that carries an etag is written only while that
-- is current (`lock_items` comes first then). Rows are locked in the order of their ids, against deadlocks.
WITH admitted AS MATERIALIZED (
    SELECT n.* FROM {source}
    LEFT JOIN items present ON present.tenant_key = %(tenant)s AND present.item_id = n.item_id
    WHERE n.expected_etag IS NULL OR n.expected_etag = present.etag
), revived AS (
    DELETE FROM deleted_items d USING admitted n WHERE d.tenant_key = %(tenant)s AND d.item_id = n.item_id
)
INSERT INTO items AS i (tenant_key, item_id, item_type, title, description, categories, tags, attributes, embedding,
                        available, hidden, publish_time, expire_time)
SELECT %(tenant)s, item_id, item_type, title, description, categories, tags, attributes, embedding::vector, available,
       hidden, publish_time, expire_time
FROM admitted ORDER BY item_id
ON CONFLICT (tenant_key, item_id) DO UPDATE SET
    item_type = excluded.item_type, title = excluded.title, description = excluded.description,
    categories = excluded.categories, tags = excluded.tags, attributes = excluded.attributes,
    embedding = excluded.embedding, available = excluded.available, hidden = excluded.hidden,
    publish_time = excluded.publish_time, expire_time = excluded.expire_time,
    etag = nextval('item_etags'), update_time = now()
RETURNING i.item_id, i.etag, i.create_time, i.update_time, (i.xmax = 0) AS created;

-- incoming_json --
-- The items of a small batch.
jsonb_to_recordset(%(items)s) AS n (
    item_id text, item_type text, title text, description text, categories text[], tags text[], attributes jsonb,
    embedding text, available boolean, hidden boolean, publish_time timestamptz, expire_time timestamptz,
    expected_etag bigint);

-- create_incoming --
-- Where a large batch is copied to before it is written.
CREATE TEMPORARY TABLE incoming_items (
    item_id text, item_type text, title text, description text, categories text[], tags text[], attributes jsonb,
    embedding text, available boolean, hidden boolean, publish_time timestamptz, expire_time timestamptz,
    expected_etag bigint
) ON COMMIT DROP;

-- copy_incoming --
-- Take in a large batch.
COPY incoming_items FROM STDIN (FORMAT BINARY);

-- write_context --
-- What items are checked against: the attribute schema, the length of embeddings, and what becomes of HTML.
SELECT t.embedding_dimension, t.settings -> 'text' AS text_settings,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(a.key, a.type, a.required, a.filterable)), '[]')
        FROM attribute_schemas a WHERE a.tenant_key = t.tenant_key) AS attribute_schema
FROM tenants t WHERE t.tenant_key = %(tenant)s;

-- fix_embedding_dimension --
-- The first embedding fixes the length for the tenant; returns the length in force.
UPDATE tenants SET embedding_dimension = coalesce(embedding_dimension, %(dimension)s)
WHERE tenant_key = %(tenant)s
RETURNING embedding_dimension;

-- get_items --
-- Items by id.
SELECT * FROM items WHERE tenant_key = %(tenant)s AND item_id = ANY (%(item_ids)s::text[]);

-- lock_items --
-- Hold items in the order of their ids, so that the etags that the next statement sees stay current until the commit.
SELECT FROM items WHERE tenant_key = %(tenant)s AND item_id = ANY (%(item_ids)s::text[]) ORDER BY item_id FOR UPDATE;

-- lock_item --
-- One item, held until the end of the transaction.
SELECT * FROM items WHERE tenant_key = %(tenant)s AND item_id = %(item_id)s FOR UPDATE;

-- any_items --
-- Whether the tenant has any item.
SELECT EXISTS (SELECT FROM items WHERE tenant_key = %(tenant)s) AS found;

-- list_items --
-- A page of items.
SELECT * FROM items i WHERE i.tenant_key = %(tenant)s AND {filter} AND {after} ORDER BY {order} LIMIT %(limit)s;

-- delete_items --
-- Delete items with all that hangs on them, but for events that are being written; the deletion is noted for exports.
WITH doomed AS MATERIALIZED (
    SELECT item_key, item_id FROM items
    WHERE tenant_key = %(tenant)s AND item_id = ANY (%(item_ids)s::text[])
      AND (%(etag)s::bigint IS NULL OR etag = %(etag)s)
    ORDER BY item_id FOR UPDATE
), gone_events AS (
    DELETE FROM events e USING doomed d WHERE e.tenant_key = %(tenant)s AND e.item_key = d.item_key
    RETURNING e.event_id, e.user_key
), gone_ids AS (
    DELETE FROM event_ids n USING gone_events g WHERE n.tenant_key = %(tenant)s AND n.event_id = g.event_id
), gone_factors AS (
    DELETE FROM item_factors f USING doomed d WHERE f.tenant_key = %(tenant)s AND f.item_key = d.item_key
), gone_neighbors AS (
    DELETE FROM item_neighbors b USING doomed d WHERE b.tenant_key = %(tenant)s AND b.item_key = d.item_key
), noted AS (
    INSERT INTO deleted_items (tenant_key, item_id) SELECT %(tenant)s, item_id FROM doomed
    ON CONFLICT (tenant_key, item_id) DO UPDATE SET delete_time = now()
), gone AS (
    DELETE FROM items i USING doomed d WHERE i.tenant_key = %(tenant)s AND i.item_key = d.item_key
    RETURNING i.item_id, i.item_key
)
SELECT array_agg(item_id) AS item_ids, array_agg(item_key) AS item_keys,
       ARRAY(SELECT DISTINCT user_key FROM gone_events) AS user_keys
FROM gone;

-- delete_late_events --
-- What was being written about these items while they were deleted. All users who had touched them are dirty now.
WITH gone_events AS (
    DELETE FROM events e WHERE e.tenant_key = %(tenant)s AND e.item_key = ANY (%(item_keys)s::bigint[])
    RETURNING e.event_id, e.user_key
), gone_ids AS (
    DELETE FROM event_ids n USING gone_events g WHERE n.tenant_key = %(tenant)s AND n.event_id = g.event_id
)
UPDATE user_state s SET version = s.version + 1
WHERE s.tenant_key = %(tenant)s
  AND s.user_key IN (SELECT unnest(%(user_keys)s::bigint[]) UNION SELECT user_key FROM gone_events)
RETURNING s.user_key, s.version;

-- export_items --
-- All items that match, as of the transaction's snapshot.
SELECT * FROM items i WHERE i.tenant_key = %(tenant)s AND {filter}
  AND (%(modified_after)s::timestamptz IS NULL OR i.update_time >= %(modified_after)s);

-- export_deleted --
-- Ids of items deleted since a moment and not created again.
SELECT item_id FROM deleted_items WHERE tenant_key = %(tenant)s AND delete_time >= %(modified_after)s;

-- item_activity --
-- Live counters of items.
SELECT i.item_id, t.event_type, count(*) FILTER (WHERE in_window) AS events,
       array_agg(DISTINCT e.user_key) FILTER (WHERE in_window) AS user_keys,
       array_agg(DISTINCT e.user_key) FILTER (WHERE e.event_time > now() - make_interval(secs => %(presence_s)s))
           AS present_keys
FROM items i
LEFT JOIN events e ON e.tenant_key = i.tenant_key AND e.item_key = i.item_key
     AND e.event_time > now() - make_interval(secs => greatest(%(window_s)s, %(presence_s)s))
CROSS JOIN LATERAL (SELECT e.event_time > now() - make_interval(secs => %(window_s)s) AS in_window) w
LEFT JOIN event_types t ON t.tenant_key = e.tenant_key AND t.event_type_key = e.event_type_key
WHERE i.tenant_key = %(tenant)s AND i.item_id = ANY (%(item_ids)s::text[])
GROUP BY i.item_id, t.event_type;
