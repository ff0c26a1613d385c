--- Takes the server away for a while. One that the demo has started is stopped
-- and started again; of any other one the demo ends its own connections, from
-- the server's side, as any user may.

local mtenant = require "mtenant"

local ROUND_MS = 25

local KILL = [[
  SELECT count(pg_terminate_backend(pid))
  FROM pg_stat_activity
  WHERE application_name = $1 AND usename = current_user
]]

local M = {}


local function restart(server, down_ms, event)
  assert(server:stop())
  event("the server is stopped", "yellow")
  assert(mtenant.sleep(down_ms))
  assert(server:start())
  event("the server is up again", "green")
end


local function kill_for(db, opts, event)
  local ends, total = mtenant.now_ms() + opts.down_ms, 0
  event("pg_terminate_backend ends every server connection, again and again",
        "yellow")
  while mtenant.now_ms() < ends do
    total = total + assert(db:value(KILL, opts.application_name))
    assert(mtenant.sleep(ROUND_MS))
  end
  event(("%d server connections were ended"):format(total), "green")
end


local function kill_connections(opts, event)
  local operator = mtenant.create_tenant_manager {
    connection = { url = opts.url, max_connections = 1,
                   application_name = "mtenant demo, operator" },
    isolation = { schema_name_template = function(id) return id end },
  }
  kill_for(assert(operator:get_shared_db_async()), opts, event)
  operator:dispose()
end


--- Raises what goes wrong.
---@param opts table { down_ms =, server = } or { down_ms =, url =,
-- application_name = }
---@param event fun(text: string, style: string)
function M.run(opts, event)
  if opts.server then
    restart(opts.server, opts.down_ms, event)
  else
    kill_connections(opts, event)
  end
end


return M
