--- The server, the tenants and the manager of a run, and what it has found.
--
-- The manager under test logs in as an ordinary role that inherits nothing.
-- Every fourth tenant has a role of its own, every third has settings. A
-- superuser's manager beside it makes the schemas, kills backends, and reads the
-- truth at the end.

local mtenant = require "mtenant"
local throwaway = require "mtenant.throwaway"

local M = {}

local methods = {}
local mt = { __index = methods }

M.APPLICATION = "leaks"
M.TIMEOUT_MS = 30000

-- names that must be quoted, too
local SCHEMAS = { "t_%d", "t_%d", "T %d", 't"%d' }


local function new_tenant(n)
  local id = "t" .. n
  return {
    n = n,
    id = id,
    mark = id,
    schema = SCHEMAS[n % #SCHEMAS + 1]:format(n),
    role = n % 4 == 0 and "r_" .. n or nil,
    -- that no operation sets
    settings = n % 3 == 0 and { gin_fuzzy_search_limit = 1000 + n,
                                from_collapse_limit = 10 + n } or nil,
    epoch = 0,       -- counted up when its schema is dropped and made again
    busy = 0,        -- operations under way
    sessions = 0,    -- and those of them that hold a session
    acked = {}, maybe = {}, written = 0, -- see ledger.lua
  }
end


local function shared_tenant()
  local t = new_tenant(0)
  t.id, t.mark, t.schema, t.shared = "shared", "public", "public", true
  t.role, t.settings = nil, nil
  return t
end


local function quote(name)
  return '"' .. name:gsub('"', '""') .. '"'
end


--- The statement that makes a tenant's schema, at once with all that is in it.
-- A read of `me` tells whose schema it was; `home` tells it of a write.
function M.create_schema(t)
  local elements = ([[
    CREATE TABLE items (owner text NOT NULL, id bigint PRIMARY KEY,
                        n int NOT NULL DEFAULT 0,
                        home text NOT NULL DEFAULT '%s')
    CREATE VIEW me AS SELECT '%s'::text AS owner]]):format(t.mark, t.mark)
  if t.shared then
    return elements:gsub("CREATE VIEW", "; CREATE VIEW")
  end
  return ("CREATE SCHEMA %s AUTHORIZATION %s %s"):format(quote(t.schema),
    t.role or "mtenant", elements)
end


local function prepare(self)
  local admin = assert(self.admin:get_shared_db())
  assert(admin:exec [[
    ALTER ROLE mtenant NOINHERIT;
    GRANT ALL ON SCHEMA public TO mtenant]])
  -- temporary tables by the hundred thousand: keep the catalogs small
  assert(admin:query("ALTER SYSTEM SET autovacuum_naptime = '5s'"))
  assert(admin:query("SELECT pg_reload_conf()"))
  for _, t in ipairs(self.tenants) do
    local text = M.create_schema(t)
    if t.shared then text = "SET ROLE mtenant; " .. text end
    if t.role then
      text = ("CREATE ROLE %s; GRANT %s TO mtenant; GRANT CREATE ON DATABASE"
        .. " mtenant TO %s; %s"):format(t.role, t.role, t.role, text)
    end
    assert(admin:exec(text))
  end
end


local function new_manager(self, url)
  local routes = {}
  for _, t in ipairs(self.tenants) do
    routes[t.id] = { schema = t.schema, role = t.role, settings = t.settings }
  end
  return assert(mtenant.create_tenant_manager {
    connection = {
      url = url, application_name = M.APPLICATION,
      max_connections = self.options.connections,
      statement_timeout_ms = M.TIMEOUT_MS,
      cache_statements = 64,
      pool = { acquire_timeout_ms = M.TIMEOUT_MS },
    },
    isolation = { reset = self.options.reset },
    resolve = function(id) return routes[id], "no such tenant" end,
  })
end


--- Starts a server and makes everything on it.
---@param options table  of leaks.options
function M.new(options)
  local self = setmetatable({
    options = options, tenants = {}, leaks = {}, problems = {},
    counts = {}, errors = {}, limits = {}, checks = 0, done = 0, began = 0,
  }, mt)
  self.server = assert(throwaway.start())
  for n = 1, options.tenants do self.tenants[n] = new_tenant(n) end
  self.shared = shared_tenant()
  self.tenants[#self.tenants + 1] = self.shared
  self.admin = assert(mtenant.create_tenant_manager {
    connection = {
      url = self.server.url:gsub("mtenant@", "postgres@", 1),
      application_name = "observer", max_connections = 1,
    },
    resolve = function() return nil end,
  })
  prepare(self)
  self.manager = new_manager(self, self.server.url)
  return self
end


--- Makes the pools hand connections on as they were left. False where this
-- build can't.
function methods:keep_sessions()
  local core = self.manager._core
  local ok, method = pcall(function() return core.unsafe_keep_sessions end)
  if not ok or not method then return false end
  core:unsafe_keep_sessions(true)
  return true
end


function methods:db(t)
  if t.shared then return assert(self.manager:get_shared_db()) end
  return assert(self.manager:get_db(t.id))
end


--- Ends the connection of some backend of the manager.
function methods:kill_one(number)
  return self.admin:get_shared_db():value([[
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = $1 ORDER BY pid
    OFFSET $2::bigint % greatest(1, (SELECT count(*) FROM pg_stat_activity
                                     WHERE application_name = $1)) LIMIT 1]],
    M.APPLICATION, number)
end


--- Notes a leak; the run stops unless it is to keep going.
---@param kind string  what leaked
---@param c table  the operation that met it
function methods:leak(kind, c, what)
  if c:disturbed() then what = what .. ", while its schema was dropped" end
  self.leaks[#self.leaks + 1] = { kind = kind, operation = c.index,
                                  name = c.name, tenant = c.t.id, what = what }
  if not self.options.keep_going then self.stopped = true end
end


--- Notes what should not have happened, but is no leak.
function methods:problem(c, what)
  self.problems[#self.problems + 1] = {
    operation = c.index, name = c.name, tenant = c.t.id, what = what,
  }
  if #self.problems >= 20 then self.stopped = true end
end


function methods:count(name)
  self.counts[name] = (self.counts[name] or 0) + 1
end


function methods:close()
  self.manager:dispose()
  self.admin:dispose()
  self.server:close()
end


M.quote = quote

return M
