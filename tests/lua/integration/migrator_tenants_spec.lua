--- Tenants that come and go by the migrator, their seeds, and the options of
--- migrations that others have no spec for.

local env = require "tests.support.env"
local migrations = require "tests.support.migrations"


local migrator, has, task =
  migrations.migrator, migrations.has, migrations.task
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
end)
