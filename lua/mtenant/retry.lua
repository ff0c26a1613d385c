--- Retry of any operation: what is worth another try, how long to wait, when
--- to stop.
--
-- The module's public retry functions are made here by `new`, and the
-- configuration takes the fields of `connection.retry` from here. The clock,
-- sleep, random numbers, the delay formula and the log are given by the host:
-- this file does no I/O and keeps no state. It never repeats what is ambiguous
-- unless told that the operation is idempotent.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"

local floor, huge = math.floor, math.huge

local CODE = errors.CODE
local LONGEST_MS = 9007199254740991 -- whole milliseconds stay exact

-- Nobody wants these again, whatever a predicate says.
local FINAL = {
  [CODE.cancelled] = true,
  [CODE.disposed] = true,
  [CODE.misuse] = true,
}

-- Errors of other libraries are known by these: `err.code` may be an errno or
-- a SQLSTATE. Of the latter, only what the server has not begun or has rolled
-- back for the sake of another transaction.
local RETRYABLE_CODES = {
  ECONNREFUSED = true,
  ECONNRESET = true,
  ECONNABORTED = true,
  ETIMEDOUT = true,
  EPIPE = true,
  EHOSTUNREACH = true,
  ENETUNREACH = true,
  ENETDOWN = true,
  ENOTFOUND = true,
  EAI_AGAIN = true,
  ["08001"] = true, -- could not establish the connection
  ["40001"] = true, -- serialization failure
  ["40P01"] = true, -- deadlock detected
  ["53300"] = true, -- too many connections
  ["57P03"] = true, -- cannot connect now
}

local ROLLED_BACK = { ["40001"] = true, ["40P01"] = true }

-- Looked for in the lower-cased message when there is nothing better.
local RETRYABLE_TEXTS = {
  "econnrefused", "econnreset", "etimedout", "enotfound",
  "connection refused", "connection reset", "connection terminated",
  "connection timed out", "timeout expired", "socket hang up",
  "too many connections", "sorry, too many clients",
  "remaining connection slots are reserved",
  "the database system is starting up",
  "the database system is shutting down",
  "the database system is in recovery mode",
  "the database system is not yet accepting connections",
  "server closed the connection unexpectedly",
  "could not connect to server",
  "ssl connection", "ssl handshake",
}

local FINAL_TEXT = "does not support ssl" -- contains "ssl connection"

local M = {}


--- The fields of a retry configuration, for a schema.
---@param prefix? string path before each name, "connection.retry."
---@return mtenant.schema.field[]
function M.fields(prefix)
  local p = prefix or ""
  return {
    { p .. "max_attempts", kind = "integer", min = 1, default = 3 },
    { p .. "initial_delay_ms", kind = "number", min = 0, default = 100 },
    { p .. "max_delay_ms", kind = "number", min = 0, default = 5000 },
    { p .. "backoff_multiplier", kind = "number", min = 1, default = 2 },
    { p .. "initial_delay_ms", kind = "number",
      check = function(_, retry)
        if retry.initial_delay_ms > retry.max_delay_ms then
          return "%s cannot be greater than max_delay_ms"
        end
      end },
    { p .. "jitter", kind = { "boolean", "string" }, default = true,
      enum = { "full", "equal", "decorrelated" } },
    { p .. "deadline_ms", kind = "number", min = 0 },
    { p .. "is_retryable", kind = "function" },
    { p .. "on_retry", kind = "function" },
  }
end


