--- What the pools have done, in the text format of Prometheus.

local M = {}


---@param manager mtenant.TenantManager
---@return string
function M.text(manager)
  local stats, names, lines = manager:get_stats(), {}, {}
  for name in pairs(stats) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    lines[i] = ("notes_pool_%s %s"):format(name, tostring(stats[name]))
  end
  return table.concat(lines, "\n") .. "\n"
end


return M
