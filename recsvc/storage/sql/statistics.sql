-- stored_rows --
-- About how many rows there are, all partitions together: what PostgreSQL has counted along, or what it found when it
-- last analysed, if its counters were reset by a crash.
SELECT coalesce(parent.relname, c.relname)::text AS table_name,
       sum(coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), greatest(c.reltuples, 0)))::float8 AS estimate
FROM pg_class c
LEFT JOIN pg_inherits h ON h.inhrelid = c.oid
LEFT JOIN pg_class parent ON parent.oid = h.inhparent
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
  AND coalesce(parent.relname, c.relname) IN ('items', 'users', 'events')
GROUP BY 1;

-- model_ages --
-- How old the serving models are, those of most tenants' oldest first.
SELECT t.tenant_id, extract(epoch FROM now() - m.create_time)::float8 AS age_s
FROM tenants t JOIN models m ON m.tenant_key = t.tenant_key AND m.model_key = t.active_model_key
ORDER BY m.create_time LIMIT %(limit)s;

-- runs_under_way --
-- Training runs that wait or are under way; one without a sign of life is not.
SELECT t.tenant_id, r.progress::float8 AS progress
FROM training_runs r JOIN tenants t ON t.tenant_key = r.tenant_key
WHERE r.state IN ('QUEUED', 'RUNNING') AND r.heartbeat_time > now() - make_interval(secs => %(silence_s)s)
LIMIT %(limit)s;
