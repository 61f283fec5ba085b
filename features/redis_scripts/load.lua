-- Load a partition: raise its epoch, so that every earlier owner is refused from now on, and return what is known.
--
-- KEYS[1]  the partition's hash
-- ARGV[1]  key of the set of the topic's partitions
-- ARGV[2]  number of the partition
-- Returns  {epoch, {field, value, field, value, ...}}
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'active_s', redis.call('TIME')[1])
redis.call('SADD', ARGV[1], ARGV[2])
return {epoch, redis.call('HGETALL', KEYS[1])}
