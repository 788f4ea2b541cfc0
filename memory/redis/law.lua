#!lua name=visual_memory_v1

-- The law (memory/model/merge.py) as Redis functions. Keys of one item share a hash tag; where a function
-- touches those of another slot, which a cluster would refuse, it says so.
-- Times are strings of 16 digits and stamps start with one, so they compare as strings: Lua's
-- numbers would lose digits of microseconds. '' is "never".
--
-- An image's hash is `item` while it is shown (the search index covers that prefix) and `wait` while it
-- is not, never both: a document without a vector would still be counted. It is shown while it has a
-- live trace, unless it is pruned; `pruned` beside the items holds the images that have one and are.
--   b barrier   ts cs ps stamps of trace, correction and pruning   corrected ('' withdrawn)   pruned (1)
--   sel selectors, space-separated   label the one that counts
--   told how many of the selectors, and which barrier, the log of forgetting has been told
--   id image label asserted source subjects attributes embedder vector: the trace
--   >address    an event's place in the log
--
-- A memory's keys begin with its namespace and the number of a generation; `meta` says which of
-- them are in use.

local TRACE = {'id', 'image', 'asserted', 'source', 'subjects', 'attributes', 'embedder', 'vector'}
local VERSION = 11
local AT_ONCE = 4000
local ANNOUNCED_MS = 60000
local SEALED = 'SEALED the memory is about to be replaced by a rebuilt one'

