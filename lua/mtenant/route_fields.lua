--- The fields of a route, as a policy or a resolver answers it: checked, each
-- by its name, before anything is done with them. No I/O. Used by routing.lua,
-- which fills in what the configuration knows.

local core = require "mtenant.core"
local named_servers = require "mtenant.named_servers"
local schema = require "mtenant.schema"


local floor, format, huge = math.floor, string.format, math.huge
local ipairs, pairs, type = ipairs, pairs, type


local READERS_MAX = 16
local SETTINGS_MAX = 16
local LIMIT_MAX = 2147483647


local M = {}


--- What a tenant's route may be by; `hybrid` chooses one of them.
M.STRATEGIES = { schema = true, database = true, row = true }


local FIELDS = { "server", "url", "database", "schema", "role", "strategy",
                 "settings", "pool", "read", "labels", "ttl_ms" }
local POOL_FIELDS = { "max", "max_waiting", "mode" }
local READ_FIELDS = { "max_lag_ms", "read_your_writes" }
local READER_FIELDS = { "server", "url" }


local function as_set(list)
  local out = {}
  for _, name in ipairs(list) do out[name] = true end
  return out
end


local KNOWN = {}
for _, list in ipairs({ FIELDS, POOL_FIELDS, READ_FIELDS, READER_FIELDS }) do
  KNOWN[list] = as_set(list)
end


local function unknown(path, key, fields)
  if type(key) ~= "string" then
    return format("%s[%s] is not a field of a route", path, tostring(key))
  end
  local text = format("%s.%s is not a field of a route", path,
                      schema.printable(key, 60))
  local meant = KNOWN[fields][key .. "_ms"] and key .. "_ms"
    or #key <= 60 and schema.nearest(fields, key)
  return meant and format('%s, did you mean "%s"?', text, meant) or text
end


-- `skip(key)`: that one is somebody else's to look at
local function check_keys(t, path, fields, skip)
  for key in pairs(t) do
    if not KNOWN[fields][key] and not (skip and skip(key)) then
      return unknown(path, key, fields)
    end
  end
end


local function is_finite(n)
  return n == n and n ~= huge and n ~= -huge
end


local function check_text(value, path)
  if value == nil then return nil end
  return named_servers.text_problem(value, path)
end


local function must_be_table(value, path)
  if type(value) ~= "table" then
    return format("%s must be a table, got %s", path, type(value))
  end
end


-- a number of milliseconds: a message, or nil
local function check_ms(value, path, least)
  if value == nil then return nil end
  if type(value) ~= "number" then
    return format("%s must be a number, got %s", path, type(value))
  end
  if not is_finite(value) then return path .. " must be a finite number" end
  if value < least then
    return format("%s must be %s", path,
                  least == 0 and "non-negative" or "at least " .. least)
  end
end


local function check_count(value, path)
  if value == nil then return nil end
  if type(value) ~= "number" or not is_finite(value)
    or value ~= floor(value) then
    return format("%s must be an integer, got %s", path,
                  type(value) == "number" and tostring(value) or type(value))
  end
  if value < 1 or value > LIMIT_MAX then
    return format("%s must be from 1 to %d", path, LIMIT_MAX)
  end
end


-- where one connects to, by server or url: a message, or nil and the server
local function check_place(cfg, place, path)
  if place.server ~= nil and place.url ~= nil then
    return format("%s has both a server and a url: one of them is enough", path)
  end
  local problem = check_text(place.server, path .. ".server")
    or check_text(place.url, path .. ".url")
  if problem or place.server == nil then return problem end
  local server
  server, problem = named_servers.find(cfg, place.server)
  if problem then return format("%s.server: %s", path, problem) end
  return nil, server
end


-- ---- settings, pool ------------------------------------------------------------

-- A number as SQL writes it, whatever the locale.
local function number_text(n)
  if n == floor(n) and n > -1e15 and n < 1e15 then return format("%.0f", n) end
  return (format("%.17g", n):gsub(",", "."))
end


-- a value as text, or nil and a message
local function setting_text(value, path)
  if type(value) == "boolean" then return value and "on" or "off" end
  if type(value) == "number" then
    if is_finite(value) then return number_text(value) end
    return nil, path .. " must be a finite number"
  end
  if type(value) ~= "string" then
    return nil, format("%s must be a string, a number or a boolean, got %s",
                       path, type(value))
  end
  if value:find("\0", 1, true) then
    return nil, path .. " must not contain a NUL byte"
  end
  return value
end


local function read_settings(cfg, settings)
  local problem = must_be_table(settings, "route.settings")
  if problem then return nil, problem end
  local out, n, seen = {}, 0, {}
  for name, value in pairs(settings) do
    if type(name) ~= "string" or name == "" or name:find("\0", 1, true) then
      return nil, "route.settings: a parameter is named by a string, got "
        .. (type(name) == "string" and "one that is none" or type(name))
    end
    local path = "route.settings." .. schema.printable(name, 60)
    if seen[name:lower()] then return nil, path .. " is there twice" end
    if name:lower() == cfg.isolation.tenant_setting then
      return nil, path .. ": it belongs to the tenant's scope"
    end
    out[name], problem = setting_text(value, path)
    if problem then return nil, problem end
    seen[name:lower()] = true
    n = n + 1
  end
  if n > SETTINGS_MAX then
    return nil, format("route.settings has %d parameters, at most %d are "
      .. "possible", n, SETTINGS_MAX)
  end
  return n > 0 and out or nil
