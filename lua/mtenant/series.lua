--- Every series that there is: name, type, unit, labels, meaning, what to watch,
--- and where its value comes from. `mtenant.prometheus` renders this table, and
--- the tables of docs/observability.md are made of it. Names are without the
--- prefix. Pure: no clock, no I/O.

local M = {}


--- What stands for the tenants that are not told one by one, and for the shared
--- handle. No default id_pattern allows these as ids.
M.OTHERS = "(others)"
M.SHARED = "(shared)"

--- The `server` of what had none: unknown tenants, resolvers that failed.
M.NOWHERE = "none"


-- ---- where values come from -----------------------------------------------------

-- A value of a record by its key.
local function of(key)
  return function(record) return record[key] end
end


-- Of milliseconds.
local function seconds(key)
  return function(record) return record[key] and record[key] / 1000 end
end


local function flag(key)
  return function(record) return record[key] and 1 or 0 end
end


local RANK = { ok = 1, degraded = 0.5, unhealthy = 0 }

-- 1, 0.5 or 0, as drizzle-multitenant has it
local function status(key)
  return function(record) return RANK[record[key]] end
end


-- One sample for each key of a table, as another label.
local function by(label, key)
  return { label = label, key = key }
end


-- ---- the series -----------------------------------------------------------------

-- Scopes: "manager", "server" (label server), "server_only" (the same, but not
-- for what had none), "tenant" (label tenant), "entry" (tenant and schema, of
-- those that have an entry), "shared", "process"; "health" and "health_entry" are
-- there when a health check's result is given.
local function define(scope, list)
  for _, s in ipairs(list) do
    s.scope = scope
    M[#M + 1] = s
  end
end


define("manager", {
  { "pools_active", "gauge", value = of "pools",
    help = "Tenants that have an entry.",
    alert = "near pools_max: entries of tenants in use are evicted" },
  { "pools_max", "gauge", value = of "max_pools",
    help = "isolation.max_pools." },
  { "pools_other", "gauge", value = of "other_pools",
    help = "Tenants that are summed up as (others)." },
  { "pool_evictions_total", "counter", split = by("reason", "evictions"),
    help = "Entries that were dropped.",
    alert = "lru_eviction that goes on: max_pools is too small" },
})

define("shared", {
  { "shared_pool_initialized", "gauge", value = flag "initialized",
    help = "1 when the shared handle has been used." },
  { "shared_pool_connections", "gauge", value = of "total",
    help = "Connections that the shared handle has in use." },
  { "shared_pool_connections_waiting", "gauge", value = of "waiting",
    help = "Statements and leases of the shared handle that wait." },
})

define("server_only", {
  { "server_connections", "gauge", value = of "total",
    help = "Open connections.",
    alert = "at server_connections_max while server_waiting grows" },
  { "server_connections_idle", "gauge", value = of "idle",
    help = "Open connections that do nothing." },
  { "server_connections_connecting", "gauge", value = of "connecting",
    help = "Connections that are being made." },
  { "server_connections_max", "gauge", value = of "max",
    help = "The budget: connections that are allowed." },
  { "server_waiting", "gauge", value = of "waiting",
    help = "Statements and leases that wait for a connection.",
    alert = "above 0 for minutes" },
  { "server_paused", "gauge", value = flag "paused",
    help = "1 while the server is paused by hand.",
    alert = "1 for longer than was meant" },
  { "breaker_state", "gauge", split = by("state", "states"),
    help = "1 for the state that the server's breaker is in.",
    alert = "open or isolated" },
  { "breaker_transitions_total", "counter", split = by("state", "transitions"),
    help = "Times that the breaker has come to that state.",
    alert = "open that grows" },
  { "connections_opened_total", "counter", value = of "opened",
    help = "Connections that were opened.",
    alert = "a rate near that of statements" },
  { "connections_lost_total", "counter", value = of "lost",
    help = "Open connections that were lost.",
    alert = "any, outside of maintenance" },
  { "connections_retired_total", "counter", value = of "retired",
    help = "Connections that were to be replaced: too old, too many tenants "
      .. "seen, not clean, failed over." },
  { "connect_errors_total", "counter", split = by("code", "connect_errors"),
    help = "Connection attempts that failed.", alert = "any that lasts" },
  { "connect_duration_seconds", "histogram", value = of "connect",
    help = "What connecting took, look-up and set-up included; of attempts "
      .. "that succeeded." },
  { "lease_ends_total", "counter", split = by("end", "lease_ends"),
    help = "What became of connections after a lease: clean (free again as it "
      .. "was), reset (free again after a reset), closed, lost.",
    alert = "closed near leases_total: sessions can't be proven clean" },
  { "session_resets_total", "counter", value = of "resets",
    help = "Sessions that were reset and found clean." },
  { "sessions_tainted_total", "counter", value = of "tainted",
    help = "Connections closed because their session could not be proven "
      .. "clean." },
  { "requests_total", "counter", value = of "requests",
    help = "Units that were sent: statements, pings, COMMIT, set-up of "
      .. "transactions." },
  { "requests_resent_total", "counter", value = of "resent",
    help = "Requests that had certainly not run, sent again over another "
      .. "connection." },
  { "queue_full_total", "counter", value = of "queue_full",
    help = "Statements and leases that were refused at once.",
    alert = "any: a tenant is beyond max_waiting" },
  { "queue_timeouts_total", "counter", value = of "queue_timeouts",
    help = "Statements and leases that waited for acquire_timeout_ms in vain.",
    alert = "any" },
  { "rate_limited_total", "counter", value = of "rate_limited",
    help = "Times that a tenant was held back or refused by its rate limit." },
  { "retries_granted_total", "counter", value = of "retries_granted",
    help = "What the retry budget let run again." },
  { "retries_refused_total", "counter", value = of "retries_refused",
    help = "What the retry budget did not let run again.",
    alert = "any: the budget is used up" },
  { "held_up_total", "counter", value = of "held_up",
    help = "Statements that others before them on their connection held up." },
  { "held_up_seconds_total", "counter", value = seconds "held_up_ms",
    help = "For how long, in sum." },
  { "scope_switches_total", "counter", value = of "scope_switches",
    help = "Units for another tenant than the one before on the connection." },
  { "statement_cache_hits_total", "counter", value = of "cache_hits",
    help = "Statements that were prepared already.",
    alert = "few against the misses: cache_statements is too small" },
  { "statement_cache_misses_total", "counter", value = of "cache_misses",
    help = "Statements that were not; each is prepared at its second use." },
  { "statement_cache_evictions_total", "counter", value = of "cache_evictions",
    help = "Prepared statements that made room for others." },
})

define("server", {
  { "statements_total", "counter", value = of "statements",
    help = "Statements that have ended, well or badly. COMMIT is none, and "
      .. "what runs again counts again." },
  { "errors_total", "counter", split = by("code", "errors"),
    help = "Statements, commits and leases that callers were told have "
      .. "failed.", alert = "its share of statements_total" },
  { "ambiguous_failures_total", "counter", value = of "ambiguous",
    help = "Those of which nobody knows whether they took effect.",
    alert = "any: somebody has to look" },
  { "leases_total", "counter", value = of "leases",
    help = "Leases that were granted: transactions, sessions, streams, "
      .. "scripts." },
  { "retries_total", "counter", split = by("code", "retries_by_code"),
    help = "What was tried again (connecting, transactions, idempotent "
      .. "statements), by what it had failed with.",
    alert = "a rate that lasts" },
  { "sent_bytes_total", "counter", value = of "bytes_sent",
    help = "Texts of statements and their parameters, and data of COPY, as "
      .. "they were sent; without the protocol around them." },
  { "received_bytes_total", "counter", value = of "bytes_received",
    help = "Values of results, as texts; without the protocol around them." },
  { "query_duration_seconds", "histogram", value = of "query", exemplars = true,
    help = "Statements that were answered: from sending to the answer. What "
      .. "waits in front of them on the connection is in it.",
    alert = "a quantile beyond what you promise" },
  { "acquire_wait_seconds", "histogram", value = of "wait",
    help = "Time in the queue, of statements that were sent and of leases "
      .. "that were granted.", alert = "a quantile that grows" },
})

define("tenant", {
  { "tenant_statements_total", "counter", value = of "statements",
    help = "statements_total of one tenant." },
  { "tenant_errors_total", "counter", split = by("code", "errors"),
    help = "errors_total of one tenant.",
    alert = "one tenant's share far above that of all" },
  { "tenant_ambiguous_failures_total", "counter", value = of "ambiguous",
    help = "ambiguous_failures_total of one tenant." },
  { "tenant_leases_total", "counter", value = of "leases",
    help = "leases_total of one tenant." },
  { "tenant_sent_bytes_total", "counter", value = of "bytes_sent",
    help = "sent_bytes_total of one tenant." },
  { "tenant_received_bytes_total", "counter", value = of "bytes_received",
    help = "received_bytes_total of one tenant." },
  { "tenant_query_duration_seconds", "histogram", value = of "query",
    coarse = true, help = "query_duration_seconds of one tenant." },
  { "tenant_acquire_wait_seconds", "histogram", value = of "wait",
    coarse = true, help = "acquire_wait_seconds of one tenant." },
})

define("entry", {
  { "pool_connections", "gauge", value = of "total",
    help = "Connections of the tenant's pool in dedicated mode; else those "
      .. "that it has in use." },
  { "pool_connections_idle", "gauge", value = of "idle",
    help = "Those that do nothing; 0 in shared mode." },
  { "pool_connections_waiting", "gauge", value = of "waiting",
    help = "Statements and leases of the tenant that wait.",
    alert = "near connection.pool.max_waiting" },
  { "pool_last_access_timestamp_seconds", "gauge", value = of "last_access",
    help = "When the tenant was last used." },
})

define("health", {
  { "health_status", "gauge", value = flag "healthy",
    help = "1 when nothing is unhealthy.", alert = "0" },
  { "health_pools", "gauge", value = of "total_pools",
    help = "Tenants that were looked at." },
  { "health_pools_degraded", "gauge", value = of "degraded_pools",
    help = "Those that have to wait." },
  { "health_pools_unhealthy", "gauge", value = of "unhealthy_pools",
    help = "Those whose server does not answer.", alert = "above 0" },
  { "health_check_duration_seconds", "gauge", value = seconds "duration_ms",
    help = "What the check took." },
  { "shared_db_health_status", "gauge", value = status "shared_db",
    help = "The configuration's own server: 1 ok, 0.5 degraded, 0 unhealthy.",
    alert = "0" },
  { "shared_db_response_time_seconds", "gauge",
    value = seconds "shared_db_response_time_ms",
    help = "What its ping took." },
})

define("health_entry", {
  { "pool_health_status", "gauge", value = status "status",
    help = "1 ok, 0.5 degraded, 0 unhealthy." },
  { "pool_response_time_seconds", "gauge", value = seconds "response_time_ms",
    help = "What the ping of the tenant's server took, or its own." },
})

define("process", {
  { "process_uptime_seconds", "gauge", value = of "uptime",
    help = "Since the module was loaded.", alert = "it starts again and again" },
  { "process_lua_heap_bytes", "gauge", value = of "heap",
    help = "Memory that Lua has allocated." },
  { "process_resident_memory_bytes", "gauge", value = of "resident",
    help = "Memory of the process (Linux).", alert = "it only grows" },
  { "process_active_handles", "gauge", value = of "handles",
    help = "Descriptors and timers that the loop watches for mtenant." },
  { "process_active_requests", "gauge", value = of "requests",
    help = "What tasks wait for." },
})


-- ---- bounds ---------------------------------------------------------------------

--- The first bound of a histogram is 2^6 microseconds, each next one the double.
M.BOUNDS = 19

--- Every second one, for tenants: 64 us, 256 us, ... 16.8 s.
M.COARSE = 2


--- A bound as text, in seconds.
---@param i integer from 1
---@return string
function M.bound(i)
  local us = 2 ^ (i + 5)
  local text = ("%d.%06d"):format(math.floor(us / 1e6), us % 1e6)
  return (text:gsub("0+$", ""))
end


local LABELS = {
  manager = {}, shared = {}, server = { "server" }, server_only = { "server" },
  tenant = { "tenant" }, entry = { "tenant", "schema" }, health = {},
  health_entry = { "tenant", "schema" }, process = {},
}


--- The names of a series' labels.
---@param s table one of this list
---@return string[]
function M.labels(s)
  local out = {}
  for i, name in ipairs(LABELS[s.scope]) do out[i] = name end
  if s.split then out[#out + 1] = s.split.label end
  if s[2] == "histogram" then out[#out + 1] = "le" end
  return out
end


--- "seconds", "bytes" or "".
---@param s table one of this list
---@return string
function M.unit(s)
  local base = s[1]:gsub("_total$", "")
  return base:match "_(seconds)$" or base:match "_(bytes)$" or ""
end


return M
