--- health_check: what answers, what is busy, what is dead; and that asking
--- changes nothing.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function by_id(result)
  local out = {}
  for _, pool in ipairs(result.pools) do out[pool.tenant_id] = pool end
  return out
end


describe("health_check", function()
  setup(function() env.tenants { "acme", "globex", "initech" } end)
  after_each(env.assert_nothing_left)

  it("says that all is well", env.in_task(function()
    local manager = env.manager()
    assert(manager:get_db_async("acme"))
    assert(manager:get_db_async("globex"))
    local result = assert(manager:health_check())
    assert.is_true(result.healthy)
    assert.equal("ok", result.shared_db)
    assert.is_true(result.shared_db_response_time_ms >= 0)
    assert.is_nil(result.shared_db_error)
    assert.equal(2, result.total_pools)
    assert.equal(0, result.degraded_pools)
    assert.equal(0, result.unhealthy_pools)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", result.timestamp)
    assert.is_true(result.duration_ms >= 0)
    assert.equal(1, #result.servers)
    assert.equal("closed", result.servers[1].state)
    local acme = by_id(result).acme
    assert.equal("t_acme", acme.schema_name)
    assert.equal("ok", acme.status)
    assert.equal(0, acme.waiting_requests)
    assert.equal(result.servers[1].name, acme.server)
  end))

  it("asks a server once, however many tenants it has", env.in_task(function()
    local manager = env.manager {
      resolve = function() return { schema = "t_acme" } end,
      isolation = { verify_schema = true },
    }
    for i = 1, 2000 do assert(manager:get_db("tenant" .. i)) end
    assert(manager:get_db("tenant1"):query("SELECT 1"))
    local before = manager:get_stats()
    local result = assert(manager:health_check())
    local after = manager:get_stats()
    assert.equal(2000, result.total_pools)
    assert.equal(1, after.requests - before.requests)
    assert.equal(before.opened, after.opened)
  end))

  it("touches no place in the LRU", env.in_task(function()
    local manager = env.manager { isolation = { max_pools = 2 } }
    assert(manager:get_db_async("acme"))
    assert(manager:get_db_async("globex"))
    for _ = 1, 3 do
      assert(manager:health_check { tenant_ids = { "acme" } })
    end
    assert(manager:get_db_async("initech"))
    assert.is_false(manager:has_pool("acme"))
    assert.is_true(manager:has_pool("globex"))
  end))

  it("calls a busy server busy, not dead", env.in_task(function()
    local manager = env.manager {
      connection = { max_connections = 1, pool = { max = 10 } },
    }
    local db = assert(manager:get_db_async("acme"))
    local busy = mtenant.spawn(function()
      return db:query("SELECT pg_sleep(0.6)")
    end)
    mtenant.sleep(30)
    local waits = mtenant.spawn(function() return db:query("SELECT 1") end)
    mtenant.sleep(10)
    local result = assert(manager:health_check { ping_timeout_ms = 100 })
    assert.is_true(result.healthy)
    assert.equal("degraded", result.servers[1].status)
    assert.equal("degraded", by_id(result).acme.status)
    assert.equal(1, by_id(result).acme.waiting_requests)
    assert.equal(0, result.unhealthy_pools)
    assert(busy:await())
    assert(waits:await())
    result = assert(manager:health_check())
    assert.equal("ok", result.servers[1].status)
    assert.is_true(manager:get_stats().opened <= 1)
  end))

  it("notices a dead server that nobody uses", env.in_task(function()
    local server = env.start()
    local url = server.url
    env.close(server)
    local manager = env.manager({ connection = { url = url } })
    local result = assert(manager:health_check { ping_timeout_ms = 1000 })
    assert.is_false(result.healthy)
    assert.equal("unhealthy", result.shared_db)
    assert.is_truthy(result.shared_db_error)
    assert.equal(0, result.total_pools)
    assert.equal("unhealthy", result.servers[1].status)
    -- and asks the breaker from then on
    local before = manager:get_stats().connect_failures
    result = assert(manager:health_check())
    assert.is_false(result.healthy)
    assert.is_true(manager:get_stats().connect_failures - before <= 1)
    result = assert(manager:health_check { include_shared = false })
    assert.is_nil(result.shared_db)
  end))

  it("notices a dead server with its tenants", env.in_task(function()
    local own = env.start()
    env.tenants({ "acme" }, own)
    local manager = env.manager({ connection = { retry = { max_attempts = 1 } } },
                                own)
    assert(manager:get_db_async("acme"))
    own:stop("immediate")
    local result = assert(manager:health_check { ping_timeout_ms = 1000 })
    assert.is_false(result.healthy)
    assert.equal(1, result.unhealthy_pools)
    assert.equal("unhealthy", by_id(result).acme.status)
    assert.is_truthy(by_id(result).acme.error)
    own:start()
    env.eventually("it is healthy again", function()
      return manager:health_check().healthy
    end, 10000)
    manager:dispose()
    env.close(own)
  end))

  it("notices a server that says nothing, and leaves nothing behind",
     env.in_task(function()
    local own = env.start()
    env.tenants({ "acme" }, own)
    local manager = env.manager({}, own)
    local db = assert(manager:get_db_async("acme"))
    local pid = db:value("SELECT pg_backend_pid()")
    env.signal(own, "STOP", pid)
    local began = mtenant.now_ms()
    local result = assert(manager:health_check { ping_timeout_ms = 200 })
    assert.is_true(mtenant.now_ms() - began < 2000)
    assert.is_false(result.healthy)
    assert.equal("Health check ping timeout", result.servers[1].error)
    assert.is_true(manager:get_stats().opened <= 1)
    env.signal(own, "CONT", pid)
    env.eventually("it answers", function()
      return manager:health_check().healthy
    end)
    manager:dispose()
    env.close(own)
  end))

  it("asks a tenant in its own schema when it is asked for one",
     env.in_task(function()
    env.tenants { "umbrella" }
    local manager = env.manager()
    assert(manager:get_db_async("umbrella"))
    assert(manager:get_db_async("acme"))
    local result = assert(manager:health_check { tenant_ids = { "umbrella" } })
    assert.equal(1, result.total_pools)
    assert.is_true(result.healthy)
    env.sql('DROP SCHEMA "t_umbrella"')
    assert.is_true(manager:health_check().healthy)
    result = assert(manager:health_check { tenant_ids = { "umbrella", "acme" } })
    assert.is_false(result.healthy)
    assert.equal(1, result.unhealthy_pools)
    assert.matches("does not exist", by_id(result).umbrella.error)
    assert.equal("ok", by_id(result).acme.status)
  end))

  it("does not ask what is paused or isolated", env.in_task(function()
    local manager = env.manager()
    assert(manager:get_db_async("acme"))
    local name = manager:health_check().servers[1].name
    manager:pause { server = name }
    local result = assert(manager:health_check { ping_timeout_ms = 100 })
    assert.is_true(result.healthy)
    assert.equal("degraded", result.servers[1].status)
    assert.is_true(result.servers[1].paused)
    manager:resume { server = name }
    manager:isolate(name)
    result = assert(manager:health_check())
    assert.is_false(result.healthy)
    assert.equal("isolated", result.servers[1].error)
    manager:close(name)
  end))

  it("is cancelled, and has an end", env.in_task(function()
    local own = env.start()
    env.tenants({ "acme" }, own)
    local manager = env.manager({ connection = { max_connections = 1 } }, own)
    local db = assert(manager:get_db_async("acme"))
    local pid = db:value("SELECT pg_backend_pid()")
    env.signal(own, "STOP", pid)
    local check = mtenant.spawn(manager.health_check, manager)
    mtenant.sleep(20)
    check:cancel()
    local result, err = check:await()
    assert.is_nil(result)
    assert.equal("cancelled", err.code)
    local late = mtenant.spawn(manager.health_check, manager)
    mtenant.sleep(20)
    manager:dispose(200)
    result, err = late:await()
    assert.is_nil(result)
    assert.equal("disposed", err.code)
    result, err = manager:health_check()
    assert.is_nil(result)
    assert.equal("disposed", err.code)
    env.signal(own, "CONT", pid)
    env.close(own)
  end))

  it("refuses what it does not know", env.in_task(function()
    local manager = env.manager()
    for _, bad in ipairs { { pings = true }, { ping_timeout_ms = -1 },
                           { tenant_ids = "acme" } } do
      local ok, err = pcall(manager.health_check, manager, bad)
      assert.is_false(ok)
      assert.equal("misuse", err.code)
    end
  end))
end)
