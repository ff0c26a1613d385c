--- Tenants that come and go by the migrator, their seeds, and the options of
--- migrations that others have no spec for.

local env = require "tests.support.env"
local folders = require "tests.support.folder"
local migrations = require "tests.support.migrations"


local migrator, value, names =
  migrations.migrator, migrations.value, migrations.names
local has, task, all_well =
  migrations.has, migrations.task, migrations.all_well
local folder


-- Tables with sequences, partitions and views, more than the lock table of the
-- server below holds.
local CROWD = [[
  SET client_min_messages = error;
  CREATE SCHEMA m_crowd AUTHORIZATION mtenant;
  CREATE EXTENSION pg_stat_statements SCHEMA m_crowd;
  SET ROLE mtenant; SET search_path = m_crowd;
  CREATE TABLE parted (id int GENERATED ALWAYS AS IDENTITY, day int)
    PARTITION BY LIST (day);
  CREATE SEQUENCE numbers;
  CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM parted;
  SELECT format('CREATE TABLE "p %s" PARTITION OF parted FOR VALUES IN (%s)', i, i),
    format('CREATE TABLE t%s (id serial PRIMARY KEY, up int %s)', i,
           CASE WHEN i > 1 THEN 'REFERENCES t' || i - 1 END),
    format('CREATE VIEW v%s AS SELECT * FROM t%s', i, i)
  FROM generate_series(1, 150) i \gexec
]]


