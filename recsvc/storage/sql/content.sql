-- described_items --
-- What a tenant's items say about themselves, for training.
SELECT item_key, etag, item_id, item_type, title, description, categories, tags, attributes
FROM items WHERE tenant_key = %(tenant)s;

-- insert_content_model --
-- What turns features into vectors in a model.
INSERT INTO content_models (tenant_key, model_key, mean, calibration)
VALUES (%(tenant)s, %(model)s, %(mean)s, %(calibration)s);

-- copy_features --
-- Take in the vectors of features.
COPY content_features (tenant_key, model_key, feature, idf, vector) FROM STDIN (FORMAT BINARY);

-- copy_derived --
-- Take in which items' vectors are derived.
COPY derived_items (tenant_key, model_key, item_key, etag, event_count) FROM STDIN (FORMAT BINARY);

-- tenants_with_due_items --
-- Tenants for which any item is due, by skipping through the two indexes from tenant to tenant.
WITH RECURSIVE marked AS (
    (SELECT tenant_key FROM item_marks ORDER BY tenant_key LIMIT 1)
    UNION ALL
    SELECT n.tenant_key
    FROM marked p, LATERAL (
        SELECT m.tenant_key FROM item_marks m WHERE m.tenant_key > p.tenant_key ORDER BY m.tenant_key LIMIT 1
    ) n
), touched AS (
    -- Only the index of what is due has this order.
    (SELECT tenant_key FROM item_stats
     WHERE event_count > derived_event_count + derived_event_count / 10
     ORDER BY tenant_key, event_count - derived_event_count LIMIT 1)
    UNION ALL
    SELECT n.tenant_key
    FROM touched p, LATERAL (
        SELECT s.tenant_key FROM item_stats s
        WHERE s.event_count > s.derived_event_count + s.derived_event_count / 10 AND s.tenant_key > p.tenant_key
        ORDER BY s.tenant_key, s.event_count - s.derived_event_count LIMIT 1
    ) n
)
SELECT tenant_key FROM marked UNION SELECT tenant_key FROM touched;

-- prefer_indexes --
-- The planner takes a third of all items for due, and would rather read any whole table or index until it meets them
-- than the one index that has them alone, or has none.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
       set_config('enable_incremental_sort', 'off', true);

-- allow_scans --
-- A whole catalogue is read faster in the order in which it lies.
SELECT set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true);

-- take_turn --
-- One process at a time derives vectors for a tenant; the others do not wait.
SELECT pg_try_advisory_xact_lock(hashtext('recsvc.derived_items'), hashint8(%(tenant)s)) AS taken;

-- serving_content --
-- The model that serves, and what turns features into vectors in it; held, so that it is neither switched nor deleted
-- while vectors are added to it.
SELECT m.model_key, m.shard, m.dimension, c.mean, c.calibration
FROM tenants t
JOIN models m ON m.tenant_key = t.tenant_key AND m.model_key = t.active_model_key
LEFT JOIN content_models c ON c.tenant_key = m.tenant_key AND c.model_key = m.model_key
WHERE t.tenant_key = %(tenant)s
FOR SHARE OF t;

-- expand_catalogue_mark --
-- After a switch of models: mark one by one what the model that serves now has never seen, or has seen otherwise.
WITH whole AS (
    DELETE FROM item_marks WHERE tenant_key = %(tenant)s AND item_key IS NULL AND mark_key = ANY (%(marks)s::bigint[])
    RETURNING mark_key
)
INSERT INTO item_marks (tenant_key, item_key)
SELECT i.tenant_key, i.item_key
FROM items i
LEFT JOIN item_factors f ON f.tenant_key = i.tenant_key AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = i.item_key
LEFT JOIN derived_items d ON d.tenant_key = i.tenant_key AND d.model_key = %(model)s AND d.item_key = i.item_key
LEFT JOIN item_stats s ON s.tenant_key = i.tenant_key AND s.item_key = i.item_key
WHERE i.tenant_key = %(tenant)s AND EXISTS (SELECT FROM whole)
  AND CASE
      WHEN d.item_key IS NULL THEN f.item_key IS NULL
      -- With a count of its own it must be watched again, even if nothing has happened to it.
      ELSE d.etag <> i.etag OR s.event_count > d.event_count OR (s.item_key IS NOT NULL AND s.derived_event_count IS NULL)
  END;

