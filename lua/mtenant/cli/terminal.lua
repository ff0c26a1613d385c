--- What a stream of text may carry: whether it is a terminal, how wide, its
-- colours and glyphs; and lines made for it. Writes nothing by itself.
--
-- A line is an array of strings and of { style, string }.
-- luacheck: std lua54

local has_host, host = pcall(require, "mtenant.runner_host")

local NARROWEST = 20

local STYLES = {
  bold = "1", dim = "2", red = "31", green = "32", yellow = "33", cyan = "36",
}

local GLYPHS = {
  utf8 = {
    ok = "✔", bad = "✘", dot = "·", full = "━", part = "╸", empty = "─",
    spinner = { "⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏" },
    levels = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" },
    table = { "╭", "┬", "╮", "│", "╰", "┴", "╯", "─" },
  },
  ascii = {
    ok = "*", bad = "!", dot = "-", full = "=", part = ">", empty = ".",
    spinner = { "|", "/", "-", "\\" },
    levels = { "_", ".", ":", "-", "=", "+", "*", "#" },
    table = { "+", "+", "+", "|", "+", "+", "+", "-" },
  },
}

local methods = {}
local mt = { __name = "mtenant.terminal", __index = methods }

local M = {}


--- How many characters a text has; bytes where it is no UTF-8.
---@param text string
---@return integer
function M.width_of(text)
  return utf8.len(text) or #text
end


local width_of = M.width_of


--- The first `width` characters.
---@param text string
---@param width number
---@return string
function M.clip(text, width)
  if width_of(text) <= width then
    return text
  end
  local stop = utf8.len(text) and utf8.offset(text, width + 1)
  return text:sub(1, (stop or width + 1) - 1)
end


--- Filled up with blanks, on the right or, for `left`, on the left.
---@param text string
---@param width integer
---@param left? boolean
---@return string
function M.pad(text, width, left)
  local blanks = (" "):rep(width - width_of(text))
  return left and blanks .. text or text .. blanks
end


--- 12345 as "12,345".
---@param n integer
---@return string
function M.count(n)
  local text = ("%d"):format(n)
  local rest
  repeat
    text, rest = text:gsub("^(-?%d+)(%d%d%d)", "%1,%2")
  until rest == 0
  return text
end


--- "3.2 s"
---@param ms number
---@return string
function M.seconds(ms)
  return ("%.1f s"):format(ms / 1000)
end


local function set(name)
  local value = os.getenv(name)
  return value ~= nil and value ~= "" and value or nil
end


local function is_utf8()
  local locale = set("LC_ALL") or set("LC_CTYPE") or set("LANG") or ""
  return locale:lower():find("utf%-?8") ~= nil
end


--- Is a descriptor a terminal?
---@param fd integer
---@return boolean
function M.is_terminal(fd)
  return has_host and host.isatty(fd)
end


--- The stream behind a descriptor. `live`: lines can be drawn again on it.
---@param fd integer 1 or 2
---@param opts? table  plain: as on no terminal; no_color
---@return mtenant.terminal
function M.new(fd, opts)
  opts = opts or {}
  local live = not opts.plain and os.getenv("TERM") ~= "dumb"
    and M.is_terminal(fd)
  return setmetatable({
    fd = fd,
    live = live,
    color = live and not opts.no_color and not set("NO_COLOR"),
    glyphs = live and is_utf8() and GLYPHS.utf8 or GLYPHS.ascii,
  }, mt)
end


--- How many characters a line may have without being wrapped. Asked each time:
-- a window may be resized.
---@return integer
function methods:width()
  local columns = has_host and host.columns(self.fd)
    or tonumber(set("COLUMNS")) or 80
  return math.max(NARROWEST, columns - 1)
end


--- A line as text, of at most so many characters.
---@param line table
---@param room? number
---@return string
function methods:render(line, room)
  local out = {}
  room = room or math.huge
  for i, part in ipairs(line) do
    local styled = type(part) == "table"
    local text = M.clip(styled and part[2] or part, room)
    room = room - width_of(text)
    local code = styled and self.color and text ~= "" and STYLES[part[1]]
    out[i] = code and ("\27[%sm%s\27[m"):format(code, text) or text
  end
  return table.concat(out)
end


--- The two parts of a progress bar.
---@param done integer
---@param total integer
---@param width integer
---@return table full
---@return table empty
function methods:bar(done, total, width)
  local glyphs = self.glyphs
  local full = total > 0 and math.floor(done * width / total) or 0
  local part = full < width and full > 0 and 1 or 0
  return { "cyan", glyphs.full:rep(full) .. glyphs.part:rep(part) },
    { "dim", glyphs.empty:rep(width - full - part) }
end


return M
