-- find_item --
-- The item that others shall be like.
SELECT item_key, categories || tags AS labels,
       (SELECT version FROM tenant_versions WHERE tenant_key = %(tenant)s) AS tenant_version
FROM items WHERE tenant_key = %(tenant)s AND item_id = %(item_id)s;

-- similar_by_behavior --
-- Neighbours of an item, filtered.
SELECT i.item_key, i.item_id, n.weight::float8 AS score, {category} AS category,
       CASE WHEN %(want_vectors)s THEN f.vector END AS vector
FROM item_neighbors r, unnest(r.neighbor_keys, r.weights) AS n (item_key, weight)
JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = n.item_key
LEFT JOIN item_factors f ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = i.item_key
WHERE r.tenant_key = %(tenant)s AND r.model_key = %(model)s AND r.item_key = %(item)s
  AND i.item_id <> ALL (%(excluded)s::text[]) AND {eligible}
ORDER BY n.weight DESC, i.item_id
LIMIT %(limit)s;

-- similar_by_content --
-- Items that share categories and tags, by the cosine of the two sets of labels.
SELECT i.item_key, i.item_id,
       (o.shared / sqrt(cardinality(i.categories || i.tags)::float8 * cardinality(%(labels)s::text[]))) AS score,
       o.labels, {category} AS category, CASE WHEN %(want_vectors)s THEN f.vector END AS vector
FROM items i
LEFT JOIN item_factors f ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = i.item_key,
     LATERAL (SELECT count(*) AS shared, array_agg(label) AS labels FROM unnest(i.categories || i.tags) AS label
              WHERE label = ANY (%(labels)s::text[])) o
WHERE i.tenant_key = %(tenant)s AND i.item_key <> %(item)s AND o.shared > 0
  AND i.item_id <> ALL (%(excluded)s::text[]) AND {eligible}
ORDER BY score DESC, i.item_id
LIMIT %(limit)s;

-- bought_together --
-- What the latest baskets that hold the item hold besides it. A basket is what one user bought in one session, or on a
-- day without one. Score: the share of those baskets, each counting 1/sqrt(its size), since a large order says little
-- of any two things in it. Not divided by how often the other item is bought: on real baskets that loses more than it
-- gains (docs/accuracy.md).
WITH conversions AS (
    SELECT event_type_key FROM event_types WHERE tenant_key = %(tenant)s AND conversion
), baskets AS MATERIALIZED (
    -- The bounds are worked out here: behind row-level security an index takes comparisons, but no arithmetic.
    SELECT row_number() OVER () AS basket, user_key, session_id, date_trunc('day', min(event_time), 'UTC') AS day,
           min(event_time) - interval '1 day' AS from_time, max(event_time) + interval '1 day' AS to_time
    FROM (
        SELECT user_key, session_id, event_time FROM events
        WHERE tenant_key = %(tenant)s AND item_key = %(item)s
          AND event_type_key IN (SELECT event_type_key FROM conversions)
        ORDER BY event_time DESC LIMIT %(baskets)s
    ) latest
    GROUP BY user_key, session_id, CASE WHEN session_id IS NULL THEN date_trunc('day', event_time, 'UTC') END
), contents AS (
    SELECT DISTINCT b.basket, e.item_key
    FROM baskets b JOIN events e ON e.tenant_key = %(tenant)s AND e.user_key = b.user_key
         AND e.event_time BETWEEN b.from_time AND b.to_time
    WHERE e.session_id IS NOT DISTINCT FROM b.session_id
      AND (e.session_id IS NOT NULL OR date_trunc('day', e.event_time, 'UTC') = b.day)
      AND e.event_type_key IN (SELECT event_type_key FROM conversions)
), weighted AS (
    SELECT item_key, 1 / sqrt(count(*) OVER (PARTITION BY basket)::float8) AS weight FROM contents
), shares AS MATERIALIZED (
    SELECT item_key, sum(weight) AS weight FROM weighted GROUP BY item_key
), together AS MATERIALIZED (
    -- The item itself is in all of the baskets.
    SELECT item_key, weight / (SELECT weight FROM shares WHERE item_key = %(item)s) AS score
    FROM shares WHERE item_key <> %(item)s
)
SELECT i.item_key, i.item_id, t.score, {category} AS category, CASE WHEN %(want_vectors)s THEN f.vector END AS vector
FROM together t
JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = t.item_key
LEFT JOIN item_stats s ON s.tenant_key = %(tenant)s AND s.item_key = t.item_key
LEFT JOIN item_factors f ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = i.item_key
WHERE i.item_id <> ALL (%(excluded)s::text[]) AND {eligible}
ORDER BY t.score DESC, s.popularity DESC NULLS LAST, i.item_id
LIMIT %(limit)s;

-- bought_by_the_same --
-- What the item's latest buyers bought at any time besides it, by the cosine of the two sets of buyers.
WITH conversions AS (
    SELECT event_type_key FROM event_types WHERE tenant_key = %(tenant)s AND conversion
), buyers AS MATERIALIZED (
    SELECT DISTINCT user_key FROM (
        SELECT user_key FROM events
        WHERE tenant_key = %(tenant)s AND item_key = %(item)s
          AND event_type_key IN (SELECT event_type_key FROM conversions)
        ORDER BY event_time DESC LIMIT %(buyers)s
    ) latest
), together AS MATERIALIZED (
    SELECT e.item_key, count(DISTINCT e.user_key) AS shared
    FROM buyers b JOIN events e ON e.tenant_key = %(tenant)s AND e.user_key = b.user_key
    WHERE e.item_key <> %(item)s AND e.event_type_key IN (SELECT event_type_key FROM conversions)
    GROUP BY e.item_key
)
SELECT i.item_key, i.item_id,
       t.shared / sqrt(greatest(1, s.event_count)::float8 * greatest(1, (SELECT count(*) FROM buyers))) AS score,
       {category} AS category, CASE WHEN %(want_vectors)s THEN f.vector END AS vector
FROM together t
JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = t.item_key
LEFT JOIN item_stats s ON s.tenant_key = %(tenant)s AND s.item_key = t.item_key
LEFT JOIN item_factors f ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = i.item_key
WHERE i.item_id <> ALL (%(excluded)s::text[]) AND {eligible}
ORDER BY score DESC, i.item_id
LIMIT %(limit)s;
