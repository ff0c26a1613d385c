--- Scripted faults: errors as the core would make them, operations that fail
--- by a script, outages on the virtual clock. Used by testing.lua.

local clock = require "mtenant.testing.clock"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local floor, huge = math.floor, math.huge
local misuse = errors.misuse


local M = {}


-- ---- errors ------------------------------------------------------------

-- SQLSTATEs and classes of them that a server says while one connects, unless
-- phase = "statement".
local CONNECTING = { ["08"] = true, ["28"] = true, ["3D"] = true,
                     ["53300"] = true, ["53400"] = true, ["57P01"] = true,
                     ["57P02"] = true, ["57P03"] = true }

-- What is told of a connection attempt under these codes.
local SQLSTATES = { starting_up = "57P03", too_many_connections = "53300" }

local SCRIPT_FIELDS = { errno = true, phase = true, unix = true, code = true,
                        message = true }

local PHASES = { connect = true, statement = true }


local function phase_of(fields)
  local state = fields.sqlstate
  if fields.phase then return fields.phase end
  if not state then return "connect" end
  return (CONNECTING[state] or CONNECTING[state:sub(1, 2)]) and "connect"
    or "statement"
end


-- Whatever a server says as FATAL ends the connection, and class 08 as a mere
-- ERROR is about the message.
local function code_by_severity(code, fields, out)
  if not out.severity and out.sqlstate:find("^57P0[12]$") then
    out.severity = "FATAL"
  end
  local fatal = out.severity == "FATAL" or out.severity == "PANIC"
  if fields.code then return fields.code end
  if code == "connection_lost" and not fatal then return "query" end
  return code == "query" and fatal and "connection_lost" or code
end


-- code, retryable and a text by errno or SQLSTATE
local function classify(fields, phase)
  local state = fields.sqlstate
  if fields.errno then
    local code, retryable, text = core.code_of_errno(fields.errno,
                                                     fields.unix == true)
    if not code then
      misuse(3, "testing.error: unknown errno %s", tostring(fields.errno))
    end
    return code, retryable, text
  elseif state then
    if type(state) ~= "string" or not state:find("^[%u%d][%u%d][%u%d][%u%d][%u%d]$") then
      misuse(3, "testing.error: sqlstate must be five letters or digits")
    end
    local code, retryable = core.code_of_sqlstate(state, phase)
    return code, retryable, "the server says " .. state
  end
end


--- An error object, classified as the core would do it.
---@param fields string|table  a code, or { code =, sqlstate =, errno =
--  "ECONNREFUSED", unix = true, phase = "connect"|"statement", message =, and
--  the fields of an error object }
---@return mtenant.error
function M.error(fields)
  if type(fields) == "string" then fields = { code = fields } end
  if type(fields) ~= "table" then
    misuse(2, "testing.error: fields must be a table, got %s", type(fields))
  end
  if errors.is(fields) then return fields end
  if not (fields.code or fields.sqlstate or fields.errno) then
    misuse(2, "testing.error: code, sqlstate or errno is required")
  end
  local phase = phase_of(fields)
  if not PHASES[phase] then
    misuse(2, 'testing.error: phase must be "connect" or "statement"')
  end
  local code, retryable, text = classify(fields, phase)
  local out = {}
  for name, value in pairs(fields) do
    if not SCRIPT_FIELDS[name] then out[name] = value end
  end
  code = fields.code or code
  if out.sqlstate and phase == "statement" then
    code = code_by_severity(code, fields, out)
  end
  out.sqlstate = out.sqlstate or SQLSTATES[code]
  if code == "timeout" and phase == "connect" and not out.sqlstate then
    retryable = true -- connect_timeout_ms
  end
  if code == "connection_lost" then retryable = not out.ambiguous end
  if out.retryable == nil then out.retryable = retryable end
  return errors.new(code, fields.message or text
                      or "scripted error: " .. code, out)
end


-- Errors that a step or an outage names are checked when the script is.
local function checked_error(err, what, level)
  if type(err) == "table" and not errors.is(err) then
    local ok, made = pcall(M.error, err)
    if not ok then misuse(level + 1, "%s: %s", what, errors.text_of(made)) end
  end
  return err
end


-- A fresh one each time: callbacks may write into what they get.
local function fresh(err)
  if type(err) ~= "table" or errors.is(err) then return err end
  return M.error(err)
end


-- ---- outages ------------------------------------------------------------

local outage_options = schema.new({
  name = "testing.outage",
  { "from_ms", kind = "number", min = 0, default = 0 },
  { "to_ms", kind = "number", min = 0, check = function(to, opts)
    if to and to <= opts.from_ms then
      return "%s must be greater than from_ms"
    end
  end },
  { "every_ms", kind = "number", min = 1, check = function(every, opts)
    if every and not opts.to_ms then return "%s needs to_ms" end
  end },
  { "delay_ms", kind = "number", min = 0, default = 0 },
  { "err", kind = { "table", "string" } },
})


---@class mtenant.testing.Outage
local outage_methods = {}
local outage_mt = { __name = "mtenant.testing.outage",
                    __index = outage_methods }


--- Is it on, now or at another virtual time?
---@param at_ms? number
---@return boolean
function outage_methods:is_on(at_ms)
  local since = (at_ms or clock.now()) - self._from
  if since < 0 then return false end
  if self._every then since = since % self._every end
  return since < self._length
end


--- Waits `delay_ms` and fails, if it is on.
---@return table|string|nil err
function outage_methods:strike()
  if not self:is_on() then return nil end
  if self._delay > 0 then
    local ok, err = task.sleep(self._delay)
    if not ok then return err end
  end
  return fresh(self._err)
end


