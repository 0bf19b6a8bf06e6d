-- delete_old_shown --
-- Some lists that were kept for as long as they should be.
DELETE FROM shown WHERE (tenant_key, recommendation_id) IN (
    SELECT tenant_key, recommendation_id FROM shown
    WHERE create_time < now() - make_interval(days => %(days)s) LIMIT %(limit)s);

-- insert_shown --
-- Log lists that were shown; one of an id that is there already is left as it is. Lists name their items by where these
-- stand among all of the batch, each of which is looked up once.
INSERT INTO shown (tenant_key, recommendation_id, user_key, strategy, placement, model_key, item_keys, create_time)
WITH known AS MATERIALIZED (
    SELECT array_agg(i.item_key ORDER BY n.place) AS item_keys
    FROM unnest(%(item_ids)s::text[]) WITH ORDINALITY AS n (item_id, place)
    LEFT JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
)
SELECT %(tenant)s, n.recommendation_id, u.user_key, n.strategy, n.placement, m.model_key,
       array_remove(ARRAY(SELECT (SELECT item_keys FROM known)[e.place]
                          FROM unnest(n.items) WITH ORDINALITY AS e (place, ordinal) ORDER BY e.ordinal), NULL),
       n.create_time
FROM jsonb_to_recordset(%(lists)s) AS n (recommendation_id text, kind smallint, user_id text, strategy text,
                                         placement text, model_id text, items int[], create_time timestamptz)
LEFT JOIN users u ON u.tenant_key = %(tenant)s AND u.kind = n.kind AND u.user_id = n.user_id
LEFT JOIN models m ON m.tenant_key = %(tenant)s AND m.model_id = n.model_id
ON CONFLICT DO NOTHING;

-- lists_of_events --
-- The lists that events name, as far as they were logged: whether each had the event's item, and what its type counts as.
SELECT n.position, s.strategy, i.item_key = ANY (s.item_keys) AS has_item, t.conversion AS is_conversion
FROM unnest(%(recommendation_ids)s::text[], %(item_ids)s::text[], %(event_types)s::text[])
     WITH ORDINALITY AS n (recommendation_id, item_id, event_type, position)
JOIN shown s ON s.tenant_key = %(tenant)s AND s.recommendation_id = n.recommendation_id
JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = n.item_id
JOIN event_types t ON t.tenant_key = %(tenant)s AND t.event_type = n.event_type;
