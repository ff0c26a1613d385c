--- Throwaway PostgreSQL servers for specs, on pg.sh: blocking, for any Lua.
--
--     local pg = require "tests.support.pg"
--     local server = pg.start({ tcp = true, conf = { log_statement = "all" } })
--     server.url        -- the ordinary user `mtenant`, who owns the database
--     server.admin_url  -- the superuser `postgres`, in the same database
--     server:psql("SELECT 1")
--     server:restart("immediate")
--     server:start_in_background(300)
--     server:close()
--
-- All servers of a process share one initdb. They end with the process,
-- however it ends.

local M = {}

local server_methods = {}
local server_mt = { __name = "test server", __index = server_methods }

local HERE = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or "."

local root -- the directory of this process
local root_owner -- its collection, or the end of the VM, removes it


local function quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end


local function command_line(words)
  local quoted = { "bash", quote(HERE .. "/pg.sh") }
  for _, word in ipairs(words) do
    quoted[#quoted + 1] = quote(word)
  end
  return table.concat(quoted, " ")
end


local function read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a") or ""
  if file then
    file:close()
  end
  return text
end


--- Runs a shell command; returns its output without the newline at the end,
-- or nil and what it wrote to stderr. (5.1's pclose does not tell the status.)
local function capture(command)
  local errors = os.tmpname()
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>" .. quote(errors)
    .. "; echo \"status=$?\"", "r"))
  local out = pipe:read("*a")
  pipe:close()
  local message = read_file(errors)
  os.remove(errors)
  local text, status = out:match("^(.*)status=(%d+)\n$")
  if status ~= "0" then
    return nil, (message:gsub("%s+$", ""))
  end
  return (text:gsub("\n+$", ""))
end


--- Runs pg.sh; raises when it fails.
local function script(...)
  local out, err = capture(command_line({ ... }))
  return out or error("pg.sh " .. (...) .. ": " .. err, 3)
end


local function own_pid()
  return assert(read_file("/proc/self/stat"):match("^%d+"))
end


--- An object whose __gc runs `fn`, on 5.1 and LuaJIT as well.
local function finalizer(fn)
  if _VERSION == "Lua 5.1" then
    local proxy = newproxy(true) -- luacheck: ignore
    getmetatable(proxy).__gc = fn
    return proxy
  end
  return setmetatable({}, { __gc = fn })
end


local function get_root()
  if not root then
    local dir = script("root", own_pid())
    root = dir
    root_owner = finalizer(function()
      os.execute(command_line({ "destroy", dir }))
    end)
  end
  return root, root_owner
end