local function make_checker()
  local spec = M.fields()
  spec.name = "retry"
  spec[#spec + 1] = { "idempotent", kind = "boolean", default = false }
  return schema.new(spec)
end


local checker = make_checker()
local DEFAULTS = checker:check({})


-- initial * multiplier^attempt, at most the cap; what overflows (inf, or NaN
-- from 0 * inf) gives the cap.
local function base_delay(policy, attempt)
  local cap = policy.max_delay_ms
  local d = policy.initial_delay_ms * policy.backoff_multiplier ^ attempt
  return d < cap and d or cap
end


local function decorrelated(policy, u, previous_ms)
  local low, cap = policy.initial_delay_ms, policy.max_delay_ms
  local high = math.max(low, 3 * previous_ms)
  return math.min(low + u * (high - low), cap)
end


--- How long to wait after a failed try: the C core's formula in Lua, for tests
--- and for hosts without the core. Pure.
---@param policy table initial_delay_ms, max_delay_ms, backoff_multiplier and
--- jitter of a checked retry configuration
---@param attempt integer the number of the try that failed, from 0
---@param u number random, from 0 up to but not including 1
---@param previous_ms? number the last delay in milliseconds (0: none yet), for
--- decorrelated jitter
---@return integer delay in milliseconds; only jitter = true exceeds
--- max_delay_ms, by less than a quarter
function M.pure_delay(policy, attempt, u, previous_ms)
  local jitter, d = policy.jitter, base_delay(policy, attempt)
  if jitter == true then
    d = d * (1 + u * 0.25)
  elseif jitter == "full" then
    d = d * u
  elseif jitter == "equal" then
    d = d / 2 + u * d / 2
  elseif jitter == "decorrelated" then
    d = decorrelated(policy, u, previous_ms or 0)
  end
  return floor(math.min(d, LONGEST_MS))
end


local function is_retryable_text(text)
  local lower = text:lower()
  if lower:find(FINAL_TEXT, 1, true) then return false end
  for _, part in ipairs(RETRYABLE_TEXTS) do
    if lower:find(part, 1, true) then return true end
  end
  return false
end


-- The error's own nature; whether its outcome is known is another question.
local function is_transient(err)
  if type(err) ~= "table" then return is_retryable_text(errors.text_of(err)) end
  if errors.is(err) then
    return err.retryable == true or ROLLED_BACK[err.sqlstate] == true
  end
  return RETRYABLE_CODES[err.code] == true
    or RETRYABLE_CODES[err.sqlstate] == true
    or is_retryable_text(errors.text_of(err))
end


local function is_final(err)
  return errors.is(err) and FINAL[err.code] == true
end


local function is_ambiguous(err)
  return errors.is(err) and err.ambiguous == true
end


--- Whether an error is worth another try: error objects by what they know,
--- tables of other libraries by their code, anything else by its text. What is
--- ambiguous is not.
---@param err any nil and false are not retryable
---@return boolean
function M.is_retryable_error(err)
  if err == nil or err == false or is_final(err) or is_ambiguous(err) then
    return false
  end
  return is_transient(err)
end


-- A predicate that raises is logged and decides nothing.
local function worth_it(deps, config, err)
  if is_final(err) then return false end
  local ambiguous = is_ambiguous(err)
  if ambiguous and not config.idempotent then return false end
  if config.is_retryable then
    local ok, answer = pcall(config.is_retryable, err)
    if ok then return answer and true or false end
    deps.log("is_retryable raised: " .. errors.text_of(answer))
  end
  return ambiguous or M.is_retryable_error(err)
end


-- Runs the operation; returns true and its first result, or false and the
-- error.
local function try(op, attempt)
  local ok, value, err = pcall(op, attempt)
  if ok and (value ~= nil or not err) then return true, value end
  if ok then return false, err end
  if value == nil then value = errors.new(CODE.misuse, "nil was raised") end
  return false, value
end


local function field_of(err, name)
  if errors.is(err) then return err[name] end
  return nil
end


-- Asks on_retry; returns the delay, or nil to stop. A callback cannot make
-- things worse: when it raises or answers nonsense the delay stays.
local function consult(deps, config, attempt, err, delay_ms, elapsed_ms)
  if not config.on_retry then return delay_ms end
  local ok, answer = pcall(config.on_retry, attempt, err, delay_ms, {
    elapsed_ms = elapsed_ms,
    max_attempts = config.max_attempts,
    tenant_id = field_of(err, "tenant_id"),
    server = field_of(err, "server"),
  })
  if not ok then
    deps.log("on_retry raised: " .. errors.text_of(answer))
    return delay_ms
  end
  if answer == false then return nil end
  if type(answer) ~= "number" then return delay_ms end
  if answer >= 0 and answer < huge then return answer end
  deps.log("on_retry returned a delay that is none: " .. answer)
  return delay_ms
end


local function past_deadline(config, elapsed_ms)
  local deadline_ms = config.deadline_ms or 0
  return deadline_ms > 0 and elapsed_ms >= deadline_ms
end


-- What to do after a failed try: the delay, or nil when it was the last.
local function next_delay(deps, config, attempt, err, elapsed_ms, previous_ms)
  if attempt >= config.max_attempts or past_deadline(config, elapsed_ms) or
     not worth_it(deps, config, err) then
    return nil
  end
  local delay_ms = deps.delay(config, attempt - 1, deps.random(), previous_ms)
  delay_ms = consult(deps, config, attempt, err, delay_ms, elapsed_ms)
  if not delay_ms or past_deadline(config, elapsed_ms + delay_ms) then
    return nil
  end
  return delay_ms
end


local function run(deps, op, config)
  local started_at, attempt, delay_ms = deps.now_ms(), 0, 0
  while true do
    attempt = attempt + 1
    local ok, value = try(op, attempt)
    local elapsed_ms = deps.now_ms() - started_at
    if ok then
      return { result = value, attempts = attempt, total_time_ms = elapsed_ms }
    end
    delay_ms = next_delay(deps, config, attempt, value, elapsed_ms, delay_ms)
    if not delay_ms then return nil, value end
    local slept, err = deps.sleep(delay_ms)
    if not slept then return nil, err end
  end
end


-- Raises at the caller of the function that asks.
local function check_op(op)
  if not schema.is_callable(op) then
    errors.misuse(3, "with_retry: op must be a function, got %s", type(op))
  end
end


-- Raises at the caller of the function that asks.
local function check_config(config)
  if config == nil then return DEFAULTS end
  return (checker:check(config, 3)) -- a tail call would shift the levels
end


local function is_attempt(n)
  return type(n) == "number" and n >= 0 and n < huge and n == floor(n)
end


-- The delay before a given one, for decorrelated jitter without a history.
local function assumed_previous(config, attempt)
  return attempt > 0 and base_delay(config, attempt - 1) or 0
end


---@class mtenant.retry.deps
---@field sleep fun(ms: number): boolean|nil, any true, or nil and an error
--- (a cancelled task), which ends the retry
---@field now_ms fun(): number monotonic milliseconds
---@field random fun(): number from 0 up to but not including 1
---@field delay? function as `pure_delay` (default)
---@field log? fun(message: string) callbacks that raise are told here

---@class mtenant.retry.result
---@field result any the operation's first result
---@field attempts integer 1 when the first try succeeded
---@field total_time_ms number milliseconds, waits included

--- Makes the public retry functions on a host.
---@param deps mtenant.retry.deps
---@return table with_retry, create_retrier, calculate_delay and
--- is_retryable_error
function M.new(deps)
  local host = {
    sleep = deps.sleep,
    now_ms = deps.now_ms,
    random = deps.random,
    delay = deps.delay or M.pure_delay,
    log = deps.log or function() end,
  }
  local api = { is_retryable_error = M.is_retryable_error }

  --- Runs an operation until it succeeds, is not worth another try, or the
  --- attempts or deadline_ms are used up. Suspends the calling task only.
  ---@param op fun(attempt: integer): any, any gets the number of the try, from
  --- 1; fails by returning nil and an error, or by raising
  ---@param config? table as connection.retry, and `idempotent = true` to try
  --- ambiguous failures again
  ---@return mtenant.retry.result|nil
  ---@return any err the last error, unchanged
  function api.with_retry(op, config)
    check_op(op)
    local checked = check_config(config)
    return run(host, op, checked)
  end

  --- Checks a retry configuration once, for many operations.
  ---@param config? table as for with_retry
  ---@return fun(op: function): mtenant.retry.result|nil, any
  function api.create_retrier(config)
    local checked = check_config(config)
    return function(op)
      check_op(op)
      return run(host, op, checked)
    end
  end

  --- The delay after a failed try, with jitter.
  ---@param attempt integer the number of the try that failed, from 0
  ---@param config? table as for with_retry
  ---@return integer milliseconds
  function api.calculate_delay(attempt, config)
    local checked = check_config(config)
    if not is_attempt(attempt) then
      errors.misuse(2, "calculate_delay: attempt must be an integer >= 0")
    end
    local previous_ms = assumed_previous(checked, attempt)
    return host.delay(checked, attempt, host.random(), previous_ms)
  end

  return api
end


return M
