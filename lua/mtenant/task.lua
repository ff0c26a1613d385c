--- Tasks: the scheduler.
-- A task is a coroutine that may wait. The core starts an operation and gives its
-- slot; the task yields; once per turn of the loop the core calls `turn`, which
-- fetches what is done and resumes whoever waited. Nothing else resumes a task.
-- In somebody else's loop (host.lua) its coroutines may wait as guests: with the
-- fields of a task that a wait needs, woken by the host's own means.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local unobserved = require "mtenant.unobserved"

local co_create, co_resume = coroutine.create, coroutine.resume
local co_running, co_status = coroutine.running, coroutine.status
local co_yield, may_wait = coroutine.yield, core.may_wait
local next_done, cancel_slot, post = core.next_done, core.cancel, core.post
local now_ms, flush = core.now_ms, core.flush
local unpack = table.unpack or unpack -- luacheck: ignore 143
local select, type, setmetatable = select, type, setmetatable


-- what a task of ours yields, to tell it from a user's own coroutine.yield
local WAIT = {}

local current          -- the task that runs now
local waiting = {}     -- slot -> task, or function(value, err)
local ready = {}       -- tasks to resume, each followed by its values or false
local ready_n = 0      -- twice the number of tasks
local live = {}        -- every task that is not done, as a set
local last_traceback
local foreign = {}     -- to be interrupted, but of the loop that stands still
local host             -- whose loop it is; nil: our own
local outside = {}     -- bears the context where there is no task


local function pack(...) return { n = select("#", ...), ... } end

local NOTHING = pack()


-- Ten thousand of them may wait: a table of four fields, and what few of them
-- have beside those.
---@class mtenant.Task
---@field done boolean
local task_methods = { done = false }
local task_mt = { __name = "mtenant.task", __index = task_methods }


local function enqueue(task, ...)
  ready[ready_n + 1] = task
  ready[ready_n + 2] = select("#", ...) > 0 and pack(...)
  ready_n = ready_n + 2
  if ready_n > 2 then return end
  post()
  if host then host.busy() end
end


local function wake_joiners(task)
  local joiners = task.joiners
  task.joiners = nil
  if not joiners then return end
  for i = 1, #joiners do joiners[i]() end
end


local function finish(task, ok, ...)
  task.done, task.ok = true, ok
  task.results = select("#", ...) > 0 and pack(...) or NOTHING
  live[task] = nil
  if not ok then
    task.traceback = debug.traceback(task.co, tostring((...)))
    last_traceback = task.traceback
    unobserved.add(task)
  end
  task.co = nil -- who keeps the task need not keep its stack
  wake_joiners(task)
end


-- after a resume: the task waits, has ended, or yielded what it must not
local function after(task, previous, ok, first, ...)
  current = previous
  if ok and first == WAIT then return end -- nobody else has WAIT to return
  if co_status(task.co) == "dead" then return finish(task, ok, first, ...) end
  finish(task, false, errors.new("misuse",
    "coroutine.yield in a task: only mtenant's own calls may wait here"))
end


-- what a task's coroutine runs: no closure for each, and a tail call
local function body(task, ...)
  if task.cancelled then return nil, task.cancelled end
  return task.fn(...)
end


-- The coroutine is made here, not by who spawns it: OpenResty's coroutines
-- inherit the request of the one that makes them.
local function step(task, ...)
  if task.guest then
    task.values = pack(...)
    return host.wake(task.waiter)
  end
  local co, previous = task.co, current
  current = task
  if co then return after(task, previous, co_resume(co, ...)) end
  co = co_create(body)
  task.co = co
  return after(task, previous, co_resume(co, task, ...))
end


-- so long at a time run tasks; then the loop looks at its sockets and timers
local SLICE_MS = 4


-- what a slice has left of a batch comes before what was queued meanwhile
local function put_back(batch, first, n)
  local rest = {}
  for i = first, n do rest[i - first + 1] = batch[i] end
  local before = n - first + 1
  for i = 1, ready_n do rest[before + i] = ready[i] end
  ready, ready_n = rest, before + ready_n
  post()
end


local function run_ready(until_ms)
  local batch, n = ready, ready_n
  ready, ready_n = {}, 0
  for i = 1, n, 2 do
    local task, values = batch[i], batch[i + 1]
    if not task.done then
      if values then step(task, unpack(values, 1, values.n)) else step(task) end
    end
    if i % 16 == 1 and now_ms() > until_ms then
      return put_back(batch, i + 2, n)
    end
  end
end


