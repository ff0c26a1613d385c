--- Tracking tables: which migrations a schema has had, in one of the three
-- shapes that drizzle-multitenant writes, so that either program can continue
-- what the other has done. Pure: column lists in, SQL text out.

local core = require "mtenant.core"
local errors = require "mtenant.errors"


local format = string.format
local ident, literal = core.quote_ident, core.quote_literal


local M = {}


--- The formats by name; how a new table of each looks.
M.NEW = {
  name = { format = "name", id = "name", time = "applied_at", ms = false },
  hash = { format = "hash", id = "hash", time = "created_at", ms = false },
  ["drizzle-kit"] = { format = "drizzle-kit", id = "hash",
                      time = "created_at", ms = true },
}

local ID_TYPES = { name = "name VARCHAR(255) NOT NULL UNIQUE",
                   hash = "hash TEXT NOT NULL" }


-- what is of type timestamp or timestamptz takes now()
local TIME_TYPES = { timestamptz = false, timestamp = false, int8 = true }


--- The shape of a tracking table that is there.
---@param columns string  "id:int4,name:varchar,applied_at:timestamptz"
---@return table|nil shape  format, id and time (columns), ms: time is bigint
function M.detect(columns)
  local types = {}
  for name, kind in columns:gmatch "([^,:]+):([^,:]+)" do types[name] = kind end
  local id = types.name and "name" or types.hash and "hash"
  if not id then return nil end
  local first, second = "created_at", "applied_at"
  if id == "name" then first, second = second, first end
  local time = types[first] and first or types[second] and second
  local ms = TIME_TYPES[types[time or ""] or ""]
  if time and ms == nil then return nil end
  local name = id == "name" and "name" or ms and "drizzle-kit" or "hash"
  return { format = name, id = id, time = time, ms = ms or false }
end


--- What a table of that shape knows a migration by.
function M.identifier(shape, migration)
  return shape.id == "name" and migration.name or migration.checksum
end


--- Is it among the table's identifiers? By its name, too, where they are
-- hashes: drizzle-multitenant takes both.
---@param applied table  set of identifiers
function M.has(shape, applied, migration)
  return applied[M.identifier(shape, migration)] or applied[migration.name]
    or false
end


function M.qualified(schema, name)
  return ident(schema) .. "." .. ident(name)
end


--- CREATE TABLE of an empty one; the text of drizzle-multitenant's.
---@param where string  the table's qualified name
function M.create_sql(where, shape)
  local time = shape.ms and "created_at BIGINT NOT NULL"
    or shape.time .. " TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP"
  return format("CREATE TABLE IF NOT EXISTS %s (id SERIAL PRIMARY KEY, %s, %s)",
                where, ID_TYPES[shape.id], time)
end


-- of the server, so that all runners have one clock
local NOW_MS = "(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) "
  .. "* 1000)::pg_catalog.int8"


--- INSERT of identifiers, in their order.
function M.record_sql(where, shape, identifiers)
  local time, columns = "", shape.id
  if shape.time then
    time = ", " .. (shape.ms and NOW_MS or "pg_catalog.clock_timestamp()")
    columns = columns .. ", " .. shape.time
  end
  local rows = {}
  for i, value in ipairs(identifiers) do
    rows[i] = format("(%s%s)", literal(value), time)
  end
  return format("INSERT INTO %s (%s) VALUES %s", where, columns,
                table.concat(rows, ", "))
end


--- DELETE of a migration's record, whichever identifier it has.
function M.forget_sql(where, shape, identifiers)
  local list = {}
  for i, value in ipairs(identifiers) do list[i] = literal(value) end
  return format("DELETE FROM %s WHERE %s IN (%s)", where, shape.id,
                table.concat(list, ", "))
end


--- The wanted format, or an error: a table of another shape is there.
---@param there table|nil  the shape that is there
---@param wanted string  "auto" or a format
function M.choose(there, wanted, default)
  if not there then return M.NEW[wanted == "auto" and default or wanted] end
  if wanted == "auto" or wanted == there.format then return there end
  return nil, errors.new("policy", format(
    "the tracking table has the format \"%s\", not \"%s\"; convert_format "
    .. "changes it", there.format, wanted))
end


return M
