--- The shipped policies in policy files: in the sandbox they answer what they
-- answer outside of it.

local crypto = require "mtenant.crypto"
local mtenant = require "mtenant"
local policies = require "mtenant.policy"
local testing = require "mtenant.testing"

-- tests run on machines that are busy
local LIMITS = { time_ms = 1000 }

local FILES = {
  static = [[
    local static = require "mtenant.policy.static"
    return static.new { routes = { t1 = { schema = "one" }, t2 = "us1" },
                        default = { server = "eu1", schema = "t_{id}" } }
  ]],
  template = [[
    return require("mtenant.policy.template").new {
      match = "^(t)(%d+)$", server = "{1}{2}", url = "postgresql://h/{id}",
      labels = { who = "{id}" },
    }
  ]],
  hashed = [[
    return require("mtenant.policy.hashed").new {
      servers = { a = 3, b = 1, c = 2 }, salt = "x", route = { schema = "{id}" },
    }
  ]],
  servers = [[ return require("mtenant.policy.hashed").new() ]],
  tiers = [[
    local hashed = require "mtenant.policy.hashed"
    return require("mtenant.policy.tiers").new {
      pinned = { t7 = "own" }, tier = function(id) return id:sub(-1) end,
      tiers = { ["3"] = "large" }, rest = hashed.new { servers = { "a", "b" } },
    }
  ]],
  regions = [[
    return require("mtenant.policy.regions").new {
      region = "^t(%d)", regions = { ["1"] = "eu1", ["2"] = "us1" },
    }
  ]],
  replicas = [[
    return require("mtenant.policy.replicas").new {
      primary = "eu1", replicas = { "eu1-a" }, max_lag_ms = 10,
    }
  ]],
  canary = [[
    return require("mtenant.policy.canary").new {
      percent = 30, canary = "new", stable = "old", include = { "t5" },
    }
  ]],
  fallback = [[
    local static = require "mtenant.policy.static"
    return require("mtenant.policy.fallback").new {
      policies = { static.new { routes = { t1 = "moved" } }, "rest" },
    }
  ]],
  directory = [[
    return require("mtenant.policy.directory").new { label = "plan" }
  ]],
}


local function context()
  local notes = {}
  return {
    hash = crypto.unit, servers = { "a", "b", "c" }, notes = notes,
    shared = testing.shared(function(_, id)
      if id == "t9" then return nil, testing.error { code = "connection_lost" } end
      if id == "t8" then return {} end
      return { { server = "s_" .. id, mtenant_label = "pro" } }
    end),
    note = function(fmt, ...) notes[#notes + 1] = fmt:format(...) end,
  }
end


local function answer(policy, id)
  local ctx = context()
  local ok, route, reason = pcall(policy.resolve, id, ctx)
  if type(reason) == "table" then reason = reason.code end
  -- what is raised in there comes out as an error of code policy
  if not ok then return { raised = true } end
  if route == nil and reason == "policy" then return { raised = true } end
  return { route = route, reason = reason, notes = ctx.notes }
end


local function in_file(text, fn)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  local policy, err = policies.load(path, LIMITS)
  os.remove(path)
  assert(policy, tostring(err))
  testing.run(function() fn(policy) end)
  policy.close()
end


describe("in the sandbox", function()
  for name, text in pairs(FILES) do
    it(name .. " answers as outside of it", function()
      local outside = (rawget(_G, "loadstring") or load)(text)()
      in_file(text, function(inside)
        for i = 1, 300 do
          local id = "t" .. i
          assert.same(answer(outside, id), answer(inside, id), id)
        end
        assert.same(answer(outside, "x"), answer(inside, "x"))
        assert.equal(outside.ttl_ms, inside.ttl_ms)
      end)
    end)
  end

  it("options are refused with their names", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write('return require("mtenant.policy.hashed").new { server = {} }')
    file:close()
    local policy, err = policies.load(path, LIMITS)
    os.remove(path)
    assert.is_nil(policy)
    assert.equal("policy", err.code)
    assert.truthy(err.message:find("policy.hashed: server is no option, these are: "
      .. "identify, key, ", 1, true), err.message)
  end)

  it("the directory listens", function()
    in_file(FILES.directory, function(policy)
      local shared, told = testing.shared {}, {}
      local listening = mtenant.spawn(policy.invalidations, {
        shared = shared, sleep = mtenant.sleep, servers = {},
      }, function(id) told[#told + 1] = id or "all" end)
      mtenant.sleep(10)
      assert.equal(1, shared:listeners())
      shared:notify("mtenant_tenants", "acme")
      shared:lose()
      mtenant.sleep(10)
      listening:cancel()
      listening:await()
      assert.same({ "all", "acme", "all" }, told)
      assert.equal(0, shared:listeners())
    end)
  end)
end)
