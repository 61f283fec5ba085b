-- Publish a snapshot of the learner: its bytes, the pointer to it, and how far the learner is, at once or not at all.
--
-- KEYS[1]  the hash of the partition of outcomes
-- KEYS[2]  the newest version
-- KEYS[3]  sorted set: version -> '<version>:<bytes>' of each snapshot that is kept
-- KEYS[4]  hash: bytes of all that are kept, and how many were dropped
-- KEYS[5]  the figures of the newest
-- ARGV[1]  MessagePack: epoch, applied, version, {field, value, ...} of the partition's hash, fields to delete of it,
--          prefix of a snapshot's keys, how many bytes are kept, how many snapshots at least, how many at most
-- ARGV[2]  what scorers load
-- ARGV[3]  everything that the learner owns
-- ARGV[4]  figures for people, JSON
-- Returns  {'published', snapshots dropped so far} or {'epoch' | 'applied', applied} when refused
--
-- As in commit.lua: what can fail is settled before the first change, and the first change is an HSET.

local partition, newest, index, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, applied, version, fields, superseded, prefix, most_bytes, fewest, most = unpack(cmsgpack.unpack(ARGV[1]))
local scoring, state = ARGV[2], ARGV[3]
local call = redis.call

local function forget(member)
    local name, bytes = string.match(member, '^(%d+):(%d+)$')
    call('ZREM', index, member)
    call('UNLINK', prefix .. name .. ':scoring', prefix .. name .. ':state')
    return tonumber(bytes)
end

local stored = call('HMGET', partition, 'epoch', 'applied')
if stored[1] ~= epoch then
    return {'epoch', stored[2] or '-1'}
end
if (stored[2] or '-1') ~= applied then
    return {'applied', stored[2] or '-1'}
end
for key, expected in pairs({[index] = 'zset', [counts] = 'hash'}) do
    local kind = call('TYPE', key).ok
    if kind ~= 'none' and kind ~= expected then
        return {err = 'WRONGTYPE Operation against a key holding the wrong kind of value (key ' .. key .. ')'}
    end
end

local total = tonumber(call('HGET', counts, 'bytes') or '0')
call('HSET', partition, 'applied', version, 'active_s', call('TIME')[1], unpack(fields))
if #superseded > 0 then
    call('HDEL', partition, unpack(superseded))
end
-- A learner that learnt anew from the beginning comes to versions that are kept already.
for _, member in ipairs(call('ZRANGEBYSCORE', index, version, version)) do
    total = total - forget(member)
end
call('SET', prefix .. version .. ':scoring', scoring)
call('SET', prefix .. version .. ':state', state)
call('ZADD', index, version, version .. ':' .. #scoring + #state)
call('SET', newest, version)
call('SET', KEYS[5], ARGV[4])
total = total + #scoring + #state

local count, dropped = call('ZCARD', index), 0
while count > fewest and (total > most_bytes or count > most) do
    total = total - forget(call('ZRANGE', index, 0, 0)[1])
    count, dropped = count - 1, dropped + 1
end
call('HSET', counts, 'bytes', string.format('%.0f', total))
return {'published', call('HINCRBY', counts, 'dropped', dropped)}
