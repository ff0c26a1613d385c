--- Routes: checking what a resolver or a template answers.
-- A route says where a tenant lives: { url =, schema =, role = }. Pure but for
-- the user's functions that it calls; used by manager.lua.

local errors = require "mtenant.errors"


local errors_is, pcall, type = errors.is, pcall, type


local M = {}


local function policy_error(id, fmt, ...)
  return errors.new("policy", string.format(fmt, ...), { tenant_id = id })
end


-- a name from one of the config's templates: string, or nil and an error
local function from_template(id, what, template)
  local ok, name = pcall(template, id)
  if not ok then
    return nil, policy_error(id, "%s raised: %s", what, errors.text_of(name))
  end
  if type(name) ~= "string" then
    return nil, policy_error(id, "%s must return a string, it returned %s",
                             what, type(name))
  end
  return name
end


local ROUTE_FIELDS = { url = true, schema = true, role = true, server = true,
                       labels = true }


local function check_route(id, route)
  for key, value in pairs(route) do
    if not ROUTE_FIELDS[key] then
      return policy_error(id, "route.%s is not a field of a route",
                          tostring(key))
    end
    if key ~= "labels" and type(value) ~= "string" then
      return policy_error(id, "route.%s must be a string, got %s", key,
                          type(value))
    end
  end
end


-- C strings end at a NUL byte: what is behind it must not get lost.
local function nul_error(id, route)
  for _, key in ipairs({ "schema", "role", "url" }) do
    if route[key] and route[key]:find("\0", 1, true) then
      return errors.new("invalid_tenant_id", string.format(
        'the %s of tenant "%s" contains a NUL byte', key, id),
        { tenant_id = id })
    end
  end
end


-- fills in what the config knows; route, or nil and an error
local function complete(isolation, id, route)
  local i = isolation
  local out = { url = route.url, schema = route.schema, role = route.role }
  local err
  if not out.schema then
    if not i.schema_name_template then
      return nil, policy_error(id, "route.schema is missing, and there is no "
        .. "schema_name_template")
    end
    out.schema, err = from_template(id, "isolation.schema_name_template",
                                    i.schema_name_template)
    if err then return nil, err end
  end
  if not out.role and i.role_template then
    out.role, err = from_template(id, "isolation.role_template",
                                  i.role_template)
    if err then return nil, err end
  end
  err = nul_error(id, out)
  if err then return nil, err end
  return out
end


local function no_route(id, reason)
  if errors_is(reason) then return reason end
  local text = reason == nil and "no route for this tenant"
    or errors.text_of(reason)
  return errors.new("tenant_not_found", text, { tenant_id = id })
end


-- the code of what a resolver raised is kept, unless it is a bug of its own
local function raised(id, err)
  if errors_is(err) and err.code ~= "misuse" then return err end
  return policy_error(id, "resolve raised: %s", errors.text_of(err))
end


--- Asks the user's resolver; it may wait.
---@param cfg mtenant.config
---@param id string
---@param ctx table
---@return table|nil route
---@return mtenant.error|nil err
function M.resolve(cfg, id, ctx)
  local ok, route, reason = pcall(cfg.resolve, id, ctx)
  if not ok then return nil, raised(id, route) end
  if route == nil then return nil, no_route(id, reason) end
  if type(route) ~= "table" then
    return nil, policy_error(id, "resolve must return a table or nil, it "
      .. "returned %s", type(route))
  end
  local err = check_route(id, route)
  if err then return nil, err end
  return complete(cfg.isolation, id, route)
end


--- The route by the templates alone.
---@param cfg mtenant.config
---@param id string
---@return table|nil route
---@return mtenant.error|nil err
function M.from_templates(cfg, id)
  return complete(cfg.isolation, id, {})
end


--- The schema by the template, without a route.
---@param cfg mtenant.config
---@param id string
---@return string|nil schema
---@return mtenant.error|nil err
function M.schema_name(cfg, id)
  local template = cfg.isolation.schema_name_template
  if not template then
    return nil, policy_error(id, 'the route of "%s" is not known yet', id)
  end
  return from_template(id, "isolation.schema_name_template", template)
end


return M