local function percent_encode(text)
  return (text:gsub("[^%w._~-]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end


local function url_of(server, user, tcp)
  if tcp then
    return ("postgresql://%s@127.0.0.1:%d/mtenant"):format(user, server.port)
  end
  return ("postgresql://%s@/mtenant?host=%s&port=%d"):format(
    user, percent_encode(server.dir), server.port)
end


--- Starts a server of its own. Options: `tcp = true` (its URLs then name
-- 127.0.0.1 and a free port, else the unix socket), `conf` (settings by name),
-- `hba` (the text of pg_hba.conf; the superuser must be let in locally), `env`
-- (the environment of its first start).
function M.start(opts)
  opts = opts or {}
  local words = { "create", (get_root()), opts.tcp and "tcp=true" or nil }
  for name, value in pairs(opts.conf or {}) do
    words[#words + 1] = name .. "=" .. tostring(value)
  end
  local env = opts.hba and "MT_PG_HBA=" .. quote(opts.hba) .. " " or ""
  for name, value in pairs(opts.env or {}) do
    env = env .. name .. "=" .. quote(value) .. " "
  end
  local out, err = capture(env .. command_line(words))
  if not out then
    error("no test server: " .. err, 2)
  end
  local server = setmetatable({}, server_mt)
  server.dir = out:match("^[^\n]+")
  server.port = tonumber(out:match("\n(%d+)$"))
  server.url = url_of(server, "mtenant", opts.tcp)
  server.admin_url = url_of(server, "postgres", opts.tcp)
  return server
end


--- Starts a streaming standby of the server, which is removed like one. Reached
-- by its unix socket.
function server_methods:standby()
  local out, err = capture(command_line({ "standby", self.dir }))
  if not out then
    error("no standby: " .. err, 2)
  end
  local standby = setmetatable({ dir = out:match("^[^\n]+"), port = 5432 },
                               server_mt)
  standby.url = url_of(standby, "mtenant")
  standby.admin_url = url_of(standby, "postgres")
  return standby
end


--- Gives the server, which runs, a certificate of its own: it takes TLS a moment
-- later.
function server_methods:use_tls()
  script("tls", self.dir)
end


--- Makes a primary of a standby; returns when it is one.
function server_methods:promote()
  script("promote", self.dir)
end


local shared

--- One server for all specs of the process that need no particular settings.
function M.shared()
  shared = shared or M.start()
  return shared
end


--- Starts it again on the same port, with its data.
function server_methods:start()
  script("start", self.dir)
end


--- `mode`: "smart", "fast" (default), "immediate", or "kill" (SIGKILL for all
-- of its processes).
function server_methods:stop(mode)
  script("stop", self.dir, mode or "fast")
end


function server_methods:restart(mode)
  script("restart", self.dir, mode or "fast")
end


local function in_background(delay_ms, ...)
  os.execute(("(sleep %.3f; %s) </dev/null >/dev/null 2>&1 &"):format(
    (delay_ms or 0) / 1000, command_line({ ... })))
end


--- These return at once; what they do begins after `delay_ms`.
function server_methods:start_in_background(delay_ms)
  in_background(delay_ms, "start", self.dir)
end


function server_methods:stop_in_background(delay_ms, mode)
  in_background(delay_ms, "stop", self.dir, mode or "fast")
end


function server_methods:restart_in_background(delay_ms, mode)
  in_background(delay_ms, "restart", self.dir, mode or "fast")
end


function server_methods:promote_in_background(delay_ms)
  in_background(delay_ms, "promote", self.dir)
end


--- Runs SQL as the superuser, each statement by itself; returns the output
-- (unaligned, tuples only, columns separated by `|`). Raises on errors.
function server_methods:psql(sql)
  local out, err = capture(command_line({ "psql", self.dir })
    .. " <<'MT_END_OF_SQL'\n" .. sql .. "\nMT_END_OF_SQL")
  if not out then
    error("psql: " .. err, 2)
  end
  return out
end


--- What the server has logged since its last start.
function server_methods:log()
  return read_file(self.dir .. "/start.log")
end


-- ---- a pooler before it ------------------------------------------------------------

local bouncer_methods = {}
local bouncer_mt = { __name = "test pooler", __index = bouncer_methods }


--- Starts a PgBouncer before the server: transaction mode, one connection wide,
-- unless `settings` (of its section [pgbouncer], by name) say otherwise.
-- It has `dir` and `url` (of the ordinary user), and ends with the server.
function server_methods:bouncer(settings)
  local words = { "bouncer", self.dir }
  for name, value in pairs(settings or {}) do
    words[#words + 1] = name .. "=" .. tostring(value)
  end
  local out, err = capture(command_line(words))
  if not out then error("no PgBouncer: " .. err, 2) end
  local bouncer = setmetatable({ dir = out, port = 6432 }, bouncer_mt)
  bouncer.url = url_of(bouncer, "mtenant")
  return bouncer
end


--- Runs SQL through it as a client of its own, the ordinary user; or a command
-- of its admin console. Returns the output as psql does.
function bouncer_methods:psql(sql, user, database)
  local out, err = capture(("psql -XAtq -h %s -p %d -U %s %s -c %s"):format(
    quote(self.dir), self.port, user or "mtenant", database or "mtenant",
    quote(sql)))
  return out or error("psql: " .. err, 2)
end


function bouncer_methods:admin(command)
  return self:psql(command, "postgres", "pgbouncer")
end


--- How many clients it has, without its console.
function bouncer_methods:clients()
  local _, n = ("\n" .. self:admin("SHOW CLIENTS")):gsub("\nC|mtenant|", "")
  return n
end


--- What it has logged.
function bouncer_methods:log()
  return read_file(self.dir .. "/log")
end


--- Ends it. Idempotent.
function bouncer_methods:close()
  script("unbounce", self.dir)
end


--- Ends the server and removes its data. Idempotent.
function server_methods:close()
  if not self.closed then
    self.closed = true
    script("remove", self.dir)
  end
  if shared == self then
    shared = nil
  end
end


return M
