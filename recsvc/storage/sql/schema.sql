-- schema_state --
-- What the database has of that which this version needs: the version of pgvector, and how many of our migrations.
SELECT
    (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_version,
    (SELECT array_agg(version) FROM schema_migrations) AS applied
