--- What is different in LuaJIT, and what must not be: numbers, bytes, lazy rows,
-- finalizers; and the interpreters of Lua 5.1's ABI as programs. Runs under Lua
-- 5.4 as well.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


-- a number that only LuaJIT's syntax has
local function cdata(text)
  return assert(load("return " .. text))()
end


-- a program's output, stderr included, and its exit status
local function run(interpreter, code, words)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(code)
  file:close()
  local pipe = assert(io.popen(("%s %s %s 2>&1; echo status=$?"):format(
    interpreter, path, words or "")))
  local text, status = pipe:read("*a"):match("^(.*)status=(%d+)\n$")
  pipe:close()
  os.remove(path)
  return text, tonumber(status), path
end


describe("an integer of 64 bits", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("is exact, as a number up to 2^53, beyond as the VM has it", env.in_task(
    function()
      local db = db_of("acme")
      for _, digits in ipairs({ "9007199254740991", "9007199254740992",
        "9007199254740993", "9007199254740994", "9223372036854775807" }) do
        for _, sign in ipairs({ "", "-" }) do
          local wanted = sign .. digits
          local sql = ("SELECT '%s'::int8"):format(wanted)
          local seen = db:value(sql)
          assert.equal(env.int8(wanted), seen)
          assert.equal(seen, db:value("SELECT $1::int8", seen))
          assert.is_true(db:value("SELECT $1::int8 = " .. wanted, seen))
          assert.same({ seen }, db:value("SELECT ARRAY[$1::int8]", wanted))
          assert.same({ seen }, db:value("SELECT $1::int8[]",
                                         mtenant.array({ seen })))
        end
      end
      assert.equal(math.type and "number" or "string",
                   type(db:value("SELECT -9007199254740993")))
      assert.equal("number", type(db:value("SELECT -9007199254740992")))
    end))

  it("is a parameter as LuaJIT's own type, too", env.in_task(function()
    if not jit then pending("not in this Lua") end
    local db = db_of("acme")
    for text, wanted in pairs({
      ["5LL"] = "5", ["-5LL"] = "-5", ["0ULL"] = "0",
      ["9223372036854775807LL"] = "9223372036854775807",
      ["-9223372036854775807LL-1"] = "-9223372036854775808",
      ["18446744073709551615ULL"] = "18446744073709551615",
    }) do
      local value = cdata(text)
      assert.equal(wanted, db:value("SELECT $1::numeric::text", value))
      assert.same({ wanted }, db:value("SELECT $1::numeric[]::text[]",
                                       mtenant.array({ value })))
      local params = { sql = "SELECT $1::text", params = { value } }
      assert.equal(wanted, db:value(params))
    end
    for _, text in ipairs({ "1i", "require('ffi').new('int[2]')" }) do
      local ok, err = pcall(db.query, db, "SELECT $1", cdata(text))
      assert.is_false(ok)
      assert.equal("misuse", err.code)
      assert.is_truthy(err.message:find("parameter 1 is a cdata", 1, true))
      ok, err = pcall(mtenant.array, { cdata(text) })
      assert.is_false(ok)
      assert.equal("misuse", err.code)
    end
  end))

  it("leaves floats what they are", env.in_task(function()
    local db = db_of("acme")
    for _, x in ipairs({ 0.1, 2 ^ 53, 2 ^ 60, 1e300, 5e-324, -1.5 }) do
      assert.equal(x, db:value("SELECT $1::float8", x))
      assert.equal(-x, db:value("SELECT $1::float8", -x))
    end
    assert.equal(-math.huge, 1 / db:value("SELECT $1::float8", -0.0))
  end))
end)


