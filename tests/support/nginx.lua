--- A private nginx for specs: a configuration around what the spec gives,
-- in a directory of its own, on a Unix socket. Everything of it is gone after
-- `stop`. Needs nginx with lua-nginx-module, and curl.

local assert = require "luassert"
local program = require "tests.support.program"

local quote, sh = program.quote, program.sh

local M = {}

local MODULES = { "ndk_http_module.so", "ngx_http_lua_module.so" }
local MODULES_AT = { "/usr/lib/nginx/modules/", "/usr/share/nginx/modules/" }

local methods = {}
local mt = { __index = methods }


local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end


local function load_modules()
  local lines = {}
  for _, name in ipairs(MODULES) do
    for _, at in ipairs(MODULES_AT) do
      if exists(at .. name) then
        lines[#lines + 1] = "load_module " .. at .. name .. ";"
        break
      end
    end
  end
  return table.concat(lines, "\n")
end


-- where the module was built, and the Lua tree stands
local function paths()
  local here = sh("pwd")
  local build = os.getenv("MT_BUILD_DIR") or here .. "/build/release"
  return here, build
end


local TEMPLATE = [[
daemon on; master_process on; worker_processes @workers@;
pid @dir@/pid; error_log @dir@/error.log notice;
@user@ @modules@
@main@
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path @dir@/body; proxy_temp_path @dir@/proxy;
  fastcgi_temp_path @dir@/f; uwsgi_temp_path @dir@/u; scgi_temp_path @dir@/s;
  lua_package_path "@here@/lua/?.lua;@here@/lua/?/init.lua;@here@/?.lua;;";
  lua_package_cpath "@so@/?.so;;";
  lua_shared_dict results 1m;
  @http@
  server { listen unix:@dir@/http.sock; @server@ }
}
]]


-- the core alone, as where nobody has nginx's headers
local function core_alone(dir, build)
  sh(("mkdir -p %s/lib/mtenant && cp %s/lib/luajit/mtenant/core.so %s/lib/mtenant/")
    :format(dir, build, dir))
  return dir .. "/lib"
end


--- Starts one.
---@param given table  http, server, main: configuration; workers: 1;
--  headers: false: without the module that is built against nginx's headers
function M.start(given)
  local here, build = paths()
  local self = setmetatable({ dir = sh("mktemp -d") }, mt)
  local values = {
    dir = self.dir, here = here, workers = given.workers or 1,
    modules = load_modules(), http = given.http or "", main = given.main or "",
    server = given.server,
    so = given.headers == false and core_alone(self.dir, build)
      or build .. "/lib/luajit",
    user = sh("id -u") == "0" and "user root;" or "",
  }
  local text = TEMPLATE:gsub("@(%l+)@", function(key) return values[key] end)
  local file = assert(io.open(self.dir .. "/nginx.conf", "w"))
  file:write(text)
  file:close()
  local out = sh(("nginx -p %s -c %s/nginx.conf -e %s/error.log 2>&1; echo $?")
    :format(self.dir, self.dir, self.dir))
  if not out:find("0$") then
    error(out .. "\n" .. self:log(), 2)
  end
  return self
end


function methods:log()
  local file = io.open(self.dir .. "/error.log")
  if not file then return "" end
  local text = file:read("*a")
  file:close()
  return text
end


--- Lines of the log that no test should cause.
function methods:complaints()
  local found = {}
  for line in self:log():gmatch("[^\n]+") do
    local bad = line:find("[alert]", 1, true)
      and not line:find("lua_code_cache is off", 1, true)
    if bad or line:find("[crit]", 1, true)
      or line:find("[emerg]", 1, true) or line:find("exited on signal") then
      found[#found + 1] = line
    end
  end
  return table.concat(found, "\n")
end


function methods:pid()
  local file = io.open(self.dir .. "/pid")
  local pid = file and file:read("*l")
  if file then file:close() end
  return pid
end


function methods:curl(path, options)
  return ("curl -s -m 60 --unix-socket %s/http.sock %s http://t%s"):format(
    self.dir, options or "", quote(path))
end


--- Body and status of a request.
function methods:get(path, options)
  local out = sh(self:curl(path, "-w '\n%{http_code}' " .. (options or "")))
  local body, status = out:match("^(.*)\n(%d+)$")
  return body and body:gsub("\n$", ""), tonumber(status)
end


--- Bodies of several requests at the same time.
---@param list table[]  each a path, and curl's options
function methods:get_all(list)
  local commands = {}
  for i, request in ipairs(list) do
    commands[i] = ("%s > %s/out.%d &"):format(
      self:curl(request[1], request[2]), self.dir, i)
  end
  commands[#commands + 1] = "wait"
  sh(table.concat(commands, "\n"))
  local out = {}
  for i = 1, #list do out[i] = sh(("cat %s/out.%d"):format(self.dir, i)) end
  return out
end


function methods:signal(name)
  sh(("kill -%s %s"):format(name, self:pid()))
end


--- Ends it gracefully; it must leave nothing behind, and have said nothing bad.
function methods:stop()
  local pid = self:pid()
  if pid then
    self:signal("QUIT")
    for _ = 1, 200 do
      if sh("kill -0 " .. pid .. " 2>/dev/null; echo $?") ~= "0" then break end
      sh("sleep 0.05")
    end
    assert.are_not.equal("0", sh("kill -0 " .. pid .. " 2>/dev/null; echo $?"),
                         "nginx does not end")
  end
  local complaints = self:complaints()
  sh("rm -rf " .. quote(self.dir))
  assert.equal("", complaints)
end


return M
