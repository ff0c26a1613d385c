--- A run of migrations that is killed again and again, and started again: what
--- it leaves is what an undisturbed run leaves, rows included. MT_KILLS and
--- MT_SEED change how often, and when.

local cli = require "tests.support.cli"
local program = require "tests.support.program"


local KILLS = tonumber(os.getenv("MT_KILLS")) or 20
local SEED = tonumber(os.getenv("MT_SEED")) or os.time()
local LATEST = 0.25 -- seconds; a tenant takes 0.1, two are worked on at a time
local TENANTS = 16 + 10 * KILLS -- so that the last kill, too, finds work
local KILLED = 137

local FILES = {
  ["0001_users.sql"] = "CREATE TABLE users (id int PRIMARY KEY, name text);\n"
    .. "INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 50) i;",
  ["0002_copy.sql"] = "CREATE TABLE codes (code text, n int);\n"
    .. "COPY codes FROM stdin;\na;b\t1\nc\t2\n\\.\nUPDATE codes SET n = n + 1;",
  ["0003_slow.sql"] = "INSERT INTO users VALUES (100, 'late');\n"
    .. "SELECT pg_sleep(0.1);\nUPDATE users SET name = name || '!';",
  ["0004_view.sql"] = "CREATE VIEW late AS SELECT * FROM users WHERE id > 50;",
}


-- Times, and the numbers of records that were rolled back, are no result; newer
-- ones of pg_dump write a random word.
local function dump()
  local text = program.sh("pg_dump --no-owner "
    .. "--exclude-table-data='*.__drizzle_migrations*' "
    .. "--exclude-table-data=mtenant.checksums "
    .. program.quote(cli.server.url))
  return (text:gsub("\n\\%l*restrict [^\n]*", ""))
end


local function tenants()
  local ids = {}
  for i = 1, TENANTS do ids[i] = ("k%03d"):format(i) end
  cli.clean()
  cli.tenants((table.unpack or unpack)(ids)) -- luacheck: ignore 113
  return ids
end


-- The first half has been there for a while: its files run one by one, those of
-- the others in one transaction.
local function first_half(ids)
  cli.migration("0001_users.sql", FILES["0001_users.sql"])
  cli.good("migrate -q --tenants " .. table.concat(ids, ",", 1, #ids / 2))
  for name, text in pairs(FILES) do cli.migration(name, text) end
end


local function unfinished()
  return TENANTS - tonumber((cli.server:psql("SELECT count(*) FROM pg_views "
    .. "WHERE viewname = 'late'")))
end


-- A backend of the migrator is in the middle of a file.
local function at_work()
  return cli.server:psql("SELECT count(*) > 0 FROM pg_stat_activity WHERE "
    .. "application_name = 'mtenant migrator' AND wait_event = 'PgSleep'") == "t"
end


local function backends()
  return tonumber(cli.server:psql("SELECT count(*) FROM pg_stat_activity "
    .. "WHERE application_name = 'mtenant migrator'"))
end


describe("mtenant migrate, killed", function()
  before_each(cli.set_up)
  after_each(cli.tear_down)
  teardown(cli.close)

  it("leaves in the end what an undisturbed run leaves", function()
    math.randomseed(SEED)
    local ids = tenants()
    first_half(ids)
    cli.good("migrate --all -q")
    local expected = dump()
    assert.equal(0, unfinished())
    for name in pairs(FILES) do cli.remove(name) end
    tenants()
    first_half(ids)
    assert.equal(TENANTS, unfinished())

    for n = 1, KILLS do
      local pid = program.start("migrate --all --concurrency 2 --url "
        .. program.quote(cli.server.url), cli.path)
      -- every fourth may also come while the program starts, reads or connects
      if n % 4 > 0 then program.wait_for("a file that runs", at_work) end
      program.sh(("sleep %.3f"):format(math.random() * LATEST))
      program.signal("KILL", pid)
      assert.equal(KILLED, program.await_status(), "kill " .. n)
      assert.is_true(unfinished() > 0, "nothing left after kill " .. n)
    end
    cli.good("migrate --all -q")
    program.wait_for("the end of its backends",
                     function() return backends() == 0 end)
    assert.is_true(expected == dump(), "pg_dump differs, seed " .. SEED)
    for _, id in ipairs(ids) do
      assert.equal("0001_users 0002_copy 0003_slow 0004_view", cli.records(id))
    end
  end)
end)
