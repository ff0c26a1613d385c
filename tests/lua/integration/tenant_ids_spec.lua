--- Which ids and schema names are taken, and what hostile ones can't do.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local ANY = "^.+$" -- an id_pattern that lets everything through


local function identity(id) return id end


local function quoted(name) return '"' .. name:gsub('"', '""') .. '"' end


local function make(schema)
  env.sql(("DROP SCHEMA IF EXISTS %s CASCADE; CREATE SCHEMA %s; "
    .. "CREATE TABLE %s.items (owner text); INSERT INTO %s.items VALUES ('%s')")
    :format(quoted(schema), quoted(schema), quoted(schema), quoted(schema),
            (schema:gsub("'", "''"))))
end


describe("a tenant id", function()
  setup(function()
    env.tenants({ "acme" })
    env.sql("CREATE TABLE IF NOT EXISTS public.items (owner text);"
      .. "TRUNCATE public.items; INSERT INTO public.items VALUES ('public');"
      .. "CREATE TABLE t_acme.items (owner text);"
      .. "INSERT INTO t_acme.items VALUES ('acme')")
  end)
  teardown(function() env.sql("DROP TABLE public.items") end)
  after_each(env.assert_nothing_left)

  it("that is hostile is refused before any I/O", env.in_task(function()
    local manager = env.manager()
    for _, id in ipairs({
      'x"; DROP TABLE public.items; --', "nobody,t_acme",
      "a -c statement_timeout=1234", "a b", "a\nb", "a\0b", "", "a/b", "a'b",
      "é", "a;b", "a\\b", ("x"):rep(201), " acme", "acme ", "acme\t",
    }) do
      for _, method in ipairs({ "get_db", "get_db_async", "get_schema_name" }) do
        local db, err = manager[method](manager, id)
        assert.is_nil(db)
        assert.equal("invalid_tenant_id", err.code)
        assert.is_false(err.retryable)
        assert.is_falsy(tostring(err):find("[%c]"))
      end
      assert.is_false(manager:has_pool(id))
    end
    for _, id in ipairs({ 5, true, {}, print, 0 / 0 }) do
      local db, err = manager:get_db(id)
      assert.is_nil(db)
      assert.equal("invalid_tenant_id", err.code)
    end
    local db, err = manager:get_db(nil)
    assert.is_nil(db)
    assert.equal("invalid_tenant_id", err.code)
    assert.equal(0, manager:get_pool_count())
    assert.equal(0, manager:get_stats().opened)
  end))

  it("that passes as it looks like an id is taken", env.in_task(function()
    for _, id in ipairs({ "a-b", "a.b", "a@b.c", "a:b", "A1", "0", "-" }) do
      make("i_" .. id)
    end
    local manager = env.manager({
      isolation = { schema_name_template = function(id) return "i_" .. id end },
    })
    for _, id in ipairs({ "a-b", "a.b", "a@b.c", "a:b", "A1", "0", "-" }) do
      local db = assert(manager:get_db_async(id))
      assert.equal("i_" .. id, db:value("SELECT owner FROM items"))
      assert.equal("i_" .. id, manager:get_schema_name(id))
      env.sql("DROP SCHEMA " .. quoted("i_" .. id) .. " CASCADE")
    end
  end))

  it("is only ever a name, even where the pattern lets everything in",
     env.in_task(function()
    local manager = env.manager({
      id_pattern = ANY, isolation = { schema_name_template = identity },
    })
    local HOSTILE = {
      'x"; DROP TABLE public.items; --', "nobody,t_acme", "t_acme,public",
      "a -c statement_timeout=1234", '"t_acme"', "t_acme\", public --",
      "a\\b", "ünï☃", "SELECT", "a'b", "$users", "pgsql", "a\nb", " ",
      "T_Acme", "t_acme ",
    }
    for _, id in ipairs(HOSTILE) do
      local db = assert(manager:get_db(id))
      for _, run in ipairs({
        function() return db:query("SELECT * FROM items") end,
        function() return db:exec("SELECT * FROM items") end,
        function()
          return db:transaction(function(tx)
            return tx:query("SELECT * FROM items")
          end)
        end,
        function()
          return db:session(function(s) return s:query("SELECT * FROM items") end)
        end,
        function() return db:query("CREATE TABLE lost (id int)") end,
        function() return manager:get_db_async(id) end,
      }) do
        local value, err = run()
        assert.is_nil(value, id)
        assert.equal("tenant_not_found", err.code, id)
      end
    end
    assert.equal("public", env.sql("SELECT owner FROM public.items"))
    for _, id in ipairs(HOSTILE) do
      make(id)
      local db = assert(manager:get_db(id))
      assert.equal(id, db:value("SELECT owner FROM items"))
      assert.equal(id, db:value("SELECT current_schema()"))
      assert.equal("0", db:value("SHOW statement_timeout"))
      assert(db:query("CREATE TABLE made (id int)"))
      assert.equal(id, db:transaction(function(tx)
        return tx:value("SELECT owner FROM items")
      end))
      assert.equal(id, db:session(function(s)
        return s:value("SELECT owner FROM items")
      end))
      env.sql("DROP SCHEMA " .. quoted(id) .. " CASCADE")
    end
    assert.equal("public", env.sql("SELECT owner FROM public.items"))
  end))

  it("may map to a schema in upper case, which stays that", env.in_task(
    function()
      make("T_Upper")
      env.sql("DROP SCHEMA IF EXISTS t_upper CASCADE")
      local manager = env.manager({
        isolation = { schema_name_template = function() return "T_Upper" end },
      })
      local db = assert(manager:get_db_async("x"))
      assert.equal("T_Upper", db:value("SELECT owner FROM items"))
      assert(db:query("CREATE TABLE made (id int)"))
      assert.equal("\"T_Upper\".made",
                   env.sql("SELECT to_regclass('\"T_Upper\".made')"))
      env.sql("DROP SCHEMA \"T_Upper\" CASCADE")
    end))

  it("whose schema is missing never falls into public", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("nowhere"))
    for name, run in pairs({
      query = function() return db:query("SELECT * FROM items") end,
      value = function() return db:value("SELECT 1") end,
      ddl = function() return db:query("CREATE TABLE lost (id int)") end,
      exec = function() return db:exec("CREATE TABLE lost (id int)") end,
      block = function()
        return db:query("DO $$ BEGIN CREATE TABLE lost (id int); END $$")
      end,
      set = function() return db:query("SET work_mem = '1MB'") end,
      transaction = function()
        return db:transaction(function(tx) return tx:query("SELECT 1") end)
      end,
      set_transaction = function()
        return db:transaction(function(tx)
          tx:query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
          return tx:query("CREATE TABLE lost (id int)")
        end)
      end,
      tx_exec = function()
        return db:transaction(function(tx)
          return tx:exec("CREATE TABLE lost (id int)")
        end)
      end,
      session = function() return db:session(function() return 1 end) end,
      pipeline = function()
        return db:pipeline(function(p) return p:query("SELECT 1"):await() end)
      end,
      connect = function() return manager:get_db_async("nowhere") end,
    }) do
      local value, err = run()
      assert.is_nil(value, name)
      assert.equal("tenant_not_found", err.code, name)
      assert.is_false(err.ambiguous, name)
      assert.is_false(err.retryable, name)
      assert.is_truthy(err.message:find("t_nowhere", 1, true), name)
    end
    assert.equal("", env.sql("SELECT to_regclass('public.lost')"))
  end))

  it("is found as soon as its schema is there, and lost with it", env.in_task(
    function()
      local manager = env.manager()
      env.sql("DROP SCHEMA IF EXISTS t_late CASCADE")
      local db = assert(manager:get_db("late"))
      local _, err = db:query("SELECT 1")
      assert.equal("tenant_not_found", err.code)
      env.tenants({ "late" })
      assert.equal(1, db:value("SELECT 1"))
      env.sql("DROP SCHEMA t_late")
      _, err = db:query("SELECT 1")
      assert.equal("tenant_not_found", err.code)
    end))

  it("may not map to a name that is no tenant's", env.in_task(function()
    local name
    local manager = env.manager({
      isolation = { schema_name_template = function() return name end },
    })
    local CASES = {
      "", ("x"):rep(64), "public", "pg_catalog", "pg_temp", "pg_toast",
      "pg_temp_3", "information_schema", "$user", "a\0b", "\255\254", "é" .. ("x"):rep(62),
    }
    for i, case in ipairs(CASES) do
      name = case
      for _, method in ipairs({ "get_db", "get_db_async" }) do
        local db, err = manager[method](manager, "t" .. i)
        if db then _, err = db:query("SELECT 1") end
        assert.equal("invalid_tenant_id", err.code, ("%q"):format(case))
      end
    end
    assert.equal(0, manager:get_stats().opened)
    name = ("x"):rep(63)
    make(name)
    assert.equal(name, assert(manager:get_db("long")):value(
      "SELECT owner FROM items"))
    env.sql("DROP SCHEMA " .. name .. " CASCADE")
  end))

  it("may not map to the schema of another live one", env.in_task(function()
    make("a_b")
    local manager = env.manager({
      isolation = { schema_name_template = function(id)
        return (id:gsub("-", "_"))
      end },
    })
    local first = assert(manager:get_db_async("a-b"))
    for _ = 1, 2 do
      local db, err = manager:get_db_async("a_b")
      assert.is_nil(db)
      assert.equal("invalid_tenant_id", err.code)
      assert.is_truthy(err.message:find("a-b", 1, true))
      _, err = assert(manager:get_db("a_b")):query("SELECT 1")
      assert.equal("invalid_tenant_id", err.code)
    end
    assert.equal("a_b", first:value("SELECT owner FROM items"))
    assert.is_true(manager:evict_pool("a-b"))
    assert.equal("a_b", assert(manager:get_db_async("a_b")):value(
      "SELECT owner FROM items"))
    local _, err = first:query("SELECT 1")
    assert.equal("invalid_tenant_id", err.code)
    env.sql("DROP SCHEMA a_b CASCADE")
  end))

  it("may not share a schema by another spelling of the connection",
     env.in_task(function()
    make("common")
    local url = env.server().url
    local manager = env.manager({ resolve = function(id)
      return { schema = "common", url = url .. "&connect_timeout=" .. #id }
    end })
    assert(manager:get_db_async("a"))
    local db, err = manager:get_db_async("bb")
    assert.is_nil(db)
    assert.equal("invalid_tenant_id", err.code)
    env.sql("DROP SCHEMA common CASCADE")
  end))
end)


