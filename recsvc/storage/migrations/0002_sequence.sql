-- What comes next, and how much older items of a history count.

-- What users go on to after an item, best first; arrays of one length.
CREATE TABLE item_transitions (
    tenant_key bigint NOT NULL,
    model_key bigint NOT NULL,
    item_key bigint NOT NULL,
    successor_keys bigint[] NOT NULL,
    weights real[] NOT NULL,
    PRIMARY KEY (model_key, item_key)
);
ALTER TABLE item_transitions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON item_transitions TO recsvc_app USING (tenant_key = (SELECT current_tenant_v1()));
GRANT SELECT, INSERT, UPDATE, DELETE ON item_transitions TO recsvc_app;

ALTER TABLE user_state ADD COLUMN ages integer[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN user_state.ages IS
    'for each of item_keys 1 + the number of distinct times after it; empty where an older version folded';

ALTER TABLE models ADD COLUMN recency jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN models.recency IS
    'by source, how much an item of a history counts against the one touched after it; 1 where it is not named';