-- due_marks --
-- The oldest marks of a tenant, and the newest, so that one new item does not wait behind an import of a million.
(SELECT mark_key, item_key FROM item_marks WHERE tenant_key = %(tenant)s ORDER BY mark_key LIMIT %(oldest)s)
UNION
(SELECT mark_key, item_key FROM item_marks WHERE tenant_key = %(tenant)s ORDER BY mark_key DESC LIMIT %(newest)s);

-- touched_items --
-- Items with so many new events that their vectors are due; those with most first.
SELECT item_key FROM item_stats
WHERE tenant_key = %(tenant)s AND event_count > derived_event_count + derived_event_count / 10
ORDER BY event_count - derived_event_count DESC
LIMIT %(limit)s;

-- due_items --
-- What is to be known of some items to derive their vectors. They are held against deletion; one that somebody else
-- holds is left for later. Nothing is derived for what users came to and nobody liked.
SELECT i.item_key, i.etag, i.item_id, i.item_type, i.title, i.description, i.categories, i.tags, i.attributes,
       coalesce(s.event_count, 0) AS event_count,
       f.item_key IS NOT NULL AND d.item_key IS NULL
           OR coalesce(s.event_count, 0) = 0 AND EXISTS (
               SELECT FROM events e
               JOIN event_types t ON t.tenant_key = e.tenant_key AND t.event_type_key = e.event_type_key
               WHERE e.tenant_key = i.tenant_key AND e.item_key = i.item_key
                 AND event_signal_v1(t.event_type, t.weight, e.value) < 0
           ) AS known
FROM items i
LEFT JOIN item_stats s ON s.tenant_key = i.tenant_key AND s.item_key = i.item_key
LEFT JOIN item_factors f ON f.tenant_key = i.tenant_key AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = i.item_key
LEFT JOIN derived_items d ON d.tenant_key = i.tenant_key AND d.model_key = %(model)s AND d.item_key = i.item_key
WHERE i.tenant_key = %(tenant)s AND i.item_key = ANY (%(items)s::bigint[])
FOR KEY SHARE OF i SKIP LOCKED;

-- known_features --
-- What a model knows of some features.
SELECT feature, idf, vector FROM content_features
WHERE tenant_key = %(tenant)s AND model_key = %(model)s AND feature = ANY (%(features)s::text[]);

-- item_evidence --
-- For some items: how many users like them, of the last ones, and the sum of these users' unit vectors. A user's vector
-- is that of the items that training knows, so that derived vectors never feed on themselves.
WITH liked AS MATERIALIZED (
    SELECT n.item_key, l.user_key
    FROM unnest(%(items)s::bigint[]) AS n (item_key)
    CROSS JOIN LATERAL (
        SELECT e.user_key
        FROM (SELECT user_key, event_type_key, value, event_time FROM events
              WHERE tenant_key = %(tenant)s AND item_key = n.item_key
              ORDER BY event_time DESC LIMIT %(events)s) e
        JOIN event_types t ON t.tenant_key = %(tenant)s AND t.event_type_key = e.event_type_key
        GROUP BY e.user_key
        HAVING sum(event_signal_v1(t.event_type, t.weight, e.value)
                   * decay_v1(extract(epoch FROM now() - e.event_time)::float8, t.half_life_s)) > 0
        ORDER BY max(e.event_time) DESC, e.user_key LIMIT %(users)s
    ) l
), placed AS MATERIALIZED (
    -- Each user once: the items of a batch have most of theirs in common.
    SELECT u.user_key, v.unit
    FROM (SELECT DISTINCT user_key FROM liked) u
    CROSS JOIN LATERAL (
        SELECT l2_normalize(sum(f.vector::vector * array_fill(f.fold_in_scale, ARRAY[%(dimension)s::integer])::vector))
            AS unit
        FROM (
            SELECT e.item_key
            FROM (SELECT item_key, event_type_key, value, event_time FROM events
                  WHERE tenant_key = %(tenant)s AND user_key = u.user_key
                  ORDER BY event_time DESC LIMIT %(history)s) e
            JOIN event_types t ON t.tenant_key = %(tenant)s AND t.event_type_key = e.event_type_key
            GROUP BY e.item_key
            HAVING sum(event_signal_v1(t.event_type, t.weight, e.value)
                       * decay_v1(extract(epoch FROM now() - e.event_time)::float8, t.half_life_s)) > 0
        ) h
        JOIN item_factors f ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
             AND f.item_key = h.item_key
        WHERE NOT EXISTS (SELECT FROM derived_items d
                          WHERE d.tenant_key = %(tenant)s AND d.model_key = %(model)s AND d.item_key = h.item_key)
    ) v
    WHERE v.unit IS NOT NULL
)
SELECT l.item_key, count(*) AS users, sum(p.unit) AS direction
FROM liked l JOIN placed p USING (user_key)
GROUP BY l.item_key;

