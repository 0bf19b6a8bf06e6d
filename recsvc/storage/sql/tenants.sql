-- create_tenant --
-- A tenant with its version counter and the default event types.
WITH tenant AS (
    INSERT INTO tenants (tenant_id, display_name, settings)
    VALUES (%(tenant_id)s, %(display_name)s, %(settings)s::jsonb)
    ON CONFLICT (tenant_id) DO NOTHING
    RETURNING *
), version AS (
    INSERT INTO tenant_versions (tenant_key) SELECT tenant_key FROM tenant
), types AS (
    INSERT INTO event_types (tenant_key, event_type, weight, half_life_s, counts_as_seen, conversion)
    SELECT tenant.tenant_key, d.event_type, d.weight, d.half_life_s, d.counts_as_seen, d.conversion
    FROM tenant, jsonb_to_recordset(%(event_types)s) AS d (
        event_type text, weight real, half_life_s double precision, counts_as_seen boolean, conversion boolean)
)
SELECT * FROM tenant;

-- get_tenant --
-- One tenant by its id.
SELECT * FROM tenants WHERE tenant_id = %(tenant_id)s;

-- list_tenants --
-- A page of tenants by id.
SELECT * FROM tenants WHERE tenant_id > %(after)s ORDER BY tenant_id LIMIT %(limit)s;

-- update_tenant --
-- The fields that an update may change.
UPDATE tenants SET display_name = %(display_name)s, settings = %(settings)s::jsonb, update_time = now()
WHERE tenant_id = %(tenant_id)s
RETURNING *;

-- lock_tenant --
-- One tenant, held until the end of the transaction.
SELECT * FROM tenants WHERE tenant_id = %(tenant_id)s FOR UPDATE;

-- delete_tenant --
-- The tenant itself; what has no foreign key to it is deleted by the statements that follow.
WITH large AS (
    SELECT m.tenant_key, array_agg(format('item_factors_%%s', m.shard)) AS partitions
    FROM models m JOIN tenants t USING (tenant_key)
    WHERE t.tenant_id = %(tenant_id)s AND m.shard <> 0
    GROUP BY m.tenant_key
)
DELETE FROM tenants t WHERE t.tenant_id = %(tenant_id)s
RETURNING t.tenant_key, (SELECT partitions FROM large) AS partitions,
    ARRAY(SELECT k.key_id FROM api_keys k WHERE k.tenant_key = t.tenant_key) AS key_ids;

-- drop_partition --
-- A large model's vectors go at once.
DROP TABLE IF EXISTS {partition};

-- delete_events --
-- Events of a tenant.
DELETE FROM events WHERE tenant_key = %(tenant)s;

-- delete_event_ids --
-- Idempotency keys of a tenant.
DELETE FROM event_ids WHERE tenant_key = %(tenant)s;

-- delete_factors --
-- Vectors of a tenant's small models; the partitions of large ones are dropped.
DELETE FROM item_factors WHERE shard = 0 AND tenant_key = %(tenant)s;

-- delete_neighbors --
-- Neighbours of a tenant.
DELETE FROM item_neighbors WHERE tenant_key = %(tenant)s;

-- delete_transitions --
-- What follows what, of a tenant.
DELETE FROM item_transitions WHERE tenant_key = %(tenant)s;

-- delete_shown --
-- Logged lists of a tenant.
DELETE FROM shown WHERE tenant_key = %(tenant)s;

-- tenant_profile --
-- What every request needs of its tenant: settings, version, the model that serves.
SELECT t.tenant_key, t.tenant_id, t.settings, v.version, m.model_key, m.model_id, m.dimension, m.shard,
       m.blend_weights, m.recency, m.signal_power, m.disliked_strength, m.item_count,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(a.key, a.type, a.required, a.filterable)), '[]')
        FROM attribute_schemas a WHERE a.tenant_key = t.tenant_key) AS attribute_schema
FROM tenants t
JOIN tenant_versions v USING (tenant_key)
LEFT JOIN models m ON m.tenant_key = t.tenant_key AND m.model_key = t.active_model_key
WHERE t.tenant_key = %(tenant)s;

-- raise_version --
-- Tell caches that lists of this tenant are outdated. Last in a transaction: it locks the row until the commit.
UPDATE tenant_versions SET version = version + 1, update_time = clock_timestamp()
WHERE tenant_key = %(tenant)s
RETURNING version;

-- recent_versions --
-- Versions raised lately, for caches that may have missed an announcement.
SELECT tenant_key, version FROM tenant_versions WHERE update_time > now() - make_interval(secs => %(seconds)s);

-- get_attribute_schema --
-- The allow-list of attributes.
SELECT key, type, required, filterable, description FROM attribute_schemas
WHERE tenant_key = %(tenant)s ORDER BY key;

-- mistyped_attributes --
-- For each key that is given a type: an item with a value of another type, if there is any.
SELECT w.key, wrong.item_id
FROM unnest(%(keys)s::text[], %(types)s::text[]) AS w (key, type)
CROSS JOIN LATERAL (
    SELECT i.item_id FROM items i CROSS JOIN LATERAL (SELECT i.attributes -> w.key AS value) a
    WHERE i.tenant_key = %(tenant)s AND jsonb_typeof(a.value) <> 'null'
      AND NOT CASE w.type
          WHEN 'STRING' THEN jsonb_typeof(a.value) = 'string'
          WHEN 'NUMBER' THEN jsonb_typeof(a.value) = 'number'
          WHEN 'BOOL' THEN jsonb_typeof(a.value) = 'boolean'
          WHEN 'TIMESTAMP' THEN jsonb_typeof(a.value) = 'string'
               AND pg_input_is_valid(a.value #>> '{}', 'timestamptz')
               AND a.value #>> '{}' ~ '^\d{4}-.*(Z|[+-]\d\d(:?\d\d)?)$'
          WHEN 'STRING_LIST' THEN jsonb_typeof(a.value) = 'array'
               AND NOT jsonb_path_exists(a.value, 'strict $[*] ? (@.type() <> "string")')
          WHEN 'NUMBER_LIST' THEN jsonb_typeof(a.value) = 'array'
               AND NOT jsonb_path_exists(a.value, 'strict $[*] ? (@.type() <> "number")')
          ELSE jsonb_typeof(a.value) = 'object'
      END
    LIMIT 1
) wrong;

-- clear_attribute_schema --
-- Make room for a new allow-list.
DELETE FROM attribute_schemas WHERE tenant_key = %(tenant)s;

-- insert_attribute_rule --
-- One line of the allow-list.
INSERT INTO attribute_schemas (tenant_key, key, type, required, filterable, description)
VALUES (%(tenant)s, %(key)s, %(type)s, %(required)s, %(filterable)s, %(description)s);

-- service_secret --
-- A secret that all processes share, made by the first one that asks.
WITH made AS (
    INSERT INTO service_secrets (name, secret) VALUES (%(name)s, %(secret)s)
    ON CONFLICT (name) DO NOTHING RETURNING secret
)
SELECT secret FROM made UNION ALL SELECT secret FROM service_secrets WHERE name = %(name)s LIMIT 1;
