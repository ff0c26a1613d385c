--- Readers: reads at a real streaming standby, within a bound, with the tenant's
--- own writes seen, and at the primary otherwise.

local env = require "tests.support.env"
local mtenant = require "mtenant"


describe("db:reader", function()
  local primary, standby

  setup(function()
    primary = env.start({ conf = { log_statement = "all" } })
    standby = env.standby(primary)
  end)
  teardown(function()
    env.close(standby)
    env.close(primary)
  end)
  before_each(function()
    standby:psql("SELECT pg_wal_replay_resume()")
    env.tenants({ "a", "b", "c" }, primary)
    for _, id in ipairs({ "a", "b", "c" }) do
      env.sql(('CREATE TABLE t_%s.notes (n int)'):format(id), primary)
    end
  end)
  after_each(env.assert_nothing_left)

  local ADDRESS

  local function manager(read, more)
    local route = { read = { "replica" } }
    for key, value in pairs(read or {}) do route.read[key] = value end
    for key, value in pairs(more or {}) do route[key] = value end
    ADDRESS = standby.dir .. ":" .. standby.port
    return env.manager({
      servers = { replica = standby.url },
      resolve = function() return route end,
    }, primary)
  end

  local function stop_replay()
    standby:psql("SELECT pg_wal_replay_pause()")
    env.eventually("the replay stands", function()
      return standby:psql("SELECT pg_get_wal_replay_pause_state()") == "paused"
    end)
  end

  local IN_RECOVERY = "SELECT pg_is_in_recovery()"

  -- reads until one is answered by the standby
  local function at_standby(reader)
    env.eventually("a read at the standby", function()
      return env.must(reader:value(IN_RECOVERY)) == true
    end)
    assert.equal(ADDRESS, (reader:last_target()))
  end

  it("reads at the standby, in the tenant's scope", env.in_task(function()
    local m = manager(nil, { settings = { work_mem = "5MB", ["app.x"] = "y" } })
    for _, id in ipairs({ "a", "b", "a" }) do
      local db = assert(m:get_db(id))
      env.must(db:query("INSERT INTO notes VALUES (1)"))
      at_standby(db:reader())
      local row = env.must(db:reader():one([[
        SELECT pg_is_in_recovery() AS standby, current_schema() AS schema,
          current_setting('work_mem') AS mem, current_setting('app.x') AS x,
          current_setting('transaction_read_only') AS read_only]]))
      assert.same({ standby = true, schema = "t_" .. id, mem = "5MB", x = "y",
                    read_only = "on" }, row)
    end
    assert.equal(2, m:get_pool_count())
    assert.same({ "b", "a" }, m:get_active_tenant_ids())
  end))

  it("sees what the tenant has written, always", env.in_task(function()
    local m = manager()
    local db = assert(m:get_db("a"))
    local reader, served = db:reader(), { primary = 0 }
    for n = 1, 200 do
      if n % 3 == 0 then
        env.must(db:transaction(function(tx)
          return tx:query("INSERT INTO notes VALUES ($1)", n)
        end))
      else
        env.must(db:query("INSERT INTO notes VALUES ($1)", n))
      end
      if n % 2 == 0 then mtenant.sleep(1) end
      assert.equal(n, env.must(reader:value("SELECT count(*)::int FROM notes")))
      local where = reader:last_target()
      served[where] = (served[where] or 0) + 1
    end
    at_standby(reader)
    assert.equal(200, env.must(reader:value("SELECT max(n) FROM notes")))
  end))

  it("goes to the primary for who has written, while the replay stands",
    env.in_task(function()
      local m = manager()
      local a, b = assert(m:get_db("a")), assert(m:get_db("b"))
      at_standby(a:reader())
      at_standby(b:reader())
      stop_replay()
      env.must(a:query("INSERT INTO notes VALUES (7)"))
      local reader = a:reader()
      for _ = 1, 5 do
        assert.equal(7, env.must(reader:value("SELECT n FROM notes")))
        assert.equal("primary", (reader:last_target()))
        mtenant.sleep(15)
      end
      assert.is_true(env.must(b:reader():value(IN_RECOVERY)))
      standby:psql("SELECT pg_wal_replay_resume()")
      at_standby(reader)
      assert.equal(7, env.must(reader:value("SELECT n FROM notes")))
    end))

  it("need not see own writes when that is not asked for", env.in_task(function()
    local m = manager({ read_your_writes = false })
    local db = assert(m:get_db("a"))
    at_standby(db:reader())
    stop_replay()
    env.must(db:query("INSERT INTO notes VALUES (7)"))
    assert.is_nil(env.must(db:reader():value("SELECT n FROM notes")))
    assert.is_true(env.must(db:reader():value(IN_RECOVERY)))
  end))

  it("keeps to a bound, and is not fooled by a primary that is idle",
    env.in_task(function()
      local m = manager({ max_lag_ms = 200 })
      local db = assert(m:get_db("b"))
      local reader = db:reader()
      at_standby(reader)
      for _ = 1, 4 do -- nothing is written for longer than the bound
        mtenant.sleep(300)
        assert.is_true(env.must(reader:value(IN_RECOVERY)))
      end
      stop_replay()
      env.sql("INSERT INTO t_a.notes VALUES (1)", primary)
      mtenant.sleep(250)
      for _ = 1, 10 do
        assert.is_false(env.must(reader:value(IN_RECOVERY)))
        mtenant.sleep(30)
      end
      local _, why = reader:last_target()
      assert.is_truthy(why:find("behind"), why)
      assert.is_true(env.must(db:reader({ max_lag_ms = 60000 })
                              :value(IN_RECOVERY)))
      standby:psql("SELECT pg_wal_replay_resume()")
      at_standby(reader)
    end))

  it("refuses a write, wherever that gets", env.in_task(function()
    local m = manager()
    local db = assert(m:get_db("a"))
    env.sql([[CREATE FUNCTION t_a.add() RETURNS int LANGUAGE sql
      AS 'INSERT INTO t_a.notes VALUES (99) RETURNING n']], primary)
    local reader = db:reader()
    at_standby(reader)
    local function refused(...)
      local rows, err = ...
      assert.is_nil(rows)
      assert.equal("25006", err.sqlstate)
      assert.is_truthy(err.message:find("a reader does not write", 1, true))
    end
    local function all(where)
      for _, sql in ipairs({ "INSERT INTO notes VALUES (1)", "SELECT add()",
                             "UPDATE notes SET n = 2",
                             "CREATE TABLE more (n int)",
                             "WITH x AS (DELETE FROM notes RETURNING n) "
                             .. "SELECT * FROM x" }) do
        refused(reader:query(sql))
        assert.equal(where, (reader:last_target()))
      end
      refused(reader:transaction(function(tx)
        return tx:query("INSERT INTO notes VALUES (1)")
      end))
    end
    all(ADDRESS)
    stop_replay()
    env.must(db:query("INSERT INTO notes VALUES (7)"))
    all("primary")
    assert.equal(1, env.must(db:value("SELECT count(*)::int FROM notes")))
    for _, name in ipairs({ "exec", "session", "notify", "pipeline" }) do
      assert.has_error(function() reader[name](reader, "x") end)
    end
    assert.has_error(function() reader:query("SET work_mem = '1MB'") end)
    assert.has_error(function()
      reader:transaction({ read_only = false }, function() end)
    end)
  end))

  it("runs transactions and rows at the standby", env.in_task(function()
    local m = manager()
    local db = assert(m:get_db("a"))
    env.must(db:query("INSERT INTO notes SELECT generate_series(1, 1000)"))
    local reader = db:reader()
    at_standby(reader)
    local in_recovery, n = reader:transaction({ isolation = "repeatable read" },
      function(tx)
        return env.must(tx:value(IN_RECOVERY)),
          env.must(tx:value("SELECT count(*)::int FROM notes"))
      end)
    assert.same({ true, 1000 }, { in_recovery, n })
    local sum = 0
    for row in reader:rows("SELECT n FROM notes") do sum = sum + row.n end
    assert.equal(500500, sum)
    assert.equal(ADDRESS, (reader:last_target()))
  end))

  it("asks one server once, however many tenants read", env.in_task(function()
    local ids = {}
    for i = 1, 300 do ids[i] = "m" .. i end
    env.tenants(ids, primary)
    local lsn = primary:psql("SELECT pg_current_wal_insert_lsn()")
    env.eventually("the standby has them", function()
      return standby:psql("SELECT pg_last_wal_replay_lsn() >= '" .. lsn .. "'")
        == "t"
    end)
    local function probes(server)
      local _, n = server:log():gsub("pg_control_system", "")
      return n
    end
    local before, primary_before = probes(standby), probes(primary)
    local began = mtenant.now_ms()
    local m = manager({ max_lag_ms = 1000 })
    for _ = 1, 2 do
      mtenant.each(ids, 50, function(id)
        env.must(m:get_db(id):reader():value("SELECT 1"))
      end)
    end
    local most = (mtenant.now_ms() - began) / 20 + 3 -- one in 20 ms at most
    assert.is_true(probes(standby) - before <= most)
    assert.is_true(probes(primary) - primary_before <= most)
    assert.is_true(probes(standby) > before)
    assert.equal(300, m:get_pool_count())
    assert.is_true(env.must(m:get_db("m1"):reader():value(IN_RECOVERY)))
  end))

  it("does without a standby that is down, and takes it again",
    env.in_task(function()
      local m = manager()
      local db = assert(m:get_db("a"))
      local reader = db:reader()
      at_standby(reader)
      local failed, over, ambiguous = 0, false, 0
      local readers = {}
      for i = 1, 4 do
        readers[i] = mtenant.spawn(function()
          while not over do
            local _, err = db:reader():value("SELECT 1")
            if err and err.ambiguous then ambiguous = ambiguous + 1
            elseif err then failed = failed + 1 end
            mtenant.sleep(1)
          end
        end)
      end
      standby:stop("fast")
      mtenant.sleep(300)
      assert.is_false(env.must(reader:value(IN_RECOVERY)))
      standby:start()
      at_standby(reader)
      over = true
      for _, t in ipairs(readers) do t:await() end
      assert.equal(0, failed)
      assert.is_true(ambiguous <= 8) -- what was running when it was stopped
    end, 60000))

  it("follows its tenant", env.in_task(function()
    local route = { read = { { url = standby.url } } }
    local m = env.manager({ resolve = function() return route end }, primary)
    local db = assert(m:get_db("a"))
    local reader = db:reader()
    ADDRESS = standby.dir .. ":" .. standby.port
    at_standby(reader)
    -- a pause waits for it, and holds it back
    local slow = mtenant.spawn(function()
      return reader:value("SELECT pg_is_in_recovery() FROM pg_sleep(0.2)")
    end)
    mtenant.sleep(50)
    assert.is_true(env.must(m:pause({ tenant = "a" })))
    assert.is_true(slow.done)
    local held = mtenant.spawn(function() return reader:value("SELECT 5") end)
    mtenant.sleep(50)
    assert.is_false(held.done)
    assert.is_true(m:resume({ tenant = "a" }))
    assert.equal(5, env.must(held:await()))
    -- another route: it is read where that says
    route = {}
    assert.is_true(m:invalidate("a"))
    assert.is_false(env.must(reader:value(IN_RECOVERY)))
    assert.is_false(m:has_pool("b"))
    assert.equal(1, m:get_pool_count())
    -- and what is under way ends where it is
    route = { read = { { url = standby.url } } }
    m:invalidate("a")
    at_standby(reader)
    local late = mtenant.spawn(function()
      return reader:value("SELECT pg_is_in_recovery() FROM pg_sleep(0.1)")
    end)
    mtenant.sleep(30)
    m:evict_pool("a")
    assert.is_true(env.must(late:await()))
    m:dispose()
    local _, err = reader:value("SELECT 1")
    assert.equal("disposed", err.code)
  end))

  it("does not believe a schema that the standby does not have yet",
    env.in_task(function()
      local m = manager({ read_your_writes = false })
      env.must(m:get_db("a"):query("SELECT 1"))
      at_standby(m:get_db("a"):reader())
      stop_replay()
      env.tenants({ "new", "a" }, primary) -- and one is made anew
      env.sql("CREATE TABLE t_new.notes (n int); CREATE TABLE t_a.notes (n int);"
        .. "INSERT INTO t_a.notes VALUES (5)", primary)
      assert.is_nil(env.must(m:get_db("new"):reader():value(
        "SELECT n FROM notes")))
      local a = m:get_db("a") -- whose schema is known to be another now
      local _, err = a:query("SELECT 1")
      assert.equal("tenant_not_found", err.code)
      assert.equal(5, env.must(a:value("SELECT n FROM notes")))
      assert.equal(5, env.must(a:reader():value("SELECT n FROM notes")))
    end))

  it("reads from no server that is none of its standbys", env.in_task(function()
    local other = env.server()
    env.tenants({ "a" }, other)
    env.sql("CREATE TABLE t_a.notes AS SELECT 666 AS n", other)
    local m = env.manager({
      resolve = function() return { read = { { url = other.url } } } end,
    }, primary)
    local reader = m:get_db("a"):reader()
    for _ = 1, 3 do
      assert.is_nil(env.must(reader:value("SELECT n FROM notes")))
      local where, why = reader:last_target()
      assert.equal("primary", where)
      assert.is_truthy(why:find("is no standby"), why)
      mtenant.sleep(30)
    end
  end))

  it("reads at the primary where the route names no replica",
    env.in_task(function()
      local m = env.manager(nil, primary)
      local reader = m:get_db("a"):reader()
      assert.equal("t_a", env.must(reader:value("SELECT current_schema()")))
      assert.equal("primary", (reader:last_target()))
      local _, err = reader:query("INSERT INTO notes VALUES (1)")
      assert.equal("25006", err.sqlstate)
      assert.equal(1, env.must(m:get_shared_db():reader():value("SELECT 1")))
    end))
end)
