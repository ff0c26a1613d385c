--- A tenant's schema that is dropped, renamed or made anew: nobody is served
-- from another one.

local env = require "tests.support.env"
local mtenant = require "mtenant"


describe("a schema that is dropped while a statement is on its way", function()
  after_each(env.assert_nothing_left)

  local WAYS = {
    { "query", function(db)
      return db:query("INSERT INTO items VALUES ('gone', 1)")
    end },
    { "transaction", function(db)
      return db:transaction(function(tx)
        return tx:query("INSERT INTO items VALUES ('gone', 1)")
      end)
    end },
    { "call with a timeout", function(db)
      return db:query({ sql = "INSERT INTO items VALUES ('gone', 1)",
                        timeout_ms = 20000 })
    end },
  }

  for _, way in ipairs(WAYS) do
    it("does not let a " .. way[1] .. " fall into public", env.in_task(
      function()
        env.tenants({ "gone" })
        env.sql("CREATE TABLE t_gone.items (owner text, n int);"
          .. "CREATE TABLE public.items (owner text, n int);"
          .. "GRANT ALL ON public.items TO PUBLIC")
        local manager = env.manager()
        local db = assert(manager:get_db_async("gone"))
        local writer
        assert(manager:get_shared_db():transaction(function(tx)
          assert(tx:query("DROP SCHEMA t_gone CASCADE"))
          writer = mtenant.spawn(way[2], db)
          mtenant.sleep(100) -- it has begun, and waits for the drop
          assert.is_false(writer.done)
          return true
        end))
        local ok, err = writer:await()
        assert.is_nil(ok)
        assert.equal("tenant_not_found", err.code)
        assert.equal("0", env.sql("SELECT count(*) FROM public.items"))
        env.sql("DROP TABLE public.items")
      end))
  end
end)


-- Each way to read: by itself, in a transaction, in a session, in time.
local function reads_of(db)
  local SQL = "SELECT owner FROM items"
  local function read(on) return on:value(SQL) end
  return {
    function() return db:value(SQL) end,
    function() return db:transaction(read) end,
    function() return db:session(read) end,
    function()
      local rows, err = db:query({ sql = SQL, timeout_ms = 20000 })
      return rows and rows[1].owner, err
    end,
  }
end


