--- The admin endpoint tells an outage, and its end, of servers that nobody uses.

local admin = require "mtenant.admin"
local client = require "tests.support.http_client"
local cjson = require "cjson"
local env = require "tests.support.env"
local mtenant = require "mtenant"


local endpoint

local function start(options)
  options.address = "127.0.0.1:0"
  endpoint = assert(admin.start(options))
  return endpoint
end


local function ask(path)
  local answer = client.get(endpoint, path)
  return answer.status, cjson.decode(answer.body)
end


-- how long it takes until both say `status`
local function wait_for(status, limit_ms)
  local began = mtenant.now_ms()
  env.eventually("status " .. status, function()
    return ask("/health") == status and ask("/ready") == status
  end, limit_ms)
  return mtenant.now_ms() - began
end


describe("the admin endpoint", function()
  local server

  setup(function()
    server = env.start()
    env.tenants({ "acme", "globex", "initech" }, server)
  end)

  teardown(function() env.close(server) end)

  after_each(function()
    client.close_endpoint(endpoint)
    endpoint = nil
    env.assert_nothing_left()
  end)

  it("tells an outage within two seconds, and its end within a step",
     env.in_task(function()
    local manager = env.manager({}, server)
    assert(manager:get_db_async("acme"))
    start { managers = { manager } }
    assert.equal(200, (ask("/health")))
    assert.equal(200, (ask("/ready")))
    for _ = 1, 2 do
      server:stop("immediate")
      assert.is_true(wait_for(503, 10000) < 2000)
      local _, document = ask("/health")
      assert.equal("unhealthy", document.status)
      assert.is_truthy(document.managers[1].servers[1].error)
      mtenant.sleep(2500) -- the steps of the breaker have grown to their most
      server:start()
      -- a step is a second, and up to a quarter of it
      local took = wait_for(200, 10000)
      assert.is_true(took < 1250 + 250, took .. " ms")
    end
  end, 120000))

  it("looks at a server that was never used", env.in_task(function()
    local manager = env.manager({}, server)
    start { managers = { manager } }
    local function told()
      return client.get(endpoint, "/metrics").body:match(
        "\nmtenant_health_status (%d)\n")
    end
    assert.equal(200, (ask("/health")))
    assert.equal("1", told())
    server:stop("immediate")
    assert.is_true(wait_for(503, 10000) < 2000)
    assert.equal("0", told())
    server:start()
    assert.is_true(wait_for(200, 10000) < 1500)
    assert.equal("1", told())
  end, 120000))

  it("looks though statements fail fast", env.in_task(function()
    local manager = env.manager({ breaker = { fail_fast = true } }, server)
    assert(manager:get_db_async("acme"))
    start { managers = { manager } }
    server:stop("immediate")
    assert.is_true(wait_for(503, 10000) < 2000)
    mtenant.sleep(1000)
    server:start()
    assert.is_true(wait_for(200, 10000) < 1500)
    assert(manager:get_db("acme"):query("SELECT 1"))
  end, 120000))

  it("tells that a server says nothing", env.in_task(function()
    local silent = env.start()
    env.tenants({ "acme" }, silent)
    local manager = env.manager({}, silent)
    assert(manager:get_db_async("acme"))
    start { managers = { manager } }
    assert.equal(200, (ask("/health")))
    local pids = env.sql("SELECT pid FROM pg_stat_activity WHERE "
      .. "application_name = '" .. env.APPLICATION .. "'", silent)
    env.signal(silent, "STOP")
    for pid in pids:gmatch("%d+") do env.signal(silent, "STOP", tonumber(pid)) end
    assert.is_true(wait_for(503, 10000) < 2000)
    mtenant.sleep(3000) -- it stays so, though pings queue behind the first
    assert.equal(503, (ask("/health")))
    for pid in pids:gmatch("%d+") do env.signal(silent, "CONT", tonumber(pid)) end
    env.signal(silent, "CONT")
    wait_for(200, 5000)
    manager:dispose()
    env.close(silent)
  end, 120000))

  it("calls a busy server busy", env.in_task(function()
    local manager = env.manager({
      connection = { max_connections = 1, pool = { max = 10 } },
    }, server)
    local db = assert(manager:get_db_async("acme"))
    start { managers = { manager }, probe_timeout_ms = 200,
            probe_interval_ms = 50 }
    assert.equal(200, (ask("/health")))
    local busy = mtenant.spawn(function() return db:query("SELECT pg_sleep(1)") end)
    mtenant.sleep(600)
    local status, document = ask("/health")
    assert.equal(200, status)
    assert.equal("degraded", document.status)
    assert(busy:await())
  end))

  it("touches no place in the LRU, and counts as no use", env.in_task(function()
    local manager = env.manager({ isolation = { max_pools = 2 } }, server)
    assert(manager:get_db_async("acme"))
    assert(manager:get_db_async("globex"))
    start { managers = { manager }, probe_interval_ms = 10 }
    mtenant.sleep(200)
    ask("/status.json")
    assert(manager:get_db_async("initech"))
    assert.is_false(manager:has_pool("acme"))
    assert.is_true(manager:has_pool("globex"))
    assert.equal(1, manager:get_stats().open)
  end))

  it("is ready by the rule it is given", env.in_task(function()
    local there = env.manager({}, server)
    local own = env.start()
    local url = own.url
    env.close(own)
    local gone = env.manager({ connection = { url = url } })
    start { managers = { there, gone } }
    local status, document = ask("/ready")
    assert.equal(503, status)
    assert.equal("all", document.rule)
    assert.equal("not every server can serve", document.reason)
    assert.equal(503, (ask("/health")))
    endpoint:close()
    start { managers = { there, gone }, ready = "any" }
    status, document = ask("/ready")
    assert.equal(200, status)
    assert.is_true(document.ready)
    assert.equal(503, (ask("/health")))
    there:isolate(document.managers[1].servers[1].name)
    status, document = ask("/ready")
    assert.equal(503, status)
    assert.equal("not one server can serve", document.reason)
    assert.equal("isolated", document.managers[1].servers[1].error)
  end))

  it("is not ready before there is a manager, nor while all is paused",
     env.in_task(function()
    start {}
    local status, document = ask("/ready")
    assert.equal(503, status)
    assert.equal("no manager has been made", document.reason)
    assert.equal(200, (ask("/health")))
    local manager = env.manager({}, server)
    status, document = ask("/ready")
    assert.equal(200, status)
    local name = document.managers[1].servers[1].name
    assert(manager:pause { server = name })
    assert.equal(503, (ask("/ready")))
    assert.equal(200, (ask("/health")))
    manager:resume { server = name }
    assert.equal(200, (ask("/ready")))
    manager:dispose()
    assert.equal(503, (ask("/ready")))
  end))
end)
