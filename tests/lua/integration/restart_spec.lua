--- Restarts under load: every task comes through, nothing acknowledged is
--- lost, and the server is not overrun. Also: messages in another language.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local PATIENT = { max_attempts = 200, initial_delay_ms = 5, max_delay_ms = 50,
                  idempotent = true }


local function list(n, prefix)
  local out = {}
  for i = 1, n do out[i] = prefix and prefix .. i or i end
  return out
end


describe("a restart of the server", function()
  local server
  local IDS = list(10, "r")

  setup(function()
    server = env.start()
    env.tenants(IDS, server)
    for _, id in ipairs(IDS) do
      env.sql(("CREATE TABLE t_%s.items (id int PRIMARY KEY)"):format(id), server)
    end
  end)
  before_each(function()
    for _, id in ipairs(IDS) do
      env.sql(("TRUNCATE t_%s.items"):format(id), server)
    end
  end)
  teardown(function() env.close(server) end)
  after_each(env.assert_nothing_left)

  -- runs work(i) in many tasks over and over, until the restart is over
  local function under_load(mode, tasks, work)
    local over, done = false, 0
    local restarter = mtenant.spawn(function()
      env.eventually("some work", function() return done > 50 end)
      local born = env.sql("SELECT pg_postmaster_start_time()", server)
      server:restart_in_background(0, mode)
      env.eventually("the new server", function()
        local now = env.try_sql("SELECT pg_postmaster_start_time()", server)
        return now and now ~= born
      end)
      local before = done
      env.eventually("more work", function() return done > before + 50 end)
      over = true
    end)
    local _, errs = mtenant.each(list(tasks), tasks, function(i)
      local n = 0
      while not over do
        n = n + 1
        local ok, err = work(i, n)
        if ok == nil then
          over = true
          return nil, err
        end
        done = done + 1
      end
      return true
    end)
    restarter:cancel()
    pcall(restarter.await, restarter)
    assert.is_nil(errs and tostring(select(2, next(errs))))
  end

  for _, mode in ipairs({ "fast", "immediate", "kill" }) do
    it("(" .. mode .. ") is survived by readers that retry", env.in_task(
      function()
        local manager = env.manager({ connection = { max_connections = 4 } }, server)
        under_load(mode, 30, function(i)
          local db = assert(manager:get_db(IDS[i % #IDS + 1]))
          local result, err = mtenant.with_retry(function()
            return db:value("SELECT current_schema()")
          end, PATIENT)
          if not result then return nil, err end
          assert.equal("t_" .. IDS[i % #IDS + 1], result.result)
          return true
        end)
        assert.is_true(manager:get_stats().lost > 0)
        assert.is_true(manager:get_stats().peak <= 4)
        assert.is_true(env.count("true", server) <= 4)
      end, 30000))
  end

  it("loses nothing that was acknowledged, and repeats nothing", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 4 } }, server)
      local acknowledged, doubtful = {}, 0
      for _, id in ipairs(IDS) do acknowledged[id] = 0 end
      local careful = { max_attempts = 200, initial_delay_ms = 5, max_delay_ms = 50 }
      under_load("immediate", 20, function(i, n)
        local id = IDS[i % #IDS + 1]
        local db = assert(manager:get_db(id))
        local result, err = mtenant.with_retry(function()
          if n % 2 == 0 then
            return db:query("INSERT INTO items VALUES ($1)", i * 100000 + n)
          end
          return db:transaction(function(tx)
            return tx:query("INSERT INTO items VALUES ($1)", i * 100000 + n)
          end)
        end, careful)
        if result then
          acknowledged[id] = acknowledged[id] + 1
        elseif err.ambiguous then
          doubtful = doubtful + 1
        else
          return nil, err -- a duplicate key would show up here
        end
        return true
      end)
      local extra = 0
      for _, id in ipairs(IDS) do
        local rows = tonumber(env.sql(("SELECT count(*) FROM t_%s.items"):format(id),
                                      server))
        assert.is_true(rows >= acknowledged[id], "rows were lost")
        extra = extra + rows - acknowledged[id]
      end
      assert.is_true(extra <= doubtful, extra .. " rows that nobody knows of")
    end, 30000))

  it("is survived by tenants that are just being connected", env.in_task(
    function()
      local manager = env.manager({ connection = {
        max_connections = 4,
        retry = { max_attempts = 200, initial_delay_ms = 5, max_delay_ms = 50 },
      } }, server)
      under_load("fast", 10, function(i)
        local id = IDS[i]
        manager:evict_pool(id)
        local db, err = manager:get_db_async(id)
        if not db then return nil, err end
        return true
      end)
    end, 30000))

  it("does not end a manager that sleeps through it", env.in_task(function()
    local manager = env.manager(nil, server)
    local db = assert(manager:get_db_async(IDS[1]))
    for _, mode in ipairs({ "fast", "immediate" }) do
      server:restart(mode)
      env.eventually("the loss to be known", function()
        return manager:get_stats().open == 0
      end)
      assert.equal("t_" .. IDS[1], db:value("SELECT current_schema()"))
    end
    assert.equal(1, manager:get_pool_count())
  end))

  it("that takes longer is told to who does not retry", env.in_task(function()
    local manager = env.manager(nil, server)
    local db = assert(manager:get_db_async(IDS[1]))
    server:stop("fast")
    finally(function() server:start() end)
    env.eventually("the loss to be known", function()
      return manager:get_stats().open == 0
    end)
    for _ = 1, 3 do
      local started = mtenant.now_ms()
      local value, err = db:value("SELECT 1")
      assert.is_nil(value)
      assert.equal("refused", err.code)
      assert.is_false(err.ambiguous)
      assert.is_true(err.retryable)
      assert.is_true(mtenant.now_ms() - started < 500)
    end
    server:start()
    assert.equal(1, db:value("SELECT 1"))
  end))
end)


describe("a server that speaks another language", function()
  after_each(env.assert_nothing_left)

  it("is understood by its codes", env.in_task(function()
    local dir = env.german_locale()
    if not dir then pending("this machine can't make a locale") end
    finally(function() os.execute("rm -rf '" .. dir .. "'") end)
    local server = env.start({
      tcp = true, env = { LOCPATH = dir },
      conf = { lc_messages = "de_DE.UTF-8" },
      hba = "local all all trust\nhost all mtenant 127.0.0.1/32 scram-sha-256\n"
        .. "host all limited 127.0.0.1/32 trust",
    })
    finally(function()
      env.close(server)
      os.execute("rm -rf '" .. dir .. "'")
    end)
    server:psql("CREATE ROLE limited LOGIN CONNECTION LIMIT 0;"
      .. "CREATE ROLE fine LOGIN")
    local socket = ("postgresql://%%s@/mtenant?host=%s&port=%d"):format(
      server.dir, server.port)
    local function failure(url)
      local manager = env.manager({ connection = { url = url, retry = {
        max_attempts = 2, initial_delay_ms = 1,
      } } })
      local db = assert(manager:get_shared_db())
      local _, err = manager:get_shared_db_async()
      if err then return err end
      _, err = db:query("SELECT nonsense")
      return err
    end
    local err = failure(socket:format("fine"))
    if err.message:find("column", 1, true) then
      pending("this server has no German messages")
    end
    assert.is_truthy(err.message:find("Spalte", 1, true), err.message)
    assert.equal("42703", err.sqlstate)
    assert.equal("query", err.code)
    assert.equal("ERROR", err.severity)
    for _, case in ipairs({
      { server.url, "auth", nil, 1 },
      { server.url:gsub("mtenant@", "mtenant:wrong@"), "auth", "28P01", 1 },
      { socket:format("nobody_at_all"), "auth", "28000", 1 },
      { socket:format("fine"):gsub("/mtenant%?", "/absent?"), "query", "3D000", 1 },
      { server.url:gsub("mtenant@", "limited@"), "too_many_connections", "53300", 2 },
    }) do
      err = failure(case[1])
      assert.equal(case[2], err.code, tostring(err))
      assert.equal(case[3], err.sqlstate, tostring(err))
      assert.equal(case[4], err.attempts)
    end
  end))
end)
