--- A tenant's database: made and dropped, under strategy database.
-- Both run on the manager's own server, over its shared handle, outside of any
-- transaction; the login needs CREATEDB and must own what it drops.

local config = require "mtenant.config"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"


local M = {}


local create_options = schema.new({
  name = "create_database",
  { "template", kind = "string" },
  { "owner", kind = "string" },
  { "encoding", kind = "string" },
  { "locale", kind = "string" },
  { "connection_limit", kind = "integer", min = -1 },
})

local drop_options = schema.new({
  name = "drop_database",
  { "force", kind = "boolean", default = false },
})


-- the shared handle and the tenant's database; or nil and an error
local function target(self, id)
  local ok, err = config.valid_id(id, self._config.id_pattern)
  if not ok then return nil, err end
  local db, route
  db, err = self:get_shared_db()
  if not db then return nil, err end
  route, err = self:_ask_route(id, {})
  if not route then return nil, err end
  if not route.database then
    return nil, errors.new("policy", string.format(
      'tenant "%s" has no database of its own', id), { tenant_id = id })
  end
  if route.url then
    return nil, errors.new("policy", string.format(
      'the route of tenant "%s" has a url: its database is made there, by a '
      .. "manager of that server", id), { tenant_id = id })
  end
  local problem = core.database_problem(route.database)
  if problem then
    return nil, errors.new("invalid_tenant_id", string.format(
      'tenant "%s" can\'t have the database "%s": it %s', id,
      schema.printable(route.database, 80), problem), { tenant_id = id })
  end
  return db, route.database
end


local function create_sql(name, opts)
  local ident, literal = core.quote_ident, core.quote_literal
  local sql = { "CREATE DATABASE", assert(ident(name)) }
  local function add(text) sql[#sql + 1] = text end
  if opts.owner then add("OWNER " .. ident(opts.owner)) end
  if opts.template then add("TEMPLATE " .. ident(opts.template)) end
  if opts.encoding then add("ENCODING " .. literal(opts.encoding)) end
  if opts.locale then add("LOCALE " .. literal(opts.locale)) end
  if opts.connection_limit then
    add("CONNECTION LIMIT " .. string.format("%d", opts.connection_limit))
  end
  return table.concat(sql, " ")
end


local function create_database(self, id, opts)
  opts = create_options:check(opts or {}, 2)
  local db, name = target(self, id)
  if not db then return nil, name end
  local ok, err = db:query(create_sql(name, opts))
  if not ok then return nil, err end
  return name
end


local function drop_database(self, id, opts)
  opts = drop_options:check(opts or {}, 2)
  local db, name = target(self, id)
  if not db then return nil, name end
  self._core:retire(id)
  self:evict_pool(id)
  local ok, err = db:query("DROP DATABASE " .. core.quote_ident(name)
                           .. (opts.force and " WITH (FORCE)" or ""))
  if not ok then return nil, err end
  return true
end


--- Adds the methods to a manager's.
---@param methods mtenant.TenantManager
function M.install(methods)

  --- Makes the tenant's database; waits. Not in a transaction.
  ---@param id string
  ---@param opts? table  template, owner, encoding, locale: strings;
  --- connection_limit: integer, -1 for none
  ---@return string|nil name  of the database
  ---@return table|nil err  sqlstate 42P04: there is one
  function methods:create_database(id, opts)
    return create_database(self, id, opts)
  end


  --- Drops the tenant's database and everything in it; waits. The tenant's
  --- entry is evicted and its idle connections are closed first; other
  --- sessions in it make it fail (55006), unless force ends them.
  ---@param id string
  ---@param opts? table  force: boolean
  ---@return boolean|nil ok
  ---@return table|nil err  sqlstate 3D000: there is none
  function methods:drop_database(id, opts)
    return drop_database(self, id, opts)
  end
end


return M
