--- The migrations of a folder: their files read, checked and taken apart
-- before any statement of them runs. Called by the migrator at the start of
-- each operation; never talks to a server.

local core = require "mtenant.core"
local crypto = require "mtenant.crypto"
local errors = require "mtenant.errors"
local lfs = require "lfs"
local schema = require "mtenant.schema"
local sqlfile = require "mtenant.sqlfile"


local format = string.format


local NAME_MAX = 255 -- bytes: the tracking table's VARCHAR(255)
local UNITS = { ms = 1, s = 1000, m = 60000, min = 60000, h = 3600000 }

local DIRECTIVES = { "no-transaction", "lock-timeout", "statement-timeout",
                     "phase", "down" }


local M = {}


---@class mtenant.Migration
---@field name string  the file's without its ending
---@field number string  its digits
---@field kind "sql"|"lua"
---@field path string
---@field checksum string  SHA-256 of the file, hexadecimal
---@field transaction boolean
---@field phase? "expand"|"contract"
---@field lock_timeout_ms? number
---@field statement_timeout_ms? number
---@field up table|function  { text =, statements =, line = } or a function
---@field down? table|function


local function fail(name, line, fmt, ...)
  local where = line and format("%s, line %d: ", name, line) or name .. ": "
  return errors.new("policy", where .. format(fmt, ...),
                    { migration = name, line = line })
end


-- ---- the folder ------------------------------------------------------------

