--- Parameter markers: values that plain Lua types can't express.
-- A marker is a table { text } with a metatable that the core knows; the text
-- is what is sent. Used for parameters; never for results.

local core = require "mtenant.core"
local errors = require "mtenant.errors"


local floor, huge = math.floor, math.huge
local concat, format = table.concat, string.format
local tostring, type = tostring, type


local marker_mt = { __name = "mtenant.parameter" }
core.set_marker_metatable(marker_mt)


local M = {
  --- SQL NULL, as a parameter and inside arrays. Equal to cjson.null.
  null = core.null,
}


local json


-- cjson where it is there (OpenResty, lua-cjson), else dkjson
local function load_json()
  if json then return json end
  for _, name in ipairs({ "cjson.safe", "cjson", "dkjson" }) do
    local ok, lib = pcall(require, name)
    if ok and type(lib) == "table" then
      json = lib
      return lib
    end
  end
  error(errors.new("misuse",
    "JSON needs lua-cjson or dkjson, and neither is installed"), 3)
end


--- A JSON value as a parameter.
---@param value any  what the JSON library can encode
---@return table
function M.json(value)
  local text, err = load_json().encode(value)
  if not text then errors.misuse(2, "json: %s", tostring(err)) end
  return setmetatable({ text }, marker_mt)
end


--- Encodes JSON; raises where there is no library for it.
---@return string
function M.encode(value)
  return assert(load_json().encode(value))
end


--- Decodes JSON; used for `json = "decode"`.
function M.decode(text)
  local value, err = load_json().decode(text)
  if value == nil and err then error(err, 0) end
  return value
end


--- Loads the JSON library for decoding; raises when there is none.
function M.enable_decode()
  load_json()
  core.set_json_decoder(M.decode)
end


local function number_text(x)
  if x ~= x then return "NaN" end
  if x == huge then return "Infinity" end
  if x == -huge then return "-Infinity" end
  if x == floor(x) and x > -2 ^ 53 and x < 2 ^ 53 then
    return format("%d", x)
  end
  if math.type and math.type(x) == "integer" then return tostring(x) end
  -- the decimal point may be another one after os.setlocale
  return (format("%.17g", x):gsub("[^%d%-+e]+", "."))
end


local function element(value, depth, path)
  local kind = type(value)
  if value == nil or value == core.null then return "NULL" end
  if kind == "number" then return number_text(value) end
  if kind == "boolean" then return value and "t" or "f" end
  if kind == "table" then
    if getmetatable(value) == marker_mt then
      value, kind = value[1], "string"
    else
      return M.array_text(value, depth + 1, path)
    end
  end
  if kind == "string" then
    return '"' .. value:gsub('[\\"]', "\\%0") .. '"'
  end
  -- LuaJIT's 64-bit integers
  local digits = kind == "cdata" and tostring(value):match("^(-?%d+)U?LL$")
  if digits then return digits end
  errors.misuse(4, "array: element %s is a %s, which has no SQL form", path,
                kind)
end


-- PostgreSQL's array syntax (array_in); n is honoured for trailing nulls
function M.array_text(list, depth, path)
  if depth > 6 then errors.misuse(4, "array: nested deeper than 6") end
  local parts = {}
  for i = 1, list.n or #list do
    parts[i] = element(list[i], depth, path .. "[" .. i .. "]")
  end
  return "{" .. concat(parts, ",") .. "}"
end


--- A PostgreSQL array as a parameter; nested tables are dimensions, null and
-- holes up to `n` are NULL.
---@param list table
---@return table
function M.array(list)
  if type(list) ~= "table" then
    errors.misuse(2, "array: a table expected, got %s", type(list))
  end
  return setmetatable({ M.array_text(list, 1, "") }, marker_mt)
end


--- Bytes as a parameter of type bytea.
---@param bytes string
---@return table
function M.bytea(bytes)
  if type(bytes) ~= "string" then
    errors.misuse(2, "bytea: a string expected, got %s", type(bytes))
  end
  local hex = bytes:gsub(".", function(c) return format("%02x", c:byte()) end)
  return setmetatable({ "\\x" .. hex }, marker_mt)
end


return M