end


local function read_pool(pool)
  local problem = must_be_table(pool, "route.pool")
    or check_keys(pool, "route.pool", POOL_FIELDS)
    or check_count(pool.max, "route.pool.max")
    or check_count(pool.max_waiting, "route.pool.max_waiting")
  if problem then return nil, problem end
  if pool.mode ~= nil and pool.mode ~= "dedicated" and pool.mode ~= "shared" then
    return nil, 'route.pool.mode must be "dedicated" or "shared", got '
      .. (type(pool.mode) == "string" and '"' .. pool.mode .. '"'
          or type(pool.mode))
  end
  return { max = pool.max, max_waiting = pool.max_waiting, mode = pool.mode }
end


-- ---- read ----------------------------------------------------------------

local function read_one(cfg, item, path)
  if type(item) == "string" then item = { server = item } end
  local problem = must_be_table(item, path)
    or check_keys(item, path, READER_FIELDS)
  if problem then return nil, problem end
  if item.server == nil and item.url == nil then
    return nil, path .. " needs a server or a url"
  end
  local server
  problem, server = check_place(cfg, item, path)
  if problem then return nil, problem end
  if server then
    return { server = item.server, url = server.url, given = server.given,
             address = server.address }
  end
  local address, err = core.server_url(item.url)
  if not address then return nil, format("%s.url: %s", path, err.message) end
  return { url = item.url, given = item.url, address = address }
end


local function is_index(key)
  return type(key) == "number"
end


local function check_list(read)
  local n = 0
  for key in pairs(read) do
    if is_index(key) then n = n + 1 end
  end
  for i = 1, n do
    if read[i] == nil then
      return format("route.read has holes: route.read[%d] is nil", i)
    end
  end
  if n > READERS_MAX then
    return format("route.read has %d servers, at most %d are possible", n,
                  READERS_MAX)
  end
end


local function read_read(cfg, read)
  local problem = must_be_table(read, "route.read")
    or check_keys(read, "route.read", READ_FIELDS, is_index)
    or check_list(read)
    or check_ms(read.max_lag_ms, "route.read.max_lag_ms", 1)
  if problem then return nil, problem end
  local own = read.read_your_writes
  if own ~= nil and type(own) ~= "boolean" then
    return nil, "route.read.read_your_writes must be a boolean, got "
      .. type(own)
  end
  local out = { max_lag_ms = read.max_lag_ms, read_your_writes = own ~= false }
  for i, item in ipairs(read) do
    out[i], problem = read_one(cfg, item, format("route.read[%d]", i))
    if problem then return nil, problem end
  end
  return #out > 0 and out or nil
end


-- ---- all of it ------------------------------------------------------------

--- A copy of a route, or of a table in it.
---@param t table|nil
---@return table|nil
function M.copy(t)
  if not t then return nil end
  local out = {}
  for key, value in pairs(t) do out[key] = value end
  return out
end


-- those that are texts, and where it is
local function read_texts(cfg, route, out)
  local problem = check_keys(route, "route", FIELDS)
  if problem then return problem end
  -- what names may be is checked where the templates' are, too
  for _, key in ipairs({ "strategy", "database", "schema", "role" }) do
    if route[key] ~= nil and type(route[key]) ~= "string" then
      return format("route.%s must be a string, got %s", key, type(route[key]))
    end
    out[key] = route[key]
  end
  if route.strategy and not M.STRATEGIES[route.strategy] then
    return format('route.strategy must be "schema", "database" or "row", '
      .. 'got "%s"', schema.printable(route.strategy, 60))
  end
  local server
  problem, server = check_place(cfg, route, "route")
  if problem then return problem end
  out.server = route.server
  out.url = server and server.url or route.url
  out.given = server and server.given or route.url
  out.address = server and server.address
end


--- A checked copy of what a policy has answered; or nil and a message that names
-- the field. `url` is complete, `given` as it was written; settings are texts.
---@param cfg mtenant.config
---@param route table
---@return table|nil
---@return string|nil message
function M.read(cfg, route)
  local out = {}
  local problem = read_texts(cfg, route, out)
    or named_servers.labels_problem(route.labels, "route.labels")
    or check_ms(route.ttl_ms, "route.ttl_ms", 0)
  if problem then return nil, problem end
  out.labels, out.ttl_ms = M.copy(route.labels), route.ttl_ms
  if route.settings ~= nil then
    out.settings, problem = read_settings(cfg, route.settings)
    if problem then return nil, problem end
  end
  if route.pool ~= nil then
    out.pool, problem = read_pool(route.pool)
    if problem then return nil, problem end
  end
  if route.read ~= nil then
    out.read, problem = read_read(cfg, route.read)
    if problem then return nil, problem end
    out.address = out.address or out.url and core.server_url(out.url)
      or named_servers.of(cfg).own
  end
  return out
end


return M
