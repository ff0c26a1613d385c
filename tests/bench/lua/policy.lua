-- What a call of a sandboxed policy costs that does no I/O and is not cached:
-- microseconds of processor time a call, and their spread over the rounds.
--
--     lua5.4 tests/bench/lua/policy.lua      with the module in LUA_CPATH
--
-- No server is needed.

local sandbox = require "mtenant.policy.sandbox"

local CALLS, ROUNDS = 50000, 7

local POLICIES = {
  { "returns a constant route", [[
    local route = { server = "eu1" }
    return function() return route end]] },
  { "a route of two fields", [[
    return function(id)
      return { server = "eu1", schema = "tenant_" .. id }
    end]] },
  { "a table, a pattern, a hash", [[
    local crypto = require "mtenant.crypto"
    local pinned = { acme = "eu2" }
    return function(id, ctx)
      local region = id:match("^(%l+)%-") or "eu"
      local server = pinned[id] or
        region .. math.floor(ctx.hash(id) * 3) + 1
      return { server = server, schema = "tenant_" .. id,
               labels = { region = region } }
    end]] },
  { "weights of ten servers", [[
    local names = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j" }
    return function(id, ctx)
      local best, weight = nil, -1
      for i = 1, #names do
        local w = ctx.hash(names[i] .. "/" .. id)
        if w > weight then best, weight = names[i], w end
      end
      return { server = best }
    end]] },
}


local function round(policy, ids)
  local started = os.clock()
  for i = 1, CALLS do
    assert(policy.resolve(ids[i % #ids + 1]))
  end
  return (os.clock() - started) / CALLS * 1e6
end


local ids = {}
for i = 1, 1000 do ids[i] = ("eu-tenant%d"):format(i) end

for _, case in ipairs(POLICIES) do
  local policy = assert(sandbox.load(case[2], { name = case[1] }))
  local times = {}
  for i = 1, ROUNDS do times[i] = round(policy, ids) end
  table.sort(times)
  print(("%-28s %5.2f us (%.2f to %.2f), %d KiB"):format(case[1],
    times[(ROUNDS + 1) / 2], times[1], times[ROUNDS],
    math.floor(policy:stats().memory_bytes / 1024)))
  policy:close()
end
