--- db:session: one pinned connection, in the tenant's scope, for things that
--- last longer than a transaction.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


describe("db:session", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY)")
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items") end)
  after_each(env.assert_nothing_left)

  it("stays on one connection, in the tenant's schema", env.in_task(function()
    local db = db_of("acme")
    local got = table.pack(db:session(function(s)
      local pid = s:backend_pid()
      for _ = 1, 5 do
        assert.equal(pid, s:value("SELECT pg_backend_pid()"))
        assert.equal("t_acme", s:value("SELECT current_schema()"))
      end
      assert(s:query("SET work_mem = '7MB'"))
      assert.equal("7MB", s:value("SHOW work_mem"))
      assert(s:query("CREATE TEMP TABLE tmp (id int)"))
      assert(s:query("INSERT INTO tmp VALUES (1), (2)"))
      assert.equal(2, s:value("SELECT count(*) FROM tmp"))
      assert(s:query("PREPARE p AS SELECT 5 AS five"))
      assert.same({ five = 5 }, s:one("EXECUTE p"))
      return "a", nil, "c"
    end))
    assert.same({ "a", nil, "c", n = 3 }, got)
  end))

  it("commits each statement by itself", env.in_task(function()
    local db = db_of("acme")
    db:session(function(s)
      assert(s:query("INSERT INTO items VALUES (1)"))
      assert.equal(1, db:value("SELECT count(*) FROM items"))
      local _, err = s:query("INSERT INTO items VALUES (1)")
      assert.equal("23505", err.sqlstate)
      assert(s:query("INSERT INTO items VALUES (2)"))
      return true
    end)
    assert.equal(2, db:value("SELECT count(*) FROM items"))
  end))

  it("returns nil and the error, or raises, as the function does", env.in_task(
    function()
      local db = db_of("acme")
      local value, err = db:session(function() return nil, "no" end)
      assert.is_nil(value)
      assert.equal("no", err)
      value, err = db:session(function(s)
        return env.must(s:query("SELECT 1 / 0"))
      end)
      assert.is_nil(value)
      assert.equal("22012", err.sqlstate)
      local ok
      ok, err = pcall(db.session, db, function() error("raised", 0) end)
      assert.is_false(ok)
      assert.equal("raised", err)
      assert.has_error(function() db:session() end)
    end))

  it("has transactions, and savepoints in them", env.in_task(function()
    local db = db_of("acme")
    assert(db:session(function(s)
      assert.equal("x", s:transaction(function(tx)
        assert(tx:query("INSERT INTO items VALUES (1)"))
        assert.equal(0, db:value("SELECT count(*) FROM items"))
        assert.has_error(function() s:query("SELECT 1") end)
        tx:transaction(function(inner)
          assert(inner:query("INSERT INTO items VALUES (2)"))
          return nil, "no"
        end)
        return "x"
      end))
      local value, err = s:transaction({ read_only = true }, function(tx)
        return tx:query("INSERT INTO items VALUES (3)")
      end)
      assert.is_nil(value)
      assert.equal("25006", err.sqlstate)
      local ok = pcall(s.transaction, s, function(tx)
        assert(tx:query("INSERT INTO items VALUES (4)"))
        error("raised")
      end)
      assert.is_false(ok)
      assert.equal(1, s:value("SELECT count(*) FROM items"))
      return true
    end))
    assert.equal(1, db:value("SELECT count(*) FROM items"))
  end))

  it("does not let SQL text end such a transaction", env.in_task(function()
    local db = db_of("acme")
    db:session(function(s)
      s:transaction(function(tx)
        assert(tx:query("INSERT INTO items VALUES (1)"))
        for _, sql in ipairs({ "COMMIT", "ROLLBACK", "COMMIT AND CHAIN" }) do
          for _, method in ipairs({ "query", "exec" }) do
            local ok, err = pcall(tx[method], tx, sql)
            assert.is_false(ok, method .. " took " .. sql)
            assert.is_true(mtenant.errors.is(err, "misuse"))
          end
        end
        return nil, "undo"
      end)
      return true
    end)
    assert.equal(0, db:value("SELECT count(*) FROM items"))
  end))

  it("ends a transaction that was begun by hand", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    db:session(function(s)
      assert(s:exec("BEGIN"))
      assert(s:query("INSERT INTO items VALUES (1)"))
      return true
    end)
    assert.equal(0, db:value("SELECT count(*) FROM items"))
    assert.equal(0, env.count("state LIKE 'idle in transaction%'"))
  end))

  it("refuses its handle after the end, and transaction control in query",
     env.in_task(function()
    local db = db_of("acme")
    local kept
    db:session(function(s)
      kept = s
      for _, sql in ipairs({ "BEGIN", "COMMIT", "COPY items TO STDOUT" }) do
        local ok, err = pcall(s.query, s, sql)
        assert.is_false(ok)
        assert.is_true(mtenant.errors.is(err, "misuse"))
      end
      assert.has_error(function() s:exec("COPY items FROM STDIN") end)
      return true
    end)
    for _, method in ipairs({ "query", "one", "value", "exec" }) do
      assert.has_error(function() kept[method](kept, "SELECT 1") end)
    end
    assert.has_error(function() kept:transaction(function() end) end)
  end))

  it("is not given to anybody while it is pinned", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 2 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    acme:session(function(s)
      local pid = s:backend_pid()
      mtenant.each({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, 10, function()
        assert.are_not.equal(pid, globex:value("SELECT pg_backend_pid()"))
        assert.are_not.equal(pid, acme:value("SELECT pg_backend_pid()"))
      end)
      return true
    end)
  end))

  it("of an unknown schema says so, and runs nothing", env.in_task(function()
    local db = db_of("nowhere")
    local called = false
    local value, err = db:session(function() called = true end)
    assert.is_nil(value)
    assert.equal("tenant_not_found", err.code)
    assert.is_false(called)
    value, err = db:exec("CREATE TABLE lost (id int)")
    assert.is_nil(value)
    assert.equal("tenant_not_found", err.code)
    value, err = db:query("VACUUM")
    assert.is_nil(value)
    assert.equal("tenant_not_found", err.code)
    assert.equal("", env.sql("SELECT to_regclass('public.lost')"))
  end))

  it("does not start in what a dirty connection left", env.in_task(function()
    env.sql("CREATE OR REPLACE FUNCTION t_acme.go_public() RETURNS text "
      .. "LANGUAGE sql AS $$ SELECT set_config('search_path', 'public', false) $$")
    local manager = env.manager({ connection = { max_connections = 1 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    for _, run in ipairs({
      function(db)
        return db:session(function(s) return s:value("SHOW search_path") end)
      end,
      function(db) return db:query("SHOW search_path")[1].search_path end,
      function(db) return db:exec("SET work_mem = '2MB'; SHOW search_path")[1].search_path end,
      function(db)
        return db:transaction(function(tx)
          return tx:value("SELECT current_setting('search_path')")
        end)
      end,
      function(db)
        local path
        env.loop(function(row) path = row.p return true end,
                 db:rows("SELECT current_setting('search_path') AS p"))
        return path
      end,
      function(db) return db:value("SELECT current_setting('search_path')") end,
    }) do
      assert(acme:query("SELECT go_public()"))
      local path, err = run(globex)
      assert.is_nil(err and tostring(err))
      assert.equal("t_globex,public,pg_temp", (path:gsub('[" ]', "")))
    end
  end))
end)