describe("in every VM", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("each byte goes and comes", env.in_task(function()
    local db = db_of("acme")
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    local all = table.concat(bytes)
    assert.equal(all, db:value("SELECT $1::bytea", mtenant.bytea(all)))
    assert(db:session(function(s)
      s:query("SET bytea_output = 'escape'")
      assert.equal(all, s:value("SELECT $1::bytea", mtenant.bytea(all)))
      return true
    end))
  end))

  it("lazy rows live as long as one of them", env.in_task(function()
    local db = db_of("acme")
    local rows = assert(db:query({ as = "lazy",
      sql = "SELECT i, 'text ' || i AS t FROM generate_series(1, 500) i" }))
    assert.equal(500, #rows)
    assert.equal("text 7", rows:get(7, "t"))
    assert.equal(7, rows[7][1])
    assert.is_nil(rows[501])
    local row = rows[500]
    rows = nil
    for _ = 1, 3 do
      env.collect()
      assert(db:query("SELECT 1"))
    end
    assert.equal("text 500", row.t)
    assert.is_nil(rows)
  end))

  it("a task that failed and that nobody awaits is told of", env.in_task(
    function()
      local said = env.stderr_of(function()
        local function fail() error("the bug") end
        mtenant.spawn(fail)
        mtenant.spawn(function() return nil, "an expected failure" end)
        mtenant.sleep(20)
        env.collect()
        mtenant.sleep(1)
        env.collect()
      end)
      assert.is_truthy(said:find("a task nobody awaited", 1, true), said)
      assert.is_truthy(said:find("luajit_spec.lua", 1, true))
      assert.is_truthy(said:find("the bug", 1, true))
      assert.is_nil(said:find("expected", 1, true))
    end))

  it("a loop that was left gives its connection back", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    local MANY = "SELECT generate_series(1, 10000000) AS i"
    local rows = db:rows(MANY)
    for row in rows do
      if row.i == 3 then break end
    end
    rows:close()
    assert.is_nil(rows())
    assert.equal(1, db:value("SELECT 1"))
    assert(db:transaction(function(tx)
      local inner = tx:rows("SELECT generate_series(1, 1000) AS i")
      assert.equal(1, inner().i)
      local ok, err = pcall(tx.query, tx, "SELECT 1")
      assert.is_false(ok)
      assert.is_truthy(err.message:find("close", 1, true))
      inner:close()
      return tx:value("SELECT 1")
    end))
  end))
end)


describe("the ABI of Lua 5.1", function()
  local luajit = env.lua_5_1()

  it("is refused where pcall can't be yielded across", function()
    if not luajit then pending("built without LuaJIT") end
    local version = run("lua5.1", "print(_VERSION)")
    if version ~= "Lua 5.1\n" then pending("there is no Lua 5.1") end
    local text, status = run(env.lua_5_1("lua5.1"), 'require "mtenant"')
    assert.equal(1, status)
    assert.is_truthy(text:find("mtenant needs Lua 5.4 or LuaJIT 2.1: Lua 5.1 "
      .. "can't yield across pcall", 1, true), text)
  end)

  it("has the bare LuaJIT of the tests pass arguments, and tell of errors",
     function()
    if not luajit then pending("built without LuaJIT") end
    local text, status, path = run(luajit,
      "print(arg[0], #arg, arg[1], ...) print(arg[-1] ~= nil)", "one 'two words'")
    assert.equal(path .. "\t2\tone\tone\ttwo words\ntrue\n", text)
    assert.equal(0, status)
    text, status = run(luajit, "local function f() error('a bug') end\nf() f()")
    assert.equal(1, status)
    assert.is_truthy(text:find(":1: a bug\nstack traceback:", 1, true), text)
    text, status = run(luajit, "error()")
    assert.equal(1, status)
    assert.equal("", text)
    text, status = run(luajit, "a syntax error")
    assert.equal(1, status)
    assert.is_truthy(text:find("near", 1, true), text)
  end)

  it("loads the module once for all coroutines", function()
    if not luajit then pending("built without LuaJIT") end
    local text, status = run(luajit, [[
      local mtenant = coroutine.wrap(function() return require "mtenant" end)()
      collectgarbage()
      print(mtenant.run(function()
        mtenant.sleep(1)
        return mtenant.spawn(function() return mtenant.sleep(1) end):await()
      end))]])
    assert.equal("true\n", text)
    assert.equal(0, status)
  end)
end)
