--- Reloading under load: a policy that changes all the time, every third time
--- for something broken, while tasks query tenants that move between three
--- servers. MT_RELOADS says how often, MT_SEED what the chance comes from.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local RELOADS = tonumber(os.getenv("MT_RELOADS")) or 1000
local SEED = tonumber(os.getenv("MT_SEED")) or os.time()
local TASKS, TENANTS, SERVERS = 50, 500, 3

local POLICY = [[
local version = %d
-- every fifth tenant moves with each version, the others stay
local function place(n)
  local step = n %% 5 == 0 and version or 0
  return "s" .. (n + step) %% 3 + 1
end
return {
  version = tostring(version),
  resolve = function(id)
    local n = tonumber(id)
    if not n then return nil, "no number" end
    return { server = place(n), schema = "t_" .. id, labels = { v = "1" } }
  end,
  selftest = {
    { tenant_id = "1", route = { schema = "t_1" } },
    { tenant_id = "x", error = "tenant_not_found" },
    %s
  },
}
]]

local BROKEN = {
  function(text) return text:sub(1, math.random(#text - 5)) end, -- half-written
  function(text) return text:gsub("return {", "retrun {", 1) end,
  function(text) return text:gsub("local version", 'error("no")\nlocal v', 1) end,
  function() return "return { identify = function() end }" end,
  function() return "return 42" end,
  function() return "" end,
}


local function place(n, version)
  return (n + (n % 5 == 0 and version or 0)) % SERVERS + 1
end


local function write(path, text)
  local file = assert(io.open(path .. ".new", "w"))
  file:write(text)
  file:close()
  assert(os.rename(path .. ".new", path))
end


local function prepare(server, number)
  local sql = { "SET client_min_messages = error;" }
  for n = 1, TENANTS do
    sql[#sql + 1] = ([[CREATE SCHEMA t_%d CREATE TABLE me
      (server int, tenant text); INSERT INTO t_%d.me VALUES (%d, '%d');]])
      :format(n, n, number, n)
  end
  env.sql(table.concat(sql, "\n"), server)
end


describe("reloading under load", function()
  local servers, path = {}, nil

  setup(function()
    for i = 1, SERVERS do
      servers[i] = env.start { conf = { max_connections = 40 } }
      prepare(servers[i], i)
    end
    path = os.tmpname()
  end)

  teardown(function()
    for _, server in ipairs(servers) do env.close(server) end
    os.remove(path)
  end)

  after_each(env.assert_nothing_left)

  local function policy_text(version, broken)
    return POLICY:format(version, broken
      and '{ name = "wrong", tenant_id = "2", route = { schema = "t_1" } },' or "")
  end

  it("fails no query, and sends none to a wrong server", env.in_task(function()
    math.randomseed(SEED)
    print(("\n%d reloads, seed %d"):format(RELOADS, SEED))
    write(path, policy_text(1))
    local version, over, good, bad = 1, false, 0, 0
    local manager = env.manager({
      policy = path, routing = { reload = false },
      servers = { s1 = servers[1].url, s2 = servers[2].url,
                  s3 = servers[3].url },
      connection = { max_connections = 4 },
      hooks = { on_policy_event = function(ev)
        if ev.kind == "reloaded" then version = version + 1 end
      end },
    }, servers[1])
    local queries, moved, sharp = 0, 0, 0

    local function check(n, row, from)
      local fits = {}
      for v = from, version do fits[place(n, v)] = true end
      if not fits[row.server] then
        error(("tenant %d on server %d, versions %d to %d"):format(
          n, row.server, from, version))
      end
      assert(row.tenant == tostring(n) and row.schema == "t_" .. n)
      if version == from then sharp = sharp + 1 end
      queries = queries + 1
    end

    local SQL = "SELECT server, tenant, current_schema() AS schema FROM me"
    local function query(n)
      local from = version
      local db = env.must(manager:get_db(tostring(n)))
      check(n, env.must(db:one(SQL)), from)
    end

    local function transaction(n)
      local from = version
      local db = env.must(manager:get_db(tostring(n)))
      local first, second = db:transaction(function(tx)
        local one = env.must(tx:one(SQL))
        local early = version
        if math.random(4) == 1 then mtenant.sleep(math.random(5)) end
        check(n, one, from)
        local two = env.must(tx:one(SQL))
        if version ~= early then moved = moved + 1 end
        return one.server, two.server
      end)
      env.must(first, second)
      assert(first == second)
    end

    local function work()
      while not over do
        local n = math.random(TENANTS)
        if math.random(5) == 1 then transaction(n) else query(n) end
      end
    end

    local tasks = {}
    for i = 1, TASKS do tasks[i] = mtenant.spawn(work) end
    for i = 1, RELOADS do
      local text = policy_text(version + 1)
      local break_it = i % 3 == 0
      if break_it then
        local kind = math.random(#BROKEN + 1)
        text = BROKEN[kind] and BROKEN[kind](text) or policy_text(version + 1, true)
      end
      write(path, text)
      local before = version
      local ok, err = manager:reload_policy()
      if ok then good = good + 1 else bad = bad + 1 end
      assert.equal(not break_it, ok == true, tostring(err) .. " for\n" .. text)
      if break_it then
        assert.equal("policy", err.code)
        assert.equal(before, version)
      end
      mtenant.sleep(math.random(4) == 1 and 40 or math.random(0, 5))
      for _, t in ipairs(tasks) do if t.done then t:await() end end
    end
    over = true
    for _, t in ipairs(tasks) do t:await() end
    local status = manager:get_policy_status()
    print(("%d queries, %d of them in one version only, %d transactions over a "
      .. "swap"):format(queries, sharp, moved))
    assert.equal(math.floor(RELOADS / 3), bad)
    assert.equal(good + 1, status.version)
    assert.equal(tostring(version), status.label)
    assert.equal(good, status.reloads)
    assert.equal(bad, status.failed_reloads)
    assert.is_true(queries > RELOADS and sharp > RELOADS / 10)
    assert.equal(0, status.cache.errors)
    manager:dispose()
  end, 300000))
end)
