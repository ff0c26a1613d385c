--- How long a manager keeps what a policy says, on the virtual clock and with
--- real servers.

local env = require "tests.support.env"
local mtenant = require "mtenant"
local testing = require "mtenant.testing"


local WHERE = "SELECT substr(current_schema(), 3)" -- t_acme is acme's


-- a policy whose answers the test changes; `asked` counts
local function new_policy()
  local policy = { schemas = { acme = "acme", globex = "globex" }, asked = 0 }
  function policy.resolve(id, ctx)
    policy.asked = policy.asked + 1
    if policy.delay_ms then
      local ok, err = ctx.sleep(policy.delay_ms)
      if not ok then return nil, err end
    end
    if policy.broken then error("the policy is broken") end
    local schema = policy.schemas[id]
    if not schema then return nil, "nobody knows " .. id end
    return { schema = "t_" .. schema, ttl_ms = policy.ttl_ms }
  end
  return policy
end


local function manager_of(policy, routing, more)
  local all = { resolve = policy.resolve, routing = routing or {} }
  for key, value in pairs(more or {}) do all[key] = value end
  return env.manager(all)
end


local function schema_of(manager, id)
  local value, err = manager:get_db(id):value(WHERE)
  if err then return nil, err end
  return value
end


-- a body on the virtual clock, with managers that end with it
local function on_clock(fn)
  return function() testing.run({ io_wait_ms = 100 }, fn) end
end


