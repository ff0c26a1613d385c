--- Ways to hold the loop, or to eat the memory, from within a policy file: each
--- is stopped in time, and nobody else notices. Collected from write-ups and
--- from the sources of Lua 5.4 and LuaJIT.

local mtenant = require "mtenant"
local sandbox = require "mtenant.policy.sandbox"

local jit = rawget(_G, "jit")
-- the time is the processor's; sanitizers and valgrind take more of it
local SLOW = os.getenv("ASAN_OPTIONS") and 8 or 1


local function load_policy(body, opts)
  local policy, err = sandbox.load(
    "return function(id, ctx)\n" .. body .. "\nend", opts or { name = "e.lua" })
  return assert(policy, tostring(err))
end


-- ---- holding the loop --------------------------------------------------------------

--- Each runs for ever, or would; the loop goes on within 20 ms of Lua code.
local ENDLESS = {
  ["while"] = "while true do end",
  ["goto"] = jit and "for i = 1, math.huge do end" or "::a:: goto a",
  ["repeat"] = "repeat until false",
  ["a loop in pcall in a loop"] =
    "while true do pcall(function() while true do end end) end",
  ["nested pcalls"] = [[
    local function f() pcall(f) while true do end end
    while true do pcall(f) end]],
  ["pcall(pcall, ...)"] = [[
    local function f() while true do end end
    while true do pcall(pcall, pcall, f) end]],
  ["the handler of xpcall"] = [[
    xpcall(function() while true do end end, function() while true do end end)
    while true do end]],
  ["a handler that fails, and its handler"] = [[
    local function h() xpcall(error, h) end
    while true do xpcall(function() while true do end end, h) end]],
  ["recursion"] = "local function f() return f() end f()",
  ["__index"] = [[
    local t = setmetatable({}, { __index = function(t, k) return t[k + 1] end })
    while true do pcall(function() return t[1] end) end]],
  ["__eq, __lt, __concat and __call"] = [[
    local mt = {}
    local a, b = setmetatable({}, mt), setmetatable({}, mt)
    mt.__eq = function() while true do end end
    mt.__lt, mt.__concat, mt.__call = mt.__eq, mt.__eq, mt.__eq
    pcall(function() return a == b end)
    pcall(function() return a < b end)
    pcall(function() return a .. b end)
    a()]],
  ["__tostring"] = [[
    tostring(setmetatable({}, { __tostring = function() while true do end end }))]],
  ["__tostring in format"] = [[
    ("%s"):format(setmetatable({}, { __tostring = function() while true do end end }))]],
  ["__close"] = jit and "while true do end" or [[
    local mt = { __close = function() while true do end end }
    local function f() local x <close> = setmetatable({}, mt) error("x") end
    while true do pcall(f) end]],
  ["__close of what is given up"] = jit and "while true do end" or [[
    local mt = { __close = function() while true do end end }
    local x <close> = setmetatable({}, mt)
    while true do end]],
  ["an iterator"] = "for _ in function() return 1 end do end",
  ["a pattern that backtracks"] =
    "return { ('a'):rep(3000):find(('a*'):rep(20) .. 'b') }",
  ["a pattern of many optional items"] =
    "return { ('a'):rep(60):match(('a?'):rep(60) .. ('a'):rep(60) .. 'b') }",
  ["a pattern with ends"] =
    "return { ('x'):rep(100000):match('.-.-.-.-y') }",
  ["a pattern with captures"] =
    "return { ('ab'):rep(5000):match('^(.-)(.-)(.-)(.-)%1%2%3c') }",
  ["gsub and a pattern"] =
    "return { ('a'):rep(50000):gsub('a*a*a*b', '') }",
  ["gmatch and a pattern"] =
    "for _ in ('a'):rep(50000):gmatch('a-a-a-b') do end return {}",
  ["%b"] = "while true do ('('):rep(30000):find('%b()') end",
  ["the function of gsub"] =
    "return { ('a'):rep(10):gsub('a', function() while true do end end) }",
  ["the order of sort"] = [[
    local t = {} for i = 1, 1000 do t[i] = i end
    while true do table.sort(t, function(a, b) return true end) end]],
  ["sort of many texts"] = [[
    local s = ("x"):rep(10000)
    local t = {} for i = 1, 500 do t[i] = s .. i end
    while true do table.sort(t) end]],
  ["sort by a function of C"] = [[
    local t = {} for i = 1, 100000 do t[i] = {} end
    while true do pcall(table.sort, t, rawequal) end]],
  ["insert at the front"] = [[
    local t = {} for i = 1, 100000 do t[i] = i end
    while true do table.insert(t, 1, 0) table.remove(t, 1) end]],
  ["next in a table that was emptied"] = [[
    local t = {} for i = 1, 60000 do t["k" .. i] = true end
    for k in pairs(t) do t[k] = nil end
    while true do next(t) end]],
  ["comparing long texts"] = [[
    local a, b = ("x"):rep(2.5e5) .. "a", ("x"):rep(2.5e5) .. "b"
    while true do local c = a < b or a == b end]],
  ["long texts as keys"] = [[
    local s, t = ("x"):rep(2.5e5), {}
    local i = 0
    while true do i = i + 1 local x = t[s .. i] end]],
  ["texts as numbers"] = [[
    local s = ("1"):rep(2.5e5)
    while true do pcall(function() return s + 1 end) end]],
  ["tonumber of long texts"] =
    "local s = ('9'):rep(2.5e5) while true do tonumber(s) tonumber(s, 16) end",
  ["format"] =
    "local s = ('x'):rep(1e5) while true do ('%q%s'):format(s, s) end",
  ["lower, upper and reverse"] =
    "local s = ('x'):rep(2.5e5) while true do s:lower():upper():reverse() end",
  ["sums of long texts"] = [[
    local c, s = require "mtenant.crypto", ("x"):rep(2.5e5)
    while true do c.sha256(s) c.hmac_sha256(s, s) c.base64url_encode(s) end]],
  ["keys that are none"] = [[
    local c, s = require "mtenant.crypto", ("-----BEGIN PUBLIC KEY-----\n"):rep(500)
    while true do c.verify_rs256(s, "", "") end]],
  ["weak tables in a chain"] = [[
    local mt, t, prev = { __mode = "k" }, {}, {}
    for i = 1, 1e9 do
      local key = {}
      local e = setmetatable({}, mt)
      e[prev], t[i], prev = key, e, key
    end]],
  ["asking the host, again and again"] =
    "while true do pcall(require, 'x') end",
  ["dates"] = "while true do os.date(('%c'):rep(100)) end",
  ["concat of many"] = [[
    local t = {} for i = 1, 200000 do t[i] = "" end
    while true do table.concat(t) end]],
  -- not endless, but refused within the same time
  ["a text of 2 GiB"] = "return { s = ('x'):rep(2 ^ 31) }",
  ["a text that doubles"] = "local s = 'x' while true do s = s .. s end",
  ["a malformed pattern"] = "return { ('x'):find('[') }",
}


