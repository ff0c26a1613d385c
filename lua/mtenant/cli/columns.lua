--- Tables for people: cells under each other. Pure.

local terminal = require "mtenant.cli.terminal"

local pad, width_of = terminal.pad, terminal.width_of

local GAP = "  "

local M = {}


local function text_of(cell)
  return tostring(type(cell) == "table" and cell[2] or cell)
end


local function widths_of(header, rows)
  local widths = {}
  for i, title in ipairs(header) do
    widths[i] = width_of(title)
    for _, row in ipairs(rows) do
      widths[i] = math.max(widths[i], width_of(text_of(row[i])))
    end
  end
  return widths
end


--- Lines for the console: of rows of texts, numbers (to the right) and
-- { style, text }.
---@param header string[]
---@param rows table[]
---@return table[]
function M.lines(header, rows)
  local widths, out = widths_of(header, rows), {}
  local function add(row, style)
    local line = {}
    for i, cell in ipairs(row) do
      local is_number = rows[1] and type(rows[1][i]) == "number"
      local last = i == #row or i == #row - 1 and row[#row] == ""
      local text = pad(text_of(cell), last and 0 or widths[i], is_number)
      line[#line + 1] = i > 1 and text ~= "" and GAP or nil
      line[#line + 1] = { style or type(cell) == "table" and cell[1], text }
    end
    out[#out + 1] = line
  end
  add(header, "dim")
  for _, row in ipairs(rows) do
    add(row)
  end
  return out
end


return M
