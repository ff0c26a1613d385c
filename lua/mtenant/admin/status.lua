--- What an admin endpoint says of this process, for programs: the documents of
-- /health, /ready and /status.json. Tables for the JSON library; docs/admin.md
-- describes them field by field. Times of day and durations are milliseconds.

local admin_core = require "mtenant.admin_core"
local core = require "mtenant.core"
local metrics = require "mtenant.metrics"
local task = require "mtenant.task"
local underway = require "mtenant.migrator.underway"


local floor = math.floor

-- of the documents; grows when a field changes its meaning or goes
local FORMAT = 1

-- tenants that are told without a break
local AT_A_TIME = 50


local RANK = { ok = 0, degraded = 1, unknown = 2, unhealthy = 3 }


local M = {}


local function round(ms) return ms and floor(ms + 0.5) end


-- the time of day at a moment of the loop's clock
local function wall(now_ms, ms)
  return ms and round(now_ms - (core.now_ms() - ms))
end


-- ---- health ------------------------------------------------------------

-- Can its tenants be served now?
local function serves(server)
  return not server.paused
    and (server.status == "ok" or server.status == "degraded")
end


local function worst(list)
  local status = "ok"
  for _, one in ipairs(list) do
    if RANK[one.status] > RANK[status] then status = one.status end
  end
  return status
end


-- by the rule "all" or "any"; nothing to serve with is not ready
local function is_ready(servers, rule)
  local n = 0
  for _, server in ipairs(servers) do
    if serves(server) then n = n + 1 end
  end
  if #servers == 0 then return false end
  return rule == "any" and n > 0 or n == #servers
end


local function brief(server)
  return {
    name = server.name, status = server.status, breaker = server.state,
    paused = server.paused, error = server.error,
    response_time_ms = server.response_time_ms,
  }
end


