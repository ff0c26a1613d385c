--- A cache of routes: for how long each may be used, and which are let go of
-- when there are too many. Pure: the clock is an argument, and it asks nobody.
-- Used by router.lua.
--
-- Everything of an entry is in arrays, at its slot's number: a million of
-- tables would cost several times the memory, and the collector's time.


local huge, max, pairs, type = math.huge, math.max, pairs, type


local M = {}


---@class mtenant.RouteCache
---@field counters table  hits, stale, negative, misses, evictions
local methods = {}
local mt = { __name = "mtenant.route_cache", __index = methods }


-- fields of a route that say nothing of where a tenant lives, or how
local ASIDE = { ttl_ms = true, labels = true }
local NONE = {}


-- but for the fields in `aside`
local function same(a, b, aside)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" then return false end
  for key, value in pairs(a) do
    if not aside[key] and not same(value, b[key], NONE) then return false end
  end
  for key in pairs(b) do
    if not aside[key] and a[key] == nil then return false end
  end
  return true
end


-- ---- the order of use ------------------------------------------------------

local function unlink(self, slot)
  local before, after = self._before[slot], self._after[slot]
  if before == 0 then self._newest = after else self._after[before] = after end
  if after == 0 then self._oldest = before else self._before[after] = before end
end


local function link(self, slot)
  local newest = self._newest
  self._before[slot], self._after[slot] = 0, newest
  if newest == 0 then self._oldest = slot else self._before[newest] = slot end
  self._newest = slot
end


local function touch(self, slot)
  if self._newest == slot then return end
  unlink(self, slot)
  link(self, slot)
end


-- the slot of a new entry: that of the oldest one where it is full
local function take_slot(self)
  if self._count < self._max then
    self._count = self._count + 1
    return self._count
  end
  local slot = self._oldest
  unlink(self, slot)
  self._slots[self._ids[slot]] = nil
  self.counters.evictions = self.counters.evictions + 1
  return slot
end


local function slot_for(self, id)
  local slot = self._slots[id]
  if slot then
    touch(self, slot)
    return slot
  end
  slot = take_slot(self)
  self._slots[id], self._ids[slot] = slot, id
  self._values[slot], self._tags[slot] = false, 0
  link(self, slot)
  return slot
end


-- ---- reading ------------------------------------------------------------

local function count(self, what)
  local counters = self.counters
  counters[what] = counters[what] + 1
  return what
end


-- what is known in that slot: "fresh", "stale", "negative" or nil
local function state_of(self, slot, now)
  if self._versions[slot] ~= self._version then return nil end
  local fresh = now < self._fresh[slot]
  if self._tags[slot] == 0 then return fresh and "negative" or nil end
  if fresh then return "fresh" end
  return now < self._stale[slot] and "stale" or nil
end


--- What may be used for a tenant now; counts as a use.
---@param id string
---@return string|nil state  fresh, stale or negative; nil: it must be asked for
---@return table|nil value  the route, or the error of a negative answer
---@return integer|nil tag  of the route: another one is another route
---@return number|nil fresh_ms  how long it is fresh yet
---@return number|nil stale_ms  how long it may be used after that
function methods:look(id)
  local slot, now = self._slots[id], self._now_ms()
  local state = slot and state_of(self, slot, now)
  if not state then
    count(self, "misses")
    return nil
  end
  touch(self, slot)
  count(self, state == "fresh" and "hits" or state)
  local value, tag = self._values[slot], self._tags[slot]
  if state == "negative" then return state, value end
  local from = max(now, self._fresh[slot])
  return state, value, tag, from - now, self._stale[slot] - from
end


--- As look, but nothing is counted or changed.
---@return string|nil state
---@return table|nil value
function methods:peek(id)
  local slot = self._slots[id]
  local state = slot and state_of(self, slot, self._now_ms())
  if state then return state, self._values[slot] end
end


--- The route that was known last, for when nobody can say: as long as that is
-- allowed.
---@return table|nil route
---@return integer|nil tag
---@return number|nil left_ms
function methods:last_good(id)
  local slot = self._slots[id]
  if not slot or self._tags[slot] == 0 then return nil end
  local left = self._keep[slot] - self._now_ms()
  if left <= 0 then return nil end
  return self._values[slot], self._tags[slot], left
end


-- ---- writing ------------------------------------------------------------

local function put(self, id, ttl_ms, stale_ms, keep_ms)
  local slot = slot_for(self, id)
  local fresh = self._now_ms() + ttl_ms
  self._fresh[slot], self._stale[slot] = fresh, fresh + stale_ms
  self._keep[slot] = fresh + keep_ms
  self._versions[slot] = self._version
  return slot
end


--- Notes the route of a tenant. One that is the same as before keeps its tag.
---@param id string
---@param route table  not to be changed any more
---@param ttl_ms? number  instead of the cache's own
---@return integer tag
---@return number fresh_ms
---@return number stale_ms
function methods:put(id, route, ttl_ms)
  ttl_ms = ttl_ms or self._ttl_ms
  local slot = put(self, id, ttl_ms, self._stale_ms, self._keep_ms)
  local tag = self._tags[slot]
  if tag == 0 or not same(self._values[slot], route, ASIDE) then
    tag = self:new_tag()
  end
  self._tags[slot], self._values[slot] = tag, route
  return tag, ttl_ms, self._stale_ms
end


--- Notes that a tenant has no route.
---@param id string
---@param err table  what its callers get
---@param ttl_ms? number
function methods:put_negative(id, err, ttl_ms)
  local slot = put(self, id, ttl_ms or self._negative_ms, 0, 0)
  self._tags[slot], self._values[slot] = 0, err
end


--- Lets the last good route serve on, to be asked for again after a while.
---@param id string
---@param retry_ms number
---@return number fresh_ms
---@return number stale_ms
function methods:prolong(id, retry_ms)
  local slot, now = self._slots[id], self._now_ms()
  local keep = self._keep[slot]
  local fresh = math.min(now + retry_ms, keep)
  self._fresh[slot], self._stale[slot] = fresh, keep
  self._versions[slot] = self._version
  return fresh - now, keep - fresh
end


--- A tag that no route has had.
---@return integer
function methods:new_tag()
  self._last_tag = self._last_tag + 1
  return self._last_tag
end


--- What is known of a tenant must be asked for before it is used again.
---@return boolean  whether anything was known
function methods:outdate(id)
  local slot = self._slots[id]
  if not slot then return false end
  self._versions[slot] = 0
  return true
end


--- The same for every tenant, at once.
function methods:outdate_all()
  self._version = self._version + 1
end


--- Number of entries.
---@return integer
function methods:count()
  return self._count
end


--- Makes a cache.
---@param opts table  now_ms (function), ttl_ms, negative_ttl_ms,
--  stale_while_revalidate_ms, stale_if_error_ms, max_entries
---@return mtenant.RouteCache
function M.new(opts)
  return setmetatable({
    counters = { hits = 0, stale = 0, negative = 0, misses = 0, evictions = 0 },
    _now_ms = opts.now_ms,
    _ttl_ms = opts.ttl_ms or 60000,
    _negative_ms = opts.negative_ttl_ms or 0,
    _stale_ms = opts.stale_while_revalidate_ms or 0,
    _keep_ms = opts.stale_if_error_ms or 0,
    _max = opts.max_entries or huge,
    _version = 1, _last_tag = 0, _count = 0, _newest = 0, _oldest = 0,
    _slots = {}, _ids = {}, _values = {}, _tags = {}, _versions = {},
    _fresh = {}, _stale = {}, _keep = {}, _before = {}, _after = {},
  }, mt)
end


return M
