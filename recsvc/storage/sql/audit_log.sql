-- append_entry --
-- One action; inside the transaction that it tells of, where there is one.
INSERT INTO audit_log (tenant_key, tenant_id, actor, action, targets, outcome, request_id)
VALUES (%(tenant_key)s, %(tenant_id)s, %(actor)s, %(action)s, %(targets)s, %(outcome)s, %(request_id)s);

-- list_entries --
-- A page of entries, newest first.
SELECT * FROM audit_log
WHERE (%(tenant_id)s = '' OR tenant_id = %(tenant_id)s OR %(tenant_id)s = ANY (targets))
  AND (%(actor)s = '' OR actor = %(actor)s)
  AND (%(action)s = '' OR action = %(action)s)
  AND (%(outcome)s = '' OR outcome = %(outcome)s)
  AND (%(since)s::timestamptz IS NULL OR entry_time >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR entry_time < %(until)s)
  AND (%(before)s::bigint IS NULL OR entry_key < %(before)s)
ORDER BY entry_key DESC LIMIT %(limit)s;

-- delete_old_entries --
-- Some entries that were kept for as long as they should be.
DELETE FROM audit_log WHERE entry_key IN (
    SELECT entry_key FROM audit_log WHERE entry_time < now() - make_interval(days => %(days)s) LIMIT %(limit)s);
