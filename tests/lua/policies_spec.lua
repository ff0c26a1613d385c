--- The shipped policies, by themselves: what they answer, and what they refuse.
-- In a manager, on servers: integration/policies_spec.lua; in the sandbox as well.

local canary = require "mtenant.policy.canary"
local errors = require "mtenant.errors"
local fallback = require "mtenant.policy.fallback"
local hashed = require "mtenant.policy.hashed"
local policies = require "tests.support.policies"
local regions = require "mtenant.policy.regions"
local replicas = require "mtenant.policy.replicas"
local static = require "mtenant.policy.static"
local template = require "mtenant.policy.template"
local tiers = require "mtenant.policy.tiers"


local TENANTS = 10000
local context, resolve = policies.context, policies.resolve


-- tenant to server, for tenants t1 to t10000; and how many each server has
local function places(policy)
  local of, count, ctx = {}, {}, context()
  for i = 1, TENANTS do
    local id = "t" .. i
    local server = assert(policy.resolve(id, ctx)).server
    of[id] = server
    count[server] = (count[server] or 0) + 1
  end
  return of, count
end


-- how many tenants two policies disagree about; every pair of servers by count
local function moves(before, after)
  local n, pairs_of = 0, {}
  for id, server in pairs(before) do
    if after[id] ~= server then
      local name = server .. " -> " .. after[id]
      n, pairs_of[name] = n + 1, (pairs_of[name] or 0) + 1
    end
  end
  return n, pairs_of
end


local function refuses(message, new, opts)
  local ok, err = pcall(function()
    new(opts)
  end)
  assert.is_false(ok)
  assert.truthy(tostring(err):find(message, 1, true), tostring(err))
  assert.truthy(tostring(err):find("policies_spec.lua:%d+: %[mtenant%] policy"),
                tostring(err))
end


