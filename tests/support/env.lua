--- What the integration specs share: `it` bodies that may wait, a manager on a
--- throwaway server, an observer that looks at the server from outside, and
--- the check that nothing is left behind.
--
--     local env = require "tests.support.env"
--     after_each(env.assert_nothing_left)
--     it("answers", env.in_task(function()
--       local manager = env.manager()
--       ...
--     end))
--
-- The server is one per run, also when the specs' modules are loaded anew.

local core = require "mtenant.core"
local mtenant = require "mtenant"

local M = {}

M.APPLICATION = "mtenant-spec"

local LIMIT_MS = tonumber(os.getenv("MT_SPEC_LIMIT_MS")) or 30000
local KEY = "mtenant.tests.env"

-- what outlives a reload of this module
local registry = debug.getregistry()
local state = registry[KEY]
if not state then
  state = {
    pg = require "tests.support.pg",
    servers = {},   -- to be checked for connections, by server
    observers = {}, -- by server
    silent = {},    -- these answer no questions
    known = {},     -- leaks that were reported once
  }
  registry[KEY] = state
end


-- ---- servers --------------------------------------------------------------------

--- A server of its own; as `start` of tests/support/pg.lua.
function M.start(opts)
  local server = state.pg.start(opts)
  state.servers[server] = true
  return server
end


--- A streaming standby of a server that `start` made; closed like one, first.
function M.standby(server)
  local standby = server:standby()
  state.servers[standby] = true
  return standby
end


--- The server that the specs share. Nobody stops it.
function M.server()
  if not state.shared then
    state.shared = M.start({ conf = {
      max_connections = 60, deadlock_timeout = "50ms",
    } })
  end
  return state.shared
end


local function close_observer(server)
  local observer = state.observers[server]
  state.observers[server] = nil
  if not observer then return end
  observer.input:close()
  observer.output:close()
end


--- Ends a server that `start` made.
function M.close(server)
  if state.silent[server] then M.signal(server, "CONT") end
  close_observer(server)
  state.servers[server], state.silent[server] = nil, nil
  server:close()
end


--- Sends a signal to the postmaster of a server, or to one backend.
function M.signal(server, name, pid)
  if not pid then
    local file = assert(io.open(server.dir .. "/data/postmaster.pid"))
    pid = file:read("n")
    file:close()
  end
  assert(os.execute(("kill -%s %d"):format(name, pid)))
end


--- A server that takes TCP connections (the kernel does) and never says a
--- word, until it gets SIGCONT.
function M.silent_server()
  local server = M.start({ tcp = true })
  M.signal(server, "STOP")
  state.silent[server] = true
  return server
end


-- ---- the observer ---------------------------------------------------------------

-- psql with a pipe on either side; an ordinary user, like the tenants' login
local function open_observer(server)
  local fifo = os.tmpname()
  os.remove(fifo)
  assert(os.execute("mkfifo '" .. fifo .. "'"))
  local mark = server.url:find("?", 1, true) and "&" or "?"
  local input = assert(io.popen(
    ("psql -XAtq '%s%sapplication_name=observer' >%s 2>&1"):format(
      server.url, mark, fifo), "w"))
  local output = assert(io.open(fifo, "r"))
  os.remove(fifo)
  input:setvbuf("full")
  return { input = input, output = output }
end


