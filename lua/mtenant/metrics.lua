--- What a manager has counted, as a table. Part of the manager; the numbers are
-- the core's (src/base/metrics.h), series of them are mtenant.prometheus'.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"


local M = {}


local options = schema.new({
  name = "get_metrics",
  { "tenants", kind = "string", enum = { "all", "top" }, default = "all" },
})


local function iso(seconds)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(seconds))
end


-- A record's connection figures, in a table of their own.
local function connections(record)
  local out = { total = record.total, idle = record.idle,
                waiting = record.waiting }
  record.total, record.idle, record.waiting = nil, nil, nil
  return out
end


local function tenant(record, id, now_s)
  record.tenant_id, record.id = id, nil
  record.schema_name, record.schema = record.schema, nil
  if record.total then record.connections = connections(record) end
  if record.idle_ms then
    record.last_accessed_at = iso(now_s - record.idle_ms / 1000)
    record.idle_ms = nil
  end
  return record
end


-- Those that do most, then the other entries, which have no counts of their own.
local function tenants_of(self, raw, which, now_s)
  local out, seen = {}, {}
  for i, record in ipairs(raw.tenants or {}) do
    raw.tallies:fill(i, record)
    seen[record.id] = true
    out[i] = tenant(record, record.id, now_s)
  end
  if raw.tallies then raw.tallies:close() end
  if which == "top" then return out end
  for _, id in ipairs(self._core:ids()) do
    if not seen[id] then
      out[#out + 1] = tenant(self._core:entry(id), id, now_s)
    end
  end
  return out
end


local function server(record)
  record.connections = connections(record)
  record.connections.connecting, record.connecting = record.connecting, nil
  record.connections.max, record.max = record.max, nil
  return record
end


--- What the manager has counted, as the core tells it: for prometheus.lua. The
-- counts of tenants are still to be filled in, by raw.tallies:fill(i, record).
---@param manager mtenant.TenantManager
---@return table|nil raw  nil: it has been disposed of
function M.snapshot(manager)
  if manager._over then return nil end
  local raw = manager._core:metrics()
  local cfg = manager._config
  raw.max_pools, raw.prefix = cfg.isolation.max_pools, cfg.metrics.prefix
  raw.wall = os.time()
  return raw
end


--- Adds the method to a manager's.
---@param methods mtenant.TenantManager
---@param disposed fun(): mtenant.error
function M.install(methods, disposed)

  --- What was counted since the manager was made, and what there is now.
  --- Without I/O. See docs/observability.md for the fields.
  ---@param opts? table  { tenants = "all" | "top" (those with counts of their own) }
  ---@return table|nil metrics
  ---@return mtenant.error|nil err  disposed
  function methods:get_metrics(opts)
    if opts ~= nil and type(opts) ~= "table" then
      errors.misuse(2, "get_metrics: opts must be a table, got %s", type(opts))
    end
    opts = options:check(opts or {}, 2)
    local raw = M.snapshot(self)
    if not raw then return nil, disposed() end
    local shared = raw.shared or {}
    shared.initialized = raw.shared_view.initialized
    shared.connections = shared.initialized and connections(raw.shared_view)
      or nil
    for _, record in ipairs(raw.servers) do server(record) end
    if raw.others then raw.others.connections = connections(raw.others) end
    return {
      pools = {
        total = raw.pools, max_pools = raw.max_pools,
        tenants = tenants_of(self, raw, opts.tenants, raw.wall),
      },
      shared = shared,
      servers = raw.servers,
      others = raw.others,
      nowhere = raw.nowhere,
      evictions = raw.evictions,
      timestamp = iso(raw.wall),
    }
  end


  --- What the pools have done so far, summed over all servers.
  ---@return table  open, peak, opened, lost, connect_failures, leases, requests
  function methods:get_stats()
    return self._core:stats()
  end
end


return M
