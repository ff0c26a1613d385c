--- The sink of a log for a file or standard error.
--
-- Nothing waits here for a reader: what a full pipe does not take is kept, a
-- bounded number of lines, and goes with the next one. A disk that is slow
-- holds up the loop, since no operating system writes to a file in any other
-- way than at once; so after a slow write there is a rest nine times as long,
-- in which lines are kept: at most a tenth of the time goes there.

local core = require "mtenant.core"

local SLOW_MS = 5
local REST = 9
local WAIT_MS = 100 -- at a time, for a pipe that is full
local LINES_MAX, BYTES_MAX = 1000, 262144

-- tests put another in its place, to hear what is said
local real_stderr = io.stderr

local methods = {}
local mt = { __name = "mtenant.log.stream", __index = methods }

local M = {}


local function mono_ms()
  local _, ms = core.clock()
  return ms
end


-- Writes what is kept, as far as it goes; nil and a message when it fails.
local function drain(self, hurry)
  while self.first <= self.last do
    if not hurry and mono_ms() < self.rests_until then return true end
    local line = self.kept[self.first]
    local at, took_ms, failed_ms = self.file:write(line, self.at)
    local spent_ms = at and took_ms or failed_ms
    if spent_ms > SLOW_MS then
      self.rests_until = mono_ms() + spent_ms * REST
    end
    if at and at <= #line then -- no room for the rest of it
      self.at = at
      return true
    end
    self.kept[self.first], self.at = nil, 1
    self.first, self.bytes = self.first + 1, self.bytes - #line
    if not at then
      self.lost = self.lost + 1
      return nil, took_ms
    end
  end
  return true
end


local function keep(self, line)
  if self.last - self.first + 1 >= LINES_MAX
    or self.bytes + #line > BYTES_MAX then
    self.lost = self.lost + 1
    return
  end
  self.last = self.last + 1
  self.kept[self.last] = line
  self.bytes = self.bytes + #line
end


-- Says how many lines are missing, where they would have stood.
local function tell_lost(self)
  if self.lost == self.told or self.first <= self.last then return end
  local n = self.lost - self.told
  self.told = self.lost
  keep(self, self.line({
    time = (core.clock()), level = "warn", event = "log_lines_lost", lines = n,
    message = n .. " lines of this log were lost",
  }) .. "\n")
end


--- Takes a record; nil and a message when it can't be written at all.
function methods:write(record)
  local line = self.line(record) .. "\n"
  if self.stderr and io.stderr ~= real_stderr then
    io.stderr:write(line)
    return true
  end
  tell_lost(self)
  keep(self, line)
  return drain(self)
end


--- Writes what is kept, and waits for that, so long at most.
---@param timeout_ms? number
---@return boolean whether nothing is left
function methods:flush(timeout_ms)
  local until_ms = mono_ms() + (timeout_ms or 0)
  tell_lost(self)
  while true do
    local ok = drain(self, true)
    tell_lost(self)
    local left_ms = until_ms - mono_ms()
    if not ok or self.first > self.last or left_ms <= 0 then break end
    self.file:wait(math.min(left_ms, WAIT_MS))
  end
  return self.first > self.last
end


--- Opens the file of this name anew, after another one was put in its place.
function methods:reopen()
  self:flush()
  return self.file:reopen()
end


--- Lines that nobody will see.
function methods:lost_lines() return self.lost end


--- A sink.
---@param path? string  nil: standard error
---@param line fun(record: table): string  what a record becomes
---@return table|nil sink
---@return string|nil message
function M.new(path, line)
  local file, err = core.log_file(path)
  if not file then return nil, path .. ": " .. err end
  return setmetatable({
    file = file, line = line, stderr = path == nil, kept = {}, first = 1,
    last = 0, at = 1, bytes = 0, lost = 0, told = 0, rests_until = 0,
  }, mt)
end


return M
