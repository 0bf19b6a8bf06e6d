-- Whose the rows are that COPY brings into these tables: it cannot run under row-level security, so its data do not say.
-- Without a tenant in the transaction there is none, and the row is refused.

ALTER TABLE event_ids ALTER COLUMN tenant_key SET DEFAULT current_tenant_v1();
ALTER TABLE events ALTER COLUMN tenant_key SET DEFAULT current_tenant_v1();
ALTER TABLE item_signals ALTER COLUMN tenant_key SET DEFAULT current_tenant_v1();
