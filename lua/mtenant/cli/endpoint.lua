--- How `mtenant health` and `mtenant metrics` ask a running process: a client of
-- its admin endpoint. It blocks, which harms nobody in a program that does
-- nothing else.

local address = require "mtenant.admin.address"
local auth = require "mtenant.admin.auth"
local markers = require "mtenant.markers"
local mtenant = require "mtenant"

local has_http, http = pcall(require, "socket.http")
local has_ltn12, ltn12 = pcall(require, "ltn12")

local PORT = address.DEFAULT:match("%d+$")
local TIMEOUT_MS = 5000

-- it could not be asked, so nothing is known
local UNKNOWN = 2

local M = { UNKNOWN = UNKNOWN }


--- Where an endpoint is.
---@param text string  "http://host:port", "host:port", "port", "unix:/path"
---@return table|nil place  { url, path: of a socket }
---@return string|nil message
function M.parse(text)
  local path = text:match("^unix:(.+)$") or text:match("^/.+$")
  if path then
    return { url = "http://localhost", path = path }
  end
  local rest = text:match("^http://(.*)$") or text
  rest = rest:gsub("/$", "")
  if rest:find("^%d+$") then
    rest = "127.0.0.1:" .. rest
  end
  local host, port = rest:match("^(%[[%x:.]+%]):?(%d*)$")
  if not host then
    host, port = rest:match("^([%w._-]+):?(%d*)$")
  end
  if not host then
    return nil, ("'%s' is no address such as http://127.0.0.1:9187, "
      .. "127.0.0.1:9187 or unix:/path"):format(text)
  end
  return { url = ("http://%s:%s"):format(host, port ~= "" and port or PORT) }
end


-- A socket of a path, in the shape that LuaSocket's HTTP wants one in.
local function unix_socket(path)
  local sock = assert(require("socket.unix").stream())
  local proxy = {}
  for _, name in ipairs({ "settimeout", "send", "receive", "close", "getfd",
                          "dirty" }) do
    proxy[name] = function(_, ...) return sock[name](sock, ...) end
  end
  function proxy.connect() return sock:connect(path) end
  return proxy
end


local function secret(path, name)
  if path then
    return auth.read_secret(path)
  end
  local value = os.getenv(name)
  return value ~= "" and value or nil
end


-- The Authorization header, if there is anything to put in it.
local function authorization(run)
  local opts = run.opts
  local token, err = secret(opts.token_file, "MTENANT_ADMIN_TOKEN")
  if err then run:usage(err) end
  local basic
  basic, err = secret(opts.basic_file, "MTENANT_ADMIN_BASIC")
  if err then run:usage(err) end
  if token and not opts.basic_file then
    return "Bearer " .. token
  end
  return basic and "Basic " .. auth.base64(basic)
end


-- Whom to ask.
local function asked(run)
  return run.opts.admin or os.getenv("MTENANT_ADMIN") or address.DEFAULT
end


local function check_library(run)
  if not has_http or not has_ltn12 then
    run:fail("LuaSocket is not installed (Debian: lua-socket)", UNKNOWN)
  end
end


--- A function (path, accept) -> status, body; it ends the command where there is
-- no answer.
---@param run table  of mtenant.cli
---@return fun(path: string, accept?: string): integer, string
function M.client(run)
  check_library(run)
  local text = asked(run)
  local place, wrong = M.parse(text)
  if not place then run:usage(wrong) end
  local credentials = authorization(run)
  http.TIMEOUT = (run.opts.timeout_ms or TIMEOUT_MS) / 1000
  return function(path, accept)
    local parts = {}
    local ok, status = http.request {
      url = place.url .. path, redirect = false,
      headers = { authorization = credentials, accept = accept,
                  host = place.path and "localhost" or nil },
      create = place.path and function() return unix_socket(place.path) end
        or nil,
      sink = ltn12.sink.table(parts),
    }
    if not ok or type(status) ~= "number" then
      run:fail(("%s does not answer: %s"):format(text, tostring(status)), UNKNOWN)
    elseif status == 401 then
      run:fail(text .. " wants another token or password", UNKNOWN)
    end
    return status, table.concat(parts)
  end
end


--- What the endpoint says at a path, as a table; and its text.
---@return table document
---@return string text
---@return integer status
function M.document(run, ask, path)
  local status, text = ask(path, "application/json")
  local ok, document = pcall(markers.decode, text)
  if status ~= 200 and status ~= 503 or not ok or type(document) ~= "table" then
    run:fail(("%s is no admin endpoint of mtenant: status %d"):format(
      asked(run), status), UNKNOWN)
  end
  return document, text, status
end


--- Calls show() once, or with --watch again and again.
---@param show fun(): integer
---@return integer  the exit status of the last time
function M.watch(run, show)
  local every = run.opts.watch
  local status = show()
  while every do
    if not mtenant.sleep(every * 1000) then break end
    if run.console.out.live then
      io.stdout:write("\27[H\27[2J")
    else
      run.console:say("")
    end
    status = show()
  end
  return status
end


return M
