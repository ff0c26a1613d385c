--- The commands of `mtenant <command>`: scripts in a few directories.
-- luacheck: std lua54

local host = require "mtenant.runner_host"
local schema = require "mtenant.schema"

local M = {}


--- Where scripts are looked for, the first match wins: $MTENANT_SCRIPTS (a
-- list with colons), the source tree of a build, the installation.
local function directories(opts)
  local dirs = {}
  for dir in (os.getenv("MTENANT_SCRIPTS") or ""):gmatch("[^:]+") do
    dirs[#dirs + 1] = dir
  end
  if opts.source_dir then
    dirs[#dirs + 1] = opts.source_dir .. "/scripts"
  end
  if opts.exe_dir ~= "" then
    dirs[#dirs + 1] = opts.exe_dir .. "/../share/mtenant/scripts"
  end
  return dirs
end


--- All commands: an array of names, and a table from name to path.
local function collect(opts)
  local names, paths = {}, {}
  for _, dir in ipairs(directories(opts)) do
    for _, entry in ipairs(host.list_dir(dir) or {}) do
      local name = entry:match("^([%w_-]+)%.lua$")
      if name and not paths[name] then
        paths[name] = dir .. "/" .. entry
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names, paths
end


local function closest(names, name)
  local best, best_distance = nil, math.max(2, math.floor(#name / 3)) + 1
  for _, candidate in ipairs(names) do
    local d = schema.distance(candidate, name)
    if d < best_distance then
      best, best_distance = candidate, d
    end
  end
  return best
end


--- The first comment of a script, without its dashes and its own name.
local function summary(path, name)
  local file = io.open(path)
  if not file then
    return ""
  end
  local text = ""
  for line in file:lines() do
    text = line:match("^%-%-+%s*(.-)%s*$") or ""
    if text ~= "" or not line:match("^#!") then
      break
    end
  end
  file:close()
  for _, prefix in ipairs({ "mtenant " .. name, name .. ".lua", name }) do
    if text:sub(1, #prefix + 1) == prefix .. ":" then
      return (text:sub(#prefix + 2):gsub("^%s+", ""))
    end
  end
  return text
end


--- The script of a command, or nil and one line that says what is wrong.
function M.find(opts, name)
  local names, paths = collect(opts)
  if paths[name] then
    return paths[name]
  end
  local near = closest(names, name)
  return nil, ("unknown command '%s'%s"):format(name,
    near and ("; did you mean '%s'?"):format(near) or "")
end


--- Prints the usage and all commands; returns the exit status.
function M.help(opts)
  local names, paths = collect(opts)
  local width = 0
  for _, name in ipairs(names) do
    width = math.max(width, #name)
  end
  print("usage: mtenant [--pg] [--admin ADDRESS] [--version] [--help] <command> [args]")
  print(#names > 0 and "\nCommands:" or "\nNo commands were found.")
  for _, name in ipairs(names) do
    local text = summary(paths[name], name)
    print((("  %-" .. width .. "s  %s"):format(name, text):gsub("%s+$", "")))
  end
  return 0
end


return M
