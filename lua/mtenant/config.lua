--- The configuration: every field, its default and its limits; tenant ids.
--
-- `mtenant.define_config` and the manager call `define`, which gives a copy
-- that is complete and valid, so that nobody after it checks or defaults
-- anything. Messages and their order are those of drizzle-multitenant, names
-- in snake_case. The environment is an argument; nothing here connects, and a
-- url is not taken apart.

local debug_log = require "mtenant.debug"
local errors = require "mtenant.errors"
local named_servers = require "mtenant.named_servers"
local retry = require "mtenant.retry"
local schema = require "mtenant.schema"
local tracing = require "mtenant.tracing"

local CODE = errors.CODE

local ID_BYTES_MAX = 200
local ID_SHOWN_MAX = 40
local MAX_POOLS = { shared = 10000, dedicated = 50 }

local M = {}


--- Processes that share a budget, where the configuration does not say: a host
-- that runs several sets it.
M.processes = 1


--- Ids that fail this pattern are refused before any I/O.
M.ID_PATTERN = "^[%w_.@:-]+$"


local function database_url(_, _, env)
  return env.getenv("DATABASE_URL")
end


-- The templates and rules that a strategy cannot do without, unless `resolve`
-- answers instead.
local function needed_by(strategy)
  return function(isolation, root)
    return root.resolve == nil and root.policy == nil
      and isolation.strategy == strategy
  end
end


local function check_setting(name)
  if name:find("^[%l_][%l%d_]*%.[%l_][%l%d_.]*$") then return nil end
  return '%s must be of the form "app.tenant_id", in lower case'
end


local function default_max_pools(isolation)
  return MAX_POOLS[isolation.mode]
end


local function check_pool_min(min, pool)
  if min > pool.max then return "%s cannot be greater than max" end
  return nil
end


-- Any other path would fail at every statement, because the fence compares the
-- first schema in it with the tenant's.
local function check_search_path(path)
  if path[1] ~= "$tenant" then return '%s must start with "$tenant"' end
  for i, name in ipairs(path) do
    if name == "" or name:find("\0", 1, true) then
      return "%s[" .. i .. "] is not the name of a schema"
    end
    if i > 1 and name == "$tenant" then
      return '%s must name "$tenant" only once'
    end
  end
  return nil
end


-- It stands in labels, documents and tables.
local function check_name(name)
  if name == nil or #name <= 63 and name:find("^[%w_.-]+$") then return nil end
  return "%s must be 1 to 63 letters, digits, dots, dashes or underscores"
end


local function check_id_pattern(pattern)
  local ok, message = pcall(string.find, "tenant", pattern)
  if ok then return nil end
  return "%s is not a Lua pattern: " .. errors.text_of(message)
end


-- The rest of it is the migrator's, see create_migrator.
local function check_migrations(migrations)
  local when = migrations and migrations.migrate
  if when == nil or when == "manual" or when == "on_connect" then return nil end
  return '%s.migrate must be "manual" or "on_connect"'
end


local function check_policy(policy, root)
  if policy == nil then return nil end
  if policy == "" then return "%s must name a file" end
  if root.resolve ~= nil then return "%s and resolve exclude each other" end
end


-- a second's worth
local function default_burst(rate)
  local per_second = rate.max_queries_per_second
  if not per_second then return nil end
  return math.max(1, math.ceil(per_second))
end


local function default_on_exceeded(rate)
  return rate.max_queries_per_second and "queue"
end


local function check_rate(per_second)
  if per_second and per_second <= 0 then return "%s must be positive" end
end


local function check_has_rate(value, rate)
  if value ~= nil and not rate.max_queries_per_second then
    return "%s needs max_queries_per_second"
  end
end


local function check_probe_delay(delay_ms, breaker)
  if delay_ms > breaker.max_delay_ms then
    return "%s cannot be greater than max_delay_ms"
  end
end


local function check_ratio(ratio)
  if ratio and (ratio <= 0 or ratio > 1) then
    return "%s must be more than 0 and at most 1"
  end
end


--- What is wrong with the prefix of series, with "%s" for the option.
function M.check_prefix(prefix)
  if prefix and not prefix:find "^[%a_][%w_]*$" then
    return "%s must be letters, digits and _"
  end
end


local function check_direct(value, connection)
  if value and value > 0 and connection.pooler then
    return "%s does not work behind a pooler: set "
      .. "idle_in_transaction_session_timeout of the role instead"
  end
end


