--- Behind a real PgBouncer in transaction mode that has one server connection
--- for all: every result carries its tenant's mark, and what needs a session is
--- refused before it is sent.

local bouncer = require "tests.support.bouncer"
local env = require "tests.support.env"
local mtenant = require "mtenant"

local SELECT, INSERT = bouncer.SELECT, bouncer.INSERT
local check, expect = bouncer.check, bouncer.expect
local manager_of = bouncer.manager_of


-- a program that is killed with a pipeline under way
local VICTIM = [[
  local mtenant = require "mtenant"
  mtenant.run(function()
    local db = mtenant.create_tenant_manager({
      connection = { url = "%s", pooler = "transaction", max_connections = 1 },
      isolation = { schema_name_template = function(id) return "t_" .. id end },
    }):get_db("red")
    while true do
      db:pipeline(function(p)
        for _ = 1, 50 do
          p:query("SELECT owner, pg_sleep(0.001) FROM items")
        end
      end)
    end
  end)
]]


local function write_script(code)
  local name = os.tmpname()
  local file = assert(io.open(name, "w"))
  file:write(code)
  file:close()
  return name
end


-- raises misuse that names the setting
local function assert_refused(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.equal("misuse", err.code)
  assert.matches("connection.pooler", err.message, 1, true)
end


-- ---- what tenants do ---------------------------------------------------------------

local function count(t, on)
  local rows = check(t, env.must(on:query(SELECT)))
  if #rows ~= t.count then
    error(("%s has %d rows instead of %d"):format(t.id, #rows, t.count), 0)
  end
end


-- `t` has id, db and the number of rows there must be.
local USES = {
  query = function(t) count(t, t.db) end,

  insert = function(t)
    check(t, env.must(t.db:query(INSERT, t.id, 1)))
    t.count = t.count + 1
  end,

  scope = function(t)
    local row = env.must(t.db:one("SELECT current_schema() AS schema, "
      .. "current_setting('search_path') AS path"))
    assert(row.schema == "t_" .. t.id)
    assert(row.path == ('"t_%s","public",pg_temp'):format(t.id))
  end,

  failure = function(t)
    local _, err = t.db:query("SELECT 1 / (n - n) FROM items")
    expect(err, "22012")
  end,

  pipeline = function(t)
    env.must(t.db:pipeline(function(p)
      local all = {}
      for i = 1, 5 do all[i] = p:query(SELECT) end
      local bad = p:query("SELECT missing FROM items")
      for i = 6, 8 do all[i] = p:query(INSERT, t.id, i) end
      for i = 1, 8 do check(t, env.must(all[i]:await())) end
      local _, err = bad:await()
      expect(err, "42703")
      return true
    end))
    t.count = t.count + 3
    count(t, t.db)
  end,

  atomic = function(t)
    local _, err = t.db:pipeline({ atomic = true }, function(p)
      p:query(INSERT, t.id, 1)
      p:query("SELECT 1 / 0")
      return true
    end)
    expect(err, "22012")
    env.must(t.db:pipeline({ atomic = true }, function(p)
      p:query(INSERT, t.id, 1)
      p:query(INSERT, t.id, 2)
      return true
    end))
    t.count = t.count + 2
  end,

  transaction = function(t)
    env.must(t.db:transaction(function(tx)
      check(t, env.must(tx:query(INSERT, t.id, 2)))
      tx:transaction(function(inner)
        check(t, env.must(inner:query(INSERT, t.id, 3)))
        return nil, "undo"
      end)
      env.must(tx:query("SET LOCAL timezone = 'Asia/Tokyo'"))
      mtenant.sleep(1)
      count({ id = t.id, count = t.count + 1 }, tx)
      return true
    end))
    t.count = t.count + 1
  end,

  rollback = function(t)
    local _, err = t.db:transaction({ isolation = "serializable" },
      function(tx)
        env.must(tx:query("DELETE FROM items"))
        return nil, "no"
      end)
    assert(err == "no")
    count(t, t.db)
  end,

  ddl = function(t)
    env.must(t.db:query("CREATE TABLE later (owner text)"))
    env.must(t.db:query("INSERT INTO later VALUES ($1)", t.id))
    check(t, env.must(t.db:query("SELECT owner FROM later")))
    env.must(t.db:query("DROP TABLE later"))
  end,

  exec = function(t)
    env.must(t.db:exec(("CREATE TABLE both_ AS SELECT owner FROM items;"
      .. "INSERT INTO both_ VALUES ('%s')"):format(t.id)))
    check(t, env.must(t.db:exec("SELECT owner FROM both_")))
    env.must(t.db:exec("DROP TABLE both_"))
  end,

  block = function(t)
    env.must(t.db:query("DO $$BEGIN INSERT INTO items SELECT owner, 9 "
      .. "FROM items LIMIT 1; END$$"))
    env.must(t.db:exec("DO $$BEGIN PERFORM 1; END$$; SELECT 1"))
    t.count = t.count + 1
    count(t, t.db)
  end,

  rows = function(t)
    local seen = 0
    for row in t.db:rows("SELECT owner FROM items, generate_series(1, 300)") do
      check(t, { row })
      seen = seen + 1
      if seen == 200 then break end
    end
    assert(seen == 200)
  end,

  timeout = function(t)
    local _, err = t.db:query({ sql = "SELECT pg_sleep(3)", timeout_ms = 10 })
    expect(err, "timeout")
    _, err = t.db:transaction(function(tx)
      return tx:query({ sql = "SELECT pg_sleep(3)", timeout_ms = 10 })
    end)
    expect(err, "timeout")
  end,

  deadline = function(t)
    local _, err = mtenant.with_deadline(20, function()
      return t.db:transaction(function(tx)
        env.must(tx:query(INSERT, t.id, 1))
        return tx:query("SELECT pg_sleep(3)")
      end)
    end)
    expect(err, "timeout")
  end,

  cancel = function(t)
    local task = mtenant.spawn(function()
      return t.db:query("SELECT pg_sleep(3)")
    end)
    mtenant.sleep(5)
    task:cancel()
    local _, err = task:await()
    expect(err, "cancelled")
  end,
}

-- those that hold the only connection for a while come less often
local SLOW = { timeout = true, deadline = true, cancel = true }


local function names_of_uses()
  local out = {}
  for name in pairs(USES) do
    for _ = 1, SLOW[name] and 1 or 4 do out[#out + 1] = name end
  end
  table.sort(out)
  return out
end


local function work(t, names, steps, random)
  for _ = 1, steps do
    local name = names[random() % #names + 1]
    local ok, err = pcall(USES[name], t)
    if not ok then
      error(("%s: %s: %s"):format(t.id, name, tostring(err)), 0)
    end
  end
end


-- a seeded generator, as the order of tasks is not the seed's
local function generator(seed)
  return function()
    seed = (seed * 1103515245 + 12345) % 2147483648
    return math.floor(seed / 65536)
  end
end


local function interleave(ids, steps)
  bouncer.schemas(ids)
  local manager = manager_of({
    connection = {
      cancel_timeout_ms = 20000,
      pool = { acquire_timeout_ms = 60000, connect_timeout_ms = 60000 },
    },
  })
  local names, tenants = names_of_uses(), {}
  local tasks = {}
  for i, id in ipairs(ids) do
    local t = { id = id, db = assert(manager:get_db(id)), count = 1 }
    tenants[i] = t
    tasks[i] = mtenant.spawn(work, t, names, steps, generator(i))
  end
  for i = 1, #tasks do tasks[i]:await() end
  for _, t in ipairs(tenants) do count(t, t.db) end
  manager:dispose()
  assert.equal("public|1", bouncer.server:psql(
    "SELECT min(owner), count(*) FROM public.items"))
  for _, t in ipairs(tenants) do
    assert.equal(t.id .. "|" .. t.id .. "|" .. t.count, bouncer.server:psql(
      "SELECT min(owner), max(owner), count(*) FROM t_" .. t.id .. ".items"))
  end
end


for _, way in ipairs({
  { "behind PgBouncer" },
  { "behind PgBouncer with ignore_startup_parameters", bouncer.IGNORING },
}) do
  describe(way[1], function()
    setup(bouncer.set_up(way[2]))
    teardown(bouncer.tear_down)
    after_each(bouncer.nothing_left)

    it("two tenants on one server connection see their own rows only",
       env.in_task(function()
      interleave({ "red", "blue" }, 80)
    end, 60000))

    it("so do twenty", env.in_task(function()
      local ids = {}
      for i = 1, 20 do ids[i] = "m" .. i end
      interleave(ids, 15)
      assert.equal("1", bouncer.server:psql("SELECT count(*) FROM pg_stat_activity "
        .. "WHERE usename = 'mtenant'"))
    end, 60000))

    it("names nothing and sets nothing on the session", env.in_task(function()
      local manager = manager_of()
      local db = assert(manager:get_db_async("red"))
      for _ = 1, 5 do env.must(db:query(SELECT)) end
      manager:dispose()
      local log = bouncer.server:log()
      assert.matches("execute <unnamed>: " .. SELECT, log, 1, true)
      assert.is_nil(log:find("execute mt_", 1, true))
      assert.is_nil(log:find("client_connection_check_interval", 1, true))
      assert.is_nil(log:find("max_connections", 1, true))
      assert.equal('""||', bouncer.pooler:psql(
        "SELECT current_setting('search_path') || '|' || (SELECT "
        .. "coalesce(string_agg(name, ','), '') FROM pg_prepared_statements)"
        .. "|| '|'"))
    end))

    it("refuses what needs a session, before it is sent", env.in_task(function()
      local manager = manager_of()
      local db = assert(manager:get_db("red"))
      assert_refused(db.session, db, function() end)
      for _, sql in ipairs({
        "SET timezone = 'UTC'", "LISTEN news", "PREPARE p AS SELECT 1",
        "CREATE TEMP TABLE x (n int)", "SELECT pg_advisory_lock(1)", "VACUUM",
        "SELECT set_config('a.b', 'c', false)",
      }) do
        assert_refused(db.query, db, sql)
        assert_refused(db.exec, db, sql)
        assert_refused(db.pipeline, db, function(p) p:query(sql) end)
      end
      assert.equal(0, bouncer.pooler:clients())
      for _, sql in ipairs({
        "SET timezone = 'UTC'", "CREATE TEMP TABLE x (n int)",
        "DISCARD ALL", "SELECT pg_try_advisory_lock(1)",
      }) do
        assert_refused(db.transaction, db, function(tx) tx:query(sql) end)
        assert_refused(db.transaction, db, function(tx) tx:exec(sql) end)
      end
      local ok, err = pcall(db.exec, db, "BEGIN; SELECT 1; COMMIT")
      assert.is_false(ok)
      assert.matches("transaction control", err.message)
    end))

    it("lets an evicted or unknown schema fall nowhere", env.in_task(function()
      local manager = manager_of()
      local db = assert(manager:get_db("nosuch"))
      local _, err = db:query(SELECT)
      expect(err, "tenant_not_found")
      _, err = db:transaction(function(tx) return tx:query(SELECT) end)
      expect(err, "tenant_not_found")
    end))

    it("never takes the answers of a client that was killed",
       env.in_task(function()
      local manager = manager_of()
      local blue = assert(manager:get_db_async("blue"))
      local script = write_script(VICTIM:format(bouncer.pooler.url))
      for i = 1, 3 do
        local victim = io.popen(("echo $$; exec '%s' '%s' 2>&1"):format(
          arg[-1], script))
        local pid = victim:read("n")
        env.eventually("its work", function()
          return bouncer.pooler:clients() > 1
        end)
        for _ = 1, 10 + i do
          check({ id = "blue" }, env.must(blue:query(SELECT)))
        end
        os.execute("kill -KILL " .. pid)
        victim:close()
        for _ = 1, 30 do
          check({ id = "blue" }, env.must(blue:query(SELECT)))
        end
      end
      os.remove(script)
    end))

    it("explains a configuration for a direct connection", env.in_task(function()
      local manager = bouncer.direct()
      local function see(_, err)
        expect(err, "policy")
        assert.is_false(err.retryable)
        assert.matches('connection.pooler = "transaction"', err.hint, 1, true)
      end
      see(manager:get_db_async("red"))
      local db = assert(manager:get_db("red"))
      see(db:query(SELECT))
      see(db:exec("CREATE TABLE never (n int)"))
      see(db:transaction(function(tx) return tx:query(SELECT) end))
      see(db:session(function(s) return s:query(SELECT) end))
    end))
  end)
end
