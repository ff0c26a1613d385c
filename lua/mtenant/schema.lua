--- A small declarative checker for tables of options.
--
-- The configuration and every function that takes an option table declare
-- their fields here and get a validated copy with the defaults filled in, or
-- raise at the caller with the path of the wrong field. Unknown keys are
-- refused with "did you mean". It knows no field by itself, only how
-- drizzle-multitenant spells some, and never changes what it was given.

local errors = require "mtenant.errors"

local floor, huge = math.floor, math.huge

local PREFIX = "[mtenant] "
local INTEGER_MAX = 2147483647
local KEY_MAX = 60 -- longer keys are nobody's typing mistake

local ARTICLES = {
  string = "a string",
  integer = "an integer",
  number = "a number",
  boolean = "a boolean",
  table = "a table",
  strings = "a list of strings",
  ["function"] = "a function",
}

-- Names of drizzle-multitenant that became another word (its spelling in
-- snake_case on the left).
local RENAMED = {
  pool_config = "pool",
  connection_timeout_millis = "connect_timeout_ms",
  connection_timeout_ms = "connect_timeout_ms",
  connection_string = "url",
  slow_query_threshold = "slow_query_threshold_ms",
  type = "strategy",
}

---@alias mtenant.schema.hook fun(v: any, siblings: table, root: table): string?

--- Fields are checked in the order of their list, unknown keys before all of
--- them. `siblings` is the copy of the table that holds the field, `root` the
--- copy of the whole, as far as they are done.
---@class mtenant.schema.field
---@field [1] string path, "retry.max_attempts"
---@field kind? string|string[] "string", "integer", "number", "boolean",
--- "function", "table", "strings" (a list), "any" (default), or alternatives
---@field default? any taken for nil: a value or, for all kinds but functions,
--- function(siblings, root, env)
---@field required? boolean|fun(siblings: table, root: table): boolean
--- false and "" count as missing
---@field min? number
---@field max? number integers fit in 32 bits in any case
---@field enum? string[] the only strings allowed
---@field check? mtenant.schema.hook returns a message, where "%s" stands for
--- the path, or nil; called for nil, too
---@field dropped? boolean accepted, and left out of the copy

local M = {}


