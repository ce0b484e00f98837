#!lua name=@LIBRARY@
-- The atomic steps of the Redis engine. The Store port (mom_core/ports.py) says what each one
-- means.
--
-- Numbers travel and are kept as decimal text: Lua would print large ones as 1.7e+15. As numbers
-- they
-- are doubles, exact up to 2^53, which bounds offsets. A step that refuses writes nothing; one that
-- writes can't fail half-way, as every check comes first.
--
-- The bytes of batches never pass through Lua, which would copy each one three times: MULTI, a SET
-- of
-- each batch under a staging key, this library's commit, EXEC. The commit renames what it accepts
-- to
-- its place and unlinks the rest, so that no staged batch outlives its transaction.
--
-- The keys of a partition share one hash tag:
--   meta      hash: epoch next start number size time out gaps inc fragile claimer lost, or dropped
--   index     stream: a batch an entry, ID <end offset>-0 (0-0 is refused, so the last offset would
--             not do), c: records, t: append time, z: bytes
--   b:<end offset>                string: the bytes of the batch
--   new:<epoch>.<number>.<place>  string: a staged batch; the names differ from owner to owner
--   journal   list, snapshot: string; the delivery state
--   kept      hash: what the owner keeps beside the log, under keys of its own
--   producers hash: producer id -> "last_sequence base base ..."; used: sorted set by end offset

-- Producers from this id on are never forgotten (mom_core/producers.py). A number of Lua's has 53
-- bits, so a client's id just below it is one of them by mistake, which harms nothing.
local LASTING = 9223372036854775808

local META, INDEX, JOURNAL, SNAPSHOT, PRODUCERS, USED = 1, 2, 3, 4, 5, 6
local KEPT, BATCH, STAGED = 7, 8, 9

local function text(number)
  return string.format('%.0f', number)
end

local function refusal(dropped, held_epoch, epoch)
  if dropped then
    return {'dropped'}
  end
  if held_epoch ~= epoch then
    return {'stale', held_epoch or '0'}
  end
  return nil
end

