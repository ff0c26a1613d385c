--- Metrics of managers in Prometheus' text format.

local KINDS = {
  { "mtenant_connections_open", "gauge", "open", "Open connections." },
  { "mtenant_connections_opened_total", "counter", "opened",
    "Connections that were opened." },
  { "mtenant_connections_lost_total", "counter", "lost",
    "Connections that were lost." },
  { "mtenant_connect_failures_total", "counter", "connect_failures",
    "Connects that failed." },
  { "mtenant_requests_total", "counter", "requests", "Statements." },
  { "mtenant_leases_total", "counter", "leases", "Leases." },
  { "mtenant_retries_total", "counter", "retries", "Tries after a failure." },
}


local function escape(text)
  return (text:gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }))
end


local M = {}


--- The text of an exposition.
---@param managers mtenant.TenantManager[]
---@param o? table  openmetrics = false
---@return string
function M.render(managers, o)
  local openmetrics, out = o and o.openmetrics, {}
  for _, kind in ipairs(KINDS) do
    local name = openmetrics and kind[1]:gsub("_total$", "") or kind[1]
    out[#out + 1] = ("# HELP %s %s\n# TYPE %s %s\n"):format(name, kind[4], name,
                                                          kind[2])
    for _, manager in ipairs(managers) do
      out[#out + 1] = ('%s{manager="%s"} %d\n'):format(kind[1],
        escape(manager:get_name()), manager:get_stats()[kind[3]])
    end
  end
  if openmetrics then out[#out + 1] = "# EOF\n" end
  return table.concat(out)
end


return M
