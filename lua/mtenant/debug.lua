--- The debug log: events of pools, connections and queries as lines of text.
--
-- The manager makes one from `config.debug` and hands it the core's events;
-- whoever runs a query hands it the duration. Lines and their context are
-- those of drizzle-multitenant. Parameters of queries never appear in it, and
-- a logger that raises changes nothing.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"

local format = string.format

local PREFIX = "[mtenant] "
local QUERY_BYTES_MAX = 100

local M = {}


--- The fields of a debug configuration, for a schema.
---@param prefix? string path before each name, "debug."
---@return mtenant.schema.field[]
function M.fields(prefix)
  local p = prefix or ""
  return {
    { p .. "enabled", kind = "boolean", default = false },
    { p .. "log_queries", kind = "boolean", default = true },
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


local function to_stderr(message)
  io.stderr:write(message, "\n")
end


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
  if #text <= QUERY_BYTES_MAX then return text end
  local last = QUERY_BYTES_MAX - 3
  while last > 0 and (text:byte(last + 1) or 0) >= 128 and
        text:byte(last + 1) < 192 do
    last = last - 1
  end
  return text:sub(1, last) .. "..."
end


-- Each returns the rest of the line and the rest of the context.
local FORMATS = {}


function FORMATS.query(ev)
  local sql = M.shorten(ev.query or "")
  return format('query="%s" duration=%s', sql, ms(ev.duration_ms)),
    { query = sql, duration_ms = ev.duration_ms }
end


function FORMATS.slow_query(ev)
  local sql = M.shorten(ev.query or "")
  return format('SLOW_QUERY duration=%s query="%s"', ms(ev.duration_ms), sql),
    { query = sql, duration_ms = ev.duration_ms }
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
--- `delay_ms`, `total_time_ms`, `duration_ms` (milliseconds)
function methods:event(ev)
  if not self:wants(ev.kind) then return end
  local kind = kind_of(self, ev)
  local line, context = FORMATS[kind](ev)
  if not line then return end
  context.type = kind
  context.tenant_id = ev.tenant_id
  if ev.tenant_id then
    line = "tenant=" .. printable(ev.tenant_id) .. " " .. line
  end
  pcall(self.logger, PREFIX .. line, context)
end


--- Makes a debug log; raises at the caller when an option is wrong.
---@param opts? table `enabled` (false), `log_queries` (true),
--- `log_pool_events` (true), `slow_query_threshold_ms` (1000), and `logger`:
--- function(message, context), by default a line on stderr
---@return mtenant.debug
function M.new(opts)
  local self = checker:check(opts or {})
  self.logger = self.logger or to_stderr
  return setmetatable(self, mt)
end


return M
