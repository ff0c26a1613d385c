--- The metrics of managers as text that Prometheus scrapes: its text format, or
--- OpenMetrics with exemplars. What series there are says mtenant.series.
--
--     local text = prometheus.render(manager)
--     local text = prometheus.render({ eu = manager, us = other },
--                                    { openmetrics = true })
--
-- Called in a task it lets others run every few milliseconds. The text is at
-- most 1 MiB: where that does not do for all tenants with series of their own,
-- the least of them are added to the others.

local config = require "mtenant.config"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local metrics = require "mtenant.metrics"
local schema = require "mtenant.schema"
local series = require "mtenant.series"
local task = require "mtenant.task"
local tally = require "mtenant.prometheus.tally"
local text = require "mtenant.prometheus.text"

local concat, escape, number = table.concat, text.escape, text.number


local M = {}


local STARTED = core.now_ms()
local SLICE_MS = 2
local MAX_BYTES = 1024 * 1024


local options = schema.new({
  name = "render",
  { "openmetrics", kind = "boolean", default = false },
  { "prefix", kind = "string", check = config.check_prefix },
  { "labels", kind = "table" },
  { "tenants", kind = "boolean", default = true },
  { "health", kind = "table" },
})


-- ---- records: what samples are made of ------------------------------------------

-- Lets others run, if it is time to.
local function breathe(state)
  if not state.task or core.now_ms() < state.until_ms then return end
  local _, err = task.sleep(0)
  state.until_ms = core.now_ms() + SLICE_MS
  if err then error(err, 0) end
end


local function states_of(record)
  local out = { closed = 0, open = 0, half_open = 0, isolated = 0 }
  out[record.state] = 1
  return out
end