--- An operation that fails while the outage is on and is `op` otherwise.
---@param op function
---@return function
function outage_methods:guard(op)
  if not schema.is_callable(op) then
    misuse(2, "guard: op must be a function, got %s", type(op))
  end
  return function(...)
    local err = self:strike()
    if err then return nil, err end
    return op(...)
  end
end


--- A time in which everything fails.
---@param opts? table  { from_ms = 0, to_ms = never, every_ms =, delay_ms = 0,
--  err = { code = "refused" } }
---@return mtenant.testing.Outage
function M.outage(opts)
  local o = outage_options:check(opts or {}, 2)
  local err = opts and opts.err or { code = "refused" }
  return setmetatable({
    _from = o.from_ms,
    _length = (o.to_ms or huge) - o.from_ms,
    _every = o.every_ms,
    _delay = o.delay_ms,
    _err = checked_error(err, "testing.outage", 2),
  }, outage_mt)
end


-- ---- operations ------------------------------------------------------------

local STEP_FIELDS = { err = true, raise = true, raw = true, result = true,
                      delay_ms = true }

local SCRIPT_KEYS = { otherwise = true, outages = true, keep = true }


local function check_step(step, name, level)
  if schema.is_callable(step) then return end
  if type(step) ~= "table" then
    misuse(level + 1, "testing.operation: %s must be a table, got %s", name,
           type(step))
  end
  for key in pairs(step) do
    if not STEP_FIELDS[key] then
      misuse(level + 1, "testing.operation: %s has no field %s", name,
             tostring(key))
    end
  end
  local ms = step.delay_ms
  if ms ~= nil and (type(ms) ~= "number" or not (ms >= 0 and ms < huge)) then
    misuse(level + 1, "testing.operation: %s.delay_ms must be a number >= 0",
           name)
  end
  checked_error(step.err, "testing.operation: " .. name, level + 1)
  checked_error(step.raise, "testing.operation: " .. name, level + 1)
end


local function check_script(script, level)
  if type(script) ~= "table" then
    misuse(level + 1, "testing.operation: the script must be a table, got %s",
           type(script))
  end
  for key in pairs(script) do
    if type(key) ~= "number" and not SCRIPT_KEYS[key] then
      misuse(level + 1, "testing.operation: unknown option %s", tostring(key))
    end
  end
  for i = 1, #script do
    check_step(script[i], "step " .. i, level + 1)
  end
  if script.otherwise ~= nil then
    check_step(script.otherwise, "otherwise", level + 1)
  end
  for i, outage in ipairs(script.outages or {}) do
    if getmetatable(outage) ~= outage_mt then
      misuse(level + 1, "testing.operation: outages[%d] is no outage", i)
    end
  end
end


---@class mtenant.testing.Operation
---@field count integer  calls so far
---@field calls table[]  { n =, attempt =, at_ms =, ended_ms =, result =, err = }
local operation_methods = {}
local operation_mt = { __name = "mtenant.testing.operation",
                       __index = operation_methods }


local function strike(self)
  for _, outage in ipairs(self._outages) do
    local err = outage:strike()
    if err then return err end
  end
end


-- what a step says: value, err; raises for `raise`
local function play(step, attempt)
  if schema.is_callable(step) then return step(attempt) end
  if step.delay_ms and step.delay_ms > 0 then
    local ok, err = task.sleep(step.delay_ms)
    if not ok then return nil, err end
  end
  if step.raise ~= nil then error(fresh(step.raise), 0) end
  if step.raw ~= nil then return nil, step.raw end
  if step.err ~= nil then return nil, fresh(step.err) end
  return step.result
end


local function perform(self, n, attempt)
  local err = strike(self)
  if err then return nil, err end
  local step = self._steps[n]
  if step == nil then step = self._otherwise end
  if step == nil then
    misuse(2, "testing.operation: call %d of a script of %d steps, and there "
      .. "is no `otherwise`", n, #self._steps)
  end
  return play(step, attempt)
end


local function forget_oldest(self)
  if self._keep and #self.calls > self._keep then table.remove(self.calls, 1) end
end


function operation_mt:__call(attempt)
  local n = self.count + 1
  local call = { n = n, attempt = attempt, at_ms = clock.now() }
  self.count = n
  self.calls[#self.calls + 1] = call
  forget_oldest(self)
  local ok, value, err = pcall(perform, self, n, attempt)
  call.ended_ms = clock.now()
  if not ok then
    call.err = value
    error(value, 0)
  end
  call.result, call.err = value, err
  return value, err
end


--- When each call began.
---@return number[]
function operation_methods:times()
  local out = {}
  for i, call in ipairs(self.calls) do out[i] = call.at_ms end
  return out
end


--- How long each call but the first came after the end of the one before.
---@return number[]
function operation_methods:delays()
  local out = {}
  for i = 2, #self.calls do
    out[i - 1] = self.calls[i].at_ms - (self.calls[i - 1].ended_ms or 0)
  end
  return out
end


--- An operation for with_retry that goes by a script and writes down its
-- calls.
---@param script table  a list of steps { err =, raise =, raw =, result =,
--  delay_ms = } or functions; `otherwise`: the step of every later call;
--  `outages`: a list of them, which come first; `keep`: write down only so
--  many calls, the last ones
---@return mtenant.testing.Operation
function M.operation(script)
  check_script(script, 1)
  local steps = {}
  for i = 1, #script do steps[i] = script[i] end
  local keep = script.keep
  if keep ~= nil and (type(keep) ~= "number" or keep < 0
                      or keep ~= floor(keep)) then
    misuse(2, "testing.operation: keep must be an integer >= 0")
  end
  return setmetatable({
    count = 0,
    calls = {},
    _steps = steps,
    _otherwise = script.otherwise,
    _outages = script.outages or {},
    _keep = keep,
  }, operation_mt)
end


return M
