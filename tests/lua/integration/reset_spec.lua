--- What one tenant's session leaves behind is gone before the connection
--- serves another one; and where that can't be proven, the connection is.

local env = require "tests.support.env"


local LOOK = [[
  SELECT pg_backend_pid() AS pid, current_schema() AS schema,
    current_user = session_user AS own_role,
    (SELECT string_agg(name, ',' ORDER BY name) FROM pg_settings
      WHERE source = 'session') AS settings,
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql) AS prepared,
    (SELECT count(*) FROM pg_cursors WHERE name <> '') AS cursors,
    (SELECT count(*) FROM pg_listening_channels()) AS channels,
    (SELECT count(*) FROM pg_locks
      WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
    (SELECT count(*) FROM pg_class
      WHERE relnamespace = pg_my_temp_schema()) AS temp]]


-- A manager with one connection: whoever comes next gets the same one, unless
-- it was closed.
local function one_connection(reset)
  local manager = env.manager({
    connection = { max_connections = 1 },
    isolation = { reset = reset },
  })
  return manager, manager:get_db("acme"), manager:get_db("globex")
end


local LEFT_BY = {
  ["SET"] = "SET work_mem = '7MB'",
  ["SET of the path"] = "SET search_path = t_acme, public",
  ["RESET"] = "RESET ALL",
  ["set_config"] = "SELECT set_config('statement_timeout', '77s', false)",
  ["a custom setting"] = "SET app.tenant = 'acme'",
  ["SET ROLE"] = "SET ROLE reset_spec",
  ["SET SESSION AUTHORIZATION"] = "SET SESSION AUTHORIZATION DEFAULT",
  ["SET SESSION CHARACTERISTICS"] =
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
  ["a temporary table"] = "CREATE TEMP TABLE items AS SELECT 1 AS id",
  ["LISTEN"] = "LISTEN news",
  ["PREPARE"] = "PREPARE mine AS SELECT 1",
  ["a statement of our name"] =
    "DEALLOCATE mt_scope; PREPARE mt_scope(text, text, text) AS SELECT 1",
  ["DEALLOCATE ALL"] = "DEALLOCATE ALL",
  ["a cursor WITH HOLD"] = "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
  ["an advisory lock"] = "SELECT pg_advisory_lock(4711)",
  ["DISCARD ALL"] = "DISCARD ALL",
  ["a DO block"] =
    "DO $$BEGIN PERFORM set_config('work_mem', '7MB', false); END$$",
}

local WORK_MEM = "SELECT current_setting('work_mem')"


describe("a touched connection", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.server():psql("CREATE ROLE reset_spec; GRANT reset_spec TO mtenant")
  end)
  teardown(function() env.server():psql("DROP ROLE reset_spec") end)
  after_each(env.assert_nothing_left)

  for _, mode in ipairs({ "auto", "discard_all", "always" }) do
    it("is as new for the next tenant, mode " .. mode, env.in_task(function()
      local manager, acme, globex = one_connection(mode)
      local function look()
        return globex:session(function(s) return env.must(s:one(LOOK)) end)
      end
      local want = assert(look())
      for name, sql in pairs(LEFT_BY) do
        local _, err = acme:session(function(s) return s:exec(sql) end)
        assert.is_nil(err, name)
        assert.same(want, assert(look()), name)
      end
      local stats = manager:get_stats()
      assert.equal(1, stats.opened)
      assert.equal(0, stats.tainted)
      assert.is_true(stats.resets > 10)
    end))
  end

  it("is reset after exec and single statements too", env.in_task(function()
    local _, acme, globex = one_connection()
    local pid = globex:value("SELECT pg_backend_pid()")
    for _, sql in pairs({ "SET work_mem = '7MB'; SELECT 1", LEFT_BY["LISTEN"],
                          LEFT_BY["a DO block"] }) do
      assert(acme:exec(sql))
      assert.not_equal("7MB", globex:value(WORK_MEM))
      assert.equal(0, globex:value("SELECT count(*) FROM pg_listening_channels()"))
    end
    assert(acme:query(LEFT_BY["a DO block"]))
    assert.not_equal("7MB", globex:value(WORK_MEM))
    assert.equal(pid, globex:value("SELECT pg_backend_pid()"))
  end))

  it("is reset after a transaction with a plain SET", env.in_task(function()
    local manager, acme, globex = one_connection()
    assert(acme:transaction(function(tx)
      return tx:query("SET work_mem = '7MB'")
    end))
    assert.not_equal("7MB", globex:value(WORK_MEM))
    assert.equal(1, manager:get_stats().opened)
  end))

  it("keeps its plans in mode auto", env.in_task(function()
    local _, acme, globex = one_connection()
    for _ = 1, 3 do assert(globex:query("SELECT 12345")) end
    assert(acme:session(function(s) return s:query("SET work_mem = '7MB'") end))
    assert.equal(1, globex:session(function(s)
      return s:value("SELECT count(*) FROM pg_prepared_statements "
        .. "WHERE statement = 'SELECT 12345'")
    end))
  end))

  it("is closed where no reset is known", env.in_task(function()
    local manager, acme, globex = one_connection()
    local pid = globex:value("SELECT pg_backend_pid()")
    acme:session(function(s) return s:query("LOAD 'nothing of this name'") end)
    assert.not_equal(pid, globex:value("SELECT pg_backend_pid()"))
    assert.equal(1, manager:get_stats().tainted)
  end))

  it("is retired when a function has changed it", env.in_task(function()
    env.sql("CREATE FUNCTION public.change_zone() RETURNS text LANGUAGE sql "
      .. "AS $$SELECT set_config('TimeZone', 'Asia/Tokyo', false)$$")
    finally(function() env.sql("DROP FUNCTION public.change_zone()") end)
    local manager, acme, globex = one_connection()
    assert.equal("Asia/Tokyo", acme:value("SELECT change_zone()"))
    assert.not_equal("Asia/Tokyo",
                     globex:value("SELECT current_setting('TimeZone')"))
    assert.equal(1, manager:get_stats().tainted)
  end))

  it("would leak without the reset", env.in_task(function()
    local manager, acme, globex = one_connection()
    manager._core:unsafe_keep_sessions()
    assert(acme:transaction(function(tx)
      return tx:query("SET work_mem = '7MB'")
    end))
    assert.equal("7MB", globex:value(WORK_MEM))
  end))

  it("has three modes", function()
    local ok, err = pcall(one_connection, "never")
    assert.is_false(ok)
    assert.matches("isolation.reset", tostring(err), 1, true)
  end)
end)
