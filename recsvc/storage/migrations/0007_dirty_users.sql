-- Which users' states lag behind their events: a queue beside the states, the oldest first. As a partial index of
-- user_state it made every event of a user rewrite that user's entries in all indexes.

CREATE TABLE dirty_users (
    tenant_key bigint NOT NULL,
    user_key bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    taken_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant_key, user_key),
    FOREIGN KEY (tenant_key, user_key) REFERENCES user_state ON DELETE CASCADE
) WITH (fillfactor = 70);
CREATE INDEX dirty_users_since ON dirty_users (since);
COMMENT ON COLUMN dirty_users.taken_until IS 'until then the user is left to the projector that took them';
ALTER TABLE dirty_users ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON dirty_users TO recsvc_app USING (tenant_key = (SELECT current_tenant_v1()));
GRANT SELECT, INSERT, UPDATE, DELETE ON dirty_users TO recsvc_app;

-- In the order of their keys, as user_state is locked, so that two batches never deadlock.
CREATE FUNCTION mark_dirty_users_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO dirty_users (tenant_key, user_key)
    SELECT tenant_key, user_key FROM changed WHERE folded_version < version ORDER BY tenant_key, user_key
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER user_state_mark_created AFTER INSERT ON user_state
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION mark_dirty_users_v1();
CREATE TRIGGER user_state_mark_changed AFTER UPDATE ON user_state
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION mark_dirty_users_v1();

INSERT INTO dirty_users (tenant_key, user_key)
SELECT tenant_key, user_key FROM user_state WHERE folded_version < version;
DROP INDEX user_state_dirty;
