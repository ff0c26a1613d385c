--- The debug log: events of pools, connections and queries as lines of text.
--
-- The manager makes one from `config.debug` and hands it the core's events;
-- whoever runs a query hands it the duration. Lines and their context are
-- those of drizzle-multitenant. Without a logger of the user's they go to the
-- log. Parameters of queries appear in it only when that is asked for, and a
-- logger that raises changes nothing.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local log = require "mtenant.log"
local log_format = require "mtenant.log.format"
local schema = require "mtenant.schema"
local utf8 = require "mtenant.utf8"

local format = string.format

local PREFIX = "[mtenant] "
local QUERY_BYTES_MAX = 100
local PARAM_BYTES_MAX = 40
local PARAMS_MAX = 20

-- what a line is to the log; "info" unless named here
local LEVELS = {
  query = "debug", slow_query = "warn", pool_error = "error",
  queue_full = "warn", queue_timeout = "warn", connection_retry = "warn",
}

local M = {}


--- The fields of a debug configuration, for a schema.
---@param prefix? string path before each name, "debug."
---@return mtenant.schema.field[]
function M.fields(prefix)
  local p = prefix or ""
  return {
    { p .. "enabled", kind = "boolean", default = false },
    { p .. "log_queries", kind = "boolean", default = true },
    { p .. "log_parameters", kind = "boolean", default = false },
    { p .. "log_pool_events", kind = "boolean", default = true },
    { p .. "slow_query_threshold_ms", kind = "number", min = 0,
      default = 1000 },
    { p .. "logger", kind = "function" },
  }
end


local function make_checker()
  local spec = M.fields()
  spec.name = "debug"
  return schema.new(spec)
end


local checker = make_checker()


-- An id, a name or a message must not start a line of its own.
local function printable(text)
  return (tostring(text):gsub("%c+", " "))
end


local function ms(duration)
  return format("%.0fms", duration or 0)
end


--- A statement on one line, of at most 100 bytes, with "..." where it was cut
--- (never inside a UTF-8 character).
---@param sql string
---@return string
function M.shorten(sql)
  local text = sql:gsub("[%s%c]+", " "):gsub("^ ", ""):gsub(" $", "")
  return utf8.cut(text, QUERY_BYTES_MAX)
end


