--- The command line: what commands.lua declares as parsers of argparse, whose
-- own printing and exiting is not used.

local commands = require "mtenant.cli.commands"
local help = require "mtenant.cli.help"

local has_argparse, argparse = pcall(require, "argparse")

local MOST_AT_A_TIME = 1000

-- Always exclusive, where a command has both.
local EXCLUSIVE = { { "--all", "--tenant" }, { "--all", "--tenants" },
                    { "--quiet", "--verbose" } }

local M = {}


local function integer(text, spec, name)
  local n = text:find("^%d+$") and tonumber(text)
  if n and n >= spec.min and n <= 2147483647 then
    return n
  end
  return nil, ("%s takes a whole number from %d on, not '%s'"):format(name,
    spec.min, text)
end


local function concurrency(text, _, name)
  local n = text:find("^%d+$") and tonumber(text)
  if text == "auto" or n and n >= 1 and n <= MOST_AT_A_TIME then
    return n or text
  end
  return nil, ("%s takes auto or a whole number from 1 to %d, not '%s'")
    :format(name, MOST_AT_A_TIME, text)
end


local function list(text, _, name)
  local items = {}
  for item in text:gmatch("[^,%s]+") do
    items[#items + 1] = item
  end
  if #items > 0 then
    return items
  end
  return nil, name .. " names nothing"
end


local CONVERTERS = { integer = integer, concurrency = concurrency, list = list }


local function add_option(parser, spec)
  local names, long = spec[1], spec[1]:match("%-%-[%w-]+")
  if not spec.value then
    return parser:flag(names, spec[2]), long
  end
  local option = parser:option(names, spec[2])
  if spec.target then option:target(spec.target) end
  if spec.choices then option:choices(spec.choices) end
  if spec.default then option:default(spec.default) end
  if spec.required then option:count("1") end
  if spec.many then option:count("*") end
  local convert = CONVERTERS[spec.kind]
  if convert then
    option:convert(function(text) return convert(text, spec, long) end)
  end
  return option, long
end


local function add_exclusions(parser, options, command)
  local function add(pairs_of)
    for _, pair in ipairs(pairs_of or {}) do
      local a, b = options[pair[1]], options[pair[2]]
      if a and b then
        parser:mutex(a, b)
      end
    end
  end
  add(EXCLUSIVE)
  add(command.exclusive)
end


local function add_arguments(parser, command)
  for _, spec in ipairs(command.arguments or {}) do
    local argument = parser:argument(spec[1], spec[2])
    if spec.choices then argument:choices(spec.choices) end
    if spec.many then argument:args("+") end
    if spec.optional then argument:args("?") end
  end
end


--- Gives a parser what a command takes. Returns a function that says whether
-- --help was there.
local function fill(parser, command)
  local options, helped = {}, false
  add_arguments(parser, command)
  for _, group in ipairs(command.groups) do
    for _, spec in ipairs(group) do
      local option, long = add_option(parser, spec)
      options[long] = option
      if long == "--help" then
        option:action(function() helped = true end)
      end
    end
  end
  add_exclusions(parser, options, command)
  return function() return helped end
end


local function find(name)
  for _, command in ipairs(commands) do
    if command.name == name then
      return command
    end
  end
  error("no such command: " .. name, 2)
end


--- "--steps -1" as "--steps=-1": the number is no option.
local function join_negatives(args)
  local out = {}
  for _, text in ipairs(args) do
    local before = out[#out]
    if before and text:find("^%-%d") and before:find("^%-%-[%w-]+$") then
      out[#out] = before .. "=" .. text
    else
      out[#out + 1] = text
    end
  end
  return out
end


local function one_line(message)
  return (message:gsub("\nDid you mean", "; did you mean")
    :gsub("%s*\n%s*", " "))
end


--- Whether the library that this file needs is installed.
---@return boolean
function M.available()
  return has_argparse
end


--- Takes a command line apart.
---@param name string the command
---@param args string[]
---@return table|nil opts options by target, arguments by name; { help = text }
--- when that is asked for
---@return string|nil message what is wrong with it
function M.parse(name, args)
  local command = find(name)
  local parser = argparse("mtenant " .. name, command.text):add_help(false)
  local helped = fill(parser, command)
  local ok, result = parser:pparse(join_negatives(args))
  if helped() then
    return { help = help.text(command) }
  elseif not ok then
    return nil, one_line(result)
  end
  return result
end


--- The script that makes a shell complete all commands.
---@param shell string bash, zsh or fish
---@return string
function M.completion(shell)
  local parser = argparse("mtenant"):add_help(false)
  for _, command in ipairs(commands) do
    local sub = parser:command(command.name, command.text):add_help(false)
    fill(sub, command)
  end
  return parser["get_" .. shell .. "_complete"](parser)
end


return M
