--- Everything at once: tasks that use tenants in every way, while others are
--- cancelled, entries dropped, backends killed and statements cancelled. Nothing
--- hangs, nothing is left, and nobody sees another's rows.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local IDS = { "ca", "cb", "cc", "cd" }
local TASKS = 24


-- a generator of our own: the same sequence everywhere
local function generator(seed)
  return function(n)
    seed = seed * 16807 % 2147483647
    return seed % n + 1
  end
end


local function check(id, rows)
  for _, row in ipairs(rows or {}) do
    if row.owner and row.owner ~= id then
      error(id .. " saw a row of " .. tostring(row.owner), 0)
    end
  end
  return rows
end


-- One random use of a tenant; errors are welcome, wrong rows are not.
local function use(random, manager, db, id)
  local query = {
    sql = ("SELECT owner, pg_sleep(%d / 1000.0) FROM items"):format(random(15)),
    timeout_ms = random(3) == 1 and random(20) or nil,
  }
  local uses = {
    function() check(id, (db:query(query))) end,
    function() check(id, (db:query(query))) end,
    function()
      db:transaction(function(tx)
        check(id, (tx:query(query)))
        tx:transaction(function(inner)
          check(id, (inner:query("SELECT owner FROM items")))
          if random(2) == 1 then return nil, "undo" end
        end)
        mtenant.sleep(random(4))
        if random(2) == 1 then return nil, "undo" end
        return true
      end)
    end,
    function()
      db:session(function(s)
        check(id, (s:query(query)))
        s:query("SET search_path TO public")
        if random(2) == 1 then s:exec("BEGIN; CREATE TEMP TABLE items (owner text)") end
      end)
    end,
    function()
      local ok, err = pcall(function()
        for row in db:rows({
          sql = "SELECT owner, repeat('x', 500) FROM items, generate_series(1, 2000)",
          timeout_ms = query.timeout_ms,
        }) do
          check(id, { row })
          if random(900) == 1 then break end
        end
      end)
      if not ok and not mtenant.errors.is(err) then error(err, 0) end
    end,
    function()
      db:pipeline({ atomic = random(2) == 1 }, function(p)
        local first = p:query(query)
        for _ = 1, random(6) do p:query("SELECT owner FROM items") end
        if random(2) == 1 then check(id, (first:await())) end
      end)
    end,
    function() check(id, (db:exec("SELECT 1; " .. query.sql))) end,
    function() db:query("DO $$ BEGIN PERFORM pg_sleep(0.003); END $$") end,
    function()
      check(id, (mtenant.with_deadline(random(12), db.query, db, query)))
    end,
    function() db:exec("CREATE TABLE IF NOT EXISTS x (id int); DROP TABLE x") end,
    function() manager:evict_pool(id) end,
    function() manager:get_db_async(id) end,
  }
  uses[random(#uses)]()
end


describe("chaos", function()
  setup(function()
    env.tenants(IDS)
    for _, id in ipairs(IDS) do
      env.sql(("CREATE TABLE t_%s.items (owner text);"
        .. "INSERT INTO t_%s.items VALUES ('%s')"):format(id, id, id))
    end
  end)
  after_each(env.assert_nothing_left)

  local function disturb(random, tasks, over)
    while not over() do
      mtenant.sleep(random(10))
      local what = random(10)
      if what <= 6 then
        local slot = tasks[random(TASKS)]
        slot.task:cancel()
        slot.task:await()
        slot.task = mtenant.spawn(slot.body)
      elseif what <= 8 then
        env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
          .. "application_name = '" .. env.APPLICATION .. "' LIMIT 1")
      elseif what == 9 then
        env.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE "
          .. "application_name = '" .. env.APPLICATION .. "' LIMIT 1")
      end
    end
  end

  for seed, case in ipairs({
    { mode = "shared", connections = 2, max_pools = 10, dispose = true },
    { mode = "shared", connections = 1, max_pools = 2, dispose = false },
    { mode = "dedicated", connections = 3, max_pools = 3, dispose = true },
    { mode = "dedicated", connections = 4, max_pools = 10, dispose = false },
  }) do
    it(("in mode %s with %d connections"):format(case.mode, case.connections),
       env.in_task(function()
      local random, over = generator(seed), false
      local manager = env.manager({
        connection = {
          max_connections = case.connections, cache_statements = seed,
          pool = { max = 1 + seed, max_lifetime_ms = 700,
                   acquire_timeout_ms = 3000 },
          retry = { initial_delay_ms = 2, max_delay_ms = 10 },
        },
        isolation = { mode = case.mode, max_pools = case.max_pools },
      })
      local tasks = {}
      for i = 1, TASKS do
        local id = IDS[i % #IDS + 1]
        local function body()
          local db = manager:get_db(id)
          if not db then return end -- disposed of
          while not over do
            use(random, manager, db, id)
            if not mtenant.sleep(0) then return end
          end
        end
        tasks[i] = { body = body, task = mtenant.spawn(body) }
      end
      local disturber = mtenant.spawn(disturb, random, tasks, function()
        return over
      end)
      mtenant.sleep(700)
      local started = mtenant.now_ms()
      if case.dispose then manager:dispose() end
      over = true
      disturber:await()
      for i = 1, TASKS do tasks[i].task:await() end
      assert.is_true(mtenant.now_ms() - started < 5000)
      for _, id in ipairs(IDS) do
        assert.equal(id, env.sql(("SELECT string_agg(owner, ',') FROM t_%s.items")
          :format(id)))
      end
    end))
  end
end)