-- Of each manager its name and its servers; and all servers there are.
local function look(self)
  local managers, servers = {}, {}
  for i, manager in ipairs(self.managers()) do
    local seen = self.probe:servers(manager)
    for _, server in ipairs(seen) do servers[#servers + 1] = server end
    managers[i] = { manager = manager, name = manager:get_name(),
                    servers = seen, status = worst(seen) }
  end
  return managers, servers
end


local function briefs(managers)
  local out = {}
  for i, one in ipairs(managers) do
    local servers = {}
    for k, server in ipairs(one.servers) do servers[k] = brief(server) end
    out[i] = { name = one.name, status = one.status, servers = servers }
  end
  return out
end


--- Of /health.
---@return table document
---@return boolean healthy
function M.health(self)
  local managers, servers = look(self)
  local status = worst(servers)
  return {
    format = FORMAT, status = status, healthy = RANK[status] < 2,
    timestamp_ms = round(admin_core.process().now_ms),
    managers = briefs(managers),
  }, RANK[status] < 2
end


--- Of /ready.
---@return table document
---@return boolean ready
function M.ready(self)
  local managers, servers = look(self)
  local ready = is_ready(servers, self.ready)
  return {
    format = FORMAT, ready = ready, rule = self.ready,
    reason = not ready and (#managers == 0 and "no manager has been made"
      or "not " .. (self.ready == "any" and "one server" or "every server")
      .. " can serve") or nil,
    timestamp_ms = round(admin_core.process().now_ms),
    managers = briefs(managers),
  }, ready
end


-- ---- status ------------------------------------------------------------

local function process_of(self, process)
  return {
    mtenant = core.version, lua = rawget(_G, "jit") and jit.version or _VERSION,
    pid = process.pid, started_ms = round(process.now_ms - process.uptime_ms),
    uptime_ms = round(process.uptime_ms), rss_bytes = process.rss_bytes,
    lua_bytes = floor(collectgarbage("count") * 1024),
    loop = { late_ms = round(self.loop.late_ms),
             late_max_ms = round(self.loop.late_max_ms),
             stalls = self.loop.stalls },
  }
end


-- What was chosen, without anything that connects or runs.
local function config_of(cfg)
  local connection, isolation = cfg.connection, cfg.isolation
  return {
    strategy = isolation.strategy, mode = isolation.mode,
    pooler = connection.pooler, max_connections = connection.max_connections,
    pool_max = connection.pool.max, max_waiting = connection.pool.max_waiting,
    acquire_timeout_ms = connection.pool.acquire_timeout_ms,
    statement_timeout_ms = connection.statement_timeout_ms,
    max_attempts = connection.retry.max_attempts,
    max_pools = isolation.max_pools, pool_ttl_ms = isolation.pool_ttl_ms,
    application_name = connection.application_name,
    routed_by = cfg.policy and "policy" or cfg.resolve and "resolve"
      or "template",
  }
end


local function quantiles(histogram)
  if not histogram then return nil end
  local function milli(ms) return floor(ms * 1000 + 0.5) / 1000 end
  return { p50 = milli(histogram.p50_ms), p95 = milli(histogram.p95_ms),
           p99 = milli(histogram.p99_ms) }
end


-- counted: what the core has counted of it, nil where it does not count
local function server_of(server, counted, now_ms)
  local out = brief(server)
  counted = counted or {}
  out.max_connections, out.open = server.max, server.total
  out.connecting, out.idle = server.connecting, server.idle
  out.in_use = math.max(0, server.total - server.connecting - server.idle)
  out.waiting, out.pools = server.waiting, server.pools
  out.opened, out.lost = counted.opened, counted.lost
  out.statements, out.leases = counted.statements, counted.leases
  out.query_ms, out.wait_ms = quantiles(counted.query), quantiles(counted.wait)
  out.asked_ms = wall(now_ms, server.asked_ms)
  out.last_error = server.last_error
  out.last_error_ms = wall(now_ms, server.last_error_ms)
  return out
end


local function sum(counts)
  local n = 0
  for _, count in pairs(counts) do n = n + count end
  return n
end


local function tenant_of(record)
  return {
    id = record.id, schema = record.schema, server = record.server,
    in_use = record.total and record.total - record.idle,
    waiting = record.waiting, idle_ms = round(record.idle_ms),
    statements = record.statements, leases = record.leases,
    errors = sum(record.errors), ambiguous = record.ambiguous,
    query_ms = quantiles(record.query), wait_ms = quantiles(record.wait),
  }
end


local function by_use(a, b)
  if a.statements ~= b.statements then return a.statements > b.statements end
  return a.id < b.id
end


-- Has the core tell what it has counted of each; lets others run in between.
local function filled(raw)
  local records = raw.tenants or {}
  for i, record in ipairs(records) do
    raw.tallies:fill(i, record)
    if i % AT_A_TIME == 0 then task.sleep(0) end
  end
  if raw.tallies then raw.tallies:close() end
  return records
end


-- Those that have done most; all others together.
local function tenants_of(raw, n)
  local out, records = { top = {} }, filled(raw)
  out.entries, out.max = raw.pools, raw.max_pools
  table.sort(records, by_use)
  for i = 1, math.min(n, #records) do out.top[i] = tenant_of(records[i]) end
  if raw.others then
    out.others = { entries = raw.others.tenants,
                   statements = raw.others.statements,
                   waiting = raw.others.waiting }
  end
  return out
end


local function counts_of(stats)
  return {
    requests = stats.requests, leases = stats.leases,
    connections = {
      open = stats.open, peak = stats.peak, opened = stats.opened,
      lost = stats.lost, failed = stats.connect_failures,
      retired = stats.retired, resets = stats.resets,
    },
    retries = { retried = stats.retries, refused = stats.retries_refused },
    queues = { full = stats.queue_full, timeouts = stats.queue_timeouts,
               rate_limited = stats.rate_limited },
    held_up = { statements = stats.held_up, total_ms = round(stats.held_up_ms),
                max_ms = round(stats.held_up_max_ms) },
  }
end


-- A policy of the user's own may raise when it is asked for its stats.
local function policy_of(manager)
  local ok, status = pcall(manager.get_policy_status, manager)
  return ok and status or nil
end


local function manager_of(self, one, now_ms)
  local out = counts_of(one.stats)
  out.name, out.status = one.name, one.status
  out.config = config_of(one.manager._config)
  out.policy = policy_of(one.manager)
  local raw, counted = metrics.snapshot(one.manager), {}
  for _, server in ipairs(raw.servers) do counted[server.name] = server end
  out.tenants = tenants_of(raw, self.top_tenants)
  out.servers = {}
  for i, server in ipairs(one.servers) do
    out.servers[i] = server_of(server, counted[server.name], now_ms)
  end
  return out
end


local function migrations_of(now_ms)
  local out = {}
  for i, run in ipairs(underway.list()) do
    run.started_ms = wall(now_ms, run.started_ms)
    run.eta_ms = round(run.eta_ms)
    out[i] = run
  end
  return out
end


--- Of /status.json.
---@return table
function M.status(self)
  local managers, servers = look(self)
  local process = admin_core.process()
  local out = { format = FORMAT, status = worst(servers),
                ready = is_ready(servers, self.ready), managers = {} }
  for _, one in ipairs(managers) do
    if not one.manager._over then -- it may be, since others run meanwhile
      one.stats = one.manager:get_stats()
      out.managers[#out.managers + 1] = manager_of(self, one, process.now_ms)
    end
  end
  out.timestamp_ms = round(process.now_ms)
  out.process = process_of(self, process)
  out.migrations = migrations_of(process.now_ms)
  return out
end


return M
