--- Tenants that are migrated when they are used first: migrate = "on_connect".

local env = require "tests.support.env"
local migrations = require "tests.support.migrations"
local mtenant = require "mtenant"


local value, names, has, task =
  migrations.value, migrations.names, migrations.has, migrations.task
local folder


local function manager(more)
  local opts = { tenant_folder = folder.path, migrate = "on_connect" }
  for key, v in pairs(more or {}) do opts[key] = v end
  return assert(mtenant.create_tenant_manager({
    connection = { url = env.server().url,
                   retry = { max_attempts = 2, initial_delay_ms = 5 } },
    isolation = { strategy = "schema",
      schema_name_template = function(id) return "m_" .. id end },
    resolve = opts.resolve, routing = opts.routing,
    migrations = { tenant_folder = opts.tenant_folder, migrate = opts.migrate,
                   hooks = opts.hooks },
  }))
end


local function items(db)
  return db:value("SELECT count(*) FROM items")
end


describe("migrate = 'on_connect'", function()
  before_each(function() folder = migrations.begin() end)
  after_each(function() folder.close() end)
  after_each(env.assert_nothing_left)

  it("brings a tenant up to date before anybody gets to it, once", task(function()
    local ran = {}
    local m = manager({ hooks = { before_tenant = function(id)
      ran[#ran + 1] = id
    end } })
    local all = {}
    for i = 1, 40 do
      all[i] = mtenant.spawn(function()
        local db = assert(m:get_db(migrations.IDS[i % 4 + 1]))
        return assert(items(db))
      end)
    end
    for _, one in ipairs(all) do assert.equal(2, one:await()) end
    table.sort(ran)
    assert.same({ "a", "b", "c", "d" }, ran)
    assert.equal("0001_items,0002_note", names("m_d"))
    assert.is_false(has("m_e.items"))

    -- it is known from now on, also when the entry goes; not after invalidate
    folder.write("0003_more.sql", "CREATE TABLE more (n int)")
    m:evict_pool("a")
    assert.equal(2, items(m:get_db("a")))
    assert.is_false(has("m_a.more"))
    m:dispose()
    m = manager()
    assert.equal(0, m:get_db("a"):value("SELECT count(*) FROM more"))
    assert.is_true(has("m_a.more"))
    m:dispose()
  end))

  it("goes with a tenant to where its route leads next", task(function()
    local schema, asked = "m_a", 0
    local m = manager({ routing = {}, resolve = function()
      asked = asked + 1
      return { schema = schema }
    end })
    assert.equal(2, items(m:get_db("a")))
    schema = "m_b"
    m:invalidate_all()
    assert.equal(2, items(m:get_db("a")))
    assert.is_true(has("m_b.items"))
    assert.equal("m_b", m:get_schema_name("a"))
    m:evict_pool("a") -- its route is known yet
    assert.equal(2, items(m:get_db("a")))
    assert.equal(2, asked)
    m:dispose()
  end))

  it("is one flight over all managers of a process", task(function()
    folder.write("0000_slow.sql", "SELECT pg_sleep(0.2)")
    local all = {}
    for i = 1, 3 do
      local m = manager()
      all[i] = mtenant.spawn(function()
        local n, err = items(m:get_db("a"))
        m:dispose()
        return n, err
      end)
    end
    for _, one in ipairs(all) do assert.equal(2, one:await()) end
    assert.equal("0000_slow,0001_items,0002_note", names("m_a"))
    assert.equal("2", value("SELECT count(*) FROM m_a.items"))
  end))

  it("is one flight over processes", task(function()
    -- the file waits for a lock that is held here until both are at it
    folder.write("0003_gate.sql", "SELECT pg_advisory_xact_lock_shared(4711); "
      .. "INSERT INTO items (n) VALUES (3)")
    env.sql("SELECT pg_advisory_lock(4711)")
    local script = ([[
      local m = require("mtenant").create_tenant_manager({
        connection = { url = "%s" },
        isolation = { schema_name_template = function(id) return "m_" .. id end },
        migrations = { tenant_folder = "%s", migrate = "on_connect" } })
      print(assert(m:get_db("a"):value("SELECT count(*) FROM items")))
    ]]):format(env.server().url, folder.path)
    local processes = {}
    for i = 1, 2 do
      processes[i] = assert(io.popen(("%s -e '%s' 2>&1"):format(
        os.getenv "MTENANT_RUN" or "mtenant-run", script)))
    end
    env.eventually("both have looked at the tenant, and one runs it", function()
      return value("SELECT count(DISTINCT pid) > 1 FROM pg_locks WHERE locktype = "
        .. "'advisory' AND mode = 'ShareLock' AND objsubid = 2") == "t"
        and value("SELECT count(*) FROM pg_stat_activity WHERE application_name = "
        .. "'mtenant migrator' AND wait_event = 'advisory'") == "1"
    end, 20000)
    assert.is_false(has("m_a.items"))
    env.sql("SELECT pg_advisory_unlock(4711)")
    for i = 1, 2 do
      assert.equal("3\n", processes[i]:read "*a")
      processes[i]:close()
    end
    assert.equal("0001_items,0002_note,0003_gate", names("m_a"))
  end))

  it("looks again at a tenant that moves, or comes anew", task(function()
    local home = "m_a"
    local m = manager({ resolve = function() return { schema = home } end })
    assert.equal(2, items(m:get_db("a")))
    home = "m_b"
    m:invalidate("a")
    assert.equal(2, items(m:get_db("a")))
    assert.equal("0001_items,0002_note", names("m_b"))

    env.sql("DROP SCHEMA m_b CASCADE; CREATE SCHEMA m_b")
    local _, err = items(m:get_db("a"))
    assert.equal("tenant_not_found", err.code)
    assert.equal(2, items(m:get_db("a")))
    assert.equal("0001_items,0002_note", names("m_b"))

    -- also while it is on its way to where it was
    folder.write("0003_slow.sql", "SELECT pg_sleep(0.3)")
    local slow = manager({ resolve = function() return { schema = home } end })
    home = "m_c"
    local first = mtenant.spawn(function() return items(slow:get_db("a")) end)
    env.eventually("the file runs", function()
      return value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = "
        .. "'PgSleep'") == "1"
    end)
    home = "m_d"
    slow:invalidate("a")
    assert.equal(2, items(slow:get_db("a")))
    assert.equal("0001_items,0002_note,0003_slow", names("m_d"))
    first:await()
    m:dispose()
    slow:dispose()
  end))

  it("serves nobody whose migration fails, and others all the same", task(function()
    folder.write("0003_bad.sql", "SELECT 1 / (current_schema() <> 'm_b')::int")
    local m = manager()
    local n, err = items(m:get_db("b"))
    assert.is_nil(n)
    assert.matches("0003_bad.sql, line 1, statement 1", err.message)
    assert.equal("b", err.tenant_id)
    assert.equal(2, items(m:get_db("c")))
    local started = mtenant.now_ms()
    for _ = 1, 20 do
      assert.equal(err.message, select(2, items(m:get_db("b"))).message)
    end
    assert.is_true(mtenant.now_ms() - started < 900)

    folder.write("0003_bad.sql", "SELECT 1")
    mtenant.sleep(1050)
    assert.equal(2, items(m:get_db("b")))
    local _, why = m:get_db_async("nobody")
    assert.equal("tenant_not_found", why.code)
    m:dispose()
  end))

  it("answers those who wait when the manager goes", task(function()
    folder.write("0003_slow.sql", "SELECT pg_sleep(20)")
    local m = manager()
    local waiting = mtenant.spawn(function() return items(m:get_db("a")) end)
    mtenant.sleep(200)
    local started = mtenant.now_ms()
    m:dispose(100)
    local n, err = waiting:await()
    assert.is_nil(n)
    assert.equal("disposed", err.code)
    assert.is_true(mtenant.now_ms() - started < 5000)
    assert.equal("0", value("SELECT count(*) FROM pg_stat_activity "
      .. "WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid()"))
  end))

  it("leaves tenants alone that have rows only", task(function()
    env.sql("CREATE TABLE public.items (n int); INSERT INTO public.items "
      .. "VALUES (7)")
    local m = manager({ resolve = function(id)
      return { strategy = id == "a" and "row" or "schema" }
    end })
    assert.equal(1, items(m:get_db("a")))
    assert.is_false(has("m_a.items"))
    assert.equal(2, items(m:get_db("b")))
    m:dispose()
  end))

  it("refuses a word that is none", function()
    assert.has_error(function() manager({ migrate = "always" }) end)
    assert.has_error(function()
      mtenant.create_tenant_manager({
        connection = { url = "postgresql://x" }, resolve = function() end,
        migrations = { migrate = "on_connect", tenant_fodler = "x" } })
    end)
  end)
end)
