--- The fault matrix: every fault of a family meets callers in every state
-- (matrix/states.lua), on one server for the whole family.
--
--     local family = {
--       set_up = function(f) f.server = env.start() end,  -- and more, if need be
--       tear_down = function(f) ... end,                  -- of that
--       route = function(f) return f.server.url end,      -- the victim's
--       hold = function(c) ... end, -- makes a connect take its time
--       faults = { {
--         name = "fast shutdown",
--         breaks = true,        -- statements under way do not end by themselves
--         timeout_ms = 300,     -- the callers', if nothing else ends their wait
--         early = true,         -- it is about connects: it strikes before them
--         needs = function(f) ... end,   -- true, or what this machine lacks
--         patience_ms = 400,     -- of who waits for the server's return; then
--                                -- he asks anew
--         strike = function(c) ... end,  -- returns when the fault is there
--         heal = function(c) ... end,    -- returns when the server is back
--         expect = { idle = "refused retryable", ... },
--       } },
--     }
--     matrix.describe(_ENV, "server", family)
--
-- An expectation is what each call of the state gets: "ok", or the code of the
-- error (of code query: its SQLSTATE) and, if so, "retryable" and "ambiguous";
-- alternatives are separated by " | ". A list has one for each call. A table
-- with `pending = "why"` is a known bug.
--
-- Every cell also checks that the end is soon; that the same manager serves a
-- tenant of another server meanwhile; that the victim is served within one
-- backoff step of the server's return; that no lease, waiter or backend is
-- left; and the ledger (matrix/ledger.lua).

local core = require "mtenant.core"
local env = require "tests.support.env"
local ledger = require "tests.support.matrix.ledger"
local mtenant = require "mtenant"
local states = require "tests.support.matrix.states"

local M = {}

local STEP_MS = 200   -- breaker.max_delay_ms, up to a quarter longer
local SLACK_MS = tonumber(os.getenv("MT_MATRIX_SLACK_MS")) or 500 -- the machine's
local END_MS = 3000   -- no caller waits longer than that for its answer
local OTHER_MS = 400 + SLACK_MS -- nor one of another server

local cell_methods = {}
local cell_mt = { __name = "cell", __index = cell_methods }


-- ---- callers and what they get ------------------------------------------------

