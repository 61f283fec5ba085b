-- Step 3, claim: does the caller still own the partition, and from what does its batch start?
--
-- KEYS[1]  the partition's hash
-- ARGV[1]  MessagePack: epoch, applied, in_flight, first, last, versions, prefix of state keys, missing keys,
--          prefix of id keys, bucket of each id, ids a bucket holds, how many full buckets
--          there may be, how many buckets
-- ARGV[2]  the 16-byte digests of the ids, joined
-- ARGV[3]  the 12-byte positions of their events, joined
-- Returns  {'claimed', versions, pinned_last, {packed state or nil, ...}, {place of an id that another event has, ...},
--          ids that found no room} or {'epoch' | 'applied', applied} when refused
--
-- Everything that can fail is read before the first write, so a claim that fails leaves nothing behind. The first write
-- is an HSET, because Redis looks only there whether memory, disk and role permit writing.
-- Numbers arrive as doubles, exact up to 2^53; those that are compared as text, or stored, are sent as text.

local partition = KEYS[1]
local epoch, applied, in_flight, first, last, versions, state_prefix, missing, ids_prefix, buckets,
    ids_a_bucket, full_buckets, most_buckets = unpack(cmsgpack.unpack(ARGV[1]))
local digests, positions = ARGV[2], ARGV[3]
local CHUNK = 4000 -- arguments of one command: Lua's stack holds 8000
local sub = string.sub

-- The answer to a question, or an error that names the key.
local function asked(command, key, ...)
    local answer = redis.pcall(command, key, ...)
    if type(answer) == 'table' and answer.err then
        return nil, {err = answer.err .. ' (key ' .. key .. ')'}
    end
    return answer
end

-- One blob per entity: its fields one after another, each as field (12 bytes), length (u16), payload.
local function packed_states()
    local states, parts = {}, {}
    for i = 1, #missing do
        local flat, failed = asked('HGETALL', state_prefix .. missing[i])
        if failed then
            return nil, failed
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

local function name_of(bucket)
    return string.format('%.0f', bucket)
end

