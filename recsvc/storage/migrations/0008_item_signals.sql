-- What events say about items, on its way into the counters of item_stats: one row a batch, taken out again by whoever
-- adds it up. Events of many batches about one item then change its counters, and their indexes, once; and batches do
-- not wait for each other where they are about the same items.

CREATE TABLE item_signals (
    tenant_key bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    signals_key bigint GENERATED ALWAYS AS IDENTITY,
    item_keys bigint[] NOT NULL,
    log_weights double precision[] NOT NULL,
    ages_s double precision[] NOT NULL,
    PRIMARY KEY (tenant_key, signals_key)
);
COMMENT ON TABLE item_signals IS 'per positive event: its item, log2 of its signal, and its time in seconds since 2020';
-- What lives for a second is not worth compressing.
ALTER TABLE item_signals ALTER COLUMN item_keys SET STORAGE EXTERNAL, ALTER COLUMN log_weights SET STORAGE EXTERNAL,
    ALTER COLUMN ages_s SET STORAGE EXTERNAL;
ALTER TABLE item_signals ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON item_signals TO recsvc_app USING (tenant_key = (SELECT current_tenant_v1()));
GRANT SELECT, INSERT, UPDATE, DELETE ON item_signals TO recsvc_app;