local function words(line)
  local found = {}
  for word in string.gmatch(line, '%S+') do
    found[#found + 1] = word
  end
  return found
end

-- Producers: the rule of mom_core/producers.py.

local function check_sequence(state, sequence)
  if not state then
    if sequence == '0' then
      return 'a'
    end
    return 'u', '-1'
  end
  local last, wanted = tonumber(state[1]), tonumber(sequence)
  if wanted == last + 1 then
    return 'a'
  end
  local back = last - wanted
  if back >= 0 and back < #state - 1 then
    return 'd', state[#state - back]
  end
  return 'o', '-1'
end

local function remember(keys, producer, state, sequence, base, stop, window, producers_max)
  local kept = {sequence}
  if state then
    for at = math.max(2, #state - window + 2), #state do
      kept[#kept + 1] = state[at]
    end
  end
  kept[#kept + 1] = base
  redis.call('HSET', keys[PRODUCERS], producer, table.concat(kept, ' '))
  if tonumber(producer) >= LASTING then
    return
  end
  redis.call('ZADD', keys[USED], stop, producer)
  if not state and redis.call('ZCARD', keys[USED]) > producers_max then
    local oldest = redis.call('ZPOPMIN', keys[USED])
    redis.call('HDEL', keys[PRODUCERS], oldest[1])
  end
end

-- Partitions.

-- args: epoch, claimer token, incarnation, '1' if this server may have lost a tail, gap size
local function claim(keys, args)
  local meta = keys[META]
  local held = redis.call('HMGET', meta, 'epoch', 'dropped', 'next', 'start', 'number', 'size',
    'time', 'gaps', 'inc', 'claimer', 'lost', 'fragile')
  local epoch, token, incarnation, fragile, gap = args[1], args[2], args[3], args[4], args[5]
  if held[2] then
    return {'dropped'}
  end
  if tonumber(epoch) <= tonumber(held[1] or '0') then
    if epoch == held[1] and token == held[10] then
      -- A write, so that WAITAOF after it does not answer for nothing.
      redis.call('HINCRBY', meta, 'repeats', 1)
      return {'ok', held[3], held[4], held[5], held[6], held[7], held[8], held[11]}
    end
    return {'stale', held[1] or '0'}
  end
  local next, gaps, lost = held[3] or '0', held[8] or '', '0'
  if held[9] and held[9] ~= incarnation and (fragile == '1' or held[12] == '1') then
    local stop = text(tonumber(next) + tonumber(gap))
    local front, last_stop = string.match(gaps, '^(.-)%-(%d+)$')
    if last_stop == next then
      gaps = front .. '-' .. stop
    else
      gaps = gaps .. (gaps == '' and '' or ' ') .. next .. '-' .. stop
    end
    next, lost = stop, '1'
  end
  redis.call('HSET', meta, 'epoch', epoch, 'next', next, 'start', held[4] or '0',
    'number', held[5] or '0', 'size', held[6] or '0', 'time', held[7] or '0', 'gaps', gaps,
    'inc', incarnation, 'fragile', fragile, 'claimer', token, 'lost', lost)
  redis.call('HDEL', meta, 'out')
  return {'ok', next, held[4] or '0', held[5] or '0', held[6] or '0', held[7] or '0', gaps, lost}
end

-- Where the batches begin among the arguments of a commit.
local function batches_at(args)
  return 10 + 3 * tonumber(args[9])
end

local function unstage(keys, args)
  for place = 1, (#args - batches_at(args) + 1) / 5 do
    redis.call('UNLINK', keys[STAGED] .. place)
  end
end

-- args: epoch, number, incarnation, fragile, producer window, producers_max,
--       'n' | 'j' | 's' for none, journal, snapshot; its bytes;
--       how many values to keep, and for each: key, 's' | 'd' to set or delete, value;
--       then for each staged batch: count, append time, producer id, sequence, size. One without
--       records only counts its sequence.
local function commit(keys, args)
  local meta = keys[META]
  local held = redis.call('HMGET', meta, 'epoch', 'dropped', 'next', 'number', 'size', 'time',
    'out', 'inc', 'fragile')
  local number = args[2]
  local refused = refusal(held[2], held[1], args[1])
  if not refused and number == held[4] and held[7] then
    -- A write, so that WAITAOF after it does not answer for nothing.
    redis.call('HINCRBY', meta, 'repeats', 1)
    refused = {'ok', held[3], held[7]}
  elseif not refused and tonumber(number) ~= tonumber(held[4]) + 1 then
    refused = {'behind', held[4]}
  end
  if refused then
    unstage(keys, args)
    return refused
  end
  local window, producers_max = tonumber(args[5]), tonumber(args[6])
  local next, next_text, size, time = tonumber(held[3]), held[3], tonumber(held[5]), held[6]
  local outcomes = {}
  for at = batches_at(args), #args, 5 do
    local staged = keys[STAGED] .. (#outcomes + 1)
    local producer, sequence = args[at + 2], args[at + 3]
    local outcome, base, state = 'a', nil, nil
    if producer ~= '0' then
      local known = redis.call('HGET', keys[PRODUCERS], producer)
      state = known and words(known)
      outcome, base = check_sequence(state, sequence)
    end
    if outcome == 'a' then
      base, time = next_text, args[at + 1]
      if args[at] == '0' then
        redis.call('UNLINK', staged)
      else
        next = next + tonumber(args[at])
        next_text = text(next)
        redis.call('RENAME', staged, keys[BATCH] .. next_text)
        redis.call('XADD', keys[INDEX], next_text .. '-0',
          'c', args[at], 't', time, 'z', args[at + 4])
        size = size + tonumber(args[at + 4])
      end
      if producer ~= '0' then
        remember(keys, producer, state, sequence, base, next_text, window, producers_max)
      end
    else
      redis.call('UNLINK', staged)
    end
    outcomes[#outcomes + 1] = outcome .. base
  end
  if args[7] == 's' then
    redis.call('SET', keys[SNAPSHOT], args[8])
    redis.call('UNLINK', keys[JOURNAL])
  elseif args[7] == 'j' then
    redis.call('RPUSH', keys[JOURNAL], args[8])
  end
  for at = 10, batches_at(args) - 1, 3 do
    if args[at + 1] == 's' then
      redis.call('HSET', keys[KEPT], args[at], args[at + 2])
    else
      redis.call('HDEL', keys[KEPT], args[at])
    end
  end
  local out = table.concat(outcomes, ' ')
  redis.call('HSET', meta, 'next', next_text, 'number', number, 'size', text(size), 'time', time,
    'out', out)
  if held[8] ~= args[3] or held[9] ~= args[4] then
    redis.call('HSET', meta, 'inc', args[3], 'fragile', args[4])
  end
  return {'ok', next_text, out}
end

-- args: epoch
local function load(keys, args)
  local held = redis.call('HMGET', keys[META], 'epoch', 'dropped')
  local refused = refusal(held[2], held[1], args[1])
  if refused then
    return refused
  end
  return {'ok', redis.call('GET', keys[SNAPSHOT]), redis.call('LRANGE', keys[JOURNAL], 0, -1)}
end

local function entry(found)
  local fields = found[2]
  return string.match(found[1], '^%d+'), fields[2], fields[4], tonumber(fields[6])
end

-- Which batches to read; their bytes are fetched by MGET.
-- args: offset, max_bytes, batches_max
local function read(keys, args)
  local room, left = tonumber(args[2]), tonumber(args[3])
  local from, last, step = '(' .. args[1], nil, 16
  local extents = {}
  while left > 0 and room > 0 do
    local found = redis.call('XRANGE', keys[INDEX], from, '+', 'COUNT', math.min(step, left))
    for _, one in ipairs(found) do
      local stop, count, time, size = entry(one)
      room = room - size
      if room < 0 and last then
        return extents
      end
      last, left = one[1], left - 1
      extents[#extents + 1] = {stop, count, time}
    end
    if #found < step then
      break
    end
    from, step = '(' .. last, 128
  end
  return extents
end

-- args: timestamp. Append times ascend with offsets, so the search is by offset.
local function offset_at(keys, args)
  local wanted = tonumber(args[1])
  local held = redis.call('HMGET', keys[META], 'next', 'start')
  local high = tonumber(held[1] or '0')
  local low, found = 0, high
  while low < high do
    local middle = math.floor((low + high) / 2)
    local one = redis.call('XRANGE', keys[INDEX], '(' .. text(middle), '+', 'COUNT', 1)[1]
    if not one then
      high = middle
    else
      local stop, count, time = entry(one)
      if tonumber(time) >= wanted then
        found = tonumber(stop) - tonumber(count)
        high = math.min(middle, found)
      else
        low = tonumber(stop)
      end
    end
  end
  return text(math.max(found, tonumber(held[2] or '0')))
end

-- The rule of mom_core/trimming.py.
-- args: epoch, before_offset, before_time, keep_bytes (each '' for none), batches_max
local function trim(keys, args)
  local meta = keys[META]
  local held = redis.call('HMGET', meta, 'epoch', 'dropped', 'start', 'size', 'next')
  local refused = refusal(held[2], held[1], args[1])
  if refused then
    return refused
  end
  local start, size = tonumber(held[3]), tonumber(held[4])
  local before_time, keep, most = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  start = math.max(start, math.min(tonumber(args[2]) or 0, tonumber(held[5])))
  local found = redis.call('XRANGE', keys[INDEX], '-', '+', 'COUNT', most + 1)
  local stop, more = 0, '0'
  for at, one in ipairs(found) do
    local end_offset, _, time, bytes = entry(one)
    local goes = tonumber(end_offset) <= start
      or (before_time and tonumber(time) < before_time)
      or (keep and size > keep and size > bytes)
    if not goes then
      break
    end
    if at > most then
      more = '1'
      break
    end
    stop, size = tonumber(end_offset), size - bytes
    redis.call('UNLINK', keys[BATCH] .. end_offset)
  end
  start = text(math.max(start, stop))
  if stop > 0 then
    redis.call('XTRIM', keys[INDEX], 'MINID', text(stop + 1))
  end
  if stop > 0 or start ~= held[3] then
    redis.call('HSET', meta, 'start', start, 'size', text(size))
  end
  return {'ok', start, text(size), more}
end

-- Notes a partition that is being dropped, until that is done. keys: the set of those
-- args: the partition
local function note_drop(keys, args)
  redis.call('SADD', keys[1], args[1])
  return {'ok'}
end

-- Leaves a tombstone and clears a bounded part; '1' when there is more.
-- args: milliseconds that the tombstone stays, batches_max
local function drop(keys, args)
  redis.call('UNLINK', keys[META], keys[JOURNAL], keys[SNAPSHOT], keys[PRODUCERS], keys[USED],
    keys[KEPT])
  redis.call('HSET', keys[META], 'dropped', '1')
  redis.call('PEXPIRE', keys[META], args[1])
  local found = redis.call('XRANGE', keys[INDEX], '-', '+', 'COUNT', args[2])
  if #found == 0 then
    redis.call('UNLINK', keys[INDEX])
    return {'ok', '0'}
  end
  local stop
  for _, one in ipairs(found) do
    stop = entry(one)
    redis.call('UNLINK', keys[BATCH] .. stop)
  end
  redis.call('XTRIM', keys[INDEX], 'MINID', text(tonumber(stop) + 1))
  return {'ok', '1'}
end

-- The control plane. Its keys share one hash tag:
--   entries   hash: key -> "<revision> <value>"; order: sorted set of the keys, for prefixes
--   revision  the last change's number; changes: stream, a write an entry, ID <revision>-0
--   leases    hash: name -> "<token> <expires_at_ms> <holder>"
--   written:<token>  string: the revision of a set of writes, kept while it may be repeated

local ENTRIES, ORDER, REVISION, CHANGES, WRITTEN = 1, 2, 3, 4, 5

-- args: changes_kept, milliseconds that a repetition is known;
--       then for each write: key, expected revision or '', 's' | 'd', value
local function write(keys, args)
  local written = redis.call('GET', keys[WRITTEN])
  if written then
    redis.call('PEXPIRE', keys[WRITTEN], args[2])
    return {'ok', written}
  end
  for at = 3, #args, 4 do
    if args[at + 1] ~= '' then
      local held = redis.call('HGET', keys[ENTRIES], args[at])
      local revision = held and string.match(held, '^%d+') or '0'
      if revision ~= args[at + 1] then
        return {'conflict', args[at], args[at + 1], revision}
      end
    end
  end
  if #args == 2 then
    return {'ok', redis.call('GET', keys[REVISION]) or '0'}
  end
  local revision = text(redis.call('INCR', keys[REVISION]))
  local change = {}
  for at = 3, #args, 4 do
    local key, value = args[at], args[at + 3]
    if args[at + 2] == 's' then
      redis.call('HSET', keys[ENTRIES], key, revision .. ' ' .. value)
      redis.call('ZADD', keys[ORDER], 0, key)
    else
      redis.call('HDEL', keys[ENTRIES], key)
      redis.call('ZREM', keys[ORDER], key)
    end
    change[#change + 1] = args[at + 2] .. key
    change[#change + 1] = value
  end
  redis.call('XADD', keys[CHANGES], 'MAXLEN', args[1], revision .. '-0', unpack(change))
  redis.call('SET', keys[WRITTEN], revision, 'PX', args[2])
  return {'ok', revision}
end

-- args: prefix
local function list(keys, args)
  local low, high = '-', '+'
  if args[1] ~= '' then
    low, high = '[' .. args[1], '(' .. args[1] .. '\255'
  end
  local found = redis.call('ZRANGEBYLEX', keys[ORDER], low, high)
  local reply = {redis.call('GET', keys[REVISION]) or '0'}
  for _, key in ipairs(found) do
    reply[#reply + 1] = key
    reply[#reply + 1] = redis.call('HGET', keys[ENTRIES], key)
  end
  return reply
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- args: name, holder, ttl
local function acquire_lease(keys, args)
  local held = redis.call('HGET', keys[1], args[1]) or '0 0 '
  local token, expires, holder = string.match(held, '^(%d+) (%d+) (.*)$')
  local now = now_ms()
  if holder ~= args[2] and tonumber(expires) > now then
    return {holder, token, expires}
  end
  if holder ~= args[2] then
    token = text(tonumber(token) + 1)
  end
  expires = text(now + tonumber(args[3]))
  redis.call('HSET', keys[1], args[1], token .. ' ' .. expires .. ' ' .. args[2])
  return {args[2], token, expires}
end

-- args: name, holder
local function release_lease(keys, args)
  local held = redis.call('HGET', keys[1], args[1]) or '0 0 '
  local token, _, holder = string.match(held, '^(%d+) (%d+) (.*)$')
  if holder == args[2] and holder ~= '' then
    redis.call('HSET', keys[1], args[1], token .. ' 0 ')
  end
  return {'ok'}
end

-- Produce goes without allow-oom: Redis refuses it above maxmemory. All that makes room, or is
-- needed to, has it; else a full server could never be emptied.
local function register(name, callback, flag)
  redis.register_function {
    function_name = '@LIBRARY@_' .. name,
    callback = callback,
    flags = {flag},
  }
end

register('produce', commit)
register('settle', commit, 'allow-oom')
register('claim', claim, 'allow-oom')
register('trim', trim, 'allow-oom')
register('drop', drop, 'allow-oom')
register('note_drop', note_drop, 'allow-oom')
register('write', write, 'allow-oom')
register('acquire_lease', acquire_lease, 'allow-oom')
register('release_lease', release_lease, 'allow-oom')
register('load', load, 'no-writes')
register('read', read, 'no-writes')
register('offset_at', offset_at, 'no-writes')
register('list', list, 'no-writes')
