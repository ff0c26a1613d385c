--- mtenant.roles: making, dropping and reviewing the roles of tenants, and what
--- they stop. Here the admin is an ordinary owner with CREATEROLE, the login of
--- the program has no rights of its own.
--- (over 500 lines: all of it stands on the logins, schemas and rights that are
--- made here.)

local env = require "tests.support.env"
local mtenant = require "mtenant"

local roles = mtenant.roles

local LOGIN = "app_login"


local function psql(text)
  return env.server():psql("SET client_min_messages = error;" .. text)
end


-- the same server for another login
local function url_of(login)
  local url, n = env.server().url:gsub("mtenant", login, 1)
  assert(n == 1)
  return url
end


local function admin(overrides)
  return assert(env.manager(overrides):get_shared_db())
end


local function app(overrides)
  overrides = overrides or {}
  overrides.connection = overrides.connection or {}
  overrides.connection.url = url_of(LOGIN)
  overrides.isolation = overrides.isolation
    or { role_template = function(id) return "t_" .. id end }
  return env.manager(overrides)
end


local function make(id, opts)
  opts = opts or {}
  opts.role, opts.schema = opts.role or "t_" .. id, "t_" .. id
  if opts.login == nil then opts.login = LOGIN end
  return assert(roles.create(admin(), opts))
end


local function codes(findings)
  local out = {}
  for i, finding in ipairs(assert(findings)) do
    assert.is_string(finding.message)
    out[i] = finding.code .. " " .. finding.role
      .. (finding.schema and " " .. finding.schema or "")
  end
  return out
end


-- every right that a role has anywhere, as the catalogs have it
local function rights()
  return env.sql([[
    SELECT nspname, nspacl FROM pg_namespace WHERE nspname ~ '^t_' ORDER BY 1;
    SELECT relname, relacl FROM pg_class c JOIN pg_namespace n
      ON n.oid = relnamespace WHERE nspname ~ '^t_' ORDER BY nspname, 1;
    SELECT proname, proacl FROM pg_proc p JOIN pg_namespace n
      ON n.oid = pronamespace WHERE nspname ~ '^t_' ORDER BY nspname, 1;
    SELECT d.* FROM pg_default_acl d ORDER BY oid;
    SELECT m.*, m.xmin FROM pg_auth_members m ORDER BY 1, 2;
    SELECT xmin, relname FROM pg_class WHERE relname IN ('items', 'seen')
      ORDER BY 2, relnamespace;
    SELECT xmin, nspname FROM pg_namespace ORDER BY 2;
    SELECT rolname FROM pg_roles ORDER BY 1]])
end


local WAYS = {
  query = function(db, sql) return db:query(sql) end,
  exec = function(db, sql) return db:exec(sql) end,
  transaction = function(db, sql)
    return db:transaction(function(tx) return tx:query(sql) end)
  end,
  session = function(db, sql)
    return db:session(function(s) return s:query(sql) end)
  end,
  session_transaction = function(db, sql)
    return db:session(function(s)
      return s:transaction(function(tx) return tx:query(sql) end)
    end)
  end,
  block = function(db, sql)
    return db:query("DO $$ BEGIN PERFORM * FROM (" .. sql .. ") AS x; END $$")
  end,
}


local function refused(state, rows, err)
  assert.is_nil(rows)
  assert.equal(state, err.sqlstate)
  assert.is_false(err.ambiguous)
end


