--- The policy of the read replicas, without a server:
--
--     busted scripts/examples/replicas/policy_spec.lua

local testing = require "mtenant.testing"


describe("the replicas' policy", function()
  local policy = testing.policy("scripts/examples/replicas/policy.lua", {
    servers = { "primary", "standby" },
  })

  it("passes its own tests", function() assert.equal(1, policy:selftest()) end)

  it("writes to the primary", function()
    local route = assert(policy:resolve("acme"))
    assert.equal("primary", route.server)
    assert.equal("tenant_acme", route.schema)
  end)

  it("reads from the standby, if that is close enough", function()
    local read = assert(policy:resolve("acme")).read
    assert.equal("standby", read[1].server)
    assert.equal(500, read.max_lag_ms)
    assert.is_true(read.read_your_writes)
  end)

  it("says why", function()
    assert.same({ "replicas: 1, for reads" }, (policy:explain("acme")))
  end)
end)
