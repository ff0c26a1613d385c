--- A tenant's route changes while it is used: what is under way ends where it
--- is, what comes goes to the new place, and nothing fails.

local env = require "tests.support.env"
local mtenant = require "mtenant"


describe("a route that changes under load", function()
  local servers, names = {}, { "one", "two" }

  setup(function()
    for _, name in ipairs(names) do
      servers[name] = env.start()
      env.tenants({ "a", "b" }, servers[name])
      for _, id in ipairs({ "a", "b" }) do
        env.sql(("CREATE TABLE t_%s.place AS SELECT '%s %s'::text AS at;"
          .. "CREATE TABLE t_%s.log (at text)"):format(id, name, id, id),
          servers[name])
      end
    end
  end)
  teardown(function()
    for _, name in ipairs(names) do env.close(servers[name]) end
  end)
  after_each(env.assert_nothing_left)

  local function manager(where, more)
    local config = {
      servers = { one = servers.one.url,
                  two = { url = servers.two.url, labels = { zone = "2" } } },
      resolve = function()
        mtenant.sleep(1)
        return { server = where.now, labels = { at = where.now },
                 settings = { ["app.at"] = where.now } }
      end,
    }
    for key, value in pairs(more or {}) do config[key] = value end
    return env.manager(config, servers.one)
  end

  -- every answer must be of one place: its settings, its server, its schema
  local CHECK = "SELECT at, current_setting('app.at') AS setting FROM place"

  local function check(id, row, seen)
    assert.equal(row.setting .. " " .. id, row.at)
    seen[row.setting] = (seen[row.setting] or 0) + 1
  end

  local function hammer(m, id, over, seen, failures)
    local db, n = m:get_db(id), 0
    while not over.now do
      n = n + 1
      local ok, err
      if n % 5 == 0 then
        ok, err = db:transaction(function(tx)
          local before = env.must(tx:one(CHECK))
          mtenant.sleep(2)
          env.must(tx:query("INSERT INTO log VALUES ($1)", before.setting))
          assert.same(before, env.must(tx:one(CHECK))) -- it stays where it is
          check(id, before, seen)
          return true
        end)
      elseif n % 17 == 0 then
        ok, err = db:session(function(s)
          check(id, env.must(s:one(CHECK)), seen)
          return true
        end)
      else
        ok, err = db:one(CHECK)
        if ok then check(id, ok, seen) end
      end
      if not ok then failures[#failures + 1] = tostring(err) end
    end
    return n
  end

  it("fails no statement and moves none", env.in_task(function()
    local where, over = { now = "one" }, {}
    local m = manager(where)
    local seen, failures, tasks = {}, {}, {}
    for i = 1, 12 do
      tasks[i] = mtenant.spawn(hammer, m, i % 2 == 0 and "a" or "b", over, seen,
                               failures)
    end
    local flips, flipped_to = 0, { one = 0, two = 0 }
    for i = 1, 150 do
      where.now = names[i % 2 + 1]
      m:invalidate("a")
      m:invalidate("b")
      flips = flips + 1
      mtenant.sleep(i % 10 == 0 and 40 or 4)
      -- whoever asks now is told the new place
      local row = env.must(m:get_db("a"):one(CHECK))
      assert.equal(where.now, row.setting)
      flipped_to[where.now] = flipped_to[where.now] + 1
    end
    over.now = true
    local statements = 0
    for _, t in ipairs(tasks) do statements = statements + t:await() end
    assert.same({}, failures)
    assert.is_true(seen.one > 100 and seen.two > 100)
    assert.is_true(statements > 1000)
    assert.same({ one = 75, two = 75 }, flipped_to)
    -- what was written is where its transaction was
    for _, name in ipairs(names) do
      assert.equal("0", env.sql(("SELECT count(*) FROM (SELECT * FROM t_a.log "
        .. "UNION ALL SELECT * FROM t_b.log) l WHERE at <> '%s'"):format(name),
        servers[name]))
    end
    assert.equal(2, m:get_pool_count())
  end, 60000))

  it("drains the old server in dedicated mode as well", env.in_task(function()
    local where, over = { now = "one" }, {}
    local m = manager(where, { isolation = {
      mode = "dedicated", schema_name_template = function(id) return "t_" .. id end,
    } })
    local seen, failures, tasks = {}, {}, {}
    for i = 1, 4 do
      tasks[i] = mtenant.spawn(hammer, m, "a", over, seen, failures)
    end
    for i = 1, 12 do
      mtenant.sleep(50)
      where.now = names[i % 2 + 1]
      m:invalidate("a")
    end
    where.now = "two"
    m:invalidate("a")
    over.now = true
    for _, t in ipairs(tasks) do t:await() end
    assert.same({}, failures)
    env.must(m:get_db("a"):query("SELECT 1"))
    env.eventually("nothing is left at the old server", function()
      return env.count("true", servers.one) == 0
    end)
  end, 60000))

  it("knows the servers by name", env.in_task(function()
    local where = { now = "two" }
    local m = manager(where)
    local route, err = m:get_route("a")
    assert.is_nil(route)
    assert.equal("tenant_not_found", err.code)
    env.must(m:get_db("a"):query("SELECT 1"))
    route = assert(m:get_route("a"))
    assert.equal("two", route.server)
    assert.equal("t_a", route.schema)
    assert.same({ at = "two" }, route.labels)
    assert.same({ ["app.at"] = "two" }, route.settings)
    route.labels.at = "elsewhere" -- a copy
    assert.same({ at = "two" }, m:get_route("a").labels)
    assert.equal("closed", m:breaker_state("two"))
    assert.is_true(m:isolate("two"))
    local _, refused = m:get_db("a"):query("SELECT 1")
    assert.equal("breaker_open", refused.code)
    assert.is_true(m:close("two"))
    env.must(m:get_db("a"):query("SELECT 1"))
    m:evict_pool("a")
    assert.is_nil((m:get_route("a")))
  end))
end)
