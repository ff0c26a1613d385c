--- How many connections work at a time. A number stays what it is; "auto" finds
-- out, by how many jobs a second are done: it begins with two, tries one more for a
-- moment, and stays with what was better. It never stops trying, but waits longer
-- after each try that was in vain, and tries nothing when the end is near: a new
-- connection has to earn what it costs. Pure: the clock is an argument.

local M = {}


local START, MOST = 2, 16
local WINDOW_MS = 150
local JOBS_EACH = 3 -- at least so many for each connection, in a window
local BETTER = 1.06 -- so much faster, for one more connection
local LONGEST_WAIT = 32 -- windows
local WORTH_MS = 1000 -- a try, as long as there is work for

local methods = {}
local mt = { __index = methods }


-- Jobs that began before the change are none of the next window's.
local function set(self, limit)
  self.limit = limit
  self.skip, self.jobs = limit, 0
end


local function settle(self, limit, rate)
  self.home, self.rate = limit, rate
  self.patience, self.wait = 0, 1
end


-- Up, or down after an up that was in vain; never below START.
local function try_next(self)
  if self.down and self.home > START then
    set(self, self.home - 1)
  elseif self.home < MOST then
    set(self, self.home + 1)
  end
end


local function go_home(self)
  self.down = not self.down
  self.patience, self.wait = self.wait, math.min(self.wait * 2, LONGEST_WAIT)
  set(self, self.home)
end


local function judge(self, rate, left)
  if self.limit > self.home then
    if rate <= self.rate * BETTER then return go_home(self) end
    settle(self, self.limit, rate)
    self.down = false
  elseif self.limit < self.home then
    if rate < self.rate then return go_home(self) end
    settle(self, self.limit, rate)
    self.down = true
  else
    self.rate = self.rate and (self.rate + rate) / 2 or rate
    self.patience = self.patience - 1
  end
  if self.patience <= 0 and left >= rate * WORTH_MS then try_next(self) end
end


--- A job is done.
---@param now number  milliseconds
---@param left integer  jobs that nobody has begun
function methods:done(now, left)
  if not self.auto then return end
  if self.skip > 0 then
    self.skip, self.since = self.skip - 1, now
    return
  end
  self.since = self.since or now
  self.jobs = self.jobs + 1
  local took = now - self.since
  if self.jobs < JOBS_EACH * self.limit or took < WINDOW_MS then return end
  local rate = self.jobs / took
  self.jobs, self.since = 0, now
  judge(self, rate, left)
end


---@param concurrency integer|"auto"
---@return table self  limit: how many may work now
function M.new(concurrency)
  local auto = concurrency == "auto"
  return setmetatable({ auto = auto, limit = auto and START or concurrency,
                        home = START, skip = 0, jobs = 0, patience = 0,
                        wait = 1, down = false }, mt)
end


return M
