-- without_flush --
-- Do not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true);

-- count_signals --
-- Take out some batches of signals of any tenant, each for one process only, and add them to the counters of their
-- items. What was said about an item that is gone is lost with it.
WITH taken AS (
    DELETE FROM item_signals t
    USING (
        SELECT tenant_key, signals_key FROM item_signals
        ORDER BY tenant_key, signals_key LIMIT %(batches)s
        FOR UPDATE SKIP LOCKED
    ) oldest
    WHERE t.tenant_key = oldest.tenant_key AND t.signals_key = oldest.signals_key
    RETURNING t.tenant_key, t.item_keys, t.log_weights, t.ages_s
), exponents AS (
    SELECT tenant_key, item_key, log_weight + age_s / %(popularity_s)s AS popularity,
           log_weight + age_s / 86400 AS trend_day, log_weight + age_s / 604800 AS trend_week
    FROM taken, unnest(item_keys, log_weights, ages_s) AS e (item_key, log_weight, age_s)
    WHERE EXISTS (SELECT FROM items i WHERE i.tenant_key = taken.tenant_key AND i.item_key = e.item_key)
), peaks AS (
    SELECT *, max(popularity) OVER w AS p, max(trend_day) OVER w AS d, max(trend_week) OVER w AS k
    FROM exponents WINDOW w AS (PARTITION BY tenant_key, item_key)
), counted AS (
    INSERT INTO item_stats (tenant_key, item_key, event_count, popularity, trend_day, trend_week)
    SELECT tenant_key, item_key, count(*),
           min(p) + ln(sum(power(2::double precision, greatest(popularity - p, -60)))) / ln(2::double precision),
           min(d) + ln(sum(power(2::double precision, greatest(trend_day - d, -60)))) / ln(2::double precision),
           min(k) + ln(sum(power(2::double precision, greatest(trend_week - k, -60)))) / ln(2::double precision)
    FROM peaks GROUP BY tenant_key, item_key ORDER BY tenant_key, item_key
    ON CONFLICT (tenant_key, item_key) DO UPDATE SET
        event_count = item_stats.event_count + excluded.event_count,
        popularity = log2_add_v1(item_stats.popularity, excluded.popularity),
        trend_day = log2_add_v1(item_stats.trend_day, excluded.trend_day),
        trend_week = log2_add_v1(item_stats.trend_week, excluded.trend_week)
)
SELECT count(*) AS batches FROM taken;