--- Edit distance of two strings, in bytes.
---@param a string
---@param b string
---@return integer
function M.distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], best
    end
  end
  return row[#b]
end


--- The snake_case spelling of a camelCase name.
---@param name string
---@return string
function M.snake_case(name)
  local out = name:gsub("(%l)(%u)", "%1_%2"):gsub("%-", "_"):lower()
  return out
end


-- What somebody who wrote `key` may have meant, the likeliest first.
local function spellings(key)
  local snake = M.snake_case(key)
  local ms = snake:gsub("_millis$", "_ms")
  return { RENAMED[snake] or ms, ms, ms .. "_ms" }
end


--- The one with the smallest distance, if it is near at all.
---@param names string[]
---@param key string
---@return string|nil
function M.nearest(names, key)
  local found, best = nil, math.max(1, floor(#key / 3)) + 1
  for _, name in ipairs(names) do
    local d = M.distance(key, name)
    if d < best then found, best = name, d end
  end
  return found
end


local function suggestion(tree, root, key)
  if type(key) ~= "string" or #key > KEY_MAX then return nil end
  local candidates = spellings(key)
  for _, name in ipairs(candidates) do
    if tree.has[name] then return name end
  end
  for _, name in ipairs(candidates) do
    if root.paths[name] then return root.paths[name] end
  end
  return M.nearest(tree.names, candidates[2])
end


local function new_tree()
  return { names = {}, has = {}, tables = {} }
end


local function add_name(tree, name)
  if tree.has[name] then return end
  tree.has[name] = true
  tree.names[#tree.names + 1] = name
end


-- The tables on the way to a field; returns the last of them and what is left
-- of the path.
local function descend(root, path)
  local tree, done = root, ""
  local name, rest = path:match "^([^.]+)%.(.+)$"
  while name do
    done = done .. name
    add_name(tree, name)
    root.paths[name] = root.paths[name] or done
    tree.tables[name] = tree.tables[name] or new_tree()
    tree, path, done = tree.tables[name], rest, done .. "."
    name, rest = path:match "^([^.]+)%.(.+)$"
  end
  return tree, path
end


local function build(fields)
  local root = new_tree()
  root.paths = {}
  for _, field in ipairs(fields) do
    local tree, name = descend(root, field[1])
    add_name(tree, name)
    root.paths[name] = root.paths[name] or field[1]
  end
  return root
end


--- Whether a value can be called: a function, or a table with __call.
---@param v any
---@return boolean
function M.is_callable(v)
  if type(v) == "function" then return true end
  local mt = type(v) == "table" and getmetatable(v)
  return type(mt) == "table" and type(mt.__call) == "function"
end


local function is_strings(v)
  if type(v) ~= "table" then return false end
  local count = 0
  for _ in pairs(v) do count = count + 1 end
  for i = 1, count do
    if type(v[i]) ~= "string" then return false end
  end
  return true
end


local function has_kind(kind, v)
  if kind == "any" then return true end
  if kind == "integer" then return type(v) == "number" end
  if kind == "function" then return M.is_callable(v) end
  if kind == "strings" then return is_strings(v) end
  return type(v) == kind
end


local function sentence(words)
  if #words < 2 then return words[1] end
  return table.concat(words, ", ", 1, #words - 1) .. " or " .. words[#words]
end


local function expectation(field, kinds)
  local words = {}
  for _, kind in ipairs(kinds) do
    if kind ~= "string" or not field.enum then
      words[#words + 1] = ARTICLES[kind]
    end
  end
  for _, value in ipairs(field.enum or {}) do
    words[#words + 1] = '"' .. value .. '"'
  end
  return "%s must be " .. sentence(words)
end


local function check_number(field, v, kind)
  local min, max = field.min, field.max
  if min and v < min then
    if min == 0 then return "%s must be non-negative" end
    return "%s must be at least " .. min
  end
  if v ~= v or v == huge or v == -huge then
    return kind == "integer" and "%s must be an integer"
      or "%s must be a finite number"
  end
  if kind == "integer" then
    if v ~= floor(v) then return "%s must be an integer" end
    max = max or INTEGER_MAX
  end
  if max and v > max then return "%s must be at most " .. max end
  return nil
end


local function check_string(field, v)
  if v:find("\0", 1, true) then
    return "%s must not contain a NUL byte"
  end
  if not field.enum then return nil end
  for _, allowed in ipairs(field.enum) do
    if v == allowed then return nil end
  end
  return expectation(field, field.kinds)
end


local function check_value(field, v)
  for _, kind in ipairs(field.kinds) do
    if has_kind(kind, v) then
      if type(v) == "number" then return check_number(field, v, kind) end
      if type(v) == "string" then return check_string(field, v) end
      return nil
    end
  end
  return expectation(field, field.kinds)
end


-- What goes into the copy: own lists, plain functions, and integers that are
-- integers where Lua has them.
local function copied(field, v)
  local kind = type(v)
  if kind == "number" and field.kinds.integer then return floor(v) end
  if kind ~= "table" then return v end
  if field.kinds.strings then
    local list = {}
    for i, item in ipairs(v) do list[i] = item end
    return list
  end
  if field.kinds["function"] and M.is_callable(v) then
    return function(...) return v(...) end
  end
  return v
end


local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end


local function unknown(self, tree, prefix, key)
  local path
  if type(key) == "string" then
    path = prefix .. M.printable(key, KEY_MAX)
  else
    path = prefix:gsub("%.$", "") .. "[" .. tostring(key) .. "]"
  end
  local meant = suggestion(tree, self.tree, key)
  local text = 'unknown option "' .. path .. '"'
  if not meant then return text end
  if meant:find(".", 1, true) then meant = self.prefix .. meant end
  return text .. ', did you mean "' .. meant .. '"?'
end


-- Unknown keys and tables that are none; returns a message.
local function check_shape(self, tree, t, prefix)
  for _, key in ipairs(sorted_keys(t)) do
    if not tree.has[key] then return unknown(self, tree, prefix, key) end
    local below = tree.tables[key]
    if below then
      local path = prefix .. key
      if type(t[key]) ~= "table" then return path .. " must be a table" end
      local message = check_shape(self, below, t[key], path .. ".")
      if message then return message end
    end
  end
  return nil
end


-- The table that holds a field (made on the way in the copy) and its name.
local function holder(t, path, make)
  local name, rest = path:match "^([^.]+)%.(.+)$"
  while name do
    if make and t[name] == nil then t[name] = {} end
    t = t[name] or {}
    path = rest
    name, rest = path:match "^([^.]+)%.(.+)$"
  end
  return t, path
end


local function resolve(option, ...)
  if type(option) == "function" then return option(...) end
  return option
end


local function check_field(self, field, t, out, env)
  local into, name = holder(out, field[1], true)
  local v = holder(t, field[1])[name]
  local message
  if v == nil then v = resolve(field.default, into, out, env) end
  if (v == nil or v == false or v == "") and
     resolve(field.required, into, out) then
    message = "%s is required"
  elseif v ~= nil then
    message = check_value(field, v)
  end
  if not message and field.check then message = field.check(v, into, out) end
  if message then
    local path = self.prefix .. field[1]
    return (message:gsub("%%s", function() return path end))
  end
  if v ~= nil and not field.dropped then into[name] = copied(field, v) end
  return nil
end


-- Fills `out`; returns a message, or nil when all is well.
local function check_all(self, t, out, env)
  if type(t) ~= "table" then
    return self.name .. " must be a table, got " .. type(t)
  end
  local message = check_shape(self, self.tree, t, self.prefix)
  if message then return message end
  for _, field in ipairs(self.fields) do
    message = check_field(self, field, t, out, env)
    if message then return message end
  end
  return nil
end


---@class mtenant.schema
local methods = {}
local mt = { __index = methods, __name = "mtenant.schema" }


--- A validated deep copy with the defaults filled in. Raises an error object
--- of code `misuse`, whose message ends in "[mtenant] path says what".
---@param t any the table given by a user
---@param level? integer where the error is, as in `error`, seen from the
--- function that calls `check`: 1 that function, 2 (default) its caller
---@param env? any handed to functions that give defaults
---@return table
function methods:check(t, level, env)
  local out = {}
  local message = check_all(self, t, out, env)
  if message then
    errors.misuse((level or 2) + 1, "%s", PREFIX .. message)
  end
  return out
end


--- Cuts a string to `max` bytes (then "..." follows) and makes what cannot be
--- printed visible as decimal escapes.
---@param text string
---@param max integer bytes
---@return string
function M.printable(text, max)
  local cut = text
  if #text > max then cut = text:sub(1, max) end
  cut = cut:gsub("[^\32-\126]", function(c)
    return string.format("\\%03d", c:byte())
  end)
  return #text > max and cut .. "..." or cut
end


--- Makes a checker.
---@param spec table `{ name = "retry", prefix = "retry.", fields... }`: the
--- name is for values that are no table at all; prefix (default: the name and
--- a dot) leads every path
---@return mtenant.schema
function M.new(spec)
  local self = {
    name = spec.name,
    prefix = spec.prefix or spec.name .. ".",
    fields = {},
    tree = build(spec),
  }
  for i, field in ipairs(spec) do
    local own = {}
    for key, value in pairs(field) do own[key] = value end
    own.kinds = {}
    local kind = field.kind or "any"
    for _, one in ipairs(type(kind) == "table" and kind or { kind }) do
      own.kinds[#own.kinds + 1] = one
      own.kinds[one] = true
    end
    self.fields[i] = own
  end
  return setmetatable(self, mt)
end


return M
