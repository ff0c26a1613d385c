--- Throwaway PostgreSQL servers, in programs run by `mtenant-run`.
--
-- A server lives in a private directory under a supervisor process that ends
-- and removes it when this program goes away, however it does. Calls suspend
-- the calling task only.
--
--     local throwaway = require "mtenant.throwaway"
--     local url = os.getenv("DATABASE_URL")
--     if not url and throwaway.available() then
--       url = assert(throwaway.start()).url
--     end

local errors = require "mtenant.errors"
local task = require "mtenant.task"

local has_host, host = pcall(require, "mtenant.runner_host")
local core = has_host and require "mtenant.core"

local M = {}

local server_methods = {}
local server_mt = { __name = "mtenant.throwaway", __index = server_methods }

local given -- the server of --pg


function server_mt.__tostring(server)
  return "mtenant.throwaway: " .. (server.url or "starting")
end


local function failure(message)
  return errors.new(errors.CODE.unreachable,
    "throwaway PostgreSQL: " .. message)
end


local function unwatch(server)
  if server.watcher then
    server.watcher:close()
    server.watcher = nil
  end
end


local function take_waiter(server)
  local resume = table.remove(server.waiters, 1)
  if #server.waiters == 0 then
    unwatch(server)
  end
  return resume
end


--- The supervisor has ended: nobody gets an answer any more.
local function on_end(server)
  server.gone = true
  host.pg_finish(server.slot)
  unwatch(server)
  while #server.waiters > 0 do
    take_waiter(server)("error the server has been removed")
  end
end


local function on_readable(server)
  local data, err = host.pg_read(server.slot)
  if data == "" or err then
    return on_end(server)
  end
  server.buffer = server.buffer .. (data or "")
  while true do
    local line, rest = server.buffer:match("^([^\n]*)\n(.*)$")
    if not line then
      return nil
    end
    server.buffer = rest
    local resume = take_waiter(server)
    if resume then
      resume(line)
    end
  end
end


--- Sends a command (none: only waits) and returns the line that answers it.
-- Answers come in the order of the commands.
local function ask(server, command)
  if server.gone then
    return "error the server has been removed"
  end
  return task.suspend(function(resume)
    server.waiters[#server.waiters + 1] = resume
    if not server.watcher then
      server.watcher = core.watch_fd(host.pg_fd(server.slot), function()
        on_readable(server)
      end)
    end
    if command then
      host.pg_send(server.slot, command .. "\n") -- a failure reads as the end
    end
  end)
end


local function result_of(answer, err)
  if not answer then
    return nil, err -- the task was cancelled
  elseif answer:sub(1, 2) == "ok" then
    return true
  end
  return nil, failure(answer:match("^error (.*)$") or answer)
end


local function new_server(slot)
  return setmetatable({ slot = slot, buffer = "", waiters = {} }, server_mt)
end


--- True where throwaway servers can be had: inside `mtenant-run`.
function M.available()
  return has_host
end


--- The server of `--pg`, or nil when this run has none.
function M.given()
  local slot, url
  if has_host then slot, url = host.pg_given() end
  if not slot then
    return nil
  end
  given = given or new_server(slot)
  given.url = url
  return given
end


--- The server of `--pg`, or else a new one. Returns it, its `url` is for an
-- ordinary user who owns its database, or nil and an error.
function M.start()
  if not has_host then
    return nil, failure("only programs run by mtenant-run can have one")
  end
  local server = M.given()
  if server then
    return server
  end
  local slot, err = host.pg_open()
  if not slot then
    return nil, failure(err)
  end
  server = new_server(slot)
  local answer, cancelled = ask(server)
  local dir
  dir, server.url = (answer or ""):match("^ok (%S+) (%S+)$")
  if not dir then
    server:close()
    return result_of(answer, cancelled)
  end
  host.pg_set_dir(slot, dir)
  return server
end


--- Starts the server again after stop or kill.
function server_methods:start()
  return result_of(ask(self, "start"))
end


--- Stops it as `pg_ctl stop -m fast` does.
function server_methods:stop()
  return result_of(ask(self, "stop"))
end


--- Stops and starts it.
function server_methods:restart()
  return result_of(ask(self, "restart"))
end


--- Ends it at once, as a crash would.
function server_methods:kill()
  return result_of(ask(self, "kill"))
end


--- Stops the server and removes it. The end of the program does it too.
function server_methods:close()
  if not self.gone then
    host.pg_end(self.slot)
    local answer, err = ask(self)
    if not answer then
      return nil, err
    end
  end
  return true
end


return M
