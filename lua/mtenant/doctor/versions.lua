--- Doctor: what mtenant itself runs on.

local core = require "mtenant.core"

local LIBPQ_MIN = 140000 -- pipeline mode

-- optional: what does not work without it
local LIBRARIES = {
  { "cjson", "lua-cjson", "json columns are not decoded" },
  { "lfs", "lua-filesystem", "there are no migrations" },
  { "argparse", "lua-argparse", "there are no commands" },
}

local M = {}


function M.run(case)
  local lua = rawget(_G, "jit") and jit.version or _VERSION
  local libpq = core.libpq_version()
  case:add("ok", "versions", ("mtenant %s, %s, libpq %d.%d"):format(
    core.version, lua, math.floor(libpq / 10000), libpq % 10000))
  if libpq < LIBPQ_MIN then
    case:add("error", "versions", "libpq is too old", {
      why = "it has no pipeline mode", fix = "install libpq 14 or newer",
    })
  end
  for _, library in ipairs(LIBRARIES) do
    if not pcall(require, library[1]) then
      case:add("warning", "versions", library[1] .. " is not installed", {
        why = library[3], fix = "apt-get install " .. library[2],
      })
    end
  end
end


return M
