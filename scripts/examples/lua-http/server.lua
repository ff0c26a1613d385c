--- The notes service on lua-http.
--
--   lua5.4 server.lua URL PORT

local cqueues = require "cqueues"
local headers = require "http.headers"
local http_server = require "http.server"
local http_util = require "http.util"
local json = require "cjson.safe"
local metrics = require "notes.metrics"
local middleware = require "mtenant.middleware"
local mtenant = require "mtenant"
local policy = require "notes.policy"
local service = require "notes.service"
local signal = require "cqueues.signal"

local url, port = arg[1], tonumber(arg[2])

local loop = cqueues.new()
require("mtenant.host.cqueues").attach(loop)

local manager = assert(mtenant.create_tenant_manager(policy.config(url)))
local context = mtenant.create_tenant_context(manager)
local identify = middleware.new {
  context = context,
  identify = function(request) return policy.tenant_of_host(request.host) end,
  validate = function(id) return manager:get_db_async(id) end,
  on_error = function(err, status)
    if status >= 500 then io.stderr:write(tostring(err), "\n") end
  end,
}


local function read(stream)
  local head = assert(stream:get_headers(5))
  local path, query = head:get(":path"):match("^([^?]*)%??(.*)$")
  local request = {
    method = head:get(":method"), path = path, query = {},
    host = head:get(":authority"),
  }
  for key, value in http_util.query_args(query) do request.query[key] = value end
  local text = stream:get_body_as_string(5)
  request.body = text and text ~= "" and json.decode(text) or nil
  return request
end


local function answer(request)
  if request.path == "/health" then
    local health = manager:health_check()
    local healthy = health and health.healthy
    return healthy and 200 or 503, health or { healthy = false }
  end
  if request.path == "/metrics" then return 200, metrics.text(manager) end
  local ok, status, body = identify(request)
  if not ok then return status, body end
  return service.answer(context:get_tenant_db(), request)
end


local function on_stream(_, stream)
  local ok, status, body = pcall(function() return answer(read(stream)) end)
  if not ok then
    io.stderr:write(tostring(status), "\n")
    status, body = 500, { error = "internal error" }
  end
  local head = headers.new()
  head:append(":status", tostring(status))
  local text = type(body) == "string"
  head:append("content-type", text and "text/plain" or "application/json")
  if not body then
    assert(stream:write_headers(head, true))
    return
  end
  assert(stream:write_headers(head, false))
  assert(stream:write_chunk(text and body or json.encode(body) .. "\n", true))
end


local server = assert(http_server.listen {
  host = "127.0.0.1", port = port, cq = loop, onstream = on_stream,
  onerror = function(_, _, what, err)
    if what ~= "read_headers" then
      io.stderr:write(what, ": ", tostring(err), "\n")
    end
  end,
})
assert(server:listen())

-- SIGINT, SIGTERM: no new connections, what is under way is finished
signal.block(signal.SIGINT, signal.SIGTERM)
loop:wrap(function()
  signal.listen(signal.SIGINT, signal.SIGTERM):wait()
  server:close()
  manager:dispose()
end)

assert(loop:loop())
