--- mtenant doctor as a program: what it prints, and its exit status.

local cjson = require "cjson"
local cli = require "tests.support.cli"
local program = require "tests.support.program"


local function findings(result)
  local out, summary = {}, nil
  for line in result.out:gmatch("[^\n]+") do
    local object = cjson.decode(line)
    if object.event == "summary" then summary = object
    else
      assert.equal("finding", object.event)
      out[#out + 1] = object
    end
  end
  return out, summary
end


describe("mtenant doctor", function()
  before_each(cli.set_up)
  after_each(cli.tear_down)
  teardown(cli.close)

  it("shows a table, with advice, and succeeds", function()
    cli.tenants("acme")
    local out = cli.good "doctor"
    assert.is_truthy(out:find("^level +check +finding\n"), out)
    assert.is_truthy(out:find("\nok +config +[%w./]*tenant.config.lua is well"), out)
    assert.is_truthy(out:find("\nok +discovery +1 tenants, and the schema"), out)
    assert.is_truthy(out:find("\nok +folders +migrations: 1 migrations"), out)
    assert.is_truthy(out:find("\nwarning +config +connection.statement_timeout_ms "
      .. "is not set\n    why: [^\n]+\n    fix: connection = "), out)
    assert.is_truthy(out:find("%d+ ok, %d+ to know, %d+ warnings, 0 errors\n$"), out)
    assert.is_nil(out:find("\27", 1, true))
  end)

  it("has colours on a terminal", function()
    local result = cli.on_terminal "doctor"
    assert.equal(0, result.status)
    assert.is_truthy(result.out:find("\27[33mwarning", 1, true), result.out)
  end)

  it("prints JSON, and fails for errors", function()
    cli.configure "unknown_key = 1,"
    cli.migration("0001_again.sql", "SELECT 1;")
    local result = cli.run "doctor --json"
    assert.same({ 1, "" }, { result.status, result.err })
    local list, summary = findings(result)
    local n = { ok = 0, info = 0, warning = 0, error = 0 }
    for _, one in ipairs(list) do
      n[one.level] = n[one.level] + 1
      assert.is_string(one.what)
      if one.level == "error" then assert.is_string(one.fix) end
    end
    n.event = "summary"
    assert.same(n, summary)
    assert.equal(1, n.error)
  end)

  it("fails for warnings when it is to be strict", function()
    assert.equal(0, cli.run("doctor").status)
    local result = cli.run "doctor --strict --quiet"
    assert.equal(1, result.status)
    assert.equal("", result.out)
    assert.is_truthy(result.err:find("^warning: %l+: "), result.err)
  end)

  it("finds that a file can't be loaded", function()
    program.write("tenant.config.lua", "return { isolation = {")
    local result = cli.run "doctor"
    assert.same({ 1, "" }, { result.status, result.err })
    assert.is_truthy(result.out:find("\nerror +config +tenant.config.lua:1: "),
                     result.out)
    program.write("tenant.config.lua", "return 5")
    assert.is_truthy(cli.run("doctor").out:find("returns a number", 1, true))
    result = cli.run "doctor --config no-such-file.lua"
    assert.equal(1, result.status)
    assert.is_truthy(result.out:find("no-such-file.lua", 1, true))
  end)

  it("finds what a file says wrongly", function()
    program.write("tenant.config.lua", "return { conection = {} }")
    local result = cli.run "doctor"
    assert.equal(1, result.status)
    assert.is_truthy(result.out:find('unknown option "conection", did you mean '
      .. '"connection"?', 1, true), result.out)
  end)

  it("needs no file: DATABASE_URL or --url will do", function()
    os.remove(program.scratch() .. "/tenant.config.lua")
    local out = cli.good "doctor"
    assert.is_truthy(out:find("no tenant.config.lua", 1, true))
    assert.is_truthy(out:find("\nok +connect +PostgreSQL"), out)
    local result = cli.run("doctor --url postgresql://127.0.0.1:1/x")
    assert.equal(1, result.status)
    assert.is_truthy(result.out:find("\nerror +connect +refused: "), result.out)
    result = program.run("doctor", { path = cli.path,
                                     env = "env -u DATABASE_URL" })
    assert.equal(1, result.status)
    assert.is_truthy(result.out:find("neither", 1, true), result.out)
  end)

  it("refuses what it does not know, with status 2", function()
    for _, args in ipairs { "doctor --nosuch", "doctor x", "doctor --timeout 0" } do
      local result = cli.run(args)
      assert.equal(2, result.status)
      assert.is_truthy(result.err:find("Try 'mtenant doctor --help'", 1, true))
    end
    assert.is_truthy(cli.good("doctor --help"):find("--strict", 1, true))
  end)

  it("shows no password", function()
    os.remove(program.scratch() .. "/tenant.config.lua")
    for _, args in ipairs { "doctor", "doctor --json" } do
      local result = cli.run(args .. " --url postgresql://u:s3cret@127.0.0.1:1/x")
      assert.is_nil((result.out .. result.err):find("s3cret", 1, true))
    end
  end)
end)
