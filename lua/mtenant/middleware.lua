--- Which tenant a request is for, and what is answered when there is none: the
-- part of a web server's middleware that is the same in every host.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local tracing = require "mtenant.tracing"


local options = schema.new({
  name = "middleware",
  { "context", kind = "table", required = true },
  { "identify", kind = "function" },
  { "request", kind = "function" },
  { "validate", kind = "function" },
  { "enrich", kind = "function" },
  { "headers", kind = "function" },
  { "on_error", kind = "function" },
})

local MESSAGES = {
  [400] = "Tenant ID is required",
  [403] = "Invalid tenant",
  [500] = "Internal server error",
  [503] = "Service unavailable",
}

-- the server's trouble, not the request's: it may be tried again
local UNAVAILABLE = {
  breaker_open = true, pool_exhausted = true, timeout = true,
  connection_lost = true, refused = true, unreachable = true, dns = true,
  starting_up = true, too_many_connections = true, disposed = true,
}


-- The request's headers, by their names in lower case.
local function headers_of(o, request)
  if o.headers then return o.headers(request) end
  return type(request) == "table" and request.headers or nil
end


local M = {}


--- The HTTP status that an error object stands for: 400 for a bad tenant id,
-- 403 for an unknown tenant, 503 for a server that can't be had now, else 500.
---@param err any
---@return integer
function M.status_of(err)
  if not errors.is(err) then return 500 end
  if err.code == "invalid_tenant_id" then return 400 end
  if err.code == "tenant_not_found" then return 403 end
  return (UNAVAILABLE[err.code] or err.retryable) and 503 or 500
end


--- What is answered with a status: a table to be sent as JSON. It tells nobody
-- outside what went wrong within.
---@param status integer
---@return table
function M.body_of(status)
  return { error = MESSAGES[status] or MESSAGES[500] }
end


-- the function that finds the tenant of a request
local function identifier(o, level)
  if o.identify then return o.identify end
  local manager, shape = o.context._manager, o.request
  if not manager or not manager:_can_identify() then
    errors.misuse(level + 1, "middleware: identify is required, for the "
      .. "manager has no policy that has one")
  end
  return function(request)
    return manager:identify(shape and shape(request) or request)
  end
end


--- Makes a function that finds a request's tenant and enters its context.
---@param opts table  fields:
--  context   what mtenant.create_tenant_context has made
--  identify(request) -> the tenant's id; nil: there is none. Without it the
--    policy of the manager is asked, which gets what `request` makes of it
--  request(request) -> { host =, path =, method =, headers = }; the host's own
--  validate(id, request) -> may it be served? optional
--  headers(request) -> table of its headers by lower-case names, for the ids
--      of log lines and SQL comments (X-Request-Id, traceparent, tracestate);
--      by default request.headers; optional
--  enrich(id, request) -> table of what else the context is to have; optional
--  on_error(err, status, request)  hears of what went wrong; optional
---@return fun(request: any): boolean, integer|nil, table|nil  true, or false
--  with the status and body of the answer
function M.new(opts)
  local o = options:check(opts, 2)
  if not schema.is_callable(o.context.enter) then
    errors.misuse(2, "middleware: context must be a tenant context")
  end

  local identify = identifier(o, 2)

  local function refuse(request, status, err)
    if o.on_error then o.on_error(err, status, request) end
    return false, status, M.body_of(status)
  end

  local function enter(request)
    local id, err = identify(request)
    if id == nil or id == "" then
      return refuse(request, err and M.status_of(err) or 400, err or errors.new(
        "invalid_tenant_id", "the request names no tenant"))
    end
    local db
    db, err = o.context:check(id)
    if not db then return refuse(request, M.status_of(err), err) end
    if o.validate then
      local valid
      valid, err = o.validate(id, request)
      if not valid then
        return refuse(request, err and M.status_of(err) or 403, err
          or errors.new("tenant_not_found", "the tenant was not valid",
                        { tenant_id = id }))
      end
    end
    local context = tracing.of_headers(headers_of(o, request))
    if o.enrich then
      for key, value in pairs(o.enrich(id, request) or {}) do
        context[key] = value
      end
    end
    context.tenant_id = id
    o.context:enter(context)
    return true
  end

  return function(request)
    local ok, entered, status, body = pcall(enter, request)
    if ok then return entered, status, body end
    return refuse(request, M.status_of(entered), entered)
  end
end


return M
