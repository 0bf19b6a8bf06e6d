-- The first schema. Expand/contract from here on: a later file may add, and only a file after the next release may drop.
-- Surrogate bigint keys inside, the caller's ids unique per tenant. Every tenant table begins with tenant_key.

CREATE EXTENSION IF NOT EXISTS vector;

-- The role that requests run under: it owns nothing, so row-level security always applies to it.
DO $$
BEGIN
    CREATE ROLE recsvc_app NOLOGIN NOSUPERUSER NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- roles belong to the cluster: another database of it may have made this one
END $$;
DO $$
BEGIN
    EXECUTE format('GRANT recsvc_app TO %I', current_user);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO recsvc_app', current_schema());
END $$;

-- The tenant of this transaction, or NULL (which no row has) when none was set.
CREATE FUNCTION current_tenant_v1() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('recsvc.tenant', true), '')::bigint;

CREATE TABLE service_secrets (
    name text PRIMARY KEY,
    secret bytea NOT NULL
);

CREATE TABLE tenants (
    tenant_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL UNIQUE,
    display_name text NOT NULL DEFAULT '',
    settings jsonb NOT NULL DEFAULT '{}',
    embedding_dimension integer,
    active_model_key bigint,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);

-- One counter per tenant, raised by every change that can alter a list for everybody: catalogue, settings, model.
CREATE TABLE tenant_versions (
    tenant_key bigint PRIMARY KEY REFERENCES tenants ON DELETE CASCADE,
    version bigint NOT NULL DEFAULT 1,
    update_time timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE api_keys (
    key_id text PRIMARY KEY,
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    display_name text NOT NULL DEFAULT '',
    secret_hash text NOT NULL,
    previous_secret_hash text,
    previous_expire_time timestamptz,
    scopes text[] NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz,
    revoke_time timestamptz,
    last_used_time timestamptz
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_key, key_id);

CREATE TABLE event_types (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    event_type_key integer GENERATED ALWAYS AS IDENTITY,
    event_type text NOT NULL,
    weight real NOT NULL,
    half_life_s double precision,
    counts_as_seen boolean NOT NULL,
    conversion boolean NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_key, event_type_key),
    UNIQUE (tenant_key, event_type)
);

CREATE TABLE attribute_schemas (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    key text NOT NULL,
    type text NOT NULL,
    required boolean NOT NULL DEFAULT false,
    filterable boolean NOT NULL DEFAULT true,
    description text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_key, key)
);

CREATE SEQUENCE item_etags;

CREATE TABLE items (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    item_key bigint GENERATED ALWAYS AS IDENTITY,
    item_id text NOT NULL,
    item_type text NOT NULL DEFAULT '',
    title text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    categories text[] NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    attributes jsonb NOT NULL DEFAULT '{}',
    embedding vector,
    available boolean NOT NULL DEFAULT true,
    hidden boolean NOT NULL DEFAULT false,
    publish_time timestamptz,
    expire_time timestamptz,
    etag bigint NOT NULL DEFAULT nextval('item_etags'),
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_key, item_key),
    UNIQUE (tenant_key, item_id)
);
-- For incremental export, for NEW, and for CONTENT.
CREATE INDEX items_update_time ON items (tenant_key, update_time, item_key);
CREATE INDEX items_newest ON items (tenant_key, (coalesce(publish_time, create_time)) DESC);
CREATE INDEX items_categories ON items USING gin (categories);

-- What was deleted, so that an incremental export can say so.
CREATE TABLE deleted_items (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    item_id text NOT NULL,
    delete_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_key, item_id)
);
CREATE INDEX deleted_items_time ON deleted_items (tenant_key, delete_time);

-- Known users (kind 0) and anonymous sessions (kind 1).
CREATE TABLE users (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_key bigint GENERATED ALWAYS AS IDENTITY,
    kind smallint NOT NULL DEFAULT 0,
    user_id text NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    labels text[] NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_key, user_key),
    UNIQUE (tenant_key, kind, user_id)
);

