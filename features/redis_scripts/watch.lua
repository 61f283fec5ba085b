-- Keep what the drift watch has counted of a partition, and how far it is, at once or not at all.
--
-- KEYS[1]  the hash of the partition
-- ARGV     epoch, applied (as the caller believes), the new applied, identity of the topic, state
-- Returns  {'stored', applied}, or {'epoch' | 'applied', applied} when refused
local epoch, applied, last, identity, state = unpack(ARGV)
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'applied')
if stored[1] ~= epoch then
    return {'epoch', stored[2] or '-1'}
end
if (stored[2] or '-1') ~= applied then
    return {'applied', stored[2] or '-1'}
end
redis.call('HSET', KEYS[1], 'applied', last, 'identity', identity, 'state', state)
return {'stored', last}