-- Beats while the body runs. The longest time between two beats, of the
-- processor's, in ms.
local function longest_gap(fn)
  local longest, last, over = 0, os.clock(), false
  local heart = mtenant.spawn(function()
    while not over do
      local now = os.clock()
      longest, last = math.max(longest, now - last), now
      mtenant.sleep(1)
    end
  end)
  mtenant.sleep(3)
  fn()
  mtenant.sleep(3)
  over = true
  heart:await()
  return longest * 1000
end


describe("a policy that does not end", function()
  for name, body in pairs(ENDLESS) do
    it("is stopped: " .. name, function()
      mtenant.run(function()
        local policy = load_policy(body, { name = "e.lua", time_ms = 10 })
        local other = load_policy("return { server = 'eu1' }")
        local route, err
        local gap = longest_gap(function()
          route, err = policy.resolve("acme", { sleep = mtenant.sleep })
        end)
        assert.is_nil(route)
        assert.equal("policy", err.code)
        assert.is_true(gap < 20 * SLOW, ("%.1f ms: %s"):format(gap, err.message))
        -- it is as good as before, and so are others
        assert.equal("eu1", other.resolve("acme", {}).server)
        local again
        again, err = policy.resolve("acme", {})
        assert.is_nil(again)
        assert.equal("policy", err.code)
        policy:close()
        other:close()
      end)
    end)
  end
end)