local function list(folder)
  local ok, next_entry, dir = pcall(lfs.dir, folder)
  if not ok then
    local why = lfs.attributes(folder, "mode") and tostring(next_entry)
      or "there is no such folder"
    return nil, errors.new("policy", format("migrations folder %s: %s", folder,
      (why:gsub("^cannot open [^:]*: ", ""))))
  end
  local names = {}
  for entry in next_entry, dir do
    local name, kind = entry:match "^(.+)%.(%a+)$"
    if (kind == "sql" or kind == "lua") and name:sub(1, 1) ~= "." then
      names[#names + 1] = { name = name, kind = kind, file = entry }
    end
  end
  return names
end


-- by number, of any length, then by name
local function before(a, b)
  if #a.number ~= #b.number then return #a.number < #b.number end
  if a.number ~= b.number then return a.number < b.number end
  return a.name < b.name
end


local function read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local text
  text, why = file:read("*a")
  file:close()
  return text, why
end


-- ---- directives and variables -------------------------------------------------

local function duration(text)
  local n, unit = text:match "^(%d+%.?%d*)%s*(%a*)$"
  local factor = UNITS[unit == "" and "ms" or unit or ""]
  return n and factor and tonumber(n) * factor
end


local SET = {}


SET["no-transaction"] = function(m, value)
  if value ~= "" then return "takes no value" end
  m.transaction = false
end


local function time(field)
  return function(m, value)
    m[field] = duration(value)
    if not m[field] then return "needs a time such as 500ms, 2s or 5min" end
  end
end


SET["lock-timeout"] = time "lock_timeout_ms"
SET["statement-timeout"] = time "statement_timeout_ms"


SET.phase = function(m, value)
  if value ~= "expand" and value ~= "contract" then
    return "is expand or contract"
  end
  m.phase = value
end


-- Reads the lines `-- mtenant:...` into m; returns where the part that goes up
-- ends and the one that goes down begins, or nil and an error.
local function directives(m, text)
  local line, at, up_last, down_first, down_line = 0, 1, #text, nil, nil
  while at <= #text do
    line = line + 1
    local stop = text:find("\n", at, true) or #text
    local word, value = text:sub(at, stop):match
      "^%s*%-%-%s*mtenant:%s*([%w-]+)%s*(.-)%s*$"
    if word == "down" then
      if down_first then return nil, fail(m.name, line, "a second down part") end
      up_last, down_first, down_line = at - 1, stop + 1, line + 1
    elseif word then
      local set = SET[word]
      local problem = set and set(m, value)
      if not set then
        local meant = schema.nearest(DIRECTIVES, word)
        return nil, fail(m.name, line, "unknown directive mtenant:%s%s", word,
                         meant and ", did you mean " .. meant .. "?" or "")
      elseif problem then
        return nil, fail(m.name, line, "mtenant:%s %s", word, problem)
      end
    end
    at = stop + 1
  end
  return up_last, nil, down_first, down_line
end


local function line_of(text, at)
  local _, n = text:sub(1, at - 1):gsub("\n", "")
  return n + 1
end


-- ${NAME} and ${NAME:-default}; values is a table, or true for the environment
local function substitute(m, text, values)
  if not values then return text end
  local missing, at
  local out = text:gsub("()%${([%a_][%w_]*)(:?%-?)([^}]*)}",
    function(pos, name, dash, default)
      local value
      if values == true then value = os.getenv(name)
      else value = values[name] end
      if value ~= nil then return tostring(value) end
      if dash == ":-" then return default end
      if dash ~= "" or default ~= "" then return nil end
      missing, at = missing or name, at or pos
    end)
  if missing then
    return nil, fail(m.name, line_of(text, at), "the variable %s is not set",
                     missing)
  end
  return out
end


-- ---- statements ------------------------------------------------------------

local IN_BLOCK = "it would end the transaction that holds the file and its "
  .. "record together; the file is one transaction as it is"


-- What mtenant can't keep its word about.
local function check_statement(m, part, s)
  if s.class == "control" then
    return fail(m.name, s.line + part.line - 1, "%s can't be in a migration: %s",
                s.keyword or "transaction control", IN_BLOCK)
  end
  if s.class == "copy" and not s.copy_first then
    return fail(m.name, s.line + part.line - 1,
                "COPY TO STDOUT has nobody to write to")
  end
end


-- The statements of a part of a file: { text, line, statements, touches }.
local function part_of(m, text, line)
  local part = { text = text, line = line }
  local statements, problem = sqlfile.split(text)
  if not statements then
    local err = fail(m.name, problem.line + line - 1, "%s", problem.message)
    err.column = problem.column
    return nil, err
  end
  part.statements = statements
  for _, s in ipairs(statements) do
    local err = check_statement(m, part, s)
    if err then return nil, err end
    if s.class ~= "plain" and s.class ~= "ddl" then part.touches = true end
  end
  return part
end


local function load_sql(m, text, values)
  local up_last, err, down_first, down_line = directives(m, text)
  if err then return nil, err end
  local up, down
  up, err = substitute(m, text:sub(1, up_last), values)
  if not up then return nil, err end
  m.up, err = part_of(m, up, 1)
  if not m.up then return nil, err end
  if down_first then
    down, err = substitute(m, text:sub(down_first), values)
    if not down then return nil, err end
    m.down, err = part_of(m, down, down_line)
    if not m.down then return nil, err end
  end
  return m
end


local lua_fields = schema.new({
  name = "migration",
  prefix = "",
  { "up", kind = "function", required = true },
  { "down", kind = "function" },
  { "transaction", kind = "boolean", default = true },
  { "phase", kind = "string", enum = { "expand", "contract" } },
  { "lock_timeout_ms", kind = "number", min = 0 },
  { "statement_timeout_ms", kind = "number", min = 0 },
})


local function load_lua(m, text)
  local chunk, why
  if text:byte(1) == 27 then why = "it is binary" else
    chunk, why = load(text, "@" .. m.path)
  end
  if not chunk then return nil, fail(m.name, nil, "%s", why) end
  local ok, result = pcall(chunk)
  if not ok then
    return nil, fail(m.name, nil, "%s", errors.text_of(result))
  end
  ok, result = pcall(lua_fields.check, lua_fields, result)
  if not ok then
    return nil, fail(m.name, nil, "%s",
      (errors.text_of(result):gsub("^.*%[mtenant%] ", "")))
  end
  for key, value in pairs(result) do m[key] = value end
  return m
end


local function valid_utf8(text)
  return pcall(core.quote_ident, text)
end


local function load_one(entry, folder, opts)
  local m = {
    name = entry.name, kind = entry.kind, transaction = true,
    number = entry.number, path = folder .. "/" .. entry.file,
  }
  if #m.name > NAME_MAX then
    return nil, fail(m.name:sub(1, 60) .. "...", nil,
                     "the name is longer than %d bytes", NAME_MAX)
  end
  if not valid_utf8(m.name) then
    return nil, fail(schema.printable(m.name, 80), nil,
                     "the name is not valid UTF-8")
  end
  local text, why = read(m.path)
  if not text then
    return nil, fail(m.name, nil, "%s",
      (tostring(why):gsub("^" .. m.path:gsub("%p", "%%%0") .. ": ", "")))
  end
  if not text:find("%S") then return nil, fail(m.name, nil, "the file is empty") end
  m.checksum = crypto.sha256(text)
  if m.kind == "lua" then return load_lua(m, text) end
  return load_sql(m, text, opts.substitute)
end


-- ---- all of them ------------------------------------------------------------

local function check_numbers(entries, opts)
  for i, entry in ipairs(entries) do
    local next_one = entries[i + 1]
    if entry.number == "" and not opts.allow_unnumbered then
      return fail(entry.file, nil, "a migration's name starts with a number "
        .. "and an underscore, as in 0001_%s", entry.file)
    end
    if next_one and entry.number ~= "" and entry.number == next_one.number
      and (not opts.allow_duplicates or entry.name == next_one.name) then
      return fail(entry.file, nil, "%s has the same number", next_one.file)
    end
  end
end


--- Reads all migrations of a folder.
---@param folder string
---@param opts table  substitute, allow_duplicates, allow_unnumbered
---@return mtenant.Migration[]|nil list  in the order in which they apply
---@return mtenant.error|nil err  the first problem, with the file and line
function M.load(folder, opts)
  local entries, err = list(folder)
  if not entries then return nil, err end
  for _, entry in ipairs(entries) do
    entry.number = (entry.name:match "^(%d+)_" or ""):gsub("^0+(%d)", "%1")
  end
  table.sort(entries, before)
  err = check_numbers(entries, opts)
  if err then return nil, err end
  local out = { by_name = {} }
  for i, entry in ipairs(entries) do
    out[i], err = load_one(entry, folder, opts)
    if not out[i] then return nil, err end
    out[i].index = i
    out.by_name[entry.name] = out[i]
  end
  return out
end


return M
