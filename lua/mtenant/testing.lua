--- mtenant.testing: routing and retry policies without a server.
-- A virtual clock, seeded random numbers and scripted faults; see
-- docs/testing-policies.md. The public face of testing/*.lua, nothing else.

local clock = require "mtenant.testing.clock"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local faults = require "mtenant.testing.faults"
local policies = require "mtenant.testing.policies"
local routes = require "mtenant.testing.routes"


local floor = math.floor


local function is_integer(n)
  return type(n) == "number" and n == floor(n) and n - n == 0
end


local M = {
  run = clock.run,
  current = clock.current,

  error = faults.error,
  operation = faults.operation,
  outage = faults.outage,

  resolve = routes.resolve,
  policy = policies.policy,
  shared = routes.shared,
}


--- As math.random, from the numbers of the run: the same for the same seed.
---@param m? integer
---@param n? integer
---@return number
function M.random(m, n)
  local u = core.random()
  if m == nil then return u end
  if n == nil then m, n = 1, m end
  if not (is_integer(m) and is_integer(n)) then
    errors.misuse(2, "testing.random: the limits must be integers")
  end
  if m > n then errors.misuse(2, "testing.random: the interval is empty") end
  return m + floor(u * (n - m + 1))
end


return M
