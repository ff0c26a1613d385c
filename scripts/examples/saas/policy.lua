--- Where a customer lives: a SaaS by subdomain, with tiers.
--
-- acme.example.test is customer acme. Customers and their plans stand in a table
-- of the shared database. Enterprise customers are on a server of their own kind,
-- with connections of their own; a few are pinned by contract; the rest shares.

local identify = require "mtenant.identify"
local tiers = require "mtenant.policy.tiers"

local PLAN = "SELECT plan, active FROM customers WHERE id = $1"


local function plan_of(id, ctx)
  local customer, err = ctx.shared:one(PLAN, id)
  if err then return nil, err end
  if not customer then return nil, "no such customer" end
  if not customer.active then return nil, "the customer is not active" end
  return customer.plan
end


return tiers.new {
  version = "1",
  identify = identify.subdomain { base = "example.test" },

  pinned = {
    umbrella = { server = "standard", schema = "umbrella_legacy" },
  },
  tier = plan_of,
  tiers = {
    enterprise = {
      server = "large", schema = "customer_{id}",
      pool = { max = 20, mode = "dedicated" },
      settings = { statement_timeout = "60s" },
    },
  },
  rest = {
    server = "standard", schema = "customer_{id}",
    pool = { max = 4 },
    settings = { statement_timeout = "5s" },
  },

  -- A plan that was changed is seen after a minute at the latest.
  ttl_ms = 60000,

  -- Run before this file takes the place of another one.
  selftest = {
    { name = "an enterprise customer", request = { host = "acme.example.test" },
      shared = { [PLAN] = { { plan = "enterprise", active = true } } },
      tenant_id = "acme", route = { server = "large", schema = "customer_acme" } },
    { name = "another one", tenant_id = "globex",
      shared = { [PLAN] = { { plan = "free", active = true } } },
      route = { server = "standard" } },
    { name = "one who has left", tenant_id = "initech",
      shared = { [PLAN] = { { plan = "free", active = false } } },
      error = "tenant_not_found" },
    { name = "a contract", tenant_id = "umbrella",
      route = { schema = "umbrella_legacy" } },
  },
}
