--- The commands of `mtenant` on a terminal, and ended by a signal.

local cli = require "tests.support.cli"
local program = require "tests.support.program"


local function many(n)
  local ids = {}
  for i = 1, n do ids[i] = ("s%02d"):format(i) end
  cli.tenants((table.unpack or unpack)(ids))
end


local function assert_shows(result, ...)
  for _, text in ipairs({ ... }) do
    assert.truthy(result.out:find(text, 1, true), text .. "\n" .. result.out)
  end
end


describe("mtenant on a terminal", function()
  before_each(cli.set_up)
  after_each(cli.tear_down)
  teardown(cli.close)

  it("draws one line again and again, and leaves only what stays", function()
    many(12)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(0.15);")
    local result = cli.on_terminal("migrate --all --concurrency 2",
                                   "LC_ALL=C.UTF-8")
    assert.equal(0, result.status)
    assert_shows(result, "\27[36m━", "  2/12  ", "/s  ETA 0:0", "\r\27[K")
    assert.is_true(select(2, result.out:gsub("/12  ", "")) >= 5)
    assert_shows(result, "\r\27[K\27[32m✔ \27[m\27[1m12 tenants: 12 migrated, ")
    assert.is_nil(result.out:find("\n[^\n]*\n$"), "more than one line stays")
  end)

  it("draws ten times a second at most", function()
    many(12)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(0.1);")
    local result = cli.on_terminal("migrate --all --concurrency 1", "LC_ALL=C")
    local _, frames = result.out:gsub("/12", "")
    local seconds = tonumber(result.out:match(" in ([%d.]+) s"))
    assert.is_true(frames >= 8 and frames <= seconds * 10 + 2,
                   frames .. " in " .. seconds)
    assert.is_nil(result.out:find("[\128-\255]"))
  end)

  it("prints failures above the line when they happen", function()
    many(6)
    cli.server:psql("CREATE TABLE t_s01.orders (id int)")
    cli.migration("0002_orders.sql", "SELECT pg_sleep(0.2); CREATE TABLE orders ();")
    local result = cli.on_terminal("migrate --all --concurrency 1",
                                   "LC_ALL=C.UTF-8")
    assert.equal(1, result.status)
    local failure = assert(result.out:find('✘\27[m [mtenant] query: 0002_orders.sql',
                                           1, true), result.out)
    local later = assert(result.out:find("  3/6", 1, true), result.out)
    assert.is_true(failure < later)
    assert_shows(result, "1 failed")
  end)

  it("fits a narrow window", function()
    many(4)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(0.3);")
    local shell = ("sh -c 'stty cols 30; exec %s migrate --all --concurrency 1'")
      :format(program.quote(cli.path):gsub("'", ""))
    local result = program.run("-qec " .. program.quote(cli.env("TERM=xterm "
      .. "LC_ALL=C ") .. shell) .. " typescript", { path = "script" })
    local seen
    for line in result.out:gsub("\27%[[%d;]*%a", ""):gmatch("\r([^\r\n]*/4[^\r\n]*)") do
      assert.is_true(#line < 30, line)
      seen = true
    end
    assert.is_true(seen)
  end)

  it("leaves colour out on demand, and the line with --quiet and --json", function()
    many(2)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(0.3);")
    for _, case in ipairs({ { "--no-color", "" }, { "", "NO_COLOR=1" } }) do
      local result = cli.on_terminal("migrate --all --dry-run " .. case[1], case[2])
      assert.is_nil(result.out:find("\27%[[%d;]*m"))
    end
    assert.equal("", cli.on_terminal("migrate --all -q").out)
    assert.is_nil(cli.on_terminal("migrate --all --json").out:find("[\r\27]"))
  end)

  it("asks before a tenant is dropped", function()
    cli.tenants("acme")
    local result = cli.on_terminal("drop acme", "", "acem\n")
    assert.equal(1, result.status)
    assert_shows(result, "This removes the tenant acme with all its data.",
                 "Type acme to go on: ", "not confirmed, nothing was done")
    assert.equal("1", cli.server:psql("SELECT count(*) FROM pg_namespace "
      .. "WHERE nspname = 't_acme'"))
    result = cli.on_terminal("drop acme", "", "acme\n")
    assert.equal(0, result.status, result.out)
    assert.equal("0", cli.server:psql("SELECT count(*) FROM pg_namespace "
      .. "WHERE nspname = 't_acme'"))
  end)

  it("asks before migrations are taken back", function()
    cli.tenants("acme")
    cli.migration("0001_users.sql",
                  "CREATE TABLE users (id int);\n-- mtenant:down\nDROP TABLE users;")
    cli.good("migrate -t acme -q")
    local result = cli.on_terminal("rollback -t acme", "", "no\n")
    assert.equal(1, result.status)
    assert_shows(result, "This takes back the last migration of 1 tenant.")
    assert.equal("0001_users", cli.records("acme"))
    assert.equal(0, cli.on_terminal("rollback -t acme", "", "yes\n").status)
    assert.equal("", cli.records("acme"))
  end)
end)


describe("mtenant ended by a signal", function()
  before_each(cli.set_up)
  after_each(cli.tear_down)
  teardown(cli.close)

  local function start(args)
    return program.start(args .. " --url " .. program.quote(cli.server.url),
                         cli.path)
  end

  local function migrated()
    return tonumber(cli.server:psql("SELECT count(*) FROM pg_class WHERE "
      .. "relname = 'slow'"))
  end

  it("says where it stands, and the same command goes on (B53)", function()
    many(20)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(0.3); CREATE TABLE slow ();")
    local pid = start("migrate --all --concurrency 2")
    program.wait_for("two tenants", function() return migrated() >= 2 end)
    program.signal("INT", pid)
    assert.equal(130, program.await_status())
    local done, left = program.read("stderr"):match("^stopped by SIGINT: (%d+) of "
      .. "20 tenants done, (%d+) left; run the same command again to continue\n$")
    assert.truthy(done, program.read("stderr"))
    assert.equal(20, done + left)
    assert.equal(migrated(), tonumber(done))
    assert.equal("", program.read("stdout"))
    program.assert_nothing_left()
    assert.matches("^20 tenants: " .. left .. " migrated, " .. done .. " up to date, ",
                   cli.good("migrate --all"))
  end)

  it("ends its JSON with a summary", function()
    many(6)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(0.3); CREATE TABLE slow ();")
    local pid = start("migrate --all --concurrency 1 --json")
    program.wait_for("a tenant", function() return migrated() >= 1 end)
    program.signal("TERM", pid)
    assert.equal(143, program.await_status())
    local out = program.read("stdout")
    assert.matches('"cancelled":true', out)
    assert.matches('{"event":"summary",[^\n]*}\n$', out)
    local _, events = out:gsub('"event":"tenant"', "")
    assert.matches('"left":' .. 6 - migrated() .. "[,}]", out)
    assert.is_true(events <= migrated() + 1)
  end)

  it("does not advise to repeat what can't be repeated", function()
    many(2)
    program.write("seed.lua", "return function(db) io.stdout:write('begun\\n') "
      .. "return db:exec('SELECT pg_sleep(30)') end")
    local pid = start("seed seed.lua --all")
    program.await_output("begun\nbegun\n")
    program.signal("INT", pid)
    assert.equal(130, program.await_status())
    assert.equal("stopped by SIGINT: 0 of 2 tenants done, 2 left\n",
                 program.read("stderr"))
  end)

  it("takes the live line away", function()
    many(4)
    cli.migration("0002_slow.sql", "SELECT pg_sleep(30);")
    local command = cli.env("TERM=xterm LC_ALL=C timeout --foreground -s INT 2 ")
      .. program.quote(cli.path) .. " migrate --all"
    local result = program.run("-qec " .. program.quote(command) .. " typescript",
                               { path = "script" })
    assert.matches("\r\27%[Kstopped by SIGINT: 0 of 4 tenants done, 4 left; [^\r]+"
      .. "\r\n$", result.out)
  end)
end)