-- One parameter: a string in quotes, cut where it is long; of bytes the number.
local function parameter(value)
  if value == nil or value == core.null then return "NULL" end
  local text = value
  if type(value) == "table" then text = rawget(value, 1) end
  if type(text) ~= "string" then return tostring(value) end
  if text:find("^\\x") and type(value) == "table" then
    return format("<bytea of %d bytes>", (#text - 2) / 2)
  elseif #text > PARAM_BYTES_MAX then
    return format('"%s" (%d bytes)',
                  log_format.clean(utf8.cut(text, PARAM_BYTES_MAX)), #text)
  end
  return '"' .. log_format.clean(text) .. '"'
end


-- Parameters as they were given to a query; nil: there are none.
local function parameters(params)
  local n = params and (params.n or #params) or 0
  if n == 0 then return nil end
  local out = {}
  for i = 1, math.min(n, PARAMS_MAX) do out[i] = parameter(params[i]) end
  if n > PARAMS_MAX then
    out[#out + 1] = format("... %d more", n - PARAMS_MAX)
  end
  return out
end


-- What a query line has behind what drizzle-multitenant's has: the parameters
-- where they are wanted, and of a failure its code, which shows no values.
local function add_details(line, context, ev, with_params)
  context.parameters = with_params and parameters(ev.params) or nil
  if context.parameters then
    line = line .. " params=[" .. table.concat(context.parameters, ", ") .. "]"
  end
  if ev.error ~= nil then
    context.error = errors.is(ev.error) and (ev.error.sqlstate or ev.error.code)
      or "error"
    line = line .. " error=" .. context.error
  end
  return line, context
end


-- Each returns the rest of the line and the rest of the context.
local FORMATS = {}


function FORMATS.query(ev, with_params)
  local sql = M.shorten(ev.query or "")
  return add_details(format('query="%s" duration=%s', sql, ms(ev.duration_ms)),
                     { query = sql, duration_ms = ev.duration_ms }, ev,
                     with_params)
end


function FORMATS.slow_query(ev, with_params)
  local sql = M.shorten(ev.query or "")
  return add_details(format('SLOW_QUERY duration=%s query="%s"',
                            ms(ev.duration_ms), sql),
                     { query = sql, duration_ms = ev.duration_ms }, ev,
                     with_params)
end


function FORMATS.pool_created(ev)
  return "POOL_CREATED schema=" .. printable(ev.schema or ""),
    { schema_name = ev.schema }
end


function FORMATS.pool_evicted(ev)
  local line = "POOL_EVICTED schema=" .. printable(ev.schema or "")
  if not ev.reason then return line, { schema_name = ev.schema } end
  return line .. " reason=" .. printable(ev.reason),
    { schema_name = ev.schema, metadata = { reason = ev.reason } }
end


function FORMATS.pool_error(ev)
  local text = printable(errors.text_of(ev.error))
  return format('POOL_ERROR error="%s"', text), { error = text }
end


function FORMATS.policy(ev)
  local line = format("POLICY %s policy=%s version=%d", printable(ev.reason),
                      printable(ev.policy), ev.version)
  local text = ev.error and printable(errors.text_of(ev.error))
  if text then line = format('%s error="%s"', line, text) end
  return line, { error = text, metadata = {
    reason = ev.reason, policy = ev.policy, version = ev.version } }
end


function FORMATS.queue_full(_)
  return "QUEUE_FULL", {}
end


function FORMATS.queue_timeout(ev)
  return "QUEUE_TIMEOUT waited=" .. ms(ev.total_time_ms),
    { duration_ms = ev.total_time_ms }
end


function FORMATS.warmup(ev)
  return format("WARMUP status=%s duration=%s", printable(ev.status),
                ms(ev.duration_ms)), {
    duration_ms = ev.duration_ms,
    metadata = {
      success = ev.status ~= "failed",
      already_warm = ev.status == "already_warm",
    },
  }
end


function FORMATS.connection_retry(ev)
  local text = printable(errors.text_of(ev.error))
  return format('CONNECTION_RETRY attempt=%d/%d delay=%s error="%s"',
                ev.attempt or 0, ev.max_attempts or 0, ms(ev.delay_ms),
                text), {
    error = text,
    metadata = {
      attempt = ev.attempt,
      max_attempts = ev.max_attempts,
      delay_ms = ev.delay_ms,
    },
  }
end


-- Nothing is said about a connection that worked at once.
function FORMATS.connection_success(ev)
  if (ev.attempt or 1) <= 1 then return nil end
  return format("CONNECTION_SUCCESS attempts=%d totalTime=%s", ev.attempt,
                ms(ev.total_time_ms)), {
    duration_ms = ev.total_time_ms,
    metadata = { attempts = ev.attempt },
  }
end


-- A line goes to the log, which puts the prefix and the tenant before it; what
-- the line says already is no field of it.
local function to_log(self, kind, line, context, ev)
  local level = LEVELS[kind] or "info"
  if kind == "warmup" and ev.status == "failed" then level = "warn" end
  self.log:log(level, line, {
    event = kind, tenant_id = context.tenant_id, details = context,
    server = errors.is(ev.error) and ev.error.server or nil,
    -- each slow statement is a matter of its own
    same = kind == "slow_query"
      and tostring(context.tenant_id) .. " " .. context.query or nil,
  })
end


-- The kind a query is logged as: the threshold decides.
local function kind_of(self, ev)
  if ev.kind ~= "query" then return ev.kind end
  local slow = (ev.duration_ms or 0) >= self.slow_query_threshold_ms
  return slow and "slow_query" or "query"
end


---@class mtenant.debug
---@field enabled boolean
local methods = {}
local mt = { __index = methods, __name = "mtenant.debug" }


--- Whether an event of that kind would be logged at all: callers need not
--- measure what nobody sees.
---@param kind string
---@return boolean
function methods:wants(kind)
  if not self.enabled or not FORMATS[kind] then return false end
  if kind == "query" or kind == "slow_query" then return self.log_queries end
  return self.log_pool_events
end


--- Logs an event, if it is wanted. Never raises.
---@param ev table `kind` (query, slow_query, pool_created, pool_evicted,
--- pool_error, policy, queue_full, queue_timeout, warmup, connection_retry,
--- connection_success; others are ignored), `tenant_id`, and by kind:
--- `schema`, `reason`, `error`, `attempt`, `max_attempts`, `query`, `status`,
--- `delay_ms`, `total_time_ms`, `duration_ms` (milliseconds), `params` (a list
--- with `n`)
function methods:event(ev)
  if not self:wants(ev.kind) then return end
  local kind = kind_of(self, ev)
  local line, context = FORMATS[kind](ev, self.log_parameters)
  if not line then return end
  context.type = kind
  context.tenant_id = ev.tenant_id
  if not self.logger then
    to_log(self, kind, line, context, ev)
    return
  end
  if ev.tenant_id then
    line = "tenant=" .. printable(ev.tenant_id) .. " " .. line
  end
  pcall(self.logger, PREFIX .. line, context)
end


--- Makes a debug log; raises at the caller when an option is wrong.
---@param opts? table `enabled` (false), `log_queries` (true), `log_parameters`
--- (false), `log_pool_events` (true), `slow_query_threshold_ms` (1000), and
--- `logger`: function(message, context), by default the log
---@param logger? mtenant.Log the default one
---@return mtenant.debug
function M.new(opts, logger)
  local self = checker:check(opts or {})
  self.log = logger or log.default()
  return setmetatable(self, mt)
end


return M
