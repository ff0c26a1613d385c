--- A server with few free connections: the budget adapts, nobody is refused.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function list(n)
  local out = {}
  for i = 1, n do out[i] = i end
  return out
end


describe("on a small server", function()
  local server
  local IDS = {}
  for i = 1, 50 do IDS[i] = "s" .. i end

  setup(function()
    server = env.start({ conf = { max_connections = 14,
                                  superuser_reserved_connections = 2 } })
    env.tenants(IDS, server)
  end)
  teardown(function() env.close(server) end)
  after_each(env.assert_nothing_left)

  local function auto(mode)
    local config = env.config({
      connection = { pool = { acquire_timeout_ms = 20000 },
                     retry = { max_attempts = 10 } },
      isolation = { mode = mode },
    }, server)
    config.connection.max_connections = nil
    return assert(mtenant.create_tenant_manager(config))
  end

  for _, mode in ipairs({ "shared", "dedicated" }) do
    it("50 tenants with their default pools get along, in mode " .. mode,
       env.in_task(function()
      local manager = auto(mode)
      local errs
      local peak = env.peak_while(function()
        errs = select(2, mtenant.each(list(200), 100, function(i)
          local db = assert(manager:get_db(IDS[i % #IDS + 1]))
          if i % 3 == 0 then
            return db:transaction(function(tx)
              return tx:query("SELECT pg_sleep(0.002)")
            end)
          end
          return db:query("SELECT pg_sleep(0.002)")
        end))
      end, server)
      assert.is_nil(errs and tostring(select(2, next(errs))))
      assert.is_true(peak <= 11, "there were " .. peak)
      assert.equal(0, manager:get_stats().connect_failures)
    end, 30000))
  end

  it("two managers share what there is", env.in_task(function()
    local managers = { auto("shared"), auto("shared") }
    local _, errs = mtenant.each(list(200), 200, function(i)
      local db = assert(managers[i % 2 + 1]:get_db(IDS[i % #IDS + 1]))
      return db:transaction(function(tx) return tx:query("SELECT pg_sleep(0.003)") end)
    end)
    assert.is_nil(errs and tostring(select(2, next(errs))))
  end, 30000))

  it("a full server is waited for, and the rest of the budget used", env.in_task(
    function()
      -- an ordinary user's other clients take all but three places
      local others = env.manager({ connection = {
        max_connections = 8, application_name = "others",
        pool = { acquire_timeout_ms = 20000 },
      } }, server)
      local release = false
      local db = assert(others:get_db(IDS[1]))
      local holders = {}
      for i = 1, 8 do
        holders[i] = mtenant.spawn(db.session, db, function(s)
          env.must(s:query("SELECT 1"))
          while not release do mtenant.sleep(2) end
          return true
        end)
      end
      env.eventually("the places to be taken", function()
        return tonumber(env.sql("SELECT count(*) FROM pg_stat_activity WHERE "
          .. "application_name = 'others'", server)) == 8
      end)
      local manager = env.manager({ connection = {
        max_connections = 8, pool = { acquire_timeout_ms = 20000 },
        retry = { max_attempts = 10, initial_delay_ms = 10 },
      } }, server)
      local _, errs = mtenant.each(list(60), 60, function(i)
        local mine = env.must(manager:get_db_async(IDS[i % #IDS + 1]))
        return mine:transaction(function(tx)
          return tx:query("SELECT pg_sleep(0.005)")
        end)
      end)
      release = true
      for i = 1, 8 do assert(holders[i]:await()) end
      assert.is_nil(errs and tostring(select(2, next(errs))))
      assert.is_true(manager:get_stats().connect_failures > 0)
      others:dispose()
    end, 30000))
end)
