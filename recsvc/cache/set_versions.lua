-- Raise versions, never lower them: a slow reader must not undo what a writer announced.
-- KEYS: version keys. ARGV[1]: life in seconds; ARGV[i + 1]: version of KEYS[i], or -1 for what is gone.
for i, key in ipairs(KEYS) do
    local version = tonumber(ARGV[i + 1])
    local present = tonumber(redis.call('GET', key) or '0')
    if version == -1 or (present ~= -1 and version >= present) then
        redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1])
    end
end
return 1
