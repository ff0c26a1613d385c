--- Health checks of a manager.
-- A server is asked once, however many tenants it has; what does not answer its
-- breaker knows already. Nothing here counts as a use of a tenant. Part of the
-- manager.

local core = require "mtenant.core"
local each = require "mtenant.each"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local M = {}


-- so many pings at a time
local CONCURRENCY = 10
-- tenants that are looked at without a break
local AT_A_TIME = 500


local options = schema.new({
  name = "health_check",
  { "ping", kind = "boolean", default = true },
  { "ping_timeout_ms", kind = "number", min = 0, default = 5000 },
  { "include_shared", kind = "boolean", default = true },
  { "tenant_ids", kind = "strings" },
})


local RANK = { ok = 0, degraded = 1, unhealthy = 2 }

local function worse(a, b) return RANK[b] > RANK[a] and b or a end


--- Pings by start(timeout_ms) and says how that went; waits. Also for
-- mtenant.admin.probe.
---@param start fun(timeout_ms: number): integer|nil, mtenant.error|nil
---@param timeout_ms number
---@param slow_ms number  what takes longer is degraded
---@return string status
---@return number|nil took_ms  nil: it was busy
---@return mtenant.error|nil err
function M.ping(start, timeout_ms, slow_ms)
  local began = core.now_ms()
  local slot, err = start(timeout_ms)
  local answer
  if slot then answer, err = task.await(slot) end
  local took_ms = core.now_ms() - began
  if err then return "unhealthy", took_ms, err end
  if answer == "busy" then return "degraded" end
  return took_ms > slow_ms and "degraded" or "ok", took_ms
end


-- The same, and writes down what that says.
local function ask(out, opts, start)
  local timeout_ms = opts.ping_timeout_ms
  local status, took_ms, err = M.ping(start, timeout_ms, timeout_ms / 2)
  if err and err.code == "cancelled" then return end
  out.status = worse(out.status, status)
  out.error, out.response_time_ms = err and err.message, took_ms
end


--- States of a breaker in which a server is not used.
M.BROKEN = { open = true, half_open = true, isolated = true }

local BROKEN = M.BROKEN

local function check_server(self, server, opts)
  local out = {
    name = server.name, state = server.state, status = "ok",
    paused = server.paused, total_connections = server.total,
    idle_connections = server.idle, waiting_requests = server.waiting,
    max_connections = server.max,
  }
  if BROKEN[server.state] then
    out.status = "unhealthy"
    out.error = server.cause and server.cause.message
      or server.state == "isolated" and "isolated" or "it does not answer"
  elseif server.paused or server.waiting > 0 then
    out.status = "degraded"
  end
  -- a paused one answers nobody, and of a broken one the prober tells
  if not opts.ping or server.paused or BROKEN[server.state] then return out end
  ask(out, opts, function(timeout_ms)
    return self._core:ping_server(server.name, timeout_ms)
  end)
  return out
end


local function check_tenant(self, tenant, servers, opts)
  local server = servers[tenant.server]
  local out = {
    tenant_id = tenant.id, schema_name = tenant.schema,
    server = tenant.server, status = "ok",
    total_connections = tenant.total, idle_connections = tenant.idle,
    waiting_requests = tenant.waiting,
  }
  if tenant.waiting > 0 then out.status = "degraded" end
  if server then
    if server.status == "unhealthy" then out.status = "unhealthy" end
    out.error, out.response_time_ms = server.error, server.response_time_ms
  end
  local asked = opts.tenant_ids and opts.ping and out.status ~= "unhealthy"
  if not asked or not server or server.paused then return out end
  ask(out, opts, function(timeout_ms)
    return self._core:ping_tenant(tenant.id, timeout_ms)
  end)
  return out
end


-- the manager's tenants, or those of them that were asked for
local function tenants_of(self, opts)
  local all = self._core:tenants()
  if not opts.tenant_ids or #opts.tenant_ids == 0 then return all end
  local wanted, out = {}, {}
  for _, id in ipairs(opts.tenant_ids) do wanted[id] = true end
  for _, tenant in ipairs(all) do
    if wanted[tenant.id] then out[#out + 1] = tenant end
  end
  return out
end


local function check_tenants(self, servers, opts)
  local tenants = tenants_of(self, opts)
  if opts.tenant_ids then
    local out, err = each(tenants, CONCURRENCY, function(tenant)
      return check_tenant(self, tenant, servers, opts)
    end)
    if out then out.n = nil end
    return out, err
  end
  local out = {}
  for i, tenant in ipairs(tenants) do
    out[i] = check_tenant(self, tenant, servers, opts)
    if i % AT_A_TIME == 0 then -- others want the loop, too
      local _, err = task.sleep(0)
      if err then return nil, err end
    end
  end
  return out
end


-- the server of get_shared_db: the configuration's own
local function shared_result(self, out, servers)
  local name = self._core:own_server()
  local server = servers[name]
  out.shared_db = server and server.status or "ok"
  out.shared_db_response_time_ms = server and server.response_time_ms
  out.shared_db_error = server and server.error
end


local function summarize(out)
  out.healthy = out.shared_db ~= "unhealthy"
  out.total_pools, out.degraded_pools, out.unhealthy_pools = #out.pools, 0, 0
  for _, pool in ipairs(out.pools) do
    if pool.status == "degraded" then
      out.degraded_pools = out.degraded_pools + 1
    elseif pool.status == "unhealthy" then
      out.unhealthy_pools = out.unhealthy_pools + 1
      out.healthy = false
    end
  end
  for _, server in ipairs(out.servers) do
    if server.status == "unhealthy" then out.healthy = false end
  end
end


--- Adds the method to a manager's.
---@param methods mtenant.TenantManager
---@param disposed fun(): mtenant.error
function M.install(methods, disposed)

  --- Asks every server whether it answers, and says what its tenants can
  --- expect. A server that is busy is `degraded`, one that does not answer is
  --- `unhealthy`, whether anybody uses it or not. Waits; asking counts as no
  --- use of a tenant, and takes one connection per server at most.
  ---@param opts? table  { ping = true, ping_timeout_ms = 5000,
  --- include_shared = true (the configuration's own server, used or not),
  --- tenant_ids = {...} (of these alone, and each in its own schema) }
  ---@return table|nil result  see docs/health.md
  ---@return mtenant.error|nil err  disposed, cancelled, timeout
  function methods:health_check(opts)
    opts = options:check(opts or {}, 2)
    if self._over then return nil, disposed() end
    local stop = task.check("health_check")
    if stop then return nil, stop end
    local began = core.now_ms()
    local seen, err = self._core:servers(opts.include_shared)
    if not seen then return nil, err end
    local out = { timestamp = os.date("!%Y-%m-%dT%H:%M:%SZ") }
    out.servers, err = each(seen, CONCURRENCY, function(server)
      return check_server(self, server, opts)
    end)
    if not out.servers then return nil, err end
    out.servers.n = nil
    if self._over then return nil, disposed() end
    local servers = {}
    for _, server in ipairs(out.servers) do servers[server.name] = server end
    out.pools, err = check_tenants(self, servers, opts)
    if not out.pools then return nil, err end
    if self._over then return nil, disposed() end
    if opts.include_shared then shared_result(self, out, servers) end
    summarize(out)
    out.duration_ms = core.now_ms() - began
    return out
  end
end


return M
