#!lua name=visual_memory_v1

-- The law (memory/law.py) as Redis functions. Each touches one slot: its keys share a hash tag.
-- Times are strings of 16 digits and stamps start with one, so they compare as strings: Lua's
-- numbers would lose digits of microseconds. '' is "never".
--
-- An image's hash is `item` while it has a live trace (the search index covers that prefix) and
-- `wait` while it has none, never both: a document without a vector would still be counted.
--   b barrier   ts cs stamps of trace and correction   corrected ('' withdrawn)
--   sel selectors, space-separated   label the one that counts
--   id image label asserted source subjects attributes embedder vector: the trace
--   >address    an event's place in the log

local TRACE = {'id', 'image', 'asserted', 'source', 'subjects', 'attributes', 'embedder', 'vector'}
local VERSION = 1
local AT_ONCE = 4000

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

local function union(held, given)
  local all, changed = {}, false
  for selector in string.gmatch(held, '%S+') do all[selector] = true end
  for selector in string.gmatch(given, '%S+') do
    if not all[selector] then all[selector] = true; changed = true end
  end
  if not changed then return held, false end
  local sorted = {}
  for selector in pairs(all) do sorted[#sorted + 1] = selector end
  table.sort(sorted)
  return table.concat(sorted, ' '), true
end

-- Overwritten before they go: DEL alone leaves the bytes in the process's memory.
local function shred(key)
  local junk = {}
  for _, name in ipairs({'id', 'image', 'label', 'asserted', 'corrected', 'source', 'subjects',
                         'attributes', 'vector', 'ts', 'cs'}) do
    local length = redis.call('HSTRLEN', key, name)
    if length > 0 then
      junk[#junk + 1] = name
      junk[#junk + 1] = string.rep('x', length)
    end
  end
  if #junk > 0 then redis.call('HSET', key, unpack(junk)) end
  redis.call('DEL', key)
end

-- KEYS: item, wait, outbox. ARGS: barrier, address, selectors, register ('t', 'c' or ''), stamp,
-- then for 't' the values of TRACE, for 'c' the label ('' withdraws).
-- Returns barrier, won, erased, visible, selectors, size of the outbox.
local function put(keys, args)
  local item, wait, outbox = keys[1], keys[2], keys[3]
  local address, given, register, stamp = args[2], args[3], args[4], args[5]
  local was_visible = redis.call('EXISTS', item) == 1
  local key = was_visible and item or wait
  local held = redis.call('HMGET', key, 'b', 'ts', 'cs', 'sel', 'asserted', 'corrected')
  local old_barrier = held[1] or ''
  local barrier = greater(args[1], old_barrier)
  local ts, cs, asserted, corrected = held[2] or '', held[3] or '', held[5], held[6] or ''
  local had_trace, had_correction = ts ~= '', cs ~= ''
  local set, drop = {}, {}
  local function assign(name, value) set[#set + 1] = name; set[#set + 1] = value end

  local new_trace = register == 't' and stamp > ts and not is_dead(stamp, barrier)
  local new_correction = register == 'c' and stamp > cs and not is_dead(stamp, barrier)
  local stands = register == 't' and (new_trace or stamp == ts)
    or register == 'c' and (new_correction or stamp == cs)
  if new_trace then ts = stamp; asserted = args[8] end
  if new_correction then cs = stamp; corrected = args[6] end
  local trace_dies = had_trace and is_dead(ts, barrier)
  local correction_dies = had_correction and is_dead(cs, barrier)
  if trace_dies then ts = '' end
  if correction_dies then cs = ''; corrected = '' end
  local visible = ts ~= ''

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
  if visible and (new_trace or new_correction or correction_dies) then
    assign('label', corrected ~= '' and corrected or asserted)
  end
  if address ~= '' and string.sub(address, 1, 16) > barrier
      and redis.call('HEXISTS', key, '>' .. address) == 0 then
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
  if correction_dies and held[6] and (visible or not was_visible) then
    -- The rest of the hash lives on; `shred` does this where it does not.
    redis.call('HSET', key, 'corrected', string.rep('x', string.len(held[6])))
  end

  if was_visible == visible then
    -- One HSET: every command that touches the hash makes the index read it again.
    call_with_all('HSET', key, set)
    call_with_all('HDEL', key, drop)
  elseif visible then
    call_with_all('HDEL', wait, drop)
    local moved = redis.call('HGETALL', wait)
    for i = 1, #set do moved[#moved + 1] = set[i] end
    call_with_all('HSET', item, moved)
    redis.call('DEL', wait)
  else
    local kept = {'b', barrier, 'sel', selectors}
    if cs ~= '' then
      for _, part in ipairs({'cs', cs, 'corrected', corrected}) do kept[#kept + 1] = part end
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
  return {barrier, stands and 1 or 0, (trace_dies or correction_dies) and 1 or 0,
          visible and 1 or 0, selectors, redis.call('SCARD', outbox)}
end

-- KEYS: posting, until. ARGS: image. Returns the selector's fence.
local function enlist(keys, args)
  redis.call('SADD', keys[1], args[1])
  return redis.call('GET', keys[2]) or ''
end

-- KEYS: item, wait. Returns the item's barrier.
local function barrier(keys, args)
  return redis.call('HGET', keys[1], 'b') or redis.call('HGET', keys[2], 'b') or ''
end

-- KEYS: until. ARGS: until.
local function fence(keys, args)
  local until_ = greater(args[1], redis.call('GET', keys[1]))
  redis.call('SET', keys[1], until_)
  return until_
end

-- KEYS: hash. ARGS: field, number, ... Each field keeps its greatest number.
local function advance(keys, args)
  for i = 1, #args, 2 do
    local held = tonumber(redis.call('HGET', keys[1], args[i]) or '-1')
    if tonumber(args[i + 1]) > held then
      redis.call('HSET', keys[1], args[i], args[i + 1])
    end
  end
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

-- KEYS: request, expansion. ARGS: time of a request that was never opened here.
local function close_request(keys, args)
  redis.call('HSETNX', keys[1], 'time', args[1])
  redis.call('HSET', keys[1], 'closed', '1')
  redis.call('DEL', keys[2])
  return 'OK'
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

local function version() return VERSION end

-- A full Redis must still forget, note how far it came, and let a worker start that does so.
local IN_A_FULL_REDIS = {'allow-oom'}
local READING = {'no-writes', 'allow-oom'}
local function register(name, callback, flags)
  redis.register_function{function_name = name, callback = callback, flags = flags}
end

register('vm1_put', put, {})
register('vm1_erase', put, IN_A_FULL_REDIS)
register('vm1_enlist', enlist, {})
register('vm1_relist', enlist, IN_A_FULL_REDIS)
register('vm1_barrier', barrier, READING)
register('vm1_fence', fence, IN_A_FULL_REDIS)
register('vm1_advance', advance, IN_A_FULL_REDIS)
register('vm1_open_request', open_request, IN_A_FULL_REDIS)
register('vm1_close_request', close_request, IN_A_FULL_REDIS)
register('vm1_grow', grow, IN_A_FULL_REDIS)
register('vm1_claim', claim, IN_A_FULL_REDIS)
register('vm1_version', version, READING)