local function ask(server, sql)
  local observer = state.observers[server] or open_observer(server)
  state.observers[server] = observer
  observer.input:write(sql, "\n;\n\\echo end-of-answer\n")
  observer.input:flush()
  local lines = {}
  for line in observer.output:lines() do
    if line == "end-of-answer" then return table.concat(lines, "\n") end
    lines[#lines + 1] = line
    if line:find("server closed the connection", 1, true) then break end
  end
  close_observer(server)
  return nil, table.concat(lines, " ")
end


--- Runs SQL from outside; returns unaligned text, or nil and a message when
--- the server is not there. Raises on errors of the SQL.
function M.try_sql(sql, server)
  server = server or M.server()
  local text, err = ask(server, sql)
  if not text then text, err = ask(server, sql) end -- it was restarted
  if not text then return nil, err end
  if text:find("ERROR:", 1, true) then error(text, 2) end
  return text
end


--- The same for a server that is there.
function M.sql(sql, server)
  local text, err = M.try_sql(sql, server)
  return text or error("no answer from the server: " .. err, 2)
end


--- Backends of ours that fulfil an SQL condition.
function M.count(condition, server)
  return tonumber(M.sql(("SELECT count(*) FROM pg_stat_activity "
    .. "WHERE application_name = '%s' AND (%s)"):format(M.APPLICATION,
    condition or "true"), server))
end


-- ---- waiting ---------------------------------------------------------------------

local function pause(ms)
  if not mtenant.sleep(ms) then error("cut off while waiting", 0) end
end


--- Calls fn until it returns something true, which is returned.
function M.eventually(what, fn, limit_ms)
  local until_ms = core.now_ms() + (limit_ms or 5000)
  while true do
    local value = fn()
    if value then return value end
    if core.now_ms() > until_ms then
      error("waited in vain for " .. what, 2)
    end
    mtenant.run(pause, 2)
  end
end


--- The body of a test as a task, with an end.
function M.in_task(fn, limit_ms)
  limit_ms = limit_ms or LIMIT_MS
  return function()
    mtenant.run(function()
      local task = mtenant.spawn(fn)
      local _, err = mtenant.with_deadline(limit_ms, function()
        return task:await()
      end)
      if not task.done then
        error(("still not done after %d ms: %s\n%s"):format(limit_ms,
          tostring(err), debug.traceback(task.co)), 0)
      end
    end)
  end
end


--- The largest number of our backends that was seen while fn ran.
function M.peak_while(fn, server)
  local over, peak = false, 0
  local watcher = mtenant.spawn(function()
    while not over do
      peak = math.max(peak, M.count("true", server))
      mtenant.sleep(2)
    end
  end)
  fn()
  over = true
  watcher:await()
  return peak
end


--- Raises the error of `nil, err` as it is (the specs' assert does not).
function M.must(value, err)
  if value == nil and err ~= nil then error(err, 0) end
  return value
end


--- An int8 as Lua has it: one beyond 2^53 is text on LuaJIT.
---@param digits string
function M.int8(digits)
  local n = tonumber(digits)
  local exact = math.type or math.abs(n) <= 2 ^ 53 and ("%.0f"):format(n) == digits
  return exact and n or digits
end


--- A loop over rows() that is left: body(row) says when. Lua 5.4 closes what it
--- iterates over, LuaJIT's loop can't.
function M.loop(body, rows, ...)
  local ok, err = pcall(function(...)
    for row in rows, ... do
      if body(row) then break end
    end
  end, ...)
  if jit then rows:close() end
  if not ok then error(err, 0) end
end


--- What the library says on stderr while fn runs.
function M.stderr_of(fn, ...)
  local said, real = {}, io.stderr
  io.stderr = { write = function(self, ...) -- luacheck: ignore 122
    for i = 1, select("#", ...) do said[#said + 1] = tostring((select(i, ...))) end
    return self
  end }
  local ok, err = pcall(fn, ...)
  io.stderr = real -- luacheck: ignore 122
  if not ok then error(err, 0) end
  return table.concat(said)
end


-- ---- other programs -------------------------------------------------------------

local BUILD = os.getenv("MT_BUILD_DIR") or "build/release"
local CORE_5_1 = BUILD .. "/lib/luajit/mtenant/core.so"


--- What goes before a script's name, in the shell, to run it by an interpreter
--- of the ABI of Lua 5.1; without one, the bare LuaJIT of the tests. nil: the
--- module was not built for it.
---@param interpreter? string
function M.lua_5_1(interpreter)
  local core_5_1 = io.open(CORE_5_1, "rb")
  if not core_5_1 then return nil end
  core_5_1:close()
  local dir = "/usr/share/lua/5.1/"
  return ("env LUA_PATH='lua/?.lua;lua/?/init.lua;tests/?.lua;./?.lua;"
    .. "%s?.lua;%s?/init.lua;;' LUA_CPATH='%s/lib/luajit/?.so;"
    .. "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;;' '%s'"):format(dir, dir, BUILD,
    interpreter or BUILD .. "/tests/luajit-host")
end


--- A German locale in a directory of its own, for LOCPATH; nil when the machine
--- can't make one. The caller removes it.
function M.german_locale()
  local dir = os.tmpname()
  os.remove(dir)
  local ok = os.execute(("mkdir -m 755 '%s' && localedef -i de_DE -f UTF-8 "
    .. "'%s/de_DE.UTF-8' >/dev/null 2>&1"):format(dir, dir))
  if ok == true or ok == 0 then return dir end -- 0: Lua 5.1's way to say so
  os.execute("rm -rf '" .. dir .. "'")
end


--- What Lua code prints as a program of its own, with more in its environment.
function M.run_script(code, environment)
  local script = os.tmpname()
  local file = assert(io.open(script, "w"))
  file:write(code)
  file:close()
  local words = { "env" }
  for name, value in pairs(environment or {}) do
    words[#words + 1] = ("%s='%s'"):format(name, value)
  end
  words[#words + 1] = ("'%s' '%s' 2>&1"):format(arg[-1], script)
  local pipe = assert(io.popen(table.concat(words, " "), "r"))
  local text = pipe:read("a")
  pipe:close()
  os.remove(script)
  return text
end


-- ---- managers -------------------------------------------------------------------

local function merge(into, from)
  for key, value in pairs(from or {}) do
    if type(value) == "table" and type(into[key]) == "table" then
      merge(into[key], value)
    else
      into[key] = value
    end
  end
  return into
end


--- A configuration for a server; `overrides` is laid over it.
function M.config(overrides, server)
  return merge({
    connection = {
      url = (server or M.server()).url,
      application_name = M.APPLICATION,
      max_connections = 8,
    },
    isolation = {
      schema_name_template = function(id) return "t_" .. id end,
    },
  }, overrides)
end


function M.manager(overrides, server)
  return assert(mtenant.create_tenant_manager(M.config(overrides, server)))
end


--- Makes schemas t_<id> for tenants, empty ones, also where they exist.
function M.tenants(ids, server)
  local text = {}
  for _, id in ipairs(ids) do
    text[#text + 1] = ('SET client_min_messages = error;'
      .. 'DROP SCHEMA IF EXISTS "t_%s" CASCADE; CREATE SCHEMA "t_%s";')
      :format(id, id)
  end
  M.sql(table.concat(text, "\n"), server)
end


-- ---- nothing is left ---------------------------------------------------------------

local WATCHED = { "operations", "leases", "fd_watchers", "loop_watchers",
                  "managers" }


local function quiet()
  local stats = core.stats()
  for _, name in ipairs(WATCHED) do
    if stats[name] > (state.known[name] or 0) then return false end
  end
  return true
end


local function describe()
  local stats, out = core.stats(), {}
  for _, name in ipairs(WATCHED) do
    out[#out + 1] = name .. "=" .. tostring(stats[name])
  end
  return table.concat(out, " ")
end


-- The sleep of a waiting task is an operation of its own: look from outside.
local function wait_until(condition, limit_ms)
  local until_ms = core.now_ms() + limit_ms
  while not condition() do
    if core.now_ms() > until_ms then return false end
    core.post()
    core.run_once(true)
  end
  return true
end


local function no_backend(server)
  local text = M.try_sql(("SELECT count(*) FROM pg_stat_activity "
    .. "WHERE application_name = '%s'"):format(M.APPLICATION), server)
  return text == nil or text == "0" -- nil: the server is not even there
end


--- Collects all there is to collect.
function M.collect()
  if jit then jit.flush() end -- compiled code holds what it was compiled for
  collectgarbage()
  collectgarbage()
end


-- A task that ends just now may have held a manager until now.
local function collected()
  M.collect()
  return quiet()
end


--- For after_each: disposes of what is left, then fails if that was not all.
function M.assert_nothing_left()
  mtenant.dispose_all(3000)
  M.collect()
  local left = not (wait_until(quiet, 1000) or wait_until(collected, 5000))
    and describe()
  for server in pairs(state.servers) do
    local function gone() return no_backend(server) end
    if not state.silent[server] and not wait_until(gone, 3000) then
      error("the server still has a connection of ours: "
        .. M.sql("SELECT pid, state, query FROM pg_stat_activity WHERE "
        .. "application_name = '" .. M.APPLICATION .. "'", server), 0)
    end
  end
  if left then
    state.known = core.stats()
    error("left behind: " .. left, 0)
  end
end


return M
