--- mtenant.with_deadline and mtenant.each.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local errors = mtenant.errors


describe("with_deadline", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("gives what the function gives when that is soon enough", env.in_task(
    function()
      assert.same({ 1, nil, 3, n = 3 }, table.pack(mtenant.with_deadline(1000,
        function(...)
          mtenant.sleep(1)
          return ...
        end, 1, nil, 3)))
      local ok, err = pcall(mtenant.with_deadline, 1000, function()
        error("raised", 0)
      end)
      assert.is_false(ok)
      assert.equal("raised", err)
      for _, wrong in ipairs({ -1, 0 / 0, "1", {} }) do
        assert.has_error(function() mtenant.with_deadline(wrong, print) end)
      end
      assert.has_error(function() mtenant.with_deadline(1, 5) end)
    end))

  it("makes the wait in progress fail, and every later one", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      local seen = {}
      local started = mtenant.now_ms()
      local _, err = mtenant.with_deadline(30, function()
        for i, wait in ipairs({
          function() return db:query("SELECT pg_sleep(30)") end,
          function() return mtenant.sleep(60000) end,
          function() return db:query("SELECT 1") end,
          function() return db:transaction(function() end) end,
          function() return mtenant.spawn(mtenant.sleep, 1):await() end,
        }) do
          local value, why = wait()
          seen[i] = value == nil and why.code
        end
        return nil, select(2, mtenant.sleep(1))
      end)
      assert.equal("timeout", err.code)
      assert.same({ "timeout", "timeout", "timeout", "timeout", "timeout" }, seen)
      local took = mtenant.now_ms() - started
      assert.is_true(took >= 28 and took < 1000, "took " .. took)
      assert.is_true(mtenant.sleep(1))
      assert.equal(1, db:value("SELECT 1"))
    end))

  it("nests: the tighter one ends its own part only", env.in_task(function()
    local inner_err
    local outer = mtenant.with_deadline(2000, function()
      local _
      _, inner_err = mtenant.with_deadline(20, mtenant.sleep, 60000)
      assert.is_true(mtenant.sleep(1))
      return "outer"
    end)
    assert.equal("outer", outer)
    assert.equal("timeout", inner_err.code)
    local started = mtenant.now_ms()
    local inner_ok
    local value, err = mtenant.with_deadline(20, function()
      local ok, why = mtenant.with_deadline(60000, mtenant.sleep, 60000)
      inner_ok = ok
      assert.equal("timeout", why.code)
      return nil, why
    end)
    assert.is_nil(value)
    assert.is_nil(inner_ok)
    assert.equal("timeout", err.code)
    assert.is_true(mtenant.now_ms() - started < 500)
  end))

  it("of nothing is over at the first wait", env.in_task(function()
    local ran = false
    local value, err = mtenant.with_deadline(0, function()
      ran = true
      return mtenant.sleep(1000)
    end)
    assert.is_true(ran)
    assert.is_nil(value)
    assert.equal("timeout", err.code)
  end))

  it("gives way to a cancel", env.in_task(function()
    local task = mtenant.spawn(function()
      return mtenant.with_deadline(60000, mtenant.sleep, 60000)
    end)
    mtenant.sleep(1)
    task:cancel()
    local _, err = task:await()
    assert.equal("cancelled", err.code)
  end))

  it("rolls back the transaction around it, or only fails inside it",
     env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    assert(db:query("CREATE TABLE IF NOT EXISTS items (id int)"))
    local value, err = mtenant.with_deadline(30, function()
      return db:transaction(function(tx)
        env.must(tx:query("INSERT INTO items VALUES (1)"))
        mtenant.sleep(60000)
        return "as if nothing had happened"
      end)
    end)
    assert.is_nil(value)
    assert.equal("timeout", err.code)
    env.eventually("the transaction to end", function()
      return env.count("state <> 'idle'") == 0
    end)
    assert.equal(0, db:value("SELECT count(*) FROM items"))
    assert.equal("done", db:transaction(function(tx)
      env.must(tx:query("INSERT INTO items VALUES (2)"))
      local _, late = mtenant.with_deadline(20, mtenant.sleep, 60000)
      assert.equal("timeout", late.code)
      env.must(tx:query("INSERT INTO items VALUES (3)"))
      return "done"
    end))
    assert.equal(2, db:value("SELECT count(*) FROM items"))
    assert(db:query("DROP TABLE items"))
  end))

  it("covers routing, connecting and retrying", env.in_task(function()
    local manager = env.manager({ connection = {
      url = "postgresql://mtenant@127.0.0.1:1/mtenant",
      retry = { max_attempts = 1000, initial_delay_ms = 10, max_delay_ms = 10 },
    } })
    local started = mtenant.now_ms()
    local db, err = mtenant.with_deadline(60, manager.get_db_async, manager, "acme")
    assert.is_nil(db)
    assert.equal("timeout", err.code)
    assert.is_true(mtenant.now_ms() - started < 500)
  end))
