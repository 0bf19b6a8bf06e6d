-- insert_key --
-- A new key.
INSERT INTO api_keys (key_id, tenant_key, display_name, secret_hash, scopes, expire_time)
VALUES (%(key_id)s, %(tenant)s, %(display_name)s, %(secret_hash)s, %(scopes)s, %(expire_time)s)
RETURNING *;

-- insert_bootstrap_key --
-- A key of the configuration, for a tenant that may not be there; a key that is there is left as it is.
INSERT INTO api_keys (key_id, tenant_key, display_name, secret_hash, scopes)
SELECT %(key_id)s, tenant_key, 'bootstrap', %(secret_hash)s, %(scopes)s FROM tenants WHERE tenant_id = %(tenant_id)s
ON CONFLICT (key_id) DO NOTHING
RETURNING tenant_key;

-- find_key --
-- A key with its tenant, for authentication: the tenant is not known yet, so this runs as the owner. Where there is no
-- key, a row of another id, so that the clock does not tell.
SELECT k.key_id, k.tenant_key, t.tenant_id, k.display_name, k.secret_hash, k.previous_secret_hash,
       k.previous_expire_time, k.scopes, k.create_time, k.expire_time, k.revoke_time, k.last_used_time
FROM api_keys k JOIN tenants t USING (tenant_key) WHERE k.key_id = %(key_id)s
UNION ALL
SELECT '', 0, '', '', '$argon2id$v=19$m=19456,t=2,p=1$UJOZ+0CqAg7EFhQ6Lj4SCw$BfI5t4M9LVT+TLmsEvYbOiMfoH/zG7nm3UzhI5NLlrY',
       NULL, NULL, ARRAY['catalog:read'], now(), NULL, NULL, now()
WHERE NOT EXISTS (SELECT FROM api_keys WHERE key_id = %(key_id)s);

-- list_keys --
-- A page of a tenant's keys by id.
SELECT * FROM api_keys WHERE tenant_key = %(tenant)s AND key_id > %(after)s ORDER BY key_id LIMIT %(limit)s;

-- rotate_key --
-- A new secret; the old one is good until the overlap ends. Revoked keys stay revoked.
UPDATE api_keys
SET previous_secret_hash = secret_hash,
    previous_expire_time = now() + make_interval(secs => %(overlap_s)s),
    secret_hash = %(secret_hash)s
WHERE tenant_key = %(tenant)s AND key_id = %(key_id)s AND revoke_time IS NULL
RETURNING *;

-- revoke_key --
-- Revoke for good; a second time changes nothing.
UPDATE api_keys SET revoke_time = coalesce(revoke_time, now())
WHERE tenant_key = %(tenant)s AND key_id = %(key_id)s
RETURNING *;

-- note_use --
-- Note the use of a key, unless another process did so a moment ago.
UPDATE api_keys SET last_used_time = now()
WHERE key_id = %(key_id)s
  AND (last_used_time IS NULL OR last_used_time <= now() - make_interval(secs => %(at_most_every_s)s));
