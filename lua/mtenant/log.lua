--- Logs: levels, sinks, limits, and which tenant and request a line is about.
--
-- What the library has to say of itself goes through the log of the manager it
-- is about (`config.log`), else through the default one, which writes lines to
-- standard error. No log ever raises, fails or changes what the program does.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local finalizer = require "mtenant.finalizer"
local format = require "mtenant.log.format"
local limit = require "mtenant.log.limit"
local schema = require "mtenant.schema"
local stream = require "mtenant.log.stream"

local pcall, type = pcall, type

local RANK = { debug = 1, info = 2, warn = 3, error = 4, off = 5 }

local IDS = { "tenant_id", "request_id", "trace_id" }

-- a sink that fails is told of on stderr, once in a while
local COMPLAIN_EVERY_MS = 60000

---@class mtenant.Log
---@field level string
local methods = {}
local mt = { __name = "mtenant.log", __index = methods }

local M = {}


local function no_ids() end

local ids = no_ids


--- Says where the ids of the tenant and the request come from (context.lua).
---@param fn fun(): table|nil  tenant_id, request_id, trace_id
function M._set_ids(fn)
  ids = fn
end


-- ---- options ---------------------------------------------------------------

local options = schema.new({
  name = "log",
  { "level", kind = "string", enum = { "debug", "info", "warn", "error",
                                       "off" }, default = "debug" },
  { "format", kind = "string", enum = { "text", "json" }, default = "text" },
  { "path", kind = "string" },
  { "bare", kind = "boolean", default = false },
  { "sink", kind = { "function", "table" } },
  { "burst", kind = "integer", min = 1, default = 10 },
  { "interval_ms", kind = "number", min = 0, default = 60000 },
})


-- A sink of a function, or of what an adapter has made.
local function custom(sink)
  if type(sink) == "table" and type(sink.write) == "function" then
    return sink
  elseif schema.is_callable(sink) then
    return { write = function(_, record, line) sink(record, line) end,
             lines = true }
  end
  errors.misuse(3, "log.sink must be a function or have a function write")
end


-- ---- writing ---------------------------------------------------------------

local function complain(self, why)
  self.failures = self.failures + 1
  local now_ms = core.clock()
  if now_ms < self.complain_at then return end
  self.complain_at = now_ms + COMPLAIN_EVERY_MS
  pcall(function()
    io.stderr:write("[mtenant] a log cannot be written: ",
                    format.clean(format.redact(errors.text_of(why))), "\n")
  end)
end


-- A sink that logs itself would never come to an end.
local function emit(self, record)
  if self.writing then return end
  self.writing = true
  local sink = self.sink
  local line = sink.lines and self.line(record) or nil
  local ran, ok, why = pcall(sink.write, sink, record, line)
  self.writing = false
  if not ran then complain(self, ok)
  elseif ok == nil and why ~= nil then complain(self, why) end
end


local function add_ids(record)
  local ok, found = pcall(ids)
  if not ok or type(found) ~= "table" then return end
  for _, name in ipairs(IDS) do
    if record[name] == nil and type(found[name]) == "string" then
      record[name] = found[name]
    end
  end
end


local function write(self, level, message, fields)
  local now_ms = core.clock()
  local record = {}
  for name, value in pairs(fields or {}) do record[name] = value end
  record.time, record.level, record.message = now_ms, level, message
  add_ids(record)
  local function out(one)
    one.time = now_ms
    emit(self, one)
  end
  if self.limit and record.event ~= "query"
    and not self.limit:pass(record, now_ms, out) then
    return
  end
  emit(self, record)
end


--- Whether a line of that level would be written.
---@param level string
---@return boolean
function methods:wants(level)
  return RANK[level] >= RANK[self.level]
end


--- Writes a line. Never raises.
---@param level string  debug, info, warn, error
---@param message string
---@param fields? table  by name: `event` (what is limited: the same event of
--- one server or tenant), `tenant_id`, `server`, and others
function methods:log(level, message, fields)
  if not RANK[level] or RANK[level] < RANK[self.level] then return end
  local ok, err = pcall(write, self, level, message, fields)
  if not ok then complain(self, err) end
end


for _, level in ipairs { "debug", "info", "warn", "error" } do
  methods[level] = function(self, message, fields)
    self:log(level, message, fields)
  end
end


--- Changes the level from now on.
---@param level string
function methods:set_level(level)
  if not RANK[level] then
    errors.misuse(2, "log.level must be debug, info, warn, error or off")
  end
  self.level = level
end