describe("options of policies", function()
  it("are refused with their names, at the caller", function()
    refuses("policy.static: options must be a table, got nil", static.new)
    refuses("policy.static: routes is required", static.new, {})
    refuses("policy.static: routes must be a table, got string", static.new,
            { routes = "x" })
    refuses("policy.static: rotues is no option, these are: default, identify, ",
            static.new, { rotues = {} })
    refuses("policy.canary: percent must be from 0 to 100, got 101", canary.new,
            { percent = 101, canary = "a", stable = "b" })
    refuses("policy.canary: percent must be from 0 to 100, got ", canary.new,
            { percent = 0 / 0, canary = "a", stable = "b" })
    refuses("policy.tiers: tier must be a function or a table or a string, got "
      .. "number", tiers.new, { tier = 5 })
    refuses("policy.replicas: primary must be a policy, got number",
            replicas.new, { primary = 5, replicas = {} })
    refuses("policy.replicas: replicas.eu1 must be a list, got string",
            replicas.new, { primary = "eu1", replicas = { eu1 = "eu1-a" } })
    refuses("policy.template: a field of a route is required", template.new, {})
    refuses("policy.hashed: servers must be names", hashed.new,
            { servers = { a = -1 } })
    refuses("policy.hashed: servers must be names", hashed.new,
            { servers = { a = 0 / 0 } })
    refuses("policy.hashed: servers names none", hashed.new,
            { servers = { a = 0 } })
    refuses("policy.fallback: policies names none", fallback.new,
            { policies = {} })
    refuses("policy.fallback: on_error must be", fallback.new,
            { policies = { "a" }, on_error = "go on" })
    refuses("policy.regions: default is none of the regions", regions.new,
            { region = "^(%a+)", regions = { eu = "eu1" }, default = "us" })
    refuses("policy.static: ttl_ms must be from 0", static.new,
            { routes = {}, ttl_ms = -1 })
  end)

  it("of the engine are passed on, and the shortest time of inner ones",
     function()
    local function identify() end
    local inner = static.new { routes = {}, ttl_ms = 500,
                               negative_ttl_ms = 20 }
    local outer = fallback.new { policies = { inner, "eu1" },
                                 identify = identify, version = "3",
                                 selftest = { {} } }
    assert.equal(500, outer.ttl_ms)
    assert.equal(20, outer.negative_ttl_ms)
    assert.equal(identify, outer.identify)
    assert.equal("3", outer.version)
    assert.equal(1, #outer.selftest)
    assert.equal(9, fallback.new({ policies = { inner }, ttl_ms = 9 }).ttl_ms)
  end)
end)


describe("policy static", function()
  it("looks a tenant up, and has a default", function()
    local policy = static.new {
      routes = {
        acme = { server = "eu1", schema = "acme" },
        globex = "us1",
        initech = function(id) return { schema = id .. "_x" } end,
      },
      default = { server = "eu2", schema = "t_{id}" },
    }
    assert.same({ server = "eu1", schema = "acme" }, resolve(policy, "acme"))
    assert.same({ server = "us1" }, resolve(policy, "globex"))
    assert.same({ schema = "initech_x" }, resolve(policy, "initech"))
    assert.same({ server = "eu2", schema = "t_hooli" }, resolve(policy, "hooli"))
  end)

  it("does not find others without one, and gives no table away", function()
    local policy = static.new { routes = { acme = { schema = "acme" } } }
    local route, reason = resolve(policy, "globex")
    assert.is_nil(route)
    assert.equal("static: no tenant of this id", reason)
    resolve(policy, "acme").schema = "changed"
    assert.equal("acme", resolve(policy, "acme").schema)
  end)
end)


describe("policy template", function()
  it("puts the id into every text", function()
    local policy = template.new {
      server = "eu1", schema = "t_{id}", settings = { ["app.id"] = "{id}/{id}" },
      labels = { who = "{id}" }, pool = { max = 3 }, route_ttl_ms = 5,
    }
    assert.same({ server = "eu1", schema = "t_a%1", pool = { max = 3 },
                  settings = { ["app.id"] = "a%1/a%1" }, ttl_ms = 5,
                  labels = { who = "a%1" } }, resolve(policy, "a%1"))
  end)

  it("encodes it in a url", function()
    local policy = template.new { url = "postgresql://db/{id}?x=1" }
    assert.equal("postgresql://db/a%3Fhost%3Devil%2F?x=1",
                 resolve(policy, "a?host=evil/").url)
  end)

  it("takes an id apart", function()
    local policy = template.new { match = "^(%l+)%-(%d+)$", server = "{1}",
                                  schema = "t{2}_{id}" }
    assert.same({ server = "eu", schema = "t42_eu-42" }, resolve(policy, "eu-42"))
    local route, reason = resolve(policy, "eu42")
    assert.is_nil(route)
    assert.equal("template: the id does not match ^(%l+)%-(%d+)$", reason)
  end)
end)


describe("policy hashed", function()
  local two = hashed.new { servers = { "a", "b" } }
  local three = hashed.new { servers = { "a", "b", "c" } }

  it("gives each server its share, the same in every process", function()
    local _, count = places(three)
    assert.same({ a = 3326, b = 3289, c = 3385 }, count)
    assert.equal("c", resolve(three, "acme").server)
  end)

  it("moves to a new server what it takes, and nobody else", function()
    local before, after = places(two), places(three)
    local n, by = moves(before, after)
    local _, count = places(three)
    assert.equal(count.c, n)
    assert.equal(n, by["a -> c"] + by["b -> c"])
    assert.is_nil(by["a -> b"] or by["b -> a"])
  end)

  it("moves from a server that goes its tenants, and nobody else", function()
    local before = places(three)
    local _, by = moves(before, (places(two)))
    assert.is_nil(by["a -> b"] or by["b -> a"])
    local _, count = places(three)
    assert.equal(count.c, by["c -> a"] + by["c -> b"])
  end)

  it("goes by weights", function()
    local _, count = places(hashed.new { servers = { a = 3, b = 1 } })
    assert.equal(TENANTS, count.a + count.b)
    assert.same({ a = 7531, b = 2469 }, count)
    -- all weights doubled are the same weights
    local n = moves((places(hashed.new { servers = { a = 3, b = 1 } })),
                    (places(hashed.new { servers = { a = 6, b = 2 } })))
    assert.equal(0, n)
    -- more weight takes tenants, and gives none
    local _, by = moves((places(two)),
                        (places(hashed.new { servers = { a = 2, b = 1 } })))
    assert.is_nil(by["a -> b"])
    assert.is_true(by["b -> a"] > 0)
  end)

  it("has nobody on a server of no weight, whose tenants alone move", function()
    local drained = hashed.new { servers = { a = 1, b = 1, c = 0 } }
    assert.equal(0, moves((places(drained)), (places(two))))
  end)

  it("does not go by the order of the names", function()
    local other = hashed.new { servers = { "c", "a", "b" } }
    assert.equal(0, moves((places(three)), (places(other))))
  end)

  it("deals anew with another salt, and keeps together what has one key",
     function()
    local salted = hashed.new { servers = { "a", "b", "c" }, salt = "2" }
    local n = moves((places(three)), (places(salted)))
    assert.is_true(n > TENANTS * 0.6 and n < TENANTS * 0.73, n)
    local keyed = hashed.new { servers = { "a", "b", "c" },
                               key = function(id) return id:match("^%a+") end }
    local _, count = places(keyed)
    assert.equal(TENANTS, select(2, next(count)))
  end)

  it("takes the configuration's servers, and the rest of the route", function()
    local policy = hashed.new { route = { schema = "t_{id}" } }
    local route = resolve(policy, "acme", { servers = { "a", "b", "c" } })
    assert.same({ server = resolve(three, "acme").server, schema = "t_acme" },
                route)
    local ok, err = pcall(resolve, policy, "acme")
    assert.is_false(ok)
    assert.equal("[mtenant] policy.hashed: the configuration has no servers", err)
  end)
end)


describe("policy tiers", function()
  local policy = tiers.new {
    pinned = { acme = "own" },
    tier = function(id, ctx)
      return ctx.shared:value("SELECT plan FROM customers WHERE id = $1", id)
    end,
    tiers = { enterprise = { server = "large", schema = "e_{id}",
                             labels = { sla = "gold" } } },
    rest = hashed.new { servers = { "a", "b" } },
  }

  local function ask(id, plan)
    return resolve(policy, id, { shared = {
      value = function(_, _, given)
        assert.equal(id, given)
        return plan
      end,
    } })
  end

  it("pins some, places others by their tier, and hashes the rest", function()
    assert.same({ server = "own", labels = { tier = "pinned" } }, ask("acme"))
    assert.same({ server = "large", schema = "e_globex",
                  labels = { tier = "enterprise", sla = "gold" } },
                ask("globex", "enterprise"))
    local free = ask("initech", "free")
    assert.equal("free", free.labels.tier)
    assert.truthy(free.server == "a" or free.server == "b")
    assert.equal("rest", ask("initech").labels.tier)
  end)

  it("fails with who could not tell the tier", function()
    local down = errors.new("connection_lost", "gone")
    local route, err = resolve(policy, "globex", { shared = {
      value = function() return nil, down end,
    } })
    assert.is_nil(route)
    assert.equal(down, err)
  end)

  it("does not find others where there is no rest", function()
    local strict = tiers.new { tier = { acme = "x" }, tiers = { x = "a" } }
    assert.equal("a", resolve(strict, "acme").server)
    local route, reason = resolve(strict, "globex")
    assert.is_nil(route)
    assert.equal("tiers: no tier for this tenant", reason)
  end)
end)


describe("policy regions", function()
  local policy = regions.new {
    region = "^(%a+)%-",
    regions = { eu = { server = "eu1", schema = "t_{id}" }, us = "us1" },
    default = "eu",
  }

  it("stays in the tenant's region", function()
    assert.same({ server = "eu1", schema = "t_eu-acme",
                  labels = { region = "eu" } }, resolve(policy, "eu-acme"))
    assert.same({ server = "us1", labels = { region = "us" } },
                resolve(policy, "us-acme"))
    assert.equal("eu1", resolve(policy, "acme").server)
  end)

  it("fails for a region without servers, and goes to no other", function()
    local ok, err = pcall(resolve, policy, "cn-acme")
    assert.is_false(ok)
    assert.equal("[mtenant] policy.regions: cn-acme is in region cn, which has no "
      .. "servers", err)
    local strict = regions.new { region = { acme = "eu" },
                                 regions = { eu = "eu1" } }
    assert.equal("eu1", resolve(strict, "acme").server)
    assert.is_nil((resolve(strict, "globex")))
  end)
end)


describe("policy replicas", function()
  it("says where reads may go", function()
    local policy = replicas.new {
      primary = { server = "eu1", schema = "t_{id}" },
      replicas = { "eu1-a", { url = "postgresql://b/" } },
      max_lag_ms = 500,
    }
    assert.same({ server = "eu1", schema = "t_acme", read = {
      "eu1-a", { url = "postgresql://b/" }, max_lag_ms = 500,
      read_your_writes = true } }, resolve(policy, "acme"))
  end)

  it("goes by the primary's name", function()
    local policy = replicas.new {
      primary = static.new { routes = { acme = "eu1", globex = "us1" } },
      replicas = { eu1 = { "eu1-a" } },
      read_your_writes = false,
    }
    assert.same({ "eu1-a", read_your_writes = false },
                resolve(policy, "acme").read)
    assert.same({ server = "us1" }, resolve(policy, "globex"))
    assert.is_nil((resolve(policy, "initech")))
  end)
end)


describe("policy canary", function()
  local function ring(percent, more)
    local opts = { percent = percent, canary = "new", stable = "old" }
    for key, value in pairs(more or {}) do opts[key] = value end
    return canary.new(opts)
  end

  it("takes its part, exactly the same one always", function()
    local _, count = places(ring(5))
    assert.same({ new = 480, old = 9520 }, count)
    assert.same({ old = TENANTS }, select(2, places(ring(0))))
    assert.same({ new = TENANTS }, select(2, places(ring(100))))
  end)

  it("keeps who is in it when it grows", function()
    local few, many = places(ring(5)), places(ring(20))
    local _, by = moves(few, many)
    assert.is_nil(by["new -> old"])
    assert.is_true(by["old -> new"] > 1200)
  end)

  it("chooses others with another salt", function()
    local one, other = places(ring(10)), places(ring(10, { salt = "other" }))
    local both = 0
    for id, server in pairs(one) do
      if server == "new" and other[id] == "new" then both = both + 1 end
    end
    assert.is_true(both > 50 and both < 150, both) -- a tenth of a tenth
  end)

  it("has its lists, of which the exclusion wins", function()
    local policy = ring(50, { include = { "a", "b" }, exclude = { "b", "t1" } })
    assert.same({ server = "new", labels = { ring = "canary" } },
                resolve(policy, "a"))
    assert.same({ server = "old", labels = { ring = "stable" } },
                resolve(policy, "b"))
    assert.equal("old", resolve(policy, "t1").server)
  end)

  it("says why", function()
    local ctx = context()
    ring(5).resolve("acme", ctx)
    assert.matches("^canary: acme is stable: its place is %d+%.%d%d of 100, the "
      .. "part is 5$", ctx.notes[1])
  end)
end)
