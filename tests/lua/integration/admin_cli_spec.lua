--- mtenant-run --admin, and the commands that ask it: `mtenant health`,
--- `mtenant metrics`.

local cjson = require "cjson"
local pg = require "tests.support.pg"
local program = require "tests.support.program"


local mtenant = program.path:gsub("mtenant%-run$", "mtenant")

local SCRIPT = [[
local mtenant = require "mtenant"
local manager = assert(mtenant.create_tenant_manager {
  name = "shop",
  connection = { url = %q },
  isolation = { schema_name_template = function(id) return "t_" .. id end },
})
for i = 1, 3 do
  local db = manager:get_db("tenant" .. i)
  for _ = 1, i do assert(db:query("SELECT 1")) end
end
print("serving")
io.stdout:flush()
mtenant.sleep(60000)
]]

local server


local function address()
  return "unix:" .. program.scratch() .. "/admin.sock"
end


-- A program that serves at the socket; its pid.
local function serve(options)
  program.write("serve.lua", SCRIPT:format(server.url))
  local pid = program.start(("--admin %s %s serve.lua"):format(
    program.quote(address()), options or ""))
  program.await_output("serving")
  return pid
end


local function run(args, env)
  return program.run(args, { path = mtenant,
                             env = "env -u MTENANT_ADMIN -u NO_COLOR "
                               .. (env or "") })
end


local function ask(args, env)
  return run(("%s --admin %s"):format(args, program.quote(address())), env)
end


