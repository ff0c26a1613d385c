--- The virtual clock: runs a function on a loop of its own, whose time moves
--- only when everybody waits.
-- The scheduler, the operations and the core are the real ones; the loop is
-- src/reactor/reactor_manual.c. The real loop stands still meanwhile, and its
-- tasks and managers are put aside. Used by testing.lua.

require "mtenant" -- errors of the core are error objects from then on

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local manager = require "mtenant.manager"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local floor, huge = math.floor, math.huge

local SEEDS = 2147483647
local DAY_MS = 86400000
-- so often may the loop turn without time going on
local TURNS_AT_A_TIME = 1000000
-- the core's own limit for a disposal is shorter
local DISPOSAL_MS = 60000


local options = schema.new({
  name = "testing.run",
  { "seed", kind = "integer", min = 0 },
  { "auto_advance", kind = "boolean", default = true },
  { "limit_ms", kind = "number", min = 0, default = 7 * DAY_MS },
  { "io_wait_ms", kind = "integer", min = 0, default = 100 },
})


local running -- the clock of the run that is under way


---@class mtenant.testing.Clock
---@field seed integer  what the run's random numbers came from
local methods = {}
local mt = { __name = "mtenant.testing.clock", __index = methods }


--- Virtual milliseconds since the run began.
---@return number
function methods:now()
  local ms = core.now_ms() - self._start
  local whole = floor(ms) -- an integer, where Lua has them
  return whole == ms and whole or ms
end


--- Waits. Moves the clock: returns when everything that is due until then has
-- run.
---@param ms number
---@return boolean|nil ok
---@return table|nil err  code "cancelled" or "timeout"
function methods:advance(ms)
  if type(ms) ~= "number" or not (ms >= 0 and ms < huge) then
    errors.misuse(2, "advance: ms must be a number >= 0")
  end
  if running ~= self then
    errors.misuse(2, "advance: the run of this clock is over")
  end
  local until_ms = core.now_ms() + ms
  self._until = math.max(self._until, until_ms)
  local ok, err = task.sleep(ms)
  -- those that were set for the same moment, but later
  local rounds = 0
  while ok and core.virtual_next() == 0 and rounds < 1000 do
    rounds = rounds + 1
    ok, err = task.sleep(0)
  end
  return ok, err
end


-- ---- the loop ------------------------------------------------------------

local function stuck(clock)
  if core.virtual_next() == nil then
    return "every task waits for another one, or for something that is not "
      .. "on the virtual clock"
  elseif clock._manual then
    return "every task waits, and the clock is moved by hand: call "
      .. "clock:advance"
  end
  return string.format("the clock has come to limit_ms (%g)", clock._limit)
end


-- Runs the loop until a task is done; returns a message when it can't.
local function drive(clock, goal)
  local turn, now = core.virtual_turn, core.now_ms
  local last, still, start = now(), 0, clock._start
  while not goal.done do
    local t = now()
    if t > last then last, still = t, 0 end
    still = still + 1
    if still > TURNS_AT_A_TIME then
      return "the clock stands still: tasks go on and on without waiting for a "
        .. "time to come"
    end
    local within = clock._manual and clock._until - t
      or start + clock._limit - t
    if not turn(within, clock._io_wait) and not goal.done then
      return stuck(clock)
    end
  end
end


-- ---- the run ------------------------------------------------------------

local function new_seed()
  local text = os.getenv("MTENANT_SEED")
  if not text or text == "" then return floor(core.random() * SEEDS) end
  local seed = text:find("^%d+$") and tonumber(text)
  if not seed or seed > SEEDS then
    errors.misuse(3, "testing.run: MTENANT_SEED must be an integer from 0 to %d",
                  SEEDS)
  end
  return seed
end


-- Managers that were made in the run end with it.
local function dispose_managers(clock)
  clock._manual, clock._limit = false, clock:now() + DISPOSAL_MS
  drive(clock, task.spawn(manager.dispose_all))
end


local function enter(clock)
  -- what a policy draws from math.random repeats too
  clock._random_after = math.random(0, SEEDS)
  math.randomseed(clock.seed)
  core.virtual_begin(clock.seed)
  clock._tasks, clock._managers = task.swap(), manager.swap()
  clock._start = core.now_ms()
  clock._until = clock._start
  running = clock
end


local function leave(clock)
  local ok, why = pcall(dispose_managers, clock)
  running = nil
  task.abandon_all(errors.new("cancelled", "the run on the virtual clock has "
                                .. "ended"))
  core.virtual_end()
  manager.swap(clock._managers)
  task.swap(clock._tasks)
  math.randomseed(clock._random_after)
  if not ok then error(why, 0) end
end


local M = {}


--- The clock of the run that is under way, or nil.
---@return mtenant.testing.Clock|nil
function M.current()
  return running
end


--- Virtual milliseconds since the run began; outside of one as mtenant.now_ms.
---@return number
function M.now()
  return running and running:now() or core.now_ms()
end


--- Runs fn(clock, ...) as a task on a virtual clock: sleeping and waiting take
-- no real time. Works anywhere, in a task too.
---@param opts? table  { seed =, auto_advance = true, limit_ms = seven days,
--  io_wait_ms = 100 }
---@param fn fun(clock: mtenant.testing.Clock, ...): ...
---@return any ...  fn's values; raises its error
function M.run(opts, fn, ...)
  if fn == nil and schema.is_callable(opts) then opts, fn = nil, opts end
  if not schema.is_callable(fn) then
    errors.misuse(2, "testing.run: fn must be a function, got %s", type(fn))
  end
  local checked = options:check(opts or {}, 2)
  if running then
    errors.misuse(2, "testing.run: a virtual clock runs already")
  end
  local clock = setmetatable({
    seed = checked.seed or new_seed(),
    _manual = not checked.auto_advance,
    _limit = checked.limit_ms,
    _io_wait = checked.io_wait_ms,
  }, mt)
  enter(clock)
  local main = task.spawn(function(...) return fn(...) end, clock, ...)
  main.observed = true
  local drove, problem = pcall(drive, clock, main)
  leave(clock)
  if not drove then error(problem, 0) end
  task.report_unobserved()
  if problem then errors.misuse(2, "testing.run: %s", problem) end
  if not main.ok then
    if not checked.seed then
      io.stderr:write("[mtenant] testing.run failed; its seed was ",
                      string.format("%d", clock.seed), "\n")
    end
    error(main.results[1], 0)
  end
  return task.unpack(main.results, 1, main.results.n)
end


return M
