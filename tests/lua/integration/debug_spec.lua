--- What the debug log says of statements and events that really happen.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function observed(debug_opts, overrides)
  local seen = {}
  debug_opts = debug_opts or {}
  debug_opts.enabled = true
  debug_opts.logger = function(line, context)
    seen[#seen + 1] = { line = line, context = context }
  end
  overrides = overrides or {}
  overrides.debug = debug_opts
  return env.manager(overrides), seen
end


local function of_type(seen, ...)
  local wanted, out = {}, {}
  for i = 1, select("#", ...) do wanted[select(i, ...)] = true end
  for _, one in ipairs(seen) do
    if wanted[one.context.type] then out[#out + 1] = one end
  end
  return out
end


-- Runs fn(db) and returns the one query that was logged.
local function the_query(fn, debug_opts)
  local manager, seen = observed(debug_opts)
  local db = env.must(manager:get_db("acme"))
  fn(db, seen)
  local queries = of_type(seen, "query", "slow_query")
  assert.equal(1, #queries)
  assert.equal("acme", queries[1].context.tenant_id)
  assert.is_number(queries[1].context.duration_ms)
  return queries[1]
end


local WAYS = {
  query = function(db, sql) env.must(db:query(sql)) end,
  ["query with options"] = function(db, sql)
    env.must(db:query { sql = sql, params = {}, timeout_ms = 5000 })
  end,
  one = function(db, sql) env.must(db:one(sql)) end,
  value = function(db, sql) env.must(db:value(sql)) end,
  exec = function(db, sql) env.must(db:exec(sql)) end,
  transaction = function(db, sql)
    env.must(db:transaction(function(tx) return tx:query(sql) end))
  end,
  ["exec in a transaction"] = function(db, sql)
    env.must(db:transaction(function(tx) return tx:exec(sql) end))
  end,
  session = function(db, sql)
    env.must(db:session(function(session) return session:one(sql) end))
  end,
  ["exec in a session"] = function(db, sql)
    env.must(db:session(function(session) return session:exec(sql) end))
  end,
  pipeline = function(db, sql)
    env.must(db:pipeline(function(p) return p:query(sql):await() end))
  end,
  ["atomic pipeline"] = function(db, sql)
    env.must(db:pipeline({ atomic = true }, function(p)
      return p:query(sql):await()
    end))
  end,
  rows = function(db, sql) env.loop(function() end, db:rows(sql)) end,
  ["rows that are left"] = function(db, sql)
    env.loop(function() return true end, db:rows(sql))
  end,
  ["rows in a transaction"] = function(db, sql)
    env.must(db:transaction(function(tx)
      env.loop(function() end, tx:rows(sql))
      return true
    end))
  end,
}


describe("debug lines", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  for name, run in pairs(WAYS) do
    it("tell of a statement by " .. name, env.in_task(function()
      local got = the_query(function(db) run(db, "SELECT 41 + 1 AS n") end)
      assert.equal("query", got.context.type)
      assert.is_truthy(got.line:find(
        '^%[mtenant%] tenant=acme query="SELECT 41 %+ 1 AS n" duration=%d+ms$'))
    end))

    it("tell of a slow statement by " .. name, env.in_task(function()
      local got = the_query(function(db)
        run(db, "SELECT pg_sleep(0.03)")
      end, { slow_query_threshold_ms = 20 })
      assert.equal("slow_query", got.context.type)
      assert.is_true(got.context.duration_ms >= 20)
      assert.is_truthy(got.line:find("SLOW_QUERY duration=%d+ms query="))
    end))
  end

  it("tell of COPY, DDL, what needs a session, and NOTIFY", env.in_task(function()
    local manager, seen = observed()
    local db = env.must(manager:get_db("acme"))
    env.must(db:query("CREATE TABLE IF NOT EXISTS copied (n int)"))
    env.must(db:exec("COPY copied FROM STDIN", { copy = { "1\n2\n" } }))
    env.must(db:query("VACUUM copied"))
    env.must(db:notify("channel", "s3cret"))
    local said = {}
    for i, one in ipairs(of_type(seen, "query")) do
      said[i] = one.context.query
      assert.is_nil(one.line:find("s3cret", 1, true))
    end
    said[4] = said[4] and said[4]:match("^select pg_catalog%.pg_notify%(")
    assert.same({ "CREATE TABLE IF NOT EXISTS copied (n int)",
                  "COPY copied FROM STDIN", "VACUUM copied",
                  "select pg_catalog.pg_notify(" }, said)
  end))

  it("don't count what a loop over rows does itself", env.in_task(function()
    local got = the_query(function(db)
      env.loop(function() mtenant.sleep(60) end, db:rows("SELECT 1"))
    end, { slow_query_threshold_ms = 50 })
    assert.equal("query", got.context.type)
  end))

  it("tell of failures by their code, never by what was in them",
     env.in_task(function()
    local runs = {
      function(db) return db:query("SELECT $1::int", "s3cret") end,
      function(db)
        local ok, err = pcall(function()
          for _ in db:rows("SELECT $1::int", "s3cret") do end -- luacheck: ignore 512
        end)
        return not ok and nil, err
      end,
      function(db)
        return db:pipeline(function(p)
          return p:query("SELECT $1::int", "s3cret"):await()
        end)
      end,
    }
    for _, run in ipairs(runs) do
      local got = the_query(function(db)
        local _, err = run(db)
        assert.equal("22P02", err.sqlstate)
      end)
      assert.equal("22P02", got.context.error)
      assert.is_nil(got.line:find("s3cret", 1, true))
      assert.is_nil(got.context.parameters)
    end
    local got = the_query(function(db) db:exec("SELECT 1/0") end)
    assert.equal("22012", got.context.error)
  end))

  it("have the parameters when that is asked for, shortened", env.in_task(function()
    local function parameters(...)
      local params = { n = select("#", ...), ... }
      local got = the_query(function(db)
        local sql = { "SELECT 1" }
        for i = 1, params.n do
          sql[#sql + 1] = (", $%d::text"):format(i)
        end
        env.must(db:query(table.concat(sql), (table.unpack or unpack)(
          params, 1, params.n)))
      end, { log_parameters = true })
      return got.context.parameters, got.line
    end
    local got, line = parameters("a\nb", nil, 7, true, mtenant.null)
    assert.same({ '"a\\nb"', "NULL", "7", "true", "NULL" }, got)
    assert.is_truthy(line:find('params=["a\\nb", NULL, 7, true, NULL]', 1, true))
    got = parameters(("x"):rep(5000), mtenant.bytea("\0\1\2"))
    assert.equal('"' .. ("x"):rep(37) .. '..." (5000 bytes)', got[1])
    assert.equal("<bytea of 3 bytes>", got[2])
    local many = {}
    for i = 1, 30 do many[i] = i end
    got = parameters((table.unpack or unpack)(many))
    assert.equal(21, #got)
    assert.equal("... 10 more", got[21])

    for _, run in ipairs {
      function(db)
        env.loop(function() end, db:rows("SELECT $1::int", 5))
      end,
      function(db)
        env.must(db:pipeline(function(p)
          return p:query("SELECT $1::int", 5):await()
        end))
      end,
      function(db)
        env.must(db:query { sql = "SELECT $1::int", params = { 5 } })
      end,
    } do
      assert.same({ "5" },
                  the_query(run, { log_parameters = true }).context.parameters)
    end
  end))

  it("say nothing of queries when they are not wanted", env.in_task(function()
    local manager, seen = observed { log_queries = false }
    for _, run in pairs(WAYS) do run(manager:get_db("acme"), "SELECT 1") end
    assert.same({}, of_type(seen, "query", "slow_query"))
    assert.equal(1, #of_type(seen, "pool_created"))
  end))

  it("tell of pools, warming up and eviction", env.in_task(function()
    local manager, seen = observed()
    env.must(manager:warmup { "acme" })
    env.must(manager:warmup { "acme" })
    manager:evict_pool("acme")
    local made = of_type(seen, "pool_created")
    assert.equal("[mtenant] tenant=acme POOL_CREATED schema=t_acme", made[1].line)
    local warm = of_type(seen, "warmup")
    assert.is_truthy(warm[1].line:find("WARMUP status=success", 1, true))
    assert.is_truthy(warm[2].line:find("WARMUP status=already_warm", 1, true))
    assert.equal("[mtenant] tenant=acme POOL_EVICTED schema=t_acme reason=manual",
                 of_type(seen, "pool_evicted")[1].line)
  end))

  it("tell of evictions by age and number", env.in_task(function()
    local manager, seen = observed(nil, { isolation = { max_pools = 1 } })
    env.must(manager:get_db("acme"):value("SELECT 1"))
    env.must(manager:get_db("globex"):value("SELECT 1"))
    env.eventually("the eviction", function()
      return #of_type(seen, "pool_evicted") == 1
    end)
    assert.equal("lru_eviction",
                 of_type(seen, "pool_evicted")[1].context.metadata.reason)
    local aging, told = observed(nil, { isolation = { pool_ttl_ms = 30 } })
    env.must(aging:get_db("acme"):value("SELECT 1"))
    mtenant.sleep(60)
    aging:get_db("globex"):value("SELECT 1")
    env.eventually("the end of its time", function()
      return #of_type(told, "pool_evicted") > 0
    end)
    assert.equal("ttl_expired",
                 of_type(told, "pool_evicted")[1].context.metadata.reason)
  end))

  it("tell of full and slow queues", env.in_task(function()
    local manager, seen = observed(nil, { connection = {
      max_connections = 1,
      pool = { max = 1, max_waiting = 1, acquire_timeout_ms = 40 } } })
    local db = manager:get_db("acme")
    local busy = mtenant.spawn(function()
      return db:session(function(s) return s:query("SELECT pg_sleep(0.3)") end)
    end)
    mtenant.sleep(100)
    local waiting = mtenant.spawn(function()
      return db:session(function() return true end)
    end)
    mtenant.sleep(1)
    local _, err = db:session(function() return true end)
    assert.equal("pool_exhausted", err.code)
    waiting:await()
    busy:await()
    assert.equal("[mtenant] tenant=acme QUEUE_FULL",
                 of_type(seen, "queue_full")[1].line)
    assert.is_truthy(of_type(seen, "queue_timeout")[1].line:find(
      "QUEUE_TIMEOUT waited=%d+ms"))
  end))

  it("tell of retries, success after them, and errors of pools",
     env.in_task(function()
    local server = env.start()
    local manager, seen = observed(nil, { connection = {
      url = server.url,
      retry = { max_attempts = 20, initial_delay_ms = 50, max_delay_ms = 50 },
    } })
    server:psql("CREATE SCHEMA t_acme AUTHORIZATION mtenant")
    server:stop()
    local task = mtenant.spawn(function() return manager:get_db_async("acme") end)
    env.eventually("a retry", function()
      return #of_type(seen, "connection_retry") > 0
    end)
    server:restart()
    env.must(task:await())
    local retry = of_type(seen, "connection_retry")[1]
    assert.is_truthy(retry.line:find(
      '^%[mtenant%] tenant=acme CONNECTION_RETRY attempt=1/20 delay=%d+ms error="'))
    assert.is_truthy(of_type(seen, "connection_success")[1].line:find(
      "CONNECTION_SUCCESS attempts=%d+ totalTime=%d+ms"))
    server:stop()
    local last = env.manager({ connection = { url = server.url,
      retry = { max_attempts = 1 } }, debug = { enabled = true,
      logger = function(line, context)
        seen[#seen + 1] = { line = line, context = context }
      end } })
    assert.is_nil((last:get_db_async("acme")))
    assert.is_truthy(of_type(seen, "pool_error")[1].line:find(
      '^%[mtenant%] tenant=acme POOL_ERROR error="'))
    last:dispose()
    manager:dispose()
    env.close(server)
  end))
end)
