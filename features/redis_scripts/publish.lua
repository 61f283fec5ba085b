-- Publish a snapshot of the learner: its bytes, the pointer to it, and how far the learner is, at once or not at all.
--
-- KEYS[1]  the hash of the partition of outcomes
-- KEYS[2]  the newest version
-- KEYS[3]  sorted set: version -> '<version>:<bytes>:<seconds>' of each snapshot that is kept, and when it was made
-- KEYS[4]  hash: bytes of all that are kept, and how many were dropped
-- KEYS[5]  the figures of the newest
-- ARGV[1]  MessagePack: epoch, applied, version, {field, value, ...} of the partition's hash, fields to delete of it,
--          prefix of a snapshot's keys, when it was made, hashes of partitions that may have pinned others,
--          how many bytes are kept, how many snapshots at least, how many at most, for how many seconds all of them,
--          {{age, one for so many seconds}, ...}, as features/snapshots_kept.py has it
-- ARGV[2]  what scorers load
-- ARGV[3]  everything that the learner owns
-- ARGV[4]  figures for people, JSON
-- Returns  {'published', snapshots dropped so far} or {'epoch' | 'applied', applied} when refused
--
-- As in commit.lua: what can fail is settled before the first change, and the first change is an HSET.

local partition, newest, index, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, applied, version, fields, superseded, prefix, now, holders, most_bytes, fewest, most, all_s, steps =
    unpack(cmsgpack.unpack(ARGV[1]))
local scoring, state = ARGV[2], ARGV[3]
local call = redis.call

local function read(member)
    local name, bytes, made = string.match(member, '^(-?%d+):(%d+):(-?%d+)$')
    return {member = member, name = name, bytes = tonumber(bytes), at = tonumber(made)}
end

local function forget(one)
    call('ZREM', index, one.member)
    call('UNLINK', prefix .. one.name .. ':scoring', prefix .. one.name .. ':state')
    return one.bytes
end

-- The snapshots that batches in flight are pinned to.
local function pinned_ones()
    local found = {}
    for _, holder in ipairs(holders) do
        for _, pin in ipairs(cjson.decode(call('HGET', holder, 'pins') or '[]')) do
            found[string.match(pin[2], '"snapshot": (-?%d+)') or ''] = true
        end
    end
    return found
end

-- What may go, oldest first: the newest, the pinned and the oldest of each step of the ladder stay.
local function unit_of(age)
    if age < all_s then
        return nil
    end
    for _, step in ipairs(steps) do
        if age < step[1] then
            return step[2]
        end
    end
    return 0
end

local function thinned(kept, pinned)
    local stay, gone = {}, {}
    for i, one in ipairs(kept) do
        local unit, before = unit_of(now - one.at), stay[#stay]
        local spare = unit and (unit == 0 or before and math.floor(before.at / unit) == math.floor(one.at / unit))
        if spare and i <= #kept - fewest and not pinned[one.name] then
            gone[#gone + 1] = one
        else
            stay[#stay + 1] = one
        end
    end
    return stay, gone
end

-- Of those that may go the one that is missed least: beside its age, its neighbours are nearest to each other.
local function least(kept, pinned)
    local found, smallest = nil, nil
    for i = 1, #kept - fewest do
        local gap = i > 1 and (kept[i + 1].at - kept[i - 1].at) / math.max(now - kept[i].at, 1) or math.huge
        if not pinned[kept[i].name] and (not smallest or gap < smallest) then
            found, smallest = i, gap
        end
    end
    return found
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

local pinned = pinned_ones()
local total = tonumber(call('HGET', counts, 'bytes') or '0')
call('HSET', partition, 'applied', version, 'active_s', call('TIME')[1], unpack(fields))
if #superseded > 0 then
    call('HDEL', partition, unpack(superseded))
end
-- A learner that learnt anew from the beginning comes to versions that are kept already.
for _, member in ipairs(call('ZRANGEBYSCORE', index, version, version)) do
    total = total - forget(read(member))
end
call('SET', prefix .. version .. ':scoring', scoring)
call('SET', prefix .. version .. ':state', state)
call('ZADD', index, version, version .. ':' .. #scoring + #state .. ':' .. string.format('%.0f', now))
call('SET', newest, version)
call('SET', KEYS[5], ARGV[4])
total = total + #scoring + #state

local listed = {}
for i, member in ipairs(call('ZRANGE', index, 0, -1)) do
    listed[i] = read(member)
end
local kept, gone = thinned(listed, pinned)
for _, one in ipairs(gone) do
    total = total - forget(one)
end
local dropped = #gone
while total > most_bytes or #kept > most do
    local found = least(kept, pinned)
    if not found then
        break
    end
    total, dropped = total - forget(table.remove(kept, found)), dropped + 1
end
call('HSET', counts, 'bytes', string.format('%.0f', total))
return {'published', call('HINCRBY', counts, 'dropped', dropped)}
