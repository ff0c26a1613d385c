--- Roles: role_template, routes with a role, and schemas one may not use.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function manager_of(overrides)
  overrides = overrides or {}
  overrides.connection = overrides.connection or { max_connections = 1 }
  overrides.isolation = overrides.isolation
    or { role_template = function(id) return "r_" .. id end }
  return env.manager(overrides)
end


describe("a tenant's role", function()
  setup(function()
    local text = { "CREATE TABLE public.items (owner text);"
      .. "INSERT INTO public.items VALUES ('public');"
      .. "GRANT SELECT ON public.items TO PUBLIC;" }
    for _, id in ipairs({ "red", "blue" }) do
      text[#text + 1] = ([[
        CREATE ROLE r_%s NOLOGIN;
        GRANT r_%s TO mtenant;
        CREATE SCHEMA t_%s AUTHORIZATION r_%s;
        CREATE TABLE t_%s.items (owner text);
        ALTER TABLE t_%s.items OWNER TO r_%s;
        INSERT INTO t_%s.items VALUES ('%s');]]):gsub("%%s", id)
    end
    text[#text + 1] = [[
      CREATE ROLE r_stranger NOLOGIN;
      CREATE SCHEMA t_locked AUTHORIZATION postgres;
      CREATE TABLE t_locked.items (owner text);
      INSERT INTO t_locked.items VALUES ('locked');]]
    env.server():psql(table.concat(text, "\n"))
  end)
  teardown(function()
    env.server():psql([[
      DROP SCHEMA t_red, t_blue, t_locked CASCADE;
      DROP TABLE public.items;
      DROP ROLE r_red, r_blue, r_stranger;]])
  end)
  after_each(env.assert_nothing_left)

  local WAYS = {
    { "query", function(db, sql) return db:value(sql) end },
    { "exec", function(db, sql)
      local rows, err = db:exec(sql)
      if not rows then return nil, err end
      return rows[1][rows.columns[1]]
    end },
    { "transaction", function(db, sql)
      return db:transaction(function(tx) return tx:value(sql) end)
    end },
    { "session", function(db, sql)
      return db:session(function(s) return s:value(sql) end)
    end },
    { "pipeline", function(db, sql)
      return db:pipeline({ atomic = true }, function(p)
        local rows, err = p:query(sql):await()
        if not rows then return nil, err end
        return rows[1][rows.columns[1]]
      end)
    end },
    { "rows", function(db, sql)
      local ok, value = pcall(function()
        local found
        for row in db:rows(sql) do found = row[next(row)] end
        return found
      end)
      if not ok then return nil, value end
      return value
    end },
  }

  for _, way in ipairs(WAYS) do
    local run = way[2]
    it("is what its statements run as: " .. way[1], env.in_task(function()
      local manager = manager_of()
      local red, blue = assert(manager:get_db("red")), assert(manager:get_db("blue"))
      for _ = 1, 3 do
        assert.equal("r_red", run(red, "SELECT current_user::text"))
        assert.equal("r_blue", run(blue, "SELECT current_user::text"))
        assert.equal("red", run(red, "SELECT owner FROM items"))
        assert.equal("blue", run(blue, "SELECT owner FROM items"))
        local value, err = run(blue, "SELECT owner FROM t_red.items")
        assert.is_nil(value)
        assert.equal("42501", err.sqlstate)
        value, err = run(red, "SELECT owner FROM t_blue.items")
        assert.is_nil(value)
        assert.equal("42501", err.sqlstate)
        local shared = assert(manager:get_shared_db())
        assert.equal("mtenant", run(shared, "SELECT current_user::text"))
        assert.equal("public", run(shared, "SELECT owner FROM items"))
      end
    end))
  end

  it("owns what it makes", env.in_task(function()
    local db = assert(manager_of():get_db("red"))
    assert(db:query("CREATE TABLE made (id int)"))
    assert.equal("r_red", env.sql("SELECT tableowner FROM pg_tables "
      .. "WHERE schemaname = 't_red' AND tablename = 'made'"))
    assert(db:query("DO $$ BEGIN CREATE TABLE made2 (id int); END $$"))
    assert(db:exec("CREATE TABLE made3 (id int)"))
    assert.equal("3", env.sql("SELECT count(*) FROM pg_tables WHERE "
      .. "schemaname = 't_red' AND tableowner = 'r_red' AND tablename ~ 'made'"))
    assert(db:query("DROP TABLE made, made2, made3"))
  end))

  it("may come with the route, per tenant", env.in_task(function()
    local manager = env.manager({
      connection = { max_connections = 1 },
      resolve = function(id)
        return { schema = "t_" .. id, role = id == "red" and "r_red" or nil }
      end,
    })
    local red, blue = assert(manager:get_db("red")), assert(manager:get_db("blue"))
    for _ = 1, 3 do
      assert.equal("r_red", red:value("SELECT current_user::text"))
      assert.equal("mtenant", blue:value("SELECT current_user::text"))
      assert.equal("mtenant", blue:transaction(function(tx)
        return tx:value("SELECT current_user::text")
      end))
    end
  end))

  it("that is unknown or not granted fails every statement", env.in_task(
    function()
      for role, state in pairs({ r_nobody = "22023", r_stranger = "42501" }) do
        local manager = manager_of({
          isolation = { role_template = function() return role end },
        })
        local db = assert(manager:get_db("red"))
        for _, way in ipairs(WAYS) do
          local value, err = way[2](db, "SELECT current_user::text")
          assert.is_nil(value)
          assert.equal(state, err.sqlstate, way[1])
          assert.is_false(err.ambiguous)
        end
        local value, err = manager:get_db_async("red")
        assert.is_nil(value)
        assert.equal(state, err.sqlstate)
        manager:dispose()
      end
    end))

  it("without USAGE on its schema finds nothing, least of all in public",
     env.in_task(function()
    for _, overrides in ipairs({
      { isolation = { role_template = function() return nil end } },
      { isolation = { role_template = function() return "r_red" end } },
    }) do
      if not overrides.isolation.role_template() then overrides.isolation = {} end
      local manager = manager_of(overrides)
      local db = assert(manager:get_db("locked"))
      for _, way in ipairs(WAYS) do
        local value, err = way[2](db, "SELECT owner FROM items")
        assert.is_nil(value)
        assert.equal("tenant_not_found", err.code, way[1])
      end
      local value, err = manager:get_db_async("locked")
      assert.is_nil(value)
      assert.equal("tenant_not_found", err.code)
      manager:dispose()
    end
    env.server():psql("REVOKE USAGE ON SCHEMA t_red FROM r_red")
    finally(function()
      env.server():psql("GRANT USAGE ON SCHEMA t_red TO r_red")
    end)
    local _, err = assert(manager_of():get_db("red")):query("SELECT 1")
    assert.equal("tenant_not_found", err.code)
  end))

  it("may be quoted as it likes", env.in_task(function()
    local NAME = 'R "odd", name; --'
    env.server():psql('CREATE ROLE "R ""odd"", name; --" NOLOGIN;'
      .. 'GRANT "R ""odd"", name; --" TO mtenant;'
      .. 'GRANT USAGE ON SCHEMA t_red TO "R ""odd"", name; --"')
    finally(function()
      env.server():psql('DROP OWNED BY "R ""odd"", name; --";'
        .. 'DROP ROLE "R ""odd"", name; --"')
    end)
    local db = assert(manager_of({
      isolation = { role_template = function() return NAME end },
    }):get_db("red"))
    for _, way in ipairs(WAYS) do
      assert.equal(NAME, way[2](db, "SELECT current_user::text"), way[1])
    end
  end))

  it("that raises or returns nonsense is a policy error", env.in_task(
    function()
      for _, template in ipairs({
        function() error("boom") end, function() return 5 end,
        function() return "" end, function() return ("x"):rep(64) end,
        function() return "none" end,
      }) do
        local manager = manager_of({ isolation = { role_template = template } })
        local _, err = assert(manager:get_db("red")):query("SELECT 1")
        assert.equal("policy", err.code)
        manager:dispose()
      end
      assert.is_true(mtenant._VERSION ~= nil)
    end))
end)