-- called by the core, once per turn
local function turn()
  local until_ms, n = now_ms() + SLICE_MS, 0
  while true do
    n = n + 1
    if n % 8 == 0 and now_ms() > until_ms then
      until_ms = now_ms() + SLICE_MS -- those that are ready get one as well
      post()
      break
    end
    local slot, value, err = next_done()
    if not slot then break end
    local waiter = waiting[slot]
    waiting[slot] = nil
    if type(waiter) == "function" then
      waiter(value, err)
    elseif waiter then
      waiter.slot = false
      step(waiter, value, err)
    elseif type(value) == "userdata" and value.release then
      value:release() -- a lease nobody waits for any more
    end
  end
  if ready_n > 0 then run_ready(until_ms) end
end

core.set_turn_handler(turn)


local M = {}


--- Why one can't wait.
M.OWN_COROUTINE = "it can't inside a coroutine of your own (coroutine.wrap or "
  .. "coroutine.create)"
M.ACROSS_C = "it can't across a C call (table.sort, string.gsub, a metamethod "
  .. "called from C)"


-- The host's coroutine that runs now; or nil and why none that could wait.
local function guest()
  local key, store = host.here()
  if not key then return nil, store end
  local found = store[key]
  if not found then
    local home = host.home and store
    found = { guest = true, done = false, waiter = host.waiter(), home = home }
    store[key] = found
  end
  return found
end


-- until what was asked for is there
local function wait(task)
  if not task.guest then return co_yield(WAIT) end
  flush()
  host.busy()
  if task.gone then error("the request has ended", 0) end
  while not task.values do host.wait(task.waiter) end
  local values = task.values
  task.values = nil
  return unpack(values, 1, values.n)
end


--- May the caller wait? Raises misuse where it can't; returns the error that
-- stops this task (cancelled, or past a deadline), else nil.
---@param what string  name of the call, for the message
function M.check(what)
  local task = current
  if not task then
    local why = "call it inside mtenant.run or a task"
    if host then
      task, why = guest()
      if task then return task.cancelled or task.expired end
    end
    errors.misuse(3, "%s waits: %s", what, why)
  end
  if may_wait(task.co) then return task.cancelled or task.expired end
  errors.misuse(3, "%s waits: %s", what, co_running() ~= task.co
    and M.OWN_COROUTINE or M.ACROSS_C)
end


--- Waits for the operation in a slot. Call check first. Takes what a starting
-- call returned as it is: without a slot its error is the result.
---@return any value
---@return table|nil err
function M.await(slot, err)
  if not slot then return nil, err end
  local task = current or guest()
  waiting[slot] = task
  task.slot = slot
  return wait(task)
end


--- Calls fn(value, err) when the operation in a slot is done.
function M.when_done(slot, fn)
  waiting[slot] = fn
end


-- waits until `start`'s argument is called; its arguments are the result
local function suspend(start)
  local task = current or guest()
  local id = {}
  task.wait = id
  start(function(...)
    if task.wait ~= id then return end
    task.wait = nil
    enqueue(task, ...)
  end)
  return wait(task)
end


--- Suspends the task until a callback calls `resume(...)`; returns those
-- values, or `nil, err` when the task is cancelled first.
---@param start fun(resume: fun(...))
function M.suspend(start)
  local stop = M.check("task.suspend")
  if stop then return nil, stop end
  return suspend(start)
end


--- Suspends the calling task for ms milliseconds.
---@param ms number
---@return boolean|nil ok
---@return table|nil err  code "cancelled" or "timeout"
function M.sleep(ms)
  if type(ms) ~= "number" or ms ~= ms then
    errors.misuse(2, "sleep: ms must be a number, got %s", type(ms))
  end
  local stop = M.check("mtenant.sleep")
  if stop then return nil, stop end
  local ok, err = M.await(core.sleep(ms))
  if err then
    local now = current or guest()
    return nil, now.cancelled or now.expired or err
  end
  return ok
end


