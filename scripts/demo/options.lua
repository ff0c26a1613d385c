--- The demo's command line.

local M = {}

local HELP = [[
usage: mtenant-run scripts/demo.lua [options]

Makes tenants with a schema each, migrates them all in parallel, then takes the
server away while many tasks read random tenants.

  --tenants N   how many tenants, 200
  --tasks N     how many tasks read at a time, 50
  --seconds N   how long they read, 6
  --plain       no colour, no progress bar: as on no terminal
  --drop        only remove what earlier runs have left in DATABASE_URL
  --help, -h    this text

Without DATABASE_URL it starts a PostgreSQL of its own, restarts that, and
removes it at the end. With it, the tenants stay, and instead of a restart the
demo ends its own connections from the server's side. The user needs the right
to create schemas, nothing more. Colour is left out when NO_COLOR is set.

Exit status: 0 when every read was answered, with a row of the right tenant.
]]

local NUMBERS = {
  ["--tenants"] = { name = "tenants", least = 1, most = 10000, whole = true },
  ["--tasks"] = { name = "tasks", least = 1, most = 1000, whole = true },
  ["--seconds"] = { name = "seconds", least = 1, most = 3600 },
}

local FLAGS = { ["--plain"] = "plain", ["--drop"] = "drop",
                ["--help"] = "help", ["-h"] = "help" }


local function number_of(option, text)
  local spec = NUMBERS[option]
  local n = tonumber(text)
  if n and spec.whole then
    n = math.tointeger(n)
  end
  if n and n >= spec.least and n <= spec.most then
    return n
  end
  return nil, ("%s takes %s from %d to %d, not '%s'"):format(
    option, spec.whole and "a whole number" or "a number", spec.least,
    spec.most, text)
end


--- Options by name, or nil and what is wrong.
function M.parse(args)
  local opts = { tenants = 200, tasks = 50, seconds = 6 }
  local i = 1
  while args[i] do
    local option, value = args[i]:match("^(%-%-%w+)=(.*)$")
    option = option or args[i]
    if FLAGS[option] and not value then
      opts[FLAGS[option]] = true
    elseif NUMBERS[option] then
      if not value then
        i = i + 1
        value = args[i]
      end
      if not value then
        return nil, option .. " needs a number"
      end
      local n, err = number_of(option, value)
      if not n then
        return nil, err
      end
      opts[NUMBERS[option].name] = n
    else
      return nil, "unknown option '" .. args[i] .. "'"
    end
    i = i + 1
  end
  return opts
end


M.HELP = HELP


return M
