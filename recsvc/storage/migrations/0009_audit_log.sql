-- Who administered what, and with what outcome. Entries outlive what they tell of, so nothing refers to other tables.

CREATE TABLE audit_log (
    entry_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant_key bigint,
    tenant_id text NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    targets text[] NOT NULL,
    outcome text NOT NULL,
    request_id text NOT NULL
);
COMMENT ON COLUMN audit_log.tenant_id IS 'the tenant that was acted for; its key is NULL while it did not exist';
COMMENT ON COLUMN audit_log.actor IS 'id of an API key, cli:<account>, or configuration';
COMMENT ON COLUMN audit_log.outcome IS 'canonical code of the call: OK, PERMISSION_DENIED, …';
CREATE INDEX audit_log_tenant ON audit_log (tenant_id, entry_key);
CREATE INDEX audit_log_time ON audit_log USING brin (entry_time);

-- Requests may add to it. The owner of the schema may besides delete what is old; nobody changes an entry.
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_log TO recsvc_app USING (tenant_key = (SELECT current_tenant_v1()));
GRANT SELECT, INSERT ON audit_log TO recsvc_app;

CREATE FUNCTION keep_audit_log_v1() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.entry_time < now() - interval '30 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_keep BEFORE UPDATE OR DELETE ON audit_log
FOR EACH ROW EXECUTE FUNCTION keep_audit_log_v1();
CREATE TRIGGER audit_log_keep_all BEFORE TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_log_v1();
