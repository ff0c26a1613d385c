--- mtenant route, mtenant policy: without a server, with one, and on a terminal.

local cjson = require "cjson"
local pg = require "tests.support.pg"
local program = require "tests.support.program"

local MTENANT = program.path:gsub("mtenant%-run$", "mtenant")

local TIERS = [[
local tiers = require "mtenant.policy.tiers"
return tiers.new {
  pinned = { acme = { server = "large", schema = "acme" } },
  tier = "^(%a+)%-",
  tiers = { eu = { server = "eu1", schema = "t_{id}", labels = { a = "1" } } },
  identify = function(request)
    return request.host and request.host:match("^(%w+)%."), "no host"
  end,
  ttl_ms = 5000,
  version = "7",
  selftest = {
    { tenant_id = "acme", route = { server = "large" } },
    { name = "nobody", tenant_id = "zork", error = "tenant_not_found" },
    { name = "by host", request = { host = "acme.example.com" },
      tenant_id = "acme" },
  },
}
]]

local HASHED = [[
return require("mtenant.policy.hashed").new { servers = { %s } }
]]

local ASKS = [[
return function(id, ctx)
  local schema, err = ctx.shared:value(
    "SELECT schema FROM customers WHERE id = $1", id)
  if err then return nil, err end
  if not schema then return nil, "no such customer" end
  ctx.note("customers says %s", schema)
  return { schema = schema }
end
]]

local SERVERS = " --servers large,eu1,a,b,c"


local function run(args, env, input)
  return program.run(args, { path = MTENANT, input = input,
                             env = "env -u DATABASE_URL " .. (env or "") })
end


local function good(args, env, input)
  local result = run(args, env, input)
  assert.same({ 0, "" }, { result.status, result.err }, result.out .. result.err)
  return result.out
end


