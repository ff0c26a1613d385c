--- How Prometheus' text format writes label values, help texts and numbers. Pure.

local floor, huge = math.floor, math.huge


local M = {}


local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

-- lengths by first byte; overlong forms and surrogates are not looked for
local function valid_at(s, i)
  local b = s:byte(i)
  local more = b < 0x80 and 0 or b >= 0xC2 and b < 0xE0 and 1
    or b >= 0xE0 and b < 0xF0 and 2 or b >= 0xF0 and b < 0xF5 and 3
  if not more then return nil end
  for k = 1, more do
    local c = s:byte(i + k)
    if not c or c < 0x80 or c > 0xBF then return nil end
  end
  local second = s:byte(i + 1)
  if b == 0xE0 and second < 0xA0 or b == 0xED and second > 0x9F
    or b == 0xF0 and second < 0x90 or b == 0xF4 and second > 0x8F then
    return nil
  end
  return more + 1
end


-- One byte that is no UTF-8 would make Prometheus refuse the whole text.
local function visible(s)
  local out, i = {}, 1
  while i <= #s do
    local n = valid_at(s, i)
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
