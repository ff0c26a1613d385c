--- get_metrics: its fields, and that its numbers agree with a ledger of what the
--- test has done, to the unit.

local core = require "mtenant.core"
local env = require "tests.support.env"
local mtenant = require "mtenant"

local jit = rawget(_G, "jit")


local LEDGER = { "statements", "ambiguous", "leases", "bytes_sent",
                 "bytes_received" }


local function add(to, from)
  for _, key in ipairs(LEDGER) do to[key] = (to[key] or 0) + from[key] end
  to.errors = to.errors or {}
  for code, n in pairs(from.errors) do
    to.errors[code] = (to.errors[code] or 0) + n
  end
  for _, key in ipairs { "query", "wait" } do
    local h = to[key] or { count = 0 }
    h.count = h.count + from[key].count
    h.upto = h.upto or {}
    for i, n in ipairs(from[key].upto) do h.upto[i] = (h.upto[i] or 0) + n end
    to[key] = h
  end
  return to
end


local function sum_of_servers(m)
  local out = add({}, m.nowhere)
  for _, server in ipairs(m.servers) do add(out, server) end
  return out
end


local function sum_of_tenants(m)
  local out = add(add({}, m.others), m.shared)
  for _, tenant in ipairs(m.pools.tenants) do
    if tenant.statements then add(out, tenant) end
  end
  return out
end


local function of(m, id)
  for _, tenant in ipairs(m.pools.tenants) do
    if tenant.tenant_id == id then return tenant end
  end
end


-- What all of them together say, seen from both sides.
local function totals(manager)
  local m = assert(manager:get_metrics())
  local servers, tenants = sum_of_servers(m), sum_of_tenants(m)
  assert.same(servers, tenants)
  return servers, m
end


