-- Step 3, claim: does the caller still own the partition, and from what does its batch start?
--
-- KEYS[1]  the partition's hash
-- ARGV[1]  MessagePack: epoch, applied, in_flight, first, last, versions, prefix of state keys, missing keys,
--          prefix of id keys, bucket of each id
-- ARGV[2]  the 16-byte digests of the ids, joined
-- Returns  {'claimed', versions, pinned_last, {packed state or nil, ...}, {position or nil, ...}}
--          or {'epoch' | 'applied', applied} when refused
--
-- Everything that can fail is read before the one write (the pin), so a claim that fails leaves nothing behind.
-- Numbers arrive as doubles, exact up to 2^53; those that are compared as text, or stored, are sent as text.

local partition = KEYS[1]
local epoch, applied, in_flight, first, last, versions, state_prefix, missing, id_prefix, buckets =
    unpack(cmsgpack.unpack(ARGV[1]))
local digests = ARGV[2]
local CHUNK = 4000 -- arguments of one command: Lua's stack holds 8000

-- One blob per entity: its fields one after another, each as field (12 bytes), length (u16), payload.
local function packed_states()
    local states, parts = {}, {}
    for i = 1, #missing do
        local flat = redis.pcall('HGETALL', state_prefix .. missing[i])
        if flat.err then
            return nil, {err = flat.err .. ' (key ' .. state_prefix .. missing[i] .. ')'}
        end
        local n = 0
        for j = 1, #flat, 2 do
            parts[n + 1], parts[n + 2], parts[n + 3] = flat[j], struct.pack('<I2', #flat[j + 1]), flat[j + 1]
            n = n + 3
        end
        states[i] = n > 0 and table.concat(parts, '', 1, n)
    end
    return states
end

local function look_up(found, rows, ids, bucket)
    local key = id_prefix .. string.format('%.0f', bucket)
    for from = 1, #ids, CHUNK do
        local to = math.min(from + CHUNK - 1, #ids)
        local positions = redis.call('HMGET', key, unpack(ids, from, to))
        for i = 1, #positions do
            found[rows[from + i - 1]] = found[rows[from + i - 1]] or positions[i]
        end
    end
end

-- An event that comes again may carry another time: the neighbours of its bucket are asked as well.
local function known_ids()
    local found, rows, ids = {}, {}, {}
    for i = 1, #buckets do
        local bucket = buckets[i]
        if not rows[bucket] then
            rows[bucket], ids[bucket] = {}, {}
        end
        local n = #rows[bucket] + 1
        rows[bucket][n], ids[bucket][n] = i, string.sub(digests, 16 * i - 15, 16 * i)
        found[i] = false
    end
    for bucket, of_bucket in pairs(rows) do
        look_up(found, of_bucket, ids[bucket], bucket)
        look_up(found, of_bucket, ids[bucket], bucket - 1)
        look_up(found, of_bucket, ids[bucket], bucket + 1)
    end
    return found
end

local stored = redis.call('HMGET', partition, 'epoch', 'applied', 'pins')
local stored_applied = tonumber(stored[2] or '-1')
if stored[1] ~= epoch then
    return {'epoch', stored[2] or '-1'}
end
local pins = cjson.decode(stored[3] or '[]')
local reach = #pins > 0 and tonumber(pins[#pins][1]) or stored_applied
local newest = math.max(applied, in_flight)
if stored_applied ~= newest and not (applied <= stored_applied and stored_applied < newest and newest <= reach) then
    return {'applied', stored[2] or '-1'}
end

local states, failed = packed_states()
if failed then
    return failed
end
local positions = known_ids()
for i = 1, #pins do
    if tonumber(pins[i][1]) >= first then
        return {'claimed', pins[i][2], pins[i][1], states, positions}
    end
end
if tonumber(last) >= first then -- a batch of which nothing is new has nothing to pin
    pins[#pins + 1] = {last, versions}
    redis.call('HSET', partition, 'pins', cjson.encode(pins))
end
return {'claimed', versions, last, states, positions}