-- What is known of a user at `version`, folded in from the events. Dirty while folded_version < version; of another
-- model when model_key is not the active one. Both are mended by the projector, or by the reader that finds them.
CREATE TABLE user_state (
    tenant_key bigint NOT NULL,
    user_key bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    folded_version bigint NOT NULL DEFAULT 0,
    model_key bigint,
    item_keys bigint[] NOT NULL DEFAULT '{}',
    weights real[] NOT NULL DEFAULT '{}',
    seen_keys bigint[] NOT NULL DEFAULT '{}',
    vector vector,
    fold_time timestamptz,
    PRIMARY KEY (tenant_key, user_key),
    FOREIGN KEY (tenant_key, user_key) REFERENCES users ON DELETE CASCADE
) WITH (fillfactor = 70);
CREATE INDEX user_state_dirty ON user_state (tenant_key, user_key) WHERE folded_version < version;
COMMENT ON COLUMN user_state.item_keys IS 'items that tell of taste, newest first, with their signal in weights';

-- The idempotency key of every event: a partitioned table cannot hold a unique constraint without its partition key.
CREATE TABLE event_ids (
    tenant_key bigint NOT NULL,
    event_id text NOT NULL,
    event_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_key, event_id)
);

CREATE TABLE events (
    tenant_key bigint NOT NULL,
    event_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    event_id text NOT NULL,
    event_type_key integer NOT NULL,
    user_key bigint NOT NULL,
    item_key bigint NOT NULL,
    session_id text,
    value double precision,
    recommendation_id text,
    context jsonb,
    properties jsonb
) PARTITION BY RANGE (event_time);
CREATE INDEX events_user ON events (tenant_key, user_key, event_time DESC);
CREATE INDEX events_item ON events (tenant_key, item_key, event_time DESC);
CREATE INDEX events_time ON events (tenant_key, event_time DESC, event_id);

-- Make the monthly partition that holds `moment`, if it is not there. Everything before the first month of the
-- installation lives in one partition, so that imported history does not cost a partition per month.
CREATE FUNCTION ensure_event_partition_v1(moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    month timestamptz := date_trunc('month', moment, 'UTC');
    name text := format('events_%s', to_char(month AT TIME ZONE 'UTC', 'YYYY_MM'));
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Two processes may want the same month at once: the second waits and finds it made.
    PERFORM pg_advisory_xact_lock(hashtext('recsvc.events'), hashtext(name));
    IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                       name, month, date_trunc('month', month + interval '40 days', 'UTC'));
    END IF;
END $$;

DO $$
DECLARE
    first_month timestamptz := date_trunc('month', now() - interval '3 months', 'UTC');
BEGIN
    EXECUTE format('CREATE TABLE events_history PARTITION OF events FOR VALUES FROM (MINVALUE) TO (%L)', first_month);
    FOR i IN 0..5 LOOP
        PERFORM ensure_event_partition_v1(
            date_trunc('month', first_month + i * interval '1 month' + interval '10 days', 'UTC'));
    END LOOP;
END $$;

-- Counters of an item. The decayed ones are log2 Σ weight·2^((t − 2020-01-01)/half-life): their order holds at any
-- later time, so nothing needs to be decayed again. NULL: no positive event yet.
CREATE TABLE item_stats (
    tenant_key bigint NOT NULL,
    item_key bigint NOT NULL,
    event_count bigint NOT NULL DEFAULT 0,
    popularity double precision,
    trend_day double precision,
    trend_week double precision,
    PRIMARY KEY (tenant_key, item_key),
    FOREIGN KEY (tenant_key, item_key) REFERENCES items ON DELETE CASCADE
) WITH (fillfactor = 70);
CREATE INDEX item_stats_popularity ON item_stats (tenant_key, popularity DESC NULLS LAST);
CREATE INDEX item_stats_trend_day ON item_stats (tenant_key, trend_day DESC NULLS LAST);
CREATE INDEX item_stats_trend_week ON item_stats (tenant_key, trend_week DESC NULLS LAST);

