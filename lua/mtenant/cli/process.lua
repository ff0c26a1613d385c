--- Tables of what an admin endpoint says, for people. Pure but for the console.

local STYLES = { ok = "green", degraded = "yellow", unknown = "yellow",
                 unhealthy = "red", closed = "green", open = "red",
                 half_open = "yellow", isolated = "red" }

local M = {}


local function styled(word)
  return { STYLES[word] or "dim", tostring(word) }
end


local function ms(value)
  return value and ("%.1f"):format(value) or ""
end


--- The servers of /health or /ready.
function M.servers(console, document)
  local rows = {}
  for _, manager in ipairs(document.managers) do
    for _, server in ipairs(manager.servers) do
      rows[#rows + 1] = {
        manager.name, server.name, styled(server.status), styled(server.breaker),
        ms(server.response_time_ms),
        server.error or server.paused and "paused" or "",
      }
    end
  end
  console:say_table({ "manager", "server", "status", "breaker", "ms", "" }, rows)
end


local function megabytes(bytes)
  return ("%.1f MiB"):format(bytes / 1048576)
end


local function duration(total_ms)
  local s = math.floor(total_ms / 1000)
  local d, h = math.floor(s / 86400), math.floor(s / 3600) % 24
  local m = math.floor(s / 60) % 60
  if d > 0 then return ("%d d %d h"):format(d, h) end
  if h > 0 then return ("%d h %d min"):format(h, m) end
  if m > 0 then return ("%d min %d s"):format(m, s % 60) end
  return ("%d s"):format(s)
end


-- Of a JSON library every number is a float.
local function whole(value)
  return math.floor(value or 0)
end


local function server_rows(managers)
  local rows = {}
  for _, manager in ipairs(managers) do
    for _, s in ipairs(manager.servers) do
      local query = s.query_ms or {}
      rows[#rows + 1] = {
        manager.name, s.name, styled(s.status), whole(s.open),
        whole(s.in_use), whole(s.max_connections), whole(s.waiting),
        whole(s.statements), ms(query.p50),
        ms(query.p99), s.error or "",
      }
    end
  end
  return rows
end


local function tenant_rows(managers)
  local rows = {}
  for _, manager in ipairs(managers) do
    for _, t in ipairs(manager.tenants.top) do
      local query = t.query_ms or {}
      rows[#rows + 1] = { manager.name, t.id, t.schema or "", whole(t.in_use),
                          whole(t.waiting), whole(t.statements), whole(t.errors),
                          ms(query.p50), ms(query.p99) }
    end
  end
  return rows
end


local function say_managers(console, managers)
  for _, manager in ipairs(managers) do
    local c, r = manager.connections, manager.retries
    console:say(("%s: %d tenants of %d, %d connections (%d opened, %d lost), "
      .. "%d retries (%d refused)"):format(manager.name, manager.tenants.entries,
      manager.tenants.max, c.open, c.opened, c.lost, r.retried, r.refused))
  end
end


local function say_migrations(console, migrations)
  for _, run in ipairs(migrations) do
    console:say(("migration of %d: %d done, %d failed%s"):format(run.total,
      run.done, run.failed,
      run.eta_ms and ", " .. duration(run.eta_ms) .. " left" or ""))
  end
end


--- The whole of /status.json.
function M.status(console, document)
  local process = document.process
  console:say({ "bold", ("mtenant %s, pid %d"):format(process.mtenant,
                                                     process.pid) },
    (", up %s, %s, "):format(duration(process.uptime_ms),
                             megabytes(process.rss_bytes)),
    styled(document.status), document.ready and ", ready" or ", not ready")
  say_managers(console, document.managers)
  say_migrations(console, document.migrations)
  console:say_table({ "manager", "server", "status", "open", "in use", "max",
                      "waiting", "statements", "p50 ms", "p99 ms", "" },
                    server_rows(document.managers))
  console:say_table({ "manager", "tenant", "schema", "in use", "waiting",
                      "statements", "errors", "p50 ms", "p99 ms" },
                    tenant_rows(document.managers))
end


return M
