--- What drizzle-multitenant 1.3.5 gets wrong in its migrator. B36 to B53 are the
--- numbers that its bugs have in this project.

local env = require "tests.support.env"
local folders = require "tests.support.folder"
local migrations = require "tests.support.migrations"
local mtenant = require "mtenant"


local IDS, FILES = migrations.IDS, migrations.FILES
local migrator, value, names =
  migrations.migrator, migrations.value, migrations.names
local has, task, all_well =
  migrations.has, migrations.task, migrations.all_well
local folder


describe("the migrator, where drizzle-multitenant fails,", function()
  before_each(function() folder = migrations.begin() end)
  after_each(function() folder.close() end)
  after_each(env.assert_nothing_left)

  it("keeps what came before a failing file, and says where it failed (B46)",
    task(function()
      folder.write("0003_bad.sql", "-- é\nSELECT 1;\n\nINSERT INTO items (n)\n"
        .. "  VALUES ('é', nothing);")
      local m = migrator()
      local r = m:migrate_tenant("a")
      assert.is_false(r.success)
      assert.same({ "0001_items", "0002_note" }, r.applied_migrations)
      local err = r.error
      assert.same({ "query", "42703", "0003_bad", 5, 16, 2, "a" },
        { err.code, err.sqlstate, err.migration, err.line, err.column,
          err.statement_number, err.tenant_id })
      assert.matches("0003_bad.sql, line 5, statement 2: column", tostring(err))
      assert.equal("0001_items,0002_note", names("m_a"))
      folder.write("0003_bad.sql", "SELECT 1;\nSELECT 1/0;")
      err = m:migrate_tenant("a").error
      assert.same({ "22012", 2, 2 },
                  { err.sqlstate, err.line, err.statement_number })
      folder.write("0003_bad.sql", "INSERT INTO items (n) VALUES (9)")
      assert.is_true(m:migrate_tenant("a").success)
      assert.equal("3", value("SELECT count(*) FROM m_a.items"))
    end))

  it("asks on_error, and stops where it says abort (B36)", task(function()
    folder.write("0003_bad.sql", "SELECT 1/0")
    local m, asked = migrator(), {}
    local results = assert(m:migrate_all({ concurrency = 1,
      on_error = function(id, err)
        asked[#asked + 1] = id .. " " .. err.sqlstate
        return #asked == 2 and "abort" or "continue"
      end }))
    assert.same({ "a 22012", "b 22012" }, asked)
    assert.same({ 5, 0, 2, 3 }, { results.total, results.succeeded,
                                  results.failed, results.skipped })
    assert.equal("Skipped due to abort", results.details[3].error.message)
    assert.is_false(has("m_c.items"))
  end))

  it("says that a new tenant's migration has failed (B37)", task(function()
    folder.write("0003_bad.sql", "SELECT 1/0")
    env.sql("DROP SCHEMA m_a")
    local m = migrator()
    local r = m:create_tenant("a")
    assert.is_false(r.success)
    assert.equal("0003_bad", r.error.migration)
    assert.equal("0001_items,0002_note", names("m_a"))
    r = m:create_tenant("a")
    assert.is_false(r.success)
  end))

  it("changes nothing in a dry run, and calls no hook (B38)", task(function()
    local called = {}
    local function note(name) return function() called[#called + 1] = name end end
    local m = migrator({ hooks = { before_tenant = note "bt",
      after_tenant = note "at", before_migration = note "bm",
      after_migration = note "am" } })
    for _, o in ipairs({ { dry_run = true },
                         { dry_run = true, mark_applied = true } }) do
      local results = assert(m:migrate_all(o))
      assert.same({ "0001_items", "0002_note" },
                  results.details[1].pending_migrations)
      assert.is_false(has("m_a.__drizzle_migrations"))
      assert.is_false(has("mtenant.checksums"))
    end
    assert.same({}, called)
    assert.is_true(m:migrate_tenant("a").success)
    assert.same({ "bt", "bm", "am", "bm", "am", "at" }, called)
  end))

  for _, kind in ipairs({ "name", "hash", "drizzle-kit" }) do
    it("applies once with two runners together, format " .. kind .. " (B39)",
      task(function()
        folder.write("0003_slow.sql",
          "INSERT INTO items (n) VALUES (3); SELECT pg_sleep(0.02);")
        local done = {}
        for i = 1, 3 do
          done[i] = mtenant.spawn(function()
            return all_well(assert(migrator({ default_format = kind })
              :migrate_all({ concurrency = 2 })))
          end)
        end
        local applied = 0
        for i = 1, 3 do
          for _, r in ipairs(done[i]:await().details) do
            applied = applied + #r.applied_migrations
          end
        end
        assert.equal(15, applied)
        for _, id in ipairs(IDS) do
          assert.equal("3", value("SELECT count(*) FROM m_" .. id
            .. ".__drizzle_migrations"))
          assert.equal("3", value("SELECT count(*) FROM m_" .. id .. ".items"))
        end
      end))
  end

  it("runs a file outside of a transaction where it says so (B40)",
    task(function()
      folder.write("0003_index.sql", "-- mtenant:no-transaction\n"
        .. "CREATE INDEX CONCURRENTLY items_n ON items (n);\nVACUUM items;")
      folder.write("0004_mood.sql", "-- mtenant:no-transaction\n"
        .. "CREATE TYPE mood AS ENUM ('ok'); ALTER TYPE mood ADD VALUE 'sad';\n"
        .. "CREATE TABLE moods AS SELECT 'sad'::mood AS m;")
      folder.write("0005_bare.sql", "CREATE INDEX CONCURRENTLY x ON items (n)")
      local m = migrator()
      local r = m:migrate_tenant("a")
      assert.same({ "0001_items", "0002_note", "0003_index", "0004_mood" },
                  r.applied_migrations)
      assert.is_true(has("m_a.items_n"))
      assert.equal("25001", r.error.sqlstate)
      assert.matches("no%-transaction", r.error.hint)
    end))

  for _, kind in ipairs({ "name", "hash", "drizzle-kit" }) do
    it("notices a file that was edited, format " .. kind .. " (B41)",
      task(function()
        local m = migrator({ default_format = kind })
        all_well(assert(m:migrate_all()))
        folder.write("0001_items.sql", FILES["0001_items.sql"] .. "\n-- new")
        local status = m:get_tenant_status("a")
        assert.equal("error", status.status)
        assert.same({ "0001_items" }, status.edited)
        local r = m:migrate_tenant("a")
        assert.matches("edited after it was applied: 0001_items",
                       r.error.message)
        -- without the side table a hash alone has to do
        if kind ~= "name" then
          env.sql("DROP SCHEMA mtenant CASCADE")
          r = m:migrate_tenant("a")
          assert.equal("policy", r.error.code)
        end
        assert.equal("2", value("SELECT count(*) FROM m_a.items"))
        if kind == "name" then
          assert.is_true(migrator({ allow_edited = true })
            :migrate_tenant("b").success)
        end
      end))
  end

  it("refuses files out of order, with one number or none (B42)", task(function()
    local m = migrator()
    all_well(assert(m:migrate_all()))
    folder.write("0003_c.sql", "SELECT 3")
    folder.write("0005_e.sql", "SELECT 5")
    folder.write("10_last.sql", "SELECT 10")
    assert.same({ "0003_c", "0005_e", "10_last" },
                m:migrate_tenant("a").applied_migrations)
    folder.write("0004_d.sql", "SELECT 4")
    local r = m:migrate_tenant("a")
    assert.matches("out of order: 0004_d is pending", r.error.message)
    r = migrator({ allow_out_of_order = true }):migrate_tenant("a")
    assert.same({ "0004_d" }, r.applied_migrations)
    folder.write("0004_x.sql", "SELECT 4")
    local _, err = m:migrate_all()
    assert.matches("0004_x.sql has the same number", err.message)
    folder.remove("0004_x.sql")
    folder.write("init.sql", "SELECT 4")
    _, err = m:migrate_all()
    assert.matches("init.sql: a migration's name starts with", err.message)
  end))

  it("lets no setting of a file reach the next, or the record (B43)",
    task(function()
      folder.write("0003_dump.sql",
        "SELECT pg_catalog.set_config('search_path', '', false);\n"
        .. "SET search_path TO public; SET ROLE none;\n"
        .. "PREPARE p AS SELECT 1; CREATE TEMP TABLE items (x int);")
      folder.write("0004_after.sql", "CREATE TABLE later (id int)")
      local m = migrator()
      all_well(assert(m:migrate_all({ concurrency = 1 })))
      for _, id in ipairs(IDS) do
        assert.is_true(has("m_" .. id .. ".later"))
        assert.equal("0001_items,0002_note,0003_dump,0004_after",
                     names("m_" .. id))
      end
      assert.is_false(has("public.later"))
    end))

  it("refuses COMMIT in a file before anything runs (B44)", task(function()
    folder.write("0003_commit.sql", "SELECT 1;\n/* x */ COMMIT;\nSELECT 2")
    local _, err = migrator():migrate_all()
    assert.matches("0003_commit, line 2: COMMIT can't be in a migration",
                   err.message)
    assert.is_false(has("m_a.items"))
  end))

  it("goes on when its backends are killed, and loses nothing (B45)",
    task(function()
      folder.write("0003_slow.sql",
        "INSERT INTO items (n) VALUES (3); SELECT pg_sleep(0.15);")
      local m = migrator()
      local run = mtenant.spawn(function()
        return m:migrate_all({ concurrency = 2 })
      end)
      for _ = 1, 2 do
        env.eventually("a file runs", function()
          return tonumber(value("SELECT count(*) FROM pg_stat_activity WHERE "
            .. "application_name = 'mtenant migrator' AND "
            .. "wait_event = 'PgSleep'")) > 0
        end)
        env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
          .. "WHERE application_name = 'mtenant migrator'")
      end
      all_well(assert(run:await()))
      for _, id in ipairs(IDS) do
        assert.equal("3", value("SELECT count(*) FROM m_" .. id .. ".items"))
      end
    end))

  it("refuses a concurrency that is none (B47)", task(function()
    local m = migrator()
    for _, bad in ipairs({ 0, -1, 0 / 0, 1.5, 1001, "abc" }) do
      local ok, err = pcall(m.migrate_all, m, { concurrency = bad })
      assert.is_false(ok)
      assert.matches("migrate.concurrency must be", tostring(err))
    end
  end))

  it("is not held up by one slow tenant (B48)", task(function()
    folder.write("0003_slow.sql", "DO $$ BEGIN IF current_schema() = 'm_a' "
      .. "THEN PERFORM pg_sleep(0.5); END IF; END $$")
    local ended = {}
    all_well(assert(migrator():migrate_all({ concurrency = 2,
      on_progress = function(id, status)
        if status == "completed" then ended[#ended + 1] = id end
      end })))
    assert.equal("a", ended[5])
  end))

  it("knows odd shapes of the table, and refuses what is none (B49)",
    task(function()
      env.sql([[
        CREATE TABLE m_a.__drizzle_migrations (id serial PRIMARY KEY,
          name text NOT NULL, created_at bigint NOT NULL);
        CREATE TABLE m_b.__drizzle_migrations (id serial PRIMARY KEY,
          hash text NOT NULL, applied_at timestamptz DEFAULT now());
        CREATE TABLE m_c.__drizzle_migrations (id serial, what text);]])
      local m = migrator()
      assert.is_true(m:migrate_tenant("a").success)
      assert.is_true(m:migrate_tenant("b").success)
      assert.equal("2", value("SELECT count(*) FROM m_b.__drizzle_migrations "
        .. "WHERE length(hash) = 64 AND applied_at IS NOT NULL"))
      local r = m:migrate_tenant("c")
      assert.matches("is no tracking table", r.error.message)
    end))

  it("converts formats there and back, with all their records (B50)",
    task(function()
      local m = migrator()
      all_well(assert(m:migrate_all()))
      local before = value("SELECT string_agg(name || applied_at, ',' ORDER BY "
        .. "id) FROM m_a.__drizzle_migrations")
      for _, to in ipairs({ "drizzle-kit", "hash", "name" }) do
        local r = m:convert_format("a", to)
        assert.is_nil(r.error and tostring(r.error))
        assert.equal(to, m:get_tenant_status("a").format)
        assert.equal("ok", m:get_tenant_status("a").status)
      end
      -- milliseconds are what drizzle-kit's table can hold
      assert.equal(before:gsub("%.%d+", ""), (value(
        "SELECT string_agg(name || applied_at, ',' ORDER BY id) FROM "
        .. "m_a.__drizzle_migrations"):gsub("%.%d+", "")))
      folder.write("0003_more.sql", "SELECT 1")
      all_well(assert(m:migrate_all()))
      all_well(assert(m:convert_all_formats("hash")))
      assert.equal("ok", m:get_status()[5].status)
      -- every tenant's table is what a new one would be
      all_well(assert(m:convert_all_formats("name")))
      assert.equal("5", value("SELECT count(*) FROM pg_indexes WHERE indexname = "
        .. "'__drizzle_migrations_name_key' AND schemaname LIKE 'm\\__'"))
    end))

  it("takes the formats that it is told (B51)", task(function()
    local m = migrator({ table_format = "hash" })
    assert.equal("hash", m:migrate_tenant("a").format)
    local r = migrator({ table_format = "name" }):migrate_tenant("a")
    assert.matches('has the format "hash"', r.error.message)
    assert.has_error(function() migrator({ table_format = "x" }) end)
  end))

  it("runs the shared hooks, and no tenant when shared has failed (B52)",
    task(function()
      local shared = folders.new({ ["0001_s.sql"] = "CREATE TABLE public.items "
        .. "(id int)" })
      local called = {}
      local m = migrator({ shared_folder = shared.path, shared_hooks = {
        before_migration = function(id, name)
          called[1] = id .. " " .. name
        end,
        after_migration = function(_, name, took)
          called[2] = name .. type(took)
        end } })
      local both = assert(m:migrate_all_with_shared())
      assert.is_true(both.shared.success)
      assert.equal(5, both.tenants.succeeded)
      assert.same({ "shared 0001_s", "0001_snumber" }, called)
      assert.equal("ok", m:get_shared_status().status)
      shared.write("0002_bad.sql", "SELECT 1/0")
      folder.write("0003_x.sql", "SELECT 1")
      both = assert(m:migrate_all_with_shared())
      assert.is_false(both.shared.success)
      assert.equal(5, both.tenants.skipped)
      assert.equal("0001_items,0002_note", names("m_a"))
      shared.close()
      env.sql("DROP TABLE public.__drizzle_shared_migrations, public.items")
    end))

  it("waits for a lock so long, tries again, and gives up (B52)", task(function()
    folder.write("0003_lock.sql", "-- mtenant:lock-timeout 50ms\n"
      .. "ALTER TABLE items ADD COLUMN late int")
    folder.write("0004_long.sql", "-- mtenant:statement-timeout 50ms\n"
      .. "SELECT pg_sleep(5)")
    local m = migrator()
    folder.write("0000_all.sql", "SELECT 0")
    local db = assert(env.manager():get_shared_db())
    env.sql("CREATE TABLE m_b.items (id int)")
    local r
    local held = mtenant.spawn(function()
      return db:transaction(function(tx)
        assert(tx:query("LOCK TABLE m_a.items"))
        return mtenant.sleep(300)
      end)
    end)
    folder.remove("0000_all.sql")
    env.sql("CREATE TABLE m_a.items (id int)")
    env.sql("CREATE TABLE m_a.__drizzle_migrations (id serial PRIMARY KEY, "
      .. "name varchar(255) NOT NULL UNIQUE, applied_at timestamptz)")
    env.sql("INSERT INTO m_a.__drizzle_migrations (name) VALUES "
      .. "('0001_items'), ('0002_note')")
    r = m:migrate_tenant("a")
    held:await()
    assert.same({ "0003_lock" }, r.applied_migrations)
    assert.equal("57014", r.error.sqlstate)
    assert.equal("0004_long", r.error.migration)
  end))

  it("stops when its task is to stop, and goes on the next time (B53)",
    task(function()
      folder.write("0003_slow.sql",
        "INSERT INTO items (n) VALUES (3); SELECT pg_sleep(0.2);")
      local m, results = migrator(), nil
      local run = mtenant.spawn(function()
        results = m:migrate_all({ concurrency = 1 })
      end)
      mtenant.sleep(300)
      run:cancel()
      env.eventually("it has ended", function() return results end)
      assert.is_true(results.cancelled)
      assert.is_true(results.skipped > 0)
      all_well(assert(migrator():migrate_all()))
      for _, id in ipairs(IDS) do
        assert.equal("3", value("SELECT count(*) FROM m_" .. id .. ".items"))
      end
    end))
end)