describe("a process with an admin endpoint", function()
  setup(function()
    server = pg.start()
    for i = 1, 3 do
      server:psql(("CREATE SCHEMA t_tenant%d AUTHORIZATION mtenant"):format(i))
    end
  end)
  teardown(function() server:close() end)
  before_each(program.set_up)
  after_each(program.tear_down)

  it("is asked for its health", function()
    local pid = serve()
    local result = ask("health")
    assert.same({ 0, "" }, { result.status, result.err })
    assert.matches("manager  server", result.out)
    assert.matches("shop     .*  ok      closed", result.out)
    assert.matches("\nok\n$", result.out)
    result = ask("health --ready --json")
    assert.equal(0, result.status)
    assert.is_true(cjson.decode(result.out).ready)
    result = ask("health --quiet")
    assert.same({ 0, "" }, { result.status, result.out })
    server:stop("immediate")
    program.wait_for("it to be unhealthy", function()
      return ask("health").status == 1
    end)
    result = ask("health --ready")
    assert.equal(1, result.status)
    assert.matches("not ready: not every server can serve\n$", result.out)
    assert.equal(1, ask("health --json").status)
    server:start()
    program.wait_for("it to be healthy", function()
      return ask("health").status == 0
    end)
    program.signal("TERM", pid)
    assert.equal(143, program.await_status())
  end)

  it("is asked for its metrics: its own, not those of who asks", function()
    local pid = serve("--admin-ready any")
    assert.equal("any", cjson.decode(ask("health --ready --json").out).rule)
    local result = ask("metrics")
    assert.same({ 0, "" }, { result.status, result.err })
    assert.matches("pid " .. pid, result.out)
    assert.matches("shop     tenant3  t_tenant3       0        0           3 ",
                   result.out)
    assert.truthy(result.out:find("tenant3") < result.out:find("tenant1"))
    result = ask("metrics --json")
    local document = cjson.decode(result.out)
    assert.equal(pid, document.process.pid)
    assert.equal(3, document.managers[1].tenants.entries)
    result = ask("metrics --prometheus")
    assert.matches('mtenant_statements_total{manager="shop"', result.out)
    assert.is_nil(result.out:find("# EOF", 1, true))
    assert.matches("# EOF\n$", ask("metrics --openmetrics").out)
    -- by the environment
    result = run("metrics --json", "MTENANT_ADMIN=" .. program.quote(address()))
    assert.equal(pid, cjson.decode(result.out).process.pid)
    program.signal("INT", pid)
    assert.equal(130, program.await_status())
    assert.is_nil(program.read("admin.sock"))
  end)

  it("is asked again and again", function()
    serve()
    local result = program.run(("timeout -s INT 2.5 %s health --watch 1 "
      .. "--admin %s"):format(program.quote(mtenant), program.quote(address())),
      { path = "env" })
    local n = select(2, result.out:gsub("\nok\n", ""))
    assert.is_true(n >= 2 and n <= 3, result.out)
  end)

  it("wants a token where it was given one", function()
    program.write("token", "s3kret\n")
    program.write("other", "wrong\n")
    serve("--admin-token-file token")
    local result = ask("health")
    assert.equal(2, result.status)
    assert.matches("wants another token or password\n", result.err)
    assert.equal(2, ask("health --token-file other").status)
    assert.equal(0, ask("health --token-file token").status)
    assert.equal(0, ask("health", "MTENANT_ADMIN_TOKEN=s3kret").status)
    assert.equal(2, ask("health --token-file nowhere").status)
    for _, name in ipairs { "stdout", "stderr" } do
      assert.is_nil(program.read(name):find("s3kret", 1, true))
    end
  end)

  it("wants a password where it was given one", function()
    program.write("basic", "me:pass:word\n")
    serve("--admin-basic-file basic")
    assert.equal(2, ask("metrics").status)
    assert.equal(0, ask("metrics --basic-file basic").status)
    assert.equal(0, ask("metrics", "MTENANT_ADMIN_BASIC=me:pass:word").status)
    assert.equal(2, ask("metrics", "MTENANT_ADMIN_BASIC=me:pass").status)
  end)

  it("takes its secret from the environment, too", function()
    program.write("serve.lua", "print(1)")
    local result = program.run("--admin 0.0.0.0:0 serve.lua")
    assert.equal(2, result.status)
    assert.matches("can be reached from other machines", result.err)
    result = program.run("--admin 0.0.0.0:0 serve.lua",
                         { env = "MTENANT_ADMIN_TOKEN=s3kret" })
    assert.same({ 0, "1\n" }, { result.status, result.out })
    assert.matches("^mtenant%-run: admin endpoint on http://0%.0%.0%.0:%d+\n$",
                   result.err)
  end)

  it("that is not there is an unknown state, not a bad one", function()
    local result = ask("health")
    assert.same({ 2, "" }, { result.status, result.out })
    assert.matches("^mtenant health: unix:.* does not answer: ", result.err)
    result = run("metrics --admin 127.0.0.1:1")
    assert.equal(2, result.status)
    assert.matches("does not answer: connection refused\n$", result.err)
    for _, args in ipairs { "--admin ftp://x", "--timeout 0", "--nope", "more" } do
      assert.equal(2, run("health " .. args).status, args)
    end
  end)

  it("does not run longer for it", function()
    program.write("short.lua", "return 7")
    assert.equal(7, program.run("--admin 127.0.0.1:0 short.lua").status)
    program.write("exit.lua", "os.exit(3)")
    assert.equal(3, program.run("--admin=127.0.0.1:0 exit.lua").status)
    program.write("fails.lua", "error('x')")
    assert.equal(1, program.run("--admin 127.0.0.1:0 fails.lua").status)
  end)

  it("is off unless it is asked for", function()
    program.write("off.lua", [[
      require "mtenant"
      print(package.loaded["mtenant.admin"], package.loaded["mtenant.admin_core"])]])
    assert.equal("nil\tnil", program.run("off.lua").out:match("^[^\n]*"))
  end)

  it("is started as it should, or not at all", function()
    program.write("short.lua", "print('ran')")
    for args, message in pairs {
      ["--admin"] = "a value is missing after '--admin'",
      ["--admin="] = "a value is missing after '--admin='",
      ["--admin-token-file x short.lua"] = "--admin is missing",
      ["--admin-ready any short.lua"] = "--admin is missing",
      ["--admin 127.0.0.1:0 --admin-ready some short.lua"] =
        "--admin-ready takes all or any, not 'some'",
      ["--admin nowhere:1 short.lua"] = "no numeric address",
      ["--admin 127.0.0.1:0 --admin-token-file nothing short.lua"] = "No such file",
      ["--admin 192.0.2.1:1 --admin-token-file short.lua short.lua"] =
        "Cannot assign requested address",
    } do
      local result = program.run(args)
      assert.same({ 2, "" }, { result.status, result.out }, args)
      assert.truthy(result.err:find(message, 1, true), result.err)
    end
  end)

  it("is closed at once on Ctrl-C, though the script takes its time", function()
    program.write("slow.lua", [[
      local mtenant = require "mtenant"
      print("serving")
      io.stdout:flush()
      mtenant.sleep(60000)
      local until_ms = mtenant.now_ms() + 1500 -- a slow clean-up
      while mtenant.now_ms() < until_ms do end
    ]])
    local pid = program.start("--admin " .. program.quote(address()) .. " slow.lua")
    program.await_output("serving")
    assert.equal(0, ask("health").status)
    program.signal("INT", pid)
    program.wait_for("the socket to go", function()
      return program.sh("ls " .. program.quote(program.scratch() .. "/admin.sock")
        .. " 2>/dev/null") == ""
    end)
    assert.is_nil(program.read("status"))
    assert.equal(2, ask("health").status)
    program.await_status()
  end)
end)
