--- Transactions that lose against others: real serialization failures and
--- deadlocks, with and without retry.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


-- Tasks meet: each waits until all of `n` are there, or for a while when one
-- of them was left behind in a retry.
local function meeting(n)
  local there = 0
  return function()
    there = there + 1
    local deadline = mtenant.now_ms() + 300
    while there < n and mtenant.now_ms() < deadline do
      assert(mtenant.sleep(1))
    end
  end
end


describe("a transaction that loses", function()
  setup(function()
    env.tenants({ "acme" })
    env.sql("CREATE TABLE t_acme.pair (id int PRIMARY KEY, n int);"
      .. "CREATE TABLE t_acme.items (id int)")
  end)
  before_each(function()
    env.sql("TRUNCATE t_acme.pair, t_acme.items;"
      .. "INSERT INTO t_acme.pair VALUES (1, 0), (2, 0)")
  end)
  after_each(env.assert_nothing_left)

  --- Two of these at once: write skew.
  local function skew(db, opts, me, meet, runs)
    return db:transaction(opts, function(tx)
      runs[me] = (runs[me] or 0) + 1
      env.must(tx:query("SELECT sum(n) FROM pair"))
      if runs[me] == 1 then meet() end
      env.must(tx:query("UPDATE pair SET n = n + 1 WHERE id = $1", me))
      return runs[me]
    end)
  end

  it("gets 40001, which is retryable and not ambiguous", env.in_task(function()
    local db = db_of("acme")
    local meet, runs = meeting(2), {}
    local opts = { isolation = "serializable" }
    local results, errs = mtenant.each({ 1, 2 }, 2, function(me)
      return skew(db, opts, me, meet, runs)
    end)
    assert.is_truthy(errs)
    local winner = results[1] and 1 or 2
    local err = errs[3 - winner]
    assert.equal("40001", err.sqlstate)
    assert.equal("query", err.code)
    assert.is_true(err.retryable)
    assert.is_false(err.ambiguous)
    assert.is_true(mtenant.is_retryable_error(err))
    assert.equal(1, db:value("SELECT sum(n) FROM pair"))
  end))

  it("runs its function again with retry, and wins then", env.in_task(function()
    local db = db_of("acme", { connection = { retry = {
      initial_delay_ms = 5, max_delay_ms = 20,
    } } })
    local meet, runs = meeting(2), {}
    local opts = { isolation = "serializable", retry = 5 }
    local results, errs = mtenant.each({ 1, 2 }, 2, function(me)
      return skew(db, opts, me, meet, runs)
    end)
    assert.is_nil(errs)
    assert.equal(3, runs[1] + runs[2])
    assert.equal(3, results[1] + results[2])
    assert.equal(2, db:value("SELECT sum(n) FROM pair"))
  end))

  it("gets out of a deadlock with retry", env.in_task(function()
    local db = db_of("acme", {
      connection = { retry = { initial_delay_ms = 5, max_delay_ms = 20 } },
    })
    local meet, runs = meeting(2), {}
    local results, errs = mtenant.each({ 1, 2 }, 2, function(me)
      return db:transaction({ retry = 3 }, function(tx)
        runs[me] = (runs[me] or 0) + 1
        env.must(tx:query("UPDATE pair SET n = n + 1 WHERE id = $1", me))
        if runs[me] == 1 then meet() end
        env.must(tx:query("UPDATE pair SET n = n + 1 WHERE id = $1", 3 - me))
        return true
      end)
    end)
    assert.is_nil(errs)
    assert.same({ true, true, n = 2 }, results)
    assert.equal(3, runs[1] + runs[2])
    assert.equal(4, db:value("SELECT sum(n) FROM pair"))
  end))

  it("is not run again beyond the retry budget", env.in_task(function()
    local manager = env.manager {
      connection = { retry = { initial_delay_ms = 0, max_delay_ms = 0 } },
      retry_budget = { burst = 6, per_second = 0, ratio = 0 },
    }
    local function runs_of(id)
      local runs = 0
      local _, err = manager:get_db(id):transaction({ retry = 50 },
        function(tx)
          runs = runs + 1
          return tx:query("DO $$ BEGIN RAISE serialization_failure; END $$")
        end)
      assert.equal("40001", err.sqlstate)
      return runs
    end
    env.tenants { "globex", "initech" }
    assert.equal(4, runs_of("acme")) -- half of the server's
    assert.equal(1, runs_of("acme"))
    assert.equal(4, runs_of("globex"))
    assert.equal(1, runs_of("initech"))
    local stats = manager:get_stats()
    assert.equal(6, stats.retries)
    assert.equal(4, stats.retries_refused)
  end))

  it("gives up after that many times, with the last error", env.in_task(
    function()
      local db = db_of("acme", {
        connection = { retry = { initial_delay_ms = 1, max_delay_ms = 2 } },
      })
      local runs = 0
      local started = mtenant.now_ms()
      local value, err = db:transaction({ retry = 4 }, function(tx)
        runs = runs + 1
        env.must(tx:query("INSERT INTO items VALUES ($1)", runs))
        return tx:query("DO $$ BEGIN RAISE serialization_failure "
                        .. "USING MESSAGE = 'again'; END $$")
      end)
      assert.is_nil(value)
      assert.equal("40001", err.sqlstate)
      assert.equal(5, runs)
      assert.is_true(mtenant.now_ms() - started < 2000)
      assert.equal(0, db:value("SELECT count(*) FROM items"))
    end))

  it("waits between its tries as the configuration says", env.in_task(function()
    local db = db_of("acme", { connection = { retry = {
      initial_delay_ms = 40, backoff_multiplier = 2, max_delay_ms = 100,
      jitter = false,
    } } })
    local at = {}
    db:transaction({ retry = 3 }, function(tx)
      at[#at + 1] = mtenant.now_ms()
      return tx:query("DO $$ BEGIN RAISE serialization_failure; END $$")
    end)
    assert.equal(4, #at)
    for i, ms in ipairs({ 40, 80, 100 }) do
      local gap = at[i + 1] - at[i]
      assert.is_true(gap >= ms - 1, ("gap %d was %.1f"):format(i, gap))
      assert.is_true(gap < ms + 200, ("gap %d was %.1f"):format(i, gap))
    end
  end))

  it("does not run again for other errors, nor for raised ones", env.in_task(
    function()
      local db = db_of("acme")
      for _, fn in ipairs({
        function(tx) return tx:query("SELECT 1 / 0") end,
        function() return nil, "no" end,
        function() error("raised", 0) end,
      }) do
        local runs = 0
        pcall(db.transaction, db, { retry = 5 }, function(tx)
          runs = runs + 1
          return fn(tx)
        end)
        assert.equal(1, runs)
      end
    end))

  it("runs again when its error was raised as an error object", env.in_task(
    function()
      local db = db_of("acme")
      local runs = 0
      assert.equal("done", db:transaction({ retry = 2 }, function(tx)
        runs = runs + 1
        if runs == 1 then
          env.must(tx:query("DO $$ BEGIN RAISE serialization_failure; END $$"))
        end
        return "done"
      end))
      assert.equal(2, runs)
    end))

  it("runs again when COMMIT is what fails", env.in_task(function()
    local db = db_of("acme")
    assert(db:exec([[
      CREATE OR REPLACE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql
      AS $$ BEGIN
        IF NEW.id = 1 THEN RAISE serialization_failure; END IF;
        RETURN NULL;
      END $$;
      CREATE CONSTRAINT TRIGGER late AFTER INSERT ON items
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        EXECUTE FUNCTION fail_once()]]))
    local runs = 0
    assert.equal(2, db:transaction({ retry = 3 }, function(tx)
      runs = runs + 1
      env.must(tx:query("INSERT INTO items VALUES ($1)", runs))
      return runs
    end))
    assert.equal(2, db:value("SELECT id FROM items"))
    assert(db:exec("DROP TRIGGER late ON items"))
  end))

  it("stops retrying when its task is cancelled or late", env.in_task(function()
    local db = db_of("acme", { connection = { retry = {
      initial_delay_ms = 60000, max_delay_ms = 60000,
    } } })
    local runs = 0
    local function lose()
      return db:transaction({ retry = 3 }, function(tx)
        runs = runs + 1
        return tx:query("DO $$ BEGIN RAISE serialization_failure; END $$")
      end)
    end
    local started = mtenant.now_ms()
    local value, err = mtenant.with_deadline(100, lose)
    assert.is_nil(value)
    assert.equal("timeout", err.code)
    local task = mtenant.spawn(lose)
    env.eventually("the second run", function() return runs == 2 end)
    task:cancel()
    value, err = task:await()
    assert.is_nil(value)
    assert.equal("cancelled", err.code)
    assert.equal(2, runs)
    assert.is_true(mtenant.now_ms() - started < 3000)
  end))
end)
