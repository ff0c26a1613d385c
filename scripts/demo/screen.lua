--- What the demo shows. On a terminal: colour, and a block at the end of the
-- output that is drawn again and again by a task. Elsewhere: the same lines
-- without any escape code, and no block.
--
-- A line is an array of strings and of { style, string }.

local mtenant = require "mtenant"
local terminal = require "mtenant.cli.terminal"

local FRAME_MS = 100
local WIDEST = 100
local BAR = 40

local clip, pad, width_of = terminal.clip, terminal.pad, terminal.width_of

local screen_methods = {}
local screen_mt = { __name = "demo.screen", __index = screen_methods }

local M = {}


M.count = terminal.count
M.seconds = terminal.seconds


--- `plain`: as on no terminal.
function M.new(plain)
  local out = terminal.new(1, { plain = plain })
  return setmetatable({
    out = out,
    live = out.live,
    width = out.live and math.min(out:width(), WIDEST) or math.huge,
    glyphs = out.glyphs,
    drawn = 0,
    frame = 0,
  }, screen_mt)
end


-- Lines that stay go above the block, which is drawn again below. Only the
-- block must not wrap.
local function frame(screen, lines, block)
  local out = {}
  if screen.drawn > 0 then
    out[1] = ("\27[%dA\r"):format(screen.drawn)
  elseif screen.live then
    out[1] = "\r"
  end
  local eol = screen.live and "\27[K\n" or "\n"
  for _, line in ipairs(lines) do
    out[#out + 1] = screen.out:render(line) .. eol
  end
  for _, line in ipairs(block) do
    out[#out + 1] = screen.out:render(line, screen.width) .. eol
  end
  if screen.drawn > 0 then
    out[#out + 1] = "\27[J"
  end
  screen.drawn = #block
  io.stdout:write(table.concat(out))
  io.stdout:flush()
end


local function block_of(screen)
  if not screen.live or not screen.content then
    return {}
  end
  screen.frame = screen.frame + 1
  return screen.content()
end


--- A line that stays.
function screen_methods:line(...)
  frame(self, { { ... } }, block_of(self))
end


--- Shows the lines that content() returns until `hide`, on a terminal.
function screen_methods:show(content)
  self.content = content
  if not self.live or self.ticker and not self.ticker.done then
    return
  end
  self.ticker = mtenant.spawn(function()
    while self.content do
      frame(self, {}, block_of(self))
      if not mtenant.sleep(FRAME_MS) then
        return -- the program is to stop
      end
    end
  end)
end


function screen_methods:hide()
  self.content = nil
  frame(self, {}, {})
end


--- The line of a step that is done, with the time it took.
function screen_methods:done(text, ms)
  local time = M.seconds(ms)
  if not self.live then
    return self:line(text, " (", time, ")")
  end
  local gap = self.width - width_of(text) - width_of(time) - 4
  self:line("  ", { "green", self.glyphs.ok }, " ", text,
            (" "):rep(math.max(gap, 1)), { "dim", time })
end


--- What went wrong; without a terminal it goes to `file`, if given.
function screen_methods:failed(text, file)
  if not self.live then
    return (file or io.stdout):write(text, "\n")
  end
  self:line("  ", { "red", self.glyphs.bad }, " ", text)
end


--- Something that happened during a step, `ms` after its start.
function screen_methods:event(ms, text, style)
  local indent = self.live and "    " or "  "
  local time = ("%6s  "):format(M.seconds(ms))
  self:line(indent, { "dim", time }, { style or "plain",
            clip(text, self.width - #indent - #time) })
end


function screen_methods:spinner()
  local list = self.glyphs.spinner
  return { "cyan", list[self.frame % #list + 1] }
end


--- The parts of a progress bar.
function screen_methods:bar(done, total)
  return self.out:bar(done, total, math.max(math.min(BAR, self.width - 40), 5))
end


--- Shows a step while it goes on; returns a function to tell how far it is.
---@param total? integer
function screen_methods:progress(label, total)
  local began, done = mtenant.now_ms(), 0
  self:show(function()
    local line = { "  ", self:spinner(), " ", label }
    if total then
      line[4] = pad(label, 18)
      local full, empty = self:bar(done, total)
      table.move({ full, empty, ("  %d/%d"):format(done, total) }, 1, 3,
                 #line + 1, line)
    end
    line[#line + 1] = { "dim", "  " .. M.seconds(mtenant.now_ms() - began) }
    return { line }
  end)
  return function(n)
    done = n
  end
end


local function averages(values, width)
  local size = math.max(1, math.ceil(#values / width))
  local out = {}
  for i = 1, #values, size do
    local last, sum = math.min(i + size - 1, #values), 0
    for j = i, last do
      sum = sum + values[j]
    end
    out[#out + 1] = sum / (last - i + 1)
  end
  return out
end


--- The parts of a chart of numbers, one character high; zeroes are red.
function screen_methods:chart(values, width)
  local list, levels, out = averages(values, width), self.glyphs.levels, {}
  local highest = math.max(1, table.unpack(list))
  for i, value in ipairs(list) do
    local level = math.ceil(value / highest * #levels)
    out[i] = { value > 0 and "green" or "red", levels[math.max(level, 1)] }
  end
  return out
end


local function columns_of(rows)
  local widths = { 0, 0, 0 }
  for _, row in ipairs(rows) do
    for i = 1, 3 do
      widths[i] = math.max(widths[i], width_of(row[i]))
    end
  end
  return widths
end


local function rule(screen, left, middle, right, widths)
  local h = screen.glyphs.table[8]
  screen:line("  ", { "dim", left .. h:rep(widths[1] + 2) .. middle
    .. h:rep(widths[2] + widths[3] + 4) .. right })
end


--- A table: rows of { name, value, note, style of the value }.
function screen_methods:table(rows)
  local widths, t = columns_of(rows), self.glyphs.table
  if self.live then
    widths[3] = math.min(widths[3], self.width - widths[1] - widths[2] - 11)
    rule(self, t[1], t[2], t[3], widths)
  end
  local side = self.live and { "dim", t[4] }
  for _, row in ipairs(rows) do
    local name, note = pad(row[1], widths[1]), clip(row[3], widths[3])
    local value = (" "):rep(widths[2] - width_of(row[2])) .. row[2]
    if side then
      self:line("  ", side, " ", name, " ", side, " ", { row[4] or "bold", value },
                "  ", { "dim", pad(note, widths[3]) }, " ", side)
    else
      self:line(((name .. "  " .. value .. "  " .. note):gsub(" +$", "")))
    end
  end
  if self.live then
    rule(self, t[5], t[6], t[7], widths)
  end
end


return M
