--- Many schemas, few connections: each worker keeps a session and takes one
-- schema after the other from its database's queue, so that a slow one holds up
-- nobody. How many there are is for concurrency.lua to say.

local apply = require "mtenant.migrator.apply"
local concurrency = require "mtenant.migrator.concurrency"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local join = require "mtenant.join"
local locks = require "mtenant.migrator.locks"
local task = require "mtenant.task"


local M = {}


--- A job that says so could not be done yet: another runner has it.
M.LATER = apply.LOCKED


local LOOK_MS = 100


-- ---- workers ------------------------------------------------------------

-- The queue with the most work for each of its workers. Of one whose run has
-- the database for itself there is one: a second one would wait for its lock.
local function busiest(self)
  local found, best = nil, 0
  for _, queue in ipairs(self.queues) do
    local left = #queue - queue.next + 1 + #queue.later
    local each = left / (queue.workers + 1)
    local room = not queue.exclusive or queue.workers == 0
    if room and each > best then found, best = queue, each end
  end
  return found
end


local function may_go_on(self)
  return not self.stopped and self.active <= self.control.limit
end


-- The next job, or one that could not be done when it was looked at last.
local function take(self, queue)
  local job = queue[queue.next]
  if job then queue.next = queue.next + 1
  else job = table.remove(queue.later, 1) end
  if job then self.left = self.left - 1 end
  return job
end


local function put_back(self, queue, job, look_at)
  job.look_at = look_at
  self.left = self.left + 1
  queue.later[#queue.later + 1] = job
end


-- As take; waits until it is time to look at the job again.
local function next_job(self, queue)
  local job = take(self, queue)
  local wait = job and job.look_at and job.look_at - core.now_ms() or 0
  if wait <= 0 then return job end
  local _, stop = task.sleep(wait)
  if not stop then return job end
  put_back(self, queue, job, job.look_at)
  return nil
end


local function lost(err)
  return errors.is(err) and (err.code == "connection_lost"
    or err.code == "disposed" or err.code == "protocol")
end


local function finish(self, job, err)
  self.settle(job, err)
  self.control:done(core.now_ms(), self.left)
  self.start_one()
end


-- Another runner has it: later, or not at all.
local function leave(self, queue, session, job)
  local now = core.now_ms()
  job.wait_until = job.wait_until or now + self.lock_wait_ms
  if now >= job.wait_until then
    finish(self, job, locks.held_error(session, job))
  else
    put_back(self, queue, job, now + LOOK_MS)
  end
end


-- One job on a session; true: the session is good for another.
local function do_job(self, queue, session, job)
  local ok, result, err = pcall(self.work, session, job)
  if not ok then result, err = nil, result end
  if result == M.LATER then
    leave(self, queue, session, job)
    return true
  end
  -- what is recorded says what was done: the next session reads it
  if lost(err) and not job.once then
    job.losses = (job.losses or 0) + 1
    if job.losses < self.tries then
      job.unit.retried = true
      put_back(self, queue, job)
      return false
    end
  end
  finish(self, job, err)
  -- what was raised has left its lock behind, and goes with the session
  return ok and not lost(err)
end


local function on_session(self, queue, session)
  local ok, err = locks.enter(session, queue)
  if not ok then return nil, err end
  while may_go_on(self) do
    local job = next_job(self, queue)
    if not job then break end
    if not do_job(self, queue, session, job) then return true end
  end
  return true
end


local function fail_queue(self, queue, err)
  local job = take(self, queue)
  while job do
    self.settle(job, err)
    job = take(self, queue)
  end
end


local function worker(self)
  while may_go_on(self) do
    local queue = busiest(self)
    if not queue then break end
    queue.workers = queue.workers + 1
    local ok, err = queue.db:session(function(session)
      return on_session(self, queue, session)
    end)
    queue.workers = queue.workers - 1
    if not ok and err then
      local now = task.current()
      if now.cancelled or now.expired then break end
      queue.failures = (queue.failures or 0) + 1
      if queue.failures >= self.tries or not err.retryable then
        fail_queue(self, queue, err)
      end
    end
  end
  self.active = self.active - 1
end


--- Does the jobs of all queues.
---@param queues table[]  each a list of jobs, with db (a handle) and keys
---@param opts table  concurrency ("auto" or a number), tries, lock_wait_ms,
--- work = function(session, job) -> true | M.LATER | nil, err; it may raise;
--- settle = function(job, err or nil) -> nothing: called once for each job that
--- was not left over
---@return table self  stop() ends it early; the jobs left are not settled
function M.new(queues, opts)
  local self = { queues = queues, work = opts.work, settle = opts.settle,
                 tries = opts.tries, lock_wait_ms = opts.lock_wait_ms,
                 control = concurrency.new(opts.concurrency), active = 0,
                 left = 0, -- jobs that nobody has taken
                 tasks = {} }
  for _, queue in ipairs(queues) do
    queue.next, queue.later, queue.workers = 1, {}, 0
    self.left = self.left + #queue
  end
  function self.start_one()
    if self.stopped or self.left == 0 or self.active >= self.control.limit then
      return
    end
    self.active = self.active + 1
    local t = task.spawn(worker, self)
    t.observed = true
    self.tasks[#self.tasks + 1] = t
  end
  return self
end


--- Runs until all is done, or the caller has to stop.
---@return boolean|nil ok
---@return mtenant.error|nil err  cancelled or timeout
function M.run(self)
  for _ = 1, math.min(self.control.limit, self.left) do self.start_one() end
  local raised, stop = join(self.tasks, function(reason)
    self.stopped = true
    return reason
  end)
  if raised then error(raised[1], 0) end
  if stop then return nil, stop end
  return true
end


return M
