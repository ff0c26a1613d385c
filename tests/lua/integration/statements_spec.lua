--- Which statements may run where: every class through db:query, what is
--- refused before it is sent, and session state that never reaches the next.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function misuse_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(mtenant.errors.is(err, "misuse"), tostring(err))
  return err.message
end


describe("db:query", function()
  setup(function()
    env.tenants({ "acme" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY)")
    env.server():psql("GRANT CREATE ON DATABASE mtenant TO mtenant;"
      .. "ALTER ROLE mtenant CREATEDB")
  end)
  after_each(env.assert_nothing_left)

  it("runs queries and changes of data, whatever comes before them", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      for _, sql in ipairs({
        "SELECT 1", "select 1;", " ;; SELECT 1", "/* a /* b */ */ SELECT 1",
        "-- x\nSELECT 1", "(SELECT 1)", "((SELECT 1)) UNION (SELECT 2)",
        "VALUES (1), (2)", "TABLE items", "WITH x AS (SELECT 1) SELECT * FROM x",
        "\fSELECT 1", "INSERT INTO items VALUES (1)",
        "UPDATE items SET id = 2", "DELETE FROM items",
        "EXPLAIN SELECT 1", "EXPLAIN (ANALYZE, COSTS OFF) SELECT 1",
        "MERGE INTO items USING (VALUES (1)) v (x) ON id = x "
          .. "WHEN NOT MATCHED THEN INSERT VALUES (x)",
        "SELECT 'BEGIN; COMMIT'", "SELECT $q$ROLLBACK$q$",
        "SELECT 1 AS \"COMMIT\"", "SELECT pg_notify('c', 'p')",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT * FROM items FOR UPDATE",
      }) do
        for _ = 1, 3 do -- unnamed, prepared, by its name
          local rows, err = db:query(sql)
          if not rows and err.sqlstate ~= "23505" then
            error(sql .. ": " .. tostring(err))
          end
        end
      end
    end))

  it("runs definitions, and they land in the tenant's schema", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      for _, sql in ipairs({
        "CREATE TABLE def (id int, t text)", "ALTER TABLE def ADD c int",
        "CREATE INDEX ON def (id)", "COMMENT ON TABLE def IS 'x'",
        "CREATE VIEW def_v AS SELECT * FROM def",
        "CREATE FUNCTION def_f() RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT 2'",
        "CREATE FUNCTION def_g() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 3; END",
        "CREATE TYPE def_t AS ENUM ('a')", "ALTER TYPE def_t ADD VALUE 'b'",
        "CREATE SEQUENCE def_s", "GRANT SELECT ON def TO PUBLIC",
        "REVOKE SELECT ON def FROM PUBLIC", "TRUNCATE def", "ANALYZE def",
        "CREATE MATERIALIZED VIEW def_m AS SELECT 1 AS a",
        "REFRESH MATERIALIZED VIEW def_m", "SELECT 1 AS a INTO def_into",
        "CREATE TABLE def_as AS SELECT 1 AS a",
        "DROP FUNCTION def_g", "CREATE RULE def_r AS ON DELETE TO def DO INSTEAD NOTHING",
      }) do
        local _, err = db:query(sql)
        if err then error(sql .. ": " .. tostring(err)) end
      end
      assert.equal("def,def_as,def_into,def_m,def_v", env.sql(
        "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class "
        .. "WHERE relnamespace = 't_acme'::regnamespace AND relname ~ '^def' "
        .. "AND relkind IN ('r', 'v', 'm')"))
      assert.equal("0", env.sql("SELECT count(*) FROM pg_class WHERE "
        .. "relnamespace = 'public'::regnamespace"))
      assert.equal(2, db:value("SELECT def_f()"))
    end))

  it("runs blocks, and does not let them commit", env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    assert(db:query("DELETE FROM items"))
    assert(db:query("DO $$ BEGIN INSERT INTO items VALUES (10); END $$"))
    assert.equal(1, db:value("SELECT count(*) FROM items"))
    assert(db:query("CREATE OR REPLACE PROCEDURE add_two() LANGUAGE plpgsql AS "
      .. "$$ BEGIN INSERT INTO items VALUES (20); COMMIT; "
      .. "INSERT INTO items VALUES (21); END $$"))
    for _, sql in ipairs({
      "CALL add_two()",
      "DO $$ BEGIN INSERT INTO items VALUES (30); COMMIT; END $$",
    }) do
      local rows, err = db:query(sql)
      assert.is_nil(rows)
      assert.equal("2D000", err.sqlstate)
    end
    assert.equal(1, db:value("SELECT count(*) FROM items"))
  end))

  it("runs what belongs to a session, on a connection of its own", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      for _, sql in ipairs({
        "SET work_mem = '1MB'", "SET LOCAL work_mem = '1MB'", "RESET ALL",
        "SHOW search_path", "LISTEN c", "NOTIFY c, 'x'", "UNLISTEN *",
        "PREPARE p AS SELECT 1", "DISCARD ALL", "DEALLOCATE ALL",
        "CREATE TEMP TABLE tmp (id int)", "SELECT 1 AS a INTO TEMP tmp2",
        "CREATE TEMPORARY VIEW tv AS SELECT 1", "VACUUM items",
        "CREATE INDEX CONCURRENTLY items_c ON items (id)",
        "DROP INDEX CONCURRENTLY items_c", "REINDEX TABLE CONCURRENTLY items",
        "CHECKPOINT", "CREATE DATABASE mtenant_other",
        "DROP DATABASE mtenant_other", "SELECT pg_advisory_lock(1)",
        "SELECT set_config('work_mem', '2MB', false)", "CLUSTER",
        "SET ROLE mtenant", "SET SESSION AUTHORIZATION DEFAULT",
        "LOAD 'plpgsql'",
      }) do
        local _, err = db:query(sql)
        if err and err.sqlstate ~= "42501" then
          error(sql .. ": " .. tostring(err))
        end
      end
      assert.equal("t_acme,public,pg_temp",
                   (db:value("SHOW search_path"):gsub('[" ]', "")))
    end))

  it("refuses transaction control and COPY before anything is sent",
     env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    for _, sql in ipairs({
      "BEGIN", "begin", ";BEGIN", "/* x */ BEGIN", "\fBEGIN", "--\nBEGIN",
      "START TRANSACTION", "COMMIT", "END", "ROLLBACK", "ABORT",
      "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "SAVEPOINT a", "RELEASE a",
      "ROLLBACK TO a", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'",
      "ROLLBACK PREPARED 'x'", "BEGIN ISOLATION LEVEL SERIALIZABLE",
      "COMMIT; SELECT 1", "SELECT 1; COMMIT",
      "COPY items FROM STDIN", "copy items to stdout",
      "COPY (SELECT 1) TO STDOUT", "COPY items (id) FROM STDIN WITH CSV",
    }) do
      local message = misuse_of(db.query, db, sql)
      local keyword = sql:upper():match("[A-Z]+")
      if not keyword:find("COPY") and not sql:find("SELECT 1;") then
        assert.is_truthy(message:find(keyword == "X" and "BEGIN" or keyword, 1,
                                      true), message)
      end
      misuse_of(db.one, db, sql)
      misuse_of(db.query, db, { sql = sql })
      misuse_of(db.pipeline, db, function(p) p:query(sql) end)
      misuse_of(function() for _ in db:rows(sql) do end end)
    end
    assert.equal(0, manager:get_stats().requests)
    assert.equal(0, env.count())
  end))

  it("refuses the same inside a transaction, which goes on", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      assert(db:query("DELETE FROM items"))
      assert(db:transaction(function(tx)
        assert(tx:query("INSERT INTO items VALUES (1)"))
        for _, sql in ipairs({ "COMMIT", "ROLLBACK", "COMMIT AND CHAIN",
                               "SAVEPOINT a", "BEGIN", "COPY items TO STDOUT",
                               "PREPARE TRANSACTION 'x'" }) do
          misuse_of(tx.query, tx, sql)
          misuse_of(tx.exec, tx, sql)
          misuse_of(tx.exec, tx, "SELECT 1; " .. sql)
        end
        assert(tx:query("INSERT INTO items VALUES (2)"))
        return true
      end))
      assert.equal(2, db:value("SELECT count(*) FROM items"))
    end))

  it("reads a file on the server with COPY only as far as rights go",
     env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    local rows, err = db:query("COPY items FROM '/etc/passwd'")
    assert.is_nil(rows)
    assert.equal("42501", err.sqlstate)
  end))

  it("runs one statement only, and exec runs several", env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    misuse_of(db.query, db, "SELECT 1; SELECT 2")
    assert(db:exec("DELETE FROM items; INSERT INTO items VALUES (5), (6)"))
    local rows = assert(db:exec("SELECT 1 AS a; SELECT id FROM items ORDER BY 1"))
    assert.same({ { id = 5 }, { id = 6 } }, rows)
    rows = assert(db:exec("SET work_mem = '1MB'; SHOW work_mem"))
    assert.equal("1MB", rows[1].work_mem)
  end))

  it("undoes all of an exec when one of its statements fails", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      assert(db:query("DELETE FROM items"))
      local rows, err = db:exec("INSERT INTO items VALUES (7); SELECT 1 / 0")
      assert.is_nil(rows)
      assert.equal("22012", err.sqlstate)
      assert.equal("query", err.code)
      rows, err = db:exec("CREATE TABLE gone (id int); "
                          .. "INSERT INTO items VALUES (7), (7)")
      assert.is_nil(rows)
      assert.equal("23505", err.sqlstate)
      assert.equal(0, db:value("SELECT count(*) FROM items"))
      assert.is_nil(db:value("SELECT to_regclass('gone')"))
      rows, err = db:exec("SELECT 1;; nonsense")
      assert.is_nil(rows)
      assert.equal("42601", err.sqlstate)
    end))

  it("lets exec control its own transactions, outside of ours", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      assert(db:query("DELETE FROM items"))
      assert(db:exec("BEGIN; INSERT INTO items VALUES (1); COMMIT; "
                     .. "BEGIN; INSERT INTO items VALUES (2); ROLLBACK"))
      assert.equal(1, db:value("SELECT count(*) FROM items"))
      assert(db:exec("BEGIN; INSERT INTO items VALUES (3)"))
      assert.equal(1, db:value("SELECT count(*) FROM items"))
      assert.equal(0, env.count("state = 'idle in transaction'"))
    end))

  it("has full errors", env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    local _, err = db:query("SELECT id,\n   nonsense FROM items")
    assert.equal("query", err.code)
    assert.equal("42703", err.sqlstate)
    assert.equal("ERROR", err.severity)
    assert.equal("SELECT id, nonsense FROM items", err.statement)
    assert.equal(15, err.position)
    assert.equal("acme", err.tenant_id)
    assert.is_string(err.server)
    assert.is_false(err.retryable)
    assert.is_false(err.ambiguous)
    assert.is_truthy(tostring(err):find("42703", 1, true))
    assert.is_falsy(tostring(err):find("\n"))
    assert(db:query("INSERT INTO items VALUES (77)"))
    _, err = db:query("INSERT INTO items VALUES ($1)", 77)
    assert.equal("23505", err.sqlstate)
    assert.equal("Key (id)=(77) already exists.", err.detail)
    _, err = db:query("SELECT lenght('x')")
    assert.equal("42883", err.sqlstate)
    assert.is_truthy(err.hint)
    _, err = db:query("SELECT '" .. ("x"):rep(5000) .. "' + 1 FROM nowhere")
    assert.is_true(#err.statement <= 200)
  end))
