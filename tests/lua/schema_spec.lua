--- schema.lua: kinds, limits, defaults, unknown keys and positions.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"


-- What a check says, without position and prefix; nil when it is content.
local function complaint(checker, t)
  local ok, err = pcall(checker.check, checker, t)
  if ok then return nil end
  assert.is_true(errors.is(err, "misuse"))
  return (err.message:gsub("^.-%[mtenant%] ", ""))
end


local function one(field)
  field[1] = "x"
  return schema.new({ name = "t", field })
end


local NAN, INF = 0 / 0, math.huge


describe("kinds", function()
  local function says(kind, values, text)
    local checker = one { kind = kind }
    for _, v in ipairs(values) do
      assert.equal(text, complaint(checker, { x = v }))
    end
  end

  it("accepts what fits", function()
    says("string", { "", "a" }, nil)
    says("integer", { 0, -1, 2147483647, 3.0 }, nil)
    says("number", { 0, 0.5, -1e300 }, nil)
    says("boolean", { true, false }, nil)
    says("function", { print, setmetatable({}, { __call = print }) }, nil)
    says("table", { {}, { 1 } }, nil)
    says("strings", { {}, { "a", "b" } }, nil)
    says("any", { 1, "a", false, {} }, nil)
  end)

  it("refuses what does not, with the path", function()
    says("string", { 1, true, {} }, "t.x must be a string")
    says("integer", { "1", true, 1.5, NAN, INF, -INF },
         "t.x must be an integer")
    says("integer", { 2147483648, 1e15 }, "t.x must be at most 2147483647")
    says("number", { "1", {} }, "t.x must be a number")
    says("number", { NAN, INF, -INF }, "t.x must be a finite number")
    says("boolean", { 0, "true" }, "t.x must be a boolean")
    says("function", { "print", {} }, "t.x must be a function")
    says("table", { "a", 1 }, "t.x must be a table")
    says("strings", { "a", { 1 }, { "a", 2 }, { a = "b" } },
         "t.x must be a list of strings")
  end)

  it("refuses NUL bytes, which would end the string early below", function()
    says("string", { "a\0b" }, "t.x must not contain a NUL byte")
  end)

  it("takes alternatives", function()
    local checker = one { kind = { "boolean", "string" },
                          enum = { "full", "equal" } }
    assert.is_nil(complaint(checker, { x = false }))
    assert.is_nil(complaint(checker, { x = "full" }))
    local text = 't.x must be a boolean, "full" or "equal"'
    assert.equal(text, complaint(checker, { x = "fully" }))
    assert.equal(text, complaint(checker, { x = 5 }))
    checker = one { kind = { "integer", "string" }, min = 1,
                    enum = { "auto" } }
    assert.equal('t.x must be an integer or "auto"',
                 complaint(checker, { x = "car" }))
    assert.equal("t.x must be at least 1", complaint(checker, { x = 0 }))
  end)
end)