--- The words of an expectation for what a call returned.
function M.outcome_of(ok, err)
  if ok then return "ok" end
  local words = { err.code == "query" and err.sqlstate or err.code }
  if err.retryable then words[#words + 1] = "retryable" end
  if err.ambiguous then words[#words + 1] = "ambiguous" end
  return table.concat(words, " ")
end


--- A task of the cell; it is awaited, and must not raise.
function cell_methods:spawn(fn)
  self.tasks[#self.tasks + 1] = mtenant.spawn(fn)
end


--- A write in two steps, for pipelines. `fn(n)` starts it.
function cell_methods:begin(fn, pair)
  local n = self.ledger:begin(pair)
  local call = { n = n }
  self.calls[#self.calls + 1] = call
  call.future = fn(n)
  return call
end


function cell_methods:finish(call, ok, err)
  self.ledger:tell(call.n, ok, err)
  call.outcome, call.error = M.outcome_of(ok, err), err
  return ok, err
end


--- One write: fn(n) returns what the caller is told.
function cell_methods:attempt(fn, pair)
  local n = self.ledger:begin(pair)
  local call = { n = n }
  self.calls[#self.calls + 1] = call
  return self:finish(call, fn(n))
end


local function await_all(c)
  local _, late = mtenant.with_deadline(END_MS, function()
    for _, task in ipairs(c.tasks) do
      if not task.done then
        local until_done = mtenant.spawn(function()
          while not task.done do
            if not mtenant.sleep(1) then return end
          end
        end)
        until_done:await()
      end
    end
  end)
  for i, task in ipairs(c.tasks) do
    if not task.done then
      error(("caller %d still waits after %d ms (%s)\n%s"):format(i, END_MS,
        tostring(late), debug.traceback(task.co)), 0)
    end
    task:await()
  end
end


local function is_one_of(outcome, expected)
  return (" | " .. expected .. " | "):find(" | " .. outcome .. " | ", 1, true)
end


local function check_outcomes(c)
  local expected = c.expected
  assert(#c.calls > 0, "nobody called")
  for i, call in ipairs(c.calls) do
    local wanted = type(expected) == "table" and expected[i] or expected
    if not is_one_of(call.outcome or "nothing", wanted) then
      error(("call %d got %s, expected %s (%s)"):format(i,
        call.outcome or "nothing", wanted, tostring(call.error)), 0)
    end
  end
end


-- ---- the managers ---------------------------------------------------------------

--- A manager for both servers: the victim's and the other one.
function cell_methods:make_manager()
  local family = self.family
  return env.manager({
    connection = {
      max_connections = self.state.connections or 2, cancel_timeout_ms = 150,
      pool = { connect_timeout_ms = 300, acquire_timeout_ms = 2000 },
      retry = { max_attempts = 1000, initial_delay_ms = 20,
                max_delay_ms = STEP_MS },
    },
    breaker = { initial_delay_ms = 50, max_delay_ms = STEP_MS },
    resolve = function(id)
      return { url = id == "other" and env.server().url or family:route(),
               schema = "t_" .. id }
    end,
  })
end


local function await_idle()
  env.eventually("the pools to be idle", function()
    return core.stats().leases == 0
  end)
end


-- ---- the other tenant ------------------------------------------------------------

-- It reads and writes all the time; nothing that happens may be felt there.
local function other_tenant(c)
  local db = assert(c.manager:get_db("other"))
  while not c.over do
    local started = mtenant.now_ms()
    local n = c.others:begin()
    local ok, err = db:query(ledger.INSERT, n)
    c.others:tell(n, ok, err)
    local took = mtenant.now_ms() - started
    if not ok then error("another server's tenant got " .. tostring(err), 0) end
    if took > OTHER_MS then
      error(("another server's tenant waited %.0f ms"):format(took), 0)
    end
    mtenant.sleep(5)
  end
end


-- ---- one cell -----------------------------------------------------------------------

-- Asks until it is served; what it is told meanwhile does not matter.
local function patient(c)
  local patience_ms = c.fault.patience_ms or math.huge
  while true do
    local db = mtenant.with_deadline(patience_ms, c.manager.get_db_async,
                                     c.manager, c.tenant)
    if db then return mtenant.now_ms() end
    mtenant.sleep(20)
  end
end


local function recover(c)
  local task = mtenant.spawn(patient, c)
  if c.fault.heal then
    mtenant.sleep(30)
    c.fault.heal(c)
  end
  local back = mtenant.now_ms()
  local at = task:await()
  c.recovery_ms = at - back
  local limit = STEP_MS * 1.25 + SLACK_MS
  if at - back > limit then
    error(("it was served %.0f ms after the server's return, limit %.0f"):format(
      at - back, limit), 0)
  end
  local _, err = c:attempt(function(n) return c.db:query(ledger.INSERT, n) end)
  if err then error("after the server's return: " .. tostring(err), 0) end
end


local function check_ledgers(c)
  env.eventually("our backends to go", function()
    return env.count("true", c.server) == 0
  end)
  c.ledger:check(env.sql(ledger.counts("t_" .. c.tenant), c.server))
  c.others:check(env.sql(ledger.counts("t_other")))
end


local function new_cell(family, fault, name)
  return setmetatable({
    family = family, fault = fault, state = states[name], tenant = "victim",
    server = family.server, proxy = family.proxy,
    expected = fault.expect[name], long = fault.breaks and 30 or 0.3,
    calls = {}, tasks = {}, ledger = ledger.new(), others = ledger.new(),
  }, cell_mt)
end


local function play(c)
  env.sql("TRUNCATE t_victim.ledger", c.server)
  env.sql("TRUNCATE t_other.ledger")
  c.manager = c:make_manager()
  c.db = assert(c.manager:get_db(c.tenant))
  c.other = mtenant.spawn(other_tenant, c)
  local early = c.fault.early and c.state == states.connecting
  if early then c.fault.strike(c) end
  c.state.enter(c)
  if not early then c.fault.strike(c) end
  c.struck = true
  if c.state.after then c.state.after(c) end
  await_all(c)
  check_outcomes(c)
  recover(c)
  c.over = true
  c.other:await()
  await_idle()
  c.manager:dispose()
  check_ledgers(c)
end


-- A cell that fails must not make the next one fail.
local function run(family, fault, name)
  local can = not fault.needs or fault.needs(family)
  if can ~= true then
    io.stderr:write(("%s x %s needs %s: left out\n"):format(fault.name, name, can))
    return
  end
  local c = new_cell(family, fault, name)
  local started = mtenant.now_ms()
  local ok, err = xpcall(play, function(err)
    return type(err) == "string" and debug.traceback(err) or err
  end, c)
  if os.getenv("MT_MATRIX_TIMES") then
    io.stderr:write(("%6.0f ms, %4.0f to recover  %s x %s\n"):format(
      mtenant.now_ms() - started, c.recovery_ms or -1, fault.name, name))
  end
  if ok then return end
  c.over, c.struck = true, true
  if c.other then pcall(c.other.await, c.other) end
  if c.proxy then c.proxy:normal() end
  pcall(env.signal, c.server, "CONT")
  if fault.heal then pcall(fault.heal, c) end
  c.server:start()
  error(err, 0)
end


local function make_tables(family)
  env.tenants({ "other" })
  env.sql(ledger.create("t_other"))
  env.tenants({ "victim" }, family.server)
  env.sql(ledger.create("t_victim", family.table_options), family.server)
end


--- For setup(): the servers of a family.
function M.set_up(family)
  return function()
    family:set_up()
    make_tables(family)
  end
end


--- For teardown().
function M.tear_down(family)
  return function()
    if family.proxy then family.proxy:stop() end
    if family.tear_down then family:tear_down() end
    env.close(family.server)
  end
end


-- In order: `name`, `run` (the body of a test), and `pending`, the reason why it
-- must fail.
local function cells_of(family)
  local cells = {}
  for _, fault in ipairs(family.faults) do
    for _, name in ipairs(states.NAMES) do
      local expected = fault.expect[name]
      if expected then
        cells[#cells + 1] = {
          name = ("%s x %s"):format(fault.name, name),
          pending = type(expected) == "table" and expected.pending,
          run = env.in_task(function() run(family, fault, name) end),
        }
      end
    end
  end
  return cells
end


--- Makes the family's tests, one for each of its cells. `b` has busted's
-- functions: the `_ENV` of the spec.
function M.describe(b, name, family)
  b = b or getfenv(2) -- luacheck: ignore 113 (LuaJIT has no _ENV)
  b.describe("fault matrix, " .. name .. ":", function()
    b.setup(M.set_up(family))
    b.teardown(M.tear_down(family))
    b.after_each(env.assert_nothing_left)

    for _, cell in ipairs(cells_of(family)) do
      (cell.pending and b.pending or b.it)(cell.name, cell.run)
    end
  end)
end


return M