-- store_vectors --
-- Put derived vectors in place.
INSERT INTO item_factors (tenant_key, model_key, shard, item_key, fold_in_scale, vector)
SELECT %(tenant)s, %(model)s, %(shard)s, n.item_key, n.scale, n.vector::halfvec
FROM unnest(%(items)s::bigint[], %(scales)s::real[], %(vectors)s::vector[]) AS n (item_key, scale, vector)
ON CONFLICT (shard, model_key, item_key) DO UPDATE SET
    fold_in_scale = excluded.fold_in_scale, vector = excluded.vector;

-- drop_vectors --
-- Items that said something and say nothing any more.
DELETE FROM item_factors
WHERE tenant_key = %(tenant)s AND shard = %(shard)s AND model_key = %(model)s AND item_key = ANY (%(items)s::bigint[]);

-- note_derived --
-- As of when vectors were derived.
INSERT INTO derived_items (tenant_key, model_key, item_key, etag, event_count)
SELECT %(tenant)s, %(model)s, n.item_key, n.etag, n.event_count
FROM unnest(%(items)s::bigint[], %(etags)s::bigint[], %(counts)s::bigint[]) AS n (item_key, etag, event_count)
ON CONFLICT (tenant_key, model_key, item_key) DO UPDATE SET
    etag = excluded.etag, event_count = excluded.event_count;

-- note_counts --
-- The events that are accounted for; NULL where training knows the item. Locked in the order in which events are counted.
WITH held AS MATERIALIZED (
    SELECT s.item_key, n.event_count
    FROM item_stats s
    JOIN unnest(%(items)s::bigint[], %(counts)s::bigint[]) AS n (item_key, event_count) ON n.item_key = s.item_key
    WHERE s.tenant_key = %(tenant)s AND s.item_key = ANY (%(items)s::bigint[])
      AND s.derived_event_count IS DISTINCT FROM n.event_count
    ORDER BY s.item_key FOR NO KEY UPDATE OF s
)
UPDATE item_stats s SET derived_event_count = h.event_count
FROM held h WHERE s.tenant_key = %(tenant)s AND s.item_key = ANY (%(items)s::bigint[]) AND s.item_key = h.item_key;

-- remove_marks --
-- What is done, and what is about items that are gone.
DELETE FROM item_marks m
WHERE m.tenant_key = %(tenant)s AND m.mark_key = ANY (%(marks)s::bigint[])
  AND (m.item_key = ANY (%(items)s::bigint[])
       OR NOT EXISTS (SELECT FROM items i WHERE i.tenant_key = m.tenant_key AND i.item_key = m.item_key));

-- forget_marks --
-- No model serves: nothing can be derived, and the next one begins with the whole catalogue.
DELETE FROM item_marks WHERE tenant_key = %(tenant)s;

-- forget_counts --
-- The same for items with new events, some at a time, in the order in which events are counted.
WITH held AS MATERIALIZED (
    SELECT item_key FROM item_stats
    WHERE tenant_key = %(tenant)s AND event_count > derived_event_count + derived_event_count / 10
    ORDER BY item_key LIMIT 1000 FOR NO KEY UPDATE
)
UPDATE item_stats s SET derived_event_count = NULL
FROM held h WHERE s.tenant_key = %(tenant)s AND s.item_key = h.item_key;
