-- delete_old_shown --
-- Some lists that were kept for as long as they should be.
DELETE FROM shown WHERE (tenant_key, recommendation_id) IN (
    SELECT tenant_key, recommendation_id FROM shown
    WHERE create_time < now() - make_interval(days => %(days)s) LIMIT %(limit)s);

-- insert_shown --
-- Log lists that were shown; one of an id that is there already is left as it is.
INSERT INTO shown (tenant_key, recommendation_id, user_key, strategy, placement, model_key, item_keys, create_time)
SELECT %(tenant)s, n.recommendation_id, u.user_key, n.strategy, n.placement, m.model_key,
       ARRAY(SELECT i.item_key FROM jsonb_array_elements_text(n.items) WITH ORDINALITY AS e (item_id, ordinal)
             JOIN items i ON i.tenant_key = %(tenant)s AND i.item_id = e.item_id ORDER BY e.ordinal),
       n.create_time
FROM jsonb_to_recordset(%(lists)s) AS n (recommendation_id text, kind smallint, user_id text, strategy text,
                                         placement text, model_id text, items jsonb, create_time timestamptz)
LEFT JOIN users u ON u.tenant_key = %(tenant)s AND u.kind = n.kind AND u.user_id = n.user_id
LEFT JOIN models m ON m.tenant_key = %(tenant)s AND m.model_id = n.model_id
ON CONFLICT DO NOTHING;
