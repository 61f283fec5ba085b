-- Step 7, commit: everything that a batch changes, at once or not at all.
--
-- KEYS[1]  the partition's hash
-- ARGV[1]  MessagePack: epoch, applied, last, {field, value, ...} of the partition's hash, seconds until entity keys
--          expire (0 = never), prefix of state keys, keys of the entities, length of the changes of each, length of the
--          key of each feature row, length of each row, prefix of id keys, key of the set of the
--          topic's partitions, prefix of their keys, seconds until an idle partition does not count, oldest bucket of ids
--          that this partition may ask for (false: it asks for none), fields to delete of the partition's hash, whether a
--          pin has to stand
-- ARGV[2]  the packed changes of the entities, joined (features/packing.py: identity u32, tile i64, replaced tile i64,
--          length u16, payload; a length of 0 deletes the field)
-- ARGV[3]  the keys of the feature rows, joined
-- ARGV[4]  the feature rows, joined, each a MessagePack array of field, value, field, value, ...
-- Returns  {'committed'} or {'epoch' | 'applied', applied} when refused
--
-- A script is not undone when a command in it fails. What can fail is therefore settled before the first change: that
-- every key holds a hash; and the first change is an HSET, because Redis looks only there whether memory, disk and role
-- permit writing (redis.io/docs: "Eval" and "Key eviction").

local partition = KEYS[1]
local epoch, applied, last, fields, expire_s, state_prefix, keys, lengths, row_key_lengths, row_lengths, ids_prefix,
    partitions_key, partition_prefix, idle_s, oldest_bucket, superseded, claimed = unpack(cmsgpack.unpack(ARGV[1]))
local changes = ARGV[2]
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

-- An error that names the key, when it holds something else than a hash.
local function no_hash(key)
    local n = redis.pcall('HLEN', key)
    return type(n) == 'table' and {err = n.err .. ' (key ' .. key .. ')'}
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

-- The oldest bucket of ids that some partition of this topic may ask for. Idle ones do not count.
local function oldest_needed(now_s)
    local needed = oldest_bucket
    for _, number in ipairs(call('SMEMBERS', partitions_key)) do
        local key = partition_prefix .. number
        local other = key ~= partition and call('HMGET', key, 'active_s', 'oldest_bucket')
        if other and now_s - tonumber(other[1] or '0') <= idle_s then
            needed = math.min(needed, tonumber(other[2] or '-inf'))
        end
    end
    return needed
end

-- The ids that nobody needs any more: {the list of buckets that stay, buckets to delete}. Seldom: once a bucket.
local function forgotten(now_s)
    local kept, deleted, needed = {}, {}, oldest_needed(now_s)
    for _, name in ipairs(cjson.decode(call('GET', ids_prefix .. 'buckets') or '[]')) do
        local list = tonumber(name) < needed and deleted or kept
        list[#list + 1] = name
    end
    return #kept > 0 and cjson.encode(kept) or '[]', deleted
end

local stored = call('HMGET', partition, 'epoch', 'applied', 'pins', 'oldest_bucket')
if stored[1] ~= epoch then
    return {'epoch', stored[2] or '-1'}
end
if (stored[2] or '-1') ~= applied then
    return {'applied', stored[2] or '-1'}
end
local stored_pins = cjson.decode(stored[3] or '[]')
if claimed and not (#stored_pins > 0 and tonumber(stored_pins[#stored_pins][1]) >= tonumber(last)) then
    return {'applied', stored[2] or '-1'}
end

local row_keys, rows = cut(ARGV[3], row_key_lengths), cut(ARGV[4], row_lengths)
for i = 1, #keys do
    keys[i] = state_prefix .. keys[i]
end
for _, checked in ipairs({keys, row_keys}) do
    for i = 1, #checked do
        local failed = no_hash(checked[i])
        if failed then
            return failed
        end
    end
end
local pins = {}
for _, pin in ipairs(stored_pins) do
    if tonumber(pin[1]) > tonumber(last) then
        pins[#pins + 1] = pin
    end
end
local oldest, now = oldest_bucket and string.format('%.0f', oldest_bucket), call('TIME')[1]
local listed, deleted
if oldest and oldest ~= stored[4] then
    listed, deleted = forgotten(tonumber(now))
end
call('HSET', partition, 'applied', last, 'active_s', now, 'pins', #pins > 0 and cjson.encode(pins) or '[]')
in_chunks('HSET', partition, fields, #fields)
in_chunks('HDEL', partition, superseded, #superseded)

local from = 1
for i = 1, #keys do
    write_state(keys[i], from, from + lengths[i])
    from = from + lengths[i]
end
for i = 1, #row_keys do
    write_row(row_keys[i], rows[i])
end
if listed then
    call('HSET', partition, 'oldest_bucket', oldest)
    call('SET', ids_prefix .. 'buckets', listed)
    for i = 1, #deleted do
        call('UNLINK', ids_prefix .. deleted[i])
    end
end
return {'committed'}
