--- Tasks that failed and that nobody has awaited: their errors are told, at the
-- end of a run or when the task is forgotten, never lost.

local errors = require "mtenant.errors"
local finalizer = require "mtenant.finalizer"
local log = require "mtenant.log"


local tasks = setmetatable({}, { __mode = "k" })


-- a task that ended because it was cancelled did what it was asked to
local function ended_as_asked(task)
  local err = task.results[1]
  return task.cancelled and errors.is(err) and err.code == "cancelled"
end


local function report(task)
  tasks[task] = nil
  if task.observed or task.ok or ended_as_asked(task) then return end
  task.observed = true
  log.default():error("error in a task nobody awaited: "
                      .. (task.traceback or tostring(task.results[1])),
                      { event = "task_failed",
                        same = tostring(task.results[1]) })
end


local M = {}


--- A task has failed. Its guard is a field of those tasks only: an object with a
-- finalizer costs the collector more.
function M.add(task)
  tasks[task] = true
  task.guard = finalizer(function() report(task) end)
end


--- Somebody has heard of its error.
function M.forget(task)
  tasks[task] = nil
end


--- Tells of all that nobody has heard of.
function M.report()
  for task in pairs(tasks) do report(task) end
end


return M
