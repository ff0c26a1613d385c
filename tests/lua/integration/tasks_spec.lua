--- Tasks: spawning, waiting, deadlines, cancelling, and waits in places where
--- one can't wait.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local errors = mtenant.errors


local function misuse_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.is(err, "misuse"), tostring(err))
  return err.message
end


describe("mtenant.run", function()
  after_each(env.assert_nothing_left)

  it("returns the function's values, and raises its error", function()
    assert.same({ 1, nil, 3, nil, n = 4 },
                table.pack(mtenant.run(function(...) return ... end, 1, nil, 3, nil)))
    for _, thing in ipairs({ "text", { 1 }, false }) do
      local ok, err = pcall(mtenant.run, function()
        mtenant.sleep(1)
        error(thing, 0)
      end)
      assert.is_false(ok)
      assert.equal(thing, err)
    end
    assert.has_error(function() mtenant.run(5) end)
  end)

  it("inside of a task just calls", env.in_task(function()
    assert.equal(5, mtenant.run(function()
      mtenant.sleep(1)
      return 5
    end))
    assert.has_error(function() mtenant.run(function() error("x") end) end)
  end))

  it("is over when its function is, whatever else goes on", function()
    local reached = false
    mtenant.run(function()
      mtenant.spawn(function()
        mtenant.sleep(20)
        reached = true
      end)
    end)
    assert.is_false(reached)
    mtenant.run(function() mtenant.sleep(40) end)
    assert.is_true(reached)
  end)

  it("sees that nothing can happen any more", function()
    local message = misuse_of(mtenant.run, function()
      local a, b
      a = mtenant.spawn(function() return b:await() end)
      b = mtenant.spawn(function() return a:await() end)
      return a:await()
    end)
    assert.is_truthy(message:find("waits for another", 1, true))
  end)

  it("is needed for whatever waits", function()
    assert.is_truthy(misuse_of(mtenant.sleep, 1):find("mtenant.run", 1, true))
    misuse_of(mtenant.each, { 1 }, 1, print)
    misuse_of(mtenant.with_deadline, 1, print)
    local manager = env.manager()
    misuse_of(manager.get_db_async, manager, "a")
    misuse_of(manager.warmup, manager, { "a" })
    local db = assert(manager:get_db("a"))
    misuse_of(db.query, db, "SELECT 1")
    misuse_of(db.exec, db, "SELECT 1")
    misuse_of(db.transaction, db, print)
    misuse_of(db.session, db, print)
    misuse_of(db.pipeline, db, print)
    misuse_of(db.rows, db, "SELECT 1")
  end)
end)


