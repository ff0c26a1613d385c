--- Deadlines: what waits inside of them fails when they have passed.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local task = require "mtenant.task"


local pack, unpack = task.pack, task.unpack


--- Runs fn(...) with a deadline: what waits inside fails with code "timeout"
-- once ms milliseconds have passed.
---@param ms number
---@param fn function
---@return any ...  fn's values
local function with_deadline(ms, fn, ...)
  if type(ms) ~= "number" or ms ~= ms or ms < 0 then
    errors.misuse(2, "with_deadline: ms must be a number >= 0")
  end
  if type(fn) ~= "function" then
    errors.misuse(2, "with_deadline: fn must be a function, got %s", type(fn))
  end
  local stop = task.check("mtenant.with_deadline")
  if stop then return nil, stop end
  local now, over = task.current(), false
  local expired = errors.new("timeout",
    string.format("the deadline of %g ms has passed", ms))
  local slot = core.sleep(ms)
  task.when_done(slot, function(_, err)
    if over or err then return end
    slot = nil
    if now.cancelled or now.expired then return end
    now.expired = expired
    task.interrupt(now, "timeout", expired)
  end)
  local res = pack(pcall(fn, ...))
  over = true
  if slot then core.cancel(slot, "cancelled") end
  if now.expired == expired then now.expired = nil end
  if not res[1] then error(res[2], 0) end
  return unpack(res, 2, res.n)
end


return with_deadline
