--- Transactions: how they end, savepoints, retry, and what they are not.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local errors = mtenant.errors


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


local function ids(db)
  local rows = assert(db:query("SELECT id FROM items ORDER BY id"))
  local out = {}
  for i, row in ipairs(rows) do out[i] = row.id end
  return table.concat(out, ",")
end


local function insert(tx, id)
  return tx:query("INSERT INTO items VALUES ($1)", id)
end


describe("db:transaction", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY);"
      .. "CREATE TABLE t_acme.parent (id int PRIMARY KEY);"
      .. "CREATE TABLE t_acme.child (id int REFERENCES t_acme.parent "
      .. "DEFERRABLE INITIALLY DEFERRED);"
      .. "CREATE TABLE t_acme.pair (id int PRIMARY KEY, n int)")
  end)
  before_each(function()
    env.sql("TRUNCATE t_acme.items, t_acme.parent, t_acme.child, t_acme.pair;"
      .. "INSERT INTO t_acme.pair VALUES (1, 0), (2, 0)")
  end)
  after_each(env.assert_nothing_left)

  it("commits, and returns what the function returns", env.in_task(function()
    local db = db_of("acme")
    local got = table.pack(db:transaction(function(tx)
      assert(insert(tx, 1))
      assert(insert(tx, 2))
      return "a", nil, 3, nil
    end))
    assert.same({ "a", nil, 3, nil, n = 4 }, got)
    assert.equal("1,2", ids(db))
    got = table.pack(db:transaction(function(tx) insert(tx, 3) end))
    assert.equal(0, got.n)
    got = table.pack(db:transaction(function(tx) insert(tx, 4) return nil end))
    assert.same({ n = 1 }, got)
    got = table.pack(db:transaction(function(tx) insert(tx, 5) return false end))
    assert.same({ false, n = 1 }, got)
    assert.equal("1,2,3,4,5", ids(db))
    assert.equal("x", db:transaction(function() return "x" end))
  end))

  it("rolls back when the function returns nil and an error", env.in_task(
    function()
      local db = db_of("acme")
      local value, err = db:transaction(function(tx)
        assert(insert(tx, 1))
        return nil, "changed my mind"
      end)
      assert.is_nil(value)
      assert.equal("changed my mind", err)
      local failure
      value, err = db:transaction(function(tx)
        assert(insert(tx, 1))
        local _
        _, failure = tx:query("nonsense")
        return nil, failure
      end)
      assert.is_nil(value)
      assert.equal(failure, err)
      assert.equal("42601", err.sqlstate)
      assert.equal("", ids(db))
    end))

  it("rolls back, and returns the error, when one of ours is raised", env.in_task(
    function()
      local db = db_of("acme")
      local mine = errors.new("policy", "no")
      local value, err = db:transaction(function(tx)
        assert(insert(tx, 1))
        error(mine)
      end)
      assert.is_nil(value)
      assert.equal(mine, err)
      value, err = db:transaction(function(tx)
        assert(insert(tx, 1))
        env.must(tx:query("SELECT 1 / 0"))
      end)
      assert.is_nil(value)
      assert.equal("22012", err.sqlstate)
      assert.equal("", ids(db))
    end))

  it("rolls back, and raises again, whatever else is raised", env.in_task(
    function()
      local db = db_of("acme")
      for _, thing in ipairs({ "text", { 1 }, 5, false }) do
        local ok, err = pcall(db.transaction, db, function(tx)
          assert(insert(tx, 1))
          error(thing, 0)
        end)
        assert.is_false(ok)
        assert.equal(thing, err)
      end
      local ok = pcall(db.transaction, db, function(tx)
        assert(insert(tx, 1))
        error(nil)
      end)
      assert.is_false(ok)
      local err
      ok, err = pcall(db.transaction, db, function(tx)
        assert(insert(tx, 1))
        tx:query("SELECT $1", print)
      end)
      assert.is_false(ok)
      assert.is_true(errors.is(err, "misuse"))
      ok, err = pcall(db.transaction, db, function(tx)
        assert(insert(tx, 1))
        return tx.nothing.at_all
      end)
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find("nothing"))
      assert.equal("", ids(db))
    end))

  it("is aborted by an error that nobody looked at", env.in_task(function()
    local db = db_of("acme")
    local value, err = db:transaction(function(tx)
      insert(tx, 1)
      tx:query("SELECT 1 / 0")
      local rows, why = insert(tx, 2)
      assert.is_nil(rows)
      assert.equal("25P02", why.sqlstate)
      return "fine"
    end)
    assert.is_nil(value)
    assert.equal("query", err.code)
    assert.is_false(err.ambiguous)
    assert.is_truthy(err.message:find("ROLLBACK", 1, true))
    assert.equal("", ids(db))
  end))

  it("fails at COMMIT where a deferred constraint does", env.in_task(function()
    local db = db_of("acme")
    local value, err = db:transaction(function(tx)
      assert(tx:query("INSERT INTO child VALUES (5)"))
      return "fine"
    end)
    assert.is_nil(value)
    assert.equal("23503", err.sqlstate)
    assert.is_false(err.ambiguous)
    local rows
    rows, err = db:query("INSERT INTO child VALUES (6)")
    assert.is_nil(rows)
    assert.equal("23503", err.sqlstate)
    assert.equal(0, db:value("SELECT count(*) FROM child"))
    assert(db:transaction(function(tx)
      assert(tx:query("INSERT INTO child VALUES (7)"))
      assert(tx:query("INSERT INTO parent VALUES (7)"))
      return true
    end))
  end))

  it("is invisible to db, which uses another connection", env.in_task(function()
    local db = db_of("acme")
    assert(db:transaction(function(tx)
      assert(insert(tx, 1))
      assert.equal("", ids(db))
      assert.equal("1", ids(tx))
      assert(insert(db, 2))
      local mine = tx:value("SELECT pg_backend_pid()")
      assert.are_not.equal(mine, db:value("SELECT pg_backend_pid()"))
      assert.equal(mine, tx:value("SELECT pg_backend_pid()"))
      assert(db:transaction(function(other)
        assert.are_not.equal(mine, other:value("SELECT pg_backend_pid()"))
        return true
      end))
      return true
    end))
    assert.equal("1,2", ids(db))
  end))

  it("refuses its handle after the end", env.in_task(function()
    local db = db_of("acme")
    local kept
    db:transaction(function(tx) kept = tx return true end)
    for _, call in ipairs({
      function() return kept:query("SELECT 1") end,
      function() return kept:one("SELECT 1") end,
      function() return kept:value("SELECT 1") end,
      function() return kept:exec("SELECT 1") end,
      function() return kept:transaction(function() end) end,
      function() for _ in kept:rows("SELECT 1") do end end,
    }) do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.is_true(errors.is(err, "misuse"), tostring(err))
      assert.is_truthy(err.message:find("ended", 1, true))
    end
    pcall(db.transaction, db, function(tx) kept = tx error("x") end)
    assert.has_error(function() kept:query("SELECT 1") end)
  end))

  it("nests as savepoints", env.in_task(function()
    local db = db_of("acme")
    assert(db:transaction(function(tx)
      assert(insert(tx, 1))
      local value, err = tx:transaction(function(inner)
        assert(insert(inner, 2))
        return nil, "no"
      end)
      assert.is_nil(value)
      assert.equal("no", err)
      assert.equal("kept", tx:transaction(function(inner)
        assert(insert(inner, 3))
        assert.is_nil((inner:transaction(function(third)
          assert(insert(third, 4))
          third:query("SELECT 1 / 0")
          return nil, "broken"
        end)))
        assert(inner:transaction(function(third) return insert(third, 5) end))
        return "kept"
      end))
      value, err = tx:transaction(function(inner)
        return inner:query("SELECT 1 / 0")
      end)
      assert.is_nil(value)
      assert.equal("22012", err.sqlstate)
      local ok = pcall(tx.transaction, tx, function(inner)
        assert(insert(inner, 6))
        error("raised")
      end)
      assert.is_false(ok)
      assert(insert(tx, 7))
      return true
    end))
    assert.equal("1,3,5,7", ids(db))
  end))

  it("undoes a savepoint whose error nobody looked at, and goes on", env.in_task(
    function()
      local db = db_of("acme")
      assert(db:transaction(function(tx)
        assert(insert(tx, 1))
        local value, err = tx:transaction(function(inner)
          insert(inner, 2)
          inner:query("SELECT 1 / 0")
          return "fine"
        end)
        assert.is_nil(value)
        assert.is_truthy(err)
        assert(insert(tx, 3))
        return true
      end))
      assert.equal("1,3", ids(db))
    end))

  it("keeps outer and inner handle apart", env.in_task(function()
    local db = db_of("acme")
    db:transaction(function(tx)
      local kept
      tx:transaction(function(inner)
        kept = inner
        local ok, err = pcall(tx.query, tx, "SELECT 1")
        assert.is_false(ok)
        assert.is_true(errors.is(err, "misuse"))
        return true
      end)
      assert.has_error(function() kept:query("SELECT 1") end)
      assert.has_error(function()
        tx:transaction({ isolation = "serializable" }, function() end)
      end)
      assert.equal(1, tx:value("SELECT 1"))
      return true
    end)
  end))

  it("takes isolation, read only and deferrable", env.in_task(function()
    local db = db_of("acme")
    local CASES = {
      { {}, "read committed", "off", "off" },
      { { isolation = "repeatable read" }, "repeatable read", "off", "off" },
      { { isolation = "serializable", read_only = true, deferrable = true },
        "serializable", "on", "on" },
      { { isolation = "read committed", read_only = false },
        "read committed", "off", "off" },
      { { read_only = true }, "read committed", "on", "off" },
    }
    for _, case in ipairs(CASES) do
      assert(db:transaction(case[1], function(tx)
        assert.equal(case[2], tx:value("SHOW transaction_isolation"))
        assert.equal(case[3], tx:value("SHOW transaction_read_only"))
        assert.equal(case[4], tx:value("SHOW transaction_deferrable"))
        assert.equal("t_acme", tx:value("SELECT current_schema()"))
        return true
      end))
    end
    local _, err = db:transaction({ read_only = true }, function(tx)
      return insert(tx, 1)
    end)
    assert.equal("25006", err.sqlstate)
    for _, wrong in ipairs({ { isolation = "chaos" }, { read_only = 1 },
                             { retry = -1 }, { retry = 0.5 }, { readonly = true },
                             5 }) do
      local ok, misuse = pcall(db.transaction, db, wrong, function() end)
      assert.is_false(ok)
      assert.is_true(errors.is(misuse, "misuse"))
    end
    assert.has_error(function() db:transaction({}) end)
    assert.has_error(function() db:transaction() end)
  end))

  it("allows SET TRANSACTION as its first statement", env.in_task(function()
    local db = db_of("acme")
    assert(db:transaction(function(tx)
      assert(tx:query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"))
      assert.equal("serializable", tx:value("SHOW transaction_isolation"))
      assert.equal("on", tx:value("SHOW transaction_read_only"))
      assert.equal("t_acme", tx:value("SELECT current_schema()"))
      return true
    end))
    assert(db:transaction(function(tx)
      assert(tx:query("SET LOCAL work_mem = '3MB'"))
      assert.equal("3MB", tx:value("SHOW work_mem"))
      return insert(tx, 1)
    end))
    assert.equal("4MB", db:value("SHOW work_mem"))
    assert.equal("1", ids(db))
    assert(db:transaction(function(tx)
      assert(tx:exec("SET TRANSACTION READ ONLY; SELECT 1"))
      local _, err = insert(tx, 2)
      assert.equal("25006", err.sqlstate)
      return true
    end) == nil)
  end))

  it("sends nothing when nothing is asked", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    assert.equal(1, db:value("SELECT 1"))
    local before = manager:get_stats().requests
    assert.equal("x", db:transaction(function() return "x" end))
    assert.equal(before, manager:get_stats().requests)
  end))

  it("runs every class that leaves nothing behind, and definitions", env.in_task(
    function()
      local db = db_of("acme")
      assert.is_nil((db:transaction(function(tx)
        assert(tx:query("CREATE TABLE made (id int)"))
        assert(tx:query("INSERT INTO made VALUES (1)"))
        assert(tx:query("DO $$ BEGIN INSERT INTO made VALUES (2); END $$"))
        assert(tx:query("LOCK TABLE made"))
        assert(tx:query("DECLARE c CURSOR FOR SELECT id FROM made ORDER BY id"))
        assert.same({ { id = 1 }, { id = 2 } }, tx:query("FETCH ALL FROM c"))
        assert(tx:query("CREATE TEMP TABLE t (id int) ON COMMIT DROP"))
        assert.equal(2, tx:value("SELECT count(*) FROM made"))
        return nil, "undo"
      end)))
      assert.is_nil(db:value("SELECT to_regclass('made')"))
    end))

  it("takes one statement at a time, as db does", env.in_task(function()
    local db = db_of("acme")
    for _, method in ipairs({ "transaction", "session" }) do
      for _, sql in ipairs({ "", "--", "SELECT 1; SELECT 2" }) do
        local ok, err = pcall(db[method], db, function(on)
          return on:query(sql)
        end)
        assert.is_false(ok)
        assert.is_true(errors.is(err, "misuse"))
      end
    end
  end))

  it("goes on after it has deallocated all prepared statements", env.in_task(
    function()
      local db = db_of("acme", { connection = { max_connections = 1 } })
      for _ = 1, 3 do -- prepared at the second use
        assert.same({ ids = 0 }, db:one("SELECT count(*) AS ids FROM items"))
      end
      for _, sql in ipairs({ "DEALLOCATE ALL", "deallocate prepare all" }) do
        assert(db:transaction(function(tx)
          assert(tx:query(sql))
          return tx:query("SELECT count(*) AS ids FROM items")
        end))
      end
    end))

  it("takes the connection back in order after a failed BEGIN", env.in_task(
    function()
      local db = db_of("acme", { connection = { max_connections = 1 } })
      for _ = 1, 5 do
        local _, err = db:transaction(function(tx) return tx:query("nonsense") end)
        assert.equal("42601", err.sqlstate)
        assert.equal(1, db:value("SELECT 1"))
      end
      assert.equal(1, env.count())
    end))
end)
