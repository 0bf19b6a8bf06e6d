-- Vectors from content: what training learned of features, which items' vectors are derived from them, and what is due.

-- What turns features into vectors, per model; calibration as domain.content_vectors.Calibration has it.
CREATE TABLE content_models (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    mean vector NOT NULL,
    calibration jsonb NOT NULL,
    PRIMARY KEY (tenant_key, model_key),
    FOREIGN KEY (tenant_key, model_key) REFERENCES models ON DELETE CASCADE
);

CREATE TABLE content_features (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    feature text NOT NULL,
    idf real NOT NULL,
    vector halfvec NOT NULL,
    PRIMARY KEY (tenant_key, model_key, feature),
    FOREIGN KEY (tenant_key, model_key) REFERENCES models ON DELETE CASCADE
);
-- Out-of-line vectors would cost a second read each.
ALTER TABLE content_features ALTER COLUMN vector SET STORAGE PLAIN;

-- Items that a model was not trained on: the item's state and its events as of when its vector was derived. One without
-- a vector says nothing about itself.
CREATE TABLE derived_items (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    item_key bigint NOT NULL,
    etag bigint NOT NULL,
    event_count bigint NOT NULL,
    PRIMARY KEY (tenant_key, model_key, item_key),
    FOREIGN KEY (tenant_key, model_key) REFERENCES models ON DELETE CASCADE
);

-- Items whose vectors are due, written in the transaction that made them so; item_key NULL: whatever the model that
-- serves now lacks. Rows are only added and removed, never changed, so that writers never wait for each other here.
CREATE TABLE item_marks (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    mark_key bigint GENERATED ALWAYS AS IDENTITY,
    item_key bigint,
    PRIMARY KEY (tenant_key, mark_key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- The count of events is the mark of those: it is written with each of them. A row begins as due; what training knows
-- is then set to NULL. Beyond ten events a vector is due again for every tenth more, so that work does not grow with use.
ALTER TABLE item_stats ADD COLUMN derived_event_count bigint;
ALTER TABLE item_stats ALTER COLUMN derived_event_count SET DEFAULT 0;
COMMENT ON COLUMN item_stats.derived_event_count IS
    'events that the vector of the item in the serving model accounts for; NULL when it is due for nothing';
CREATE INDEX item_stats_due ON item_stats (tenant_key, (event_count - derived_event_count))
    WHERE event_count > derived_event_count + derived_event_count / 10;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['content_models', 'content_features', 'derived_items', 'item_marks'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO recsvc_app USING (tenant_key = (SELECT current_tenant_v1()))',
                       name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO recsvc_app', name);
    END LOOP;
END $$;

-- Triggers, so that an older version of the service that runs beside this one marks its items, too.
CREATE FUNCTION mark_created_items_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO item_marks (tenant_key, item_key) SELECT tenant_key, item_key FROM created;
    RETURN NULL;
END $$;
CREATE TRIGGER items_mark_created AFTER INSERT ON items
REFERENCING NEW TABLE AS created FOR EACH STATEMENT EXECUTE FUNCTION mark_created_items_v1();

CREATE FUNCTION mark_changed_items_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO item_marks (tenant_key, item_key)
    SELECT n.tenant_key, n.item_key
    FROM after_change n JOIN before_change o ON o.tenant_key = n.tenant_key AND o.item_key = n.item_key
    WHERE (o.item_type, o.title, o.description, o.categories, o.tags, o.attributes)
          IS DISTINCT FROM (n.item_type, n.title, n.description, n.categories, n.tags, n.attributes);
    RETURN NULL;
END $$;
CREATE TRIGGER items_mark_changed AFTER UPDATE ON items
REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
FOR EACH STATEMENT EXECUTE FUNCTION mark_changed_items_v1();

-- A deletion that waited for a vector to be stored cannot see it: its snapshot is older. A trigger looks anew.
CREATE FUNCTION forget_vectors_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM item_factors f USING models m, deleted g
    WHERE m.tenant_key = g.tenant_key AND f.tenant_key = g.tenant_key AND f.shard = m.shard
      AND f.model_key = m.model_key AND f.item_key = g.item_key;
    DELETE FROM derived_items d USING models m, deleted g
    WHERE m.tenant_key = g.tenant_key AND d.tenant_key = g.tenant_key AND d.model_key = m.model_key
      AND d.item_key = g.item_key;
    RETURN NULL;
END $$;
CREATE TRIGGER items_forget_vectors AFTER DELETE ON items
REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION forget_vectors_v1();

CREATE FUNCTION mark_catalogue_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO item_marks (tenant_key) VALUES (NEW.tenant_key);
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_mark_catalogue AFTER UPDATE OF active_model_key ON tenants
FOR EACH ROW WHEN (NEW.active_model_key IS NOT NULL) EXECUTE FUNCTION mark_catalogue_v1();