local function in_chunks(command, key, list)
    for from = 1, #list, CHUNK do
        redis.call(command, key, unpack(list, from, math.min(from + CHUNK - 1, #list)))
    end
end

-- How many ids the buckets hold: those of the batch, and their neighbours.
local function sizes_near(wanted)
    local sizes = {}
    for bucket in pairs(wanted) do
        for near = bucket - 1, bucket + 1 do
            if not sizes[near] then
                local n, failed = asked('HLEN', ids_prefix .. name_of(near))
                if failed then
                    return nil, failed
                end
                sizes[near] = n
            end
        end
    end
    return sizes
end

-- The buckets with those that are new, oldest first, and those that have to go for them. Seldom: once a bucket.
local function make_room(listed, is_new, news)
    local held, dropped, from = {}, {}, 1
    local total = 0
    for i = 1, #listed do
        held[i] = is_new[listed[i]] and 0 or redis.call('HLEN', ids_prefix .. name_of(listed[i]))
        total = total + held[i]
    end
    while news > 0 and (total > (full_buckets - 1) * ids_a_bucket or #listed - from + 1 > most_buckets) do
        dropped[#dropped + 1] = listed[from]
        total = total - held[from]
        news = news - (is_new[listed[from]] and 1 or 0)
        from = from + 1
    end
    return {unpack(listed, from)}, dropped
end

local function with_new_buckets(wanted, sizes)
    local is_new, news = {}, 0
    for bucket in pairs(wanted) do
        if sizes[bucket] == 0 then
            is_new[bucket], news = true, news + 1
        end
    end
    if news == 0 then
        return nil, {}
    end
    local names, failed = asked('GET', ids_prefix .. 'buckets')
    if failed then
        return nil, nil, failed
    end
    local listed = {}
    for _, name in ipairs(cjson.decode(names or '[]')) do
        if not is_new[tonumber(name)] then
            listed[#listed + 1] = tonumber(name)
        end
    end
    for bucket in pairs(is_new) do
        listed[#listed + 1] = bucket
    end
    table.sort(listed)
    return make_room(listed, is_new, news)
end

local function look_up(found, rows, ids, bucket)
    local key = ids_prefix .. name_of(bucket)
    for from = 1, #ids, CHUNK do
        local to = math.min(from + CHUNK - 1, #ids)
        local known = redis.call('HMGET', key, unpack(ids, from, to))
        for i = 1, #known do
            found[rows[from + i - 1]] = found[rows[from + i - 1]] or known[i]
        end
    end
end

-- Which ids another event has, and what is to be written for the others: {bucket -> {digest, position, ...}}. An event
-- that comes again may carry another time: the neighbours of its bucket are asked as well.
local function reservations()
    local rows, ids, found = {}, {}, {}
    for i = 1, #buckets do
        local bucket = buckets[i]
        if not rows[bucket] then
            rows[bucket], ids[bucket] = {}, {}
        end
        local n = #rows[bucket] + 1
        rows[bucket][n], ids[bucket][n] = i, sub(digests, 16 * i - 15, 16 * i)
        found[i] = false
    end
    local sizes, failed = sizes_near(rows)
    if failed then
        return nil, failed
    end
    local listed, dropped
    listed, dropped, failed = with_new_buckets(rows, sizes)
    if failed then
        return nil, failed
    end
    local room, taken, sets = {}, {}, {}
    for bucket in pairs(rows) do
        room[bucket], taken[bucket], sets[bucket] = ids_a_bucket - sizes[bucket], {}, {}
    end
    for _, bucket in ipairs(dropped) do
        room[bucket], sizes[bucket] = 0, 0
    end
    for bucket, of_bucket in pairs(rows) do
        for _, near in ipairs({bucket, bucket - 1, bucket + 1}) do
            if sizes[near] > 0 then
                look_up(found, of_bucket, ids[bucket], near)
            end
        end
    end
    local repeats, without_room, none = {}, 0, {}
    for i = 1, #buckets do
        local bucket = buckets[i]
        local digest, position = sub(digests, 16 * i - 15, 16 * i), sub(positions, 12 * i - 11, 12 * i)
        local known = found[i] or taken[bucket][digest] or (taken[bucket - 1] or none)[digest]
            or (taken[bucket + 1] or none)[digest]
        if not known then
            if room[bucket] > 0 then
                local set = sets[bucket]
                room[bucket], taken[bucket][digest] = room[bucket] - 1, position
                set[#set + 1], set[#set + 2] = digest, position
            else
                without_room = without_room + 1
            end
        elseif known ~= position then -- the same position is the event itself, come again after a crash
            repeats[#repeats + 1] = i - 1
        end
    end
    return {sets = sets, repeats = repeats, without_room = without_room, listed = listed, dropped = dropped}
end

local function reserve(found)
    for bucket, set in pairs(found.sets) do
        in_chunks('HSET', ids_prefix .. name_of(bucket), set)
    end
    if found.listed then
        local names = {}
        for i = 1, #found.listed do
            names[i] = name_of(found.listed[i])
        end
        redis.call('SET', ids_prefix .. 'buckets', #names > 0 and cjson.encode(names) or '[]')
    end
    for _, bucket in ipairs(found.dropped) do
        redis.call('UNLINK', ids_prefix .. name_of(bucket))
    end
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
local found
found, failed = reservations()
if failed then
    return failed
end
local pinned
for i = #pins, 1, -1 do
    if tonumber(pins[i][1]) >= first then
        pinned = pins[i]
    end
end
if not pinned then
    pinned = {last, versions}
    if tonumber(last) >= first then -- a batch of which nothing is new has nothing to pin
        pins[#pins + 1] = pinned
        redis.call('HSET', partition, 'pins', cjson.encode(pins))
    end
end
if #buckets > 0 then
    reserve(found)
end
return {'claimed', pinned[2], pinned[1], states, found.repeats, found.without_room}
