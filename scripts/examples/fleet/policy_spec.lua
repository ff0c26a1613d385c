--- The policy of the fleet, without a server:
--
--     busted scripts/examples/fleet/policy_spec.lua

local mtenant = require "mtenant"
local testing = require "mtenant.testing"

local FILE = "scripts/examples/fleet/policy.lua"
local MOVED = 'SELECT "server" AS "server" FROM "moved" WHERE "id" = $1'


local function policy(servers, moved)
  return testing.policy(FILE, {
    servers = servers,
    shared = {
      [MOVED] = function(id)
        return { moved and moved[id] and { server = moved[id] } }
      end,
    },
  })
end


local function ids(n)
  local list = {}
  for i = 1, n do list[i] = "t" .. i end
  return list
end


describe("the fleet's policy", function()
  it("passes its own tests", function()
    assert.equal(2, policy({ "east", "west" }):selftest())
  end)

  it("spreads tenants evenly", function()
    local n = policy({ "east", "north", "west" }):distribution(ids(3000))
    for _, name in ipairs { "east", "north", "west" } do
      assert.is_true(n[name] > 900 and n[name] < 1100, name .. ": " .. n[name])
    end
  end)

  it("moves to a new server what it takes, and nobody else", function()
    local before = policy({ "east", "west" })
    local after = policy({ "east", "north", "west" })
    local moved = 0
    for _, id in ipairs(ids(3000)) do
      local from = assert(before:resolve(id)).server
      local to = assert(after:resolve(id)).server
      assert.truthy(from == to or to == "north")
      if from ~= to then moved = moved + 1 end
    end
    assert.is_true(moved > 900 and moved < 1100, moved)
  end)

  it("knows who was moved by hand", function()
    local p = policy({ "east", "north", "west" }, { t1 = "west", t2 = "east" })
    assert.equal("west", assert(p:resolve("t1")).server)
    assert.equal("east", assert(p:resolve("t2")).server)
    local notes = p:explain("t1")
    assert.equal("directory: a row of moved", notes[1])
  end)

  it("hears of a move", function()
    testing.run(function()
      local p, told = policy({ "east" }), {}
      local listening = mtenant.spawn(p.policy.invalidations, {
        shared = p.shared, sleep = mtenant.sleep,
      }, function(id) told[#told + 1] = id or "all" end)
      mtenant.sleep(1)
      p.shared:notify("moved", "t1")
      p.shared:lose()
      mtenant.sleep(1)
      listening:cancel()
      listening:await()
      assert.same({ "all", "t1", "all" }, told)
    end)
  end)
end)
