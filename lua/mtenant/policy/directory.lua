--- A table in PostgreSQL says where each tenant lives; who changes it tells all
--- programs at once, by NOTIFY.
--
--     return directory.new { table = "mtenant_tenants" }
--
-- directory.sql(opts) is the table's text, with the triggers that tell. Columns
-- that are NULL are left out of the route.

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"
local script = require "mtenant.policy.directory_sql"


local M = {}

local COLUMNS = { server = "server", database = "database", schema = "schema",
                  role = "role" }
local FIELDS = {
  table = { "string", default = "mtenant_tenants" },
  id = { "string", default = "id" },
  columns = { "table", default = COLUMNS }, -- field of the route to column
  active = { "string" },  -- a boolean column: false is "not found"
  label = { "string" },   -- a column that becomes a label of the same name
  channel = { "string" }, -- the table's name unless given
  listen = { "boolean", default = true },
}


local function read(name, opts)
  opts = common.check(name, opts or {}, FIELDS)
  opts.channel = opts.channel or opts.table
  opts.fields = {}
  for field in pairs(opts.columns) do opts.fields[#opts.fields + 1] = field end
  table.sort(opts.fields)
  return opts
end


local quote, quote_path = common.quote, common.quote_path


local function statement(opts)
  local list = {}
  for i, field in ipairs(opts.fields) do
    list[i] = quote(opts.columns[field]) .. " AS " .. quote(field)
  end
  if opts.label then
    list[#list + 1] = quote(opts.label) .. " AS mtenant_label"
  end
  if opts.active then
    list[#list + 1] = quote(opts.active) .. " AS mtenant_active"
  end
  return ("SELECT %s FROM %s WHERE %s = $1"):format(table.concat(list, ", "),
    quote_path(opts.table), quote(opts.id))
end


-- Only what says that something may have been missed has no id.
local function subscriber(channel)
  return function(ctx, invalidate)
    return ctx.shared:listen(channel, function(id)
      if id == "" then id = nil end
      invalidate(id)
    end)
  end
end


local function route_of(opts, row)
  local route = {}
  for _, field in ipairs(opts.fields) do route[field] = row[field] end
  if opts.label and row.mtenant_label ~= nil then
    route.labels = { [opts.label] = tostring(row.mtenant_label) }
  end
  return route
end


--- Looks a tenant up in a table of the shared database.
---@param opts? table  table, id, columns, active, label, channel, listen
---@return table policy
function M.new(opts)
  opts = read("directory", opts)
  local sql = statement(opts)
  local source = opts.listen and { subscribe = subscriber(opts.channel) } or {}
  return joined(opts, { source }, function(id, ctx)
    local row, err = ctx.shared:one(sql, id)
    if err then return nil, err end
    if not row then return nil, "directory: no tenant of this id" end
    if opts.active and not row.mtenant_active then
      return nil, "directory: the tenant is not active"
    end
    common.note(ctx, "directory: a row of %s", opts.table)
    return route_of(opts, row)
  end)
end


--- The table and the triggers that tell who listens, as a script for db:exec:
--- it may be run again. In the schema that is first in the path.
---@param opts? table  as for new
---@return string
function M.sql(opts)
  local text = script(read("directory", opts)) -- no tail call: who is to blame
  return text
end


return M
