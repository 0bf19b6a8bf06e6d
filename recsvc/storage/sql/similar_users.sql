-- find_user --
-- The user whom others shall be like, whether what is known of them is up to date, and whether there is anybody whose
-- state is still that of another model.
SELECT u.user_key, coalesce(s.version, 0) AS version, coalesce(s.folded_version, 0) AS folded_version, s.model_key,
       EXISTS (SELECT FROM user_state WHERE tenant_key = %(tenant)s AND model_key < %(model)s)
       OR EXISTS (SELECT FROM user_state WHERE tenant_key = %(tenant)s AND model_key > %(model)s)
       OR EXISTS (SELECT FROM user_state WHERE tenant_key = %(tenant)s AND model_key IS NULL) AS others_lag
FROM users u LEFT JOIN user_state s ON s.tenant_key = u.tenant_key AND s.user_key = u.user_key
WHERE u.tenant_key = %(tenant)s AND u.kind = 0 AND u.user_id = %(user_id)s;

-- similar_users --
-- Known users by the cosine distance of their vectors: an exact search through all of the tenant's. Vectors of another
-- model say nothing in this one's terms. NaN, of a vector of length zero, comes last.
SELECT u.user_id, s.vector <=> (SELECT m.vector FROM user_state m WHERE m.tenant_key = %(tenant)s
                                AND m.user_key = %(user)s AND m.model_key = %(model)s) AS distance
FROM user_state s JOIN users u ON u.tenant_key = s.tenant_key AND u.user_key = s.user_key
WHERE s.tenant_key = %(tenant)s AND s.model_key = %(model)s AND s.vector IS NOT NULL AND s.user_key <> %(user)s
  AND u.kind = 0 AND {filter}
ORDER BY distance, u.user_id
LIMIT %(limit)s;
