--- The help text of a command, from what commands.lua declares. Pure.

local WIDTH = 79
local COLUMN = 28

local M = {}


--- Words in lines of at most so many bytes.
local function wrap(text, width)
  local lines, line = {}, ""
  for word in text:gmatch("%S+") do
    if line ~= "" and #line + 1 + #word > width then
      lines[#lines + 1], line = line, word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return lines
end


--- "  -t, --tenant ID    this one", with what is long in the next line.
local function entry(out, label, text)
  local lines = wrap(text, WIDTH - COLUMN)
  label = "  " .. label
  if #label > COLUMN - 2 then
    out[#out + 1] = label
    label = ""
  end
  for _, line in ipairs(lines) do
    out[#out + 1] = label .. (" "):rep(COLUMN - #label) .. line
    label = ""
  end
end


local function label_of(option)
  local short, long = option[1]:match("^(%-%a) (.+)$")
  local names = short and short .. ", " .. long or "    " .. option[1]
  return option.value and names .. " " .. option.value or names
end


local function add_section(out, title, items, label)
  out[#out + 1] = ""
  out[#out + 1] = title .. ":"
  for _, item in ipairs(items) do
    entry(out, label(item), item[2])
  end
end


--- What --help prints.
---@param command table
---@return string
function M.text(command)
  local usage = "Usage: mtenant " .. command.name .. " [options]"
  for _, argument in ipairs(command.arguments or {}) do
    local name = argument[1]:upper()
    usage = usage .. " " .. (argument.optional and "[" .. name .. "]" or name)
  end
  local out = { usage, "" }
  for _, line in ipairs(wrap(command.text, WIDTH)) do
    out[#out + 1] = line
  end
  if command.arguments then
    add_section(out, "Arguments", command.arguments, function(argument)
      return argument[1]:upper()
    end)
  end
  for _, group in ipairs(command.groups) do
    add_section(out, group.title, group, label_of)
  end
  out[#out + 1] = ""
  out[#out + 1] = "Example:"
  for line in command.example:gmatch("[^\n]+") do
    out[#out + 1] = "  " .. line
  end
  return table.concat(out, "\n") .. "\n"
end


return M
