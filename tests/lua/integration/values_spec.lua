--- What comes back: every type of value, rows and what belongs to them.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local null = mtenant.null
local kind_of = math.type or type -- LuaJIT has one kind of number


local function db_of(id)
  return assert(env.manager():get_db(id))
end


describe("a value from the server", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  --- One expression, one value.
  local function check(cases)
    return env.in_task(function()
      local db = db_of("acme")
      for sql, expected in pairs(cases) do
        local rows = assert(db:query("SELECT " .. sql .. " AS v"))
        local value = rows[1].v
        if type(expected) == "function" then
          assert.is_true(expected(value), sql .. " gave " .. tostring(value))
        else
          assert.same(expected, value, sql)
          assert.equal(kind_of(expected), kind_of(value), sql)
        end
        if value == value and type(value) ~= "table" then
          assert.equal(value, db:value("SELECT " .. sql), sql)
        end
      end
    end)
  end

  it("is an integer for int2, int4, int8 and oid", check({
    ["1::int2"] = 1,
    ["'-32768'::int2"] = -32768,
    ["2147483647"] = 2147483647,
    ["'-2147483648'::int4"] = -2147483648,
    ["0"] = 0,
    ["9223372036854775807"] = env.int8("9223372036854775807"),
    ["'-9223372036854775808'::int8"] = env.int8("-9223372036854775808"),
    ["9007199254740992"] = 9007199254740992,
    ["9007199254740993"] = env.int8("9007199254740993"),
    ["4294967295::oid"] = 4294967295,
    ["count(*)"] = 1,
  }))

  it("is a float for float4 and float8", check({
    ["1::float8"] = 1.0,
    ["1.5::float4"] = 1.5,
    ["0.1::float8"] = 0.1,
    ["'-0'::float8"] = function(v) return 1 / v == -math.huge end,
    ["1e308::float8"] = 1e308,
    ["'5e-324'::float8"] = 5e-324,
    ["'1.7976931348623157e308'::float8"] = 1.7976931348623157e308,
    ["'Infinity'::float8"] = math.huge,
    ["'-Infinity'::float4"] = -math.huge,
    ["'NaN'::float8"] = function(v) return v ~= v end,
  }))

  it("is a boolean for bool", check({
    ["true"] = true,
    ["false"] = false,
    ["1 = 2"] = false,
  }))

  it("is a string of bytes for bytea", check({
    ["'\\x00ff0a5c'::bytea"] = "\0\255\n\\",
    ["''::bytea"] = "",
    ["'abc'::bytea"] = "abc",
  }))

  it("is text for numeric, dates, uuids and whatever else", check({
    ["1.10::numeric"] = "1.10",
    ["'NaN'::numeric"] = "NaN",
    ["12345678901234567890.123456789"] = "12345678901234567890.123456789",
    ["'2024-02-29'::date"] = "2024-02-29",
    ["'infinity'::timestamptz"] = "infinity",
    ["interval '1 day 2 hours'"] = "1 day 02:00:00",
    ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid"] =
      "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ["'{\"a\": 1}'::json"] = '{"a": 1}',
    ["'[1, 2]'::jsonb"] = "[1, 2]",
    ["ROW(1, 'x')"] = "(1,x)",
    ["int4range(1, 3)"] = "[1,3)",
    ["'x'::name"] = "x",
    ["'ab'::char(4)"] = "ab  ",
    ["''"] = "",
    ["'héllo — ☃'"] = "héllo — ☃",
    ["'1 day'::interval::text"] = "1 day",
  }))

  it("is a table for an array, nested, quoted and with NULLs", check({
    ["ARRAY[1, 2, 3]"] = { 1, 2, 3 },
    ["ARRAY[1, NULL, 3]"] = { 1, null, 3 },
    ["'{}'::int[]"] = {},
    ["ARRAY[[1, 2], [3, NULL]]"] = { { 1, 2 }, { 3, null } },
    ["ARRAY[[[1], [2]]]"] = { { { 1 }, { 2 } } },
    ["'[2:3]={7,8}'::int[]"] = { 7, 8 },
    ["ARRAY[true, false, NULL]"] = { true, false, null },
    ["ARRAY[1.5, 'NaN']::float8[]"] = function(v)
      return v[1] == 1.5 and v[2] ~= v[2] and #v == 2
    end,
    ["ARRAY[9223372036854775807]"] = { env.int8("9223372036854775807") },
    ["ARRAY[1.10, 2]"] = { "1.10", "2" },
    ["ARRAY['a', 'b,c', 'd\"e', 'f\\g', '{h}', ' i ', '', 'NULL', NULL]"] =
      { "a", "b,c", 'd"e', "f\\g", "{h}", " i ", "", "NULL", null },
    ["ARRAY['2024-01-01'::date]"] = { "2024-01-01" },
    ["ARRAY['\\x00ff'::bytea, '\\x']"] = { "\0\255", "" },
    ["ARRAY['{\"a\": [1, \"x\"]}'::jsonb]"] = { '{"a": [1, "x"]}' },
    ["ARRAY['a'::name, 'b']"] = { "a", "b" },
  }))

  it("keeps NULL out of a row, and puts null into an array", env.in_task(
    function()
      local db = db_of("acme")
      local rows = assert(db:query("SELECT NULL AS a, 1 AS b, NULL::int AS c"))
      assert.same({ { b = 1 } }, rows)
      assert.is_nil(next(rows[1], "b"))
      rows = assert(db:query({ sql = "SELECT NULL AS a, 1 AS b, NULL AS c",
                               as = "arrays" }))
      assert.same({ null, 1, null, n = 3 }, rows[1])
      assert.is_true(rows[1][1] == null)
    end))

  it("decodes json and jsonb on request", env.in_task(function()
    local db = db_of("acme")
    local rows = assert(db:query({
      sql = [[SELECT '{"a": [1, {"b": null}], "c": "x"}'::jsonb AS v,
                     'true'::json AS t, '"s"'::json AS s, NULL::json AS n,
                     '5'::jsonb AS five, '{"a": 1}' AS text,
                     ARRAY['{"k": 2}'::jsonb] AS list]],
      json = "decode",
    }))
    local row = rows[1]
    assert.equal(1, row.v.a[1])
    assert.equal("x", row.v.c)
    assert.is_true(row.t)
    assert.equal("s", row.s)
    assert.is_nil(row.n)
    assert.equal(5, row.five)
    assert.equal('{"a": 1}', row.text)
    assert.equal(2, row.list[1].k)
    assert.equal("{}", db:value("SELECT '{}'::json"))
  end))

  it("survives any search path, date style and output format of the server",
     env.in_task(function()
    env.sql("ALTER ROLE mtenant SET extra_float_digits = 0")
    env.sql("ALTER ROLE mtenant SET bytea_output = 'escape'")
    finally(function()
      env.sql("ALTER ROLE mtenant RESET extra_float_digits")
      env.sql("ALTER ROLE mtenant RESET bytea_output")
    end)
    local db = db_of("acme")
    assert.equal("\0a\\\255", db:value("SELECT '\\x00615cff'::bytea"))
    assert.same({ "\0a\\\255" }, db:value("SELECT ARRAY['\\x00615cff'::bytea]"))
  end))
end)