end)


describe("session state", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  --- What one tenant leaves, the other must not see.
  local CASES = {
    { "SET work_mem = '77MB'", "SHOW work_mem", "4MB" },
    { "SET search_path TO public", "SELECT current_schema()", "t_globex" },
    { "SET statement_timeout = 12345", "SHOW statement_timeout", "0" },
    { "SET default_transaction_read_only = on",
      "SHOW default_transaction_read_only", "off" },
    { "SET timezone = 'Asia/Tokyo'", "SHOW timezone", "Etc/UTC" },
    { "SELECT set_config('work_mem', '66MB', false)", "SHOW work_mem", "4MB" },
    { "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
      "SHOW transaction_read_only", "off" },
    { "LISTEN mtenant_c", "SELECT count(*) FROM pg_listening_channels()", 0 },
    { "CREATE TEMP TABLE leak (id int)",
      "SELECT count(to_regclass('leak'))", 0 },
    { "SELECT 1 AS a INTO TEMP leak2",
      "SELECT count(to_regclass('leak2'))", 0 },
    { "PREPARE leak_p AS SELECT 1",
      "SELECT count(*) FROM pg_prepared_statements WHERE name = 'leak_p'", 0 },
    { "SELECT pg_advisory_lock(4711)",
      "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
        .. "AND pid = pg_backend_pid()", 0 },
    { "DECLARE leak_c CURSOR WITH HOLD FOR SELECT 1",
      "SELECT count(*) FROM pg_cursors WHERE name = 'leak_c'", 0 },
    { "DISCARD ALL", "SELECT current_schema()", "t_globex" },
    { "DEALLOCATE ALL", "SELECT current_schema()", "t_globex" },
  }

  local RUNNERS = {
    { "db:query", function(db, sql) return db:query(sql) end },
    { "db:exec", function(db, sql) return db:exec(sql) end },
    { "db:session", function(db, sql)
      return db:session(function(s) return s:query(sql) end)
    end },
    { "a transaction", function(db, sql)
      return db:transaction(function(tx) return tx:query(sql) end)
    end },
    { "a transaction that fails", function(db, sql)
      db:transaction(function(tx)
        tx:query(sql)
        return nil, "enough"
      end)
      return true
    end },
    { "a session that fails", function(db, sql)
      pcall(db.session, db, function(s)
        s:exec(sql)
        error("enough")
      end)
      return true
    end },
  }

  for _, runner in ipairs(RUNNERS) do
    local run = runner[2]
    it("of " .. runner[1] .. " does not reach the next tenant", env.in_task(function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local acme = assert(manager:get_db("acme"))
      local globex = assert(manager:get_db("globex"))
      local timezone = globex:value("SHOW timezone")
      for _, case in ipairs(CASES) do
        local ok, err = run(acme, case[1])
        if not ok and err.sqlstate ~= "25001" then
          error(case[1] .. ": " .. tostring(err))
        end
        local expected = case[3] == "Etc/UTC" and timezone or case[3]
        local value = globex:value(case[2])
        assert.equal(expected, value, case[1] .. " was seen by the next")
        assert.equal(expected, globex:transaction(function(tx)
          return tx:value(case[2])
        end), case[1] .. " was seen by the next transaction")
        env.eventually("the closed connections to be gone", function()
          return env.count() == 1
        end)
      end
    end))
  end

  it("of another tenant is gone with a lock it held", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 2 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    for _ = 1, 20 do
      assert(acme:query("SELECT pg_advisory_lock(99)"))
      env.eventually("the lock to be free", function()
        return globex:value("SELECT pg_try_advisory_xact_lock(99)")
      end)
    end
  end))
end)