describe("a template or a resolver", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  --- code and message of the first error that this configuration gives
  local function first_error(overrides)
    local manager = env.manager(overrides)
    local db, err = manager:get_db_async("acme")
    assert.is_nil(db)
    local other
    db, other = manager:get_db("acme")
    if db then other = select(2, db:query("SELECT 1")) end
    assert.equal(err.code, other.code)
    manager:dispose()
    assert.equal("acme", err.tenant_id)
    return err.code, err.message
  end

  it("that raises or returns nonsense is a policy error", env.in_task(
    function()
      for _, case in ipairs({
        { function() error("boom", 0) end, "boom" },
        { function() error({}) end, "raised" },
        { function() return nil end, "nil" },
        { function() return 5 end, "number" },
        { function() return {} end, "table" },
        { function() mtenant.sleep(1) return "x" end, "wait" },
        { function() coroutine.yield() return "x" end, "yield" },
      }) do
        local code, message = first_error({
          isolation = { schema_name_template = case[1] },
        })
        assert.equal("policy", code)
        assert.is_truthy(message:find(case[2], 1, true), message)
      end
      for _, case in ipairs({
        { function() error("boom", 0) end, "boom" },
        { function() return "t_acme" end, "string" },
        { function() return { schema = 5 } end, "schema" },
        { function() return { skema = "t_acme" } end, "skema" },
        { function() return { schema = "t_acme", role = "none" } end, "role" },
        { function() return { schema = "t_acme", role = "" } end, "role" },
      }) do
        local code, message = first_error({ resolve = case[1] })
        assert.equal("policy", code)
        assert.is_truthy(message:find(case[2], 1, true), message)
      end
    end))

  it("may say that there is no such tenant", env.in_task(function()
    local code, message = first_error({ resolve = function()
      return nil, "no customer of ours"
    end })
    assert.equal("tenant_not_found", code)
    assert.equal("no customer of ours", message)
    code = first_error({ resolve = function() return nil end })
    assert.equal("tenant_not_found", code)
    code = first_error({ resolve = function()
      return nil, mtenant.errors.new("policy", "closed on Sundays")
    end })
    assert.equal("policy", code)
  end))

  it("may wait, and look tenants up in the shared schema", env.in_task(
    function()
      env.sql("CREATE TABLE public.directory (id text, schema text);"
        .. "INSERT INTO public.directory VALUES ('acme', 't_acme')")
      finally(function() env.sql("DROP TABLE public.directory") end)
      local calls = 0
      local manager = env.manager({ resolve = function(id, ctx)
        calls = calls + 1
        ctx.sleep(5)
        local schema, err = ctx.shared:value(
          "SELECT schema FROM directory WHERE id = $1", id)
        if not schema then return nil, err or "unknown" end
        return { schema = schema }
      end })
      local results = mtenant.each({ 1, 2, 3, 4, 5, 6 }, 6, function(i)
        local db = i % 2 == 0 and manager:get_db("acme")
          or manager:get_db_async("acme")
        return db:value("SELECT current_schema()")
      end)
      for i = 1, 6 do assert.equal("t_acme", results[i]) end
      assert.equal(1, calls)
      local db, err = manager:get_db_async("other")
      assert.is_nil(db)
      assert.equal("tenant_not_found", err.code)
    end))

  it("that never answers holds up its own tenant only", env.in_task(function()
    env.tenants({ "globex" })
    local manager = env.manager({ resolve = function(id, ctx)
      if id == "acme" then ctx.sleep(60000) end
      return { schema = "t_" .. id }
    end })
    local stuck = mtenant.spawn(manager.get_db_async, manager, "acme")
    local queued = mtenant.spawn(function()
      return assert(manager:get_db("acme")):query("SELECT 1")
    end)
    assert.equal(1, assert(manager:get_db_async("globex")):value("SELECT 1"))
    local _, err = mtenant.with_deadline(20, manager.get_db_async, manager, "acme")
    assert.equal("timeout", err.code)
    manager:dispose()
    for _, task in ipairs({ stuck, queued }) do
      _, err = task:await()
      assert.equal("disposed", err.code)
    end
    require("mtenant.task").cancel_all()
  end))
end)
