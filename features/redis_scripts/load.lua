-- Load a partition: raise its epoch, so that every earlier owner is refused from now on, and return what is known.
--
-- KEYS[1]  the partition's hash
-- Returns  {epoch, {field, value, field, value, ...}}
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
return {epoch, redis.call('HGETALL', KEYS[1])}