-- In the order of their messages; `resolve` and `policy` are this early because
-- the template is required without them.
local LEADING = {
  { "connection.url", kind = "string", required = true,
    default = database_url },
  { "resolve", kind = "function" },
  { "policy", kind = { "string", "table", "function" }, check = check_policy },
  { "servers", kind = "table", check = named_servers.check },
  { "isolation.strategy", kind = "string", default = "schema",
    required = true, enum = { "schema", "database", "row", "hybrid" } },
  { "isolation.schema_name_template", kind = "function",
    required = needed_by("schema") },
  { "isolation.database_template", kind = "function",
    required = needed_by("database") },
  { "isolation.choose", kind = "function", required = needed_by("hybrid") },
  { "isolation.schema", kind = "string", default = "public" },
  { "isolation.tenant_setting", kind = "string", default = "app.tenant_id",
    check = check_setting },
  { "schemas", kind = "table", dropped = true },
  { "isolation.mode", kind = "string", enum = { "shared", "dedicated" },
    default = "shared" },
  { "isolation.max_pools", kind = "integer", min = 1,
    default = default_max_pools },
  { "isolation.pool_ttl_ms", kind = "number", min = 0, default = 3600000 },
  { "isolation.role_template", kind = "function" },
  { "isolation.search_path", kind = "strings",
    default = { "$tenant", "public" }, check = check_search_path },
  { "isolation.verify_schema", kind = "boolean", default = true },
  { "isolation.reset", kind = "string",
    enum = { "auto", "always", "discard_all" }, default = "auto" },
}

local TRAILING = {
  { "connection.password", kind = { "string", "function" } },
  { "connection.max_connections", kind = { "integer", "string" }, min = 1,
    enum = { "auto" }, default = "auto" },
  { "connection.processes", kind = "integer", min = 1 },
  { "connection.pooler", kind = "string", enum = { "transaction" } },
  { "connection.statement_timeout_ms", kind = "number", min = 0 },
  { "connection.cancel_timeout_ms", kind = "number", min = 0,
    default = 2000 },
  { "connection.idle_transaction_timeout_ms", kind = "number", min = 0,
    check = check_direct },
  { "connection.application_name", kind = "string", default = "mtenant" },
  { "connection.cache_statements", kind = "integer", min = 0,
    default = 256 },
  { "connection.pool.max", kind = "integer", min = 1, default = 10 },
  { "connection.pool.min", kind = "integer", min = 0, default = 0,
    check = check_pool_min },
  { "connection.pool.idle_timeout_ms", kind = "number", min = 0,
    default = 30000 },
  { "connection.pool.connect_timeout_ms", kind = "number", min = 0,
    default = 5000 },
  { "connection.pool.acquire_timeout_ms", kind = "number", min = 0,
    default = 5000 },
  { "connection.pool.max_lifetime_ms", kind = "number", min = 0,
    default = 3600000 },
  { "connection.pool.max_waiting", kind = "integer", min = 1,
    default = 1000 },
  { "connection.pool.queue_policy", kind = "string",
    enum = { "queue", "reject", "evict-lru" }, default = "queue" },

  { "rate_limit.max_queries_per_second", kind = "number",
    check = check_rate },
  { "rate_limit.burst", kind = "integer", min = 1, default = default_burst,
    check = check_has_rate },
  { "rate_limit.on_exceeded", kind = "string",
    enum = { "queue", "reject", "throttle" }, default = default_on_exceeded,
    check = check_has_rate },

  { "breaker.failure_threshold", kind = "integer", min = 1, default = 1 },
  { "breaker.max_delay_ms", kind = "number", min = 0, default = 1000 },
  { "breaker.initial_delay_ms", kind = "number", min = 0, default = 100,
    check = check_probe_delay },
  { "breaker.break_duration_ms", kind = "number", min = 1 },
  { "breaker.fail_fast", kind = "boolean", default = false },
  { "breaker.failure_ratio", kind = "number", check = check_ratio },
  { "breaker.minimum_throughput", kind = "integer", min = 1, default = 10 },
  { "breaker.sampling_duration_ms", kind = "number", min = 1,
    default = 10000 },

  { "retry_budget.enabled", kind = "boolean", default = true },
  { "retry_budget.per_second", kind = "number", min = 0, default = 10 },
  { "retry_budget.ratio", kind = "number", min = 0, default = 0.2 },
  { "retry_budget.burst", kind = "number", min = 1, default = 100 },
  { "retry_budget.tenant_share", kind = "number", default = 0.5,
    check = check_ratio },

  { "routing.ttl_ms", kind = "number", min = 0, default = 60000 },
  { "routing.negative_ttl_ms", kind = "number", min = 0, default = 5000 },
  { "routing.stale_while_revalidate_ms", kind = "number", min = 0,
    default = 60000 },
  { "routing.stale_if_error_ms", kind = "number", min = 0, default = 3600000 },
  { "routing.max_entries", kind = "integer", min = 1, default = 100000 },
  { "routing.max_concurrent", kind = "integer", min = 1, default = 64 },
  { "routing.timeout_ms", kind = "number", min = 0, default = 10000 },
  { "routing.reload", kind = "boolean", default = true },
  { "routing.memory_bytes", kind = "integer", min = 262144,
    default = 16777216 },
  { "routing.time_ms", kind = "number", min = 1, default = 10 },

  { "hooks.on_pool_created", kind = "function" },
  { "hooks.on_pool_evicted", kind = "function" },
  { "hooks.on_error", kind = "function" },
  { "hooks.on_promotion", kind = "function" },
  { "hooks.on_queue_full", kind = "function" },
  { "hooks.on_queue_timeout", kind = "function" },
  { "hooks.on_policy_event", kind = "function" },

  { "metrics.enabled", kind = "boolean", default = true },
  { "metrics.tenants", kind = "integer", min = 0, max = 200, default = 50 },
  { "metrics.prefix", kind = "string", default = "mtenant",
    check = M.check_prefix },

  { "name", kind = "string", check = check_name },
  { "id_pattern", kind = "string", default = M.ID_PATTERN,
    check = check_id_pattern },
  { "log", kind = "table" }, -- checked by mtenant.log
  { "migrations", kind = "table", check = check_migrations },
}


