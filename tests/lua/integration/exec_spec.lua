--- exec: several statements at once, with the data of their COPYs.

local env = require "tests.support.env"


local function db_of(id)
  return assert(env.manager():get_db(id))
end


describe("exec", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    for _, s in ipairs({ "t_acme", "t_globex" }) do
      env.sql("CREATE TABLE " .. s .. ".items (id int PRIMARY KEY, name text)")
    end
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items, t_globex.items") end)
  after_each(env.assert_nothing_left)

  it("gives COPY its data, in a session, a transaction and alone", env.in_task(
    function()
      local db = db_of("acme")
      assert(db:exec("COPY items FROM STDIN", { copy = { "1\ta\n2\t\\N\n" } }))
      assert(db:session(function(s)
        return s:exec("BEGIN; COPY items FROM STDIN; SELECT 1; "
          .. "COPY items (id) FROM STDIN; COMMIT",
          { copy = { "3\tc\n", "4\n5" } })
      end))
      assert(db:transaction(function(tx)
        return tx:exec("COPY items FROM STDIN WITH (FORMAT csv)",
                       { copy = { '6,"x,y"\n' } })
      end))
      assert.same({ "1a", "2-", "3c", "4-", "5-", "6x,y" },
        db:value("SELECT array_agg(id || coalesce(name, '-') ORDER BY id) "
          .. "FROM items"))
    end))

  it("copies more than a socket takes at once", env.in_task(function()
    local db, lines = db_of("acme"), {}
    for i = 1, 60000 do lines[i] = i .. "\t" .. ("x"):rep(100) end
    assert(db:exec("COPY items FROM STDIN",
                   { copy = { table.concat(lines, "\n") } }))
    assert.equal(60000, db:value("SELECT count(*) FROM items"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
  end))

  it("says what is wrong with the data, and goes on", env.in_task(function()
    local db = db_of("acme")
    local _, err = db:exec("COPY items FROM STDIN", { copy = { "a\tb\n" } })
    assert.equal("22P02", err.sqlstate)
    _, err = db:exec("COPY items FROM STDIN", { copy = { "1\ta\n1\tb\n" } })
    assert.equal("23505", err.sqlstate)
    assert.equal(0, db:value("SELECT count(*) FROM items"))
  end))

  it("does not let data without a COPY, or a COPY without data, hang",
    env.in_task(function()
      local db = db_of("acme")
      assert(db:exec("SELECT 1", { copy = { "1\ta\n" } }))
      local _, err = db:session(function(s)
        return s:exec("BEGIN; COPY items FROM STDIN; COMMIT")
      end)
      assert.equal("protocol", err.code)
      _, err = db:session(function(s)
        return s:exec("COPY items FROM STDIN; COPY items FROM STDIN",
                      { copy = { "1\ta\n" } })
      end)
      assert.equal("protocol", err.code)
      assert.equal(0, db:value("SELECT count(*) FROM items"))
      assert.has_error(function() db:exec("COPY items FROM STDIN") end)
      assert.has_error(function()
        db:exec("COPY items FROM STDIN", { copy = { "\0" } })
      end)
      assert.has_error(function()
        db:exec("COPY items FROM STDIN", { copies = {} })
      end)
    end))

  it("says which statement failed", env.in_task(function()
    local db = db_of("acme")
    local _, err = db:exec("SELECT 1; INSERT INTO items VALUES (1); SELECT 1/0;")
    assert.equal(3, err.statement_number)
    _, err = db:exec("SELECT 1; SELEC 2")
    assert.equal("42601", err.sqlstate)
    assert.equal(11, err.position)
    _, err = db:query("SELECT 1/0")
    assert.is_nil(err.statement_number)
  end))

  it("takes one round trip where it brings its own BEGIN", env.in_task(function()
    local db = db_of("acme")
    assert(db:session(function(s)
      for i = 1, 3 do
        assert(s:exec("BEGIN; INSERT INTO items VALUES (" .. i .. "); COMMIT"))
      end
      return true
    end))
    assert.equal(3, db:value("SELECT count(*) FROM items"))
    assert.equal(0, db_of("globex"):value("SELECT count(*) FROM items"))
  end))
end)