--- Writes what was held back or kept, as far as it goes.
---@param timeout_ms? number so long at most it waits for that; 0
---@return boolean whether nothing is left
function methods:flush(timeout_ms)
  if self.limit then
    pcall(self.limit.finish, self.limit, function(record)
      record.time = core.clock()
      emit(self, record)
    end)
  end
  if not self.sink.flush then return true end
  local ok, empty = pcall(self.sink.flush, self.sink, timeout_ms)
  return ok and empty ~= false
end


--- Opens the file anew, after logrotate has moved it away.
---@return boolean|nil ok
---@return string|nil message
function methods:reopen()
  if not self.sink.reopen then return true end
  local ok, done, why = pcall(self.sink.reopen, self.sink)
  if not ok then return nil, errors.text_of(done) end
  return done, why
end


--- What became of lines: { lost, failures }.
---@return table
function methods:get_stats()
  local lost = self.sink.lost_lines and self.sink:lost_lines() or 0
  return { lost = lost, failures = self.failures }
end


--- A log. Raises misuse for a wrong option, and where its file can't be opened.
---@param opts? table  `level` ("debug": all), `format` ("text", "json"), `path`
--- (a file; else standard error), `bare` (text without time and level), `sink`
--- (instead: function(record, line), or what an adapter gives), `burst` (10)
--- and `interval_ms` (60000): of the same event so many are written in so long;
--- 0: no limit
---@return mtenant.Log
function M.new(opts)
  local o = options:check(opts or {}, 2)
  if o.sink and o.path then
    errors.misuse(2, "log.sink and log.path exclude each other")
  end
  local line = o.format == "json" and format.json
    or function(record) return format.text(record, o.bare) end
  local sink, err
  if o.sink then sink = custom(opts.sink)
  else sink, err = stream.new(o.path, line) end
  if not sink then errors.misuse(2, "log.path: %s", err) end
  local self = setmetatable({
    level = o.level, sink = sink, line = line, failures = 0, complain_at = 0,
    limit = o.interval_ms > 0 and limit.new(o.burst, o.interval_ms) or nil,
  }, mt)
  -- kept lines of a log that nobody has any more are written by its end
  self.guard = finalizer(function()
    if sink.flush then pcall(sink.flush, sink) end
  end)
  return self
end


--- What `config.log` says: a log of its own, of options, or the default one.
---@param given table|nil
---@return mtenant.Log
function M._of(given)
  if given == nil then return M.default() end
  if getmetatable(given) == mt then return given end
  return M.new(given)
end


-- ---- the default log -------------------------------------------------------

local default, first


--- The log of what belongs to no manager, and of managers without their own.
---@return mtenant.Log
function M.default()
  if not default then
    first = M.new({ bare = true })
    default = first
  end
  return default
end


--- Writes a line to the default log if that is another than the first one: what
--- was told on standard error already, in words for people.
---@param level string
---@param message string
function M._also(level, message)
  if default ~= first then default:log(level, message) end
end


--- Puts another log in its place: for tasks, tools, and managers made later.
---@param logger mtenant.Log|table  a log or options for one
---@return mtenant.Log  the new one
function M.set_default(logger)
  if type(logger) ~= "table" then
    errors.misuse(2, "set_default: a log or its options, got %s", type(logger))
  end
  default = M._of(logger)
  return default
end


-- what the core's own callbacks fail by
core.set_logger(function(what, message)
  M.default():error("error in " .. what .. ": " .. message,
                    { event = "callback_failed " .. what })
end)


-- ---- adapters --------------------------------------------------------------

local LUALOGGING = { debug = "DEBUG", info = "INFO", warn = "WARN",
                     error = "ERROR" }


--- A sink of a logger of the library lua-logging.
---@param logger table  as logging.new, logging.file and so on make it
---@return table sink
function M.lualogging(logger)
  if type(logger) ~= "table" or type(logger.log) ~= "function" then
    errors.misuse(2, "log.lualogging: logger must be one of lua-logging")
  end
  return {
    lines = true,
    write = function(_, record, line)
      local ok, err = logger:log(LUALOGGING[record.level], "%s", line)
      if ok == nil and err then return nil, err end
      return true
    end,
  }
end


--- A sink into nginx' error log. Give it `bare = true` beside it: nginx writes
--- time and level itself.
---@param ngx table  nginx' own `ngx`
---@return table sink
function M.ngx(ngx)
  if type(ngx) ~= "table" or type(ngx.log) ~= "function" then
    errors.misuse(2, "log.ngx: ngx must be the one of nginx")
  end
  local levels = { debug = ngx.DEBUG, info = ngx.INFO, warn = ngx.WARN,
                   error = ngx.ERR }
  return {
    lines = true,
    write = function(_, record, line)
      ngx.log(levels[record.level], line)
      return true
    end,
  }
end


return M