describe("a manager's routes", function()
  before_each(function() env.tenants { "acme", "globex" } end)
  after_each(env.assert_nothing_left)

  it("are asked for once, until their time is over", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy, { ttl_ms = 10000,
                                         stale_while_revalidate_ms = 10000 })
    for _ = 1, 3 do assert.equal("acme", schema_of(manager, "acme")) end
    mtenant.sleep(9000)
    assert.equal("acme", schema_of(manager, "acme"))
    assert.equal(1, policy.asked)
    mtenant.sleep(2000)
    assert.equal("acme", schema_of(manager, "acme")) -- stale: asked beside it
    mtenant.sleep(1)
    assert.equal(2, policy.asked)
    assert.equal(1, manager:get_policy_status().cache.refreshes)
    mtenant.sleep(9000)
    schema_of(manager, "acme")
    assert.equal(2, policy.asked)
  end))

  it("outlive the entry that used them", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy)
    schema_of(manager, "acme")
    assert.is_true(manager:evict_pool("acme"))
    assert.equal("acme", schema_of(manager, "acme"))
    assert.equal(1, policy.asked)
    assert.equal(1, manager:get_policy_status().cache.hits)
    assert.is_true(manager:invalidate("acme"))
    schema_of(manager, "acme")
    assert.equal(2, policy.asked)
  end))

  it("serve on while they are asked for, and then change", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy, { ttl_ms = 1000,
                                         stale_while_revalidate_ms = 5000 })
    schema_of(manager, "acme")
    mtenant.sleep(1500)
    policy.schemas.acme, policy.delay_ms = "globex", 500
    assert.equal("acme", schema_of(manager, "acme"))
    mtenant.sleep(400)
    assert.equal("acme", schema_of(manager, "acme"))
    mtenant.sleep(200)
    assert.equal("globex", schema_of(manager, "acme"))
    assert.equal(2, policy.asked)
  end))

  it("are waited for when they may not be stale", on_clock(function(clock)
    local policy = new_policy()
    local manager = manager_of(policy, { ttl_ms = 1000,
                                         stale_while_revalidate_ms = 0 })
    schema_of(manager, "acme")
    mtenant.sleep(1500)
    policy.schemas.acme, policy.delay_ms = "globex", 700
    local before = clock:now()
    assert.equal("globex", schema_of(manager, "acme"))
    assert.is_true(clock:now() - before >= 700)
    assert.equal(2, policy.asked)
  end))

  it("are one question for all who wait", on_clock(function()
    local policy = new_policy()
    policy.delay_ms = 100
    local manager = manager_of(policy)
    local function same() return schema_of(manager, "acme") end
    local answers = mtenant.each({ 1, 2, 3, 4, 5 }, 5, same)
    assert.equal("acme acme acme acme acme", table.concat(answers, " "))
    assert.equal(1, policy.asked)
  end))

  it("are asked for a few at a time", on_clock(function()
    local running, most = 0, 0
    local manager = manager_of({ resolve = function(_, ctx)
      running = running + 1
      most = math.max(most, running)
      ctx.sleep(10)
      running = running - 1
      return nil
    end }, { max_concurrent = 7 })
    local ids = {}
    for i = 1, 50 do ids[i] = "t" .. i end
    mtenant.each(ids, 50, function(id)
      local _, err = schema_of(manager, id)
      assert.equal("tenant_not_found", err.code)
      return true
    end)
    assert.equal(7, most)
  end))

  it("are not waited for for ever", on_clock(function(clock)
    local policy = new_policy()
    local manager = manager_of(policy, { timeout_ms = 2000, ttl_ms = 1000,
                                         max_concurrent = 1,
                                         stale_while_revalidate_ms = 0 })
    assert.equal("acme", schema_of(manager, "acme"))
    mtenant.sleep(5000)
    policy.delay_ms = 3600000
    -- who has a good route keeps it, and the others are not held up
    local before = clock:now()
    assert.equal("acme", schema_of(manager, "acme"))
    local waited = clock:now() - before
    assert.is_true(waited >= 2000 and waited <= 2600, waited .. " ms")
    policy.delay_ms = nil
    assert.equal("globex", schema_of(manager, "globex"))
  end))

  it("are asked of nobody once the manager has gone", on_clock(function()
    local policy, told = new_policy(), 0
    policy.delay_ms, policy.broken = 100, true
    local manager = manager_of(policy, { max_concurrent = 1 }, {
      hooks = { on_policy_event = function() told = told + 1 end },
    })
    local waiting = {}
    for i, id in ipairs { "acme", "globex", "other" } do
      waiting[i] = mtenant.spawn(schema_of, manager, id)
    end
    mtenant.sleep(50)
    manager:dispose()
    for _, one in ipairs(waiting) do
      local _, err = one:await()
      assert.equal("disposed", err.code)
    end
    mtenant.sleep(1000)
    assert.equal(1, policy.asked)
    assert.equal(0, told)
  end))

  it("that do not exist are remembered, for a shorter time", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy, { negative_ttl_ms = 500 })
    for _ = 1, 3 do
      local _, err = schema_of(manager, "nobody")
      assert.equal("tenant_not_found", err.code)
      assert.equal("nobody knows nobody", err.message)
    end
    assert.equal(1, policy.asked)
    policy.schemas.nobody = "acme"
    mtenant.sleep(501)
    assert.equal("acme", schema_of(manager, "nobody"))
    policy.schemas.nobody = nil
    manager:invalidate("nobody")
    local _, err = schema_of(manager, "nobody")
    assert.equal("tenant_not_found", err.code)
  end))

  it("take the time that they say themselves", on_clock(function()
    local policy = new_policy()
    policy.ttl_ms = 50
    local manager = manager_of(policy, { stale_while_revalidate_ms = 0 })
    schema_of(manager, "acme")
    mtenant.sleep(60)
    schema_of(manager, "acme")
    assert.equal(2, policy.asked)
    policy.ttl_ms = -1
    mtenant.sleep(60)
    manager:invalidate("globex")
    local _, err = schema_of(manager, "globex")
    assert.equal("policy", err.code)
    assert.matches("ttl_ms", err.message)
  end))

  it("stay for a while when the policy fails, which is said", on_clock(function()
    local policy, events, lines = new_policy(), {}, {}
    local manager = manager_of(policy, {
      ttl_ms = 1000, stale_while_revalidate_ms = 0, stale_if_error_ms = 10000,
    }, {
      hooks = { on_policy_event = function(ev) events[#events + 1] = ev end },
      debug = { enabled = true, logger = function(line)
        if line:find("POLICY", 1, true) then lines[#lines + 1] = line end
      end },
    })
    schema_of(manager, "acme")
    policy.broken = true
    mtenant.sleep(2000)
    assert.equal("acme", schema_of(manager, "acme"))
    assert.equal("stale", events[1].kind)
    assert.equal("acme", events[1].tenant_id)
    assert.matches("the policy is broken", events[1].error.message)
    assert.matches("^%[mtenant%] tenant=acme POLICY stale policy=resolve "
      .. "version=1 error=", lines[1])
    local status = manager:get_policy_status()
    assert.matches("the policy is broken", status.failing)
    assert.equal(1, status.cache.kept_stale)
    -- nobody waits for a policy that fails; it is asked again after a second
    policy.delay_ms = 200
    local asked = policy.asked
    for _ = 1, 4 do
      mtenant.sleep(500)
      assert.equal("acme", schema_of(manager, "acme"))
    end
    assert.is_true(policy.asked - asked <= 3)
    -- one that nothing is known of has no route
    local _, err = schema_of(manager, "globex")
    assert.equal("policy", err.code)
    -- and not for ever
    mtenant.sleep(12000)
    _, err = schema_of(manager, "acme")
    assert.equal("policy", err.code)
    policy.broken, policy.delay_ms = nil, nil
    assert.equal("acme", schema_of(manager, "acme"))
    assert.is_nil(manager:get_policy_status().failing)
  end))

  it("that nobody has any more are gone at once", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy, { ttl_ms = 1000 })
    schema_of(manager, "acme")
    policy.schemas.acme = nil
    mtenant.sleep(1500)
    assert.equal("acme", schema_of(manager, "acme")) -- stale yet
    mtenant.sleep(1)
    local _, err = schema_of(manager, "acme")
    assert.equal("tenant_not_found", err.code)
  end))

  it("are not closed where they are the same", on_clock(function()
    local policy, told = new_policy(), {}
    local manager = manager_of(policy, { ttl_ms = 1000,
                                         stale_while_revalidate_ms = 0 }, {
      isolation = { mode = "dedicated" },
      hooks = {
        on_pool_created = function(id) told[#told + 1] = "created " .. id end,
        on_pool_evicted = function(id, why)
          told[#told + 1] = "evicted " .. id .. " " .. why
        end,
      },
    })
    local db = manager:get_db("acme")
    local pid = db:value("SELECT pg_backend_pid()")
    mtenant.sleep(1500)
    assert.equal(pid, db:value("SELECT pg_backend_pid()"))
    manager:invalidate_all()
    assert.equal(pid, db:value("SELECT pg_backend_pid()"))
    assert.equal(3, policy.asked)
    assert.same({ "created acme" }, told)
    policy.schemas.acme = "globex"
    manager:invalidate_all()
    assert.equal("globex", schema_of(manager, "acme"))
    assert.same({ "created acme", "evicted acme route_changed",
                  "created acme" }, told)
  end))

  it("that were asked for before they changed are asked for again",
     on_clock(function()
    local policy = new_policy()
    policy.delay_ms = 100
    local manager = manager_of(policy)
    local first = mtenant.spawn(schema_of, manager, "acme")
    mtenant.sleep(50)
    policy.schemas.acme = "globex"
    -- the answer that is on its way says acme, or not: either was right
    manager:invalidate("acme")
    first:await()
    assert.equal("globex", schema_of(manager, "acme"))
    assert.equal(2, policy.asked)
  end))

  it("let a transaction end where it began", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy)
    local db = manager:get_db("acme")
    local inside, outside = db:transaction(function(tx)
      assert.equal("acme", tx:value(WHERE))
      policy.schemas.acme = "globex"
      manager:invalidate_all()
      -- the tenant's other statements do not wait for it
      local other = db:value(WHERE)
      return tx:value(WHERE), other
    end)
    assert.same({ "acme", "globex" }, { inside, outside })
  end))

  it("that are outdated while the tenant is paused are not used after it",
     on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy)
    local db = manager:get_db_async("acme")
    assert.is_true(manager:pause { tenant = "acme" })
    local waiting = mtenant.spawn(function()
      return db:value(WHERE)
    end)
    mtenant.sleep(10)
    policy.schemas.acme = "globex"
    manager:invalidate_all()
    manager:resume { tenant = "acme" }
    assert.equal("globex", waiting:await())
  end))

  it("are asked for again when the schema has gone", on_clock(function()
    local policy = new_policy()
    local manager = manager_of(policy)
    assert.equal("acme", schema_of(manager, "acme"))
    env.sql("ALTER SCHEMA t_acme RENAME TO elsewhere")
    local _, err = schema_of(manager, "acme")
    env.sql("ALTER SCHEMA elsewhere RENAME TO t_acme")
    assert.equal("tenant_not_found", err.code)
    policy.schemas.acme = "globex"
    assert.equal("globex", schema_of(manager, "acme"))
  end))

  it("lead readers, too", on_clock(function()
    local schema = "t_acme"
    local manager = env.manager {
      servers = { one = env.server().url, two = env.server().url },
      resolve = function()
        return { server = "one", read = { "two" }, schema = schema }
      end,
      routing = { ttl_ms = 1000, stale_while_revalidate_ms = 0 },
    }
    local db = manager:get_db("acme")
    local function read()
      return env.must(db:reader({ max_lag_ms = 60000 }):value(WHERE))
    end
    assert.equal("acme", read())
    mtenant.sleep(2000)
    assert.equal("acme", read())
    schema = "t_globex"
    assert.equal("acme", read())
    manager:invalidate_all()
    assert.equal("globex", read())
    schema = "t_acme"
    mtenant.sleep(2000)
    assert.equal("acme", read())
  end))

  it("without routing are kept until the entry goes", on_clock(function()
    local policy = new_policy()
    local manager = env.manager { resolve = policy.resolve,
                                  isolation = { pool_ttl_ms = 0 } }
    schema_of(manager, "acme")
    mtenant.sleep(24 * 3600 * 1000)
    schema_of(manager, "acme")
    assert.equal(1, policy.asked)
    assert.is_nil(manager:get_policy_status())
    manager:evict_pool("acme")
    schema_of(manager, "acme")
    assert.equal(2, policy.asked)
  end))
end)
