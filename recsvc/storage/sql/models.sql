-- insert_model --
-- A model that is being written.
INSERT INTO models (tenant_key, model_id, state, algorithm, dimension, blend_weights, recency, signal_power,
                    disliked_strength, hyperparameters, metrics, item_count, user_count, event_count)
VALUES (%(tenant)s, %(model_id)s, 'BUILDING', %(algorithm)s, %(dimension)s, %(blend_weights)s, %(recency)s, %(signal_power)s,
        %(disliked_strength)s, %(hyperparameters)s, %(metrics)s, %(item_count)s, %(user_count)s, %(event_count)s)
RETURNING model_key;

-- analyze_weights --
-- Let the planner know what a model has written before anybody asks for it; autovacuum may come a minute too late.
ANALYZE item_neighbors, item_transitions;

-- analyze_partition --
-- The same of a large model's vectors.
ANALYZE {partition};

-- finish_model --
-- The model is stored whole.
UPDATE models SET state = 'READY', shard = %(shard)s WHERE tenant_key = %(tenant)s AND model_key = %(model)s;

-- get_model --
-- One model by its id.
SELECT * FROM models WHERE tenant_key = %(tenant)s AND model_id = %(model_id)s AND state <> 'BUILDING';

-- active_model --
-- The model that serves.
SELECT m.* FROM models m JOIN tenants t ON t.tenant_key = m.tenant_key AND t.active_model_key = m.model_key
WHERE m.tenant_key = %(tenant)s;

-- list_models --
-- A page of models, newest first.
SELECT * FROM models
WHERE tenant_key = %(tenant)s AND state <> 'BUILDING'
  AND (%(before)s::bigint IS NULL OR model_key < %(before)s)
ORDER BY model_key DESC LIMIT %(limit)s;

-- surplus_models --
-- Half-made models, and old ones beyond those that are kept for roll-back.
SELECT model_key, shard FROM models
WHERE tenant_key = %(tenant)s AND state = 'BUILDING'
UNION ALL
(SELECT model_key, shard FROM models
 WHERE tenant_key = %(tenant)s AND state = 'READY'
 ORDER BY model_key DESC OFFSET %(keep)s);

-- hold_pointer --
-- Whoever switches or deletes models of a tenant does so one after another: a model read as idle must not have become
-- the active one by the time it is deleted.
SELECT FROM tenants WHERE tenant_key = %(tenant)s FOR NO KEY UPDATE;

-- point_to_model --
-- The one pointer that says which model serves.
UPDATE tenants SET active_model_key = %(model)s WHERE tenant_key = %(tenant)s;

-- mark_active --
-- Exactly one model of a tenant is active.
UPDATE models
SET state = CASE WHEN model_key = %(model)s THEN 'ACTIVE' ELSE 'READY' END,
    activate_time = CASE WHEN model_key = %(model)s THEN now() ELSE activate_time END
WHERE tenant_key = %(tenant)s AND (model_key = %(model)s OR state = 'ACTIVE');

-- lock_model --
-- A model with the tenant's pointer, held until the end of the transaction.
SELECT m.model_key, m.shard, m.state, t.active_model_key
FROM models m JOIN tenants t USING (tenant_key)
WHERE m.tenant_key = %(tenant)s AND m.model_id = %(model_id)s AND m.state <> 'BUILDING'
FOR UPDATE OF m;

-- delete_model --
-- Forget a model.
DELETE FROM models WHERE tenant_key = %(tenant)s AND model_key = %(model)s;

-- delete_neighbors --
-- A model's neighbours.
DELETE FROM item_neighbors WHERE tenant_key = %(tenant)s AND model_key = %(model)s;

-- delete_transitions --
-- What a model says about what follows what.
DELETE FROM item_transitions WHERE tenant_key = %(tenant)s AND model_key = %(model)s;

-- delete_shared_factors --
-- A small model's vectors.
DELETE FROM item_factors WHERE tenant_key = %(tenant)s AND shard = 0 AND model_key = %(model)s;

-- create_partition --
-- Where a large model's vectors go, not attached yet, so that nobody waits while they are written and indexed. The columns
-- are those of item_factors; LIKE would lock it until the end of the transaction, and so, behind the next DROP that
-- waits for that lock, all readers.
CREATE TABLE {partition} (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    shard bigint NOT NULL,
    item_key bigint NOT NULL,
    fold_in_scale real NOT NULL,
    vector halfvec STORAGE PLAIN NOT NULL
);

-- index_partition --
-- The vector index of a large model, by inner product.
CREATE INDEX ON {partition} USING hnsw ((vector::halfvec({dimension})) halfvec_ip_ops)
WITH (m = {m}, ef_construction = {ef_construction});

-- key_partition --
-- The key of a large model's partition, as the parent has it.
ALTER TABLE {partition} ADD PRIMARY KEY (shard, model_key, item_key);

-- attach_partition --
-- Make a large model's vectors visible.
ALTER TABLE item_factors ATTACH PARTITION {partition} FOR VALUES IN ({shard});

-- drop_partition --
-- A large model's vectors go at once.
DROP TABLE IF EXISTS {partition};

-- copy_factors --
-- Take in vectors.
COPY {table} (tenant_key, model_key, shard, item_key, fold_in_scale, vector) FROM STDIN (FORMAT BINARY);

-- copy_neighbors --
-- Take in neighbours.
COPY item_neighbors (tenant_key, model_key, item_key, neighbor_keys, weights) FROM STDIN (FORMAT BINARY);

-- copy_transitions --
-- Take in what follows what.
COPY item_transitions (tenant_key, model_key, item_key, successor_keys, weights) FROM STDIN (FORMAT BINARY);

-- export_signals --
-- What all users' events say about items, as of one snapshot; the same sums that fold-in uses, except for users of more
-- events than it reads: to leave their oldest out would mean to sort everybody's.
COPY (
    SELECT e.user_key, e.item_key,
           sum(event_signal_v1(t.event_type, t.weight, e.value)
               * decay_v1(extract(epoch FROM now() - e.event_time)::float8, t.half_life_s))::float8,
           max(extract(epoch FROM e.event_time))::float8
    FROM events e
    JOIN event_types t ON t.tenant_key = e.tenant_key AND t.event_type_key = e.event_type_key
    JOIN items i ON i.tenant_key = e.tenant_key AND i.item_key = e.item_key
    WHERE e.tenant_key = %(tenant)s
    GROUP BY e.user_key, e.item_key
) TO STDOUT (FORMAT BINARY);