-- An image can have more events than Lua can pass as arguments (8,000).
local function call_with_all(command, key, list)
  for i = 1, #list, AT_ONCE do
    redis.call(command, key, unpack(list, i, math.min(i + AT_ONCE - 1, #list)))
  end
end

local function greater(a, b)
  if (a or '') > (b or '') then return a or '' end
  return b or ''
end

local function is_dead(stamp, barrier)
  return string.sub(stamp, 1, 16) <= barrier
end

local function dead_addresses(key, barrier)
  local dead = {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, 1) == '>' and string.sub(name, 2, 17) <= barrier then
      dead[#dead + 1] = name
    end
  end
  return dead
end

local function words(text)
  local list, known = {}, {}
  for word in string.gmatch(text, '%S+') do
    list[#list + 1] = word
    known[word] = #list
  end
  return list, known
end

-- What is new comes last: 'told' counts from the front.
local function union(held, given)
  local all, known = words(held)
  local before = #all
  for selector in string.gmatch(given, '%S+') do
    if not known[selector] then all[#all + 1] = selector; known[selector] = #all end
  end
  if #all == before then return held, false end
  return table.concat(all, ' '), true
end

-- Before they go: DEL and HDEL alone leave the bytes in the process's memory.
local function overwrite(key, names)
  local junk = {}
  for _, name in ipairs(names) do
    local length = redis.call('HSTRLEN', key, name)
    if length > 0 then
      junk[#junk + 1] = name
      junk[#junk + 1] = string.rep('x', length)
    end
  end
  if #junk > 0 then redis.call('HSET', key, unpack(junk)) end
end

local function shred(key)
  overwrite(key, {'id', 'image', 'label', 'asserted', 'corrected', 'source', 'subjects',
                  'attributes', 'vector', 'ts', 'cs', 'ps'})
  redis.call('DEL', key)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Who keeps a copy of what is shown (memory/replica) learns here what to look at again: keyed digests
-- alone, so nothing in it needs erasing. (One stream a generation is in another slot, as `guarded` says.)
local function announce(item)
  local prefix, image = string.match(item, '^(.*):item:{(.*)}$')
  redis.call('XADD', prefix .. ':changes', 'MINID', '~', string.format('%d', now_ms() - ANNOUNCED_MS),
             '*', 'image', image)
end

-- An image that is pruned is not found by the index, but must be by who forgets its label. (This key is
-- in another slot, as `guarded` says.)
local function note_pruned(item, is_out, was_out)
  if is_out == was_out then return end
  local prefix, image = string.match(item, '^(.*):item:{(.*)}$')
  redis.call(is_out and 'SADD' or 'SREM', prefix .. ':pruned', image)
end

-- What is forgotten has no counts of use. (These keys are in another slot, as `guarded` says.)
local function forget_influence(item)
  local prefix, image = string.match(item, '^(.*):item:{(.*)}$')
  redis.call('ZREM', prefix .. ':neighbors', image)
  redis.call('ZREM', prefix .. ':decided', image)
end

-- Which images have events that await their tombstones. (This key is in another slot, as `guarded` says.)
local function note_outbox(item)
  local prefix, image = string.match(item, '^(.*):item:{(.*)}$')
  redis.call('SADD', prefix .. ':outboxes', image)
end

-- KEYS: outbox, outboxes. ARGS: image, addresses whose tombstones the log has.
local function sent(keys, args)
  for i = 2, #args, AT_ONCE do
    redis.call('SREM', keys[1], unpack(args, i, math.min(i + AT_ONCE - 1, #args)))
  end
  if redis.call('EXISTS', keys[1]) == 0 then redis.call('SREM', keys[2], args[1]) end
  return 'OK'
end

-- The trace of a hash that lives on.
local function shred_trace(key)
  local names = {'ts', 'label', unpack(TRACE)}
  overwrite(key, names)
  redis.call('HDEL', key, unpack(names))
end

local LOOKED_UP = {'b', 'ts', 'cs', 'sel', 'asserted', 'corrected', 'told', 'ps', 'pruned'}

-- Whether an image is shown, which it is not without a trace, and what its hash holds of LOOKED_UP and of an
-- address: an empty list where it has none.
local function look_up(item, wait, address)
  if redis.call('EXISTS', item, wait) == 0 then return false, {} end
  local fields = {unpack(LOOKED_UP)}
  fields[#fields + 1] = '>' .. address
  local held = redis.call('HMGET', item, unpack(fields))
  if held[2] then return true, held end
  return false, redis.call('HMGET', wait, unpack(fields))
end

-- KEYS: item, wait, outbox, and it may be the images that a request erases. ARGS: barrier, address, selectors,
-- register ('t', 'c', 'p' or ''), stamp, then for 't' the values of TRACE, for 'c' the label ('' withdraws), for
-- 'p' 1 or ''. (The request's key is in another slot, as `guarded` says.) Then what `look_up` said.
-- Returns barrier, won, erased, visible, selectors, size of the outbox.
local function merge(keys, args, was_visible, held)
  local item, wait, outbox, dying = keys[1], keys[2], keys[3], keys[4]
  local address, given, register, stamp = args[2], args[3], args[4], args[5]
  local key = was_visible and item or wait
  local old_barrier = held[1] or ''
  local barrier = greater(args[1], old_barrier)
  local ts, cs, asserted, corrected = held[2] or '', held[3] or '', held[5], held[6] or ''
  local ps, pruned = held[8] or '', held[9] or ''
  local had_trace, had_correction, had_pruning = ts ~= '', cs ~= '', ps ~= ''
  local was_out = had_trace and pruned == '1'
  local set, drop = {}, {}
  local function assign(name, value) set[#set + 1] = name; set[#set + 1] = value end

  local new_trace = register == 't' and stamp > ts and not is_dead(stamp, barrier)
  local new_correction = register == 'c' and stamp > cs and not is_dead(stamp, barrier)
  local new_pruning = register == 'p' and stamp > ps and not is_dead(stamp, barrier)
  local stands = not is_dead(stamp, barrier) and (
    register == 't' and (new_trace or stamp == ts)
    or register == 'c' and (new_correction or stamp == cs)
    or register == 'p' and (new_pruning or stamp == ps))
  if new_trace then ts = stamp; asserted = args[8] end
  if new_correction then cs = stamp; corrected = args[6] end
  if new_pruning then ps = stamp; pruned = args[6] end
  local trace_dies = had_trace and is_dead(ts, barrier)
  local correction_dies = had_correction and is_dead(cs, barrier)
  local pruning_dies = had_pruning and is_dead(ps, barrier)
  if trace_dies then ts = '' end
  if correction_dies then cs = ''; corrected = '' end
  if pruning_dies then ps = ''; pruned = '' end
  local lives = ts ~= ''
  local visible = lives and pruned ~= '1'

  local selectors, more_selectors = union(held[4] or '', given)
  if more_selectors then assign('sel', selectors) end
  if barrier ~= old_barrier then assign('b', barrier) end
  if new_trace then
    assign('ts', ts)
    for i, name in ipairs(TRACE) do assign(name, args[5 + i]) end
  end
  if new_correction then
    assign('cs', cs)
    assign('corrected', corrected)
  elseif correction_dies then
    drop[#drop + 1] = 'cs'
    drop[#drop + 1] = 'corrected'
  end
  if new_pruning then
    assign('ps', ps)
    assign('pruned', pruned)
  elseif pruning_dies then
    drop[#drop + 1] = 'ps'
    drop[#drop + 1] = 'pruned'
  end
  if lives and (new_trace or new_correction or correction_dies) then
    assign('label', corrected ~= '' and corrected or asserted)
  end
  if address ~= '' and string.sub(address, 1, 16) > barrier and not held[10] then
    assign('>' .. address, '')
  end
  local dead = {}
  if barrier ~= old_barrier then dead = dead_addresses(key, barrier) end
  local sent = {}
  for _, name in ipairs(dead) do
    drop[#drop + 1] = name
    sent[#sent + 1] = string.sub(name, 2)
  end
  if address ~= '' and string.sub(address, 1, 16) <= barrier then sent[#sent + 1] = address end
  call_with_all('SADD', outbox, sent)
  if #sent > 0 then note_outbox(item) end
  if correction_dies and held[6] and (lives or not was_visible) then
    -- The rest of the hash lives on; `shred` does this where it does not.
    redis.call('HSET', key, 'corrected', string.rep('x', string.len(held[6])))
  end

  if trace_dies and not was_visible then shred_trace(wait) end
  if was_visible == visible then
    -- One HSET: every command that touches the hash makes the index read it again.
    call_with_all('HSET', key, set)
    call_with_all('HDEL', key, drop)
  elseif visible then
    local moved = {}
    if #held > 0 then
      call_with_all('HDEL', wait, drop)
      moved = redis.call('HGETALL', wait)
      redis.call('DEL', wait)
    end
    for i = 1, #set do moved[#moved + 1] = set[i] end
    call_with_all('HSET', item, moved)
  elseif lives then
    call_with_all('HDEL', item, drop)
    local moved = redis.call('HGETALL', item)
    for i = 1, #set do moved[#moved + 1] = set[i] end
    call_with_all('HSET', wait, moved)
    redis.call('DEL', item)
  else
    local kept = {'b', barrier, 'sel', selectors}
    if held[7] then kept[#kept + 1] = 'told'; kept[#kept + 1] = held[7] end
    if cs ~= '' then
      for _, part in ipairs({'cs', cs, 'corrected', corrected}) do kept[#kept + 1] = part end
    end
    if ps ~= '' then
      for _, part in ipairs({'ps', ps, 'pruned', pruned}) do kept[#kept + 1] = part end
    end
    for _, name in ipairs(redis.call('HKEYS', item)) do
      if string.sub(name, 1, 1) == '>' and string.sub(name, 2, 17) > barrier then
        kept[#kept + 1] = name; kept[#kept + 1] = ''
      end
    end
    for i = 1, #set, 2 do
      if string.sub(set[i], 1, 1) == '>' then
        kept[#kept + 1] = set[i]; kept[#kept + 1] = ''
      end
    end
    shred(item)
    call_with_all('HSET', wait, kept)
  end
  if was_visible ~= visible
      or visible and (new_trace or new_correction or correction_dies or more_selectors) then
    announce(item)
  end
  note_pruned(item, lives and pruned == '1', was_out)
  if had_trace and is_dead(held[2], barrier) then forget_influence(item) end
  local erased = trace_dies or correction_dies or pruning_dies
  if erased and dying then redis.call('SADD', dying, string.match(item, '{(.*)}$')) end
  -- Nothing awaits a tombstone where nothing was ever forgotten.
  return {barrier, stands and 1 or 0, erased and 1 or 0, visible and 1 or 0, selectors,
          barrier == '' and 0 or redis.call('SCARD', outbox)}
end

-- KEYS, ARGS, result: as of `merge`.
local function put(keys, args) return merge(keys, args, look_up(keys[1], keys[2], args[2])) end

-- Of older programs. KEYS: posting, until. ARGS: image. Returns the selector's fence.
local function enlist(keys, args)
  redis.call('SADD', keys[1], args[1])
  return redis.call('GET', keys[2]) or ''
end

-- KEYS: item, wait. Returns the item's barrier.
local function barrier(keys, args)
  return redis.call('HGET', keys[1], 'b') or redis.call('HGET', keys[2], 'b') or ''
end

-- KEYS: item, wait, then of each selector its posting and its until. ARGS: image, how many selectors it
-- may bear, the selectors, then of each event which of them it names. Lists the image with those of
-- every event that there is room for. Returns its barrier, for each event whether there was room, and
-- the selectors' fences. (The postings are in other slots, as `guarded` says.)
local function list(keys, args)
  local held = redis.call('HGET', keys[1], 'sel') or redis.call('HGET', keys[2], 'sel') or ''
  local all, known = words(held)
  local bears, limit, count = #all, tonumber(args[2]), (#keys - 2) / 2
  local rooms, listed = {}, {}
  for event = 3 + count, #args do
    local named, new = words(args[event]), {}
    for _, number in ipairs(named) do
      local selector = args[2 + number]
      if not known[selector] then new[#new + 1] = selector end
    end
    local has_room = #new == 0 or bears + #new <= limit
    rooms[#rooms + 1] = has_room and 1 or 0
    if has_room then
      bears = bears + #new
      for _, selector in ipairs(new) do known[selector] = true end
      for _, number in ipairs(named) do listed[tonumber(number)] = true end
    end
  end
  local fences = {}
  for number = 1, count do
    if listed[number] then redis.call('SADD', keys[1 + 2 * number], args[1]) end
    fences[number] = listed[number] and redis.call('GET', keys[2 + 2 * number]) or ''
  end
  return {barrier(keys), rooms, fences}
end

-- KEYS: item, wait, outbox, then of each selector its posting and its until. ARGS: image, how many
-- selectors it may bear, then as of `put`. Lists the image and puts it with the barrier that it meets.
-- Returns as `put` and whether there was room; where there was none no more than the address is put.
-- (The postings are in other slots, as `guarded` says.)
local function admit(keys, args)
  local given = {unpack(args, 3)}
  local was_visible, held = look_up(keys[1], keys[2], given[2])
  local all, known = words(held[4] or '')
  local bears, new = #all, 0
  for selector in string.gmatch(given[3], '%S+') do
    if not known[selector] then known[selector] = true; new = new + 1 end
  end
  local has_room = new == 0 or bears + new <= tonumber(args[2])
  if has_room then
    for i = 4, #keys, 2 do
      redis.call('SADD', keys[i], args[1])
      given[1] = greater(given[1], redis.call('GET', keys[i + 1]))
    end
  else
    given = {given[1], given[2], '', '', ''}
  end
  local reply = merge({keys[1], keys[2], keys[3]}, given, was_visible, held)
  reply[#reply + 1] = has_room and 1 or 0
  return reply
end

-- Of older programs. KEYS: item, wait. ARGS: how many selectors an image may bear, selectors. Returns its
-- barrier, how many it bears, and, unless there is room for all of these, those that it does not bear.
local function look(keys, args)
  local held = redis.call('HGET', keys[1], 'sel') or redis.call('HGET', keys[2], 'sel') or ''
  local all, known = words(held)
  local new = {}
  for selector in string.gmatch(args[2], '%S+') do
    if not known[selector] then new[#new + 1] = selector end
  end
  local has_room = #all + #new <= tonumber(args[1])
  return {barrier(keys), #all, has_room and '' or table.concat(new, ' ')}
end

-- Of an image: its key, its barrier, its selectors, and of both what was told.
local function telling(keys)
  local key = redis.call('EXISTS', keys[1]) == 1 and keys[1] or keys[2]
  local held = redis.call('HMGET', key, 'b', 'sel', 'told')
  local until_, count = string.match(held[3] or '', '^(%d*):(%d+)$')
  return key, held[1] or '', held[2] or '', until_ or '', tonumber(count or '0')
end

-- KEYS: item, wait. Returns the barrier ('' where it is told) and the selectors that are not told.
local function untold(keys)
  local _, held, selectors, until_, count = telling(keys)
  local all = words(selectors)
  return {held > until_ and held or '', table.concat(all, ' ', math.min(count, #all) + 1)}
end

-- KEYS: item, wait. ARGS: barrier, selectors: what `untold` returned. Who was told more meanwhile
-- is not set back.
local function told(keys, args)
  local key, _, selectors, until_, count = telling(keys)
  local _, known = words(selectors)
  for selector in string.gmatch(args[2], '%S+') do count = math.max(count, known[selector] or 0) end
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'told', greater(args[1], until_) .. ':' .. count)
  end
  return 'OK'
end

-- KEYS: until. ARGS: until.
local function fence(keys, args)
  local until_ = greater(args[1], redis.call('GET', keys[1]))
  redis.call('SET', keys[1], until_)
  return until_
end

-- Of a generation's key: the meta hash of its memory, and which generation it is.
local function owner(key)
  local namespace, generation = string.match(key, '^(.*):(%d+):')
  return (namespace or '') .. ':meta', generation
end

-- While a rebuild makes up its last records, positions in the topics it reads stand still.
local function is_sealed(key, places)
  local meta, generation = owner(key)
  local sealed = redis.call('HGET', meta, 'sealed')
  if not sealed then return false end
  local ends, topics = string.match(sealed, '^(%d+) (.*)$')
  if now_ms() >= tonumber(ends) or redis.call('HGET', meta, 'generation') ~= generation then
    return false
  end
  for i = 1, #places, 2 do
    local topic = string.match(places[i], '^(.*):%d+$') or ''
    if string.find(' ' .. topics .. ' ', ' ' .. topic .. ' ', 1, true) then return true end
  end
  return false
end

local function slice(list, first, count)
  local part = {}
  for i = 1, count do part[i] = list[first + i - 1] end
  return part
end

local function raise_to(key, fields)
  for i = 1, #fields, 2 do
    local held = tonumber(redis.call('HGET', key, fields[i]) or '-1')
    if tonumber(fields[i + 1]) > held then
      redis.call('HSET', key, fields[i], fields[i + 1])
    end
  end
end

-- KEYS: hash. ARGS: field, number, ... Each field keeps its greatest number.
local function advance(keys, args)
  if is_sealed(keys[1], args) then return redis.error_reply(SEALED) end
  raise_to(keys[1], args)
  return 'OK'
end

-- KEYS: positions, marks. ARGS: how many of the next are of positions, then of both as of `advance`. In one
-- step: a position without the time of what was read before it would be taken for a cut. Programs of
-- version 8 call it.
local function advance_both(keys, args)
  local count = tonumber(args[1])
  local ends = slice(args, 2, count)
  if is_sealed(keys[1], ends) then return redis.error_reply(SEALED) end
  raise_to(keys[2], slice(args, 2 + count, #args - 1 - count))
  raise_to(keys[1], ends)
  return 'OK'
end

-- KEYS: positions, marks. ARGS: how many of the next are of what positions are at least, and how many after them
-- of positions, then of these and of marks as of `advance`. 0, and nothing moves, where one is less than that.
local function advance_noted(keys, args)
  local count = tonumber(args[1])
  for i = 3, 2 + count, 2 do
    local held = tonumber(redis.call('HGET', keys[1], args[i]) or '0')
    if held < tonumber(args[i + 1]) then return 0 end
  end
  local moved = advance_both(keys, {args[2], unpack(args, 3 + count)})
  return moved == 'OK' and 1 or moved
end

-- KEYS: positions, marks. ARGS: place, offset, time. The log was cut at the offset: what it held
-- from there on was appended up to the time.
local function rewind(keys, args)
  local positions, marks, place, offset = keys[1], keys[2], args[1], args[2]
  local held = redis.call('HGET', positions, place)
  if held and tonumber(held) > tonumber(offset) then
    redis.call('HSET', positions, place, offset)
  end
  local witness = 'witness:' .. place .. ':'
  for _, field in ipairs(redis.call('HKEYS', marks)) do
    if string.sub(field, 1, #witness) == witness then redis.call('HDEL', marks, field) end
  end
  -- The first record behind the cut is younger than any that was read: it is known now.
  raise_to(marks, {'time:' .. place, string.format('%.0f', args[3] + 1),
                   'cut:' .. place .. ':' .. offset, args[3]})
  return 'OK'
end

-- KEYS: request. ARGS: time. The earliest time seen stays. Returns time, closed.
local function open_request(keys, args)
  local held = redis.call('HGET', keys[1], 'time')
  if not held or args[1] < held then
    redis.call('HSET', keys[1], 'time', args[1])
    held = args[1]
  end
  return {held, redis.call('HGET', keys[1], 'closed') or '0'}
end

-- KEYS: request. ARGS: how many images it erased something of, and of how many was ever heard. (Older programs call it.)
local function note_counts(keys, args)
  redis.call('HSET', keys[1], 'erased', args[1], 'matched', args[2])
  return 'OK'
end

-- KEYS: request, expansion, erased. ARGS: time of a request that was never opened here.
local function close_request(keys, args)
  redis.call('HSETNX', keys[1], 'time', args[1])
  redis.call('HSET', keys[1], 'closed', '1')
  redis.call('DEL', keys[2], keys[3])
  return 'OK'
end

-- KEYS: request, expansion, erased. ARGS: of how many images was ever heard. Returns how many it erased something of.
local function count_found(keys, args)
  local erased = redis.call('SCARD', keys[3])
  note_counts(keys, {erased, args[1]})
  return erased
end

-- KEYS: set. ARGS: members. Sets only grow here.
local function grow(keys, args)
  call_with_all('SADD', keys[1], args)
  return 'OK'
end

-- KEYS: meta. ARGS: field, value, ... Whoever is first decides all fields at once, or two
-- workers that start together could each decide some and both refuse for ever.
local function claim(keys, args)
  for i = 1, #args, 2 do redis.call('HSETNX', keys[1], args[i], args[i + 1]) end
  return redis.call('HGETALL', keys[1])
end

-- A generation is the memory under one number: made by one embedder, in one index. Workers use
-- `generation`; a rebuild fills `next_generation` (what it is made with are the other next_ fields)
-- and then puts it in place; `dropping` goes. One rebuild at a time holds the lease.
local MADE_WITH = {'embedder', 'embedder_name', 'dim', 'algorithm', 'dtype', 'generation'}

local function get(meta, field) return redis.call('HGET', meta, field) or '' end

local function lost_lease(meta, token)
  if get(meta, 'rebuilder') ~= token then
    return redis.error_reply('LEASE another rebuild has taken over')
  end
end

-- KEYS: meta. ARGS: token, ms (0 gives it back). Returns 1, or 0 and who holds it until when.
local function lease(keys, args)
  local meta, token, now = keys[1], args[1], now_ms()
  local holder, ends = get(meta, 'rebuilder'), get(meta, 'rebuilder_until')
  if holder ~= '' and holder ~= token and tonumber(ends) > now then return {0, ends} end
  if args[2] == '0' then
    if holder == token then redis.call('HDEL', meta, 'rebuilder', 'rebuilder_until') end
  else
    redis.call('HSET', meta, 'rebuilder', token, 'rebuilder_until',
               string.format('%d', now + args[2]))
  end
  return {1, ''}
end

-- KEYS: meta. ARGS: token, field, value, ... Numbers are never used again: what a rebuild that was
-- given up still writes must not come into another's.
local function begin(keys, args)
  local meta = keys[1]
  local lost = lost_lease(meta, args[1])
  if lost then return lost end
  if get(meta, 'next_generation') == '' then
    local last = get(meta, 'last_generation')
    if last == '' then last = get(meta, 'generation') end
    local number = string.format('%d', last + 1)
    redis.call('HSET', meta, 'last_generation', number, 'next_generation', number)
    for i = 2, #args, 2 do redis.call('HSET', meta, 'next_' .. args[i], args[i + 1]) end
  end
  return redis.call('HGETALL', meta)
end

-- KEYS: meta. ARGS: token, ms (0 ends it), topic id, ... See `is_sealed`.
local function seal(keys, args)
  local meta = keys[1]
  local lost = lost_lease(meta, args[1])
  if lost then return lost end
  if args[2] == '0' then
    redis.call('HDEL', meta, 'sealed')
  else
    local ends = string.format('%d', now_ms() + args[2])
    redis.call('HSET', meta, 'sealed', ends .. ' ' .. table.concat(args, ' ', 3))
  end
  return 'OK'
end

local function forget_next(meta)
  for _, name in ipairs(MADE_WITH) do redis.call('HDEL', meta, 'next_' .. name) end
  redis.call('HDEL', meta, 'sealed')
end

-- KEYS: meta, positions, the next generation's positions, marks of both. ARGS: token, id of the
-- fences topic, ids of the topics that were read anew. Returns the places in which the next one is
-- behind, and where there are none puts it in place. What a client was told stays visible so.
local function switch(keys, args)
  local meta, held, following = keys[1], keys[2], keys[3]
  local lost = lost_lease(meta, args[1])
  if lost then return lost end
  local anew = {}
  for i = 3, #args do anew[args[i]] = true end
  local behind, carried = {}, {}
  local positions = redis.call('HGETALL', held)
  for i = 1, #positions, 2 do
    local place, offset = positions[i], positions[i + 1]
    local topic = string.match(place, '^(.*):%d+$')
    if anew[topic] then
      local reached = tonumber(get(following, place)) or 0
      if reached < tonumber(offset) then behind[#behind + 1] = place end
    elseif topic ~= args[2] then
      -- What was asked and what was forgotten is so for every generation.
      carried[#carried + 1] = place
      carried[#carried + 1] = offset
    end
  end
  if #behind > 0 then return behind end
  call_with_all('HSET', following, carried)
  if keys[5] then raise_to(keys[5], redis.call('HGETALL', keys[4])) end
  redis.call('HSET', meta, 'dropping', get(meta, 'generation'))
  for _, name in ipairs(MADE_WITH) do
    redis.call('HSET', meta, name, get(meta, 'next_' .. name))
  end
  forget_next(meta)
  return behind
end

-- KEYS: meta. ARGS: token. The next generation is given up.
local function abandon(keys, args)
  local meta = keys[1]
  local lost = lost_lease(meta, args[1])
  if lost then return lost end
  local number = get(meta, 'next_generation')
  if number ~= '' then redis.call('HSET', meta, 'dropping', number) end
  forget_next(meta)
  return number
end

-- KEYS: those of a generation that goes. Refuses those of one that is in use.
local function drop(keys)
  for _, key in ipairs(keys) do
    local meta, generation = owner(key)
    if get(meta, 'dropping') ~= generation then
      return redis.error_reply('CLOSED this generation of the memory is not to be dropped')
    end
    if redis.call('TYPE', key).ok == 'hash' then shred(key) else redis.call('DEL', key) end
  end
  return #keys
end

-- KEYS: meta. ARGS: generation. All of it is gone.
local function dropped(keys, args)
  if get(keys[1], 'dropping') == args[1] then redis.call('HDEL', keys[1], 'dropping') end
  return 'OK'
end

-- Whether a stream holds all that was ever added to it.
local function is_whole(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  local found = {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  return found['entries-added'] == found['length']
end

-- KEYS: changes, positions. ARGS: id of what was read last ('' for nothing), how many entries to read,
-- and which fields of items beside id, label and vector (older programs want none). Returns the
-- positions, the id of what is read now, how many entries were, and of each image in them its digest and
-- those fields as they are now (nil: it is not shown). An error where it cannot go on from there. (The
-- items are in other slots, as `guarded` says.)
local function changed(keys, args)
  local changes, last, count = keys[1], args[1], tonumber(args[2])
  local fields = {'id', 'label', 'vector', unpack(args, 3)}
  local meta, generation = owner(changes)
  if get(meta, 'generation') ~= generation then
    return redis.error_reply('CLOSED this generation of the memory does not answer any more')
  end
  local entries = redis.call('XRANGE', changes, last == '' and '-' or last, '+', 'COUNT', count + 1)
  local first = 1
  if last ~= '' then
    -- What was read last comes first: else the stream was cut, or is another one.
    if not entries[1] or entries[1][1] ~= last then return redis.error_reply('LOST the stream was cut') end
    first = 2
  elseif entries[1] and not is_whole(changes) then
    return redis.error_reply('LOST the stream was cut')
  end
  local prefix = string.match(changes, '^(.*):changes$')
  local told, reply = {}, {redis.call('HGETALL', keys[2]), last, 0}
  for i = first, math.min(#entries, count + first - 1) do
    local image = entries[i][2][2]
    reply[2], reply[3] = entries[i][1], reply[3] + 1
    if not told[image] then
      told[image] = true
      reply[#reply + 1] = image
      local held = redis.call('HMGET', prefix .. ':item:{' .. image .. '}', unpack(fields))
      for field = 1, #fields do reply[#reply + 1] = held[field] end
    end
  end
  return reply
end

-- KEYS: neighbors, decided. ARGS: of each item its digest, how often it was a neighbour, and how
-- often it decided. (The items are in other slots, as `guarded` says; who counts may only read them.)
local function influence(keys, args)
  local prefix = string.match(keys[1], '^(.*):neighbors$')
  for i = 1, #args, 3 do
    local image, neighbor, decided = args[i], args[i + 1], args[i + 2]
    if redis.call('EXISTS', prefix .. ':item:{' .. image .. '}') == 1 then
      redis.call('ZINCRBY', keys[1], neighbor, image)
      if decided ~= '0' then redis.call('ZINCRBY', keys[2], decided, image) end
    end
  end
  return 'OK'
end

local function version() return VERSION end

-- A generation that is neither the memory's nor the next takes no write: what a worker that was
-- left behind puts there would outlive its erasure. (This key is in another slot: on a cluster
-- it takes another way to fence writers.)
local function guarded(callback)
  return function(keys, args)
    local meta, generation = owner(keys[1])
    if get(meta, 'generation') ~= generation and get(meta, 'next_generation') ~= generation then
      return redis.error_reply('CLOSED this generation of the memory is not in use any more')
    end
    return callback(keys, args)
  end
end

-- Several calls in one: a third of their time is in how each begins. Before the arguments of each stands
-- how many keys and how many arguments it has. (The keys are in as many slots, as `guarded` says.)
local function several(callback)
  return function(keys, args)
    local replies, key, arg = {}, 1, 1
    while key <= #keys do
      local its_keys, its_args = tonumber(args[arg]), tonumber(args[arg + 1])
      replies[#replies + 1] = callback(slice(keys, key, its_keys), slice(args, arg + 2, its_args))
      key, arg = key + its_keys, arg + 2 + its_args
    end
    return replies
  end
end

-- KEYS: request, then as of several puts. ARGS: time, then as of these. Puts where the request is open and was
-- first seen then, and returns what they do; else nothing.
local function put_opened(keys, args)
  local held = redis.call('HMGET', keys[1], 'time', 'closed')
  if held[1] ~= args[1] or held[2] then return {} end
  return several(put)(slice(keys, 2, #keys - 1), slice(args, 2, #args - 1))
end

-- A full Redis must still forget, note how far it came, and let a worker start that does so.
local IN_A_FULL_REDIS = {'allow-oom'}
local READING = {'no-writes', 'allow-oom'}
local function register(name, callback, flags)
  redis.register_function{function_name = name, callback = callback, flags = flags}
end

register('vm1_put_several', guarded(several(put)), {})
register('vm1_erase_several', guarded(several(put)), IN_A_FULL_REDIS)
register('vm1_admit_several', guarded(several(admit)), {})
register('vm1_list_several', guarded(several(list)), {})
register('vm1_changed', changed, READING)
register('vm1_enlist', guarded(enlist), {})
register('vm1_put', guarded(put), {})
register('vm1_erase', guarded(put), IN_A_FULL_REDIS)
register('vm1_relist', guarded(enlist), IN_A_FULL_REDIS)
register('vm1_barrier', barrier, READING)
register('vm1_look', look, READING)
register('vm1_untold', untold, READING)
register('vm1_told', guarded(told), IN_A_FULL_REDIS)
register('vm1_fence', guarded(fence), IN_A_FULL_REDIS)
register('vm1_advance', guarded(advance), IN_A_FULL_REDIS)
register('vm1_advance_both', guarded(advance_both), IN_A_FULL_REDIS)
register('vm1_advance_noted', guarded(advance_noted), IN_A_FULL_REDIS)
register('vm1_influence', guarded(influence), {})
register('vm1_sent', guarded(sent), IN_A_FULL_REDIS)
register('vm1_rewind', guarded(rewind), IN_A_FULL_REDIS)
register('vm1_open_request', guarded(open_request), IN_A_FULL_REDIS)
register('vm1_erase_opened', guarded(put_opened), IN_A_FULL_REDIS)
register('vm1_note_counts', guarded(note_counts), IN_A_FULL_REDIS)
register('vm1_count_found', guarded(count_found), IN_A_FULL_REDIS)
register('vm1_close_request', guarded(close_request), IN_A_FULL_REDIS)
register('vm1_grow', guarded(grow), IN_A_FULL_REDIS)
register('vm1_claim', claim, IN_A_FULL_REDIS)
register('vm1_lease', lease, IN_A_FULL_REDIS)
register('vm1_begin', begin, {})
register('vm1_seal', seal, IN_A_FULL_REDIS)
register('vm1_switch', switch, IN_A_FULL_REDIS)
register('vm1_abandon', abandon, IN_A_FULL_REDIS)
register('vm1_drop', drop, IN_A_FULL_REDIS)
register('vm1_dropped', dropped, IN_A_FULL_REDIS)
register('vm1_version', version, READING)