describe("a task", function()
  after_each(env.assert_nothing_left)

  it("starts later, gets its arguments, gives its values", env.in_task(
    function()
      local started = false
      local task = mtenant.spawn(function(...)
        started = true
        mtenant.sleep(1)
        return select("#", ...), ...
      end, nil, 2, nil)
      assert.is_false(started)
      assert.same({ 3, nil, 2, nil, n = 4 }, table.pack(task:await()))
      assert.same({ 3, nil, 2, nil, n = 4 }, table.pack(task:await()))
      assert.is_true(task.done)
      assert.has_error(function() mtenant.spawn(5) end)
      assert.has_error(function() mtenant.spawn() end)
    end))

  it("may be awaited by many", env.in_task(function()
    local slow = mtenant.spawn(function()
      mtenant.sleep(10)
      return 7
    end)
    local results = mtenant.each({ 1, 2, 3 }, 3, function() return slow:await() end)
    assert.same({ 7, 7, 7, n = 3 }, results)
  end))

  it("raises its error at whoever awaits it", env.in_task(function()
    for _, thing in ipairs({ "text", { 1 } }) do
      local task = mtenant.spawn(function() error(thing, 0) end)
      for _ = 1, 2 do
        local ok, err = pcall(task.await, task)
        assert.is_false(ok)
        assert.equal(thing, err)
      end
    end
  end))

  it("whose error nobody awaits has it logged, once, with its place", function()
    local said = env.stderr_of(function()
      mtenant.run(function()
        mtenant.spawn(function() error("lost and found") end)
        mtenant.sleep(5)
      end)
      collectgarbage()
      collectgarbage()
    end)
    local _, n = said:gsub("lost and found", "")
    assert.equal(1, n, said)
    assert.is_truthy(said:find("nobody awaited", 1, true))
    assert.is_truthy(said:find("tasks_spec.lua", 1, true))
    said = env.stderr_of(function()
      mtenant.run(function()
        pcall(function() mtenant.spawn(function() error("caught") end):await() end)
      end)
      collectgarbage()
    end)
    assert.equal("", said)
  end)

  it("runs while others wait, in the order of what they wait for", env.in_task(
    function()
      local order = {}
      local tasks = {}
      for i, ms in ipairs({ 30, 10, 20 }) do
        tasks[i] = mtenant.spawn(function()
          mtenant.sleep(ms)
          order[#order + 1] = ms
        end)
      end
      for i = 1, 3 do tasks[i]:await() end
      assert.same({ 10, 20, 30 }, order)
    end))

  it("can be cancelled: every wait of it fails from then on", env.in_task(
    function()
      local seen = {}
      local task = mtenant.spawn(function()
        for i = 1, 3 do
          local ok, err = mtenant.sleep(60000)
          seen[i] = not ok and err.code
        end
        local _, err = mtenant.spawn(function() return 1 end):await()
        seen[4] = err and err.code
        _, err = mtenant.each({ 1 }, 1, function() return 1 end)
        seen[5] = err and err.code
        return nil, err
      end)
      mtenant.sleep(1)
      task:cancel()
      task:cancel("again")
      local _, err = task:await()
      assert.equal("cancelled", err.code)
      assert.same({ "cancelled", "cancelled", "cancelled", "cancelled",
                    "cancelled" }, seen)
      task:cancel()
    end))

  it("can be cancelled for a reason", env.in_task(function()
    local task = mtenant.spawn(function() return mtenant.sleep(60000) end)
    mtenant.sleep(1)
    task:cancel("the user went away")
    local _, err = task:await()
    assert.equal("cancelled", err.code)
    assert.equal("the user went away", err.message)
    local mine = errors.new("policy", "mine")
    task = mtenant.spawn(function() return mtenant.sleep(60000) end)
    mtenant.sleep(1)
    task:cancel(mine)
    _, err = task:await()
    assert.equal(mine, err)
  end))

  it("that was cancelled before it began does not begin", env.in_task(
    function()
      local began = false
      local task = mtenant.spawn(function() began = true end)
      task:cancel()
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("cancelled", err.code)
      assert.is_false(began)
    end))

  it("is not cancelled by the end of one that awaits it", env.in_task(
    function()
      local inner = mtenant.spawn(function()
        mtenant.sleep(20)
        return "fine"
      end)
      local outer = mtenant.spawn(function() return inner:await() end)
      mtenant.sleep(1)
      outer:cancel()
      local _, err = outer:await()
      assert.equal("cancelled", err.code)
      assert.equal("fine", inner:await())
    end))

  it("must not yield by itself", env.in_task(function()
    local task = mtenant.spawn(function() coroutine.yield(1) end)
    local message = misuse_of(task.await, task)
    assert.is_truthy(message:find("coroutine.yield", 1, true))
  end))
end)


describe("a wait", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  -- things that wait
  local function waits(manager, db)
    return {
      function() mtenant.sleep(1) end,
      function() db:query("SELECT 1") end,
      function() db:transaction(function() end) end,
      function() for _ in db:rows("SELECT 1") do end end,
      function() manager:get_db_async("acme") end,
      function() mtenant.with_deadline(1, function() end) end,
      function() mtenant.spawn(function() mtenant.sleep(1) end):await() end,
    }
  end

  it("across a C function is misuse, and says which", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    for _, wait in ipairs(waits(manager, db)) do
      for _, through in ipairs({
        function(fn) table.sort({ 2, 1 }, function() fn() return true end) end,
        function(fn) ("x"):gsub("x", fn) end,
        function(fn)
          load(function() fn() return nil end)
        end,
      }) do
        local raised
        pcall(through, function() raised = misuse_of(wait) end)
        assert.is_truthy(raised and raised:find("C call", 1, true), raised)
      end
    end
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("in a coroutine of one's own is misuse, and says so", env.in_task(
    function()
      local manager = env.manager()
      local db = assert(manager:get_db("acme"))
      for _, wait in ipairs(waits(manager, db)) do
        local raised
        coroutine.wrap(function() raised = misuse_of(wait) end)()
        assert.is_truthy(raised:find("coroutine", 1, true), raised)
      end
    end))

  it("is fine in pcall, xpcall, metamethods and iterators of Lua", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      assert.is_true(pcall(mtenant.sleep, 1))
      assert.is_true(xpcall(db.value, print, db, "SELECT 1"))
      local proxy = setmetatable({}, {
        __index = function(_, key) return db:value("SELECT $1::text", key) end,
        __call = function(_, x) return db:value("SELECT $1::int", x) end,
        __add = function() return db:value("SELECT 7") end,
      })
      assert.equal("key", proxy.key)
      assert.equal(5, proxy(5))
      assert.equal(7, proxy + 1)
      local n = 0
      for i in function(_, last) return db:value(
        "SELECT nullif($1::int + 1, 4)", last or 0) end do
        n = i
      end
      assert.equal(3, n)
    end))

  it("in the user's coroutine may go on in the task itself", env.in_task(
    function()
      local db = assert(env.manager():get_db("acme"))
      local producer = coroutine.wrap(function()
        for i = 1, 3 do coroutine.yield(i) end
      end)
      local sum = 0
      for i in producer do sum = sum + db:value("SELECT $1::int", i) end
      assert.equal(6, sum)
    end))

  it("of no length still lets others run", env.in_task(function()
    local ran = false
    mtenant.spawn(function() ran = true end)
    mtenant.sleep(0)
    assert.is_true(ran)
    for _, wrong in ipairs({ "1", 0 / 0, {}, true }) do
      misuse_of(mtenant.sleep, wrong)
    end
    assert.is_true(mtenant.sleep(-5))
    local before = mtenant.now_ms()
    assert.is_true(mtenant.sleep(20))
    assert.is_true(mtenant.now_ms() - before >= 19)
  end))
end)
