--- Run-time parameters of a route: set for each of the tenant's statements, and
--- for nobody else's.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local SEEN = "SELECT current_setting('work_mem') AS mem, "
  .. "current_setting('TimeZone') AS zone, current_setting('app.who') AS who"


local function route_of(id)
  return { settings = {
    work_mem = id == "a" and "5MB" or "7MB",
    timezone = id == "a" and "Asia/Tokyo" or "Europe/Berlin",
    ["app.who"] = id .. [[ ' " \ {},]],
  } }
end


local function expected(id)
  local settings = route_of(id).settings
  return { mem = settings.work_mem, zone = settings.timezone,
           who = settings["app.who"] }
end


local function manager(resolve, more)
  local config = { resolve = resolve, connection = { max_connections = 1 } }
  for key, value in pairs(more or {}) do config[key] = value end
  return env.manager(config)
end


describe("route.settings", function()
  setup(function() env.tenants({ "a", "b", "plain" }) end)
  after_each(env.assert_nothing_left)

  it("hold in statements, transactions, sessions and streams",
    env.in_task(function()
      local m = manager(route_of)
      for _ = 1, 3 do
        for _, id in ipairs({ "a", "b" }) do
          local db = assert(m:get_db(id))
          assert.same(expected(id), env.must(db:one(SEEN)))
          assert.same(expected(id), env.must(db:one({ sql = SEEN,
                                                      timeout_ms = 5000 })))
          assert.same(expected(id), db:transaction({
            isolation = "serializable" }, function(tx)
            env.must(tx:query("SET TRANSACTION READ ONLY"))
            return env.must(tx:one(SEEN))
          end))
          assert.same(expected(id), db:session(function(s)
            env.must(s:query("SELECT 1"))
            return env.must(s:one(SEEN))
          end))
          for row in db:rows(SEEN) do assert.same(expected(id), row) end
          assert.same(expected(id), env.must(db:exec(SEEN))[1])
          env.must(db:query("DO $$ BEGIN IF current_setting('app.who') <> "
            .. "(SELECT current_setting('app.who')) THEN RAISE 'x'; END IF; "
            .. "END $$"))
        end
      end
    end))

  it("leave nothing for a tenant without", env.in_task(function()
    local m = manager(function(id)
      return id ~= "plain" and route_of(id) or {}
    end)
    local plain = assert(m:get_db("plain"))
    local ASK = "SELECT current_setting('work_mem') AS mem, "
      .. "current_setting('TimeZone') AS zone, "
      .. "coalesce(current_setting('app.who', true), '') AS who"
    local before = env.must(plain:one(ASK))
    for _, id in ipairs({ "a", "b" }) do
      local db = assert(m:get_db(id))
      env.must(db:one(SEEN))
      assert.same(before, env.must(plain:one(ASK)))
      db:transaction(function(tx) return tx:one(SEEN) end)
      assert.same(before, env.must(plain:one(ASK)))
      db:session(function(s) return s:one(SEEN) end)
      assert.same(before, env.must(plain:one(ASK)))
      db:transaction(function(tx) -- one that fails
        return tx:query("SELECT 1/0")
      end)
      assert.same(before, env.must(plain:one(ASK)))
    end
    assert.equal("", env.must(m:get_shared_db():one(ASK)).who)
  end))

  it("do not need a reset for what the server reports", env.in_task(function()
    local m = manager(route_of)
    for _ = 1, 5 do
      m:get_db("a"):transaction(function(tx) return tx:one(SEEN) end)
    end
    local stats = m:get_stats()
    assert.same({ 0, 0, 1 }, { stats.resets, stats.tainted, stats.opened })
  end))

  it("plan a tenant's statement by its own settings", env.in_task(function()
    local m = manager(function(id)
      return { settings = { enable_seqscan = id == "a", plan_cache_mode =
        "force_generic_plan" } }
    end)
    for _, id in ipairs({ "a", "b" }) do
      env.sql(("CREATE TABLE t_%s.rows AS SELECT generate_series(1, 9) AS n;"
        .. "CREATE INDEX ON t_%s.rows (n); ANALYZE t_%s.rows")
        :format(id, id, id))
    end
    for _ = 1, 4 do -- from the second time on they are prepared
      for _, id in ipairs({ "a", "b" }) do
        local plan = env.must(m:get_db(id):one(
          "EXPLAIN SELECT n FROM rows WHERE n = 5"))["QUERY PLAN"]
        assert.equal(id == "a", plan:find("Seq Scan", 1, true) ~= nil, plan)
      end
    end
  end))

  it("name what the server refuses, and nothing has run", env.in_task(function()
    env.sql("CREATE TABLE t_a.ran (n int)")
    for setting, case in pairs({
      work_mem = { "banana", "22023" },
      no_such_parameter = { "x", "42704" },
      log_statement = { "none", "42501" },
      max_connections = { 5, "55P02" },
    }) do
      local m = manager(function()
        return { settings = { [setting] = case[1], ["app.x"] = 1,
                              statement_timeout = "9s" } }
      end)
      local db = assert(m:get_db("a"))
      local function refused(_, err)
        assert.equal("policy", err.code)
        assert.equal(case[2], err.sqlstate)
        assert.is_truthy(err.message:find("route.settings." .. setting, 1,
                                          true), err.message)
        assert.is_false(err.ambiguous)
      end
      refused(db:query("INSERT INTO ran VALUES (1)"))
      refused(db:query("INSERT INTO ran VALUES (1)"))
      refused(db:transaction(function(tx)
        return tx:query("INSERT INTO ran VALUES (1)")
      end))
      refused(db:session(function(s)
        return s:query("INSERT INTO ran VALUES (1)")
      end))
      refused(m:get_db_async("a"))
      assert.equal(0, m:get_stats().retired) -- the connection is as good
      m:dispose()
    end
    assert.equal("0", env.sql("SELECT count(*) FROM t_a.ran"))
  end))

  it("may set a time limit, beside a statement's own", env.in_task(function()
    local m = manager(function() return { settings = {
      statement_timeout = "100ms" } } end)
    local db = assert(m:get_db("a"))
    local SHOW = "SELECT current_setting('statement_timeout')"
    assert.equal("100ms", env.must(db:value(SHOW)))
    assert.equal("100ms", env.must(db:value({ sql = SHOW, timeout_ms = 9000 })))
    assert.equal("50ms", env.must(db:value({ sql = SHOW, timeout_ms = 50 })))
    local _, err = db:query("SELECT pg_sleep(5)")
    assert.equal("57014", err.sqlstate)
    _, err = db:transaction(function(tx) return tx:query("SELECT pg_sleep(5)") end)
    assert.equal("57014", err.sqlstate)
  end))

  it("hold behind a pooler", env.in_task(function()
    local server = env.start()
    env.tenants({ "a", "b" }, server)
    server:psql("ALTER ROLE mtenant IN DATABASE mtenant SET search_path = ''")
    local bouncer = server:bouncer()
    local m = env.manager({ resolve = route_of, connection = {
      url = bouncer.url, pooler = "transaction" } }, server)
    for _ = 1, 2 do
      for _, id in ipairs({ "a", "b" }) do
        local db = assert(m:get_db(id))
        assert.same(expected(id), env.must(db:one(SEEN)))
        assert.same(expected(id), db:transaction(function(tx)
          return env.must(tx:one(SEEN))
        end))
      end
    end
    assert.equal("", bouncer:psql("SELECT current_setting('app.who', true)"))
    m:dispose()
    bouncer:close()
    env.close(server)
  end))

  it("survive a connection whose names are gone", env.in_task(function()
    local m = manager(route_of)
    env.sql([[CREATE FUNCTION t_a.forget() RETURNS void LANGUAGE plpgsql
      AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; END']])
    local db = assert(m:get_db("a"))
    env.must(db:query("SELECT 1"))
    for _ = 1, 3 do
      env.must(db:query("SELECT forget()"))
      assert.same(expected("a"), env.must(db:one(SEEN)))
      assert.same(expected("b"), env.must(m:get_db("b"):one(SEEN)))
    end
  end))
end)


describe("route.pool", function()
  setup(function() env.tenants({ "a", "b" }) end)
  after_each(env.assert_nothing_left)

  it("limits a tenant, and no other", env.in_task(function()
    local m = env.manager({ resolve = function(id)
      return id == "a" and { pool = { max = 1, max_waiting = 2 } } or {}
    end })
    local function burst(id)
      local failed = 0
      local peak = env.peak_while(function()
        mtenant.each({ n = 6 }, 6, function()
          local _, err = m:get_db(id):transaction(function(tx)
            return tx:query("SELECT pg_sleep(0.1)")
          end)
          if err then
            assert.equal("pool_exhausted", err.code)
            failed = failed + 1
          end
        end)
      end)
      return failed, peak
    end
    local failed, peak = burst("a")
    assert.same({ 3, 1 }, { failed, peak }) -- one runs, two wait
    failed, peak = burst("b")
    assert.equal(0, failed)
    assert.is_true(peak > 1)
    assert.is_true(m:reconfigure({ connection = { pool = { max = 5 } } }))
    failed = burst("a")
    assert.equal(3, failed)
  end))

  it("gives a tenant connections of its own, or takes them",
    env.in_task(function()
      local PID = "SELECT pg_backend_pid()"
      local function pids(mode, own)
        local m = env.manager({
          isolation = { mode = mode,
                        schema_name_template = function(id) return "t_" .. id end },
          connection = { max_connections = 4 },
          resolve = function(id) return id == "a" and { pool = { mode = own } } or {}
          end,
        })
        local a, b = env.must(m:get_db("a"):value(PID)),
          env.must(m:get_db("b"):value(PID))
        local shared = env.must(m:get_shared_db():value(PID))
        m:dispose()
        return a == shared, b == shared
      end
      assert.same({ true, true }, { pids("shared") })
      assert.same({ false, true }, { pids("shared", "dedicated") })
      assert.same({ true, false }, { pids("dedicated", "shared") })
    end))
end)