describe("limits", function()
  it("words them by what they mean", function()
    local field = { kind = "number", min = 0, max = 1 }
    assert.equal("t.x must be non-negative",
                 complaint(one(field), { x = -0.1 }))
    assert.equal("t.x must be at most 1", complaint(one(field), { x = 1.1 }))
    assert.equal("t.x must be at least 2",
                 complaint(one { kind = "integer", min = 2 }, { x = 1.5 }))
  end)

  it("knows enums", function()
    local checker = one { kind = "string", enum = { "a", "b" } }
    assert.is_nil(complaint(checker, { x = "b" }))
    assert.equal('t.x must be "a" or "b"', complaint(checker, { x = "c" }))
    assert.equal('t.x must be "a" or "b"', complaint(checker, { x = 1 }))
  end)

  it("knows what is required; false and the empty string are missing",
     function()
    local checker = one { kind = "string", required = true }
    for _, t in ipairs { {}, { x = "" }, { x = false } } do
      assert.equal("t.x is required", complaint(checker, t))
    end
    checker = one {
      kind = "string",
      required = function(siblings, root) return siblings == root end,
    }
    assert.equal("t.x is required", complaint(checker, {}))
  end)

  it("asks the field's own check, for nil as well", function()
    local seen = {}
    local checker = schema.new {
      name = "t",
      { "a", kind = "integer", default = 1 },
      { "b", kind = "integer", check = function(v, siblings)
        seen[#seen + 1] = v == nil and "nil" or v
        if (v or 0) > siblings.a then return "%s cannot be above a" end
      end },
    }
    assert.is_nil(complaint(checker, {}))
    assert.equal("t.b cannot be above a", complaint(checker, { b = 2 }))
    assert.same({ "nil", 2 }, seen)
  end)

  it("reports in the order of the fields", function()
    local checker = schema.new {
      name = "t",
      { "z", kind = "string" }, { "a", kind = "string" },
    }
    assert.equal("t.z must be a string", complaint(checker, { a = 1, z = 1 }))
  end)
end)


describe("the copy", function()
  local checker = schema.new {
    name = "options",
    { "deep.er.n", kind = "integer", default = 3 },
    { "deep.flag", kind = "boolean", default = true },
    { "list", kind = "strings", default = { "a" } },
    { "fn", kind = "function" },
    { "old", kind = "table", dropped = true },
    { "made", default = function(siblings, root, env)
      return siblings == root and env.value
    end },
  }

  it("has the defaults, in tables that were not given", function()
    assert.same({ deep = { er = { n = 3 }, flag = true }, list = { "a" },
                  made = "env" },
                checker:check({}, 1, { value = "env" }))
  end)

  it("keeps false", function()
    assert.is_false(checker:check({ deep = { flag = false } }, 1, {})
                    .deep.flag)
  end)

  it("shares no table with what was given, and changes nothing there",
     function()
    local given = { deep = { er = { n = 4 } }, list = { "b" }, old = { 1 } }
    local copy = checker:check(given, 1, {})
    assert.not_equal(given.deep, copy.deep)
    assert.not_equal(given.deep.er, copy.deep.er)
    assert.not_equal(given.list, copy.list)
    assert.equal(4, copy.deep.er.n)
    assert.is_nil(copy.old)
    assert.same({ deep = { er = { n = 4 } }, list = { "b" }, old = { 1 } },
                given)
  end)

  it("does not share the defaults between copies", function()
    checker:check({}, 1, {}).list[1] = "changed"
    assert.same({ "a" }, checker:check({}, 1, {}).list)
  end)

  it("makes integers of whole floats, functions of callable tables",
     function()
    local callable = setmetatable({}, {
      __call = function(_, a) return a + 1 end,
    })
    local copy = checker:check({ deep = { er = { n = 3.0 } }, fn = callable },
                               1, {})
    assert.equal("3", string.format("%d", copy.deep.er.n))
    assert.equal("3", tostring(copy.deep.er.n))
    assert.equal("function", type(copy.fn))
    assert.equal(2, copy.fn(1))
  end)
end)


describe("shape", function()
  local checker = schema.new {
    name = "config",
    prefix = "",
    { "connection.url", kind = "string" },
    { "connection.pool.max", kind = "integer" },
    { "connection.pool.idle_timeout_ms", kind = "number" },
    { "connection.pool.connect_timeout_ms", kind = "number" },
    { "connection.retry.max_attempts", kind = "integer" },
    { "isolation.strategy", kind = "string" },
    { "isolation.pool_ttl_ms", kind = "number" },
    { "debug.slow_query_threshold_ms", kind = "number" },
  }

  it("wants tables where fields have fields", function()
    assert.equal("config must be a table, got nil", complaint(checker, nil))
    assert.equal("config must be a table, got string",
                 complaint(checker, "postgres://"))
    assert.equal("connection must be a table",
                 complaint(checker, { connection = "postgres://" }))
    assert.equal("connection.pool must be a table",
                 complaint(checker, { connection = { pool = false } }))
  end)

  local function unknown(path, meant)
    local t, names = {}, {}
    for name in path:gmatch "[^.]+" do names[#names + 1] = name end
    local at = t
    for i = 1, #names - 1 do
      at[names[i]] = {}
      at = at[names[i]]
    end
    at[names[#names]] = 1
    local text = 'unknown option "' .. path .. '"'
    if meant then text = text .. ', did you mean "' .. meant .. '"?' end
    assert.equal(text, complaint(checker, t))
  end

  it("knows the spellings of drizzle-multitenant", function()
    unknown("connection.retry.maxAttempts", "max_attempts")
    unknown("connection.poolConfig", "pool")
    unknown("connection.pool.idleTimeoutMillis", "idle_timeout_ms")
    unknown("connection.pool.connectionTimeoutMillis", "connect_timeout_ms")
    unknown("isolation.poolTtlMs", "pool_ttl_ms")
    unknown("isolation.type", "strategy")
    unknown("debug.slowQueryThreshold", "slow_query_threshold_ms")
  end)

  it("knows typing mistakes and forgotten units", function()
    unknown("connection.retry.max_atempts", "max_attempts")
    unknown("conection", "connection")
    unknown("isolation.pool_ttl", "pool_ttl_ms")
  end)

  it("knows what belongs elsewhere", function()
    unknown("pool", "connection.pool")
    unknown("maxAttempts", "connection.retry.max_attempts")
    unknown("connection.strategy", "isolation.strategy")
  end)

  it("says nothing more when nothing is near", function()
    unknown("lint")
    unknown("connection.pool.whatever_this_may_be")
  end)

  it("copes with keys that are no names", function()
    assert.equal('unknown option "connection[1]"',
                 complaint(checker, { connection = { "postgres://" } }))
    assert.equal('unknown option "a\\010b"',
                 complaint(checker, { ["a\nb"] = 1 }))
    assert.equal('unknown option "' .. ("x"):rep(60) .. '..."',
                 complaint(checker, { [("x"):rep(5000)] = 1 }))
  end)

  it("reports unknown keys before anything else, always the same one",
     function()
    for _ = 1, 20 do
      assert.equal('unknown option "bbbb"',
                   complaint(checker, { cccc = 1, bbbb = 1,
                                        connection = { url = 5 } }))
    end
  end)

  it("leads places elsewhere by the prefix, neighbours not", function()
    local other = schema.new {
      name = "o", prefix = "o.", { "deep.leaf", kind = "string" },
    }
    assert.equal('unknown option "o.leaf", did you mean "o.deep.leaf"?',
                 complaint(other, { leaf = "x" }))
    assert.equal('unknown option "o.dep", did you mean "deep"?',
                 complaint(other, { dep = "x" }))
  end)
end)


describe("where errors are", function()
  local checker = one { kind = "string" }

  it("is the caller of the function that checks, or the level given",
     function()
    local function api(t) local copy = checker:check(t); return copy end
    local function deeper(t) local copy = checker:check(t, 3); return copy end
    local function wrapped(t) local copy = deeper(t); return copy end
    for _, fn in ipairs { api, wrapped } do
      local line
      local _, err = pcall(function()
        line = debug.getinfo(1, "l").currentline; fn({ x = 1 })
      end)
      assert.matches("schema_spec.lua:" .. line ..
                     ": %[mtenant%] t%.x must be a string$", err.message)
    end
  end)
end)


describe("helpers", function()
  it("distance counts edits", function()
    assert.equal(0, schema.distance("abc", "abc"))
    assert.equal(3, schema.distance("", "abc"))
    assert.equal(3, schema.distance("kitten", "sitting"))
    assert.equal(1, schema.distance("abc", "ac"))
  end)

  it("snake_case", function()
    assert.equal("max_attempts", schema.snake_case("maxAttempts"))
    assert.equal("schema_name_template",
                 schema.snake_case("schemaNameTemplate"))
    assert.equal("already_snake", schema.snake_case("already_snake"))
  end)

  it("printable shortens and escapes", function()
    assert.equal("abc", schema.printable("abc", 3))
    assert.equal("ab...", schema.printable("abc", 2))
    assert.equal("a\\000\\010\\255", schema.printable("a\0\n\255", 10))
  end)
end)
