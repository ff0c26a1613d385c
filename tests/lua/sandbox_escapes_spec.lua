--- Known ways out of a Lua sandbox: none leads anywhere. Collected from
--- write-ups and from the sources of Lua 5.4 and LuaJIT.

local sandbox = require "mtenant.policy.sandbox"


local function load_policy(body, opts)
  local policy, err = sandbox.load(
    "return function(id, ctx)\n" .. body .. "\nend", opts or { name = "e.lua" })
  return assert(policy, tostring(err))
end


--- What the body returns.
local function run(body, opts)
  local policy = load_policy(body, opts)
  local route, err = policy.resolve("acme", {})
  policy:close()
  return route, err
end


-- ---- handles on what is outside --------------------------------------------------

--- Each body returns a list of what it has got hold of; it must be empty, or
--- the body fails.
local ESCAPES = {
  ["names of the libraries"] = [[
    local out = {}
    for _, name in ipairs { "io", "debug", "package", "load", "loadstring",
        "loadfile", "dofile", "coroutine", "newproxy", "setfenv", "getfenv",
        "module", "jit", "ffi", "gcinfo", "print", "warn", "arg" } do
      if _G[name] ~= nil then out[#out + 1] = name end
    end
    return out]],
  ["functions of os"] = [[
    local out = {}
    for name in pairs(os) do
      if not ({ time = 1, date = 1, clock = 1, difftime = 1 })[name] then
        out[#out + 1] = name
      end
    end
    return out]],
  ["functions of string"] = [[
    local out = {}
    for _, name in ipairs { "dump", "pack", "unpack", "packsize", "buffer" } do
      if string[name] ~= nil or ("")[name] ~= nil then out[#out + 1] = name end
    end
    return out]],
  ["the metatable of strings"] = [[
    local mt = getmetatable("")
    return { type(mt) == "table" and "table" or nil,
             ("").dump ~= nil and "dump" or nil }]],
  ["the string's metatable, changed"] = [[
    local mt = getmetatable("")
    mt.__index = function() return 1 end
    return { "changed" }]],
  ["setmetatable on a string"] = [[
    return { setmetatable("", {}) }]],
  ["bytecode"] = [[
    return { load and load("\27Lua"), string.dump and "dump" }]],
  ["the globals' environment"] = [[
    local out = {}
    for name in pairs(_G) do
      if name:find("^mtenant") or name == "_LOADED" then out[#out + 1] = name end
    end
    return { _G._G ~= _G and "other" or nil, out[1] }]],
  ["require of what is outside"] = [[
    local out = {}
    for _, name in ipairs { "io", "os", "debug", "ffi", "jit", "lfs", "cjson",
        "mtenant", "mtenant.core", "mtenant.task", "mtenant.policy.sandbox",
        "mtenant.policy..core", "mtenant.policy/../core", "mtenant.policy.",
        "../../etc/passwd", "/etc/passwd", "mtenant.policy.x\0y", "string",
        "mtenant.sandbox.worker" } do
      local ok, got = pcall(require, name)
      if ok then out[#out + 1] = name end
    end
    return out]],
  ["packages that are loaded"] = [[
    local ok, found = pcall(function() return package.loaded.ffi end)
    return { ok and "package" or nil }]],
  ["a module's globals"] = [[
    local crypto = require "mtenant.crypto"
    local out = {}
    for name, f in pairs(crypto) do
      if type(f) ~= "function" then out[#out + 1] = name end
    end
    return out]],
  ["coroutines, and hooks of theirs"] = [[
    return { coroutine and "coroutine", debug and "debug" }]],
  ["error levels into the host"] = [[
    local out = {}
    for level = 0, 50 do
      local ok, err = pcall(error, "x", level)
      if type(err) ~= "string" then out[#out + 1] = level end
    end
    return out]],
  ["the handler of xpcall sees no frames"] = [[
    local _, got = xpcall(function() error({}) end, function(e)
      return type(e)
    end)
    return { got ~= "table" and got or nil }]],
  ["upvalues through tostring"] = [[
    local out = {}
    for _, f in ipairs { pcall, string.gsub, table.sort, ctx.sleep } do
      if not tostring(f):find("^function") then out[1] = tostring(f) end
    end
    return out]],
  ["the context's functions as methods of others"] = [[
    local ok = pcall(ctx.shared.query, nil, "SELECT 1")
    local mt = getmetatable(ctx)
    mt.__index.sleep = nil
    return { ctx.shared.pool, ctx.shared.manager, mt.__gc }]],
}

describe("what is outside of a sandbox", function()
  for name, body in pairs(ESCAPES) do
    it("is not had by " .. name, function()
      local got, err = run(body)
      if got then
        assert.same({}, got)
      else
        assert.equal("policy", err.code)
      end
    end)
  end

  it("is not had by a finalizer", function()
    local _, err = run("setmetatable({}, { __gc = function() end }) return {}")
    assert.truthy(err.message:find("__gc", 1, true), err.message)
    local route = run([[
      local mt = {}
      setmetatable({}, mt)
      mt.__gc = function() leaked = true end
      for i = 1, 1000 do local t = { i } end
      return { leaked = leaked }]])
    assert.same({}, route)
  end)

  it("is not changed by what a policy writes to its own", function()
    run([[
      string.find, string.rep, table.concat = nil, nil, nil
      _G.pcall, pcall, error, setmetatable = nil, nil, nil, nil
      rawset(string, "lower", function() return "broken" end)
      math.floor = nil
      return {}]])
    assert.equal("abc", ("ABC"):lower())
    assert.equal(1, math.floor(1.5))
    assert.same({ a = "x" }, (run([[ return { a = ("X"):lower() } ]])))
  end)

  it("gets no function and no userdata of the policy's", function()
    for _, body in ipairs({ "return { f = function() end }",
                            "return { a = { b = { print or pcall } } }",
                            "return nil, { code = 'x', f = error }" }) do
      local _, err = run(body)
      assert.equal("policy", err.code)
      assert.truthy(err.message:find("plain data", 1, true), err.message)
    end
  end)

  it("gets no metatable of the policy's", function()
    local route = run([[
      return setmetatable({ server = "eu1" }, {
        __index = function() while true do end end,
        __tostring = function() error("called") end,
        __pairs = function() error("called") end,
        __len = function() error("called") end,
        __name = {},
      })]])
    assert.same({ server = "eu1" }, route)
    assert.is_nil(getmetatable(route))
  end)

  it("refuses cycles, deep tables, many values and long texts", function()
    for _, body in ipairs({
      "local t = {} t.t = t return t",
      "local t = {} for i = 1, 100 do t = { t } end return t",
      "local t = {} for i = 1, 70000 do t[i] = true end return t",
      "local t = {} for i = 1, 6 do t[i] = ('x'):rep(2e5) end return t",
      "local t = {} for i = 1, 22 do t = { t, t } end return t",
    }) do
      local _, err = run(body, { name = "e.lua", time_ms = 200 })
      assert.equal("policy", err.code)
    end
  end)

  it("calls nothing of what was raised", function()
    for _, body in ipairs({
      "error(setmetatable({}, { __tostring = function() return ctx.sleep(1) end }))",
      "error(setmetatable({}, { __tostring = function() while true do end end }))",
      "error({ message = {} })", "error({ code = {}, message = 'x' })",
      "error(function() end)", "error(nil)", "error()", "error(12)",
      "error({ code = 'no such', message = 'x' })",
      "error(('x'):rep(2e5))",
      "local t = {} t.message = t error(t)",
    }) do
      local _, err = run(body)
      assert.equal("policy", err.code, body)
      assert.is_true(#err.message < 2000)
    end
  end)

  it("loads no bytecode", function()
    local code = string.dump(function() return {} end)
    for _, source in ipairs({ code, "\27LJ\2", "\27Lua" }) do
      local policy, err = sandbox.load(source, { name = "b.lua" })
      assert.is_nil(policy)
      assert.equal("policy", err.code)
    end
  end)
end)
