--- Where a command's words go: results on standard output, what went wrong and
-- one live line on standard error.
--
-- The live line is drawn by a task, at most ten times a second, and only on a
-- terminal; whatever else is said takes it away first and stands above it.

local columns = require "mtenant.cli.columns"
local json = require "mtenant.cli.json"
local mtenant = require "mtenant"
local terminal = require "mtenant.cli.terminal"

local FRAME_MS = 100

local methods = {}
local mt = { __name = "mtenant.console", __index = methods }

local M = {}


--- opts: those of the command line: json, quiet, no_color.
function M.new(opts)
  io.stdout:setvbuf("line")
  return setmetatable({
    json = opts.json,
    quiet = opts.quiet,
    out = terminal.new(1, opts),
    err = terminal.new(2, opts),
    drawn = false,
  }, mt)
end


local function erase(self)
  if self.drawn then
    self.drawn = false
    io.stderr:write("\r\27[K")
  end
end


--- A line of the result, for people.
---@param line table  see mtenant.cli.terminal
function methods:say_line(line)
  if not self.json and not self.quiet then
    erase(self)
    io.stdout:write(self.out:render(line), "\n")
  end
end


--- The same, of its parts.
function methods:say(...)
  self:say_line({ ... })
end


--- A table, if it has rows; see mtenant.cli.columns.
---@param header string[]
---@param rows table[]
function methods:say_table(header, rows)
  for _, line in ipairs(#rows > 0 and columns.lines(header, rows) or {}) do
    self:say_line(line)
  end
end


--- An object of the result, for programs.
function methods:event(object)
  if self.json then
    erase(self)
    io.stdout:write(json.encode(object), "\n")
  end
end


--- A line about what went wrong.
function methods:warn(...)
  erase(self)
  io.stdout:flush()
  io.stderr:write(self.err:render({ ... }), "\n")
end


local function draw(self)
  local width = self.err:width()
  io.stderr:write("\r", self.err:render(self.content(width), width), "\27[K")
  self.drawn = true
end


--- Shows the line that content(width) returns, until `hide`.
function methods:show(content)
  if self.json or self.quiet or not self.err.live then
    return
  end
  self.content = content
  mtenant.spawn(function()
    while self.content == content do
      draw(self)
      if not mtenant.sleep(FRAME_MS) then
        return -- the program is to stop
      end
    end
  end)
end


--- Takes the live line away. Idempotent.
function methods:hide()
  self.content = nil
  erase(self)
end


return M
