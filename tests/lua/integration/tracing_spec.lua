--- Who reads the server's views and the log sees whom a statement is for: SQL
-- comments, ids of requests in log lines.

local env = require "tests.support.env"
local middleware = require "mtenant.middleware"
local mtenant = require "mtenant"

local PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
local MINE = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"


local function tagging(overrides)
  overrides = overrides or {}
  overrides.tracing = overrides.tracing or { comments = true }
  local manager = env.manager(overrides)
  return manager, mtenant.create_tenant_context(manager)
end


-- A log that collects its lines.
local function collecting()
  local lines = {}
  return mtenant.log.new { bare = true, interval_ms = 0,
    sink = function(_, line) lines[#lines + 1] = line end }, lines
end


describe("SQL comments", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  local WAYS = {
    query = function(db) return env.must(db:value(MINE)) end,
    ["a transaction"] = function(db)
      return env.must(db:transaction(function(tx) return tx:value(MINE) end))
    end,
    ["a session"] = function(db)
      return env.must(db:session(function(s) return s:value(MINE) end))
    end,
    exec = function(db) return env.must(db:exec(MINE))[1].query end,
    ["a pipeline"] = function(db)
      return env.must(db:pipeline(function(p) return p:query(MINE):await() end))
        [1].query
    end,
    rows = function(db)
      local text
      env.loop(function(row) text = row.query end, db:rows(MINE))
      return text
    end,
  }
  for name, run in pairs(WAYS) do
    it("stand behind the statements of " .. name, env.in_task(function()
      local manager, context = tagging()
      local text = context:run_with_tenant({
        tenant_id = "acme", route = "/x", traceparent = PARENT,
        secret = "not asked for",
      }, function() return run(manager:get_db("acme")) end)
      assert.equal(MINE .. " /*route='%2Fx',tenant='acme',traceparent='" .. PARENT
        .. "'*/", text)
    end))
  end

  it("name the tenant of the handle, whoever's context it is", env.in_task(function()
    local manager, context = tagging()
    context:run_with_tenant("acme", function()
      assert.equal(MINE .. " /*tenant='globex'*/",
                   manager:get_db("globex"):value(MINE))
      assert.equal(MINE .. " /*tenant='shared'*/",
                   manager:get_shared_db():value(MINE))
    end)
    assert.equal(MINE .. " /*tenant='acme'*/", manager:get_db("acme"):value(MINE))
  end))

  it("are not there unless asked for", env.in_task(function()
    local manager, context = tagging { tracing = {} }
    context:run_with_tenant({ tenant_id = "acme", route = "/x" }, function()
      assert.equal(MINE, manager:get_db("acme"):value(MINE))
    end)
  end))

  it("leave a text with a comment as it is", env.in_task(function()
    local manager = tagging()
    for _, text in ipairs {
      MINE .. " -- mine", "/* mine */ " .. MINE, MINE .. " /* a */ LIMIT 1",
    } do
      assert.equal(text, manager:get_db("acme"):value(text))
    end
    local text = MINE .. " AND '--' <> '/*'"
    assert.equal(text .. " /*tenant='acme'*/", manager:get_db("acme"):value(text))
  end))

  it("change nothing of what a statement is", env.in_task(function()
    local manager = tagging()
    local db = manager:get_db("acme")
    env.must(db:query("CREATE TABLE IF NOT EXISTS noted (n int)"))
    env.must(db:exec("COPY noted FROM STDIN;", { copy = { "1\n" } }))
    assert.equal(1, db:value("SELECT count(*) FROM noted;"))
    assert.equal(3, env.must(db:exec("SELECT 1; SELECT 3 AS n;"))[1].n)
    env.must(db:query("VACUUM noted"))
    local _, err = db:query("SELECT $1::int", "x")
    assert.equal("22P02", err.sqlstate)
    _, err = db:query("SELECT nosuch")
    assert.equal("SELECT nosuch", err.statement)
    local ok, misuse = pcall(db.query, db, "COMMIT")
    assert.is_false(ok)
    assert.equal("misuse", misuse.code)
  end))

  it("flood no cache of statements", env.in_task(function()
    local manager, context = tagging {
      connection = { max_connections = 1, cache_statements = 8 } }
    local db = manager:get_db("acme")
    local count = "SELECT count(*) FROM pg_prepared_statements "
      .. "WHERE name ~ '^mt_[0-9]+$'"
    for i = 1, 50 do
      context:run_with_tenant({ tenant_id = "acme", request_id = "r" .. i },
        function() env.must(db:value("SELECT $1::int + 1", i)) end)
    end
    assert.equal(0, db:value(count))
    local plain = env.manager { connection = { max_connections = 1 } }
    for i = 1, 3 do plain:get_db("acme"):value("SELECT $1::int + 1", i) end
    assert.equal(1, plain:get_db("acme"):value(count))
  end))

  it("have what the program adds", env.in_task(function()
    local manager = tagging { tracing = { comments = { "tenant" },
      tags = function(_, tenant_id)
        return { job = "*/ DROP SCHEMA t_" .. tenant_id .. "; /*" }
      end } }
    assert.equal(MINE .. " /*job='%2A%2F%20DROP%20SCHEMA%20t_acme%3B%20%2F%2A',"
      .. "tenant='acme'*/", manager:get_db("acme"):value(MINE))
  end))
end)


describe("an application_name per tenant", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  local NAME = "SELECT application_name FROM pg_stat_activity "
    .. "WHERE pid = pg_backend_pid()"
  local OWN = env.APPLICATION

  local function naming(how)
    return env.manager { tracing = { application_name = how },
                         connection = { max_connections = 1 } }
  end

  local function seen(db, sql)
    return env.must(db:value(sql or NAME))
  end

  it("shows while its statements run, and ends with them", env.in_task(function()
    local manager = naming(true)
    local acme, globex = manager:get_db("acme"), manager:get_db("globex")
    assert.equal(OWN .. ":acme", seen(acme))
    assert.equal(OWN .. ":globex", seen(globex))
    assert.equal(OWN, seen(manager:get_shared_db()))
    assert.equal(OWN .. ":acme", env.must(acme:transaction(function(tx)
      return seen(tx)
    end)))
    assert.equal(OWN .. ":globex", env.must(globex:session(function(session)
      return seen(session)
    end)))
    assert.equal(OWN .. ":acme", env.must(acme:exec(NAME))[1].application_name)
    assert.equal(OWN, seen(manager:get_shared_db()))
    assert.equal(1, env.count()) -- it is one connection, idle under its own name
    assert.equal(1, manager:get_stats().opened)
    local running = mtenant.spawn(function()
      return acme:query("SELECT pg_sleep(0.5)")
    end)
    env.eventually("it is seen from outside", function()
      return env.sql("SELECT count(*) FROM pg_stat_activity WHERE "
        .. "application_name = '" .. OWN .. ":acme' AND state = 'active'") == "1"
    end)
    running:await()
  end))

  it("keeps statements prepared", env.in_task(function()
    local db = naming(function(id) return "tenant " .. id end):get_db("acme")
    assert.equal("tenant acme", seen(db))
    for i = 1, 4 do assert.equal(i + 1, db:value("SELECT $1::int + 1", i)) end
    assert.equal(1, db:value("SELECT count(*) FROM pg_prepared_statements "
      .. "WHERE statement = 'SELECT $1::int + 1'"))
  end))

  it("is not there unless asked for", env.in_task(function()
    assert.equal(OWN, seen(naming(false):get_db("acme")))
  end))
end)


describe("log lines", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  it("have the ids of tenant and request, through middleware",
     env.in_task(function()
    local logger, lines = collecting()
    local manager = env.manager { log = logger, debug = { enabled = true } }
    local context = mtenant.create_tenant_context(manager)
    local enter = middleware.new {
      context = context, identify = function(request) return request.id end,
    }
    mtenant.spawn(function()
      assert.is_true((enter { id = "acme", headers = {
        ["x-request-id"] = "r-1", traceparent = PARENT } }))
      env.must(context:get_tenant_db()):query("SELECT 1")
      logger:info("my own")
    end):await()
    mtenant.spawn(function()
      enter { id = "acme", headers = { ["x-request-id"] = "a b\n" } }
      logger:info("bad id")
      enter { id = "acme" }
      logger:info("no headers")
    end):await()
    logger:info("outside")
    local said = table.concat(lines, "\n")
    local ids = "[mtenant] tenant=acme request=r-1 "
      .. "trace=0af7651916cd43dd8448eb211c80319c "
    assert.is_truthy(said:find(ids .. 'query="SELECT 1" duration=', 1, true), said)
    assert.is_truthy(said:find(ids .. "my own\n", 1, true), said)
    assert.is_truthy(said:find("[mtenant] tenant=acme bad id\n", 1, true), said)
    assert.is_truthy(said:find("[mtenant] tenant=acme no headers\n", 1, true))
    assert.is_truthy(said:find("%[mtenant%] outside$"), said)
  end))

  it("come from the manager's own log, of options, too", env.in_task(function()
    local path = os.tmpname()
    local manager = env.manager {
      log = { path = path, format = "json" }, debug = { enabled = true },
      hooks = { on_pool_created = function() error("hook\nfailed", 0) end },
    }
    env.must(manager:get_db("acme"):query("SELECT 1"))
    manager:dispose()
    local file = assert(io.open(path))
    local got = {}
    for line in file:lines() do
      local one = require("cjson").decode(line)
      got[one.event] = one
    end
    file:close()
    os.remove(path)
    assert.equal("acme", got.pool_created.tenant_id)
    assert.equal("debug", got.query.level)
    assert.equal("SELECT 1", got.query.query)
    assert.is_number(got.query.duration_ms)
    assert.is_nil(got.query.details)
    assert.equal("t_acme", got.pool_created.schema_name)
    assert.equal("error in hooks.on_pool_created: hook\nfailed",
                 got["callback_failed hooks.on_pool_created"].message)
    assert.has_error(function() env.manager { log = { level = "loud" } } end)
  end))

  it("end with what a manager's log has held back", env.in_task(function()
    local lines = {}
    local manager = env.manager {
      log = { bare = true, burst = 1,
              sink = function(_, line) lines[#lines + 1] = line end },
      hooks = { on_pool_created = function() error("deaf", 0) end },
    }
    env.must(manager:get_db("acme"):query("SELECT 1"))
    env.must(manager:get_db("globex"):query("SELECT 1"))
    assert.equal(1, #lines)
    manager:dispose()
    assert.same({ "[mtenant] error in hooks.on_pool_created: deaf",
                  "[mtenant] error in hooks.on_pool_created: deaf "
                    .. "(repeated 1 times within 60 s)" }, lines)
  end))

  it("are those of listeners and policies, too", env.in_task(function()
    local logger, lines = collecting()
    local said = env.stderr_of(function()
      local manager = env.manager { log = logger, policy = {
        resolve = function(id, ctx)
          if id == "bad" then error("no\nroute", 0) end
          ctx.log("asked\nfor " .. id)
          return { schema = "t_" .. id }
        end,
        on_event = function() error("deaf", 0) end,
      } }
      local db = manager:get_db("acme")
      local _, err = manager:get_db("bad"):query("SELECT 1")
      assert.equal("policy", err.code)
      local handle = assert(db:listen("news", function() error("mute", 0) end))
      assert(db:notify("news", "x"))
      env.eventually("it is told", function()
        return table.concat(lines, "\n"):find("mute", 1, true)
      end)
      handle:close()
    end)
    assert.equal("", said)
    local told = {}
    for _, line in ipairs(lines) do told[line] = true end
    assert.is_true(told["[mtenant] tenant=acme error in listen (news): mute"])
    assert.is_true(told["[mtenant] error in policy.on_event: deaf"])
    local asked = false
    for line in pairs(told) do
      asked = asked or line:find("policy [^\n]*: asked\\nfor acme$") ~= nil
    end
    assert.is_true(asked, table.concat(lines, "\n"))
  end))

  it("are as before without a log", env.in_task(function()
    local said = env.stderr_of(function()
      local manager = env.manager {
        debug = { enabled = true },
        hooks = { on_pool_created = function() error("no\nway", 0) end },
      }
      env.must(manager:get_db("acme"):query("SELECT 1"))
    end)
    assert.is_truthy(said:find("[mtenant] tenant=acme POOL_CREATED schema=t_acme\n",
                               1, true), said)
    assert.is_truthy(said:find("[mtenant] error in hooks.on_pool_created: "
                               .. "no\\nway\n", 1, true), said)
    assert.is_truthy(said:find('tenant=acme query="SELECT 1" duration=%d+ms\n'))
  end))

  it("tell of callbacks that fail in the core", env.in_task(function()
    local config, core = require "mtenant.config", require "mtenant.core"
    local logger, lines = collecting()
    local before = mtenant.log.default()
    mtenant.log.set_default(logger)
    finally(function() mtenant.log.set_default(before) end)
    local cfg = config.define(env.config())
    local handle = core.manager(config.flatten(cfg), function(kind)
      error("boom\n" .. kind, 0)
    end)
    local _ = handle:tenant("acme"):query("SELECT 1", 0, 0, false)
    mtenant.sleep(20)
    env.must(require("mtenant.task").await(handle:dispose()))
    assert.is_truthy(lines[1]:find("^%[mtenant%] error in .*boom\\nresolve"),
                     lines[1])
  end))

  it("tell of each slow statement, and of the same one only so often",
     env.in_task(function()
    local lines = {}
    local manager = env.manager {
      debug = { enabled = true, slow_query_threshold_ms = 0 },
      log = { bare = true, level = "warn", burst = 2,
              sink = function(_, line) lines[#lines + 1] = line end },
    }
    local db = manager:get_db("acme")
    for i = 1, 5 do
      env.must(db:query("SELECT 1"))
      env.must(db:query("SELECT " .. i + 1))
    end
    assert.equal(7, #lines)
  end))

  it("of an outage are few", env.in_task(function()
    local logger, lines = collecting()
    logger = mtenant.log.new { bare = true, sink = logger.sink, burst = 3 }
    local ids = {}
    for i = 1, 30 do ids[i] = "t" .. i end
    local manager = env.manager { log = logger, debug = { enabled = true },
      connection = { url = "postgres://127.0.0.1:1/x",
                     retry = { max_attempts = 1 } } }
    env.must(manager:warmup(ids))
    logger:flush()
    local errors_told = 0
    for _, line in ipairs(lines) do
      if line:find("POOL_ERROR", 1, true) then errors_told = errors_told + 1 end
    end
    assert.equal(4, errors_told)
    assert.is_truthy(table.concat(lines, "\n"):find("(repeated 27 times", 1, true))
  end))
end)