local function objects(result)
  local list = {}
  for line in result.out:gmatch("[^\n]+") do
    list[#list + 1] = cjson.decode(line)
  end
  return list
end


local function many(n)
  local ids = {}
  for i = 1, n do ids[i] = "t" .. i end
  return table.concat(ids, "\n") .. "\n"
end


describe("mtenant route", function()
  before_each(function()
    program.set_up()
    program.write("tiers.lua", TIERS)
    program.write("asks.lua", ASKS)
  end)
  after_each(program.tear_down)

  it("shows a route, and why it is that one", function()
    assert.equal("tenant    eu-1\n"
      .. "server    eu1\n"
      .. "schema    t_eu-1\n"
      .. "strategy  schema\n"
      .. "labels    a=1, tier=eu\n"
      .. "policy    tiers.lua\n"
      .. "asked     just now; a manager keeps the answer for 5000 ms\n"
      .. "because\n"
      .. "  tiers: eu-1 is of tier eu\n",
      good("route eu-1 --policy tiers.lua --explain" .. SERVERS))
    assert.is_nil(good("route eu-1 --policy tiers.lua" .. SERVERS)
      :find("because", 1, true))
  end)

  it("shows it to programs", function()
    local object = objects(run("route --policy tiers.lua acme --json" .. SERVERS))
    assert.same({ {
      event = "route", tenant_id = "acme", success = true, policy = "tiers.lua",
      ttl_ms = 5000, notes = { "tiers: acme is pinned" },
      route = { server = "large", schema = "acme", strategy = "schema",
                labels = { tier = "pinned" } },
    } }, object)
  end)

  it("finds the tenant of a request", function()
    local out = good([[route --policy tiers.lua --request ]]
      .. [['{"host":"acme.example.com"}']] .. SERVERS)
    assert.matches("^tenant    acme\nserver    large\n", out)
    local result = run([[route --policy tiers.lua --request '{"path":"/"}']])
    assert.same({ 1, "", "no route: no host\n" },
                { result.status, result.out, result.err })
    for _, wrong in ipairs({ "'{'", "5", "''" }) do
      result = run("route --policy tiers.lua --request " .. wrong)
      assert.equal(2, result.status)
      assert.matches("^mtenant route: %-%-request takes a JSON object", result.err)
    end
  end)

  it("says why there is no route", function()
    local result = run("route --policy tiers.lua zork" .. SERVERS)
    assert.equal(1, result.status)
    assert.equal("no route: tiers: no tier for this tenant\n", result.err)
    local object = objects(run("route --policy tiers.lua zork --json" .. SERVERS))
    assert.is_false(object[1].success)
    assert.equal("tenant_not_found", object[1].error.code)
    result = run("route --policy tiers.lua ../etc" .. SERVERS)
    assert.equal(1, result.status)
    assert.matches("^no route: ", result.err)
  end)

  it("shows no password", function()
    program.write("url.lua", [[return function()
      return { url = "postgresql://u:secret@eu9/x?password=secret" }
    end]])
    for _, json in ipairs({ "", " --json" }) do
      local out = good("route --policy url.lua acme" .. json)
      assert.truthy(out:find("eu9", 1, true))
      assert.is_nil(out:find("secret", 1, true))
    end
  end)

  it("says that a policy needs a database, where none is named", function()
    local result = run("route --policy asks.lua acme")
    assert.equal(1, result.status)
    assert.equal("no route: the policy asks ctx.shared, and no database is named: "
      .. "use DATABASE_URL, --url or --config\n", result.err)
  end)

  it("wants to know which policy, and which tenant", function()
    local result = run("route acme")
    assert.equal(2, result.status)
    assert.matches("name a policy by %-%-policy FILE", result.err)
    result = run("route --policy tiers.lua")
    assert.equal(2, result.status)
    assert.matches("name a tenant, or a request by %-%-request", result.err)
    result = run("route acme --policy nothing.lua")
    assert.equal(1, result.status)
    assert.matches("no policy file: nothing.lua", result.err)
  end)

  describe("with a server", function()
    local server
    setup(function()
      server = pg.start()
      server:psql("CREATE TABLE customers (id text, schema text);"
        .. "INSERT INTO customers VALUES ('acme', 'acme_1');"
        .. "GRANT SELECT ON customers TO mtenant")
    end)
    teardown(function() server:close() end)

    it("asks it, by url, environment and configuration", function()
      local url = program.quote(server.url)
      local wanted = "^tenant    acme\nschema    acme_1\n.*\n"
        .. "because\n  customers says acme_1\n$"
      assert.matches(wanted, good("route acme --explain --policy asks.lua --url "
        .. url))
      assert.matches(wanted, good("route acme --explain --policy asks.lua",
        "DATABASE_URL=" .. url))
      program.write("tenant.config.lua", ([[return {
        connection = { url = %q }, policy = "asks.lua",
      }]]):format(server.url))
      assert.matches(wanted, good("route acme --explain"))
      local result = run("route globex")
      assert.equal(1, result.status)
      assert.equal("no route: no such customer\n", result.err)
    end)

    it("asks the configuration's own resolve, from below its folder", function()
      program.write("tenant.config.lua", ([[return {
        connection = { url = %q },
        resolve = function(id, ctx)
          return { schema = ctx.shared:value("SELECT $1::text || '_2'", id) }
        end,
      }]]):format(server.url))
      program.sh("mkdir " .. program.scratch() .. "/below")
      local result = program.run("-c 'cd below && exec "
        .. program.quote(MTENANT):gsub("'", "") .. " route acme'",
        { path = "sh" })
      assert.equal(0, result.status, result.err)
      assert.matches("^tenant    acme\nschema    acme_2\n", result.out)
    end)
  end)
end)


describe("mtenant policy check", function()
  before_each(program.set_up)
  after_each(program.tear_down)

  it("runs the self-tests", function()
    program.write("tiers.lua", TIERS)
    assert.equal("3 self-tests passed\n", good("policy check tiers.lua"))
    assert.equal("ok      acme\nok      nobody\nok      by host\n"
      .. "3 self-tests passed\n", good("policy check tiers.lua -v"))
    assert.equal("", good("policy check tiers.lua -q"))
    local list = objects(run("policy check tiers.lua --json"))
    assert.same({ event = "selftest", name = "acme", success = true }, list[1])
    assert.same({ event = "summary", total = 3, failed = 0, version = "7" },
                list[4])
  end)

  it("tells which ones fail", function()
    program.write("wrong.lua", [[return {
      resolve = function(id) return { schema = "t_" .. id } end,
      selftest = { { tenant_id = "a", route = { schema = "t_b" } },
                   { tenant_id = "c", route = { schema = "t_c" } } },
    }]])
    local result = run("policy check wrong.lua")
    assert.equal(1, result.status)
    assert.equal("1 of 2 self-tests failed\n", result.out)
    assert.equal("failed  a: route.schema is t_a, not t_b\n", result.err)
    local list = objects(run("policy check wrong.lua --json"))
    assert.is_false(list[1].success)
    assert.equal(1, list[3].failed)
  end)

  it("says what is wrong with a file", function()
    program.write("empty.lua", "return 5")
    program.write("syntax.lua", "return {")
    program.write("raises.lua", "error('on purpose')")
    program.write("none.lua", "return function() end")
    for _, name in ipairs({ "empty", "syntax", "raises", "nothing" }) do
      local result = run("policy check " .. name .. ".lua")
      assert.equal(1, result.status, name)
      assert.matches("^mtenant policy: [^\n]*" .. name .. "[^\n]*\n$", result.err)
    end
    assert.equal("it loads, and has no self-tests\n",
                 good("policy check none.lua"))
    assert.equal(2, run("policy check").status)
    assert.equal(2, run("policy frobnicate x.lua").status)
  end)
end)


describe("mtenant policy simulate", function()
  before_each(function()
    program.set_up()
    program.write("two.lua", HASHED:format('"a", "b"'))
    program.write("three.lua", HASHED:format('"a", "b", "c"'))
    program.write("ids", "# all of them\n\n" .. many(3000) .. "t1\n")
  end)
  after_each(program.tear_down)

  -- the tenants of each server of a chart
  local function counts(out)
    local found, total = {}, 0
    for name, n in out:gmatch("\n(%w+) +([%d,]+) +[%d.]+%%") do
      found[name] = tonumber((n:gsub(",", "")))
      total = total + found[name]
    end
    return found, total
  end

  it("draws how many tenants each server gets", function()
    local out = good("policy simulate three.lua --tenants ids" .. SERVERS)
    local found, total = counts("\n" .. out)
    assert.equal(3000, total)
    for _, name in ipairs({ "a", "b", "c" }) do
      assert.is_true(found[name] > 900 and found[name] < 1100, out)
      assert.matches("\n" .. name .. " +[%d,]+ +3%d%.%d%%  =+\n", out)
    end
    assert.matches("\n3,000 tenants on 3 servers; the fullest has 1%.%d%d of the "
      .. "mean\n$", out)
    assert.is_nil(out:find("\27", 1, true))
    for line in out:gmatch("[^\n]+") do assert.is_true(#line < 80, line) end
  end)

  it("fits the window", function()
    for _, columns in ipairs({ 40, 60, 120 }) do
      local out = good("policy simulate three.lua --tenants ids" .. SERVERS,
                       "COLUMNS=" .. columns)
      local longest = 0
      for line in out:gmatch("[^\n]+ +[%d.]+%%  =+") do
        longest = math.max(longest, #line)
      end
      assert.is_true(longest > 20 and longest < columns, longest)
    end
  end)

  it("has colour on a terminal, and none with NO_COLOR", function()
    local function on_terminal(env)
      local command = ("env -u DATABASE_URL TERM=xterm LC_ALL=C.UTF-8 %s %s "
        .. "policy simulate three.lua --tenants ids%s"):format(env,
        program.quote(MTENANT), SERVERS)
      return program.run("-qec " .. program.quote(command) .. " typescript",
                         { path = "script" }).out
    end
    local out = on_terminal("")
    assert.truthy(out:find("\27[36m━━━", 1, true), out)
    assert.is_nil(on_terminal("NO_COLOR=1"):find("\27%[[%d;]*m"))
  end)

  it("says who moves, and how many", function()
    local out = good("policy simulate three.lua --against two.lua --tenants -"
      .. SERVERS, nil, many(3000))
    local found = counts("\n" .. out)
    local moved = tonumber((out:match("\n([%d,]+) of 3,000 tenants move")
      :gsub(",", "")))
    assert.equal(found.c, moved)
    local a, b = out:match("a %-> c  (%d+)"), out:match("b %-> c  (%d+)")
    assert.equal(moved, a + b)
    assert.is_nil(out:find("a -> b", 1, true) or out:find("b -> a", 1, true))
    assert.matches("\n0 of 3,000 tenants move %(0%.0%%%) from three%.lua\n",
      good("policy simulate three.lua --against three.lua --tenants ids"
        .. SERVERS))
  end)

  it("names the ones that move", function()
    local result = run("policy simulate three.lua --against two.lua --tenants "
      .. "ids -v --json" .. SERVERS)
    local of, summary = {}, nil
    local n, moves = 0, 0
    for _, object in ipairs(objects(result)) do
      if object.event == "tenant" then
        assert.equal("c", object.to)
        assert.is_nil(of[object.tenant_id])
        of[object.tenant_id], n = object.from, n + 1
      elseif object.event == "move" then
        moves = moves + object.tenants
      elseif object.event == "summary" then
        summary = object
      end
    end
    assert.equal(n, moves)
    assert.equal(n, summary.moved)
    assert.equal(3000, summary.total)
    assert.equal(3, summary.servers)
  end)

  it("counts those that have no route", function()
    program.write("some.lua", [[return function(id)
      if id == "t1" then return nil, "unknown" end
      if id == "t2" then error("a bug") end
      return { server = "a" }
    end]])
    local result = run("policy simulate some.lua --tenants ids" .. SERVERS)
    assert.equal(1, result.status)
    assert.matches("\n1 not found\n", result.out)
    assert.matches("^some.lua: 1 failed, the first one: [^\n]*a bug", result.err)
    result = run("policy simulate three.lua --against some.lua --tenants ids"
      .. SERVERS)
    assert.equal(1, result.status)
    assert.matches("^some.lua: 1 failed", result.err)
  end)

  it("wants tenants", function()
    local result = run("policy simulate two.lua")
    assert.equal(2, result.status)
    assert.matches("say which tenants", result.err)
    program.write("empty", "\n# nobody\n")
    for _, name in ipairs({ "empty", "nothing" }) do
      result = run("policy simulate two.lua --tenants " .. name)
      assert.equal(1, result.status)
      assert.matches(name, result.err)
    end
  end)
end)
