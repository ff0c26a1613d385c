--- Where tenants live: their routes, grouped by database, and a handle on each
-- of these. The migrator has managers of its own (one per url), so that a run
-- neither uses nor disturbs the pools that serve tenants.

local config = require "mtenant.config"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local manager = require "mtenant.manager"
local routing = require "mtenant.routing"


local format = string.format


local M = {}

local methods = {}
local mt = { __index = methods }


---@class mtenant.migrator.Target
---@field name string
---@field db mtenant.Db
---@field schemas table  by schema: the id of the tenant that has it


-- The part of the configuration that says how to connect.
local function connection_of(cfg, url, connections)
  local c = {}
  for key, value in pairs(cfg.connection) do c[key] = value end
  c.pool = {}
  for key, value in pairs(cfg.connection.pool) do c.pool[key] = value end
  c.url, c.pooler, c.statement_timeout_ms = url, nil, nil
  c.pool.max, c.pool.min, c.pool.acquire_timeout_ms = connections, 0, 60000
  if type(c.max_connections) ~= "number" then c.max_connections = connections end
  c.application_name = "mtenant migrator"
  return c
end


local function database_of(id) return id:match "^database:(.*)$" end


local function own_manager(self, url)
  local m = self.managers[url]
  if m then return m end
  local created, err = manager.create({
    connection = connection_of(self.config, url, self.connections),
    retry_budget = self.config.retry_budget, breaker = self.config.breaker,
    isolation = { strategy = "database", verify_schema = false,
                  database_template = database_of },
    id_pattern = "^.+$",
  })
  if not created then return nil, err end
  self.managers[url] = created
  return created
end


--- The handle on a database.
---@param url? string  nil: the configuration's
---@param database? string  nil: the url's
function methods:get(url, database)
  if self.config.connection.pooler == "transaction" and not self.url then
    return nil, errors.new("policy", "migrations hold locks on sessions, which "
      .. 'connection.pooler = "transaction" does not have: give `url`, a direct '
      .. "connection, in the migrator's options")
  end
  url = self.url or url or self.config.connection.url
  local key = format("%s\0%s", url, database or "")
  local target = self.list[key]
  if target then return target end
  local own, err = own_manager(self, url)
  if not own then return nil, err end
  local db
  if database then db, err = own:get_db("database:" .. database)
  else db, err = own:get_shared_db() end
  if not db then return nil, err end
  target = { name = database or "default", db = db, schemas = {} }
  self.list[key] = target
  return target
end


--- Where a tenant lives.
---@return mtenant.migrator.Target|nil target
---@return string|mtenant.error schema
function methods:find(id)
  local cfg = self.config
  local ok, err = config.valid_id(id, cfg.id_pattern)
  if not ok then return nil, err end
  local route = self.route_of(id)
  if not route then route, err = routing.resolve(cfg, id, self.ctx) end
  if not route then return nil, err end
  if route.strategy == "row" then
    return nil, errors.new("policy", format('tenant "%s" has rows in a schema '
      .. "that is shared: migrate_shared is for that", id), { tenant_id = id })
  end
  local problem = route.strategy == "schema"
    and core.schema_problem(route.schema)
  if problem then
    return nil, errors.new("invalid_tenant_id", format(
      'the schema of tenant "%s" can\'t be "%s": it %s', id, route.schema,
      problem), { tenant_id = id })
  end
  local target
  target, err = self:get(route.url, route.database)
  if not target then return nil, err end
  local other = target.schemas[route.schema]
  if other and other ~= id then
    return nil, errors.new("invalid_tenant_id", format(
      'tenants "%s" and "%s" have the same schema "%s"', other, id,
      route.schema), { tenant_id = id })
  end
  if not other then
    self:forget(id)
    target.schemas[route.schema] = id
    self.homes[id] = { target, route.schema }
  end
  return target, route.schema
end


--- The tenant has left its schema, or may have; another one may come there.
function methods:forget(id)
  local home = self.homes[id]
  self.homes[id] = nil
  if home then home[1].schemas[home[2]] = nil end
end


--- The database of what all tenants share.
function methods:shared()
  return self:get(nil, nil)
end


--- Closes all connections.
function methods:dispose(timeout_ms)
  for _, m in pairs(self.managers) do m:dispose(timeout_ms) end
  self.managers, self.list, self.homes = {}, {}, {}
end


--- Makes the targets of a configuration; no I/O.
---@param cfg table  a defined configuration
---@param opts table  url: instead of all others; connections: at most so many;
--- route_of(id): a route that is known, or nil
---@param ctx table  what resolvers get
function M.new(cfg, opts, ctx)
  return setmetatable({ config = cfg, url = opts.url, ctx = ctx,
                        connections = opts.connections,
                        route_of = opts.route_of, managers = {},
                        list = {}, homes = {} }, mt)
end


return M
