--- No tenant sees another's rows or session, whatever went on before on the
--- connection it gets.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function ids_of(n)
  local out = {}
  for i = 1, n do out[i] = "m" .. i end
  return out
end


local function fill(ids)
  env.tenants(ids)
  local text = {}
  for _, id in ipairs(ids) do
    text[#text + 1] = ("CREATE TABLE t_%s.items (owner text, n int);"
      .. "INSERT INTO t_%s.items VALUES ('%s', 0);"):format(id, id, id)
  end
  env.sql(table.concat(text, "\n"))
end


describe("tenants on the same connections", function()
  local IDS = ids_of(20)

  setup(function()
    fill(IDS)
    env.sql("CREATE TABLE public.items (owner text, n int);"
      .. "INSERT INTO public.items VALUES ('public', 0)")
  end)
  teardown(function() env.sql("DROP TABLE public.items") end)
  after_each(env.assert_nothing_left)

  -- Each kind of use; `t` has id, db and the rows it must find (n as a set).
  -- Every row that is seen must be the tenant's own.
  local function check(t, rows)
    for _, row in ipairs(rows) do
      if row.owner ~= t.id then
        error(("%s saw a row of %s"):format(t.id, tostring(row.owner)), 0)
      end
    end
    return rows
  end

  local function count(t, on)
    local rows = check(t, env.must(on:query("SELECT owner, n FROM items")))
    if #rows ~= t.count then
      error(("%s has %d rows instead of %d"):format(t.id, #rows, t.count), 0)
    end
  end

  local INSERT = "INSERT INTO items VALUES ($1, $2) RETURNING owner"

  local USES = {
    function(t) count(t, t.db) end,
    function(t) count(t, t.db) end,
    function(t)
      check(t, env.must(t.db:query(INSERT, t.id, 1)))
      t.count = t.count + 1
    end,
    function(t)
      local _, err = t.db:query("SELECT 1 / (n - n) FROM items")
      assert(err.sqlstate == "22012")
    end,
    function(t)
      env.must(t.db:transaction(function(tx)
        check(t, env.must(tx:query(INSERT, t.id, 2)))
        tx:transaction(function(inner)
          check(t, env.must(inner:query(INSERT, t.id, 3)))
          return nil, "undo"
        end)
        check(t, env.must(tx:query("SELECT owner FROM items")))
        return true
      end))
      t.count = t.count + 1
    end,
    function(t)
      t.db:transaction(function(tx)
        check(t, env.must(tx:query(INSERT, t.id, 4)))
        return nil, "undo"
      end)
    end,
    function(t)
      env.must(t.db:transaction({ isolation = "serializable" }, function(tx)
        env.must(tx:query("SET TRANSACTION READ ONLY"))
        count(t, tx)
        return true
      end))
    end,
    function(t)
      env.must(t.db:session(function(s)
        env.must(s:query("SET search_path TO public"))
        env.must(s:query("SELECT 1"))
        return true
      end))
    end,
    function(t)
      env.must(t.db:session(function(s)
        env.must(s:query("CREATE TEMP TABLE items (owner text, n int)"))
        env.must(s:query("INSERT INTO pg_temp.items VALUES ('temp', 1)"))
        count(t, s) -- temporary tables come last in the path
        return true
      end))
    end,
    function(t)
      local rows = check(t, env.must(t.db:exec(
        "SELECT 1; SELECT owner, n FROM items")))
      assert(#rows == t.count)
    end,
    function(t)
      env.loop(function(row)
        check(t, { row })
        return row.g == 700
      end, t.db:rows("SELECT owner, g FROM items, generate_series(1, 2000) g"))
    end,
    function(t)
      t.db:pipeline(function(p)
        local futures = {}
        for i = 1, 5 do
          futures[i] = p:query("SELECT owner, $1::int FROM items", i)
        end
        for i = 1, 5 do check(t, env.must(futures[i]:await())) end
      end)
    end,
    function(t)
      env.must(t.db:query("DO $$ BEGIN INSERT INTO items "
        .. "SELECT owner, 5 FROM items LIMIT 1; END $$"))
      t.count = t.count + 1
    end,
    function(t)
      env.must(t.db:query("CREATE TABLE IF NOT EXISTS extra (owner text)"))
      env.must(t.db:query("DROP TABLE extra"))
    end,
    function(t)
      mtenant.with_deadline(3, function()
        return t.db:query("SELECT pg_sleep(1) FROM items")
      end)
    end,
    function(t)
      t.db:query({ sql = "SELECT pg_sleep(1)", timeout_ms = 3 })
    end,
    function(t) env.must(t.db:query("SET work_mem = '1MB'")) end,
    function(t) env.must(t.db:query("SELECT pg_advisory_lock(1)")) end,
  }

  local function run(manager, seed, steps)
    local random = seed
    local function rand(n) -- our own: the same on every Lua
      random = random * 16807 % 2147483647
      return random % n + 1
    end
    local tenants = {}
    for i, id in ipairs(IDS) do
      env.sql(("DELETE FROM t_%s.items WHERE n > 0"):format(id))
      tenants[i] = { id = id, db = assert(manager:get_db(id)), count = 1 }
    end
    local plans = {}
    for i = 1, #tenants do
      plans[i] = {}
      for step = 1, steps do plans[i][step] = rand(#USES) end
    end
    local _, errs = mtenant.each(tenants, #tenants, function(t, i)
      for _, use in ipairs(plans[i]) do USES[use](t) end
      count(t, t.db)
    end)
    assert.is_nil(errs and tostring(select(2, next(errs))))
    for _, t in ipairs(tenants) do
      assert.equal(t.id .. "|" .. t.count, env.sql(("SELECT string_agg("
        .. "DISTINCT owner, ','), count(*) FROM t_%s.items"):format(t.id)))
    end
    assert.equal("public|1", env.sql(
      "SELECT min(owner), count(*) FROM public.items"))
  end

  for seed = 1, 2 do
    it("keep their rows apart in any mix of uses, " .. seed, env.in_task(
      function()
        local manager = env.manager({ connection = {
          max_connections = 2, cache_statements = seed == 1 and 256 or 3,
          pool = { acquire_timeout_ms = 30000 },
        } })
        run(manager, seed, 8)
        assert.is_true(manager:get_stats().peak <= 2)
      end, 40000))
  end

  it("find their own tables under the same statement", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    for _ = 1, 4 do -- also when it has been prepared for each of them
      for _, id in ipairs(IDS) do
        assert.equal(id, assert(manager:get_db(id)):value(
          "SELECT owner FROM items LIMIT 1"))
      end
      assert.equal("public", assert(manager:get_shared_db()):value(
        "SELECT owner FROM items LIMIT 1"))
    end
  end))

  it("follow changes of their tables, each for itself", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    env.tenants({ "one", "two" })
    local one = assert(manager:get_db("one"))
    local two = assert(manager:get_db("two"))
    for _, db in ipairs({ one, two }) do
      assert(db:query("CREATE TABLE things (a int)"))
      assert(db:query("INSERT INTO things VALUES (1)"))
      for _ = 1, 3 do
        assert.same({ { a = 1 } }, db:query("SELECT * FROM things"))
      end
    end
    assert(one:query("ALTER TABLE things ADD b text DEFAULT 'x'"))
    assert.same({ { a = 1, b = "x" } }, one:query("SELECT * FROM things"))
    assert.same({ { a = 1 } }, two:query("SELECT * FROM things"))
    assert(one:query("ALTER TABLE things ALTER a TYPE text"))
    assert.same({ { a = "1", b = "x" } }, one:query("SELECT * FROM things"))
    assert(one:exec("DROP TABLE things; CREATE TABLE things (c bool)"))
    assert.same({}, one:query("SELECT * FROM things"))
    assert(one:query("DROP TABLE things"))
    for _ = 1, 3 do
      local _, err = one:query("SELECT * FROM things")
      assert.equal("42P01", err.sqlstate)
    end
    assert.same({ { a = 1 } }, two:query("SELECT * FROM things"))
  end))
end)


describe("a connection that somebody has changed", function()
  setup(function()
    fill({ "acme", "globex" })
    env.sql([[
      CREATE TABLE public.items (owner text, n int);
      INSERT INTO public.items VALUES ('public', 0);
      CREATE FUNCTION t_acme.go_to(p text) RETURNS text LANGUAGE sql
        AS $$ SELECT set_config('search_path', p, false) $$;
      CREATE FUNCTION t_acme.run(p text) RETURNS void LANGUAGE plpgsql
        AS $$ BEGIN EXECUTE p; END $$]])
  end)
  teardown(function() env.sql("DROP TABLE public.items") end)
  after_each(env.assert_nothing_left)

  local READERS = {
    { "query", function(db) return db:value("SELECT owner FROM items") end },
    { "exec", function(db)
      local rows, err = db:exec("SELECT owner FROM items")
      return rows and rows[1].owner, err
    end },
    { "transaction", function(db)
      local function read()
        return db:transaction(function(tx)
          return tx:value("SELECT owner FROM items")
        end)
      end
      local owner, err = read()
      -- a prepared statement that is gone can't be sent again in there
      if err and err.retryable then owner, err = read() end
      return owner, err
    end },
    { "session", function(db)
      return db:session(function(s)
        return s:value("SELECT owner FROM items")
      end)
    end },
    { "rows", function(db)
      local owner
      for row in db:rows("SELECT owner FROM items") do owner = row.owner end
      return owner
    end },
    { "block", function(db)
      local ok, err = db:query("DO $$ BEGIN IF (SELECT owner FROM items) "
        .. "<> 'globex' THEN RAISE 'wrong'; END IF; END $$")
      return ok and "globex", err
    end },
    { "pipeline", function(db)
      return db:pipeline(function(p)
        local rows, err = p:query("SELECT owner FROM items"):await()
        return rows and rows[1].owner, err
      end)
    end },
  }

  local CHANGES = {
    "SELECT go_to('public')", "SELECT go_to('t_acme')",
    "SELECT go_to('t_acme, public')",
    "SELECT run('SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE')",
    "SELECT run('DEALLOCATE ALL')",
    "SELECT run('DEALLOCATE mt_scope')",
    "SELECT run('DISCARD PLANS')",
    "SELECT run('RESET ALL')",
    "SELECT run('CREATE TEMP TABLE IF NOT EXISTS items AS SELECT ''temp'' AS owner')",
    "SELECT run('PREPARE mine AS SELECT 1')",
  }

  for _, reader in ipairs(READERS) do
    local read = reader[2]
    it("does not change what the next one reads by " .. reader[1], env.in_task(
      function()
        local manager = env.manager({ connection = { max_connections = 1 } })
        local acme = assert(manager:get_db("acme"))
        local globex = assert(manager:get_db("globex"))
        for _, change in ipairs(CHANGES) do
          for _ = 1, 3 do
            local ok, err = acme:query(change)
            -- 42P05: it is there already
            assert.is_true(ok ~= nil or err.sqlstate == "42P05", tostring(err))
            local owner
            owner, err = read(globex)
            assert.is_nil(err and change .. ": " .. tostring(err))
            assert.equal("globex", owner, change)
          end
        end
      end))
  end

  it("is retired, and the statement runs on another", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    local pid = globex:value("SELECT pg_backend_pid()")
    assert(acme:query("SELECT go_to('public')"))
    assert.are_not.equal(pid, globex:value("SELECT pg_backend_pid()"))
    assert.is_true(manager:get_stats().retired >= 1)
    assert.equal(1, env.count())
  end))

  it("whose scope statement was forged shows nobody else's rows", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local acme = assert(manager:get_db("acme"))
      local globex = assert(manager:get_db("globex"))
      for _ = 1, 3 do
        local rows = acme:query("SELECT run('DEALLOCATE mt_scope'), "
          .. "run('PREPARE mt_scope AS SELECT $1::text, $2::text, $3::text')")
        assert(rows)
        local owner = globex:value("SELECT owner FROM items")
        assert.is_true(owner == nil or owner == "globex", tostring(owner))
        manager:dispose()
        manager = env.manager({ connection = { max_connections = 1 } })
        acme = assert(manager:get_db("acme"))
        globex = assert(manager:get_db("globex"))
      end
    end))

  it("by an open transaction does not swallow the next one's writes",
     env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    for i = 1, 5 do
      assert(acme:exec("BEGIN; INSERT INTO items VALUES ('acme', 1)"))
      assert(globex:query("INSERT INTO items VALUES ('globex', $1)", i))
      acme:session(function(s) return s:exec("BEGIN READ ONLY") end)
      assert(globex:query("INSERT INTO items VALUES ('globex', $1)", i))
    end
    assert.equal(11, globex:value("SELECT count(*) FROM items"))
    assert.equal(1, acme:value("SELECT count(*) FROM items"))
    assert(globex:query("DELETE FROM items WHERE n > 0"))
  end))
end)