end)


describe("each", function()
  after_each(env.assert_nothing_left)

  it("calls for every item, with results in order", env.in_task(function()
    local results, errs = mtenant.each({ "a", "b", "c", "d" }, 2, function(x, i)
      mtenant.sleep(5 - i)
      return x .. i
    end)
    assert.same({ "a1", "b2", "c3", "d4", n = 4 }, results)
    assert.is_nil(errs)
    results = mtenant.each({}, 3, error)
    assert.same({ n = 0 }, results)
    results = mtenant.each({ n = 2 }, 1, function(_, i) return i end)
    assert.same({ 1, 2, n = 2 }, results)
  end))

  it("runs so many at a time, and no slow one holds up the rest", env.in_task(
    function()
      local now, most, done = 0, 0, {}
      mtenant.each({ 60, 1, 1, 1, 1, 1, 1, 1 }, 3, function(ms, i)
        now = now + 1
        most = math.max(most, now)
        mtenant.sleep(ms)
        now = now - 1
        done[#done + 1] = i
      end)
      assert.equal(3, most)
      assert.equal(1, done[8])
    end))

  it("collects errors by index, and goes on", env.in_task(function()
    local results, errs = mtenant.each({ 1, 2, 3, 4, 5 }, 2, function(i)
      mtenant.sleep(1)
      if i == 2 then return nil, "second" end
      if i == 4 then error(errors.new("policy", "fourth")) end
      return i
    end)
    assert.same({ 1, nil, 3, nil, 5, n = 5 }, results)
    assert.equal("second", errs[2])
    assert.equal("fourth", errs[4].message)
    assert.is_nil(errs[1])
  end))

  it("stops for any other error, and raises it", env.in_task(function()
    local calls = 0
    local ok, err = pcall(mtenant.each, { 1, 2, 3, 4, 5, 6, 7, 8 }, 2, function(i)
      calls = calls + 1
      mtenant.sleep(1)
      if i == 3 then error({ "mine" }) end
    end)
    assert.is_false(ok)
    assert.same({ "mine" }, err)
    assert.is_true(calls < 8)
    for _, args in ipairs({ { 5, 1, print }, { {}, 0, print }, { {}, 1.5, print },
                            { {}, "1", print }, { {}, 0 / 0, print },
                            { {}, 1, 5 } }) do
      ok, err = pcall(mtenant.each, table.unpack(args))
      assert.is_false(ok)
      assert.is_true(errors.is(err, "misuse"))
    end
  end))

  it("ends soon when its task is to stop", env.in_task(function()
    local started, calls = mtenant.now_ms(), 0
    local list = {}
    for i = 1, 100 do list[i] = i end
    local value, err = mtenant.with_deadline(20, mtenant.each, list, 4, function()
      calls = calls + 1
      return mtenant.sleep(60000)
    end)
    assert.is_nil(value)
    assert.equal("timeout", err.code)
    assert.equal(4, calls)
    local task = mtenant.spawn(mtenant.each, list, 4, function()
      return mtenant.sleep(60000)
    end)
    mtenant.sleep(1)
    task:cancel()
    value, err = task:await()
    assert.is_nil(value)
    assert.equal("cancelled", err.code)
    assert.is_true(mtenant.now_ms() - started < 500)
  end))
end)
