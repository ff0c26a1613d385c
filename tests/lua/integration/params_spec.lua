--- What goes in: parameters of every kind, and what is refused before it is
--- sent.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local null = mtenant.null


local function db_of(id)
  return assert(env.manager():get_db(id))
end


--- fn must raise misuse that contains all of the texts.
local function assert_misuse(fn, ...)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  assert.is_true(mtenant.errors.is(err), tostring(err))
  assert.equal("misuse", err.code)
  for _, text in ipairs({ ... }) do
    assert.is_truthy(err.message:find(text, 1, true),
                     ("%q is not in: %s"):format(text, err.message))
  end
  return err
end


describe("a parameter", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("may be a number, a boolean or a text", env.in_task(function()
    local db = db_of("acme")
    assert.equal(5, db:value("SELECT $1::int + $2", 2, 3))
    local least = env.int8("-9223372036854775808")
    assert.equal(least, db:value("SELECT $1::int8", least))
    assert.equal(0.1, db:value("SELECT $1::float8", 0.1))
    assert.equal(1e300, db:value("SELECT $1::float8", 1e300))
    assert.equal(math.huge, db:value("SELECT $1::float8", math.huge))
    assert.equal(-math.huge, db:value("SELECT $1::float8", -math.huge))
    assert.equal("NaN", db:value("SELECT $1::numeric", 0 / 0))
    assert.is_true(db:value("SELECT $1::bool", true))
    assert.is_false(db:value("SELECT $1::bool", false))
    assert.equal("it's; DROP TABLE \"x\" --\\",
                 db:value("SELECT $1", "it's; DROP TABLE \"x\" --\\"))
    assert.equal("", db:value("SELECT $1::text", ""))
    assert.equal("☃", db:value("SELECT $1::text", "☃"))
  end))

  it("may be a whole float where the server wants an integer", env.in_task(
    function()
      local db = db_of("acme")
      assert.equal(3, db:value("SELECT $1::int", 3.0))
      assert.equal(9007199254740992, db:value("SELECT $1::int8", 2.0 ^ 53))
      assert.equal(-7, db:value("SELECT $1::int", -7.0))
    end))

  it("comes back as it went in, for every float", env.in_task(function()
    local db = db_of("acme")
    math.randomseed(7)
    local list = { 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308 }
    for _ = 1, 200 do
      list[#list + 1] = (math.random() - 0.5) * 10.0 ^ math.random(-300, 300)
    end
    for _, x in ipairs(list) do
      assert.equal(x, db:value("SELECT $1::float8", x))
    end
    assert.same(list, db:value("SELECT $1::float8[]", mtenant.array(list)))
  end))

  it("is NULL for nil and for null, in any place", env.in_task(function()
    local db = db_of("acme")
    local sql = "SELECT concat_ws(',', coalesce($1, 'n1'), "
      .. "coalesce($2, 'n2'), coalesce($3, 'n3'))"
    assert.equal("n1,b,n3", db:value(sql, nil, "b", nil))
    assert.equal("n1,n2,n3", db:value(sql, nil, nil, nil))
    assert.equal("a,n2,n3", db:value(sql, "a", null, null))
    assert.equal("n1,n2,n3", db:value({ sql = sql, params = { n = 3 } }))
    assert.equal("a,n2,n3", db:value({ sql = sql, params = { "a", n = 3 } }))
    assert.equal("a,n2,c", db:value({ sql = sql, params = { "a", nil, "c",
                                                            n = 3 } }))
    assert.equal("a,n2,c", db:value({ sql = sql, params = { "a", null, "c" } }))
  end))

  it("leaves the table it was given in alone", env.in_task(function()
    local db = db_of("acme")
    local params = { 1 }
    assert.equal(1, db:value({ sql = "SELECT $1::int", params = params }))
    db:pipeline(function(p)
      p:query({ sql = "SELECT $1::int", params = params })
    end)
    params[2] = 2
    assert.is_nil(params.n)
    assert.equal(3, db:value({ sql = "SELECT $1::int + $2::int",
                               params = params }))
  end))

  it("may be an array, nested, with NULLs and any text in it", env.in_task(
    function()
      local db = db_of("acme")
      local array = mtenant.array
      assert.same({ 1, 2, 3 }, db:value("SELECT $1::int[]", array({ 1, 2, 3 })))
      assert.same({}, db:value("SELECT $1::int[]", array({})))
      assert.same({ 1, null, 3 },
                  db:value("SELECT $1::int[]", array({ 1, nil, 3, n = 3 })))
      assert.same({ null, null },
                  db:value("SELECT $1::int[]", array({ null, null })))
      assert.same({ { 1, 2 }, { 3, 4 } },
                  db:value("SELECT $1::int[]", array({ { 1, 2 }, { 3, 4 } })))
      local texts = { "a", "", "NULL", "null", " b ", 'c"d', "e\\f", "{g}",
                      "h,i", "☃", "\n", null }
      assert.same(texts, db:value("SELECT $1::text[]", array(texts)))
      assert.same({ true, false },
                  db:value("SELECT $1::bool[]", array({ true, false })))
      local bytes = mtenant.bytea
      assert.same({ "\0\1", "" }, db:value("SELECT $1::bytea[]",
                                           array({ bytes("\0\1"), bytes("") })))
      assert.equal(2, db:value("SELECT count(*) FROM generate_series(1, 5) i "
                               .. "WHERE i = ANY($1)", array({ 2, 4, 9 })))
    end))

  it("may be json or bytes", env.in_task(function()
    local db = db_of("acme")
    assert.equal(5, db:value("SELECT ($1::jsonb -> 'a' ->> 1)::int",
                             mtenant.json({ a = { 4, 5 } })))
    assert.equal("it's \"q\"", db:value("SELECT $1::jsonb ->> 'x'",
                                        mtenant.json({ x = 'it\'s "q"' })))
    assert.equal("string", db:value("SELECT jsonb_typeof($1)",
                                    mtenant.json("text")))
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local bytes = table.concat(all)
    assert.equal(bytes, db:value("SELECT $1::bytea", mtenant.bytea(bytes)))
    assert.equal(256, db:value("SELECT length($1::bytea)",
                               mtenant.bytea(bytes)))
    assert.equal("", db:value("SELECT $1::bytea", mtenant.bytea("")))
  end))

  it("of a type without SQL form is misuse that names it", env.in_task(
    function()
      local db = db_of("acme")
      local CASES = {
        { print, "function" }, { {}, "table", "mtenant.json" },
        { coroutine.create(print), "thread" }, { io.stderr, "userdata" },
        { setmetatable({}, { __tostring = function() return "1" end }),
          "table" },
      }
      for _, case in ipairs(CASES) do
        for _, fn in ipairs({
          function() db:query("SELECT $1, $2", 1, case[1]) end,
          function()
            db:query({ sql = "SELECT $1, $2", params = { 1, case[1] } })
          end,
          function() db:one("SELECT $1, $2", 1, case[1]) end,
          function() db:value("SELECT $1, $2", 1, case[1]) end,
          function() for _ in db:rows("SELECT $1, $2", 1, case[1]) do end end,
          function()
            db:transaction(function(tx) tx:query("SELECT $1, $2", 1, case[1]) end)
          end,
          function()
            db:session(function(s) s:query("SELECT $1, $2", 1, case[1]) end)
          end,
          function()
            db:pipeline(function(p) p:query("SELECT $1, $2", 1, case[1]) end)
          end,
          function()
            db:pipeline({ atomic = true }, function(p)
              p:query("SELECT $1, $2", 1, case[1])
            end)
          end,
        }) do
          assert_misuse(fn, "parameter 2", table.unpack(case, 2))
        end
      end
      assert_misuse(function() mtenant.array({ 1, { print } }) end, "[2][1]",
                    "function")
      assert_misuse(function() mtenant.array(5) end, "number")
      assert_misuse(function() mtenant.bytea(5) end, "number")
      assert_misuse(function() mtenant.json(print) end, "json")
    end))

  it("with a NUL byte is misuse, in the SQL text too", env.in_task(function()
    local db = db_of("acme")
    assert_misuse(function() db:query("SELECT $1", "a\0b") end, "parameter 1",
                  "NUL", "bytea")
    assert_misuse(function() db:query("SELECT 1\0; DROP TABLE x") end, "NUL")
    assert_misuse(function() db:exec("SELECT 1\0") end, "NUL")
    assert_misuse(function()
      db:query("SELECT $1::text[]", mtenant.array({ "a\0b" }))
    end, "NUL")
    assert_misuse(function()
      for _ in db:rows("SELECT 1\0") do end
    end, "NUL")
    assert_misuse(function()
      db:transaction(function(tx) tx:query("SELECT 1\0") end)
    end, "NUL")
  end))

  it("that is no valid UTF-8 is refused by the server", env.in_task(function()
    local db = db_of("acme")
    local rows, err = db:query("SELECT $1::text", "\255\254")
    assert.is_nil(rows)
    assert.equal("22021", err.sqlstate)
    assert.is_false(err.ambiguous)
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("that is missing, or one too many, is an error of the query",
     env.in_task(function()
    local db = db_of("acme")
    for _, given in ipairs({ {}, { 1 }, { 1, 2, 3 } }) do
      -- also when it is a prepared statement by then
      for _ = 1, 4 do
        local rows, err = db:query({ sql = "SELECT $1::int + $2::int",
                                     params = given })
        assert.is_nil(rows)
        assert.equal("query", err.code)
        assert.equal("08P01", err.sqlstate)
        assert.is_false(err.ambiguous)
      end
      assert.equal(3, db:value("SELECT $1::int + $2::int", 1, 2))
    end
  end))
end)


describe("a statement", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("takes more parameters than fit a small buffer", env.in_task(function()
    local db = db_of("acme")
    for _, n in ipairs({ 1, 15, 16, 17, 40, 1000 }) do
      local parts, params = {}, {}
      for i = 1, n do
        parts[i] = "$" .. i .. "::int8"
        params[i] = i % 2 == 0 and i or i + 0.0
      end
      local sql = "SELECT ARRAY[" .. table.concat(parts, ",") .. "]"
      local got = db:value({ sql = sql, params = params })
      assert.equal(n, #got)
      for i = 1, n do assert.equal(i, got[i]) end
    end
  end))

  it("takes 65535 parameters, and refuses one more", env.in_task(function()
    local db = db_of("acme")
    local parts, params = {}, {}
    for i = 1, 65535 do
      parts[i] = "$" .. i .. "::int"
      params[i] = i
    end
    local sql = "SELECT sum(v) FROM unnest(ARRAY[" .. table.concat(parts, ",")
      .. "]) v"
    assert.equal(65535 * 32768, db:value({ sql = sql, params = params }))
    params[65536] = 1
    assert_misuse(function() db:query({ sql = "SELECT 1", params = params }) end,
                  "65536", "65535")
  end))

  it("carries ten megabytes in and out", env.in_task(function()
    local db = db_of("acme")
    local big = ("0123456789abcdef"):rep(655360)
    assert.equal(10 * 1024 * 1024, #big)
    assert.is_true(db:value("SELECT $1::text", big) == big)
    assert.equal(#big, db:value("SELECT length('" .. big .. "')"))
    local bytes = ("\0\255\127\10"):rep(262144)
    assert.is_true(db:value("SELECT $1::bytea", mtenant.bytea(bytes)) == bytes)
    assert.is_true(db:transaction(function(tx)
      return tx:value("SELECT $1::text", big) == big
    end))
  end))

  it("gets its options checked", env.in_task(function()
    local db = db_of("acme")
    assert_misuse(function() db:query({ params = {} }) end, "sql")
    assert_misuse(function() db:query({ sql = 5 }) end, "query.sql")
    assert_misuse(function() db:query({ sql = "SELECT 1", as = "row" }) end,
                  "query.as")
    assert_misuse(function() db:query({ sql = "SELECT 1", timeout_ms = -1 }) end,
                  "query.timeout_ms")
    assert_misuse(function() db:query({ sql = "SELECT 1", timeout_ms = 0 / 0 })
                  end, "query.timeout_ms")
    assert_misuse(function() db:query({ sql = "SELECT 1", param = {} }) end,
                  "query.param", 'did you mean "params"')
    assert_misuse(function() db:query({ sql = "SELECT 1", params = 5 }) end,
                  "params")
    assert_misuse(function() db:query(5) end, "string")
    assert_misuse(function() db:query() end, "string")
    assert_misuse(function() db:query("") end, "no statement")
    assert_misuse(function() db:query("  -- nothing\n") end, "no statement")
    assert_misuse(function() db:query("SELECT 1; SELECT 2") end, "exec")
  end))

  it("has its misuse reported where it was written", env.in_task(function()
    local db = db_of("acme")
    local here = "params_spec.lua:" .. (debug.getinfo(1, "l").currentline + 1)
    assert_misuse(function() local r = db:query("SELECT $1", print) return r end, here)
    here = "params_spec.lua:" .. (debug.getinfo(1, "l").currentline + 1)
    assert_misuse(function() local r = db:query({ sql = 5 }) return r end, here)
    here = "params_spec.lua:" .. (debug.getinfo(1, "l").currentline + 1)
    assert_misuse(function() local r = db:query("COMMIT") return r end, here)
    here = "params_spec.lua:" .. (debug.getinfo(1, "l").currentline + 1)
    assert_misuse(function() local r = db:one({ sql = 5 }) return r end, here)
    here = "params_spec.lua:" .. (debug.getinfo(1, "l").currentline + 1)
    assert_misuse(function() local r = db:value("COMMIT") return r end, here)
  end))
end)
