--- What the configuration changes about connections and statements, and the
--- small helpers of a handle.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


describe("the configuration", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql([[
      CREATE TABLE public.common (owner text);
      INSERT INTO public.common VALUES ('public');
      DROP SCHEMA IF EXISTS extra CASCADE;
      CREATE SCHEMA extra;
      CREATE TABLE extra.more (owner text);
      INSERT INTO extra.more VALUES ('extra');]])
  end)
  teardown(function() env.sql("DROP TABLE public.common; DROP SCHEMA extra CASCADE") end)
  after_each(env.assert_nothing_left)

  it("has public in the path of a tenant, unless search_path says otherwise",
     env.in_task(function()
    assert.equal("public", db_of("acme"):value("SELECT owner FROM common"))
    local db = db_of("acme", { isolation = { search_path = { "$tenant" } } })
    for _, run in ipairs({
      function() return db:value("SELECT owner FROM common") end,
      function()
        return db:transaction(function(tx)
          return tx:value("SELECT owner FROM common")
        end)
      end,
      function()
        return db:session(function(s)
          return s:value("SELECT owner FROM common")
        end)
      end,
    }) do
      local _, err = run()
      assert.equal("42P01", err.sqlstate)
    end
    db = db_of("acme", { isolation = { search_path = { "$tenant", "extra" } } })
    assert.equal("extra", db:value("SELECT owner FROM more"))
    assert.equal("extra", db:transaction(function(tx)
      return tx:value("SELECT owner FROM more")
    end))
  end))

  it("checks that the schema is there, unless verify_schema is false",
     env.in_task(function()
    local db = db_of("nowhere", { isolation = { verify_schema = false,
                                                search_path = { "$tenant" } } })
    assert.is_nil(db:value("SELECT to_regnamespace('t_nowhere')"))
    assert(db:exec("CREATE SCHEMA t_nowhere; CREATE TABLE t_nowhere.x (id int)"))
    assert.equal(0, db:value("SELECT count(*) FROM x"))
    env.sql("DROP SCHEMA t_nowhere CASCADE")
  end))

  it("names the connections", env.in_task(function()
    local db = db_of("acme", { connection = { application_name = "O'Brien; --" } })
    assert.equal("O'Brien; --", db:value("SHOW application_name"))
    db._m:dispose()
  end))

  it("keeps the user's own options of the url", env.in_task(function()
    local db = db_of("acme", { connection = {
      url = env.server().url .. "&options=-c%20work_mem%3D3MB",
    } })
    assert.equal("3MB", db:value("SHOW work_mem"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
  end))

  it("limits the prepared statements of a connection", env.in_task(function()
    for _, limit in ipairs({ 0, 1, 5 }) do
      local manager = env.manager({ connection = {
        max_connections = 1, cache_statements = limit,
      } })
      for round = 1, 4 do
        for _, id in ipairs({ "acme", "globex" }) do
          local db = assert(manager:get_db(id))
          for i = 1, 10 do
            assert.equal(i + round, db:value(
              ("SELECT %d + $1::int AS n%d"):format(i, i), round))
          end
        end
      end
      local n = assert(manager:get_db("acme")):value(
        "SELECT count(*) FROM pg_prepared_statements WHERE name ~ '^mt_[0-9]'")
      assert.is_true(n <= limit + 1, n .. " for " .. limit)
      manager:dispose()
    end
  end))

  it("prepares a statement on its second use", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    local COUNT = "SELECT count(*) FROM pg_prepared_statements "
      .. "WHERE statement = 'SELECT 1 AS twice'"
    assert(db:query("SELECT 1 AS twice"))
    assert.equal(0, db:value(COUNT))
    assert(db:query("SELECT 1 AS twice"))
    assert.equal(1, db:value(COUNT))
    assert(db:query("SELECT 1 AS twice"))
    assert.equal(1, db:value(COUNT))
  end))

  it("logs queries, and the slow ones as such", env.in_task(function()
    local lines = {}
    local function logging(debug)
      debug.enabled = true
      debug.logger = function(message) lines[#lines + 1] = message end
      return env.manager({ debug = debug })
    end
    local manager = logging({ slow_query_threshold_ms = 30 })
    local db = assert(manager:get_db("acme"))
    assert(db:query("SELECT\n  $1::text", "s3cret"))
    db:query("SELECT pg_sleep(0.05)")
    db:transaction(function(tx) return tx:query("SELECT 3") end)
    db:query("SELECT nonsense")
    local text = table.concat(lines, "\n")
    assert.is_truthy(text:find('[mtenant] tenant=acme query="SELECT $1::text" duration=',
                               1, true), text)
    assert.is_truthy(text:find("tenant=acme SLOW_QUERY duration=", 1, true), text)
    assert.is_truthy(text:find('query="SELECT pg_sleep(0.05)"', 1, true), text)
    assert.is_truthy(text:find('query="SELECT 3"', 1, true), text)
    assert.is_truthy(text:find('query="SELECT nonsense"', 1, true), text)
    assert.is_falsy(text:find("s3cret", 1, true))
    lines = {}
    manager = logging({ log_queries = false })
    assert(assert(manager:get_db("acme")):query("SELECT 1"))
    assert.is_falsy(table.concat(lines):find("query=", 1, true))
    lines = {}
    manager = logging({ log_pool_events = false })
    assert(assert(manager:get_db("acme")):query("SELECT 1"))
    assert.is_falsy(table.concat(lines):find("POOL_CREATED", 1, true))
    manager = env.manager({ debug = { enabled = true, logger = function()
      error("in the logger")
    end } })
    assert.equal(1, assert(manager:get_db("acme")):value("SELECT 1"))
  end))

  it("may be defined once, and used for many managers", env.in_task(function()
    local config = mtenant.define_config(env.config())
    local one = assert(mtenant.create_tenant_manager(config))
    local two = assert(mtenant.create_tenant_manager(config))
    assert.equal(1, assert(one:get_db("acme")):value("SELECT 1"))
    one:dispose()
    assert.equal(1, assert(two:get_db("acme")):value("SELECT 1"))
    two:dispose()
  end))

  it("takes DATABASE_URL where no url is given", function()
    local code = ([[
      local mtenant = require "mtenant"
      mtenant.run(function()
        local manager = mtenant.create_tenant_manager({
          connection = { application_name = "%s" },
          isolation = { schema_name_template = function(id) return "t_" .. id end },
        })
        io.write(assert(manager:get_db("acme"):value("SELECT current_schema()")))
        manager:dispose()
      end)]]):format(env.APPLICATION)
    assert.equal("t_acme", env.run_script(code, {
      DATABASE_URL = env.server().url,
    }))
  end)

  it("knows numbers in any locale of the program", function()
    local dir = env.german_locale()
    if not dir then pending("this machine can't make a locale") end
    finally(function() os.execute("rm -rf '" .. dir .. "'") end)
    local code = ([[
      assert(os.setlocale("de_DE.UTF-8"))
      assert(jit or ("%%.1f"):format(0.5) == "0,5")
      local mtenant = require "mtenant"
      mtenant.run(function()
        local manager = mtenant.create_tenant_manager({
          connection = { application_name = "%s" },
          isolation = { schema_name_template = function(id) return "t_" .. id end },
        })
        local db = manager:get_db("acme")
        assert(db:value("SELECT 1.25::float8") == 1.25)
        assert(db:value("SELECT $1::float8", -1.5e-300) == -1.5e-300)
        assert(db:value("SELECT ARRAY[0.5, 1.5]::float8[]")[2] == 1.5)
        local list = mtenant.array({ 0.5, 2.5e100 })
        assert(db:value("SELECT $1::float8[]", list)[2] == 2.5e100)
        assert(db:value({ sql = "SELECT 1", timeout_ms = 1000.5 }) == 1)
        manager:dispose()
      end)
      io.write("fine")]]):format(env.APPLICATION)
    assert.equal("fine", env.run_script(code, {
      DATABASE_URL = env.server().url, LOCPATH = dir,
      ASAN_OPTIONS = "detect_leaks=0", -- the C library leaks its LOCPATH
    }))
  end)
end)


describe("a handle", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("quotes as the server does, without a connection", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    local texts = { "a", "A b", 'a"b', "a'b", "a\\b", "a\\'b", "☃", "", "\n", "%s" }
    local idents, literals = {}, {}
    for i, text in ipairs(texts) do
      literals[i] = db:quote_literal(text)
      if text ~= "" then idents[#idents + 1] = db:quote_ident(text) end
    end
    assert.equal(0, manager:get_stats().opened)
    for i, text in ipairs(texts) do
      assert.equal(text, db:value("SELECT " .. literals[i]))
    end
    for _, ident in ipairs(idents) do
      local rows = assert(db:query("SELECT 1 AS " .. ident))
      assert.equal(ident, db:quote_ident(rows.columns[1]))
    end
    for _, wrong in ipairs({ "a\0b", "\255", 5, {} }) do
      if wrong ~= 5 then
        assert.has_error(function() db:quote_ident(wrong) end)
        assert.has_error(function() db:quote_literal(wrong) end)
      end
    end
    assert.equal('"a"', db:transaction(function(tx) return tx:quote_ident("a") end))
  end))

  it("sends notifications", env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    assert.is_true(db:notify("channel", "payload"))
    assert.is_true(db:notify("channel"))
    local ok, err = db:notify("channel", ("x"):rep(8000))
    assert.is_nil(ok)
    assert.equal("22023", err.sqlstate)
  end))

  it("knows its tenant, and its schema once it is routed", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    assert.equal("acme", db.tenant_id)
    assert.is_nil(db:schema())
    assert.equal(1, db:value("SELECT 1"))
    assert.equal("t_acme", db:schema())
    assert.is_truthy(tostring(db):find("acme", 1, true))
    local shared = assert(manager:get_shared_db_async())
    assert.equal("public", shared:schema())
    assert.equal("public", shared:value("SELECT current_schema()"))
  end))

  it("is the same before, during and after it is being connected", env.in_task(
    function()
      local manager = env.manager()
      local task = mtenant.spawn(manager.get_db_async, manager, "acme")
      local shared = mtenant.spawn(manager.get_shared_db_async, manager)
      mtenant.sleep(0)
      local db = assert(manager:get_db("acme"))
      assert.equal(1, db:value("SELECT 1"))
      assert.equal(1, assert(manager:get_shared_db()):value("SELECT 1"))
      assert.equal(db, task:await())
      assert.equal(manager:get_shared_db(), shared:await())
      assert.equal(1, manager:get_pool_count())
      assert.is_true(env.count() <= 2)
    end))
end)
