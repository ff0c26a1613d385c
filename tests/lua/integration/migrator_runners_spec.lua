--- Several runners of migrations on one database, and who else may have it: the
--- locks, poolers, and schemas that are renamed meanwhile.

local env = require "tests.support.env"
local locks = require "mtenant.migrator.locks"
local migrations = require "tests.support.migrations"
local mtenant = require "mtenant"


local TRACKING = "__drizzle_migrations"

local migrator, value, names =
  migrations.migrator, migrations.value, migrations.names
local has, task, all_well =
  migrations.has, migrations.task, migrations.all_well
local folder


-- The observer's session takes a lock, or gives it back.
local function outside(call, keys)
  env.sql(("SELECT pg_advisory_%s(%d, %d)"):format(call, keys[1], keys[2]))
end


local function schema_lock(schema)
  return locks.of_schema(TRACKING, tonumber(value(
    "SELECT oid FROM pg_namespace WHERE nspname = '" .. schema .. "'")))
end


local function file_runs()
  env.eventually("the file runs", function()
    return value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = "
      .. "'PgSleep'") == "1"
  end)
end


local HOLDER = "process %d+ of the server %(observer.*, since 20"


describe("runners of migrations", function()
  before_each(function() folder = migrations.begin() end)
  after_each(function() folder.close() end)
  after_each(env.assert_nothing_left)

  it("wait for a run that is alone, and say who that is", task(function()
    local lock = locks.of_run(TRACKING)
    outside("lock", lock)
    local results = assert(migrator({ lock_wait_ms = 150 }):migrate_all())
    assert.equal(5, results.failed)
    assert.equal("timeout", results.details[1].error.code)
    assert.matches("another run holds the lock of this database: " .. HOLDER,
                   results.details[5].error.message)
    assert.is_false(has("m_a.items"))

    local waiting = mtenant.spawn(function()
      return migrator({ lock_wait_ms = 20000 }):migrate_all()
    end)
    mtenant.sleep(250)
    assert.is_false(waiting.done)
    outside("unlock", lock)
    all_well(assert(waiting:await()))
  end))

  it("leave a tenant to whoever has it, and say who that is", task(function()
    local lock = schema_lock("m_b")
    outside("lock", lock)
    local results = assert(migrator({ lock_wait_ms = 150 }):migrate_all())
    assert.same({ 4, 1 }, { results.succeeded, results.failed })
    assert.matches('schema "m_b" is being migrated by another runner: ' .. HOLDER,
                   results.details[2].error.message)
    local _, err = migrator():drop_tenant("b")
    assert.matches("is being migrated by " .. HOLDER, err.message)
    assert.is_false(has("m_b.items"))
    outside("unlock", lock)
    all_well(assert(migrator():migrate_all()))
  end))

  it("have a tenant's lock before they look at it, and give back none but that",
    task(function()
      local m = migrator({ hooks = { before_tenant = function(id)
        -- what was read of it is old by now
        if id == "b" then env.sql("ALTER SCHEMA m_b RENAME TO m_x") end
      end } })
      local before = #env.server():log()
      local results = assert(m:migrate_all())
      env.sql("ALTER SCHEMA m_x RENAME TO m_b")
      assert.equal("tenant_not_found", results.details[2].error.code)
      assert.equal(4, results.succeeded)
      assert.is_nil(env.server():log():find("you don't own a lock", before, true))
    end))

  it("change formats alone, however many connections there may be",
    task(function()
      all_well(assert(migrator():migrate_all()))
      all_well(assert(migrator({ lock_wait_ms = 0 })
        :convert_all_formats("hash", { concurrency = 4 })))
      folder.write("0003_slow.sql", "SELECT pg_sleep(0.4)")
      local run = mtenant.spawn(function()
        return migrator():migrate_tenant("a")
      end)
      file_runs()
      local results = assert(migrator({ lock_wait_ms = 50 })
        :convert_all_formats("name"))
      assert.equal(5, results.failed)
      assert.matches("another run holds the lock of this database: process %d+ of "
        .. "the server %(mtenant migrator", results.details[1].error.message)
      assert.is_true(run:await().success)
      assert.equal("hash", migrator():get_tenant_status("a").format)
    end))

  it("explain that a pooler in transaction mode is none of theirs", task(function()
    local server = env.start()
    server:psql("CREATE SCHEMA m_a AUTHORIZATION mtenant")
    local function behind(settings, opts)
      settings.ignore_startup_parameters = "options"
      -- or else it is seen already when a connection is made
      settings.connect_query = "SELECT set_config(''search_path'', '''', false)"
      settings.default_pool_size = 4
      local pooler = server:bouncer(settings)
      local m = mtenant.create_migrator({
        connection = { url = pooler.url, pooler = opts and "transaction" or nil },
        isolation = { schema_name_template = function(id) return "m_" .. id end },
      }, { migrations_folder = folder.path, url = opts and opts.url })
      local r = m:migrate_tenant("a")
      m:dispose()
      pooler:close()
      return r
    end
    local function tables()
      return server:psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'm_a'")
    end

    local r = behind({})
    assert.equal("policy", r.error.code)
    assert.matches("a pooler in transaction mode in between; give `url`, a direct",
                   r.error.message)
    r = behind({}, {})
    assert.equal("policy", r.error.code)
    assert.matches("`url`, a direct connection", r.error.message)
    assert.equal("0", tables())
    assert.is_true(behind({ pool_mode = "session" }).success)
    folder.write("0003_more.sql", "CREATE TABLE more (id int)")
    assert.is_true(behind({}, { url = server.url }).success)
    assert.equal("3", tables())
    env.close(server)
  end))

  for _, kind in ipairs({ "sql", "together", "lua", "alone", "lua alone" }) do
    it("keep nothing of a file whose schema was renamed while it ran, " .. kind,
      task(function()
        local files = {
          sql = "SELECT pg_sleep(0.3); CREATE TABLE later (id int)",
          lua = "return { %s up = function(db) db:query('SELECT pg_sleep(0.3)') "
            .. "return db:query('CREATE TABLE later (id int)') end }",
        }
        files.together = files.sql
        files.alone = "-- mtenant:no-transaction\n" .. files.sql
        files["lua alone"] = files.lua:format("transaction = false,")
        files.lua = files.lua:format("")
        local m = migrator()
        if kind ~= "together" then all_well(assert(m:migrate_all())) end
        folder.write("0003_later." .. (kind:find("lua") and "lua" or "sql"),
                     files[kind])
        local run = mtenant.spawn(function() return m:migrate_tenant("a") end)
        file_runs()
        env.sql("ALTER SCHEMA m_a RENAME TO m_x; ALTER SCHEMA m_b RENAME TO m_a")
        local r = run:await()
        env.sql("ALTER SCHEMA m_a RENAME TO m_b; ALTER SCHEMA m_x RENAME TO m_a")
        -- together: the other schema has no table for the records
        assert.equal(kind == "together" and "query" or "tenant_not_found",
                     r.error and r.error.code)
        assert.same({}, r.applied_migrations)
        -- what a function does without a transaction is its own affair
        assert.equal(kind == "lua alone", has("m_b.later"))
        local there = kind ~= "together" and "0001_items,0002_note" or nil
        for _, schema in ipairs({ "m_a", "m_b" }) do
          if there then assert.equal(there, names(schema))
          else assert.is_false(has(schema .. "." .. TRACKING)) end
        end
      end))
  end
end)
