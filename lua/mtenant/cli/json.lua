--- What --json prints: one object per line. The scalars are the JSON library's;
-- the order of the keys and what an empty table is are ours.

local errors = require "mtenant.errors"
local markers = require "mtenant.markers"

-- These come first, in this order; the others follow by name.
local LEADING = { "event", "tenant_id", "schema_name", "success", "code",
                  "message" }

local ERROR_FIELDS = { "code", "message", "sqlstate", "migration", "line",
                       "column", "statement_number", "tenant_id", "detail",
                       "hint" }

local M = {}


local function keys_of(object)
  local keys, placed = {}, {}
  for _, key in ipairs(LEADING) do
    if object[key] ~= nil then
      keys[#keys + 1] = key
      placed[key] = true
    end
  end
  local rest = {}
  for key in pairs(object) do
    if not placed[key] then
      rest[#rest + 1] = key
    end
  end
  table.sort(rest)
  for _, key in ipairs(rest) do
    keys[#keys + 1] = key
  end
  return keys
end


--- An error as a table of what is known about it.
---@param err any
---@return table
function M.error(err)
  if not errors.is(err) then
    return { message = errors.text_of(err) }
  end
  local out = {}
  for _, name in ipairs(ERROR_FIELDS) do
    out[name] = err[name]
  end
  return out
end


--- Encodes a value. A table with string keys is an object, any other one, the
-- empty one too, an array.
---@param value any
---@return string
function M.encode(value)
  if errors.is(value) then
    value = M.error(value)
  end
  if type(value) ~= "table" then
    return markers.encode(value)
  end
  local parts = {}
  if type(next(value)) == "string" then
    for i, key in ipairs(keys_of(value)) do
      parts[i] = markers.encode(key) .. ":" .. M.encode(value[key])
    end
    return "{" .. table.concat(parts, ",") .. "}"
  end
  for i, item in ipairs(value) do
    parts[i] = M.encode(item)
  end
  return "[" .. table.concat(parts, ",") .. "]"
end


return M
