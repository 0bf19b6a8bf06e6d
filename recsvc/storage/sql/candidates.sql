-- candidates --
-- One round trip of Recommend: the subject's state, and the candidates of every source that has a limit above zero, each
-- filtered and with all its component scores. The first row is the state (item_key NULL); the others are candidates.
WITH subject AS MATERIALIZED (
    SELECT u.user_key, s.version, s.folded_version, s.model_key, s.item_keys, s.weights, s.ages, s.seen_keys,
           -- A vector of another model may even have another length.
           CASE WHEN s.model_key = %(model)s THEN s.vector END AS vector
    FROM users u LEFT JOIN user_state s ON s.tenant_key = u.tenant_key AND s.user_key = u.user_key
    WHERE u.tenant_key = %(tenant)s AND u.kind = %(kind)s AND u.user_id = %(user_id)s
), session AS MATERIALIZED (
    SELECT i.item_key, row_number() OVER (ORDER BY n.ordinal DESC) AS age
    FROM unnest(%(session_items)s::text[]) WITH ORDINALITY AS n (item_id, ordinal)
    JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
), history AS MATERIALIZED (
    SELECT item_key, position, weight, age, strength,
           strength * power(%(neighbors_recency)s::float8, age - 1) AS signal
    FROM (
        -- What the session holds came after all that is stored.
        SELECT h.item_key, h.position, h.weight, coalesce(h.age, h.position) + (SELECT count(*) FROM session) AS age,
               CASE WHEN h.weight > 0 THEN power(h.weight::float8, %(signal_power)s::float8)
                    ELSE %(disliked_strength)s::float8 END AS strength
        FROM subject,
             unnest(item_keys[1:%(history)s], weights[1:%(history)s], ages[1:%(history)s])
             WITH ORDINALITY AS h (item_key, weight, age, position)
        UNION ALL
        SELECT item_key, age - 1 - (SELECT count(*) FROM session), 1.0, age, 1.0 FROM session
    ) touched
), profile AS MATERIALIZED (
    SELECT CASE
        WHEN (SELECT count(*) FROM session) = 0 THEN (SELECT vector FROM subject)
        ELSE (SELECT sum(part) FROM (
            SELECT vector * array_fill(
                       power(%(collaborative_recency)s::float8, (SELECT count(*) FROM session))::real,
                       ARRAY[%(dimension)s::integer])::vector AS part
            FROM subject WHERE vector IS NOT NULL
            UNION ALL
            SELECT f.vector::vector * array_fill(
                       (f.fold_in_scale * power(%(collaborative_recency)s::float8, s.age - 1))::real,
                       ARRAY[%(dimension)s::integer])::vector
            FROM session s JOIN item_factors f
              ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
                 AND f.item_key = s.item_key
        ) parts)
    END AS vector
), direction AS MATERIALIZED (
    -- The length of the user's vector changes no order, and half precision has no room for the small numbers of a long one.
    SELECT l2_normalize(vector)::halfvec({dimension}) AS vector FROM profile
), seen AS MATERIALIZED (
    SELECT unnest(seen_keys) AS item_key FROM subject WHERE NOT %(include_seen)s
    UNION ALL SELECT item_key FROM session WHERE NOT %(include_seen)s
    UNION ALL
    SELECT i.item_key FROM unnest(%(excluded)s::text[]) AS n (item_id)
    JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
), neighbor_scores AS MATERIALIZED (
    SELECT n.item_key, sum(h.signal * n.weight)::real AS score
    FROM history h
    JOIN item_neighbors r ON r.tenant_key = %(tenant)s AND r.model_key = %(model)s AND r.item_key = h.item_key,
         unnest(r.neighbor_keys[1:%(neighbors_per_item)s], r.weights[1:%(neighbors_per_item)s]) AS n (item_key, weight)
    WHERE %(neighbors_limit)s > 0 OR %(score_neighbors)s
    GROUP BY n.item_key
), sequence_scores AS MATERIALIZED (
    SELECT n.item_key, sum(h.strength * power(%(sequence_recency)s::float8, h.age - 1) * n.weight)::real AS score
    FROM history h
    JOIN item_transitions r ON r.tenant_key = %(tenant)s AND r.model_key = %(model)s AND r.item_key = h.item_key,
         unnest(r.successor_keys, r.weights) AS n (item_key, weight)
    WHERE h.age <= %(sequence_items)s AND (%(sequence_limit)s > 0 OR %(score_neighbors)s)
    GROUP BY n.item_key
), taste AS MATERIALIZED (
    SELECT label, sum(signal) AS weight
    FROM history h JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = h.item_key,
         unnest(i.categories || i.tags) AS label
    WHERE %(content_limit)s > 0 AND h.weight > 0
    GROUP BY label
), by_collaborative AS MATERIALIZED (
    SELECT f.item_key
    FROM item_factors f JOIN items i ON i.tenant_key = f.tenant_key AND i.item_key = f.item_key
    WHERE f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
      AND (SELECT vector FROM direction) IS NOT NULL
      AND f.item_key NOT IN (SELECT item_key FROM seen) AND {eligible}
    ORDER BY f.vector::halfvec({dimension}) <#> (SELECT vector FROM direction)
    LIMIT %(collaborative_limit)s
), by_neighbors AS (
    SELECT s.item_key
    FROM (SELECT item_key, score FROM neighbor_scores WHERE item_key NOT IN (SELECT item_key FROM seen)
          ORDER BY score DESC, item_key LIMIT %(neighbors_pool)s) s
    JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = s.item_key
    WHERE {eligible}
    ORDER BY s.score DESC, s.item_key
    LIMIT %(neighbors_limit)s
), by_sequence AS (
    SELECT s.item_key
    FROM (SELECT item_key, score FROM sequence_scores WHERE item_key NOT IN (SELECT item_key FROM seen)
          ORDER BY score DESC, item_key LIMIT %(sequence_pool)s) s
    JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = s.item_key
    WHERE {eligible}
    ORDER BY s.score DESC, s.item_key
    LIMIT %(sequence_limit)s
), by_content AS (
    SELECT i.item_key
    FROM items i,
         LATERAL (SELECT sum(t.weight) AS weight FROM taste t WHERE t.label = ANY (i.categories || i.tags)) AS m
    WHERE i.tenant_key = %(tenant)s AND m.weight IS NOT NULL AND %(content_limit)s > 0
      AND i.item_key NOT IN (SELECT item_key FROM seen) AND {eligible}
    ORDER BY m.weight / sqrt(cardinality(i.categories || i.tags)) DESC, i.item_key
    LIMIT %(content_limit)s
), by_popular AS (
    SELECT s.item_key
    FROM item_stats s JOIN items i ON i.tenant_key = s.tenant_key AND i.item_key = s.item_key
    WHERE s.tenant_key = %(tenant)s AND s.popularity IS NOT NULL
      AND s.item_key NOT IN (SELECT item_key FROM seen) AND {eligible}
    ORDER BY s.popularity DESC NULLS LAST
    LIMIT %(popular_limit)s
), by_trending AS (
    SELECT s.item_key
    FROM item_stats s JOIN items i ON i.tenant_key = s.tenant_key AND i.item_key = s.item_key
    WHERE s.tenant_key = %(tenant)s AND s.{trend} IS NOT NULL
      AND s.item_key NOT IN (SELECT item_key FROM seen) AND {eligible}
    ORDER BY s.{trend} DESC NULLS LAST
    LIMIT %(trending_limit)s
), by_new AS (
    SELECT i.item_key FROM items i
    WHERE i.tenant_key = %(tenant)s AND i.item_key NOT IN (SELECT item_key FROM seen) AND {eligible}
    ORDER BY coalesce(i.publish_time, i.create_time) DESC
    LIMIT %(new_limit)s
), by_history AS (
    SELECT h.item_key
    FROM history h JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = h.item_key
    WHERE {eligible} AND h.weight > 0 AND h.item_key NOT IN (SELECT item_key FROM seen)
    ORDER BY h.position
    LIMIT %(history_limit)s
), given AS (
    SELECT i.item_key FROM unnest(%(given)s::text[]) AS n (item_id)
    JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
), chosen AS MATERIALIZED (
    SELECT item_key FROM by_collaborative UNION SELECT item_key FROM by_neighbors UNION SELECT item_key FROM by_sequence
    UNION SELECT item_key FROM by_content
    UNION SELECT item_key FROM by_popular UNION SELECT item_key FROM by_trending UNION SELECT item_key FROM by_new
    UNION SELECT item_key FROM by_history UNION SELECT item_key FROM given
), scored AS MATERIALIZED (
    -- One pass over all scores, whatever the planner thinks their number is: a join might search them once per candidate.
    SELECT item_key, max(neighbors) AS neighbors, max(sequence) AS sequence
    FROM (
        SELECT item_key, NULL::real AS neighbors, NULL::real AS sequence, true AS is_chosen FROM chosen
        UNION ALL SELECT item_key, score, NULL, false FROM neighbor_scores
        UNION ALL SELECT item_key, NULL, score, false FROM sequence_scores
    ) scores
    GROUP BY item_key
    HAVING bool_or(is_chosen)
)
SELECT NULL::bigint AS item_key, s.user_key, s.version, s.folded_version, s.model_key,
       coalesce(cardinality(s.item_keys), 0) + (SELECT count(*) FROM session) AS history_size,
       NULL::text AS item_id, NULL::real AS collaborative, NULL::real AS neighbors, NULL::real AS sequence,
       NULL::real AS content,
       NULL::float8 AS popular, NULL::float8 AS trending, NULL::bigint AS event_count, NULL::boolean AS is_derived,
       NULL::float8 AS newness,
       NULL::bigint AS position, NULL::real AS signal, NULL::float8 AS boost, NULL::timestamptz AS expire_time,
       NULL::text[] AS category, NULL::halfvec AS vector