describe("another schema under a tenant's name", function()
  after_each(env.assert_nothing_left)

  local function two()
    env.tenants({ "one", "two" })
    for _, id in ipairs({ "one", "two" }) do
      env.sql(("CREATE TABLE t_%s.items (owner text);"
        .. "INSERT INTO t_%s.items VALUES ('%s')"):format(id, id, id))
    end
  end

  local SWAP = "BEGIN; ALTER SCHEMA t_one RENAME TO t_x;"
    .. "ALTER SCHEMA t_two RENAME TO t_one;"
    .. "ALTER SCHEMA t_x RENAME TO t_two; COMMIT"

  for i, name in ipairs({ "query", "transaction", "session", "timeout" }) do
    it("is refused, in a " .. name, env.in_task(function()
      two()
      local db = assert(env.manager():get_db_async("one"))
      local reads = reads_of(db)
      assert.equal("one", env.must(reads[i]()))
      env.sql(SWAP)
      local owner, err = reads[i]()
      assert.is_nil(owner)
      assert.equal("tenant_not_found", err.code)
      assert.matches("made anew", err.message)
    end))
  end

  -- What follows in a transaction or session that has begun before.
  local LATER = {
    { "query", function(on) return on:value("SELECT owner FROM items") end },
    { "script", function(on) return on:exec("SELECT 1; SELECT owner FROM items") end },
    { "loop over rows", function(on)
      local owner
      for row in on:rows("SELECT owner FROM items") do owner = row.owner end
      return owner
    end },
    { "block", function(on)
      return on:query("DO 'BEGIN PERFORM FROM items; END'")
    end },
    { "temporary table", function(on)
      return on:query("CREATE TEMPORARY TABLE mine AS SELECT * FROM items")
    end },
    { "definition", function(on)
      return on:query("CREATE TABLE copied AS SELECT * FROM items")
    end },
  }
  local HOLDERS = {
    { "transaction", function(db, fn) return db:transaction(fn) end },
    { "session", function(db, fn) return db:session(fn) end },
    { "transaction of a session", function(db, fn)
      return db:session(function(session) return session:transaction(fn) end)
    end },
  }
  for _, holder in ipairs(HOLDERS) do
    for _, later in ipairs(LATER) do
      it(("is refused in the middle of a %s, by a %s"):format(holder[1], later[1]),
         env.in_task(function()
        two()
        local db = assert(env.manager():get_db_async("one"))
        local ok, owner, err
        local value = holder[2](db, function(on)
          assert.equal("one", env.must(on:value("SELECT owner FROM items")))
          env.sql(SWAP)
          ok, owner, err = pcall(later[2], on)
          if not ok then owner, err = nil, owner end
          return nil, err
        end)
        assert.is_nil(value)
        assert.is_nil(owner)
        assert.equal("tenant_not_found", err.code)
        assert.matches("made anew", err.message)
      end))
    end
  end

  it("lets a session that began before end its transaction", env.in_task(
    function()
      two()
      local db = assert(env.manager():get_db_async("one"))
      env.must(db:session(function(session)
        env.must(session:exec("BEGIN"))
        env.must(session:exec("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        assert.equal("serializable",
                     env.must(session:value("SHOW transaction_isolation")))
        env.must(session:value("SELECT owner FROM items"))
        env.sql(SWAP)
        local _, err = session:value("SELECT owner FROM items")
        assert.equal("tenant_not_found", err.code)
        _, err = session:value("SELECT 1")
        assert.equal("25P02", err.sqlstate)
        env.must(session:exec("ROLLBACK"))
        env.sql(SWAP) -- and back
        assert.equal("one", env.must(session:value("SELECT owner FROM items")))
        return true
      end))
    end))

  it("does not take a session's own path away", env.in_task(function()
    two()
    local db = assert(env.manager():get_db_async("one"))
    env.must(db:session(function(session)
      env.must(session:exec("SET search_path = pg_catalog"))
      assert.equal("pg_catalog", env.must(session:value("SELECT current_schema()")))
      return true
    end))
    env.must(db:transaction(function(tx)
      env.must(tx:exec("SET LOCAL search_path = pg_catalog"))
      assert.equal("pg_catalog", env.must(tx:value("SELECT current_schema()")))
      return true
    end))
  end))

  it("is refused once; then the resolver is asked where the tenant is",
     env.in_task(function()
    two()
    local schema, asked, evicted = "t_one", 0, {}
    local manager = env.manager({
      resolve = function()
        asked = asked + 1
        return { schema = schema }
      end,
      hooks = {
        on_pool_evicted = function(_, why) evicted[#evicted + 1] = why end,
      },
    })
    local db = assert(manager:get_db_async("one"))
    assert.equal("one", env.must(db:value("SELECT owner FROM items")))
    env.sql(SWAP)
    schema = "t_two"
    local _, err = db:query("INSERT INTO items VALUES ('lost')")
    assert.equal("tenant_not_found", err.code)
    assert.is_false(err.retryable)
    assert.equal(1, asked)
    assert.equal("one", env.must(db:value("SELECT owner FROM items")))
    assert.equal(2, asked)
    assert.same({ "schema_changed" }, evicted)
    assert.equal("2", env.sql("SELECT (SELECT count(*) FROM t_one.items) + "
      .. "(SELECT count(*) FROM t_two.items)"))
  end))

  it("made anew may be the tenant's, if the resolver still says so",
     env.in_task(function()
    two()
    local manager = env.manager()
    local db = assert(manager:get_db_async("one"))
    assert.equal("one", env.must(db:value("SELECT owner FROM items")))
    env.sql("DROP SCHEMA t_one CASCADE; CREATE SCHEMA t_one;"
      .. "CREATE TABLE t_one.items (owner text);"
      .. "INSERT INTO t_one.items VALUES ('restored')")
    local _, err = db:value("SELECT owner FROM items")
    assert.equal("tenant_not_found", err.code)
    for _, read in ipairs(reads_of(db)) do
      assert.equal("restored", env.must(read()))
    end
    manager:invalidate("one")
    env.sql("DROP SCHEMA t_one CASCADE; CREATE SCHEMA t_one")
    assert.equal("t_one", env.must(db:value("SELECT current_schema()")))
  end))
end)


describe("a schema that was renamed", function()
  after_each(env.assert_nothing_left)

  it("is not found, not even in public, until it has its name again",
     env.in_task(function()
    env.tenants({ "named" })
    env.sql("CREATE TABLE t_named.items (owner text);"
      .. "INSERT INTO t_named.items VALUES ('named');"
      .. "CREATE TABLE public.items (owner text);"
      .. "INSERT INTO public.items VALUES ('public');"
      .. "GRANT ALL ON public.items TO PUBLIC;"
      .. "DROP SCHEMA IF EXISTS t_other CASCADE")
    local db = assert(env.manager():get_db_async("named"))
    local uses = reads_of(db)
    for _ = 1, 3 do
      for _, use in ipairs(uses) do assert.equal("named", env.must(use())) end
    end
    env.sql("ALTER SCHEMA t_named RENAME TO t_other")
    for _, use in ipairs(uses) do
      local value, err = use()
      assert.is_nil(value)
      assert.equal("tenant_not_found", err.code)
    end
    env.sql("ALTER SCHEMA t_other RENAME TO t_named")
    for _, use in ipairs(uses) do assert.equal("named", env.must(use())) end
    env.sql("DROP TABLE public.items")
  end))
end)
