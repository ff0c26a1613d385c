--- Files of SQL: where statements begin and end.

local sqlfile = require "mtenant.sqlfile"


local function texts(sql)
  local out = {}
  for i, s in ipairs(assert(sqlfile.split(sql))) do
    out[i] = sql:sub(s.first, s.last)
  end
  return out
end


local function problem(sql)
  local got, why = sqlfile.split(sql)
  assert.is_nil(got)
  return why
end


-- as files have them; none ends in a semicolon
local STATEMENTS = {
  "CREATE TABLE a (id int, note text DEFAULT 'x;y')",
  "INSERT INTO a VALUES (1, $$;'\"$$), (2, $q$ $$;$$ $q$)",
  "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$\nBEGIN\n"
    .. "  RETURN 1; -- ;\nEND;\n$body$",
  "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
  "CREATE RULE r AS ON INSERT TO a DO ALSO (DELETE FROM a; DELETE FROM a)",
  "SELECT 1 AS \"a;b\", E'\\';', 'it''s;'",
  "DO $$ BEGIN PERFORM 1; END $$",
  "COMMENT ON TABLE a IS 'COPY a FROM stdin;'",
  "SELECT /* ; /* nested ; */ */ 1",
}


describe("sqlfile.split", function()
  it("gives back statements that were put together", function()
    local seed = os.time()
    math.randomseed(seed)
    local between = { ";", ";\n", " ; \n\n", ";;", "; -- a ; comment\n",
                      ";\n/* b ; */ " }
    for _ = 1, 300 do
      local expected, sql = {}, {}
      for i = 1, math.random(1, 12) do
        expected[i] = STATEMENTS[math.random(#STATEMENTS)]
        sql[#sql + 1] = expected[i] .. between[math.random(#between)]
      end
      assert.same(expected, texts(table.concat(sql)), "seed " .. seed)
    end
  end)

  it("says the line, the class and the keyword", function()
    local list = sqlfile.split("-- first\n\nSELECT 1;\n/* é\n */ COMMIT;\n"
      .. "SET search_path TO x;\nCREATE TABLE t ();")
    assert.same({ 3, 5, 6, 7 }, { list[1].line, list[2].line, list[3].line,
                                  list[4].line })
    assert.same({ "plain", "control", "session", "ddl" },
                { list[1].class, list[2].class, list[3].class, list[4].class })
    assert.equal("COMMIT", list[2].keyword)
    assert.is_true(list[3].lasting)
  end)

  it("has no statement where there is none", function()
    assert.same({}, sqlfile.split(""))
    assert.same({}, sqlfile.split(" -- nothing\n;;\n/* */"))
  end)

  it("knows the data of COPY", function()
    local sql = "COPY a (id, note) FROM stdin;\n1\tit's; SELECT\n2\t\\N\n\\.\n"
      .. "SELECT 1;\ncopy b from STDIN with (format csv);\n\\.\n"
      .. "COPY c FROM STDIN;\r\n5\r\n\\.\r\nSELECT 2;\nCOPY d FROM stdin;\n7"
    local list = assert(sqlfile.split(sql))
    local data = {}
    for i, s in ipairs(list) do
      data[i] = s.copy_first and sql:sub(s.copy_first, s.copy_last) or "none"
    end
    assert.same({ "1\tit's; SELECT\n2\t\\N\n", "none", "", "5\r\n", "none",
                  "7" }, data)
    assert.equal("SELECT 2", sql:sub(list[5].first, list[5].last))
    assert.equal(11, list[5].line)
  end)

  it("takes no COPY for one that isn't", function()
    for _, sql in ipairs({ "SELECT 'COPY a FROM stdin;';\nSELECT 2",
                           "-- COPY a FROM stdin;\nSELECT 1;\nSELECT 2",
                           "COPY a FROM '/x';\nSELECT 2",
                           "COPY (SELECT 1 FROM stdin) TO '/x';\nSELECT 2" }) do
      assert.equal(2, #assert(sqlfile.split(sql)), sql)
    end
  end)

  it("passes over a byte order mark and what newer pg_dump writes", function()
    assert.same({ "SELECT 1", "SELECT 2" }, texts("\239\187\191SELECT 1;\n"
      .. "\\restrict aXb\nSELECT 2;\n\\unrestrict aXb\n"))
  end)

  it("tells what is wrong, and where", function()
    local p = problem("SELECT 'é';\nSELECT 'é' FROM FROM x")
    assert.same({ 2, 17 }, { p.line, p.column })
    assert.matches("syntax error", p.message)
    p = problem("SELECT 1;\n\\connect other\n")
    assert.equal(2, p.line)
    assert.matches("psql", p.message)
    assert.equal(2, problem("SELECT 1;\nSELECT '\0'").line)
    assert.equal(3, problem("SELECT 1;\n\nSELECT '\255'").line)
    assert.matches("unterminated", problem("SELECT 'abc").message)
    assert.matches("32 MiB", problem((" "):rep(32 * 1024 * 1024 + 1)).message)
  end)

  it("bears what is long or deep", function()
    assert.equal(20000, #assert(sqlfile.split(
      ("INSERT INTO a VALUES (1, 'x;');\n"):rep(20000))))
    assert.equal(1, #assert(sqlfile.split(
      "SELECT 1" .. (" + 1"):rep(300000))))
    assert.is_string(problem("SELECT " .. ("("):rep(100000) .. "1"
      .. (")"):rep(100000)).message)
  end)
end)
