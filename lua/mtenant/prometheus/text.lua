--- How Prometheus' text format writes label values, help texts and numbers. Pure.

local utf8 = require "mtenant.utf8"

local floor, huge = math.floor, math.huge


local M = {}


local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

-- One byte that is no UTF-8 would make Prometheus refuse the whole text.
local function visible(s)
  local out, i = {}, 1
  while i <= #s do
    local n = utf8.character(s, i)
    if n then
      out[#out + 1] = s:sub(i, i + n - 1)
    else
      out[#out + 1] = ("\\x%02x"):format(s:byte(i))
    end
    i = i + (n or 1)
  end
  return table.concat(out)
end


--- A label's value, to be put between double quotes.
---@param s string
---@return string
function M.escape(s)
  if s:find "[\128-\255]" then s = visible(s) end
  if not s:find '[\\"\n]' then return s end
  return (s:gsub('[\\"\n]', ESCAPES))
end


--- A help text.
---@param s string
---@return string
function M.escape_help(s)
  return (s:gsub('[\\\n"]', ESCAPES))
end


--- A number: whole ones in full, others with as many digits as they need,
--- whatever the locale.
---@param n number
---@return string
function M.number(n)
  if n ~= n then return "NaN" end
  if n == huge then return "+Inf" end
  if n == -huge then return "-Inf" end
  if n == floor(n) and n > -2 ^ 53 and n < 2 ^ 53 then
    return ("%.0f"):format(n)
  end
  local s = ("%.15g"):format(n)
  if tonumber(s) ~= n then s = ("%.16g"):format(n) end
  if tonumber(s) ~= n then s = ("%.17g"):format(n) end
  return (s:gsub(",", "."))
end


return M
