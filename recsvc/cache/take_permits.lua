-- Take permits from all buckets of a call, or from none: the generic cell rate algorithm, as domain/limits.py states it.
-- KEYS: buckets, all of one hash slot; each holds its theoretical arrival time (TAT) in microseconds of this server's clock.
-- ARGV, five for each bucket: microseconds in which one permit comes back; burst; permits needed; permits wanted;
-- microseconds by which the caller knows the TAT to be ahead of now, which is kept should this server have lost it.
-- Returns for each bucket the permits that were taken, and by how many microseconds its TAT is ahead of now.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tats, permits, is_enough = {}, {}, true
for i, key in ipairs(KEYS) do
    local at = (i - 1) * 5
    local interval, burst = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local needed, wanted = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local ahead = math.max(0, tonumber(ARGV[at + 5]), tonumber(redis.call('GET', key) or '0') - now)
    -- An empty bucket is as far ahead as can be; beyond that lies only what was taken while the quota was another.
    ahead = math.min(ahead, burst * interval)
    local available = math.floor(burst - ahead / interval + 1e-6)
    tats[i] = now + ahead
    permits[i] = math.min(wanted, available)
    is_enough = is_enough and available >= needed
end
local answer = {}
for i, key in ipairs(KEYS) do
    if is_enough then
        tats[i] = tats[i] + permits[i] * tonumber(ARGV[(i - 1) * 5 + 1])
        redis.call('SET', key, string.format('%.17g', tats[i]), 'PX', math.ceil((tats[i] - now) / 1000) + 1000)
    end
    answer[#answer + 1] = is_enough and permits[i] or 0
    answer[#answer + 1] = string.format('%.17g', tats[i] - now)
end
return answer
