-- without_flush --
-- Do not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true);

-- take_signals --
-- Take out some batches of signals of any tenant, each for one process only.
DELETE FROM item_signals t
USING (
    SELECT tenant_key, signals_key FROM item_signals
    ORDER BY tenant_key, signals_key LIMIT %(batches)s
    FOR UPDATE SKIP LOCKED
) oldest
WHERE t.tenant_key = oldest.tenant_key AND t.signals_key = oldest.signals_key
RETURNING t.tenant_key, array_send(t.item_keys) AS item_keys, array_send(t.log_weights) AS log_weights,
    array_send(t.ages_s) AS ages_s;

-- add_counts --
-- Add to the counters of items. What was said about an item that is gone is lost with it.
INSERT INTO item_stats (tenant_key, item_key, event_count, popularity, trend_day, trend_week)
SELECT %(tenant)s, n.item_key, n.event_count, n.popularity, n.trend_day, n.trend_week
FROM unnest(%(item_keys)s::bigint[], %(event_counts)s::bigint[], %(popularity)s::float8[], %(trend_day)s::float8[],
            %(trend_week)s::float8[]) AS n (item_key, event_count, popularity, trend_day, trend_week)
WHERE EXISTS (SELECT FROM items i WHERE i.tenant_key = %(tenant)s AND i.item_key = n.item_key)
ORDER BY n.item_key
ON CONFLICT (tenant_key, item_key) DO UPDATE SET
    event_count = item_stats.event_count + excluded.event_count,
    popularity = log2_add_v1(item_stats.popularity, excluded.popularity),
    trend_day = log2_add_v1(item_stats.trend_day, excluded.trend_day),
    trend_week = log2_add_v1(item_stats.trend_week, excluded.trend_week);
