--- The migrator on a real server.

local env = require "tests.support.env"
local migrations = require "tests.support.migrations"
local mtenant = require "mtenant"


local migrator, value, names =
  migrations.migrator, migrations.value, migrations.names
local has, task, all_well =
  migrations.has, migrations.task, migrations.all_well
local folder


describe("the migrator", function()
  before_each(function() folder = migrations.begin() end)
  after_each(function() folder.close() end)
  after_each(env.assert_nothing_left)

  it("applies each file once, with its record, and has nothing to do then",
    task(function()
      local m = migrator()
      local results = all_well(assert(m:migrate_all()))
      assert.same({ "0001_items", "0002_note" },
                  results.details[3].applied_migrations)
      assert.equal("m_c", results.details[3].schema_name)
      assert.equal("name", results.details[3].format)
      assert.equal("0001_items,0002_note", names("m_e"))
      assert.equal("10", value("SELECT count(*) FROM mtenant.checksums"))
      results = all_well(assert(m:migrate_all()))
      assert.same({}, results.details[1].applied_migrations)
      assert.equal("2", value("SELECT count(*) FROM m_a.items"))
      local status = assert(m:get_status())
      assert.same({ "ok", 2, 0 }, { status[5].status, status[5].applied_count,
                                    status[5].pending_count })
    end))

  it("takes a fresh schema's files in one transaction, where they can be", task(function()
    local function transactions()
      return value("SELECT count(DISTINCT xmin::text) FROM m_a.__drizzle_migrations")
    end
    assert.is_true(migrator():migrate_tenant("a").success)
    assert.equal("1", transactions())
    folder.write("0003_more.sql", "CREATE TABLE more (n int)")
    folder.write("0004_last.sql", "CREATE TABLE last (n int)")
    assert.is_true(migrator():migrate_tenant("a").success)
    assert.equal("3", transactions())
    -- each record with its checksum, and with what its file has made
    assert.equal("4", value("SELECT count(*) FROM mtenant.checksums c "
      .. "JOIN m_a.__drizzle_migrations m USING (name) "
      .. "WHERE c.schema_name = 'm_a' AND c.xmin = m.xmin"))
    assert.equal("t", value("SELECT m.xmin = c.xmin FROM pg_class c, "
      .. "m_a.__drizzle_migrations m WHERE c.oid = 'm_a.last'::regclass "
      .. "AND m.name = '0004_last'"))

    -- what comes before the one that fails stays
    folder.write("0005_bad.sql", "SELECT 1 / (current_schema() <> 'm_b')::int")
    local r = migrator():migrate_tenant("b")
    assert.matches("^0005_bad.sql, line 1, statement 1: ", r.error.message)
    assert.equal(4, #r.applied_migrations)
    assert.equal("0001_items,0002_note,0003_more,0004_last", names("m_b"))
  end))

  it("keeps what a file has set from the next one", task(function()
    folder.write("0000_set.sql", "SET LOCAL search_path TO public; "
      .. "SET LOCAL work_mem TO '1234kB'")
    folder.write("0003_look.sql", "CREATE TABLE look AS SELECT "
      .. "current_schema() AS home, current_setting('work_mem') AS work_mem;\n"
      .. "CREATE FUNCTION astray() RETURNS text LANGUAGE sql "
      .. "AS 'SELECT set_config(''search_path'', ''public'', true)'")
    folder.write("0004_astray.sql", "SELECT astray()")
    folder.write("0005_home.sql", "CREATE TABLE home (n int)")
    all_well(assert(migrator():migrate_all()))
    for _, id in ipairs({ "a", "e" }) do
      assert.equal("t|t", value(("SELECT home = 'm_%s', "
        .. "work_mem <> '1234kB' FROM m_%s.look"):format(id, id)))
      assert.is_true(has("m_" .. id .. ".home"))
    end
  end))

  it("applies migrations in Lua, and takes back what has a way back",
    task(function()
      folder.write("0003_rows.lua", [[
        return {
          up = function(db, ctx)
            for i = 1, 3 do
              local _, err = db:query("INSERT INTO items (n, note) "
                .. "VALUES ($1, $2)", i + 10, ctx.tenant_id .. ctx.schema)
              if err then return nil, err end
            end
          end,
          down = function(db) return db:query("DELETE FROM items WHERE n > 10") end,
        }]])
      local m = migrator()
      all_well(assert(m:migrate_all()))
      assert.equal("3", value("SELECT count(*) FROM m_b.items "
        .. "WHERE note = 'bm_b'"))
      local r = m:rollback_tenant("b", { to = "0001_items" })
      assert.same({ "0003_rows", "0002_note" }, r.reverted_migrations)
      assert.equal("0001_items", names("m_b"))
      r = m:rollback_tenant("b")
      assert.matches("0001_items has no down part", r.error.message)
      assert.is_true(m:migrate_tenant("b").success)
      folder.write("0004_bad.lua", "return { up = function(db) "
        .. "db:query('INSERT INTO items (n) VALUES (77)') error('no way') end }")
      r = m:migrate_tenant("b")
      assert.matches("0004_bad.lua: .*no way", r.error.message)
      assert.equal("0", value("SELECT count(*) FROM m_b.items WHERE n = 77"))
    end))

  it("names one line for what is wrong with the files", task(function()
    local m = migrator()
    for name, text in pairs({ ["0009_empty.sql"] = " \n", ["0009_x.sql"] =
        "SELEC 1", ["0009_u.sql"] = "SELECT '\255'", ["0009_l.lua"] = "retur",
        ["0009_t.lua"] = "return {}", ["0009_r.lua"] = "error('boom')",
        ["0009_d.sql"] = "-- mtenant:no-transction\nSELECT 1",
        ["0009_v.sql"] = "SELECT '${NOT_THERE}'" }) do
      folder.write(name, text)
      local got, err = migrator({ substitute = {} }):migrate_all()
      assert.is_nil(got)
      assert.equal(name:match "^[^.]+", err.migration)
      assert.is_nil(tostring(err):find("\n"))
      folder.remove(name)
    end
    local _, err = migrator({ migrations_folder = "/nowhere" }):migrate_all()
    assert.matches("/nowhere: there is no such folder", err.message)
    _, err = migrator({ tenant_discovery = function() error("gone") end })
      :migrate_all()
    assert.matches("gone", err.message)
    assert.is_false(has("m_a.items"))
    assert.equal("tenant_not_found", m:migrate_tenant("nobody").error.code)
    assert.equal("invalid_tenant_id", m:migrate_tenant("x;y").error.code)
  end))

  it("goes in rings, as long as it goes well", task(function()
    local m, asked = migrator(), {}
    local results = all_well(assert(m:migrate_all({
      rings = { { "c", "nobody" }, 0.5, 1 },
      gate = function(n, ring)
        asked[n] = {}
        for i, r in ipairs(ring.details) do asked[n][i] = r.tenant_id end
        return true
      end })))
    assert.same({ { "c" }, { "a", "b" } }, asked)
    assert.equal(2, results.rings[3].total)
    folder.write("0003_bad.sql", "SELECT 1 / (current_schema() <> 'm_b')::int")
    results = assert(m:migrate_all({ rings = { { "a" }, { "b", "c" }, 1 },
                                     max_failure_ratio = 0.4 }))
    assert.same({ 2, 1, 2 }, { results.succeeded, results.failed,
                               results.skipped })
    assert.matches("1 of 2 tenants of ring 2", results.stopped.message)
    results = assert(m:migrate_all({ rings = { { "d" }, 1 },
      gate = function() return nil, "not today" end }))
    assert.same({ 1, 4 }, { results.succeeded, results.skipped })
    assert.equal("not today", results.stopped.message)
    assert.has_error(function() m:migrate_all({ rings = { 2 } }) end)
    assert.has_error(function() m:migrate_all({ pause = {} }) end)
  end))

  it("holds back the traffic of a tenant that it migrates", task(function()
    folder.write("0003_slow.sql", "SELECT pg_sleep(0.3)")
    local m = migrator()
    local manager = env.manager({ isolation = {
      schema_name_template = function(id) return "m_" .. id end } })
    assert(manager:get_db_async("a"))
    local run = mtenant.spawn(function()
      return m:migrate_tenants({ "a" }, { pause = manager })
    end)
    env.eventually("the file runs", function()
      return value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = "
        .. "'PgSleep'") == "1"
    end)
    assert.is_false(has("m_a.later"))
    assert.equal(2, assert(manager:get_db("a")):value(
      "SELECT count(*) FROM items"))
    assert.equal("0001_items,0002_note,0003_slow", names("m_a"))
    all_well(assert(run:await()))
    manager:dispose()
  end))

  for _, kind in ipairs({ "sql", "lua", "alone", "lua alone" }) do
    it("runs nothing in another schema that has taken the name, " .. kind,
      task(function()
        local files = {
          sql = "CREATE TABLE later (id int)",
          lua = "return { up = function(db) "
            .. "return db:query('CREATE TABLE later (id int)') end }",
          alone = "-- mtenant:no-transaction\nCREATE TABLE later (id int)",
          ["lua alone"] = "return { transaction = false, up = function(db) "
            .. "return db:query('CREATE TABLE later (id int)') end }",
        }
        folder.write("0003_later." .. (kind:find("lua") and "lua" or "sql"),
                     files[kind])
        local m = migrator({ hooks = { before_migration = function(_, name)
          if name ~= "0003_later" then return end
          env.sql("ALTER SCHEMA m_a RENAME TO m_x; "
            .. "ALTER SCHEMA m_b RENAME TO m_a")
        end } })
        local r = m:migrate_tenant("a")
        env.sql("ALTER SCHEMA m_a RENAME TO m_b; ALTER SCHEMA m_x RENAME TO m_a")
        assert.equal("tenant_not_found", r.error.code)
        assert.same({ "0001_items", "0002_note" }, r.applied_migrations)
        assert.is_false(has("m_b.later"))
        assert.is_false(has("m_b.__drizzle_migrations"))
        assert.equal("0001_items,0002_note", names("m_a"))
      end))
  end

  it("holds no lock after a hook that raised", task(function()
    local m = migrator({ hooks = { before_migration = function(_, name)
      if name == "0002_note" then error("no more") end
    end } })
    local results = assert(m:migrate_all({ concurrency = 1 }))
    assert.equal(5, results.failed)
    assert.matches("no more", results.details[5].error.message)
    env.eventually("its sessions are reset", function()
      return value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        == "0"
    end)
    all_well(assert(migrator():migrate_all()))
  end))

  it("marks, cleans, drops and lists", task(function()
    local m = migrator()
    local r = m:mark_as_applied("a", { name = "0001_items" })
    assert.same({ "0001_items" }, r.applied_migrations)
    assert.is_false(has("m_a.items"))
    assert.same({ "0002_note" }, m:mark_missing("a").marked_migrations)
    env.sql("INSERT INTO m_a.__drizzle_migrations (name) VALUES ('gone')")
    local sync = assert(m:get_sync_status({ tenants = { "a", "b" } }))
    assert.same({ "gone" }, sync.details[1].orphans)
    assert.same({ "0001_items", "0002_note" }, sync.details[2].missing)
    assert.same({ "gone" }, m:clean_orphans("a").removed_orphans)
    assert.is_true(m:get_sync_status({ tenants = { "a" } }).details[1].in_sync)
    assert.same({ "m_a", "m_b", "m_c", "m_d", "m_e" }, m:list_schemas("m\\__"))
    assert.is_true(m:drop_tenant("a"))
    assert.is_false(m:tenant_exists("a"))
    assert.equal("0", value("SELECT count(*) FROM mtenant.checksums"))
    local seeded = assert(m:seed_tenants({ "b", "c" }, function(db, id)
      return db:query("CREATE TABLE seeds AS SELECT $1::text AS id", id)
    end))
    assert.equal(2, seeded.succeeded)
    assert.equal("c", value("SELECT id FROM m_c.seeds"))
  end))
end)