describe("get_metrics", function()
  setup(function() env.tenants { "acme", "globex", "initech" } end)
  after_each(env.assert_nothing_left)

  it("has the fields of drizzle-multitenant", env.in_task(function()
    local manager = env.manager { isolation = { max_pools = 7 } }
    assert(manager:get_db_async("acme"))
    local m = assert(manager:get_metrics())
    assert.equal(1, m.pools.total)
    assert.equal(7, m.pools.max_pools)
    assert.equal(1, #m.pools.tenants)
    local acme = m.pools.tenants[1]
    assert.equal("acme", acme.tenant_id)
    assert.equal("t_acme", acme.schema_name)
    assert.same({ total = 0, idle = 0, waiting = 0 }, acme.connections)
    assert.matches("^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", acme.last_accessed_at)
    assert.matches("^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", m.timestamp)
    assert.is_false(m.shared.initialized)
    assert.is_nil(m.shared.connections)
    assert(manager:get_shared_db():value("SELECT 1"))
    m = assert(manager:get_metrics())
    assert.is_true(m.shared.initialized)
    assert.same({ total = 0, idle = 0, waiting = 0 }, m.shared.connections)
    assert.equal(1, m.shared.statements)
    manager:dispose()
    local none, err = manager:get_metrics()
    assert.is_nil(none)
    assert.equal("disposed", err.code)
  end))

  -- the end of a stream counts, and may give one tenant's place to another
  it("is told without the collector, which ends what was forgotten",
     env.in_task(function()
    if jit then pending("its collector may take a step just before") end
    local manager = env.manager()
    assert(manager:get_db("acme"):query("SELECT 1"))
    local ended = false
    collectgarbage()
    collectgarbage("stop")
    setmetatable({}, { __gc = function() ended = true end })
    collectgarbage("incremental", 100, 1000, 40) -- all there is in one step
    collectgarbage("restart")
    local raw = manager._core:metrics()
    local meanwhile = ended
    collectgarbage("incremental", 200, 100, 13)
    collectgarbage()
    assert.is_false(meanwhile)
    assert.is_true(ended)
    raw.tallies:close()
  end))

  it("has connections of servers, and of a tenant what it holds now",
     env.in_task(function()
    local manager = env.manager()
    local acme = assert(manager:get_db_async("acme"))
    assert(manager:get_db_async("globex"))
    acme:session(function()
      local m = assert(manager:get_metrics())
      assert.same({ total = 1, idle = 0, waiting = 0 },
                  of(m, "acme").connections)
      assert.equal(0, of(m, "globex").connections.total)
      local c = m.servers[1].connections
      assert.equal(8, c.max)
      assert.equal(c.total - 1, c.idle)
      assert.equal("closed", m.servers[1].state)
    end)
    env.eventually("it is given back", function()
      return of(manager:get_metrics(), "acme").connections.total == 0
    end)
    local dedicated = env.manager { isolation = { mode = "dedicated" } }
    assert(dedicated:get_db("acme"):value("SELECT 1"))
    assert.same({ total = 1, idle = 1, waiting = 0 },
                of(assert(dedicated:get_metrics()), "acme").connections)
  end))

  it("counts statements and bytes to the unit", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    local sql = "SELECT $1::text AS a, $2::text AS b, NULL AS c"
    for i = 1, 30 do assert(db:query(sql, ("x"):rep(i), i)) end
    local sent, received = 0, 0
    for i = 1, 30 do
      -- its text goes twice: by itself, and to be prepared
      sent = sent + i + #tostring(i) + (i <= 2 and #sql or 0)
      received = received + i + #tostring(i)
    end
    local all, m = totals(manager)
    assert.equal(30, all.statements)
    assert.equal(sent, all.bytes_sent)
    assert.equal(received, all.bytes_received)
    assert.equal(30, all.query.count)
    assert.equal(30, all.wait.count)
    assert.same({}, all.errors)
    assert.equal(28, m.servers[1].cache_hits)
    assert.equal(2, m.servers[1].cache_misses)
    assert.equal(1, m.servers[1].scope_switches)
    local n = 0
    for row in db:rows("SELECT repeat('y', 10) AS y FROM generate_series(1, 1000)") do
      n = n + #row.y
    end
    assert(db:exec("SELECT 'abc'; SELECT 'de'"))
    all = totals(manager)
    assert.equal(32, all.statements)
    assert.equal(received + n + 5, all.bytes_received)
  end))

  it("counts each failure once, as its caller was told it",
     env.in_task(function()
    local manager = env.manager {
      connection = { max_connections = 2, pool = { max_waiting = 3, max = 1 } },
      resolve = function(id)
        if id == "nobody" then return nil, "no such tenant" end
        return { schema = "t_" .. id }
      end,
    }
    local ledger = { statements = 0, errors = {} }
    local function note(_, err)
      ledger.statements = ledger.statements + 1
      if err then
        ledger.errors[err.code] = (ledger.errors[err.code] or 0) + 1
      end
    end
    local acme, globex = manager:get_db("acme"), manager:get_db("globex")
    for _ = 1, 10 do note(acme:query("SELECT 1")) end
    for _ = 1, 3 do note(acme:query("SELECT 1/0")) end
    note(acme:query { sql = "SELECT pg_sleep(5)", timeout_ms = 20 })
    note(manager:get_db("nobody"):query("SELECT 1"))
    note(manager:get_db("missing"):query("SELECT 1"))
    note(globex:query("SELECT 1"))
    local tasks = {}
    for i = 1, 12 do
      tasks[i] = mtenant.spawn(function()
        note(globex:query("SELECT pg_sleep(0.02)"))
      end)
    end
    for _, t in ipairs(tasks) do t:await() end
    local cancelled = mtenant.spawn(function()
      note(acme:query("SELECT pg_sleep(5)"))
    end)
    mtenant.sleep(50)
    cancelled:cancel()
    cancelled:await()
    assert(acme:transaction(function(tx)
      note(tx:query("SELECT 1"))
      note(tx:query("SELECT 1"))
      return true
    end))
    acme:transaction(function(tx)
      local _, err = tx:query("SELECT nonsense")
      note(_, err)
      return nil, err
    end)
    local all, m = totals(manager)
    assert.equal(ledger.statements, all.statements)
    assert.same(ledger.errors, all.errors)
    assert.equal(8, all.errors.pool_exhausted)
    assert.equal(2, all.errors.tenant_not_found)
    assert.equal(1, all.errors.timeout)
    assert.equal(1, all.errors.cancelled)
    assert.equal(2, all.leases)
    assert.equal(1, m.nowhere.statements)
    assert.is_nil(of(m, "nobody").statements) -- it is no tenant's id
    assert.equal(2, m.servers[1].lease_ends.clean)
    assert.equal(8, m.servers[1].queue_full)
  end))

  -- it is no lease, whether its end is said by the route or by the caller
  it("counts no wait for a route", env.in_task(function()
    local manager = env.manager {
      resolve = function(id)
        if id == "nobody" then return nil, "no such tenant" end
        mtenant.sleep(5000)
      end,
    }
    local _, err = manager:get_db("nobody"):reader():query("SELECT 1")
    assert.equal("tenant_not_found", err.code)
    local task = mtenant.spawn(function()
      return manager:get_db("acme"):reader():query("SELECT 1")
    end)
    mtenant.sleep(20)
    task:cancel()
    _, err = task:await()
    assert.equal("cancelled", err.code)
    local all = totals(manager)
    assert.equal(0, all.statements)
    assert.same({}, all.errors)
  end))

  it("counts what a lost connection leaves open", env.in_task(function()
    local manager = env.manager { connection = { pool = { max = 1 } } }
    local db = assert(manager:get_db_async("acme"))
    local task = mtenant.spawn(function()
      return db:query("SELECT pg_sleep(5)")
    end)
    env.eventually("it runs", function()
      return env.count("query LIKE '%pg_sleep(5)%' AND state = 'active'"
        .. " AND application_name = 'mtenant-spec'") == 1
    end)
    mtenant.sleep(100) -- else it would just be sent again
    env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
      .. "application_name = 'mtenant-spec'")
    local _, err = task:await()
    assert.equal("connection_lost", err.code)
    local all, m = totals(manager)
    assert.equal(err.ambiguous and 1 or 0, all.ambiguous)
    assert.equal(1, all.errors.connection_lost)
    assert.equal(1, m.servers[1].lost)
  end))

  it("tells what became of sessions", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    assert(db:session(function(s) return s:exec("SET work_mem = '1MB'") end))
    assert(db:transaction(function(tx) return tx:query("SELECT 1") end))
    env.eventually("the session is reset", function()
      return manager:get_metrics().servers[1].lease_ends.reset == 1
    end)
    local _, m = totals(manager)
    local server = m.servers[1]
    assert.same({ clean = 1, reset = 1, closed = 0, lost = 0 },
                server.lease_ends)
    assert.equal(1, server.resets)
    assert.equal(2, server.leases)
  end))

  it("counts evictions by their reason, and keeps what pools have done",
     env.in_task(function()
    local manager = env.manager { isolation = { mode = "dedicated",
                                                max_pools = 2 } }
    for _, id in ipairs { "acme", "globex", "initech" } do
      assert(manager:get_db(id):value("SELECT 1"))
    end
    manager:evict_pool("initech")
    env.eventually("their pools are closed", function()
      return manager:get_stats().open == 1
    end)
    local all, m = totals(manager)
    assert.equal(1, m.evictions.lru_eviction)
    assert.equal(1, m.evictions.manual)
    assert.equal(3, all.statements)
    assert.equal(3, m.servers[1].opened)
    assert.equal(3, manager:get_stats().opened)
  end))

  it("counts retries by code, and what the breaker does", env.in_task(function()
    local server = env.start()
    env.tenants({ "acme" }, server)
    local manager = env.manager({
      connection = { retry = { max_attempts = 4, initial_delay_ms = 5 } },
      breaker = { initial_delay_ms = 5, max_delay_ms = 5 },
    }, server)
    assert(manager:get_db_async("acme"))
    server:stop("immediate")
    manager:get_db("acme"):query("SELECT 1")
    assert.is_nil((manager:get_db_async("acme")))
    local s = manager:get_metrics().servers[1]
    local retries = 0
    for _, n in pairs(s.retries_by_code) do retries = retries + n end
    assert.equal(3, retries)
    assert.is_true(s.transitions.open >= 1)
    local failures = 0
    for _, n in pairs(s.connect_errors) do failures = failures + n end
    assert.equal(manager:get_stats().connect_failures, failures)
    server:start()
    env.eventually("it answers", function()
      return (manager:get_db("acme"):query("SELECT 1"))
    end)
    s = manager:get_metrics().servers[1]
    assert.equal("closed", s.state)
    assert.equal(1, s.transitions.closed)
    assert.is_true(s.transitions.half_open >= 1)
    assert.equal(2, s.connect.count)
    manager:dispose()
    env.close(server)
  end))

  it("ranks tenants by what they do, and sums the others up",
     env.in_task(function()
    local manager = env.manager {
      resolve = function() return { schema = "t_acme" } end,
      isolation = { strategy = "row" },
      metrics = { tenants = 3 },
    }
    manager:dispose()
    manager = env.manager {
      resolve = function(id) return { schema = "t_" .. id } end,
      metrics = { tenants = 2 },
    }
    env.tenants { "a", "b", "c", "d" }
    local function run(id, n)
      for _ = 1, n do assert(manager:get_db(id):query("SELECT 1")) end
    end
    run("a", 20)
    run("b", 30)
    run("c", 10)
    local all, m = totals(manager)
    assert.equal(60, all.statements)
    assert.equal(10, m.others.statements)
    assert.is_nil(of(m, "c").statements)
    assert.is_table(of(m, "c").connections)
    run("c", 60) -- now it does more than a
    all, m = totals(manager)
    assert.equal(120, all.statements)
    assert.is_nil(of(m, "a").statements)
    assert.is_true(of(m, "c").statements > 0)
    assert.equal(all.statements, of(m, "b").statements + of(m, "c").statements
      + m.others.statements)
    assert.equal(1, m.others.tenants)
    -- an entry that comes again goes on where it was
    local before = of(m, "b").statements
    manager:evict_pool("b")
    run("b", 1)
    all, m = totals(manager)
    assert.equal(before + 1, of(m, "b").statements)
    assert.equal(121, all.statements)
    assert.equal(2, #manager:get_metrics({ tenants = "top" }).pools.tenants)
  end))

  it("lets nobody take turns who do the same", env.in_task(function()
    local ids = {}
    for i = 1, 12 do ids[i] = "r" .. i end
    env.tenants(ids)
    local manager = env.manager { metrics = { tenants = 4 } }
    for _ = 1, 60 do
      for _, id in ipairs(ids) do assert(manager:get_db(id):query("SELECT 1")) end
    end
    local all, m = totals(manager)
    assert.equal(720, all.statements)
    assert.equal(8 * 60, m.others.statements)
  end))

  it("counts nothing by tenant without metrics", env.in_task(function()
    local manager = env.manager { metrics = false }
    assert(manager:get_db("acme"):query("SELECT 1"))
    manager:get_db("acme"):query("SELECT 1/0")
    local m = assert(manager:get_metrics())
    assert.is_nil(m.servers[1].statements)
    assert.is_nil(m.others)
    assert.equal("acme", m.pools.tenants[1].tenant_id)
    assert.equal(1, m.servers[1].opened)
    assert.equal(1, m.servers[1].connections.total)
    local none = env.manager { metrics = { tenants = 0 } }
    assert(none:get_db("acme"):query("SELECT 1"))
    assert.equal(1, none:get_metrics().others.statements)
  end))

  it("refuses what it does not know", function()
    local manager = env.manager()
    assert.has_error(function() manager:get_metrics("all") end)
    assert.has_error(function() manager:get_metrics { tenants = "none" } end)
    assert.has_error(function() env.manager { metrics = { prefix = "a-b" } } end)
    assert.has_error(function() env.manager { metrics = { tenants = -1 } } end)
    assert.is_function(core.manager)
  end)
end)