-- ---- eating the memory --------------------------------------------------------------

local HUNGRY = {
  ["2 GiB by rep"] = "return { s = ('x'):rep(2 ^ 31) }",
  ["2 GiB by rep of a separator"] = "return { s = (''):rep(2 ^ 31, 'xx') }",
  ["doubling"] = "local s = 'x' while true do s = s .. s end",
  ["doubling in pcall"] = [[
    local s = "x"
    while true do pcall(function() s = s .. s end) end]],
  ["tables"] = "local t = {} for i = 1, 1e9 do t[i] = { i } end",
  ["keys"] = "local t = {} for i = 1, 1e9 do t[i * 1.5] = i end",
  ["an array"] = "local t = {} for i = 1, 1e9 do t[i] = i end",
  ["closures"] = [[
    local f
    while true do local g = f f = function() return g end end]],
  ["concat"] = [[
    local t, s = {}, ("x"):rep(2e5)
    for i = 1, 3000 do t[i] = s end
    return { s = table.concat(t) }]],
  ["gsub"] = "return { s = ('x'):rep(2e5):gsub('x', ('y'):rep(1e4)) }",
  ["format"] = [[
    local s = ("x"):rep(2e5)
    return { s = ("%s%s%s%s%s%s%s%s"):format(s, s, s, s, s, s, s, s) }]],
  ["recursion"] = "local function f(n) return 1 + f(n + 1) end f(1)",
  ["recursion in pcall"] = [[
    local function f() pcall(f) f() end
    f()]],
  ["recursion in sort"] = [[
    local function f() table.sort({ 1, 2, 3 }, f) return false end
    f()]],
  ["recursion in gsub"] = [[
    local function f() return (("x"):gsub("x", f)) end
    f()]],
  ["recursion in __index"] = [[
    local t = {}
    setmetatable(t, { __index = function(_, k) return t[k .. "x"] end })
    return { t.a }]],
  ["a chain of __index"] = [[
    local t = {}
    setmetatable(t, { __index = t })
    return { t.a.b }]],
  ["unpack"] = [[
    local t = {} for i = 1, 1e5 do t[i] = i end
    return { table.unpack(t) }]],
  ["varargs"] = [[
    local function f(...) return f(1, 2, 3, 4, 5, 6, 7, 8, ...) end
    f()]],
}

describe("a policy that takes much memory", function()
  for name, body in pairs(HUNGRY) do
    it("is stopped: " .. name, function()
      mtenant.run(function()
        local policy = load_policy("if id == 'good' then return {} end\n"
          .. body, { name = "e.lua", memory_bytes = 4 * 2 ^ 20, time_ms = 100 })
        local before = collectgarbage("count")
        local route, err = policy.resolve("acme", {})
        assert.is_nil(route)
        assert.equal("policy", err.code)
        assert.is_true(collectgarbage("count") < before + 2048)
        assert.is_true(policy:stats().peak_bytes <= 4 * 2 ^ 20)
        -- another state is made where it was short of memory
        assert.same({}, (policy.resolve("good", {})))
        policy:close()
      end)
    end)
  end
end)


-- ---- absurd arguments -----------------------------------------------------------------