FROM (SELECT 1) AS one LEFT JOIN subject s ON true
UNION ALL
(SELECT c.item_key, NULL, NULL, NULL, NULL, NULL, i.item_id,
       -(f.vector::halfvec({dimension}) <#> (SELECT vector FROM direction))::real,
       c.neighbors, c.sequence,
       (SELECT sum(t.weight) / sqrt(cardinality(i.categories || i.tags))
        FROM taste t WHERE t.label = ANY (i.categories || i.tags))::real,
       st.popularity, st.{trend}, coalesce(st.event_count, 0), d.item_key IS NOT NULL,
       extract(epoch FROM coalesce(i.publish_time, i.create_time))::float8,
       h.position, h.weight, {boost}, i.expire_time, {category},
       CASE WHEN %(want_vectors)s THEN f.vector END
FROM scored c
JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = c.item_key
LEFT JOIN item_factors f ON f.tenant_key = %(tenant)s AND f.shard = %(shard)s AND f.model_key = %(model)s
     AND f.item_key = c.item_key
LEFT JOIN derived_items d ON d.tenant_key = %(tenant)s AND d.model_key = %(model)s AND d.item_key = c.item_key
LEFT JOIN item_stats st ON st.tenant_key = %(tenant)s AND st.item_key = c.item_key
LEFT JOIN (SELECT item_key, min(position) AS position, max(weight) AS weight FROM history GROUP BY item_key) h
     ON h.item_key = c.item_key AND %(history_limit)s > 0
ORDER BY i.item_id);

-- subject_now --
-- What a search for candidates must have seen to be as new as one at the primary: the tenant's version, and the state of
-- the subject, NULL for whom nobody knows.
SELECT v.version AS tenant_version, u.user_key, s.version, s.folded_version, s.model_key
FROM tenant_versions v
LEFT JOIN users u ON u.tenant_key = v.tenant_key AND u.kind = %(kind)s AND u.user_id = %(user_id)s
LEFT JOIN user_state s ON s.tenant_key = u.tenant_key AND s.user_key = u.user_key
WHERE v.tenant_key = %(tenant)s;

-- tune_search --
-- How far the vector index looks: the list of candidates it keeps, and that it goes on when filters drop many. Joins run
-- in the order in which the statement has them: from few candidates to their items, whatever the statistics say. The
-- scores of a whole catalogue stay in memory.
SELECT set_config('hnsw.ef_search', {ef_search}, true), set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('join_collapse_limit', '1', true), set_config('work_mem', '32MB', true);

-- explanations --
-- For the items of a list: how much each item of the subject's history or session says for them.
WITH session AS (
    SELECT i.item_key, row_number() OVER (ORDER BY n.ordinal DESC) AS age
    FROM unnest(%(session_items)s::text[]) WITH ORDINALITY AS n (item_id, ordinal)
    JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
), history AS (
    SELECT item_key, min(age) AS age,
           CASE WHEN max(weight) > 0 THEN power(max(weight)::float8, %(signal_power)s::float8)
                ELSE %(disliked_strength)s::float8 END AS strength
    FROM (
        SELECT h.item_key, coalesce(h.age, h.position) + (SELECT count(*) FROM session) AS age, h.weight
        FROM user_state,
             unnest(item_keys[1:%(history)s], ages[1:%(history)s], weights[1:%(history)s])
             WITH ORDINALITY AS h (item_key, age, weight, position)
        WHERE tenant_key = %(tenant)s AND user_key = %(user)s
        UNION ALL
        SELECT item_key, age, 1.0 FROM session
    ) touched
    GROUP BY item_key
)
SELECT b.item_id AS because, n.item_key,
       coalesce(w.weight, 0) * h.strength * power(%(neighbors_recency)s::float8, h.age - 1) AS neighbors,
       CASE WHEN h.age <= %(sequence_items)s
            THEN coalesce(q.weight, 0) * h.strength * power(%(sequence_recency)s::float8, h.age - 1) ELSE 0 END AS sequence,
       coalesce(-(hf.vector <#> nf.vector) * hf.fold_in_scale, 0)::float8
           * h.strength * power(%(collaborative_recency)s::float8, h.age - 1) AS collaborative
FROM history h
JOIN items b ON b.tenant_key = %(tenant)s AND b.item_key = h.item_key
CROSS JOIN unnest(%(items)s::bigint[]) AS n (item_key)
LEFT JOIN item_factors hf ON hf.tenant_key = %(tenant)s AND hf.shard = %(shard)s AND hf.model_key = %(model)s
     AND hf.item_key = h.item_key
LEFT JOIN item_factors nf ON nf.tenant_key = %(tenant)s AND nf.shard = %(shard)s AND nf.model_key = %(model)s
     AND nf.item_key = n.item_key
LEFT JOIN LATERAL (
    SELECT e.weight FROM item_neighbors r, unnest(r.neighbor_keys, r.weights) AS e (neighbor_key, weight)
    WHERE r.tenant_key = %(tenant)s AND r.model_key = %(model)s AND r.item_key = h.item_key
      AND e.neighbor_key = n.item_key
) w ON true
LEFT JOIN LATERAL (
    SELECT e.weight FROM item_transitions r, unnest(r.successor_keys, r.weights) AS e (successor_key, weight)
    WHERE r.tenant_key = %(tenant)s AND r.model_key = %(model)s AND r.item_key = h.item_key
      AND e.successor_key = n.item_key
) q ON true;

-- matching_labels --
-- For the items of a list: the categories and tags that they share with the subject's history or session, those that
-- weigh most in it first.
WITH history AS (
    SELECT h.item_key, h.weight
    FROM user_state, unnest(item_keys[1:%(history)s], weights[1:%(history)s]) AS h (item_key, weight)
    WHERE tenant_key = %(tenant)s AND user_key = %(user)s AND h.weight > 0
    UNION ALL
    SELECT item_key, 1.0 FROM items WHERE tenant_key = %(tenant)s AND item_id = ANY (%(session_items)s::text[])
), taste AS (
    SELECT label, sum(h.weight) AS weight
    FROM history h JOIN items i ON i.tenant_key = %(tenant)s AND i.item_key = h.item_key,
         unnest(i.categories || i.tags) AS label
    GROUP BY label
)
SELECT i.item_key, array_agg(t.label ORDER BY t.weight DESC, t.label) AS labels
FROM items i JOIN taste t ON t.label = ANY (i.categories || i.tags)
WHERE i.tenant_key = %(tenant)s AND i.item_key = ANY (%(items)s::bigint[])
GROUP BY i.item_key;
