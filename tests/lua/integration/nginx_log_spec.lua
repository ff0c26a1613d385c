--- Logs and ids of requests within nginx.

local env = require "tests.support.env"
local nginx = require "tests.support.nginx"

local PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

local HTTP = [[
  init_worker_by_lua_block {
    mtenant = require "mtenant"
    local logger = mtenant.log.set_default {
      bare = true, sink = mtenant.log.ngx(ngx) }
    manager = assert(mtenant.create_tenant_manager {
      connection = { url = "@url@", application_name = "@name@",
                     max_connections = 4 },
      isolation = {
        schema_name_template = function(id) return "t_" .. id end,
      },
      debug = { enabled = true, slow_query_threshold_ms = 0 },
      tracing = { comments = true },
    })
    context = mtenant.create_tenant_context(manager)
    middleware = require("mtenant.host.nginx").middleware {
      context = context,
      identify = function(ngx) return ngx.req.get_headers()["X-Tenant"] end,
      enrich = function() return { route = ngx.var.uri } end,
    }
  }
]]

local SERVER = [[
  access_by_lua_block { middleware() }
  location / { content_by_lua_block {
    ngx.say(context:get_tenant_db():value(
      "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"))
    mtenant.log.default():error("two\nlines")
    mtenant.log.default():debug("too quiet for the error log")
  } }
]]


local function fill(text)
  local values = { url = env.server().url, name = env.APPLICATION }
  return (text:gsub("@(%l+)@", values))
end


describe("logs in nginx", function()
  local web

  setup(function() env.tenants({ "acme" }) end)
  after_each(function()
    if web then web:stop() end
    web = nil
    env.eventually("no backend is left", function() return env.count() == 0 end)
  end)

  it("go to its error log, with the request's ids", function()
    web = nginx.start { http = fill(HTTP), server = SERVER }
    local body = web:get("/a%20b", "-H 'X-Tenant: acme' -H 'X-Request-Id: r-7' "
      .. "-H 'traceparent: " .. PARENT .. "'")
    assert.is_truthy(body:find(" /*request_id='r-7',route='%2Fa%20b',"
      .. "tenant='acme',traceparent='" .. PARENT .. "'*/", 1, true), body)
    local said = web:log()
    local ids = "[mtenant] tenant=acme request=r-7 "
      .. "trace=0af7651916cd43dd8448eb211c80319c "
    assert.is_truthy(said:find("%[warn%][^\n]*" .. ids:gsub("%p", "%%%0")
                               .. "SLOW_QUERY"), said)
    assert.is_truthy(said:find("%[error%][^\n]*" .. ids:gsub("%p", "%%%0")
                               .. "two\\nlines"), said)
    assert.is_nil(said:find("too quiet", 1, true))
  end)

  it("have an id for a request that brings none", function()
    web = nginx.start { http = fill(HTTP), server = SERVER }
    local body = web:get("/", "-H 'X-Tenant: acme'")
    assert.is_truthy(body:find("/%*request_id='%x+',route='%%2F',"), body)
  end)
end)
