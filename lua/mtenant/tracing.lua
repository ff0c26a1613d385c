--- What tells the server, and who reads its logs, whom a statement is for: SQL
-- comments in the format of sqlcommenter, an application_name per tenant, and
-- the ids of a request, which log lines have as well. Pure.

local schema = require "mtenant.schema"

local format = string.format

local VALUE_MAX = 256
local COMMENT_MAX = 1500
local NAME_MAX = 63 -- what PostgreSQL keeps of an application_name
local SETTINGS_MAX = 16 -- of a route

-- What a comment has of the context, unless it is told by name.
local USUAL = { "action", "application", "controller", "framework",
                "request_id", "route", "tenant", "traceparent", "tracestate" }

local M = {}


local function check_keys(keys)
  if type(keys) ~= "table" then return nil end
  for i, key in ipairs(keys) do
    if key == "" then return "%s[" .. i .. "] is no key" end
  end
  return nil
end


--- The fields of a configuration, for a schema.
---@param prefix string path before each name, "tracing."
---@return mtenant.schema.field[]
function M.fields(prefix)
  return {
    { prefix .. "comments", kind = { "boolean", "strings" }, default = false,
      check = check_keys },
    { prefix .. "tags", kind = "function" },
    { prefix .. "application_name", kind = { "boolean", "function" },
      default = false },
  }
end


-- ---- of requests -----------------------------------------------------------

--- The ids that a request brings, checked: what came from outside is taken only
--- in the form that it must have.
---@param headers table|nil  by their names in lower case
---@return table  request_id, trace_id, traceparent, tracestate; those there are
function M.of_headers(headers)
  local out = {}
  if type(headers) ~= "table" then return out end
  local parent = headers.traceparent
  if type(parent) == "string" then
    local version, trace, span = parent:match(
      "^(%x%x)%-(%x+)%-(%x+)%-%x%x%-?")
    local whole = version and (#parent == 55 or version ~= "00" and #parent > 55
                               and #parent <= 256)
    if whole and version ~= "ff" and #trace == 32 and #span == 16
      and not parent:find("%u") and parent:find("^[%w-]+$")
      and trace:find("[^0]") and span:find("[^0]") then
      out.traceparent, out.trace_id = parent, trace
      local state = headers.tracestate
      if type(state) == "string" and #state <= 512
        and state:find("^[\32-\126]*$") then
        out.tracestate = state
      end
    end
  end
  local id = headers["x-request-id"]
  if type(id) == "string" and #id <= 128 and id:find("^[%w_.:@+/=-]+$") then
    out.request_id = id
  end
  out.request_id = out.request_id or out.trace_id
  return out
end


-- ---- comments --------------------------------------------------------------

-- All but what is never special anywhere, so that no value ends the comment,
-- its quotes, or the line.
local function encode(text)
  return (text:gsub("[^%w_.~-]", function(c)
    return format("%%%02X", c:byte())
  end))
end


--- A comment in the format of sqlcommenter; nil where there is nothing to say.
---@param values table  by key; strings, numbers and booleans
---@return string|nil
function M.comment(values)
  local keys, out, bytes = {}, {}, 4
  for key, value in pairs(values) do
    local kind = type(value)
    if type(key) == "string" and key ~= "" and #key <= 64 and value ~= ""
      and (kind == "string" or kind == "number" or kind == "boolean") then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local pair = encode(key) .. "='"
      .. encode(tostring(values[key]):sub(1, VALUE_MAX)) .. "'"
    if bytes + #pair + 1 <= COMMENT_MAX then
      out[#out + 1] = pair
      bytes = bytes + #pair + 1
    end
  end
  if #out == 0 then return nil end
  return "/*" .. table.concat(out, ",") .. "*/"
end


local function add_tags(values, tags, context, tenant_id)
  local ok, more = pcall(tags, context, tenant_id)
  if not ok or type(more) ~= "table" then return end
  for key, value in pairs(more) do values[key] = value end
end


--- What makes the comment of a statement for a tenant; nil where none is wanted.
---@param opts table  config.tracing
---@param latest fun(): table|nil  the context of who runs it
---@return (fun(tenant_id: string): string|nil)|nil
function M.tagger(opts, latest)
  if not opts.comments then return nil end
  local keys = type(opts.comments) == "table" and opts.comments or USUAL
  local wanted = {}
  for _, key in ipairs(keys) do wanted[key] = true end
  return function(tenant_id)
    local context, values = latest() or {}, {}
    for key in pairs(wanted) do values[key] = context[key] end
    values.tenant = wanted.tenant and tenant_id or nil
    if opts.tags then add_tags(values, opts.tags, context, tenant_id) end
    return M.comment(values)
  end
end


-- ---- application_name ------------------------------------------------------

--- The application_name of a tenant's statements; nil: as the connection has it.
---@param cfg mtenant.config
---@param tenant_id string
---@return string|nil
function M.application_name(cfg, tenant_id)
  local how = cfg.tracing and cfg.tracing.application_name
  if not how then return nil end
  local name = cfg.connection.application_name .. ":" .. tenant_id
  if schema.is_callable(how) then
    local ok, made = pcall(how, tenant_id)
    if not ok or type(made) ~= "string" then return nil end
    name = made
  end
  return (name:gsub("[^\32-\126]", "?"):sub(1, NAME_MAX))
end


--- Gives a tenant's route its application_name, as one of its settings, unless it
--- has one of its own, or as many settings as it may have.
---@param cfg mtenant.config
---@param tenant_id string
---@param route table
---@return table route
function M.name_route(cfg, tenant_id, route)
  local name = M.application_name(cfg, tenant_id)
  if not name then return route end
  local settings, n = { application_name = name }, 1
  for key, value in pairs(route.settings or {}) do
    if key:lower() == "application_name" then return route end
    settings[key], n = value, n + 1
  end
  if n > SETTINGS_MAX then return route end
  route.settings = settings
  return route
end


return M
