--- The policy of the SaaS, without a server:
--
--     busted scripts/examples/saas/policy_spec.lua

local mtenant = require "mtenant"
local testing = require "mtenant.testing"

local PLAN = "SELECT plan, active FROM customers WHERE id = $1"

local CUSTOMERS = {
  acme = { plan = "enterprise", active = true },
  globex = { plan = "free", active = true },
  initech = { plan = "free", active = false },
}


local function policy(shared)
  return testing.policy("scripts/examples/saas/policy.lua", {
    servers = { "standard", "large" },
    shared = shared or {
      [PLAN] = function(id) return { CUSTOMERS[id] } end,
    },
  })
end


describe("the SaaS's policy", function()
  it("passes its own tests", function()
    assert.equal(4, policy():selftest())
  end)

  it("knows the customer by the host", function()
    local p = policy()
    assert.equal("acme", p:identify { host = "acme.example.test" })
    assert.is_nil((p:identify { host = "example.test" }))
    assert.is_nil((p:identify { host = "acme.example.com" }))
  end)

  it("gives enterprise customers the large server", function()
    local route = assert(policy():resolve("acme"))
    assert.equal("customer_acme", route.schema)
    assert.equal("large", route.server)
    assert.equal("dedicated", route.pool.mode)
    assert.equal("enterprise", route.labels.tier)
  end)

  it("lets the rest share", function()
    local route = assert(policy():resolve("globex"))
    assert.equal("standard", route.server)
    assert.equal("5s", route.settings.statement_timeout)
    assert.equal("free", route.labels.tier)
  end)

  it("does not ask for a customer who is pinned", function()
    local p = policy()
    assert.equal("umbrella_legacy", assert(p:resolve("umbrella")).schema)
    assert.equal(0, #p.shared.calls)
  end)

  it("finds neither strangers nor those who have left", function()
    for _, id in ipairs({ "stranger", "initech" }) do
      local route, err = policy():resolve(id)
      assert.is_nil(route)
      assert.equal("tenant_not_found", err.code)
    end
  end)

  it("fails, and does not guess, while the table can't be asked", function()
    local p = policy({ [PLAN] = testing.error { code = "connection_lost" } })
    local route, err = p:resolve("acme")
    assert.is_nil(route)
    assert.equal("connection_lost", err.code)
  end)

  it("can be retried like anything else that fails", function()
    testing.run(function(clock)
      local outage = testing.outage { to_ms = 900,
                                      err = { code = "connection_lost" } }
      local p = policy({ [PLAN] = outage:guard(function(id)
        return { CUSTOMERS[id] }
      end) })
      local done = assert(mtenant.with_retry(function()
        return p:resolve("acme")
      end, { max_attempts = 10 }))
      assert.equal("large", done.result.server)
      assert.is_true(clock:now() >= 900)
    end)
  end)
end)