describe("the migrator", function()
  before_each(function() folder = migrations.begin() end)
  after_each(function() folder.close() end)
  after_each(env.assert_nothing_left)

  it("drops a schema that the lock table has no room for", task(function()
    local server = env.start({ conf = { max_connections = 10,
      max_locks_per_transaction = 10, superuser_reserved_connections = 1 } })
    server:psql(CROWD)
    local ok, err = pcall(server.psql, server, "DROP SCHEMA m_crowd CASCADE")
    assert.is_false(ok)
    assert.matches("out of shared memory", err, 1, true)

    local m = migrator({ url = server.url })
    assert.is_true(env.must(m:drop_tenant("crowd")))
    assert.is_false(m:tenant_exists("crowd"))
    m:dispose()
    env.close(server)
  end))

  it("makes tenants, once, and knows which there are", task(function()
    env.sql("DROP SCHEMA m_a; DROP SCHEMA m_b")
    local m = migrator()
    assert.is_false(m:tenant_exists("a"))
    local r = m:create_tenant("a")
    assert.same({ true, "m_a" }, { r.success, r.schema_name })
    assert.same({ "0001_items", "0002_note" }, r.applied_migrations)
    r = m:create_tenant("b", { migrate = false })
    assert.is_true(r.success)
    assert.is_false(has("m_b.__drizzle_migrations"))
    assert.is_true(m:tenant_exists("b"))
    r = m:create_tenant("a")
    assert.same({ true, {} }, { r.success, r.applied_migrations })
    folder.write("0003_bad.sql", "SELEC 1")
    r = m:create_tenant("z")
    assert.equal("0003_bad", r.error.migration)
    assert.is_false(m:tenant_exists("z"))
    folder.remove("0003_bad.sql")
    assert.equal("invalid_tenant_id", m:create_tenant("x;y").error.code)
    assert.equal("invalid_tenant_id", select(2, m:drop_tenant("x;y")).code)
    assert.is_true(m:drop_tenant("nobody"))
  end))

  it("gives tenants and the shared schema their first rows", task(function()
    local m = migrator()
    all_well(assert(m:migrate_all()))
    local function add(db, id)
      return db:query("INSERT INTO items (note) VALUES ($1)", id)
    end
    assert.is_true(m:seed_tenant("a", add).success)
    assert.equal("a", value("SELECT note FROM m_a.items WHERE n IS NULL"))
    local r = m:seed_tenant("b", function(db, id)
      assert(add(db, id))
      error("no more")
    end)
    assert.matches("no more", r.error.message)
    assert.equal("0", value("SELECT count(*) FROM m_b.items WHERE n IS NULL"))
    local told = {}
    local results = assert(m:seed_all(add, {
      concurrency = 1,
      on_progress = function(id, status) told[#told + 1] = id .. " " .. status end,
    }))
    assert.equal(5, results.succeeded)
    assert.same({ "a starting", "a completed" }, { told[1], told[2] })
    results = assert(m:seed_all(function(_, id)
      if id == "b" then return nil, "not b" end
    end, { concurrency = 1, on_error = function() return "abort" end }))
    assert.same({ 1, 1, 3 }, { results.succeeded, results.failed,
                               results.skipped })

    local function shared(db)
      return db:exec("CREATE TABLE IF NOT EXISTS seeded (n int)")
    end
    local both = assert(m:seed_all_with_shared(shared, add))
    assert.is_true(both.shared.success)
    assert.equal(5, both.tenants.succeeded)
    assert.is_true(has("public.seeded"))
    both = assert(m:seed_all_with_shared(function() error("no") end, add))
    assert.is_false(both.shared.success)
    assert.equal(0, both.tenants.total)
    assert.equal("3", value("SELECT count(*) FROM m_a.items WHERE n IS NULL"))
    env.sql("DROP TABLE public.seeded")
  end))

  it("records and forgets for all tenants, and for the shared schema",
    task(function()
      local shared = folders.new({ ["0001_s.sql"] = "CREATE TABLE public.s ()" })
      local m = migrator({ shared_folder = shared.path })
      all_well(assert(m:mark_all_as_applied({ name = "0001_items" })))
      assert.equal("0001_items", names("m_e"))
      local results = assert(m:mark_all_missing())
      assert.same({ "0002_note" }, results.details[5].marked_migrations)
      env.sql("INSERT INTO m_d.__drizzle_migrations (name) VALUES ('gone')")
      results = assert(m:clean_all_orphans())
      assert.same({ "gone" }, results.details[4].removed_orphans)
      assert.equal(5, assert(m:get_sync_status()).in_sync)
      assert.is_false(has("m_e.items"))
      assert.same({ "0001_s" }, m:mark_shared_as_applied().applied_migrations)
      assert.equal("ok", m:get_shared_status().status)
      assert.is_false(has("public.s"))
      env.sql("DROP TABLE public.__drizzle_shared_migrations")
      shared.close()
    end))

  it("stops ahead of what contracts, when it is to expand", task(function()
    folder.write("0003_grow.sql", "-- mtenant:phase expand\nCREATE TABLE g ()")
    folder.write("0004_shrink.lua", "return { phase = 'contract', "
      .. "up = function(db) return db:exec('DROP TABLE g') end }")
    folder.write("0005_after.sql", "SELECT 1")
    local m = migrator()
    local results = all_well(assert(m:migrate_all({ phase = "expand" })))
    assert.same({ "0001_items", "0002_note", "0003_grow" },
                results.details[1].applied_migrations)
    assert.is_true(has("m_a.g"))
    assert.equal("behind", m:get_tenant_status("a").status)
    results = all_well(assert(m:migrate_all({ phase = "contract" })))
    assert.same({ "0004_shrink", "0005_after" },
                results.details[1].applied_migrations)
    assert.has_error(function() m:migrate_all({ phase = "shrink" }) end)
  end))

  it("puts variables in where it is asked to", task(function()
    folder.write("0003_vars.sql", "CREATE TABLE vars AS SELECT '${WHO}' AS who, "
      .. "'${NONE:-else}' AS other, $$ $1 {x} $$ AS rest")
    local m = migrator({ substitute = { WHO = "o\195\182" } })
    assert.is_true(m:migrate_tenant("a").success)
    assert.equal("o\195\182|else| $1 {x}", value("SELECT * FROM m_a.vars"))
    assert.is_true(migrator():migrate_tenant("b").success)
    assert.equal("${WHO}", value("SELECT who FROM m_b.vars"))
    local r = migrator({ substitute = true }):migrate_tenant("c")
    assert.matches("0003_vars, line 1: the variable WHO is not set",
                   r.error.message)
  end))

  it("takes files with one number and with none where that is allowed",
    task(function()
      folder.write("0002_also.sql", "CREATE TABLE also ()")
      folder.write("init.sql", "CREATE TABLE init ()")
      local r = migrator({ allow_duplicates = true, allow_unnumbered = true })
        :migrate_tenant("a")
      assert.same({ "init", "0001_items", "0002_also", "0002_note" },
                  r.applied_migrations)
    end))
end)