-- log2(2^a + 2^b) without overflow; NULL counts as nothing.
CREATE FUNCTION log2_add_v1(a double precision, b double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN a IS NULL THEN b
    WHEN b IS NULL THEN a
    WHEN abs(a - b) > 60 THEN greatest(a, b)
    ELSE greatest(a, b) + ln(1 + power(2::double precision, -abs(a - b))) / ln(2::double precision)
END;

-- What one event says about taste, before it ages. A rating counts by its distance from the middle of five stars: 5 is a
-- whole positive signal, 1 a negative one; other types count the same whatever their value (a price, a quantity).
CREATE FUNCTION event_signal_v1(event_type text, weight real, value double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN event_type = 'rate' AND value IS NOT NULL THEN weight * least(1, greatest(-1, (value - 2.5) / 2.5))
    ELSE weight
END;

-- What is left of a signal at an age; power() would raise an error on underflow.
CREATE FUNCTION decay_v1(age_s double precision, half_life_s double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN half_life_s IS NULL THEN 1 ELSE power(2::double precision, -least(60, greatest(0, age_s / half_life_s))) END;

CREATE TABLE models (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    model_key bigint GENERATED ALWAYS AS IDENTITY,
    model_id text NOT NULL,
    state text NOT NULL,
    algorithm text NOT NULL,
    dimension integer NOT NULL DEFAULT 0,
    shard bigint NOT NULL DEFAULT 0,
    blend_weights jsonb NOT NULL DEFAULT '{}',
    hyperparameters jsonb NOT NULL DEFAULT '{}',
    metrics jsonb NOT NULL DEFAULT '{}',
    item_count bigint NOT NULL DEFAULT 0,
    user_count bigint NOT NULL DEFAULT 0,
    event_count bigint NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    activate_time timestamptz,
    PRIMARY KEY (tenant_key, model_key),
    UNIQUE (tenant_key, model_id)
);

CREATE TABLE training_runs (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    training_run_id text NOT NULL,
    state text NOT NULL,
    stage text NOT NULL DEFAULT '',
    progress real NOT NULL DEFAULT 0,
    model_id text NOT NULL DEFAULT '',
    activated boolean NOT NULL DEFAULT false,
    error text NOT NULL DEFAULT '',
    parameters jsonb NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL DEFAULT now(),
    start_time timestamptz,
    heartbeat_time timestamptz,
    end_time timestamptz,
    PRIMARY KEY (tenant_key, training_run_id)
);
-- At most one run of a tenant is under way.
CREATE UNIQUE INDEX training_runs_active ON training_runs (tenant_key) WHERE state IN ('QUEUED', 'RUNNING');

-- Shard 0 holds the small models, searched exactly; a large model has a partition of its own with its own HNSW index.
CREATE TABLE item_factors (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    shard bigint NOT NULL,
    item_key bigint NOT NULL,
    fold_in_scale real NOT NULL,
    vector halfvec NOT NULL,
    PRIMARY KEY (shard, model_key, item_key)
) PARTITION BY LIST (shard);
-- Out-of-line vectors would cost a second read each.
ALTER TABLE item_factors ALTER COLUMN vector SET STORAGE PLAIN;
CREATE TABLE item_factors_shared PARTITION OF item_factors FOR VALUES IN (0);

-- Item–item weights, best first; arrays of one length.
CREATE TABLE item_neighbors (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    item_key bigint NOT NULL,
    neighbor_keys bigint[] NOT NULL,
    weights real[] NOT NULL,
    PRIMARY KEY (model_key, item_key)
);

-- What was shown, for attribution and for erasure.
CREATE TABLE shown (
    tenant_key bigint NOT NULL,
    recommendation_id text NOT NULL,
    user_key bigint,
    strategy text NOT NULL,
    placement text NOT NULL DEFAULT '',
    model_key bigint,
    item_keys bigint[] NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_key, recommendation_id)
);
CREATE INDEX shown_user ON shown (tenant_key, user_key);
CREATE INDEX shown_time ON shown USING brin (create_time);

-- Row-level security: the second lock behind the tenant predicate of every statement. The sub-select is evaluated once
-- per statement, not once per row.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'api_keys', 'event_types', 'attribute_schemas', 'items', 'deleted_items', 'users', 'user_state', 'event_ids',
        'events', 'item_stats', 'models', 'training_runs', 'item_factors', 'item_neighbors', 'shown', 'tenants',
        'tenant_versions'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO recsvc_app USING (tenant_key = (SELECT current_tenant_v1()))',
                       name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO recsvc_app', name);
    END LOOP;
END $$;
GRANT USAGE ON SEQUENCE item_etags TO recsvc_app;
