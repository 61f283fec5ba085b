-- Step 7, commit: everything that a batch changes, at once or not at all.
--
-- KEYS[1]  the partition's hash
-- ARGV[1]  MessagePack: epoch, applied, last, {field, value, ...} of the partition's hash, seconds until entity keys
--          expire (0 = never), prefix of state keys, keys of the entities, length of the changes of each, length of the
--          key of each feature row, length of each row, prefix of id keys, bucket of each id, length of the position of
--          each id, ids a bucket holds, oldest bucket to keep (false = all)
-- ARGV[2]  the packed changes of the entities, joined (features/packing.py: identity u32, tile i64, replaced tile i64,
--          length u16, payload; a length of 0 deletes the field)
-- ARGV[3]  the keys of the feature rows, joined
-- ARGV[4]  the feature rows, joined, each a MessagePack array of field, value, field, value, ...
-- ARGV[5]  the 16-byte digests of the ids, joined
-- ARGV[6]  the position values of the ids, joined
-- Returns  {'committed', ids not remembered} or {'epoch' | 'applied', applied} when refused
--
-- A script is not undone when a command in it fails. What can fail is therefore settled before the first change: that
-- every key holds a hash; and the first change is an HSET, because Redis looks only there whether memory, disk and role
-- permit writing (redis.io/docs: "Eval" and "Key eviction").

local partition = KEYS[1]
local epoch, applied, last, fields, expire_s, state_prefix, keys, lengths, row_key_lengths, row_lengths, id_prefix,
    buckets, position_lengths, ids_a_bucket, oldest_bucket = unpack(cmsgpack.unpack(ARGV[1]))
local changes, digests = ARGV[2], ARGV[5]
local CHUNK = 4000 -- arguments of one command: Lua's stack holds 8000
local NO_TILE = '\0\0\0\0\0\0\0\128' -- INT64_MIN: no tile was replaced
local byte, sub, call = string.byte, string.sub, redis.call

local function cut(text, text_lengths)
    local pieces, from = {}, 1
    for i = 1, #text_lengths do
        pieces[i] = sub(text, from, from + text_lengths[i] - 1)
        from = from + text_lengths[i]
    end
    return pieces
end

local function in_chunks(command, key, list, n)
    for from = 1, n, CHUNK do
        call(command, key, unpack(list, from, math.min(from + CHUNK - 1, n)))
    end
end

local function expire(key)
    if expire_s > 0 then
        call('EXPIRE', key, expire_s)
    end
end

-- The number of fields of a hash (0 when there is none), or an error that names the key.
local function size(key)
    local n = redis.pcall('HLEN', key)
    if type(n) == 'table' then
        return nil, {err = n.err .. ' (key ' .. key .. ')'}
    end
    return n
end

local sets, deletes = {}, {}

local function write_state(key, from, stop)
    local set, deleted = 0, 0
    while from < stop do
        local low, high = byte(changes, from + 20, from + 21)
        local length = low + 256 * high
        local field, replaced = sub(changes, from, from + 11), sub(changes, from + 12, from + 19)
        if replaced ~= NO_TILE then
            deleted = deleted + 1
            deletes[deleted] = sub(field, 1, 4) .. replaced
        end
        if length == 0 then
            deleted = deleted + 1
            deletes[deleted] = field
        else
            sets[set + 1], sets[set + 2] = field, sub(changes, from + 22, from + 21 + length)
            set = set + 2
        end
        from = from + 22 + length
    end
    in_chunks('HDEL', key, deletes, deleted)
    in_chunks('HSET', key, sets, set)
    expire(key)
end

local function write_row(key, row)
    local pairs_of_row = cmsgpack.unpack(row)
    in_chunks('HSET', key, pairs_of_row, #pairs_of_row)
    expire(key)
end

-- The ids in their buckets: {name -> {digest, position, ...}}, and how many are for buckets already deleted.
local function ids_by_bucket()
    local groups, too_old, positions = {}, 0, cut(ARGV[6], position_lengths)
    for i = 1, #buckets do
        if oldest_bucket and buckets[i] < oldest_bucket then
            too_old = too_old + 1
        else
            local name = string.format('%.0f', buckets[i])
            local group = groups[name] or {}
            groups[name] = group
            local n = #group
            group[n + 1], group[n + 2] = sub(digests, 16 * i - 15, 16 * i), positions[i]
        end
    end
    return groups, too_old
end

-- Which buckets stay, by name; the others are deleted in the background.
local function kept_buckets(known, groups)
    local kept, deleted = {}, {}
    for i = 1, #known do
        if oldest_bucket and tonumber(known[i]) < oldest_bucket then
            deleted[#deleted + 1] = known[i]
        elseif not groups[known[i]] then
            kept[#kept + 1] = known[i]
        end
    end
    for name in pairs(groups) do
        kept[#kept + 1] = name
    end
    table.sort(kept)
    return kept, deleted
end

local stored = call('HMGET', partition, 'epoch', 'applied', 'pins', 'buckets')
if stored[1] ~= epoch then
    return {'epoch', stored[2] or '-1'}
end
if (stored[2] or '-1') ~= applied then
    return {'applied', stored[2] or '-1'}
end

local row_keys, rows = cut(ARGV[3], row_key_lengths), cut(ARGV[4], row_lengths)
local groups, ids_dropped = ids_by_bucket()
local room = {}
for i = 1, #keys do
    keys[i] = state_prefix .. keys[i]
end
for _, checked in ipairs({keys, row_keys}) do
    for i = 1, #checked do
        local _, failed = size(checked[i])
        if failed then
            return failed
        end
    end
end
for name in pairs(groups) do
    local held, failed = size(id_prefix .. name)
    if failed then
        return failed
    end
    room[name] = math.max(0, ids_a_bucket - held)
end

local pins = {}
for _, pin in ipairs(cjson.decode(stored[3] or '[]')) do
    if tonumber(pin[1]) > tonumber(last) then
        pins[#pins + 1] = pin
    end
end
local kept, deleted = kept_buckets(cjson.decode(stored[4] or '[]'), groups)
call('HSET', partition, 'applied', last, 'pins', #pins > 0 and cjson.encode(pins) or '[]',
    'buckets', #kept > 0 and cjson.encode(kept) or '[]')
in_chunks('HSET', partition, fields, #fields)

local from = 1
for i = 1, #keys do
    write_state(keys[i], from, from + lengths[i])
    from = from + lengths[i]
end
for i = 1, #row_keys do
    write_row(row_keys[i], rows[i])
end
for name, group in pairs(groups) do
    local n = math.min(#group / 2, room[name])
    in_chunks('HSET', id_prefix .. name, group, 2 * n)
    ids_dropped = ids_dropped + #group / 2 - n
end
for i = 1, #deleted do
    call('UNLINK', id_prefix .. deleted[i])
end
return {'committed', ids_dropped}