describe("mtenant.roles", function()
  setup(function()
    psql(("CREATE ROLE %s LOGIN NOINHERIT; ALTER ROLE mtenant CREATEROLE;")
      :format(LOGIN))
    psql("REVOKE CREATE ON DATABASE mtenant FROM PUBLIC")
  end)
  teardown(function()
    psql(("DROP ROLE %s; ALTER ROLE mtenant NOCREATEROLE;"):format(LOGIN))
  end)

  before_each(function()
    env.tenants({ "a", "b" })
    for _, id in ipairs({ "a", "b" }) do
      local text = ([[
        CREATE TABLE t_%s.items (id serial PRIMARY KEY, owner text);
        INSERT INTO t_%s.items (owner) VALUES ('%s');
        CREATE VIEW t_%s.seen AS SELECT owner FROM t_%s.items;
        CREATE FUNCTION t_%s.twice(n int, text) RETURNS int LANGUAGE sql
          AS 'SELECT 2 * n';
        CREATE PROCEDURE t_%s.nothing() LANGUAGE sql AS 'SELECT 1';
        CREATE AGGREGATE t_%s.total(int) (sfunc = int4pl, stype = int);]])
        :gsub("%%s", id)
      env.sql(text)
    end
  end)
  after_each(function()
    env.assert_nothing_left()
    env.sql("SET client_min_messages = error; "
      .. "DROP SCHEMA IF EXISTS t_a, t_b CASCADE")
    psql([[
      SELECT format('DROP OWNED BY %I', rolname), format('DROP ROLE %I', rolname)
      FROM pg_roles WHERE rolname ~ '^t_' \gexec]])
  end)

  describe("create", function()
    it("gives a tenant its schema and nothing else", env.in_task(function()
      make("a")
      make("b")
      assert.equal("f|f|f|f|f|f", env.sql("SELECT rolcanlogin, rolinherit, "
        .. "rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles "
        .. "WHERE rolname = 't_a'"))
      local manager = app()
      local a = assert(manager:get_db_async("a"))
      local b = assert(manager:get_db_async("b"))
      assert.equal("t_a", a:value("SELECT current_user::text"))
      assert(a:query("INSERT INTO items (owner) VALUES ('more')"))
      assert(a:query("UPDATE items SET owner = 'changed' WHERE id = 2"))
      assert.equal("changed", a:value("DELETE FROM items WHERE id = 2 "
        .. "RETURNING owner"))
      assert.equal("a", a:value("SELECT owner FROM seen"))
      assert.equal(4, a:value("SELECT twice(2, 'x')"))
      assert.equal(1, a:value("SELECT total(1)"))
      assert(a:query("CALL nothing()"))
      assert.equal("b", b:value("SELECT owner FROM items"))
      refused("42501", a:query("CREATE TABLE mine (id int)"))
      refused("42501", a:query("TRUNCATE items"))
      refused("42501", a:query("ALTER TABLE items ADD COLUMN x int"))
    end))

    for name, way in pairs(WAYS) do
      it("lets no other tenant's table be read: " .. name, env.in_task(function()
        make("a")
        make("b")
        local manager = app({ connection = { max_connections = 1 } })
        local a, b = assert(manager:get_db("a")), assert(manager:get_db("b"))
        for _ = 1, 2 do
          assert(way(a, "SELECT owner FROM t_a.items"))
          refused("42501", way(a, "SELECT owner FROM t_b.items"))
          refused("42501", way(a, "SELECT owner FROM t_b.seen"))
          refused("42501", way(a, "SELECT t_b.twice(1, '')"))
          refused("42501", way(a, "SELECT nextval('t_b.items_id_seq')"))
          assert(way(b, "SELECT owner FROM t_b.items"))
          refused("42501", way(b, "SELECT owner FROM t_a.items"))
        end
        refused("42501", a:query("DELETE FROM t_b.items"))
        refused("42501", a:query("INSERT INTO t_b.items VALUES (9, 'a')"))
        refused("42501", a:query("DROP SCHEMA t_b CASCADE"))
        assert.equal("1", env.sql("SELECT count(*) FROM t_b.items"))
      end))
    end

    it("leaves nothing behind RESET ROLE, and the next lease is clean",
       env.in_task(function()
      make("a")
      make("b")
      local manager = app({ connection = { max_connections = 1 } })
      local a, b = assert(manager:get_db("a")), assert(manager:get_db("b"))
      for _, text in ipairs({ "RESET ROLE", "SET ROLE NONE", "RESET ALL",
                              "RESET search_path", "SET ROLE " .. LOGIN }) do
        assert(a:session(function(s)
          assert(s:query(text))
          for _, id in ipairs({ "a", "b" }) do
            if text ~= "RESET ALL" and text ~= "RESET search_path" or id == "b"
            then
              refused("42501", s:query("SELECT * FROM t_" .. id .. ".items"))
            end
          end
          return true
        end))
        assert.equal("t_b", b:value("SELECT current_user::text"))
        assert.equal("b", b:value("SELECT owner FROM items"))
        assert.equal("a", a:value("SELECT owner FROM items"))
        local _, err = a:transaction(function(tx)
          assert(tx:query(text == "RESET search_path" and "RESET ROLE" or text))
          return tx:query("SELECT * FROM t_b.items")
        end)
        assert.equal("42501", err.sqlstate)
        assert.equal("b", b:value("SELECT owner FROM items"))
      end
      refused("42501", a:query("SET SESSION AUTHORIZATION mtenant"))
    end))

    it("does not stop SET ROLE: the login may take any of its roles",
       env.in_task(function()
      make("a")
      make("b")
      local a = assert(app():get_db("a"))
      assert.equal("b", a:session(function(s)
        assert(s:query("SET ROLE t_b"))
        return s:value("SELECT owner FROM t_b.items")
      end))
      assert.equal("t_a", a:value("SELECT current_user::text"))
    end))

    it("run again changes nothing", env.in_task(function()
      assert.is_true(#make("a") > 4)
      make("b", { tables = "ro", create = true })
      local before = rights()
      assert.same({}, make("a"))
      assert.same({}, make("b", { tables = "ro", create = true }))
      assert.equal(before, rights())
    end))

    it("does only what is missing", env.in_task(function()
      make("a")
      env.sql("REVOKE SELECT ON t_a.items FROM t_a;"
        .. "GRANT TRIGGER, REFERENCES ON t_a.seen TO t_a;"
        .. "GRANT USAGE ON SCHEMA t_a TO PUBLIC;")
      assert.same({
        "REVOKE ALL ON SCHEMA \"t_a\" FROM PUBLIC",
        "REVOKE ALL ON TABLE t_a.seen FROM \"t_a\"",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE t_a.items, t_a.seen "
          .. "TO \"t_a\"",
      }, make("a"))
      assert.same({}, make("a"))
    end))

    it("takes rights back when they are to be fewer", env.in_task(function()
      make("a", { create = true })
      local db = assert(app():get_db("a"))
      assert(db:query("CREATE TABLE own (id int)"))
      make("a", { tables = "ro" })
      assert.equal("a", db:value("SELECT owner FROM items"))
      refused("42501", db:query("INSERT INTO items (owner) VALUES ('x')"))
      refused("42501", db:query("SELECT nextval('items_id_seq')"))
      refused("42501", db:query("CREATE TABLE more (id int)"))
      assert(db:query("INSERT INTO own VALUES (1)")) -- its own table
      env.sql("CREATE TABLE t_a.later (id int)")
      refused("42501", db:query("INSERT INTO later VALUES (1)"))
      assert.same({}, db:query("SELECT * FROM later"))
    end))

    it("covers what the owner makes later", env.in_task(function()
      make("a")
      make("b")
      env.sql("CREATE TABLE t_a.later (id serial, owner text);"
        .. "CREATE FUNCTION t_a.three() RETURNS int LANGUAGE sql "
        .. "AS 'SELECT 3'; REVOKE ALL ON FUNCTION t_a.three() FROM PUBLIC;"
        .. "CREATE TABLE public.elsewhere (id int)")
      finally(function() env.sql("DROP TABLE public.elsewhere") end)
      local db = assert(app():get_db("a"))
      assert(db:query("INSERT INTO later (owner) VALUES ('a')"))
      assert.equal("a", db:value("SELECT owner FROM later"))
      assert.equal(3, db:value("SELECT three()"))
      refused("42501", db:query("SELECT * FROM public.elsewhere"))
      refused("42501", assert(app():get_db("b")):query(
        "SELECT * FROM t_a.later"))
      assert.same({}, make("a"))
    end))

    it("run many times at once makes one role", env.in_task(function()
      local one, other = admin(), admin()
      local results, errs = mtenant.each({ "a", "b", "a", "b", "a", "b", "a",
        "b", "a", "b", "a", "b" }, 12, function(id, i)
        return roles.create(i % 3 == 0 and other or one,
          { role = "t_" .. id, schema = "t_" .. id, login = LOGIN })
      end)
      assert.is_nil(errs)
      local made = 0
      for i = 1, 12 do made = made + (#results[i] > 0 and 1 or 0) end
      assert.equal(2, made)
      assert.same({}, make("a"))
    end))

    it("and from another database, where it meets no lock", env.in_task(
      function()
        psql("CREATE DATABASE second OWNER mtenant")
        finally(function() psql("DROP DATABASE second WITH (FORCE)") end)
        local url = env.server().url:gsub("/mtenant%?", "/second?")
        assert.not_equal(url, env.server().url)
        local second = admin({ connection = { url = url } })
        assert(second:query("CREATE SCHEMA t_a"))
        for _ = 1, 5 do
          local results, errs = mtenant.each({ admin(), second, admin(),
                                               second }, 4, function(db)
            return roles.create(db, { role = "t_a", schema = "t_a",
                                      login = LOGIN })
          end)
          assert.is_nil(errs and errs[next(errs)])
          assert.equal(4, #results)
          assert(roles.drop(second, { role = "t_x", schema = "t_a" }))
          assert(second:query("REVOKE ALL ON SCHEMA t_a FROM t_a"))
          assert(second:query("ALTER DEFAULT PRIVILEGES IN SCHEMA t_a "
            .. "REVOKE ALL ON TABLES FROM t_a"))
          assert(second:query("ALTER DEFAULT PRIVILEGES IN SCHEMA t_a "
            .. "REVOKE ALL ON SEQUENCES FROM t_a"))
          assert(second:query("ALTER DEFAULT PRIVILEGES IN SCHEMA t_a "
            .. "REVOKE ALL ON FUNCTIONS FROM t_a"))
          assert(roles.drop(admin(), { role = "t_a", schema = "t_a" }))
        end
      end))

    it("quotes every name", env.in_task(function()
      for _, name in ipairs({ 't_"; DROP ROLE x; --', "t_it's", "t_Ünïcödé ☃",
                              "t_%s%d", "t_\\", "t_a.b", "t_ a,b",
                              "t_" .. ("x"):rep(61) }) do
        local quoted = '"' .. name:gsub('"', '""') .. '"'
        env.sql(("CREATE SCHEMA %s; CREATE TABLE %s.%s (id serial)"):format(
          quoted, quoted, quoted))
        env.sql(("CREATE FUNCTION %s.%s(%s.%s) RETURNS int LANGUAGE sql AS "
          .. "'SELECT 1'"):format(quoted, quoted, quoted, quoted))
        local db = admin()
        local opts = { role = name, schema = name, login = LOGIN }
        assert(roles.create(db, opts))
        assert.same({}, roles.create(db, opts))
        local manager = app({ isolation = {
          schema_name_template = function() return name end,
          role_template = function() return name end,
        } })
        assert.equal(name, assert(manager:get_db_async("x")):value(
          "SELECT current_user::text"))
        assert(assert(manager:get_db("x")):query(
          ("INSERT INTO %s DEFAULT VALUES"):format(quoted)))
        manager:dispose()
        assert(roles.drop(db, { role = name, schema = name }))
        env.sql(("SET client_min_messages = error; DROP SCHEMA %s CASCADE")
          :format(quoted))
      end
    end))

    it("refuses names that are none", env.in_task(function()
      local db = admin()
      for _, name in ipairs({ ("x"):rep(64), ("ü"):rep(32), "pg_me",
                              "public", "none", "\255", "pg_read_all_data" }) do
        local changes, err = roles.create(db, { role = name, schema = "t_a" })
        assert.is_nil(changes)
        assert.equal("policy", err.code)
        changes, err = roles.create(db, { role = "t_a", schema = "t_a",
                                          login = name })
        assert.is_nil(changes)
        assert.equal("policy", err.code)
        changes, err = roles.drop(db, { role = name })
        assert.is_nil(changes)
        assert.equal("policy", err.code)
        if name ~= "none" then
          changes, err = roles.create(db, { role = "t_a", schema = name })
          assert.is_nil(changes)
          assert.equal("invalid_tenant_id", err.code)
        end
      end
      local _, err = roles.create(db, { role = "t_a", schema = "t_a",
                                        login = { LOGIN, "t_a" } })
      assert.equal("policy", err.code)
      assert.equal("0", env.sql("SELECT count(*) FROM pg_roles "
        .. "WHERE rolname ~ '^t_'"))
    end))

    it("raises on misuse", env.in_task(function()
      local db = admin()
      for _, call in ipairs({
        function() roles.create(nil, { role = "t_a", schema = "t_a" }) end,
        function() roles.create(db) end,
        function() roles.create(db, { role = "t_a" }) end,
        function() roles.create(db, { role = "", schema = "t_a" }) end,
        function() roles.create(db, { role = "t_a", schema = 5 }) end,
        function() roles.create(db, { role = "t_a", schema = "t_a",
                                      tables = "all" }) end,
        function() roles.create(db, { role = "t_a", schema = "t_a\0" }) end,
        function() roles.drop(db, {}) end,
        function() roles.check(db, {}) end,
        function() roles.check({}, { login = LOGIN }) end,
      }) do
        local ok, err = pcall(call)
        assert.is_false(ok)
        assert.equal("misuse", err.code)
        assert.matches("roles_setup_spec.lua:%d+:", err.message)
      end
    end))

    it("fails as a whole", env.in_task(function()
      local db = admin()
      local _, err = roles.create(db, { role = "t_none", schema = "t_none" })
      assert.equal("tenant_not_found", err.code)
      _, err = roles.create(db, { role = "t_a", schema = "t_a",
                                  login = "nobody_at_all" })
      assert.equal("42704", err.sqlstate)
      env.server():psql("CREATE TABLE t_a.foreign_one (id int)")
      _, err = roles.create(db, { role = "t_a", schema = "t_a" })
      assert.equal("42501", err.sqlstate)
      assert.equal("0", env.sql("SELECT count(*) FROM pg_roles "
        .. "WHERE rolname ~ '^t_'"))
      env.server():psql("DROP TABLE t_a.foreign_one")
    end))

    it("takes no role that is more than a tenant's", env.in_task(function()
      psql("CREATE ROLE t_boss SUPERUSER; CREATE ROLE t_rls BYPASSRLS")
      for _, name in ipairs({ "t_boss", "t_rls", "postgres" }) do
        local _, err = roles.create(admin(), { role = name, schema = "t_a" })
        assert.equal("policy", err.code)
        _, err = roles.drop(admin(), { role = name, schema = "t_a" })
        assert.equal("policy", err.code)
      end
    end))

    it("works for a tenant's own login, too", env.in_task(function()
      psql("CREATE ROLE t_own LOGIN NOINHERIT")
      make("a", { role = "t_own", login = {} })
      make("b")
      local manager = env.manager({ resolve = function(id)
        return { url = url_of("t_own"), schema = "t_" .. id }
      end })
      local db = assert(manager:get_db_async("a"))
      assert.equal("a", db:value("SELECT owner FROM items"))
      refused("42501", db:query("SET ROLE t_b"))
      refused("42501", db:query("SELECT * FROM t_b.items"))
    end))

    it("is usable on a transaction", env.in_task(function()
      assert.equal("no", select(2, admin():transaction(function(tx)
        assert(roles.create(tx, { role = "t_a", schema = "t_a" }))
        assert.same({}, roles.create(tx, { role = "t_a", schema = "t_a" }))
        return nil, "no"
      end)))
      assert.equal("0", env.sql("SELECT count(*) FROM pg_roles "
        .. "WHERE rolname ~ '^t_'"))
    end))
  end)


  describe("a missing right", function()
    it("to use the schema is tenant_not_found", env.in_task(function()
      make("a")
      make("b")
      env.sql("REVOKE USAGE ON SCHEMA t_a FROM t_a")
      local manager = app({ connection = { max_connections = 1 } })
      local a, b = assert(manager:get_db("a")), assert(manager:get_db("b"))
      for name, way in pairs(WAYS) do
        local rows, err = way(a, "SELECT 1 AS x")
        assert.is_nil(rows)
        assert.equal("tenant_not_found", err.code, name)
        assert.matches('"t_a"', err.message)
        assert.matches("may not use it", err.message)
        assert.equal("b", b:value("SELECT owner FROM items"))
      end
      assert.equal("tenant_not_found", select(2, manager:get_db_async("a")).code)
      make("a")
      assert.equal("a", a:value("SELECT owner FROM items"))
    end))

    it("to take the role is 42501, a missing role 22023", env.in_task(function()
      make("b")
      make("a", { login = {} })
      local manager = app({ connection = { max_connections = 1 } })
      local a, b = assert(manager:get_db("a")), assert(manager:get_db("b"))
      for _, way in pairs(WAYS) do
        refused("42501", way(a, "SELECT 1 AS x"))
        assert.equal("b", b:value("SELECT owner FROM items"))
      end
      assert(roles.drop(admin(), { role = "t_a", schema = "t_a" }))
      for _, way in pairs(WAYS) do
        local rows, err = way(a, "SELECT 1 AS x")
        refused("22023", rows, err)
        assert.matches('"t_a"', err.message)
        assert.equal("b", b:value("SELECT owner FROM items"))
      end
    end))
  end)


  describe("drop", function()
    it("leaves no right and no role, and all data", env.in_task(function()
      local before = env.sql("SELECT * FROM pg_default_acl")
      make("a")
      make("b")
      assert.is_true(#roles.drop(admin(), { role = "t_a", schema = "t_a" }) > 1)
      assert.equal("0", env.sql(
        "SELECT count(*) FROM pg_roles WHERE rolname = 't_a'"))
      assert.equal("a", env.sql("SELECT owner FROM t_a.items"))
      assert.same({}, roles.drop(admin(), { role = "t_a", schema = "t_a" }))
      assert.equal("b", assert(app():get_db("b")):value(
        "SELECT owner FROM items"))
      assert(roles.drop(admin(), { role = "t_b", schema = "t_b" }))
      assert.equal(before, env.sql("SELECT * FROM pg_default_acl"))
      make("a")
    end))

    it("needs no schema that is gone", env.in_task(function()
      make("a")
      make("b")
      env.sql("SET client_min_messages = error; DROP SCHEMA t_a, t_b CASCADE")
      assert.same({ 'DROP ROLE "t_a"' },
                  roles.drop(admin(), { role = "t_a", schema = "t_a" }))
      assert.same({ 'DROP ROLE "t_b"' }, roles.drop(admin(), { role = "t_b" }))
    end))

    it("fails while the role owns something, and changes nothing", env.in_task(
      function()
        make("a", { create = true })
        local db = assert(app():get_db("a"))
        assert(db:query("CREATE TABLE own AS SELECT 1 AS n"))
        refused("2BP01", roles.drop(admin(), { role = "t_a", schema = "t_a" }))
        assert.equal(1, db:value("SELECT n FROM own"))
        assert.equal("a", db:value("SELECT owner FROM items"))
      end))

    it("run many times at once succeeds", env.in_task(function()
      make("a")
      local results, errs = mtenant.each({ 1, 2, 3, 4, 5, 6 }, 6, function()
        return roles.drop(admin(), { role = "t_a", schema = "t_a" })
      end)
      assert.is_nil(errs)
      assert.equal(6, #results)
    end))
  end)


  describe("check", function()
    it("finds nothing in a good set-up", env.in_task(function()
      make("a")
      make("b")
      assert.same({}, roles.check(admin(), { login = LOGIN }))
      -- the login itself may ask, too
      local db = assert(app():get_db("a"))
      assert.same({}, roles.check(db, { login = LOGIN }))
    end))

    it("finds what reaches beyond a tenant", env.in_task(function()
      make("a")
      make("b")
      local function found(grant, revoke)
        psql(grant)
        local list, err = roles.check(admin(), { login = LOGIN })
        psql(revoke)
        return codes(list or error(err))
      end
      assert.same({ "superuser " .. LOGIN }, found(
        "ALTER ROLE app_login SUPERUSER", "ALTER ROLE app_login NOSUPERUSER"))
      assert.same({ "bypassrls " .. LOGIN }, found(
        "ALTER ROLE app_login BYPASSRLS", "ALTER ROLE app_login NOBYPASSRLS"))
      assert.same({ "createrole " .. LOGIN }, found(
        "ALTER ROLE app_login CREATEROLE", "ALTER ROLE app_login NOCREATEROLE"))
      assert.same({ "replication " .. LOGIN }, found(
        "ALTER ROLE app_login REPLICATION",
        "ALTER ROLE app_login NOREPLICATION"))
      assert.same({ "inherit " .. LOGIN }, found(
        "ALTER ROLE app_login INHERIT", "ALTER ROLE app_login NOINHERIT"))
      assert.same({ "create_schema " .. LOGIN }, found(
        "GRANT CREATE ON DATABASE mtenant TO app_login",
        "REVOKE CREATE ON DATABASE mtenant FROM app_login"))
      assert.same({ "schema_rights app_login t_b" }, found(
        "GRANT USAGE ON SCHEMA t_b TO app_login",
        "REVOKE USAGE ON SCHEMA t_b FROM app_login"))
      assert.same({ "schema_rights app_login t_b" }, found(
        "GRANT USAGE ON SCHEMA t_b TO PUBLIC",
        "REVOKE USAGE ON SCHEMA t_b FROM PUBLIC"))
      assert.same({ "schema_rights app_login t_b" }, found(
        "ALTER SCHEMA t_b OWNER TO app_login",
        "ALTER SCHEMA t_b OWNER TO mtenant"))
      assert.same({ "several_schemas t_a" }, found(
        "GRANT USAGE ON SCHEMA t_b TO t_a",
        "REVOKE USAGE ON SCHEMA t_b FROM t_a"))
      assert.same({ "several_schemas t_a" }, found(
        "GRANT t_b TO t_a", "REVOKE t_b FROM t_a"))
      assert.same({ "powerful_role pg_read_all_data" }, found(
        "GRANT pg_read_all_data TO app_login",
        "REVOKE pg_read_all_data FROM app_login"))
      assert.same({ "powerful_role t_a" }, found(
        "CREATE ROLE t_boss SUPERUSER; GRANT t_boss TO t_a",
        "DROP ROLE t_boss"))
      assert.same({ "admin_option t_a" }, found(
        "GRANT t_a TO app_login WITH ADMIN OPTION",
        "REVOKE ADMIN OPTION FOR t_a FROM app_login"))
      assert.same({}, roles.check(admin(), { login = LOGIN }))
    end))

    it("knows schemas that are common", env.in_task(function()
      make("a")
      env.sql("CREATE SCHEMA shelf; GRANT USAGE ON SCHEMA shelf TO PUBLIC")
      finally(function() env.sql("DROP SCHEMA shelf") end)
      assert.same({ "schema_rights app_login shelf" },
                  codes(roles.check(admin(), { login = LOGIN })))
      assert.same({}, roles.check(admin(), {
        login = LOGIN, common = { "public", "shelf" } }))
    end))

    it("says when there is no such login", env.in_task(function()
      local findings, err = roles.check(admin(), { login = "nobody_at_all" })
      assert.is_nil(findings)
      assert.equal("policy", err.code)
      assert.matches("nobody_at_all", err.message)
    end))
  end)
end)
