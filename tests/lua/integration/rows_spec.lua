--- db:rows: results that are fetched bit by bit, and every way out of the loop.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


local function rss_kib()
  local file = assert(io.open("/proc/self/status"))
  local text = file:read("a")
  file:close()
  return tonumber(text:match("VmRSS:%s*(%d+)"))
end


describe("db:rows", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY, name text);"
      .. "INSERT INTO t_acme.items SELECT i, 'name ' || i "
      .. "FROM generate_series(1, 3000) i")
  end)
  after_each(env.assert_nothing_left)

  it("gives every row, in order, with its types", env.in_task(function()
    local db = db_of("acme")
    local n = 0
    for row in db:rows("SELECT id, name, NULL AS none, ARRAY[id] AS list "
                       .. "FROM items WHERE id <= $1 ORDER BY id", 2000) do
      n = n + 1
      if n % 500 == 1 then
        assert.same({ id = n, name = "name " .. n, list = { n } }, row)
      end
      assert.equal(n, row.id)
    end
    assert.equal(2000, n)
    assert.equal(0, env.count("state <> 'idle'"))
  end))

  it("gives nothing for an empty result, and something for RETURNING",
     env.in_task(function()
    local db = db_of("acme")
    for _ in db:rows("SELECT 1 WHERE false") do error("a row") end
    for _ in db:rows("DELETE FROM items WHERE id = -1") do error("a row") end
    local got = {}
    for row in db:rows("INSERT INTO items VALUES (9001, 'x'), (9002, 'y') "
                       .. "RETURNING id") do
      got[#got + 1] = row.id
    end
    assert.same({ 9001, 9002 }, got)
    assert.equal(2, db:value("SELECT count(*) FROM items WHERE id > 9000"))
    assert(db:query("DELETE FROM items WHERE id > 9000"))
  end))

  it("takes the options of a query", env.in_task(function()
    local db = db_of("acme")
    for row in db:rows({ sql = "SELECT $1::int AS a, NULL AS b", params = { 5 },
                         as = "arrays" }) do
      assert.same({ 5, mtenant.null, n = 2 }, row)
    end
    for row in db:rows({ sql = "SELECT '{\"a\": 1}'::json AS j",
                         json = "decode" }) do
      assert.equal(1, row.j.a)
    end
    assert.has_error(function() db:rows({ sql = "SELECT 1", az = "arrays" }) end)
  end))

  it("may be left early: the query is cancelled, the connection good", env.in_task(
    function()
      local db = db_of("acme", { connection = { max_connections = 1 } })
      local pid = db:value("SELECT pg_backend_pid()")
      for _, leave in ipairs({
        function()
          for row in db:rows("SELECT generate_series(1, 100000000) AS i") do
            if row.i == 3 then break end
          end
        end,
        function()
          local rows = db:rows("SELECT generate_series(1, 100000000) AS i")
          assert.equal(1, rows().i)
          rows:close()
          rows:close()
          assert.is_nil(rows())
        end,
        function()
          for _ in db:rows("SELECT repeat('x', 10000), " -- luacheck: ignore 512
                           .. "pg_sleep(i / 100) "
                           .. "FROM generate_series(1, 100000) i") do
            return "from the middle"
          end
        end,
        function()
          pcall(function()
            for _ in db:rows("SELECT generate_series(1, 100000000) AS i") do
              error("out of here")
            end
          end)
        end,
      }) do
        local started = mtenant.now_ms()
        leave()
        if jit then env.collect() end -- its loops close nothing
        assert.equal(pid, db:value("SELECT pg_backend_pid()"))
        assert.is_true(mtenant.now_ms() - started < 3000)
        assert.equal(0, env.count("state <> 'idle'"))
      end
    end))

  it("undoes what it wrote when it is left early", env.in_task(function()
    local db = db_of("acme")
    env.loop(function() return true end,
             db:rows("INSERT INTO items SELECT i, 'x' FROM "
                     .. "generate_series(10001, 20000) i RETURNING id"))
    assert.equal(0, db:value("SELECT count(*) FROM items WHERE id > 10000"))
  end))

  it("gives its connection back at the collector's leisure, if need be",
     env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    do
      local step = db:rows("SELECT generate_series(1, 100000000) AS i")
      assert.equal(1, step().i)
    end
    env.collect()
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("raises an error object when the query fails, also midway", env.in_task(
    function()
      local db = db_of("acme")
      local seen = 0
      local ok, err = pcall(function()
        for row in db:rows("SELECT 100 / (2000 - i) AS x, i "
                           .. "FROM generate_series(1, 5000) i") do
          seen = row.i
        end
      end)
      assert.is_false(ok)
      assert.is_true(mtenant.errors.is(err, "query"))
      assert.equal("22012", err.sqlstate)
      assert.equal("acme", err.tenant_id)
      assert.is_true(seen <= 1999)
      ok, err = pcall(function() for _ in db:rows("SELECT nonsense") do end end)
      assert.is_false(ok)
      assert.equal("42703", err.sqlstate)
      ok, err = pcall(function()
        for _ in db_of("nowhere"):rows("SELECT 1") do end
      end)
      assert.is_false(ok)
      assert.equal("tenant_not_found", err.code)
      assert.equal(1, db:value("SELECT 1"))
    end))

  it("fails at its end where a deferred constraint does", env.in_task(function()
    local db = db_of("acme")
    assert(db:exec("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int "
      .. "REFERENCES p DEFERRABLE INITIALLY DEFERRED)"))
    local n = 0
    local ok, err = pcall(function()
      for _ in db:rows("INSERT INTO c VALUES (1) RETURNING id") do n = n + 1 end
    end)
    assert.is_false(ok)
    assert.equal(1, n)
    assert.equal("23503", err.sqlstate)
    assert.equal(0, db:value("SELECT count(*) FROM c"))
  end))

  it("lets db run other queries inside the loop", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 2 } })
    local sum = 0
    for row in db:rows("SELECT id FROM items ORDER BY id LIMIT 600") do
      sum = sum + db:value("SELECT $1::int", row.id)
    end
    assert.equal(300 * 601, sum)
    for outer in db:rows("SELECT generate_series(1, 3) AS i") do
      env.loop(function(inner) return inner.i == outer.i end,
               db:rows("SELECT generate_series(1, 1000) AS i"))
    end
  end))

  it("is used up after its end", env.in_task(function()
    local db = db_of("acme")
    local step, state, control, closing = db:rows("SELECT 1 AS a")
    assert.same({ a = 1 }, step(state, control))
    assert.is_nil(step(state, control))
    assert.is_nil(step(state, control))
    getmetatable(closing).__close(closing)
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("obeys a time limit and a cancelled task", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    local started = mtenant.now_ms()
    local ok, err = pcall(function()
      for _ in db:rows({ sql = "SELECT pg_sleep(30)", timeout_ms = 100 }) do end
    end)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
    ok, err = pcall(mtenant.with_deadline, 100, function()
      for _ in db:rows("SELECT i, pg_sleep(0.01) "
                       .. "FROM generate_series(1, 3000) i") do end
    end)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
    local task = mtenant.spawn(function()
      for _ in db:rows("SELECT pg_sleep(30)") do end
    end)
    env.eventually("the query to run", function()
      return env.count("query LIKE 'SELECT pg_sleep(30)%' "
                       .. "AND state = 'active'") == 1
    end)
    task:cancel()
    ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.equal("cancelled", err.code)
    assert.equal(1, db:value("SELECT 1"))
    assert.is_true(mtenant.now_ms() - started < 5000)
  end))

  it("does not hold up others while its consumer sleeps", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 2 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    env.loop(function(row)
      if row.i < 1000 then return false end
      for _ = 1, 50 do assert.equal(1, globex:value("SELECT 1")) end
      return true
    end, acme:rows("SELECT generate_series(1, 100000) AS i"))
  end))

  it("keeps memory flat over 300,000 rows", env.in_task(function()
    local db = db_of("acme")
    local n, before, worst = 0, nil, 0
    for row in db:rows("SELECT i, repeat('x', 100) AS filler "
                       .. "FROM generate_series(1, 300000) i") do
      n = n + 1
      assert(row.i == n)
      if n == 20000 then
        collectgarbage()
        before = rss_kib()
      elseif before and n % 20000 == 0 then
        collectgarbage()
        worst = math.max(worst, rss_kib() - before)
      end
    end
    assert.equal(300000, n)
    assert.is_true(worst < 32 * 1024, "grew by " .. worst .. " KiB")
  end, 30000))