-- makes a waiting task go on with `nil, err`
local function interrupt(task, code, err)
  if not live[task] and not task.guest then
    foreign[#foreign + 1] = { task, code, err }
  elseif task.slot then
    cancel_slot(task.slot, code)
  elseif task.wait then
    task.wait = nil
    enqueue(task, nil, err)
  end
end


--- What bears the tenant context in a field: task, host's coroutine, or program.
---@return table
function M.bearer()
  local now = M.current()
  if not now then return host and host.home and host.home() or outside end
  if now.home then now.context = now.context or now.home.context end
  return now
end


--- Starts fn(...) as a task of its own, in the caller's tenant context.
---@return mtenant.Task
function M.spawn(fn, ...)
  if type(fn) ~= "function" then
    errors.misuse(2, "spawn: fn must be a function, got %s", type(fn))
  end
  local task = setmetatable({ fn = fn, co = false, slot = false,
                              observed = false }, task_mt)
  task.context = M.bearer().context
  live[task] = true
  enqueue(task, ...)
  return task
end


-- waits for a task even when the caller itself is to stop
local function join(task)
  while not task.done do
    suspend(function(resume)
      task.joiners = task.joiners or {}
      task.joiners[#task.joiners + 1] = resume
    end)
  end
end


--- Waits for the task; returns its values, raises its error.
function task_methods:await()
  self.observed = true
  unobserved.forget(self)
  if M.current() or not self.done then
    local stop = M.check("task:await")
    if stop then return nil, stop end
  end
  if not self.done then
    local _, err = suspend(function(resume)
      self.joiners = self.joiners or {}
      self.joiners[#self.joiners + 1] = resume
    end)
    if not self.done then return nil, err end
  end
  if not self.ok then error(self.results[1], 0) end
  return unpack(self.results, 1, self.results.n)
end


--- Asks the task to stop: the wait it is in, and every later one, fails with
-- code "cancelled". Idempotent.
---@param reason? string|mtenant.error
function task_methods:cancel(reason)
  if self.done or self.cancelled then return end
  self.cancelled = errors.is(reason) and reason
    or errors.new("cancelled", reason or "the task was cancelled")
  interrupt(self, "cancelled", self.cancelled)
end


--- Cancels every task.
---@param reason? string|mtenant.error
function M.cancel_all(reason)
  local all = {}
  for task in pairs(live) do all[#all + 1] = task end
  for i = 1, #all do all[i]:cancel(reason) end
end


-- no watcher is left but those that serve the whole program (signals)
local function nothing_to_wait_for()
  local stats = core.stats()
  return stats.loop_watchers <= stats.background_watchers
end


--- Runs fn(...) as a task on the module's own loop until it ends; inside a
-- task it just calls it.
---@return any ...  fn's values; raises its error
function M.run(fn, ...)
  if type(fn) ~= "function" then
    errors.misuse(2, "run: fn must be a function, got %s", type(fn))
  end
  if current and co_running() == current.co then return fn(...) end
  if current then
    errors.misuse(2, "run: a loop runs already, and this is not its task")
  end
  if host then
    local here, why = guest()
    if here then return fn(...) end
    if not host.blocks then errors.misuse(2, "run: %s", why) end
  end
  if core.borrowed() then errors.misuse(2, "run: the host turns the loop") end
  local main = M.spawn(fn, ...)
  main.observed = true
  while not main.done do
    core.run_once(true)
    if ready_n == 0 and not main.done and next(waiting) == nil
      and nothing_to_wait_for() then
      error(errors.new("misuse", "every task waits for another one"), 2)
    end
  end
  M.report_unobserved()
  unobserved.forget(main)
  if not main.ok then error(main.results[1], 0) end
  return unpack(main.results, 1, main.results.n)
end


--- Puts the tasks of this loop aside, for those of another one (testing.lua).
---@param other? table  what the call before returned; nil: no tasks yet
---@return table  what was put aside
function M.swap(other)
  local aside = { current, waiting, ready, ready_n, live }
  other = other or { nil, {}, {}, 0, {} }
  current, waiting, ready, ready_n, live = unpack(other, 1, 5)
  local late = foreign
  foreign = {}
  for i = 1, #late do
    local task = late[i][1]
    if not task.done then interrupt(unpack(late[i], 1, 3)) end
  end
  return aside
end


--- Ends every task of this loop without resuming it, which may never end: who
-- awaits one gets `nil, err`.
---@param err table
function M.abandon_all(err)
  for task in pairs(live) do
    task.done, task.ok, task.results = true, true, pack(nil, err)
  end
  live, waiting, ready, ready_n = {}, {}, {}, 0
end


--- Tells of the tasks that failed and that nobody awaited.
function M.report_unobserved()
  unobserved.report()
end


--- The task or guest that runs now, or nil.
---@return mtenant.Task|nil
function M.current()
  return current or host and (guest()) or nil
end


--- Does a task of ours run now?
function M.runs()
  return current ~= nil
end


--- Is no task ready, and no operation under way?
function M.idle() return ready_n == 0 and not core.engaged() end


--- The loop is somebody else's from now on: see host.lua.
function M.set_host(given)
  host = given
end


--- Something is about to use the loop.
function M.prepare()
  if host and host.ready then host.ready() end
end


--- Where the last task that failed raised its error.
---@return string|nil
function M.last_traceback()
  return last_traceback
end


--- Waits for a task without being stopped by the caller's own cancellation.
M.join = join
--- As suspend, but also while the caller is to stop: for clean-up that ends by
-- itself.
M.suspend_always = suspend
--- Makes a task or guest that waits go on with `nil, err`.
M.interrupt = interrupt
M.pack, M.unpack = pack, unpack


return M
