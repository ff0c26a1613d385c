--- How a log record becomes a line: as text for people, as JSON for programs.
-- Whatever is in a message or a value, a line stays one line, says nothing
-- that is no part of it, and has no password of a URL. Pure.

local utf8 = require "mtenant.utf8"

local byte, format, sub = string.byte, string.format, string.sub
local cut = utf8.cut
local floor, huge = math.floor, math.huge

-- A line of at most so many bytes goes into a pipe in one piece.
local LINE_MAX = 4095
local MESSAGE_MAX, VALUE_MAX, FIELDS_MAX = 2000, 300, 24

-- Where each byte of a record goes; `fields` come behind them by name.
local LEADING = { "event", "tenant_id", "request_id", "trace_id", "server" }

local M = {}


-- ---- what may stand in a line ------------------------------------------------

-- Control characters, and what ends a line or turns it round on a terminal.
local function hidden(code)
  return code < 0xa0 or code >= 0x200b and code <= 0x200f
    or code >= 0x2028 and code <= 0x202e
    or code >= 0x2066 and code <= 0x2069 or code == 0xfeff
end


-- Every byte that is no plain ASCII, by escape(code or nil, byte).
local function cleaned(text, escape)
  if not text:find("[^\32-\126]") then return text end
  local out, i = {}, 1
  while i <= #text do
    local b = byte(text, i)
    local size, code
    if b >= 32 and b < 127 then
      local last = text:find("[^\32-\126]", i) or #text + 1
      out[#out + 1] = sub(text, i, last - 1)
      size = last - i
    else
      size, code = utf8.character(text, i)
      local shown = code and not hidden(code)
      out[#out + 1] = shown and sub(text, i, i + size - 1) or escape(code, b)
      size = size or 1
    end
    i = i + size
  end
  return table.concat(out)
end


local NAMED = { [9] = "\\t", [10] = "\\n", [13] = "\\r" }


local function text_escape(code, b)
  if not code then return format("\\x%02x", b) end
  return NAMED[code] or code < 128 and format("\\x%02x", code)
    or format("\\u{%x}", code)
end


local function json_escape(code)
  if not code then return "\\ufffd" end
  return NAMED[code] or format("\\u%04x", code)
end


--- Text without anything that a terminal or a reader of lines takes for more
--- than text: control characters and bytes that are no UTF-8 as escapes.
---@param text string
---@return string
function M.clean(text)
  return cleaned(text, text_escape)
end


--- Text without passwords: those of URLs and of connection strings. Rather too
--- much is left out than too little.
---@param text string
---@return string
function M.redact(text)
  if text:find("://", 1, true) then
    text = text:gsub("(://[^:/%s@]*):%S*@", "%1:***@")
  end
  if text:find("[Pp][Aa][Ss][Ss]") then
    local word = "[Pp][Aa][Ss][Ss][Ww]?[Oo]?[Rr]?[Dd]?%s*=%s*"
    text = text:gsub("(" .. word .. ")'[^']*'", "%1***")
      :gsub("(" .. word .. ")[^%s&,;'\"*]+", "%1***")
  end
  return text
end


local function text_of(value, max)
  local ok, text = pcall(tostring, value)
  if not ok or type(text) ~= "string" then text = type(value) end
  return cut(M.redact(text), max)
end


-- ---- time ------------------------------------------------------------------

local second, second_text


--- A time in ms since 1970 as text, in UTC.
---@param ms number
---@return string
function M.time(ms)
  local s = floor(ms / 1000)
  if s ~= second then
    second, second_text = s, os.date("!%Y-%m-%dT%H:%M:%S", s)
  end
  return format("%s.%03dZ", second_text, floor(ms - s * 1000))
end


-- ---- lines -----------------------------------------------------------------

local PLACED = { message = true, level = true, time = true, same = true,
                 details = true, type = true }
for _, name in ipairs(LEADING) do PLACED[name] = true end


-- The names of a record's further fields, in order.
local function further(fields)
  local names = {}
  for name in pairs(fields) do
    if type(name) == "string" and not PLACED[name] then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  for i = #names, FIELDS_MAX + 1, -1 do names[i] = nil end
  return names
end


local function quoted(value)
  local text = M.clean(text_of(value, VALUE_MAX))
  if text ~= "" and not text:find('[%s"=\\]') then return text end
  return '"' .. text:gsub('["\\]', "\\%0") .. '"'
end


-- "trace_id" as trace, and so on: what stands there every time is short.
local SHORT = { tenant_id = "tenant", request_id = "request",
                trace_id = "trace" }


--- One line for people: time and level, the ids where no message can forge
--- them, the message, then the other fields.
---@param record table  time (ms), level, message, and by name: event,
--- tenant_id, request_id, trace_id, server, and others
---@param bare? boolean  without time and level
---@return string
function M.text(record, bare)
  local out = { "[mtenant]" }
  if not bare then
    out[1] = format("%s %-5s [mtenant]", M.time(record.time), record.level)
  end
  for i = 2, 4 do
    local name = LEADING[i]
    if record[name] ~= nil then
      out[#out + 1] = SHORT[name] .. "=" .. quoted(record[name])
    end
  end
  out[#out + 1] = M.clean(text_of(record.message, MESSAGE_MAX))
  if record.server ~= nil then
    out[#out + 1] = "server=" .. quoted(record.server)
  end
  for _, name in ipairs(further(record)) do
    if name ~= "repeated" then -- the message has it
      out[#out + 1] = M.clean(cut(name, 60)):gsub('[%s"=]', "_") .. "="
        .. quoted(record[name])
    end
  end
  return cut(table.concat(out, " "), LINE_MAX)
end


local function json_string(text)
  text = text:gsub('["\\]', "\\%0")
  return '"' .. cleaned(text, json_escape) .. '"'
end


local function json_value(value)
  if type(value) == "boolean" then return tostring(value) end
  if type(value) == "number" then
    if value ~= value or value == huge or value == -huge then return "null" end
    return (format("%.14g", value):gsub(",", "."))
  end
  return json_string(text_of(value, VALUE_MAX))
end


local function json_line(record, message_max, names)
  local out = {
    '{"time":"' .. M.time(record.time) .. '"',
    '"level":"' .. record.level .. '"',
  }
  local function add(name)
    if record[name] ~= nil then
      out[#out + 1] = json_string(cut(name, 60)) .. ":"
        .. json_value(record[name])
    end
  end
  for _, name in ipairs(LEADING) do add(name) end
  out[#out + 1] = '"message":' .. json_string(text_of(record.message,
                                                      message_max))
  for _, name in ipairs(names) do add(name) end
  return table.concat(out, ",") .. "}"
end


-- What the message of a debug line says already, as fields of their own.
local function with_details(record)
  if type(record.details) ~= "table" then return record end
  local out = {}
  for name, value in pairs(record.details) do
    if type(value) ~= "table" then out[name] = value end
  end
  for name, value in pairs(record) do out[name] = value end
  return out
end


--- One line for programs: a JSON object.
---@param record table  as for `text`; `details` is a table of more fields
---@return string
function M.json(record)
  record = with_details(record)
  local line = json_line(record, MESSAGE_MAX, further(record))
  if #line <= LINE_MAX then return line end
  -- what escapes have made too long
  local short = { time = record.time, level = record.level, truncated = true }
  for _, name in ipairs(LEADING) do
    if record[name] ~= nil then
      short[name] = cut(text_of(record[name], VALUE_MAX), 40)
    end
  end
  short.message = record.message
  return json_line(short, 300, { "truncated" })
end


return M
