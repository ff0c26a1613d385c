--- What faults do to a server, without stopping this process: signals, and
-- waiting for their effect in tasks.

local env = require "tests.support.env"

local M = {}


local function read_file(path)
  local file = io.open(path, "r")
  local text = file and file:read("a") or ""
  if file then file:close() end
  return text
end


local function postmaster(server)
  return tonumber(read_file(server.dir .. "/data/postmaster.pid"):match("^%d+"))
end


-- one that nobody has waited for yet is as good as gone
local function is_alive(pid)
  local state = read_file(("/proc/%d/stat"):format(pid)):match("%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end


--- Stops the postmaster: connects are accepted, by the kernel, and wait.
function M.hold(c)
  c.held = true
  env.signal(c.server, "STOP")
end


--- Ends a hold; whatever was signalled before is done first.
function M.release(c)
  if not c.held then return end
  c.held = nil
  env.signal(c.server, "CONT")
end


--- Sends a signal to the postmaster and waits for its end.
function M.end_by(c, signal)
  local pid = assert(postmaster(c.server), "there is no server")
  env.signal(c.server, signal)
  if signal ~= "KILL" then M.release(c) end
  c.held = nil
  env.eventually("the server's end", function() return not is_alive(pid) end)
end


--- Waits until a server that was started says that it is ready.
function M.await_ready(c)
  env.eventually("the server's return", function()
    local pid = postmaster(c.server)
    return pid and is_alive(pid) and read_file(c.server.dir
      .. "/data/postmaster.pid"):find("\nready", 1, true)
  end, 20000)
end


--- Starts it again and waits until it is ready.
function M.start(c)
  c.server:start_in_background(0)
  M.await_ready(c)
end


--- Waits until a server that was not stopped answers again.
function M.answers(c)
  env.eventually("an answer", function()
    return env.try_sql("SELECT 1", c.server) == "1"
  end)
end


--- Backends of ours, or any one if there is none.
function M.a_backend(c)
  return tonumber(env.sql("SELECT pid FROM pg_stat_activity WHERE "
    .. "backend_type = 'client backend' ORDER BY application_name <> '"
    .. env.APPLICATION .. "' LIMIT 1", c.server))
end


return M
