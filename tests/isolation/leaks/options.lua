--- The command line of leaks.lua.

local M = {}

M.USAGE = [[
usage: mtenant-run leaks.lua [options]
Runs random programs of many tenants over few connections and checks that no
tenant meets another's rows or session state.

  --operations=N    how many (20000)
  --seed=S          which ones; random unless given, always printed
  --tenants=N       tenants (100)
  --connections=N   connections of the manager (5)
  --workers=N       tasks that run operations at the same time (24)
  --reset=MODE      isolation.reset of the manager, where it is built
  --no-reset        reuse connections as they were left: must find a leak
  --only=A,B        only the operations whose names contain A or B
  --keep-going      count leaks instead of stopping at the first one
  --json            the result as one line of JSON
  --help            this text

Exit status: 0 nothing found, 1 something was, 2 wrong usage or not built.
]]

local NUMBERS = { operations = 20000, seed = false, tenants = 100,
                  connections = 5, workers = 24 }
local FLAGS = { ["no-reset"] = true, ["keep-going"] = true, json = true,
                help = true }
local TEXTS = { reset = true, only = true }


--- The options of a command line, or nil and what is wrong with it.
function M.parse(words)
  local out = {}
  for name, default in pairs(NUMBERS) do out[name] = default or nil end
  for _, word in ipairs(words) do
    local name, value = word:match("^%-%-([%a-]+)=(.+)$")
    local flag = word:match("^%-%-([%a-]+)$")
    local number = math.tointeger(tonumber(value or ""))
    if NUMBERS[name] ~= nil and number and number >= 1 then
      out[name] = number
    elseif TEXTS[name] then
      out[name] = value
    elseif FLAGS[flag] then
      out[(flag:gsub("-", "_"))] = true
    else
      return nil, "wrong option: " .. word
    end
  end
  out.seed = out.seed or math.random(1, 999999999)
  return out
end


return M
