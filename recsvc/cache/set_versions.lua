-- Raise versions, never lower them: a slow reader must not undo what a writer announced. Tell whoever listens which of
-- them are new.
-- KEYS: version keys. ARGV[1]: life in seconds; ARGV[2]: channel; ARGV[i + 2]: version of KEYS[i], or -1 for what is gone.
local raised = {}
for i, key in ipairs(KEYS) do
    local version = tonumber(ARGV[i + 2])
    local present = tonumber(redis.call('GET', key) or '0')
    if version == -1 or (present ~= -1 and version >= present) then
        redis.call('SET', key, ARGV[i + 2], 'EX', ARGV[1])
        if version ~= present then
            raised[#raised + 1] = key
        end
    end
end
if #raised > 0 then
    redis.call('PUBLISH', ARGV[2], table.concat(raised, ' '))
end
return 1
