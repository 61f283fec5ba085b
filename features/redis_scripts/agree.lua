-- What all workers of a pipeline must agree on while they run.
--
-- KEYS[1]  the version lease: a text that expires
-- KEYS[2]  hash: topic and identity -> number of partitions, for ever
-- ARGV[1]  our version
-- ARGV[2]  for how long a lease holds, in milliseconds
-- ARGV[3]… field, number of partitions, field, number of partitions, ...
-- Returns  {the version that holds the lease, number of partitions of each field}
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
    return {held}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local answer = {ARGV[1]}
for i = 3, #ARGV, 2 do
    redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1])
    answer[#answer + 1] = redis.call('HGET', KEYS[2], ARGV[i])
end
return answer
