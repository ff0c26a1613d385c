--- Servers that need not be there, for policies that name some. Used by testing
--- and by the command line.

local M = {}


--- Where a server of this name would be.
---@param name string
---@return string
function M.url(name)
  return ("postgresql://%s.invalid/"):format(name)
end


local function same_name(id)
  return id
end


--- What schemas are called where neither route nor configuration says it: no
--- route fails for that.
M.ISOLATION = { schema_name_template = same_name }


--- For a configuration: "eu1" in a list stands for { eu1 = url }.
---@param given? table  names, or urls by name
---@return table
function M.named(given)
  local out = {}
  for key, value in pairs(given or {}) do
    if type(key) == "number" then
      out[value] = M.url(value)
    else
      out[key] = value
    end
  end
  return out
end


--- From now on any name is one of a server, in this configuration.
---@param cfg table  a defined one
function M.allow_any(cfg)
  function cfg.any_server(name)
    if not name:find("^[%w_.-]+$") then return nil end
    local url = M.url(name)
    return { name = name, url = url, given = url,
             address = name .. ".invalid:5432" }
  end
end


return M
