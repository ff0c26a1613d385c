--- One run over many schemas: who is told what, the hooks, the results in order,
-- and what becomes of the rest when it is to stop. Part of the migrator.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local log = require "mtenant.log"
local locks = require "mtenant.migrator.locks"
local plan_of = require "mtenant.migrator.plan"
local results = require "mtenant.migrator.results"
local underway = require "mtenant.migrator.underway"
local workers = require "mtenant.migrator.workers"


local ipairs, pcall = ipairs, pcall


local M = { SHARED = "shared" } -- the id of what is no tenant's


local function call(fn, ...)
  if not fn then return true end
  local ok, err = pcall(fn, ...)
  if ok then return true end
  return nil, errors.wrap(err, "policy")
end


local function hooks_of(self, kind)
  return kind == M.SHARED and self.opts.shared_hooks or self.opts.hooks or {}
end


local function result_of(unit, started)
  return {
    tenant_id = unit.id, schema_name = unit.schema, success = not unit.error,
    applied_migrations = {}, error = unit.error,
    duration_ms = started and core.now_ms() - started or 0,
    format = unit.has_table and unit.shape and unit.shape.format or nil,
  }
end


-- Those of what was to be done that are done, also by a try that was cut off.
local function applied_names(unit)
  local out, there, sure = {}, {}, {}
  for _, m in ipairs(unit.done) do sure[m] = true end
  if unit.retried then
    for _, m in ipairs(unit.plan.applied) do there[m] = true end
  end
  for _, m in ipairs(unit.wanted or {}) do
    if sure[m] or there[m] then out[#out + 1] = m.name end
  end
  return out
end


-- One run over units: its results, in order, and who is told.
local Run = {}
Run.__index = Run


function Run:progress(id, status, name, result)
  if not self.o.on_progress then return end
  local ok, err = call(self.o.on_progress, id, status, name, result)
  if not ok then
    log.default():warn("error in on_progress: " .. errors.text_of(err),
                       { event = "callback_failed on_progress" })
  end
end


function Run:abort_after(id, err)
  if self.o.stop_on_error then return true end
  if not self.o.on_error then return false end
  local ok, answer = pcall(self.o.on_error, id, err)
  return not ok or answer == "abort"
end


function Run:finish(unit, result)
  self.by_unit[unit] = result
  self.underway:count(result.success)
  self:progress(unit.id, result.success and "completed" or "failed", nil, result)
  if not result.success and self:abort_after(unit.id, result.error) then
    self.aborted = true
    if self.crew then self.crew.stopped = true end
  end
end


function Run:settle(job, err)
  local unit = job.unit
  unit.error = err
  local result = result_of(unit, unit.started)
  result[self.list_name] = applied_names(unit)
  if not err or unit.has_table then
    result.format = unit.shape and unit.shape.format
  end
  local ok, why = true, nil
  if unit.started then ok, why = call(self.hooks.after_tenant, unit.id, result) end
  if not ok and result.success then result.success, result.error = false, why end
  self:finish(unit, result)
end


local function on_migration(run, unit)
  return function(event, m)
    if event == "migrating" then
      run:progress(unit.id, "migrating", m.name)
      local ok, err = call(run.hooks.before_migration, unit.id, m.name)
      if not ok then error(err, 0) end
    elseif event == "applied" then
      call(run.hooks.after_migration, unit.id, m.name, unit.took_ms or 0)
    end
  end
end


function Run:work(session, job)
  local unit = job.unit
  if not unit.started then
    unit.started = core.now_ms()
    unit.on = on_migration(self, unit)
    self:progress(unit.id, "starting")
    local ok, err = call(self.hooks.before_tenant, unit.id)
    if not ok then return nil, err end
  else
    unit.locked = false
  end
  return self:paused(session, unit)
end


-- With the tenant's traffic held back by the manager that serves it, if asked.
function Run:paused(session, unit)
  local manager = self.o.pause
  if not manager then return self.action(session, unit) end
  local target = { tenant = unit.id }
  local ok, err = manager:pause(target)
  local result
  if ok then ok, result, err = pcall(self.action, session, unit) end
  manager:resume(target)
  if ok == false then error(result, 0) end
  return result, err
end


local function queues_of(self, run, units)
  local queues, by_target = {}, {}
  for _, unit in ipairs(units) do
    if not run.by_unit[unit] then
      local queue = by_target[unit.target]
      if not queue then
        queue = { db = unit.target.db, target = unit.target,
                  run_lock = locks.of_run(unit.tracking),
                  exclusive = run.exclusive,
                  lock_wait_ms = self.opts.lock_wait_ms }
        by_target[unit.target] = queue
        queues[#queues + 1] = queue
      end
      local job = { unit = unit }
      for _, m in ipairs(unit.wanted or {}) do
        job.once = job.once or not m.transaction
      end
      queue[#queue + 1] = job
    end
  end
  return queues
end


local function summary(run, units, started, stop)
  local details = {}
  for i, unit in ipairs(units) do
    local one = run.by_unit[unit]
    if not one then
      one = results.skipped(unit.id)
      if not stop then run:progress(unit.id, "skipped", nil, one) end
    end
    details[i] = one
  end
  return results.sum(details, core.now_ms() - started)
end


-- What `execute` does, with a run that is known to be under way.
local function execute(self, run, units, o, spec)
  for _, unit in ipairs(units) do
    unit.alone = run.hooks.before_migration ~= nil
      or run.hooks.after_migration ~= nil
    local wanted, err = nil, unit.error
    if not err then wanted, err = spec.select(unit) end
    unit.wanted, unit.error = wanted or {}, err
    if run.aborted then break end
    if err or #unit.wanted == 0 or o.dry_run then
      local result = result_of(unit)
      if o.dry_run then
        result.pending_migrations = plan_of.names(unit.wanted)
      end
      run:finish(unit, result)
    end
  end
  local queues = run.aborted and {} or queues_of(self, run, units)
  local err
  if #queues > 0 and spec.prepare then
    for _, queue in ipairs(queues) do
      err = err or select(2, spec.prepare(queue))
    end
    if err then return nil, err end
  end
  if #queues > 0 then
    run.crew = workers.new(queues, {
      concurrency = o.concurrency or 1,
      tries = self.config.connection.retry.max_attempts,
      lock_wait_ms = self.opts.lock_wait_ms,
      work = function(session, job) return run:work(session, job) end,
      settle = function(job, why) run:settle(job, why) end,
    })
    local _, stop = workers.run(run.crew)
    err = stop
  end
  local out = summary(run, units, run.started, err)
  if err then out.cancelled, out.error = true, err end
  return out
end


--- Does something with every unit that wants it; the others are done.
---@param self mtenant.Migrator
---@param units mtenant.migrator.Unit[]
---@param o table  options of the run
---@param spec table  select(unit) -> list, or nil and an error; action(session,
--- unit), prepare(queue), kind (nil: no hooks), exclusive, list_name
---@return table|nil results
---@return mtenant.error|nil err
function M.execute(self, units, o, spec)
  local started = spec.started or core.now_ms()
  local run = setmetatable({
    started = started, underway = underway.begin(#units, spec.kind),
    o = o, by_unit = {}, action = spec.action, exclusive = spec.exclusive,
    hooks = spec.kind and hooks_of(self, spec.kind) or {},
    list_name = spec.list_name or "applied_migrations",
  }, Run)
  local ok, out, err = pcall(execute, self, run, units, o, spec)
  run.underway:finish()
  if not ok then error(out, 0) end
  return out, err
end


return M