local function make_checker()
  local spec = { name = "config", prefix = "" }
  local lists = {
    LEADING,
    retry.fields("connection.retry."),
    TRAILING,
    debug_log.fields("debug."),
    tracing.fields("tracing."),
  }
  for _, fields in ipairs(lists) do
    for _, field in ipairs(fields) do spec[#spec + 1] = field end
  end
  return schema.new(spec)
end


local checker = make_checker()


---@class mtenant.config
---@field connection table url, password, pool, max_connections, pooler, retry,
--- statement_timeout_ms, cancel_timeout_ms, idle_transaction_timeout_ms,
--- application_name, cache_statements
---@field isolation table strategy, schema_name_template, database_template,
--- choose, schema, tenant_setting, mode, max_pools, pool_ttl_ms, role_template,
--- search_path, verify_schema, reset
---@field resolve? fun(tenant_id: string, ctx: table): any
---@field policy? string|table|function
---@field routing? table of a configuration that has a policy, or says so:
--- ttl_ms, negative_ttl_ms, stale_while_revalidate_ms, stale_if_error_ms,
--- max_entries, max_concurrent, timeout_ms, reload, memory_bytes, time_ms
---@field servers? table<string, string|table>
---@field breaker table failure_threshold, initial_delay_ms, max_delay_ms,
--- break_duration_ms, fail_fast, failure_ratio, minimum_throughput,
--- sampling_duration_ms
---@field retry_budget table enabled, per_second, ratio, burst, tenant_share
---@field rate_limit table max_queries_per_second, burst, on_exceeded
---@field hooks table on_pool_created, on_pool_evicted, on_error, on_promotion,
--- on_queue_full, on_queue_timeout, on_policy_event
---@field debug table enabled, log_queries, log_parameters, log_pool_events,
--- slow_query_threshold_ms, logger
---@field log? table
---@field metrics table enabled, tenants, prefix
---@field tracing table comments, application_name, tags
---@field id_pattern string

--- A validated copy of a configuration, all defaults filled in. What this has
--- returned is accepted again. Durations are milliseconds, 0 or more, finite.
--- Raises an error object of code `misuse` for the first thing that is wrong.
---@param t table
---@param opts? table `level`: where errors are, as in `error` (2, the caller);
--- `getenv`: function(name), asked for DATABASE_URL when connection.url is nil
---@return mtenant.config
function M.define(t, opts)
  opts = opts or {}
  if type(t) == "table" and type(t.metrics) == "boolean" then
    local copy = {}
    for key, value in pairs(t) do copy[key] = value end
    copy.metrics = { enabled = t.metrics }
    t = copy
  end
  local env = { getenv = opts.getenv or os.getenv }
  local cfg = checker:check(t, opts.level or 2, env)
  -- a resolver's routes are kept for good unless somebody wants a cache
  if t.policy == nil and t.routing == nil then cfg.routing = nil end
  return cfg
end


-- The reason why an id is refused, or nil.
local function id_problem(id, pattern)
  if #id == 0 then return "is empty" end
  if #id > ID_BYTES_MAX then
    return "is longer than " .. ID_BYTES_MAX .. " bytes"
  end
  if id:find("\0", 1, true) then return "contains a NUL byte" end
  local ok, found = pcall(string.find, id, pattern)
  if ok and found then return nil end
  return "does not match " .. pattern
end


--- Whether a tenant id may be used at all; no I/O.
---@param id any
---@param pattern? string a Lua pattern (`config.id_pattern`)
---@return boolean|nil
---@return mtenant.error|nil err of code invalid_tenant_id; shows the id
--- shortened and with escapes for what cannot be printed
function M.valid_id(id, pattern)
  if type(id) ~= "string" then
    return nil, errors.new(CODE.invalid_tenant_id,
                           "a tenant id must be a string, got " .. type(id))
  end
  local problem = id_problem(id, pattern or M.ID_PATTERN)
  if not problem then return true end
  local shown = schema.printable(id, ID_SHOWN_MAX)
  return nil, errors.new(CODE.invalid_tenant_id,
                         string.format('tenant id "%s" %s', shown, problem),
                         { tenant_id = shown })
end


local JITTER = { [true] = "seed", [false] = "none" }


--- What the core needs of a defined configuration, as one flat table.
---@param cfg mtenant.config
---@return table
function M.flatten(cfg)
  local c, i = cfg.connection, cfg.isolation
  local pool, tries = c.pool, c.retry
  return {
    url = c.url,
    application_name = c.application_name,
    pool_max = pool.max,
    pool_min = pool.min,
    max_waiting = pool.max_waiting,
    queue_policy = pool.queue_policy,
    max_queries_per_second = cfg.rate_limit.max_queries_per_second,
    burst = cfg.rate_limit.burst,
    on_exceeded = cfg.rate_limit.on_exceeded,
    breaker_failure_threshold = cfg.breaker.failure_threshold,
    breaker_initial_delay_ms = cfg.breaker.initial_delay_ms,
    breaker_max_delay_ms = cfg.breaker.max_delay_ms,
    break_duration_ms = cfg.breaker.break_duration_ms,
    breaker_fail_fast = cfg.breaker.fail_fast,
    breaker_failure_ratio = cfg.breaker.failure_ratio,
    breaker_minimum_throughput = cfg.breaker.minimum_throughput,
    breaker_sampling_duration_ms = cfg.breaker.sampling_duration_ms,
    retry_budget_enabled = cfg.retry_budget.enabled,
    retry_budget_per_second = cfg.retry_budget.per_second,
    retry_budget_ratio = cfg.retry_budget.ratio,
    retry_budget_burst = cfg.retry_budget.burst,
    retry_budget_tenant_share = cfg.retry_budget.tenant_share,
    idle_timeout_ms = pool.idle_timeout_ms,
    connect_timeout_ms = pool.connect_timeout_ms,
    acquire_timeout_ms = pool.acquire_timeout_ms,
    max_lifetime_ms = pool.max_lifetime_ms,
    cache_statements = c.cache_statements,
    cancel_timeout_ms = c.cancel_timeout_ms,
    idle_transaction_timeout_ms = c.idle_transaction_timeout_ms,
    max_connections = type(c.max_connections) == "number" and c.max_connections
      or 0,
    processes = c.processes or M.processes,
    max_attempts = tries.max_attempts,
    initial_delay_ms = tries.initial_delay_ms,
    max_delay_ms = tries.max_delay_ms,
    backoff_multiplier = tries.backoff_multiplier,
    jitter = JITTER[tries.jitter] or tries.jitter,
    deadline_ms = tries.deadline_ms,
    has_on_retry = tries.on_retry ~= nil,
    has_is_retryable = tries.is_retryable ~= nil,
    has_password = c.password ~= nil,
    hears_tries = cfg.debug.enabled,
    hears_entries = cfg.debug.enabled or cfg.hooks.on_pool_created ~= nil,
    pooled = c.pooler == "transaction",
    dedicated = i.mode == "dedicated",
    verify_schema = i.verify_schema,
    reset = i.reset,
    max_pools = i.max_pools,
    pool_ttl_ms = i.pool_ttl_ms,
    search_path = i.search_path,
    metrics = cfg.metrics.enabled,
    metrics_tenants = cfg.metrics.tenants,
  }
end


return M
