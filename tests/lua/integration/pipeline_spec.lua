--- db:pipeline: several queries on their way at once, each for itself or all
--- together.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


describe("db:pipeline", function()
  setup(function()
    env.tenants({ "acme" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY)")
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items") end)
  after_each(env.assert_nothing_left)

  it("returns futures, which give rows or an error", env.in_task(function()
    local db = db_of("acme")
    local got = table.pack(db:pipeline(function(p)
      local one = p:query("SELECT 1 AS a")
      local two = p:query({ sql = "SELECT $1::int AS a", params = { 2 },
                            as = "arrays" })
      local bad = p:query("SELECT 1 / 0")
      local three = p:query("SELECT $1::text AS a", nil)
      assert.same({ { a = 1 } }, one:await())
      assert.same({ { 2, n = 1 } }, two:await())
      local rows, err = bad:await()
      assert.is_nil(rows)
      assert.equal("22012", err.sqlstate)
      assert.same({ {} }, three:await())
      assert.same({ { a = 1 } }, one:await())
      return "a", nil, "c"
    end))
    assert.same({ "a", nil, "c", n = 3 }, got)
  end))

  it("is done with all of them when it returns", env.in_task(function()
    local db = db_of("acme")
    local futures = {}
    db:pipeline(function(p)
      for i = 1, 100 do
        futures[i] = p:query("INSERT INTO items VALUES ($1) RETURNING id", i)
      end
    end)
    assert.equal("100", env.sql("SELECT count(*) FROM t_acme.items"))
    for i = 1, 100 do assert.same({ { id = i } }, futures[i]:await()) end
  end))

  it("keeps the good ones when one fails", env.in_task(function()
    local db = db_of("acme")
    db:pipeline(function(p)
      p:query("INSERT INTO items VALUES (1)")
      p:query("INSERT INTO items VALUES (1)")
      p:query("nonsense")
      p:query("INSERT INTO items VALUES (2)")
    end)
    assert.equal(2, db:value("SELECT count(*) FROM items"))
  end))

  it("sends all of them before the first one is answered", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local db = assert(manager:get_db("acme"))
      assert.equal(1, db:value("SELECT 1"))
      local before = manager:get_stats().requests
      local order = {}
      db:pipeline(function(p)
        local first = p:query("SELECT pg_sleep(0.1)")
        local others = {}
        for i = 1, 9 do others[i] = p:query("SELECT $1::int AS i", i) end
        assert.is_false(first.done)
        assert.equal(10, manager:get_stats().requests - before)
        for i = 1, 9 do order[i] = assert(others[i]:await())[1].i end
        assert.is_true(first.done)
      end)
      assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9 }, order)
    end))

  it("runs all or nothing when it is atomic", env.in_task(function()
    local db = db_of("acme")
    assert.equal("done", db:pipeline({ atomic = true }, function(p)
      p:query("INSERT INTO items VALUES (1)")
      p:query("INSERT INTO items VALUES (2)")
      return "done"
    end))
    assert.equal(2, db:value("SELECT count(*) FROM items"))
    local last
    local value, err = db:pipeline({ atomic = true }, function(p)
      p:query("INSERT INTO items VALUES (3)")
      p:query("INSERT INTO items VALUES (1)")
      last = p:query("INSERT INTO items VALUES (4)")
      return "done"
    end)
    assert.is_nil(value)
    assert.equal("23505", err.sqlstate)
    assert.is_nil((last:await()))
    assert.equal(2, db:value("SELECT count(*) FROM items"))
    value, err = db:pipeline({ atomic = true }, function(p)
      p:query("INSERT INTO items VALUES (5)")
      return nil, "no"
    end)
    assert.is_nil(value)
    assert.equal("no", err)
    assert.equal(2, db:value("SELECT count(*) FROM items"))
  end))

  it("takes definitions and blocks as well", env.in_task(function()
    local db = db_of("acme")
    local made, block, set
    db:pipeline(function(p)
      made = p:query("CREATE TABLE made (id int)")
      block = p:query("DO $$ BEGIN PERFORM 1; END $$")
      set = p:query("SET work_mem = '1MB'")
    end)
    for _, future in ipairs({ made, block, set }) do
      assert(future:await())
    end
    assert(db:query("DROP TABLE made"))
  end))

  it("refuses its handle after the end, and bad arguments", env.in_task(
    function()
      local db = db_of("acme")
      local kept
      db:pipeline(function(p) kept = p end)
      assert.has_error(function() kept:query("SELECT 1") end)
      assert.has_error(function() db:pipeline() end)
      assert.has_error(function() db:pipeline({ atom = true }, function() end) end)
      assert.has_error(function() db:pipeline({ atomic = 1 }, function() end) end)
    end))

  it("waits for what it has sent before it raises", env.in_task(function()
    local db = db_of("acme")
    local ok, err = pcall(db.pipeline, db, function(p)
      p:query("INSERT INTO items SELECT 1 FROM pg_sleep(0.05)")
      error("raised", 0)
    end)
    assert.is_false(ok)
    assert.equal("raised", err)
    assert.equal("1", env.sql("SELECT count(*) FROM t_acme.items"))
    for _, opts in ipairs({ {}, { atomic = true } }) do
      for _, sql in ipairs({ "BEGIN", "COPY items TO STDOUT", "", "SELECT 1; SELECT 2" }) do
        ok, err = pcall(db.pipeline, db, opts, function(p)
          p:query("SELECT 1")
          p:query(sql)
        end)
        assert.is_false(ok)
        assert.is_true(mtenant.errors.is(err, "misuse"), tostring(err))
      end
    end
  end))

  it("obeys time limits of its queries and of its task", env.in_task(function()
    local db = db_of("acme")
    local started = mtenant.now_ms()
    db:pipeline(function(p)
      local slow = p:query({ sql = "SELECT pg_sleep(30)", timeout_ms = 50 })
      local quick = p:query("SELECT 1 AS a")
      assert.same({ { a = 1 } }, quick:await())
      local rows, err = slow:await()
      assert.is_nil(rows)
      assert.equal("timeout", err.code)
      assert.is_false(err.ambiguous)
    end)
    -- waiting for a future, and waiting at the end
    for _, await in ipairs({ true, false }) do
      for _, opts in ipairs({ {}, { atomic = true } }) do
        local _, err = mtenant.with_deadline(50, function()
          return db:pipeline(opts, function(p)
            local slow = p:query("SELECT pg_sleep(30)")
            if await then return slow:await() end
          end)
        end)
        if await or opts.atomic then assert.equal("timeout", err.code) end
        local task = mtenant.spawn(db.pipeline, db, opts, function(p)
          local slow = p:query("SELECT pg_sleep(30)")
          if await then return slow:await() end
        end)
        mtenant.sleep(20)
        task:cancel()
        _, err = task:await()
        if await or opts.atomic then assert.equal("cancelled", err.code) end
      end
    end
    local took = mtenant.now_ms() - started
    assert.is_true(took < 4000, "took " .. took .. " ms")
    env.eventually("the server to be done", function()
      return env.count("state = 'active'") == 0
    end)
  end))

  it("leaves in doubt what a waiter was cut off from", env.in_task(function()
    local db = db_of("acme")
    local errs, task = {}, nil
    task = mtenant.spawn(db.pipeline, db, function(p)
      local first = p:query("INSERT INTO items SELECT 1 FROM pg_sleep(0.1)")
      local second = p:query("INSERT INTO items SELECT 2 FROM pg_sleep(0.1)")
      local _
      _, errs[1] = mtenant.with_deadline(30, first.await, first)
      task:cancel()
      _, errs[2] = second:await()
    end)
    task:await()
    assert.equal("timeout", errs[1].code)
    assert.equal("cancelled", errs[2].code)
    for i = 1, 2 do
      assert.is_true(errs[i].ambiguous)
      assert.is_false(mtenant.is_retryable_error(errs[i]))
    end
    local _, err = mtenant.with_deadline(30, db.pipeline, db, { atomic = true },
      function(p)
        local future = p:query("INSERT INTO items SELECT 3 FROM pg_sleep(0.1)")
        return future:await()
      end)
    assert.equal("timeout", err.code)
    assert.is_false(err.ambiguous) -- nothing was committed
    assert.equal(0, env.must(db:value("SELECT count(*) FROM items WHERE id = 3")))
  end))
end)