end)


describe("tx:rows", function()
  setup(function()
    env.tenants({ "acme" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY)")
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items") end)
  after_each(env.assert_nothing_left)

  it("sees its own transaction, which goes on after it", env.in_task(function()
    local db = db_of("acme")
    assert(db:transaction(function(tx)
      assert(tx:query("INSERT INTO items SELECT generate_series(1, 2000)"))
      local n = 0
      for _ in tx:rows("SELECT * FROM items") do n = n + 1 end
      assert.equal(2000, n)
      env.loop(function(row) return row.id == 10 end,
               tx:rows("SELECT id FROM items ORDER BY id"))
      assert.equal(2000, tx:value("SELECT count(*) FROM items"))
      assert(tx:query("INSERT INTO items VALUES (3000)"))
      return true
    end))
    assert.equal(2001, db:value("SELECT count(*) FROM items"))
  end))

  it("refuses its handle inside the loop, not db", env.in_task(function()
    local db = db_of("acme")
    assert(db:transaction(function(tx)
      env.loop(function(row)
        for _, call in ipairs({
          function() tx:query("SELECT 1") end,
          function() tx:exec("SELECT 1") end,
          function() tx:transaction(function() end) end,
          function() for _ in tx:rows("SELECT 1") do end end,
        }) do
          local ok, err = pcall(call)
          assert.is_false(ok)
          assert.is_true(mtenant.errors.is(err, "misuse"))
          assert.is_truthy(err.message:find("rows", 1, true))
        end
        assert.equal(1, db:value("SELECT 1"))
        return row.i == 3
      end, tx:rows("SELECT generate_series(1, 2000) AS i"))
      assert.equal(1, tx:value("SELECT 1"))
      return true
    end))
  end))

  it("ends with its transaction, whatever still holds it", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    local held = {}
    local function leave(tx)
      local rows = tx:rows("SELECT generate_series(1, 2000) AS i")
      held[#held + 1] = rows
      assert.equal(1, rows().i)
    end
    assert(db:transaction(function(tx)
      leave(tx)
      return true
    end))
    assert.is_nil(db:transaction(function(tx)
      leave(tx)
      return nil, "undo"
    end))
    assert(db:transaction(function(tx)
      tx:transaction(leave)
      assert.equal(1, tx:value("SELECT 1"))
      return true
    end))
    assert(db:session(function(s)
      leave(s)
      return true
    end))
    assert(db:session(function(s)
      s:transaction(leave)
      return s:value("SELECT 1")
    end))
    for _, rows in ipairs(held) do
      assert.is_nil(rows())
      rows:close()
    end
    assert.equal(5, #held)
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("obeys a time limit, which ends the transaction soon", env.in_task(
    function()
      local db = db_of("acme", { connection = { max_connections = 1 } })
      local started = mtenant.now_ms()
      local value, err = db:transaction(function(tx)
        assert(tx:query("INSERT INTO items VALUES (1)"))
        for _ in tx:rows({ sql = "SELECT pg_sleep(30)", timeout_ms = 50 }) do
        end
      end)
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      value, err = db:transaction(function(tx)
        assert(tx:query("INSERT INTO items VALUES (1)"))
        return mtenant.with_deadline(50, function()
          for _ in tx:rows("SELECT pg_sleep(30)") do end
        end)
      end)
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      assert.equal(0, db:value("SELECT count(*) FROM items"))
      assert.is_true(mtenant.now_ms() - started < 3000)
    end))

  it("that fails aborts the transaction", env.in_task(function()
    local db = db_of("acme")
    local value, err = db:transaction(function(tx)
      assert(tx:query("INSERT INTO items VALUES (1)"))
      for _ in tx:rows("SELECT 1 / (i - 700) FROM generate_series(1, 1000) i") do
      end
    end)
    assert.is_nil(value)
    assert.equal("22012", err.sqlstate)
    assert.equal(0, db:value("SELECT count(*) FROM items"))
  end))

  it("refuses what has no rows, and the transaction goes on", env.in_task(
    function()
      local db = db_of("acme")
      assert(db:transaction(function(tx)
        assert(tx:query("INSERT INTO items VALUES (1)"))
        for _, sql in ipairs({ "CREATE TABLE x ()", "COMMIT", "", "SELECT 1; SELECT 2",
                               "COPY items TO STDOUT" }) do
          local ok, err = pcall(function() for _ in tx:rows(sql) do end end)
          assert.is_false(ok)
          assert.is_true(mtenant.errors.is(err, "misuse"), sql)
        end
        assert.equal(1, tx:value("SELECT count(*) FROM items"))
        return true
      end))
      db:session(function(s)
        local got = {}
        for row in s:rows("SELECT generate_series(1, 3) AS i") do
          got[#got + 1] = row.i
        end
        assert.same({ 1, 2, 3 }, got)
        assert.has_error(function() for _ in s:rows("SET work_mem = '1MB'") do end end)
        assert.equal(1, s:value("SELECT 1"))
        return true
      end)
    end))
end)