-- Each scope's records, as { labels, record }; labels are text.
local function server_records(raw, labels)
  local own, all = {}, {}
  for i, record in ipairs(raw.servers) do
    record.states = states_of(record)
    own[i] = { labels .. 'server="' .. escape(record.name) .. '"', record }
    all[i] = own[i]
  end
  if raw.nowhere then
    all[#all + 1] = { labels .. 'server="' .. series.NOWHERE .. '"', raw.nowhere }
  end
  return own, all
end


local function tenant_records(raw, labels, out)
  out.tenant, out.entry = {}, {}
  if not raw.tenants then return end
  for i, record in ipairs(raw.tenants) do
    local mine = labels .. 'tenant="' .. record.label .. '"'
    out.tenant[i] = { mine, record }
    if record.schema then
      record.last_access = math.floor(raw.wall - record.idle_ms / 1000)
      out.entry[#out.entry + 1] =
        { mine .. ',schema="' .. escape(record.schema) .. '"', record }
    end
  end
  local others = labels .. 'tenant="' .. series.OTHERS .. '"'
  out.tenant[#out.tenant + 1] = { others, raw.others }
  out.entry[#out.entry + 1] = { others .. ',schema=""', raw.others }
  out.tenant[#out.tenant + 1] =
    { labels .. 'tenant="' .. series.SHARED .. '"', raw.shared }
end


local function health_records(raw, labels, health, out)
  out.health, out.health_entry = {}, {}
  if not health then return end
  out.health[1] = { labels, health }
  local told = {}
  for _, record in ipairs(raw.tenants or {}) do told[record.id] = record.label end
  for _, pool in ipairs(health.pools or {}) do
    local label = told[pool.tenant_id]
    if label then
      out.health_entry[#out.health_entry + 1] = {
        labels .. 'tenant="' .. label .. '",schema="'
          .. escape(pool.schema_name or "") .. '"', pool }
    end
  end
end


-- ---- samples --------------------------------------------------------------------

local function sample(out, name, labels, value)
  if labels ~= "" then labels = "{" .. labels .. "}" end
  out[#out + 1] = name .. labels .. " " .. number(value)
end


local function join(labels, more)
  return labels == "" and more or labels .. "," .. more
end


local function exemplar(state, e)
  if not e then return "" end
  return (' # {tenant="%s"} %s %s'):format(escape(e.tenant), number(e.ms / 1000),
    number(math.floor(state.wall - (state.now_ms - e.at_ms) / 1000)))
end


-- The slowest of those of the bounds that are told together.
local function exemplar_upto(record, from, to)
  for i = to, from, -1 do
    if record.exemplars[i] then return record.exemplars[i] end
  end
end


local function histogram(state, out, s, name, labels, record)
  local h = s.value(record)
  if not h then return end
  local step, last = s.coarse and series.COARSE or 1, 0
  local shown = s.exemplars and state.openmetrics
  local function bucket(bound, n, upto)
    local e = shown and exemplar(state, exemplar_upto(record, last + 1, upto))
    out[#out + 1] = concat { name, "_bucket{", join(labels, 'le="' .. bound),
                             '"} ', number(n), e or "" }
    last = upto
  end
  for i = 1, series.BOUNDS, step do bucket(series.bound(i), h.upto[i], i) end
  bucket("+Inf", h.count, series.BOUNDS + 1)
  sample(out, name .. "_sum", labels, h.sum_ms / 1000)
  sample(out, name .. "_count", labels, h.count)
end


local function split(out, s, name, labels, record)
  local values, keys = record[s.split.key], {}
  for key in pairs(values or {}) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local label = s.split.label .. '="' .. escape(key) .. '"'
    sample(out, name, join(labels, label), values[key])
  end
end


local function samples(state, out, s, name, entry)
  local labels, record = entry[1], entry[2]
  if s[2] == "histogram" then
    histogram(state, out, s, name, labels, record)
  elseif s.split then
    split(out, s, name, labels, record)
  else
    local value = s.value(record)
    if value then sample(out, name, labels, value) end
  end
end


local function head(state, out, s, name)
  local family, unit = name, series.unit(s)
  if state.openmetrics then family = name:gsub("_total$", "") end
  local help = text.escape_help(s.help)
  out[#out + 1] = ("# HELP %s %s"):format(family, help)
  out[#out + 1] = ("# TYPE %s %s"):format(family, s[2])
  if state.openmetrics and unit ~= "" then
    out[#out + 1] = ("# UNIT %s %s"):format(family, unit)
  end
end


-- A family: nothing at all of one without samples.
local function family(state, s)
  local name, out = state.prefix .. "_" .. s[1], {}
  head(state, out, s, name)
  local before = #out
  for _, records in ipairs(state.managers) do
    for _, entry in ipairs(records[s.scope] or {}) do
      state.wall, state.now_ms = records.wall, records.now_ms
      samples(state, out, s, name, entry)
      breathe(state)
    end
  end
  if #out > before then return concat(out, "\n") .. "\n" end
end


-- ---- what is rendered -----------------------------------------------------------

-- in KiB, whatever the size of a page
local function resident_bytes()
  local file = io.open("/proc/self/status")
  if not file then return nil end
  local kib = file:read("*a"):match "VmRSS:%s*(%d+)"
  file:close()
  return kib and kib * 1024
end


local function process_record()
  return {
    uptime = (core.now_ms() - STARTED) / 1000,
    heap = math.floor(collectgarbage("count") * 1024),
    resident = resident_bytes(),
    handles = core.stats().loop_watchers,
    requests = core.stats().operations,
  }
end


-- A label that a series has already would make Prometheus refuse the whole text.
local function taken(name, named)
  if name == "manager" then return named end
  for _, s in ipairs(series) do
    for _, label in ipairs(series.labels(s)) do
      if label == name then return true end
    end
  end
end


local function fixed_labels(labels, named)
  local names, out = {}, {}
  for name in pairs(labels or {}) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    if not tostring(name):find "^[%a_][%w_]*$" then
      errors.misuse(4, "render.labels: %q is not the name of a label",
                    tostring(name))
    elseif taken(name, named) then
      errors.misuse(4, "render.labels: series have a label %s of their own", name)
    end
    out[i] = name .. '="' .. escape(tostring(labels[name])) .. '"'
  end
  return concat(out, ",")
end


local function is_manager(value)
  return type(value) == "table" and value._core ~= nil
end


-- { { name or nil, manager } ... }, in the order of the names
local function list_of(managers)
  if is_manager(managers) then return { { nil, managers } } end
  local out, good = {}, type(managers) == "table"
  for name, manager in pairs(good and managers or {}) do
    good = good and is_manager(manager)
    out[#out + 1] = { tostring(name), manager }
  end
  if not good then
    errors.misuse(4, "render: managers must be a manager or a table of them")
  end
  table.sort(out, function(a, b) return a[1] < b[1] end)
  if #out == 1 and managers[1] then out[1][1] = nil end
  return out
end


local function with_comma(labels)
  return labels == "" and labels or labels .. ","
end


-- The records of one manager by scope; nil when it has been disposed of.
local function records_of(state, name, manager, health)
  local raw = metrics.snapshot(manager)
  if not raw then return nil end
  local labels = state.labels
  if name then labels = join(labels, 'manager="' .. escape(name) .. '"') end
  state.prefix = state.prefix or raw.prefix
  raw.other_pools = raw.others and raw.others.tenants
  local first = with_comma(labels)
  local out = { raw = raw, wall = raw.wall, now_ms = raw.now_ms, labels = labels,
                health_result = health }
  out.manager = { { labels, raw } }
  out.shared = { { labels, raw.shared_view } }
  out.server_only, out.server = server_records(raw, first)
  breathe(state)
  return out
end


-- What goes beyond `bytes` is added to the others.
local function fit_tenants(state, bytes)
  local each = math.floor(bytes / math.max(#state.managers, 1))
  for _, records in ipairs(state.managers) do
    local first = with_comma(records.labels)
    if state.tenants and records.raw.tenants then
      tally.fit(records.raw, each, #state.prefix + #first,
                function() breathe(state) end)
    else
      if records.raw.tallies then records.raw.tallies:close() end
      records.raw.tenants = nil
    end
    tenant_records(records.raw, first, records)
    health_records(records.raw, first, records.health_result, records)
  end
end


local LATE = { tenant = true, entry = true, health = true, health_entry = true }

local function families(state, late, out)
  local bytes = 0
  for _, s in ipairs(series) do
    if (LATE[s.scope] or false) == late then
      local lines = family(state, s)
      if lines then
        out[#out + 1] = lines
        bytes = bytes + #lines
      end
    end
  end
  return bytes
end


local function render(state, list, health)
  for _, item in ipairs(list) do
    local result = health
    if health and item[1] and not health.pools then result = health[item[1]] end
    state.managers[#state.managers + 1] =
      records_of(state, item[1], item[2], result)
  end
  state.prefix = state.prefix or "mtenant"
  local process = { wall = 0, now_ms = 0, labels = "", raw = {},
                    process = { { state.labels, process_record() } } }
  local out = {}
  state.managers[#state.managers + 1] = process
  local bytes = families(state, false, out)
  state.managers[#state.managers] = nil
  fit_tenants(state, MAX_BYTES - bytes - 1024)
  families(state, true, out)
  if state.openmetrics then out[#out + 1] = "# EOF\n" end
  return concat(out)
end


--- The metrics of managers as text. In a task it is cut into slices of a few
--- milliseconds; elsewhere it is done in one go.
---@param managers mtenant.TenantManager|table  one, or a table of them by name
---  (label `manager`)
---@param opts? table  openmetrics (false), prefix (the configuration's, "mtenant"),
---  labels (a table of more labels), tenants (true: series of single tenants),
---  health (what health_check has returned; or by the manager's name)
---@return string|nil text
---@return mtenant.error|nil err  of a task that is to stop
function M.render(managers, opts)
  opts = options:check(opts or {}, 2)
  local list = list_of(managers)
  local state = {
    openmetrics = opts.openmetrics, prefix = opts.prefix, tenants = opts.tenants,
    labels = fixed_labels(opts.labels, list[1] and list[1][1]), managers = {},
    task = task.current() ~= nil, until_ms = core.now_ms() + SLICE_MS,
  }
  local ok, result = pcall(render, state, list, opts.health)
  if ok then return result end
  if errors.is(result) then return nil, result end
  error(result, 0)
end


--- The media type of a text.
---@param openmetrics? boolean
---@return string
function M.content_type(openmetrics)
  if openmetrics then
    return "application/openmetrics-text; version=1.0.0; charset=utf-8"
  end
  return "text/plain; version=0.0.4; charset=utf-8"
end


-- "text/plain;version=0.0.4;q=0.3" -> "text/plain", 0.3
local function media_range(item)
  local kind = item:match("^%s*([^%s;,]+)")
  local q = item:match(";%s*[qQ]%s*=%s*([^%s;]*)")
  return kind and kind:lower(), q and (tonumber(q) or 0) or 1
end


--- Whether a request's Accept header prefers OpenMetrics to Prometheus' text.
---@param accept? string
---@return boolean
function M.wants_openmetrics(accept)
  local best, plain = 0, nil
  for item in (accept or ""):gmatch("[^,]+") do
    local kind, q = media_range(item)
    if kind == "application/openmetrics-text" then
      best = math.max(best, q)
    elseif kind == "text/plain" or not plain and (kind == "text/*"
                                                  or kind == "*/*") then
      plain = q
    end
  end
  return best > 0 and best >= (plain or 0)
end


return M