--- All of them end at once, with any result.
local ABSURD = [[
  local big = setmetatable({}, { __len = function() return 2 ^ 53 end,
                                 __index = function() return "" end })
  local lying = setmetatable({}, { __index = rawget, __newindex = rawset,
                                   __len = function() return 1e9 end })
  local calls = {
    function() return (""):rep(1e9) end, function() return (""):rep(1 / 0) end,
    function() return ("x"):rep(-1e300) end, function() return ("x"):rep(0 / 0) end,
    function() return ("x"):rep(1e9, "") end, function() return ("x"):rep("1e9") end,
    function() return ("%99999999d"):format(1) end,
    function() return ("%.99999999f"):format(1) end,
    function() return ("%099.99f"):format(1e308) end,
    function() return ("%s"):format() end, function() return ("%"):format(1) end,
    function() return ("%y"):format(1) end,
    function() return ("x"):byte(1, 1e9) end,
    function() return ("x"):byte(-1e300, 1e300) end,
    function() return ("x"):byte(0 / 0, 0 / 0) end,
    function() return ("x"):sub(-1e300, 1e300) end,
    function() return string.char(table.unpack({}, 1, 1e8)) end,
    function() return table.concat({}, "", 1, 2 ^ 53) end,
    function() return table.concat(big) end,
    function() return table.concat(lying, "", 1, 1e9) end,
    function() return table.concat({}, "", -2 ^ 53, 2 ^ 53) end,
    function() return table.concat({}, "", 0 / 0, 5) end,
    function() return table.unpack({}, 1, 1e9) end,
    function() return table.unpack({}, -2 ^ 31, 2 ^ 31) end,
    function() return table.unpack({}, 0 / 0, 5) end,
    function() return table.move({}, 1, 2 ^ 53, 2) end,
    function() return table.move({}, -2 ^ 53, 0, 2) end,
    function() return table.move({}, 0 / 0, 5, 2) end,
    function() return table.move(big, 1, 1e9, 2) end,
    function() return table.insert({ 1 }, -1e9, 1) end,
    function() return table.insert({ 1 }, 1e9, 1) end,
    function() return table.insert({ 1 }, 0 / 0, 1) end,
    function() return table.insert(big, 1, 1) end,
    function() return table.insert(lying, 1, 1) end,
    function() return table.remove({ 1 }, -1e9) end,
    function() return table.remove({ 1 }, 1e9) end,
    function() return table.remove(big, 1) end,
    function() return table.sort(big) end,
    function() return table.sort({ 3, 1, "x" }) end,
    function() return select(-1e9) end, function() return select(1e9, 1) end,
    function() return ("x"):find("x", 1e300) end,
    function() return ("x"):find("x", -1e300) end,
    function() return ("x"):find("x", 0 / 0) end,
    function() return ("x"):find("[") end, function() return ("x"):find("%") end,
    function() return ("x"):find("(") end, function() return ("x"):find(")") end,
    function() return ("x"):find("[%") end, function() return ("x"):find("%f") end,
    function() return ("x"):find("%b") end, function() return ("x"):find("%1") end,
    function() return ("x"):find("(%1)") end,
    function() return ("x"):find(("("):rep(40)) end,
    function() return ("x"):rep(300):find(("x"):rep(300)) end,
    function() return ("x"):find(("(x"):rep(250)) end,
    function() return ("x"):gsub("x", "%") end,
    function() return ("x"):gsub("x", "%9") end,
    function() return ("x"):gsub("", "y", -1) end,
    function() return ("x"):gsub("x", {}, 0 / 0) end,
    function() return os.date("%c", 1e300) end,
    function() return os.date("*t", -1e300) end,
    function() return os.date(("%c"):rep(1000)) end,
    function() return os.date("%Ez%") end,
    function() return os.time({ year = 1e300, month = 1, day = 1 }) end,
    function() return collectgarbage("stop") end,
    function() return collectgarbage("setpause", 1e6) end,
    function() return collectgarbage("incremental") end,
    function() return collectgarbage() end,
    function() return math.random(0) end, function() return math.random(2, 1) end,
    function() return tostring(setmetatable({}, { __tostring = error })) end,
    function() return tostring(setmetatable({}, { __name = {} })) end,
    function() local t = {} t[t] = t return tostring(t) end,
    function() return rawset("", 1, 1) end, function() return rawget(1, 1) end,
    function() return setmetatable(_G, { __index = _G }).x end,
    function() return ctx.sleep("x") end, function() return ctx.sleep(-1) end,
    function() return ctx.sleep(0 / 0) end, function() return ctx.sleep({}) end,
    function() return ctx.shared:query(nil) end,
    function() return ctx.shared.query() end,
    function() return ctx.hash() end, function() return ctx.hash({}) end,
    function() return ctx.log({}) end, function() return ctx.log() end,
    function() return require() end, function() return require({}) end,
    function() return utf8 and utf8.char(1e9) end,
    function() return utf8 and utf8.codepoint("x", 1, 1e9) end,
    function() return bit and bit.tohex(1, 1e9) end,
  }
  for i = 1, #calls do pcall(calls[i]) end
  return { n = #calls }
]]

describe("absurd arguments", function()
  it("take no time", function()
    mtenant.run(function()
      local policy = load_policy(ABSURD, { name = "e.lua",
                                           time_ms = 100 * SLOW })
      local route, err = policy.resolve("acme", { log = function() end })
      assert.is_nil(err)
      assert.is_true(route.n > 80)
      policy:close()
    end)
  end)
end)


-- ---- anything with anything ----------------------------------------------------------

--- Calls what a policy can reach, with whatever comes to mind.
local RANDOM = [[
  local functions, seen = {}, {}
  local function collect(t)
    if type(t) ~= "table" or seen[t] then return end
    seen[t] = true
    for _, value in pairs(t) do
      if type(value) == "function" then functions[#functions + 1] = value end
      collect(value)
    end
  end
  collect(_G)
  collect(ctx)
  collect(require "mtenant.crypto")
  local calls = #functions
  local random = math.random
  math.randomseed(ctx.request)
  local values = {
    0, -1, 1, 3, 1e9, 2 ^ 53, -2 ^ 53, 1e300, -1 / 0, 1 / 0, 0 / 0, 1.5, true,
    false, "", "x", "%", "%a*", "(.-)", "[", "1e9", "0x10", "*t", "%c", "%s%d",
    ("x"):rep(1000), {}, { 1, 2, 3 }, { "a", "b" }, _G, string, table, ctx,
    function(...) return ... end, function() error({}) end,
    setmetatable({}, { __index = function(_, k) return k end,
      __len = function() return 1e9 end, __call = function() return 1 end,
      __tostring = function() return {} end, __lt = function() return true end }),
    setmetatable({}, { __mode = "k", __metatable = false }),
  }
  local function any()
    if random(8) == 1 then return nil end
    if random(6) == 1 then return functions[random(calls)] end
    return values[random(#values)]
  end
  for i = 1, 3000 do
    local f = functions[random(calls)]
    local ok, got = pcall(f, any(), any(), any(), any())
    if ok and got ~= nil and #values < 100 then values[#values + 1] = got end
  end
  return {}
]]

describe("anything with anything", function()
  it("ends, in time, and breaks nothing", function()
    mtenant.run(function()
      local seed = os.time() % 100000
      local route, err
      local gap = longest_gap(function()
        for i = 1, 200 do
          local policy = load_policy(RANDOM, { name = "e.lua",
                                               memory_bytes = 4 * 2 ^ 20 })
          route, err = policy.resolve("acme", {
            request = seed + i, log = function() end, sleep = function() end,
          })
          assert(route ~= nil or err ~= nil, seed + i)
          policy:close()
          mtenant.sleep(0)
        end
      end)
      -- of these, some make a state between two beats as well
      assert.is_true(gap < 30 * SLOW, ("%.1f ms, seed %d"):format(gap, seed))
    end)
  end)
end)
