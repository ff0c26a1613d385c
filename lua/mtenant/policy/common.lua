--- What the shipped policies share: policies in the place of policies, routes
--- with {id} in their texts. Pure; also runs in the sandbox.

local options = require "mtenant.policy.options"

local pairs, type = pairs, type


local M = { check = options.check }

--- Tells the reader of --explain why; outside of it, it costs nothing.
function M.note(ctx, fmt, ...)
  if ctx.note then ctx.note(fmt, ...) end
end


--- A name for SQL.
function M.quote(name)
  return '"' .. name:gsub('"', '""') .. '"'
end


--- "app.tenants": each part by itself.
function M.quote_path(name)
  return (name:gsub("[^.]+", M.quote))
end


local function url_encode(id)
  return (id:gsub("[^%w_.~-]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end


--- A route with the tenant's id for {id} in all its texts; in a url it is
--- encoded. What was given is not changed.
---@param route any
---@param id string
---@param key? any  the field that this is
---@return any
function M.expand(route, id, key)
  if type(route) == "string" then
    local text = key == "url" and url_encode(id) or id
    return (route:gsub("{id}", (text:gsub("%%", "%%%%"))))
  elseif type(route) ~= "table" then
    return route
  end
  local out = {}
  for name, value in pairs(route) do out[name] = M.expand(value, id, name) end
  return out
end


--- What was given in the place of a policy, as one.
---@param value table|function|string
---@return table
function M.policy(value)
  if type(value) == "function" then return { resolve = value } end
  if type(value) == "string" then value = { server = value } end
  if value.resolve then return value end
  return { resolve = function(id) return M.expand(value, id) end }
end


--- A copy of a route with one label more.
function M.label(route, key, value)
  if type(route) ~= "table" then return route end
  local out, labels = {}, { [key] = value }
  for name, field in pairs(route) do out[name] = field end
  for name, text in pairs(route.labels or {}) do labels[name] = text end
  out.labels = labels
  return out
end


--- A rule that names something for each tenant, as a function(id, ctx): a
--- function, a table by id, or a pattern with a capture for the id.
function M.chooser(rule)
  if type(rule) == "function" then return rule end
  if type(rule) == "table" then return function(id) return rule[id] end end
  return function(id) return (id:match(rule)) end
end


return M
