--- Rate limiting of a log: of what happens over and over the first few are
-- told, then how often it happened. Pure but for the clock, which is given.

local WINDOWS_MAX = 4096

local methods = {}
local mt = { __name = "mtenant.log.limit", __index = methods }

local M = {}


-- What counts as the same: the event, and the server it is about, else the
-- tenant. A server that is down is one matter, however many tenants it has.
-- Who knows better says so in `same`.
local function key_of(record)
  return record.event .. "\0"
    .. tostring(record.same or record.server or record.tenant_id or "")
end


-- The oldest window is over: what was held back in it is told.
local function end_oldest(self, emit)
  local window = self.windows[self.first]
  self.windows[self.first] = nil
  self.first = self.first + 1
  self.by_key[window.key] = nil
  if window.repeated == 0 then return end
  local summary = {}
  for name, value in pairs(window.last) do summary[name] = value end
  summary.repeated = window.repeated
  summary.message = ("%s (repeated %d times within %g s)"):format(
    tostring(summary.message), window.repeated, self.interval_ms / 1000)
  emit(summary)
end


--- Tells of the windows that are over.
function methods:sweep(now_ms, emit)
  while self.first <= self.last
    and self.windows[self.first].ends_ms <= now_ms do
    end_oldest(self, emit)
  end
end


--- Tells of all that was held back.
function methods:finish(emit)
  while self.first <= self.last do end_oldest(self, emit) end
end


--- Whether a record is to be written now. Those without an event always are.
---@param record table
---@param now_ms number
---@param emit fun(record: table) for summaries
---@return boolean
function methods:pass(record, now_ms, emit)
  self:sweep(now_ms, emit)
  if not record.event then return true end
  local key = key_of(record)
  local window = self.by_key[key]
  if not window then
    if self.last - self.first + 1 >= WINDOWS_MAX then end_oldest(self, emit) end
    window = { key = key, ends_ms = now_ms + self.interval_ms, count = 0,
               repeated = 0 }
    self.last = self.last + 1
    self.windows[self.last], self.by_key[key] = window, window
  end
  window.count = window.count + 1
  if window.count <= self.burst then return true end
  window.repeated, window.last = window.repeated + 1, record
  return false
end


---@param burst integer so many of the same are written in an interval
---@param interval_ms number
function M.new(burst, interval_ms)
  return setmetatable({ burst = burst, interval_ms = interval_ms, by_key = {},
                        windows = {}, first = 1, last = 0 }, mt)
end


return M
