-- Load a partition: raise its epoch, so that every earlier owner is refused from now on, and return what is known.
--
-- KEYS[1]  the partition's hash
-- ARGV[1]  key of the set of the topic's partitions
-- ARGV[2]  number of the partition
-- ARGV[3]  by how much the epoch rises: the caller's random number, because Redis gives every script the same ones
-- Returns  {field, value, field, value, ...} of the partition's hash: numbers as text, for an epoch may be above 2^53
redis.call('HINCRBY', KEYS[1], 'epoch', ARGV[3])
redis.call('HSET', KEYS[1], 'active_s', redis.call('TIME')[1])
redis.call('SADD', ARGV[1], ARGV[2])
return redis.call('HGETALL', KEYS[1])
