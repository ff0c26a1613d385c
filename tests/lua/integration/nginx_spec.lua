--- mtenant within nginx: all that it does anywhere, and what is nginx's own:
-- phases, clients that go away, reloads, workers.

local env = require "tests.support.env"
local nginx = require "tests.support.nginx"


local MANAGER = [[
  init_worker_by_lua_block {
    mtenant = require "mtenant"
    manager = assert(mtenant.create_tenant_manager {
      connection = { url = "@url@", application_name = "@name@",
                     max_connections = 8, pool = { max = 8 } },
      isolation = {
        schema_name_template = function(id) return "t_" .. id end,
      },
    })
    context = mtenant.create_tenant_context(manager)
  }
]]


local function fill(text)
  local values = { url = env.server().url, name = env.APPLICATION }
  return (text:gsub("@(%l+)@", values))
end


describe("mtenant in nginx", function()
  local web

  local function start(server, given)
    given = given or {}
    web = nginx.start({
      http = fill(given.http or MANAGER), server = fill(server),
      main = given.main, workers = given.workers, headers = given.headers,
    })
    return web
  end

  setup(function() env.tenants({ "acme", "globex", "initech" }) end)
  after_each(function()
    if web then web:stop() end
    web = nil
    env.eventually("no backend is left", function() return env.count() == 0 end)
  end)

  for name, headers in pairs({ ["does all that it does anywhere"] = true,
      ["does so without a module for nginx's headers, too"] = false }) do
    it(name, function()
      start([[
        location / { content_by_lua_block {
          require("tests.host.suite").run {
            mtenant = mtenant, url = "@url@", say = ngx.say,
            start = function(fn) ngx.thread.spawn(fn) end, one_request = true,
            pause = function(ms) ngx.sleep(ms / 1000) end,
          }
        } }
        location /attached { content_by_lua_block {
          ngx.say(package.loaded["mtenant.nginx"] ~= nil) } }]],
        { headers = headers })
      local ok = 0
      for line in web:get("/"):gmatch("[^\n]+") do
        if line:find("^ok ") then
          ok = ok + 1
        else
          assert.equal("end", line)
        end
      end
      assert.is_true(ok >= 25)
      assert.equal(tostring(headers), (web:get("/attached")))
    end)
  end

  it("waits in the phases that can, and says why in the others", function()
    start([[
      lua_need_request_body on;
      location /rewrite { rewrite_by_lua_block {
        ngx.say(manager:get_db("acme"):value("SELECT current_schema()"))
        ngx.exit(200) } }
      location /access {
        access_by_lua_block {
          ngx.ctx.seen = manager:get_db("acme"):value("SELECT current_schema()")
        }
        content_by_lua_block { ngx.say(ngx.ctx.seen) } }
      location /timer { content_by_lua_block {
        local seen
        ngx.timer.at(0, function()
          seen = manager:get_db("acme"):value("SELECT current_schema()")
        end)
        while not seen do ngx.sleep(0.01) end
        ngx.say(seen) } }
      location /filter {
        content_by_lua_block { ngx.say("x") }
        header_filter_by_lua_block {
          local ok, err = pcall(function()
            return manager:get_db("acme"):query("SELECT 1")
          end)
          ngx.header.x_said = tostring(ok) .. err.message
        } }
      location /log {
        content_by_lua_block { ngx.say("x") }
        log_by_lua_block {
          local ok, err = pcall(function()
            return manager:get_db("acme"):query("SELECT 1")
          end)
          ngx.shared.results:set("log", tostring(ok) .. err.message)
        } }
      location /init { content_by_lua_block { ngx.say(in_init) } }
      location /logged { content_by_lua_block {
        ngx.say(ngx.shared.results:get("log")) } }]], {
      http = MANAGER .. [[
        init_by_lua_block {
          local mtenant = require "mtenant"
          local ok, err = pcall(mtenant.create_tenant_manager, {
            isolation = { schema_name_template = tostring } })
          in_init = tostring(ok) .. tostring(err)
        }]],
    })
    for _, path in ipairs({ "/rewrite", "/access", "/timer" }) do
      assert.equal("t_acme", (web:get(path)))
    end
    assert.matches("x%-said: falsequery waits: in the phase header_filter of "
      .. "nginx nothing can wait", (web:get("/filter", "-D -")))
    web:get("/log")
    assert.matches("falsequery waits: in the phase log of nginx",
                   (web:get("/logged")))
    assert.matches("false.*init_by_lua runs in nginx's master process",
                   (web:get("/init")))
  end)

  local function is_abandoned(headers)
    start([[
      lua_check_client_abort on;
      location /query { content_by_lua_block {
        manager:get_db("acme"):query("SELECT pg_sleep(30)") } }
      location /transaction { content_by_lua_block {
        manager:get_db("acme"):transaction(function(tx)
          tx:query("CREATE TABLE unfinished ()")
          ngx.sleep(30)
          return true
        end) } }
      location /session { content_by_lua_block {
        manager:get_db("acme"):session(function(s)
          s:query("SET work_mem = '3MB'")
          s:query("SELECT pg_sleep(30)")
        end) } }
      location /tasks { content_by_lua_block {
        mtenant.each({ 1, 2, 3 }, 3, function()
          return manager:get_db("acme"):query("SELECT pg_sleep(30)")
        end) } }]], { headers = headers })
    for _, path in ipairs({ "/query", "/transaction", "/session", "/tasks" }) do
      web:get(path, "-m 0.5")
      env.eventually(path .. " is over", function()
        return env.count("state <> 'idle'") == 0
      end)
    end
    assert.equal("", env.sql("SELECT to_regclass('t_acme.unfinished')"))
    assert.equal("", web:complaints())
  end

  it("stops what a client waits for no longer", function()
    is_abandoned(true)
  end)

  it("stops it by on_abort where there are no headers", function()
    is_abandoned(false)
  end)

  it("is reloaded without a failed request, and leaves no connection", function()
    start([[
      location / { content_by_lua_block {
        ngx.say(manager:get_db("acme"):value(
          "SELECT current_schema() FROM pg_sleep(0.5)")) } }]])
    for _ = 1, 3 do
      os.execute(("(sleep 0.2; kill -HUP %s) &"):format(web:pid()))
      assert.same({ "t_acme", "t_acme", "t_acme" },
                  web:get_all({ { "/" }, { "/" }, { "/" } }))
    end
    env.eventually("the old workers have gone", function()
      return env.count() <= 3
    end)
  end)

  it("leaks nothing where each request has a Lua state of its own", function()
    start([[
      lua_code_cache off;
      location / { content_by_lua_block {
        local mtenant = require "mtenant"
        local manager = assert(mtenant.create_tenant_manager {
          connection = { url = "@url@", application_name = "@name@" },
          isolation = {
            schema_name_template = function(id) return "t_" .. id end,
          },
        })
        ngx.say(manager:get_db("acme"):value("SELECT current_schema()")) } }]],
      { http = "" })
    for _ = 1, 20 do assert.equal("t_acme", (web:get("/"))) end
    assert.is_true(env.count() <= 2, env.count() .. " backends")
  end)

  it("knows each request's tenant, and refuses those without", function()
    start([[
      access_by_lua_block {
        middleware = middleware or require("mtenant.host.nginx").middleware {
          context = context,
          identify = function(ngx)
            if ngx.var.uri == "/raise" then error("a bug") end
            return ngx.req.get_headers()["X-Tenant"]
          end,
          validate = function(id) return id ~= "initech" end,
          enrich = function(id) return { shout = id:upper() } end,
        }
        middleware()
      }
      location / { content_by_lua_block {
        ngx.sleep(math.random() / 10)
        local db = context:get_tenant_db()
        local schema = db:value("SELECT current_schema() FROM pg_sleep(0.05)")
        local later = mtenant.spawn(function()
          mtenant.sleep(5)
          return context:get_tenant_id()
        end):await()
        ngx.say(schema, " ", later, " ", context:get_tenant().shout) } }]])
    local body, status = web:get("/")
    assert.equal(400, status)
    assert.equal('{"error":"Tenant ID is required"}', body)
    status = select(2, web:get("/", "-H 'X-Tenant: no such; id'"))
    assert.equal(400, status)
    body, status = web:get("/", "-H 'X-Tenant: initech'")
    assert.equal(403, status)
    assert.equal('{"error":"Invalid tenant"}', body)
    body, status = web:get("/raise", "-H 'X-Tenant: acme'")
    assert.equal(500, status)
    assert.equal('{"error":"Internal server error"}', body)
    local requests, expected = {}, {}
    for i = 1, 20 do
      local id = i % 2 == 0 and "acme" or "globex"
      requests[i] = { "/", "-H 'X-Tenant: " .. id .. "'" }
      expected[i] = ("t_%s %s %s"):format(id, id, id:upper())
    end
    assert.same(expected, web:get_all(requests))
  end)

  it("knows it by the manager's policy", function()
    start([[
      access_by_lua_block {
        routed = routed or assert(mtenant.create_tenant_manager {
          connection = { url = "]] .. env.server().url .. [[",
                         application_name = "]] .. env.APPLICATION .. [[" },
          policy = {
            identify = function(request)
              local name = request.headers["x-name"]
              return name and request.method .. "-" .. name
                or request.path:match("^/of/(%w+)$"), "nobody"
            end,
            resolve = function(id) return { schema = "t_" .. id } end,
          },
        })
        by_policy = by_policy or mtenant.create_tenant_context(routed)
        find = find or require("mtenant.host.nginx").middleware {
          context = by_policy,
        }
        find()
      }
      location / { content_by_lua_block {
        ngx.say(by_policy:get_tenant_id()) } }]])
    assert.equal("acme", (web:get("/of/acme")))
    assert.equal("GET-x", (web:get("/", "-H 'X-Name: x'")))
    assert.equal(400, select(2, web:get("/")))
    assert.equal(400, select(2, web:get("/", "-H 'X-Name: a/b'")))
    -- which of two is meant nobody knows
    assert.equal(400, select(2, web:get("/", "-H 'X-Name: x' -H 'X-Name: y'")))
  end)

  it("tells its health", function()
    local server = env.start()
    start([[
      location / { content_by_lua_block {
        own = own or assert(mtenant.create_tenant_manager {
          connection = { url = "]] .. server.url .. [[" },
          isolation = {
            schema_name_template = function(id) return "t_" .. id end,
          },
        })
        require("mtenant.host.nginx").health(own)() } }]])
    local body, status = web:get("/")
    assert.equal(200, status)
    assert.matches('"healthy":true', body)
    server:stop("immediate")
    body, status = web:get("/")
    assert.equal(503, status)
    assert.matches('"healthy":false', body)
    env.close(server)
  end)

  it("shares the budget among its workers", function()
    start([[
      location / { content_by_lua_block {
        mtenant.each({ 1, 2, 3, 4, 5, 6, 7, 8 }, 8, function()
          return manager:get_db("acme"):query("SELECT pg_sleep(0.2)")
        end)
        ngx.say(manager:get_stats().peak) } }]], { workers = 4 })
    assert.equal("2", (web:get("/")))
  end)

  it("has one prober in each worker while the server is down", function()
    local server = env.start()
    server:stop("immediate")
    start([[
      location / { content_by_lua_block {
        for i = 0, 3 do
          ngx.say(ngx.shared.results:get(i) or "-", " ",
                  ngx.shared.results:get("waiting" .. i) or "-")
        end } }]], { workers = 4, http = [[
      init_worker_by_lua_block {
        local mtenant = require "mtenant"
        local manager = assert(mtenant.create_tenant_manager {
          connection = { url = "]] .. server.url .. [[",
                         retry = { max_attempts = 40 } },
          isolation = {
            schema_name_template = function(id) return "t_" .. id end,
          },
        })
        local waiting = 0
        for i = 1, 1000 do
          mtenant.spawn(function()
            waiting = waiting + 1
            manager:get_db_async("s" .. i)
          end)
        end
        ngx.timer.at(2, function()
          local id = ngx.worker.id()
          ngx.shared.results:set("waiting" .. id, waiting)
          ngx.shared.results:set(id, manager:get_stats().connect_failures)
          manager:dispose()
        end)
      }]] })
    env.eventually("all have told", function()
      return not web:get("/"):find("-", 1, true)
    end)
    for tried, waiting in web:get("/"):gmatch("(%d+) (%d+)") do
      assert.equal("1000", waiting)
      assert.is_true(tonumber(tried) >= 2 and tonumber(tried) <= 10, tried)
    end
    env.close(server)
  end)
end)
