--- UTF-8 as far as lines and labels need it: which bytes are characters, and texts
--- that are cut between them. Pure.

local byte, sub = string.byte, string.sub


local M = {}


--- The character that starts at i: how many bytes it has, and its code point; nil
--- where there is none.
---@param text string
---@param i integer
---@return integer|nil bytes
---@return integer|nil code
function M.character(text, i)
  local first = byte(text, i)
  if first < 0x80 then return 1, first end
  local n = first < 0xc2 and 0 or first < 0xe0 and 1 or first < 0xf0 and 2
    or first < 0xf5 and 3 or 0
  if n == 0 then return nil end
  local code = first % 2 ^ (6 - n)
  for k = i + 1, i + n do
    local b = byte(text, k)
    if not b or b < 0x80 or b > 0xbf then return nil end
    code = code * 64 + b % 64
  end
  local least = n == 1 and 0x80 or n == 2 and 0x800 or 0x10000
  if code < least or code > 0x10ffff or code >= 0xd800 and code <= 0xdfff then
    return nil
  end
  return n + 1, code
end


--- A text of at most so many bytes, with "..." where it was cut, never inside of
--- a character.
---@param text string
---@param max integer
---@return string
function M.cut(text, max)
  if #text <= max then return text end
  local last = max - 3
  while last > 0 and byte(text, last + 1) >= 0x80 and
        byte(text, last + 1) < 0xc0 do
    last = last - 1
  end
  return sub(text, 1, last) .. "..."
end


return M
