--- The commands of `mtenant` on a server: what they do, print and end with. The
-- terminal and signals are in cli_terminal_spec.lua.

local cli = require "tests.support.cli"
local program = require "tests.support.program"

local good, json, migration, records, tables, tenants =
  cli.good, cli.json, cli.migration, cli.records, cli.tables, cli.tenants


local function assert_failure(pattern, args, status)
  local result = cli.run(args)
  assert.equal(status or 1, result.status, result.out .. result.err)
  assert.matches(pattern, result.err)
  return result
end


describe("mtenant", function()
  before_each(cli.set_up)
  after_each(cli.tear_down)
  teardown(cli.close)

  describe("migrate", function()
    it("brings all tenants up to date, once", function()
      tenants("acme", "globex")
      assert.matches("^2 tenants: 2 migrated, 0 up to date, 0 failed, 0 skipped; "
        .. "2 files applied in %d+ ms, %d+ ms a tenant\n$", good("migrate --all"))
      migration("0002_orders.lua", "return { up = function(tx) "
        .. "return tx:exec 'CREATE TABLE orders (id int)' end }")
      assert.matches("^globex: migrated; 1 file applied in %d+ ms\n  0002_orders\n$",
                     good("migrate -t globex"))
      assert.matches("^2 tenants: 1 migrated, 1 up to date, 0 failed, ",
                     good("migrate --tenants globex,acme,globex"))
      assert.matches("^2 tenants: 0 migrated, 2 up to date, 0 failed, 0 skipped; "
        .. "0 files applied", good("migrate --all --concurrency 1"))
      assert.equal("__drizzle_migrations orders users", tables("t_acme"))
      assert.equal("0001_users 0002_orders", records("globex"))
    end)

    it("prints a line per tenant, or nothing, on demand", function()
      tenants("acme", "globex")
      local out = good("migrate --all -v")
      assert.matches("%f[%a]acme migrated: 0001_users %(%d+ ms%)\n", out)
      assert.matches("%f[%a]globex migrated: 0001_users %(%d+ ms%)\n", out)
      assert.equal("", good("migrate --all -q"))
    end)

    it("says which file failed where, and goes on elsewhere", function()
      tenants("acme", "globex")
      cli.server:psql("CREATE TABLE t_acme.orders (id int)")
      migration("0002_orders.sql", "SELECT 1;\n\nCREATE TABLE orders (id int);")
      local result = assert_failure("^  %[mtenant%] query: 0002_orders.sql, line 3, "
        .. 'statement 2: relation "orders" already exists %(SQLSTATE 42P07%), '
        .. 'tenant "?acme"?[^\n]*\n$', "migrate --all")
      assert.matches("^2 tenants: 1 migrated, 0 up to date, 1 failed, 0 skipped; "
        .. "3 files applied ", result.out)
      assert.equal("0001_users", records("acme"))
      assert.equal("0001_users 0002_orders", records("globex"))
      assert.matches("line 3", assert_failure("", "migrate --all -q").err)

      local rows, summary = json("migrate --all", 1)
      assert.equal("query", rows.acme.error.code)
      assert.equal("42P07", rows.acme.error.sqlstate)
      assert.equal("0002_orders", rows.acme.error.migration)
      assert.same({ 3, 2 }, { rows.acme.error.line,
                              rows.acme.error.statement_number })
      assert.same({ 2, 1, 1, 0, 0 }, { summary.total, summary.succeeded,
        summary.failed, summary.skipped, summary.files })
    end)

    it("shows five failures and counts the others", function()
      migration("0002_bad.sql", "SELECT 1/0;")
      tenants("a", "b", "c", "d", "e", "f", "g")
      local result = assert_failure("\n  and 2 more\n$", "migrate --all")
      assert.equal(5, select(2, result.err:gsub("division by zero", "")))
      assert.equal(7, select(2, cli.run("migrate --all --json").out:gsub(
        "division by zero", "")))
    end)

    it("stops after a failure on demand", function()
      migration("0002_bad.sql", "SELECT 1/0;")
      tenants("a", "b", "c")
      local rows, summary = json("migrate --tenants a,b,c --stop-on-error "
        .. "--concurrency 1", 1)
      assert.same({ 3, 0, 1, 2 }, { summary.total, summary.succeeded,
                                    summary.failed, summary.skipped })
      assert.is_false(rows.a.success)
      assert.is_nil(rows.a.skipped)
      assert.is_true(rows.b.skipped and rows.c.skipped)
      assert.equal("", tables("t_b"))
    end)

    it("tries without a change", function()
      tenants("acme", "globex")
      assert.matches("^2 tenants: 2 would be migrated, 0 up to date, .*; 2 files to "
        .. "be applied .*\n  0001_users  2 tenants\n$", good("migrate --all --dry-run"))
      assert.equal("", tables("t_acme"))
      local rows = json("migrate --all --dry-run")
      assert.same({ "0001_users" }, rows.acme.pending_migrations)
      local _, _, _, result = json("migrate --all --dry-run")
      assert.matches('"applied_migrations":%[%]', result.out)
    end)

    it("records without running, and that without a change, too", function()
      tenants("acme")
      assert.matches("^acme: would be marked; 1 file to be marked in %d+ ms\n"
        .. "  0001_users\n$", good("migrate -t acme --mark-applied --dry-run"))
      assert.equal("", tables("t_acme"))
      assert.matches("^acme: marked; 1 file marked as applied in %d+ ms\n",
                     good("migrate -t acme --mark-applied"))
      assert.equal("__drizzle_migrations", tables("t_acme"))
      assert.equal("0001_users", records("acme"))
    end)

    it("brings the shared schema up to date first", function()
      tenants("acme")
      migration("shared/0001_plans.sql", "CREATE TABLE public.plans (id int);")
      migration("0002_ref.sql", "SELECT * FROM public.plans;")
      assert.matches("^shared schema: migrated\n  0001_plans\nacme: migrated; 2 files ",
                     good("migrate --all --with-shared"))
      migration("shared/0002_bad.sql", "SELECT 1/0;")
      migration("0003_next.sql", "SELECT 3;")
      local rows, summary, shared = json("migrate --all --with-shared", 1)
      assert.equal("0002_bad", shared.error.migration)
      assert.is_true(rows.acme.skipped)
      assert.equal(1, summary.skipped)
      assert.equal("0001_users 0002_ref", records("acme"))
    end)

    it("passes its limits on", function()
      tenants("acme")
      migration("0002_slow.sql", "SELECT pg_sleep(20);")
      assert_failure("57014", "migrate -t acme --statement-timeout 100")
      program.write("migrations/0001_users.sql", "SELECT 'edited';")
      cli.remove("0002_slow.sql")
      assert_failure("edited after it was applied: 0001_users", "migrate -t acme")
      good("migrate -t acme --allow-edited")
      migration("0003_c.sql", "SELECT 3;")
      good("migrate -t acme --allow-edited")
      migration("0002_b.sql", "SELECT 2;")
      assert_failure("out of order: 0002_b", "migrate -t acme --allow-edited")
      good("migrate -t acme --allow-edited --allow-out-of-order")
    end)

    it("takes another folder and another server", function()
      tenants("acme")
      program.sh("mkdir " .. program.scratch() .. "/other")
      program.write("other/0001_other.sql", "CREATE TABLE other (id int);")
      good("migrate -t acme --migrations-folder other")
      assert.equal("__drizzle_migrations other", tables("t_acme"))
      assert_failure("^mtenant migrate: [^\n]*refused[^\n]*\n$",
                     "migrate --all --url postgresql://127.0.0.1:1/none")
    end)
  end)

  it("migrates the shared schema", function()
    assert.equal("shared schema: up to date\n", good("migrate-shared"))
    migration("shared/0001_plans.sql", "CREATE TABLE plans (id int);")
    assert.equal("shared schema: would be migrated\n  0001_plans\n",
                 good("migrate-shared --dry-run"))
    assert.equal("shared schema: migrated\n  0001_plans\n", good("migrate-shared"))
    assert.matches("plans", tables("public"))
    migration("shared/0002_b.sql", "SELECT 1/0;")
    assert.equal("shared schema: would be marked\n  0002_b\n",
                 good("migrate-shared --mark-applied --dry-run"))
    assert_failure("^shared schema: .*division by zero[^\n]*\n$", "migrate-shared")
    local _, _, shared = json("migrate-shared", 1)
    assert.equal("22012", shared.error.sqlstate)
    good("migrate-shared --mark-applied")
    assert.equal("shared schema: up to date\n", good("migrate-shared"))
  end)

  describe("status", function()
    it("has a row per tenant, and an exit status on demand", function()
      tenants("acme", "globex")
      good("migrate -t acme -q")
      migration("shared/0001_plans.sql", "CREATE TABLE plans (id int);")
      assert.equal("tenant  schema    applied  pending  status\n"
        .. "acme    t_acme          1        0  ok\n"
        .. "globex  t_globex        0        1  behind  0001_users\n"
        .. "1 ok, 1 behind, 0 in error; 1 to be applied\n", good("status"))
      assert.matches("\nshared  public +0 +1  behind  0001_plans\n",
                     good("status --include-shared"))
      good("status --all --exit-code", 1)
      good("status --tenant acme --exit-code")
      local rows, summary, shared = json("status --include-shared")
      assert.same({ "0001_users" }, rows.globex.pending_migrations)
      assert.same({ 3, 1, 2, 0, 2 }, { summary.total, summary.ok, summary.behind,
                                       summary.error, summary.pending })
      assert.equal("behind", shared.status)
    end)

    it("fails where a tenant is in error", function()
      tenants("acme")
      local result = cli.run("status --tenants acme,nobody")
      assert.equal(1, result.status)
      assert.matches("\nnobody +t_nobody +0 +0  error ", result.out)
      assert.matches("mtenant create", json("status -t nobody", 1).nobody.error.hint)
      assert_failure("^nobody: [^\n]+\n$", "status -q -t nobody")
    end)
  end)

  it("compares records with files, and repairs both ways at once", function()
    tenants("acme", "globex")
    migration("0002_old.sql", "SELECT 2;")
    good("migrate --all -q")
    cli.remove("0002_old.sql")
    migration("0003_new.sql", "CREATE TABLE never (id int);")
    assert.matches("\nacme +t_acme +1 +1  out of sync  %+0003_new, %-0002_old\n",
                   good("sync"))
    local rows = json("sync --all --mark-missing --clean-orphans")
    assert.same({ "0003_new" }, rows.acme.marked_migrations)
    assert.same({ "0002_old" }, rows.acme.removed_orphans)
    assert.equal("0001_users 0003_new", records("globex"))
    assert.matches("^2 tenants: 0 repaired, 2 in sync, 0 failed, 0 skipped in ",
                   good("sync --all --mark-missing --clean-orphans"))
    assert.equal(2, select(2, json("sync")).in_sync)
    assert.equal("__drizzle_migrations users", tables("t_acme"))
  end)

  describe("create", function()
    it("makes a tenant with all migrations", function()
      assert.matches("^acme: created; 1 file applied in %d+ ms\n  0001_users\n$",
                     good("create acme"))
      assert.equal("__drizzle_migrations users", tables("t_acme"))
      assert.matches("^globex: created; 0 files", good("create globex --no-migrate"))
      assert.equal("", tables("t_globex"))
    end)

    it("fails when a migration does", function()
      migration("0002_bad.sql", "SELECT 1/0;")
      assert_failure("0002_bad.*division by zero", "create acme")
      assert.equal("0001_users", records("acme"))
    end)
  end)

  describe("drop", function()
    it("removes a tenant that is there", function()
      good("create acme -q")
      assert.matches("^acme: dropped in %d+ ms\n$", good("drop acme --force"))
      assert.equal("", cli.server:psql(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 't\\_%'"))
      assert_failure('^mtenant drop: there is no tenant "acme"\n$',
                     "drop acme --force")
    end)

    it("keeps what others depend on", function()
      good("create acme -q")
      cli.server:psql("CREATE VIEW public.all_users AS SELECT * FROM t_acme.users")
      assert_failure("2BP01", "drop acme --force --restrict")
      assert.equal("__drizzle_migrations users", tables("t_acme"))
    end)
  end)

  it("seeds tenants and the shared schema", function()
    tenants("acme", "globex")
    good("migrate --all -q")
    program.write("seed.lua", "return function(db, id) "
      .. "return db:query('INSERT INTO users VALUES ($1)', id) end")
    assert.matches("^2 tenants: 2 seeded, 0 failed, 0 skipped in ",
                   good("seed seed.lua --all"))
    assert.equal("globex", cli.server:psql("SELECT name FROM t_globex.users"))
    program.write("seed.lua", "return { seed = function(db) "
      .. "return db:exec('CREATE TABLE seeded (id int)') end }")
    assert.equal("shared schema: seeded\n", good("seed seed.lua --shared"))
    assert.matches("seeded", tables("public"))
    program.write("seed.lua", "return function() return nil, 'no seed' end")
    assert_failure("no seed", "seed seed.lua -t acme")
    assert_failure("no seed", "seed seed.lua --shared")
    program.write("seed.lua", "return 5")
    assert_failure("^mtenant seed: seed.lua returns neither a function nor a table "
      .. "with one as seed\n$", "seed seed.lua -t acme")
  end)

  it("converts the tables of records", function()
    tenants("acme")
    good("migrate --all -q")
    local kept = records("acme")
    assert.matches("^acme: would be converted to hash in ",
                   good("convert-format --to hash --all --dry-run"))
    assert.equal(kept, records("acme"))
    assert.matches("^acme: would be converted to hash in ",
                   good("convert-format --to hash -t acme --dry-run"))
    assert.matches("^acme: unchanged in ", good("convert-format --to name -t acme"))
    assert.matches("^acme: converted to hash in ", good("convert-format --to hash --all"))
    assert.equal("1", cli.server:psql("SELECT count(*) FROM "
      .. "t_acme.__drizzle_migrations WHERE hash <> ''"))
    assert.matches("^acme: up to date; ", good("migrate --tenants acme,acme"))
    good("convert-format --to drizzle-kit -t acme")
    assert.equal("drizzle-kit", json("status").acme.format)
  end)

  it("takes migrations back", function()
    tenants("acme", "globex")
    migration("0002_b.sql", "CREATE TABLE b (id int);\n-- mtenant:down\nDROP TABLE b;")
    migration("0003_c.sql", "CREATE TABLE c (id int);\n-- mtenant:down\nDROP TABLE c;")
    good("migrate --all -q")
    assert.matches("^acme: rolled back; 1 file taken back in %d+ ms\n  0003_c\n$",
                   good("rollback -t acme --force"))
    assert.equal("__drizzle_migrations b users", tables("t_acme"))
    assert.matches("^2 tenants: 2 rolled back, 0 unchanged, .*; 3 files taken back",
                   good("rollback --all --to 0001_users --force"))
    assert.equal("0001_users", records("globex"))
    assert_failure("0001_users", "rollback -t acme --force")
  end)

  it("says in one line what keeps it from all of this", function()
    local function discovery(body)
      cli.configure("tenant_discovery = function() " .. body .. " end")
    end
    discovery("error('no list')")
    assert_failure("^mtenant migrate: tenant.config.lua: tenant_discovery failed: "
      .. "[^\n]*no list\n$", "migrate --all")
    discovery("return 5")
    assert_failure("^mtenant migrate: tenant.config.lua: tenant_discovery must "
      .. "return a list of ids, [^\n]+\n$", "migrate --all")
    cli.configure("tabel_format = 'name'")
    assert_failure("^mtenant status: tenant.config.lua: [^\n]*tabel_format[^\n]*\n$",
                   "status")
    cli.configure()
    assert_failure("^  [^\n]*nobody[^\n]*\n$", "migrate -t nobody")
    assert_failure("^  [^\n]*invalid_tenant_id[^\n]*\n$", "migrate -t 'a;b'")
    cli.configure("tenant_folder = 'nowhere'")
    assert_failure("^mtenant migrate: [^\n]*nowhere[^\n]*\n$", "migrate -t acme")
  end)
end)
