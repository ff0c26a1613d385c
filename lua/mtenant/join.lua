--- Waiting for tasks that work for the caller. Used by each and the migrator.

local task = require "mtenant.task"


--- Waits for all of them, for those that are added meanwhile, too, and also when
-- the caller is to stop: then it cancels them, and waits for their end.
---@param tasks mtenant.Task[]
---@param on_stop fun(stop: mtenant.error): any  called when the caller is to
--- stop; returns the reason for the tasks, or nil
---@return table|nil raised  { value } of the last one that raised
---@return mtenant.error|nil stop  why the caller is to stop
return function(tasks, on_stop)
  local caller, i, raised = task.current(), 0, nil
  while i < #tasks do
    i = i + 1
    local joined = tasks[i]
    while not joined.done do
      local stop = caller.cancelled or caller.expired
      if stop then
        local reason = on_stop(stop)
        for j = i, #tasks do tasks[j]:cancel(reason) end
      end
      task.suspend_always(function(resume)
        joined.joiners = joined.joiners or {}
        joined.joiners[#joined.joiners + 1] = resume
      end)
    end
    if not joined.ok then raised = { joined.results[1] } end
  end
  return raised, caller.cancelled or caller.expired
end
