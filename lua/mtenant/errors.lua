--- Error objects: the codes, how an error is made, recognised and printed.
--
-- Every module uses it; the C binding builds its own tables with the same
-- fields and gives them `errors.mt`. Expected failures are returned as
-- `nil, err`, misuse is raised. This module never logs, and never decides from
-- the text of a message.

local format = string.format

local NAMES = {
  "refused", "unreachable", "dns", "auth", "tls", "starting_up",
  "too_many_connections", "connection_lost", "timeout", "cancelled",
  "pool_exhausted", "breaker_open", "tenant_not_found", "invalid_tenant_id",
  "policy", "query", "protocol", "out_of_memory", "disposed", "misuse",
}

local RETRYABLE = {
  refused = true,
  unreachable = true,
  dns = true,
  starting_up = true,
  too_many_connections = true,
  connection_lost = true,
}

local FIELDS = {
  sqlstate = true,
  severity = true,
  detail = true,
  hint = true,
  position = true,
  statement = true,
  tenant_id = true,
  server = true,
  retryable = true,
  ambiguous = true,
  attempts = true,
  migration = true,
  line = true,
  column = true,
  statement_number = true,
  cause = true,
}

---@class mtenant.error
---@field code string one of `errors.CODE`
---@field message string one line, no secrets
---@field sqlstate? string five characters, when the server said one
---@field severity? string
---@field detail? string
---@field hint? string
---@field position? integer character in the statement, from 1
---@field statement? string shortened
---@field tenant_id? string
---@field server? string
---@field retryable boolean the same thing may work when tried again
---@field ambiguous boolean a statement was sent, its outcome is unknown
---@field attempts? integer tries made, the first included
---@field statement_number? integer of several sent at once, the one that failed
---@field migration? string name of the migration
---@field line? integer in the migration's file
---@field column? integer in characters
---@field cause? any the error below this one

local CODE = {}
for _, name in ipairs(NAMES) do CODE[name] = name end

local M = {}


--- The metatable of every error object.
M.mt = { __name = "mtenant.error" }


-- How the sources of our own files begin.
local OURS = debug.getinfo(1, "S").source:match("^@.*/")


local function is_ours(info)
  return OURS ~= nil and info.source:sub(1, #OURS) == OURS
end


-- Position of a level as seen by the caller of the function that asks, in the
-- form that `error` uses; "" where there is none (C, the end of the stack).
-- Helpers of ours in between are skipped: they never made the mistake.
local function where(level)
  level = level + 2
  local info = debug.getinfo(level, "Sl")
  while info and is_ours(info) do
    level = level + 1
    info = debug.getinfo(level, "Sl")
  end
  if not info or info.currentline < 1 then return "" end
  return format("%s:%d: ", info.short_src, info.currentline)
end


local function one_line(text)
  return (text:gsub("%s*[\r\n]+%s*", " "))
end


-- Raises for the caller of the caller.
local function known(code)
  if type(code) == "string" and rawget(CODE, code) then return code end
  M.misuse(3, "unknown error code %s, valid codes: %s", tostring(code),
           table.concat(NAMES, ", "))
end


--- Makes an error object.
---@param code string one of `errors.CODE`; raises on any other
---@param message string made one line
---@param fields? table any other fields of `mtenant.error`; `retryable`
--- defaults to what is usual for the code, `ambiguous` to false
---@return mtenant.error
function M.new(code, message, fields)
  local err = {
    retryable = RETRYABLE[known(code)] or false,
    ambiguous = false,
  }
  for name, value in pairs(fields or {}) do
    if not FIELDS[name] then
      M.misuse(2, "unknown error field %s", tostring(name))
    end
    err[name] = value
  end
  err.code = code
  err.message = one_line(tostring(message))
  return setmetatable(err, M.mt)
end


--- Whether a value is an error object (of that code).
---@param x any
---@param code? string one of `errors.CODE`; raises on any other
---@return boolean
function M.is(x, code)
  local wanted = code ~= nil and known(code)
  if type(x) ~= "table" or getmetatable(x) ~= M.mt then return false end
  return not wanted or x.code == wanted
end


--- The message of any value that was returned or raised as an error.
---@param x any a table's `message`, else its tostring; never raises
---@return string
function M.text_of(x)
  if type(x) == "table" and type(rawget(x, "message")) == "string" then
    return x.message
  end
  local ok, text = pcall(tostring, x)
  return ok and type(text) == "string" and text or type(x)
end


--- A copy of an error object, to be changed: the one that was returned is not.
---@param err mtenant.error
---@return mtenant.error
function M.copy(err)
  local out = {}
  for key, value in pairs(err) do out[key] = value end
  return setmetatable(out, M.mt)
end


--- What is wrong, of a configuration or options: without the place and our name
--- in front of it, for who says himself whose it is.
---@param x any
---@return string
function M._bare(x)
  local text = M.text_of(x)
  return text:match("%[mtenant%] (.*)$") or text
end


--- Makes sure that a value is an error object.
---@param x any an error object is returned untouched; anything else becomes
--- the `cause` of a new one
---@param code string the code of the new one
---@return mtenant.error
function M.wrap(x, code)
  if M.is(x) then return x end
  return M.new(code, M.text_of(x), { cause = x })
end


--- Raises an error object of code `misuse`, its message led by "file:line: ".
---@param level integer whose position, as in `error`: 1 is the function that
--- calls `misuse`, 2 its caller
---@param fmt string for string.format; taken as it is when nothing follows
---@param ... any
function M.misuse(level, fmt, ...)
  local text = select("#", ...) > 0 and format(fmt, ...) or fmt
  error(M.new(CODE.misuse, where(level) .. text), 0)
end


-- A message that names us already (configuration, misuse) stands by itself.
local function headline(err)
  local message = tostring(err.message)
  if message:find("[mtenant] ", 1, true) then return message end
  return format("[mtenant] %s: %s", tostring(err.code), message)
end


--- One line for people.
---@param err mtenant.error
---@return string
function M.mt.__tostring(err)
  local head = headline(err)
  local out = { head }
  -- unless the message names it already; an id may be part of any word
  local function add(fmt, value, quoted)
    local text = value and tostring(value)
    local shown = quoted and text and '"' .. text .. '"' or text
    if text and not head:find(shown, 1, true) then
      out[#out + 1] = format(fmt, text)
    end
  end
  add(" (SQLSTATE %s)", err.sqlstate)
  add(", tenant %s", err.tenant_id, true)
  add(", server %s", err.server)
  if (err.attempts or 1) > 1 then
    out[#out + 1] = format(", after %d attempts", err.attempts)
  end
  if err.ambiguous then out[#out + 1] = ", its outcome is unknown" end
  add("; hint: %s", err.hint)
  return one_line(table.concat(out))
end


--- The error codes, name to name; asking for any other one raises.
---@type table<string, string>
M.CODE = setmetatable(CODE, {
  __index = function(_, key) known(key) end,
  __newindex = function(_, key)
    M.misuse(2, "errors.CODE cannot be changed (%s)", tostring(key))
  end,
})


return M
