--- Strategies beside schema: a database per tenant, rows of shared tables kept
--- apart by policies, and a rule that chooses.

local bouncer = require "tests.support.bouncer"
local env = require "tests.support.env"
local mtenant = require "mtenant"

local rls = mtenant.rls

local ROW_IDS = {}
for i = 1, 100 do ROW_IDS[i] = "r" .. i end


local function psql(text)
  return env.server():psql("SET client_min_messages = error;" .. text)
end


local function row_manager(overrides)
  overrides = overrides or {}
  overrides.isolation = overrides.isolation or {}
  overrides.isolation.strategy = overrides.isolation.strategy or "row"
  overrides.isolation.schema = "shop"
  overrides.connection = overrides.connection or { max_connections = 2 }
  return env.manager(overrides)
end


local function superuser_url()
  local url, n = env.server().url:gsub("mtenant@", "postgres@", 1)
  assert(n == 1, env.server().url)
  return url
end


describe("strategy row", function()
  setup(function()
    psql([[
      DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop;
      CREATE TABLE shop.orders (id serial, tenant_id text, body text);
      CREATE TABLE shop.numbers (n int, tenant_id text);
      ALTER SCHEMA shop OWNER TO mtenant;
      ALTER TABLE shop.orders OWNER TO mtenant;
      ALTER TABLE shop.numbers OWNER TO mtenant;
      INSERT INTO shop.orders (tenant_id, body)
        SELECT 'r' || i, 'of r' || i FROM generate_series(1, 100) i;
    ]])
    env.in_task(function()
      local manager = env.manager()
      local tables = assert(rls.apply(manager:get_shared_db(),
                                      { schema = "shop" }))
      assert.same({ "numbers", "orders" }, tables)
      assert(rls.apply(manager:get_shared_db(), { schema = "shop" }))
      manager:dispose()
    end)()
  end)
  teardown(function() psql("DROP SCHEMA shop CASCADE") end)
  after_each(env.assert_nothing_left)

  it("shows each of 100 tenants on two connections its own rows, in any use",
     env.in_task(function()
    local manager = row_manager()
    local uses = {
      function(db) return db:value("SELECT string_agg(body, '+') FROM orders") end,
      function(db)
        return db:transaction(function(tx)
          mtenant.sleep(1)
          return tx:value("SELECT string_agg(body, '+') FROM orders")
        end)
      end,
      function(db)
        return db:session(function(s)
          return s:value("SELECT string_agg(body, '+') FROM orders")
        end)
      end,
      function(db)
        local out = {}
        for row in db:rows("SELECT body FROM orders") do
          out[#out + 1] = row.body
        end
        return table.concat(out, "+")
      end,
      function(db)
        local future
        assert(db:pipeline(function(p)
          future = p:query("SELECT body FROM orders")
          return true
        end))
        local rows = env.must(future:await())
        assert.equal(1, #rows)
        return rows[1].body
      end,
      function(db)
        return env.must(db:query { timeout_ms = 5000,
          sql = "SELECT string_agg(body, '+') AS b FROM orders" })[1].b
      end,
      function(db)
        local results = env.must(db:exec("SELECT 1; SELECT body FROM orders"))
        return type(results) == "table" and "of " .. db.tenant_id
      end,
    }
    local work = {}
    for i = 1, 700 do work[i] = i end
    local _, errs = mtenant.each(work, 30, function(i)
      local id = ROW_IDS[i % #ROW_IDS + 1]
      local db = assert(manager:get_db(id))
      local body = env.must(uses[i % #uses + 1](db))
      assert(body == "of " .. id, id .. " has seen " .. tostring(body))
      return true
    end)
    assert.is_nil(errs and tostring(select(2, next(errs))))
  end))

  it("writes rows under the tenant's own id, and under no other",
     env.in_task(function()
    local manager = row_manager()
    local one, two = manager:get_db("w1"), manager:get_db("w2")
    assert(one:query("INSERT INTO numbers (n) VALUES (1), (2)"))
    assert.equal("w1", env.must(one:value(
      "SELECT DISTINCT tenant_id FROM numbers")))
    local _, err = two:query(
      "INSERT INTO numbers (n, tenant_id) VALUES (3, 'w1')")
    assert.equal("42501", err.sqlstate)
    assert.equal(0, env.must(two:query("UPDATE numbers SET n = 9")).affected)
    assert.equal(0, env.must(two:query("DELETE FROM numbers")).affected)
    _, err = one:query("UPDATE numbers SET tenant_id = 'w2'")
    assert.equal("42501", err.sqlstate)
    assert.equal(2, env.must(one:query("DELETE FROM numbers")).affected)
  end))

  it("shows nothing where the setting is missing", env.in_task(function()
    local manager = row_manager()
    assert.equal(1, env.must(manager:get_db("r1"):value(
      "SELECT count(*) FROM orders")))
    assert.equal(0, env.must(manager:get_shared_db():value(
      "SELECT count(*) FROM shop.orders")))
  end))

  it("lets no session hand its setting on", env.in_task(function()
    local manager = row_manager({ connection = { max_connections = 1 } })
    local one, two = manager:get_db("r1"), manager:get_db("r2")
    assert(one:session(function(s)
      assert(s:query("SET app.tenant_id = 'r3'"))
      return true
    end))
    assert.equal("of r2", env.must(two:value("SELECT body FROM orders")))
    assert.equal(0, env.must(manager:get_shared_db():value(
      "SELECT count(*) FROM shop.orders")))
    assert.equal("", env.must(manager:get_shared_db():value(
      "SELECT coalesce(current_setting('app.tenant_id', true), '')")))
    -- and DISCARD ALL takes the scope's names along
    assert(one:session(function(s) return s:query("DISCARD ALL") end))
    assert.equal("of r1", env.must(one:value("SELECT body FROM orders")))
  end))

  it("takes ids with quotes for what they are", env.in_task(function()
    local manager = row_manager({ id_pattern = "^.+$" })
    for _, id in ipairs({ "o'brien", "back\\slash'; --", 'a"b' }) do
      local db = assert(manager:get_db(id))
      assert.equal(id, env.must(db:value(
        "SELECT current_setting('app.tenant_id')")))
      assert.equal(id, env.must(db:transaction(function(tx)
        return tx:value("SELECT current_setting('app.tenant_id')")
      end)))
    end
  end))

  it("refuses a login that row security does not hold", env.in_task(function()
    local manager = row_manager({ connection = {
      url = superuser_url(), max_connections = 2,
    } })
    local db = assert(manager:get_db("r1"))
    for _, use in ipairs({
      function() return db:query("SELECT * FROM orders") end,
      function() return db:query({ sql = "SELECT 1", timeout_ms = 1000 }) end,
      function()
        return db:transaction(function(tx)
          return tx:query("SELECT * FROM orders")
        end)
      end,
      function()
        return db:session(function(s) return s:query("SELECT 1") end)
      end,
      function() return manager:get_db_async("r2") end,
    }) do
      local rows, err = use()
      assert.is_nil(rows)
      assert.equal("policy", err.code)
      assert.matches("BYPASSRLS", err.message)
      assert.is_false(err.ambiguous)
    end
    psql("DROP ROLE IF EXISTS rls_app; CREATE ROLE rls_app;"
         .. "GRANT USAGE ON SCHEMA shop TO rls_app;"
         .. "GRANT SELECT ON shop.orders TO rls_app")
    local held = row_manager({
      connection = { url = superuser_url(), max_connections = 2 },
      isolation = { role_template = function() return "rls_app" end },
    })
    assert.equal("of r1", env.must(held:get_db("r1"):value(
      "SELECT string_agg(body, '+') FROM orders")))
    held:dispose()
    psql("ALTER ROLE rls_app BYPASSRLS")
    held = row_manager({
      connection = { url = superuser_url(), max_connections = 2 },
      isolation = { role_template = function() return "rls_app" end },
    })
    local _, err = held:get_db("r1"):query("SELECT * FROM orders")
    assert.equal("policy", err.code)
    held:dispose()
    manager:dispose()
    psql("DROP OWNED BY rls_app; DROP ROLE rls_app")
  end))

  it("checks what would show a tenant the rows of others",
     env.in_task(function()
    local db = env.manager():get_shared_db()
    assert.same({}, env.must(rls.check(db, { schema = "shop" })))
    psql([[
      CREATE TABLE shop.plain (a int);
      CREATE TABLE shop.open (tenant_id text);
      CREATE TABLE shop.loose (tenant_id text);
      ALTER TABLE shop.loose ENABLE ROW LEVEL SECURITY;
      CREATE POLICY everything ON shop.loose USING (true);
      CREATE VIEW shop.seen AS SELECT * FROM shop.orders;
      CREATE MATERIALIZED VIEW shop.copied AS SELECT * FROM shop.orders;
    ]])
    local found = {}
    for _, p in ipairs(env.must(rls.check(db, { schema = "shop",
                                                except = { "plain" } }))) do
      found[#found + 1] = p.name .. ": " .. p.problem:match("^[%a ]+")
    end
    assert.same({
      "copied: a materialized view holds rows of all tenants",
      "loose: policy everything lets rows be read whatever app",
      "loose: policy everything lets rows be written whatever app",
      "loose: row security is not forced",
      "open: row security is not enabled",
      "seen: a view that reads as its owner",
    }, found)
    psql("DROP VIEW shop.seen; DROP MATERIALIZED VIEW shop.copied;"
         .. "DROP TABLE shop.plain, shop.open, shop.loose")
  end))

  it("generates policies for integer ids and other names", function()
    local sql = table.concat(rls.policy_sql('my "t"', {
      schema = "s", column = "org", type = "bigint", setting = "my.org",
      index = false,
    }), ";\n")
    assert.matches('ON "s"."my ""t""" USING %("org" = nullif', sql)
    assert.matches("current_setting%('my.org', true%), ''%)::bigint%)", sql)
    assert.is_nil(sql:find("CREATE INDEX"))
    local names = {}
    for _, name in ipairs({ ("a"):rep(60) .. "1", ("a"):rep(60) .. "2",
                            ("a"):rep(49) .. "\195\169" .. ("b"):rep(9) }) do
      local index = table.concat(rls.policy_sql(name), ";")
        :match('CREATE INDEX IF NOT EXISTS "([^"]+)"')
      assert.is_true(#index <= 63)
      assert.is_nil(names[index])
      names[index] = true
    end
    assert.has_error(function() rls.policy_sql("t", { type = "text; x" }) end)
    assert.has_error(function() rls.policy_sql("") end)
    assert.has_error(function() rls.policy_sql("t", { colum = "x" }) end)
  end)
end)


describe("strategy row behind PgBouncer", function()
  setup(bouncer.set_up())
  teardown(bouncer.tear_down)
  after_each(bouncer.nothing_left)

  it("keeps rows apart on one connection of the server", env.in_task(function()
    bouncer.server:psql([[
      SET ROLE mtenant; CREATE SCHEMA shop;
      CREATE TABLE shop.orders (tenant_id text, n int);
      INSERT INTO shop.orders VALUES ('red', 1), ('blue', 2);
      ]] .. table.concat(rls.policy_sql("orders", { schema = "shop" }), ";"))
    local manager = bouncer.manager_of({
      isolation = { strategy = "row", schema = "shop" },
    })
    local _, errs = mtenant.each({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }, 6,
                                 function(i)
      local id, n = i % 2 == 0 and "red" or "blue", 2 - (i + 1) % 2
      local db = assert(manager:get_db(id))
      local function look(on)
        local rows = env.must(on:query("SELECT tenant_id, n FROM orders"))
        assert(#rows == 1 and rows[1].tenant_id == id and rows[1].n == n)
        return true
      end
      look(db)
      env.must(db:query { sql = "SELECT 1", timeout_ms = 5000 })
      return db:transaction(look)
    end)
    assert.is_nil(errs and tostring(select(2, next(errs))))
  end))

  it("makes no databases, which needs a session", env.in_task(function()
    local manager = bouncer.manager_of({ isolation = { strategy = "database",
      database_template = function(id) return "db_" .. id end } })
    for _, name in ipairs({ "create_database", "drop_database" }) do
      local ok, err = pcall(manager[name], manager, "one")
      assert.is_false(ok)
      assert.equal("misuse", err.code)
      assert.matches("connection.pooler", err.message, 1, true)
    end
  end))
end)


describe("strategy database", function()
  after_each(env.assert_nothing_left)

  local function manager_of(overrides)
    overrides = overrides or {}
    overrides.isolation = { strategy = "database",
      database_template = function(id) return "db_" .. id end }
    overrides.connection = overrides.connection or { max_connections = 4 }
    overrides.connection.url = superuser_url()
    return env.manager(overrides)
  end

  it("makes, serves and drops a database per tenant", env.in_task(function()
    local manager = manager_of()
    local ids = { "one", "two", "Three-3" }
    for _, id in ipairs(ids) do
      assert.equal("db_" .. id, env.must(manager:create_database(id)))
      local db = assert(manager:get_db_async(id))
      assert(db:query("CREATE TABLE notes (body text)"))
      assert(db:query("INSERT INTO notes VALUES ($1)", "of " .. id))
    end
    local _, err = manager:create_database("one")
    assert.equal("42P04", err.sqlstate)
    local work = {}
    for i = 1, 60 do work[i] = ids[i % 3 + 1] end
    local _, errs = mtenant.each(work, 12, function(id)
      local row = env.must(manager:get_db(id):query(
        "SELECT body, current_database() AS d FROM notes"))
      assert(#row == 1 and row[1].body == "of " .. id and
             row[1].d == "db_" .. id)
      return true
    end)
    assert.is_nil(errs and tostring(select(2, next(errs))))
    assert.is_true(manager:get_stats().open <= 4)
    assert.equal("public", manager:get_schema_name("one"))
    for _, id in ipairs(ids) do assert(manager:drop_database(id)) end
    _, err = manager:get_db("one"):query("SELECT 1")
    assert.equal("tenant_not_found", err.code)
    assert.is_false(err.retryable)
    _, err = manager:drop_database("one")
    assert.equal("3D000", err.sqlstate)
  end))

  it("drops one that others are in only by force", env.in_task(function()
    local manager, other = manager_of(), manager_of()
    assert(manager:create_database("busy"))
    assert(other:get_db("busy"):session(function(s)
      assert(s:query("SELECT 1"))
      local _, err = manager:drop_database("busy")
      assert.equal("55006", err.sqlstate)
      assert(manager:drop_database("busy", { force = true }))
      return true
    end))
  end))

  it("refuses databases that are no tenant's", env.in_task(function()
    local manager = env.manager({
      isolation = { strategy = "database",
        database_template = function(id)
          return ({ maintenance = "postgres", empty = "", long = ("x"):rep(64),
                    nul = "a\0b" })[id] or 5
        end },
    })
    for _, id in ipairs({ "maintenance", "empty", "long", "nul" }) do
      local _, err = manager:get_db(id):query("SELECT 1")
      assert.equal("invalid_tenant_id", err.code, id)
      _, err = manager:create_database(id)
      assert.equal("invalid_tenant_id", err.code, id)
    end
    local _, err = manager:get_db("number"):query("SELECT 1")
    assert.equal("policy", err.code)
    _, err = manager:create_database("a b")
    assert.equal("invalid_tenant_id", err.code)
    assert.has_error(function() manager:create_database("x", { templat = 1 }) end)
    local schemas = env.manager()
    _, err = schemas:create_database("x")
    assert.equal("policy", err.code)
  end))

  it("does not let two tenants have one database", env.in_task(function()
    local manager = env.manager({
      isolation = { strategy = "database",
                    database_template = function() return "db_same" end },
    })
    manager:get_db("a"):query("SELECT 1")
    local _, err = manager:get_db("b"):query("SELECT 1")
    assert.equal("invalid_tenant_id", err.code)
  end))
end)


describe("strategy hybrid", function()
  setup(function()
    env.tenants({ "small", "big" })
    psql([[
      DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop;
      CREATE TABLE shop.place (tenant_id text, name text);
      INSERT INTO shop.place VALUES ('small', 'a row'), ('big', 'a row');
      ALTER SCHEMA shop OWNER TO mtenant;
      ALTER TABLE shop.place OWNER TO mtenant;
      CREATE TABLE t_big.place (name text);
      INSERT INTO t_big.place VALUES ('a schema');
      ALTER SCHEMA t_big OWNER TO mtenant;
      ALTER TABLE t_big.place OWNER TO mtenant;
    ]])
    env.in_task(function()
      local manager = env.manager()
      assert(rls.apply(manager:get_shared_db(), { schema = "shop" }))
      manager:dispose()
    end)()
  end)
  teardown(function() psql("DROP SCHEMA shop CASCADE") end)
  after_each(env.assert_nothing_left)

  it("asks the rule, and tells of promotions", env.in_task(function()
    local big, told = {}, {}
    local manager = row_manager({
      isolation = {
        strategy = "hybrid",
        choose = function(id)
          mtenant.sleep(1) -- it may ask somebody
          return big[id] and "schema" or "row"
        end,
      },
      hooks = { on_promotion = function(id, from, to)
        told[#told + 1] = id .. ": " .. from .. " to " .. to
      end },
    })
    local db = assert(manager:get_db("big"))
    local small = assert(manager:get_db("small"))
    assert.equal("a row", env.must(db:value("SELECT name FROM place")))
    assert.equal("a row", env.must(small:value("SELECT name FROM place")))
    big.big = true
    -- what is under way finishes where it began
    local running = mtenant.spawn(function()
      return env.must(db:transaction(function(tx)
        local first = tx:value("SELECT name FROM place")
        mtenant.sleep(30)
        return first .. ", " .. tx:value("SELECT name FROM place")
      end))
    end)
    mtenant.sleep(10)
    assert.is_true(manager:invalidate("big"))
    assert.equal("a schema", env.must(db:value("SELECT name FROM place")))
    assert.equal("a row, a row", running:await())
    assert.is_true(manager:invalidate("small"))
    assert.equal("a row", env.must(small:value("SELECT name FROM place")))
    assert.is_false(manager:invalidate("nobody"))
    assert.same({ "big: row to schema" }, told)
  end))

  it("takes the strategy from a route too", env.in_task(function()
    local manager = row_manager({
      isolation = { strategy = "schema" },
      resolve = function(id)
        if id == "small" then return { strategy = "row", schema = "shop" } end
        if id == "big" then return { strategy = "schema" } end
        return { strategy = "file" }
      end,
    })
    assert.equal("a row", env.must(manager:get_db("small"):value(
      "SELECT name FROM place")))
    assert.equal("a schema", env.must(manager:get_db("big"):value(
      "SELECT name FROM place")))
    local _, err = manager:get_db("other"):query("SELECT 1")
    assert.equal("policy", err.code)
  end))

  it("says what is wrong with a rule", env.in_task(function()
    local answer
    local manager = row_manager({ isolation = {
      strategy = "hybrid",
      choose = function() return answer() end,
    } })
    for text, fn in pairs({
      ['returned "table"'] = function() return "table" end,
      ["returned nil"] = function() end,
      ["raised: .*no plan"] = function() error("no plan") end,
    }) do
      answer = fn
      local _, err = manager:get_db("small"):query("SELECT 1")
      assert.equal("policy", err.code)
      assert.matches(text, err.message)
    end
  end))
end)
