--- A folder of migrations for a spec, gone with it.

local lfs = require "lfs"

local M = {}


--- Makes one.
---@param files table  by name, their texts
---@return table folder  path, write(name, text), remove(name), close()
function M.new(files)
  local path = os.tmpname()
  os.remove(path)
  assert(lfs.mkdir(path))
  local self = { path = path }
  function self.write(name, text)
    local file = assert(io.open(path .. "/" .. name, "wb"))
    file:write(text)
    file:close()
  end
  function self.remove(name) os.remove(path .. "/" .. name) end
  function self.close()
    for name in lfs.dir(path) do
      if name ~= "." and name ~= ".." then os.remove(path .. "/" .. name) end
    end
    lfs.rmdir(path)
  end
  for name, text in pairs(files or {}) do self.write(name, text) end
  return self
end


return M