describe("a result", function()
  setup(function()
    env.tenants({ "acme" })
    env.sql("CREATE TABLE t_acme.items (id int PRIMARY KEY, name text)")
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items") end)
  after_each(env.assert_nothing_left)

  it("tells how many rows were affected, by what", env.in_task(function()
    local db = db_of("acme")
    local CASES = {
      { "INSERT INTO items SELECT i, 'x' FROM generate_series(1, 5) i",
        5, "INSERT" },
      { "UPDATE items SET name = 'y' WHERE id > 2", 3, "UPDATE" },
      { "DELETE FROM items WHERE id = 99", 0, "DELETE" },
      { "SELECT * FROM items", 5, "SELECT" },
      { "MERGE INTO items i USING (VALUES (1)) v (id) ON i.id = v.id "
        .. "WHEN MATCHED THEN DELETE", 1, "MERGE" },
      { "CREATE TABLE other ()", 0, "CREATE TABLE" },
      { "DROP TABLE other", 0, "DROP TABLE" },
      { "TRUNCATE items", 0, "TRUNCATE TABLE" },
    }
    for _, case in ipairs(CASES) do
      local rows = assert(db:query(case[1]))
      assert.equal(case[2], rows.affected, case[1])
      assert.equal(case[3], rows.command, case[1])
    end
    local rows = assert(db:query(
      "INSERT INTO items VALUES (1, 'a'), (2, 'b') RETURNING id, name"))
    assert.same({ { id = 1, name = "a" }, { id = 2, name = "b" } }, rows)
    assert.equal(2, rows.affected)
  end))

  it("knows its columns, also without rows", env.in_task(function()
    local db = db_of("acme")
    local rows = assert(db:query("SELECT name, id FROM items"))
    assert.equal(0, #rows)
    assert.same({ "name", "id" }, rows.columns)
    assert.same({}, rows)
    rows = assert(db:query("SELECT"))
    assert.same({}, rows.columns)
    rows = assert(db:query("DELETE FROM items"))
    assert.same({}, rows)
    assert.same({}, rows.columns)
  end))

  it("is a plain array for an encoder", env.in_task(function()
    local dkjson = require "dkjson"
    local db = db_of("acme")
    local rows = assert(db:query("SELECT 1 AS a"))
    for key in pairs(rows) do assert.equal(1, key) end
    assert.equal('[{"a":1}]', dkjson.encode(rows))
    assert.equal("[]", dkjson.encode(assert(db:query("SELECT * FROM items"))))
    assert.equal('[{"a":1}]', require("cjson").encode(rows))
  end))

  it("has the last of two columns with one name", env.in_task(function()
    local db = db_of("acme")
    local rows = assert(db:query("SELECT 1 AS a, 2 AS b, 3 AS a"))
    assert.same({ { a = 3, b = 2 } }, rows)
    assert.same({ "a", "b", "a" }, rows.columns)
    rows = assert(db:query("SELECT 1 AS a, NULL AS a"))
    assert.same({ {} }, rows)
    rows = assert(db:query({ sql = "SELECT 1 AS a, 3 AS a", as = "arrays" }))
    assert.same({ { 1, 3, n = 2 } }, rows)
  end))

  it("gives the first column, whatever the columns are called", env.in_task(
    function()
      local db = db_of("acme")
      assert.equal(1, db:value("SELECT 1 AS a, 2 AS a"))
      assert.equal(42, db:value({ sql = "SELECT 42 AS n", as = "arrays" }))
      assert.equal(7, db:value({ sql = "SELECT 7 AS get", as = "lazy" }))
      assert.is_nil((db:value({ sql = "SELECT NULL AS n, 5 AS m",
                                as = "arrays" })))
    end))

  it("is lazy on request: cells are decoded when touched", env.in_task(
    function()
      local db = db_of("acme")
      local rows = assert(db:query({
        sql = "SELECT i AS id, i * 1.5::float8 AS half, NULL AS none, "
          .. "ARRAY[i] AS list, i AS id FROM generate_series(1, 3) i",
        as = "lazy",
      }))
      assert.equal(3, #rows)
      assert.equal(3, rows.affected)
      assert.equal("SELECT", rows.command)
      assert.same({ "id", "half", "none", "list", "id" }, rows.columns)
      assert.equal(2, rows[2].id)
      assert.equal(4.5, rows[3].half)
      assert.is_nil(rows[1].none)
      assert.is_nil(rows[1].nothing)
      assert.same({ 2 }, rows[2].list)
      assert.equal(3, rows:get(3, "id"))
      assert.equal(1.5, rows:get(1, 2))
      assert.is_nil(rows[0])
      assert.is_nil(rows[4])
      assert.has_error(function() rows:get(4, 1) end)
      assert.has_error(function() rows:get(1, "nothing") end)
      local row = rows[3]
      rows = nil -- luacheck: ignore 311
      collectgarbage()
      assert.equal(3, row.id)
    end))

  it("gives one row, one value, or nil", env.in_task(function()
    local db = db_of("acme")
    assert.same({ id = 1 }, db:one("SELECT 1 AS id UNION SELECT 2 ORDER BY 1"))
    local none = table.pack(db:one("SELECT 1 WHERE false"))
    assert.is_nil(none[1])
    assert.is_nil(none[2])
    assert.equal(1, db:value("SELECT 1, 2"))
    assert.is_false(db:value("SELECT false"))
    for _, sql in ipairs({ "SELECT 1 WHERE false", "SELECT NULL", "SELECT",
                           "DELETE FROM items" }) do
      local got = table.pack(db:value(sql))
      assert.is_nil(got[1], sql)
      assert.is_nil(got[2], sql)
    end
    local value, err = db:value("SELECT 1 / 0")
    assert.is_nil(value)
    assert.equal("query", err.code)
    value, err = db:one("SELECT nonsense")
    assert.is_nil(value)
    assert.equal("42703", err.sqlstate)
  end))
end)
