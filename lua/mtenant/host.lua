--- Loops that belong to somebody else: how their coroutines wait.
-- The modules under mtenant.host attach one; a host of your own does it by
-- `attach`. The core then tells by one descriptor that there is something to
-- do (`pollfd`), and does it when the host calls `step`.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local attached


local function nothing() end


-- what a host must have, and what stands in for the rest
local NEEDED = { "here", "waiter", "wait", "wake" }


local M = {}


--- Makes a loop the one that everything waits in. Before anything is started,
-- once in a Lua state.
---@param host table  fields:
--  name    for messages
--  here()  -> key, store: who runs now, and a table for what is known of it;
--          or nil and why nobody can wait here ("it is not in a coroutine
--          of ...")
--  waiter() -> a value that wait and wake share, one for each who waits
--  wait(waiter)  suspends the caller until `wake`; may return earlier
--  wake(waiter)  from within `step`; what it resumes may run at once
--  busy()  optional: something was asked for, so the loop must go on
--  home()  optional: for who can't wait, what `here` has for a store; where it
--          is there, those that have one store share a tenant context
--  blocks  may mtenant.run turn the loop from outside? false
---@return integer fd  to be watched for reading
function M.attach(host)
  if type(host) ~= "table" or type(host.name) ~= "string" then
    errors.misuse(2, "attach: host must be a table with a name")
  end
  for _, key in ipairs(NEEDED) do
    if not schema.is_callable(host[key]) then
      errors.misuse(2, "attach: host.%s must be a function", key)
    end
  end
  if attached and attached ~= host then
    errors.misuse(2, "attach: the loop is %s's already", attached.name)
  end
  if task.runs() then
    errors.misuse(2, "attach: a loop runs already")
  end
  local fd = core.pollfd()
  host.busy = host.busy or nothing
  attached = host
  task.set_host(host)
  return fd
end


--- The attached host, or nil.
---@return table|nil
function M.current()
  return attached
end


--- The descriptor that is readable when there is something to do.
---@return integer
function M.pollfd()
  return core.pollfd()
end


--- Does what there is to do, without blocking.
function M.step()
  core.step()
end


--- Milliseconds until there is something to do even if the descriptor stays
-- as it is; nil: nothing.
---@return number|nil
function M.timeout_ms()
  return core.timeout_ms()
end


--- Asks other name servers than the machine's (/etc/resolv.conf) for the host
-- names of databases: those of a container's network, or of a test. For all
-- managers of this Lua state; not while a name is being looked up.
---@param list string[]  "127.0.0.1:5353", "[::1]:53"; the port may be left out
function M.set_name_servers(list)
  if type(list) ~= "table" or type(list[1]) ~= "string" then
    errors.misuse(2, "set_name_servers: list must be an array of strings")
  end
  if not core.dns_servers(table.concat(list, ",")) then
    errors.misuse(2, "set_name_servers: %s can't be used, or a name is being "
      .. "looked up", table.concat(list, ","))
  end
end


--- Does nobody wait for anything?
---@return boolean
function M.idle()
  return task.idle()
end


--- Is anything left: connections, timers?
---@return boolean
function M.live()
  return core.live()
end


return M
