--- The configuration's `servers`: names for the servers that routes lead to.
-- A url there is completed by what connection.url says and it does not: login,
-- password, database, TLS. Used by config (the shape), routing and servers.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"


local format, ipairs, pairs, type = string.format, ipairs, pairs, type


local M = {}


local FIELDS = { url = true, labels = true }


-- Why these are no labels, or nil; `path` leads to them.
local function labels_problem(labels, path)
  if labels == nil then return nil end
  if type(labels) ~= "table" then
    return format("%s must be a table, got %s", path, type(labels))
  end
  for key, value in pairs(labels) do
    if type(key) ~= "string" or key == "" or key:find("\0", 1, true) then
      return format("%s: a label's name must be a string, got %s", path,
                    type(key) == "string" and "one that is none" or type(key))
    end
    local name = path .. "." .. schema.printable(key, 60)
    if type(value) ~= "string" then
      return format("%s must be a string, got %s", name, type(value))
    end
    if value:find("\0", 1, true) then
      return name .. " must not contain a NUL byte"
    end
  end
end


M.labels_problem = labels_problem


--- What nothing can be: empty, or with a NUL byte; or nil.
function M.text_problem(value, path)
  if type(value) ~= "string" then
    return format("%s must be a string, got %s", path, type(value))
  end
  if value == "" then return path .. " must not be empty" end
  if value:find("\0", 1, true) then
    return path .. " must not contain a NUL byte"
  end
end


local function server_problem(server, path)
  if type(server) == "string" then return M.text_problem(server, path) end
  if type(server) ~= "table" then
    return format("%s must be a url or a table, got %s", path, type(server))
  end
  for key in pairs(server) do
    if not FIELDS[key] then
      return format("%s has no field %s: url and labels", path, tostring(key))
    end
  end
  return M.text_problem(server.url, path .. ".url")
    or labels_problem(server.labels, path .. ".labels")
end


--- For the configuration's schema: a message, or nil.
---@param servers table|nil
---@return string|nil
function M.check(servers)
  if servers == nil then return nil end
  for name, server in pairs(servers) do
    if type(name) ~= "string" or not name:find("^[%w_.-]+$") then
      return "%s: the name of a server is made of letters, digits, and "
        .. "_ . -, got " .. schema.printable(tostring(name), 60)
    end
    local problem = server_problem(server, "%s." .. name)
    if problem then return problem end
  end
end


local function text_of(server)
  return type(server) == "table" and server.url or server
end


--- The names of a configuration's servers, sorted.
---@param cfg table
---@return string[]
function M.names(cfg)
  local names = {}
  for name in pairs(cfg.servers or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end


local prepared = setmetatable({}, { __mode = "k" })


local function prepare(cfg)
  local core = require "mtenant.core" -- a configuration can do without
  local out = { names = M.names(cfg), by_name = {} }
  -- of no use where it is wrong: then there is no manager either
  out.own = core.server_url(cfg.connection.url)
  for name, server in pairs(cfg.servers or {}) do
    local address, url = core.server_url(text_of(server), cfg.connection.url)
    if not address then
      return nil, errors.new("misuse", format("config.servers.%s: %s", name,
                                              url.message))
    end
    out.by_name[name] = {
      name = name, url = url, given = text_of(server), address = address,
      labels = type(server) == "table" and server.labels or nil,
    }
  end
  return out
end


--- The servers of a defined configuration.
---@param cfg mtenant.config
---@return table|nil servers  names: sorted; by_name: { name, url (complete, with
---  its password), given (as written), address ("host:port"), labels }; own: the
---  address of connection.url
---@return mtenant.error|nil err  of code misuse: a url is none
function M.of(cfg)
  local out, err = prepared[cfg]
  if out then return out end
  out, err = prepare(cfg)
  if not out then return nil, err end
  prepared[cfg] = out
  return out
end


--- The one of that name, or nil and what is wrong with the name.
---@return table|nil server
---@return string|nil problem
function M.find(cfg, name)
  local servers = M.of(cfg)
  local server = servers and servers.by_name[name]
  if not server and cfg.any_server then server = cfg.any_server(name) end
  if server then return server end
  local text = format('"%s" is none of config.servers',
                      schema.printable(name, 60))
  local meant = servers and schema.nearest(servers.names, name)
  return nil, meant and format('%s, did you mean "%s"?', text, meant) or text
end


--- A url without its password.
---@param url string
---@return string
function M.public_url(url)
  local out = url:gsub("^(%a[%w+.-]*://[^/@:?]*):[^@]*@", "%1@")
  if out:find("://", 1, true) then
    out = out:gsub("([?&])password=[^&]*&?", "%1")
    out = out:gsub("([?&])sslpassword=[^&]*&?", "%1")
    return (out:gsub("[?&]$", ""))
  end
  for _, key in ipairs({ "password", "sslpassword" }) do
    out = (" " .. out):gsub("%f[%w]" .. key .. "%s*=%s*'[^'\\]*'", "")
    -- with escapes in it, or a quote that does not end: all that follows
    out = out:gsub("%f[%w]" .. key .. "%s*=%s*'.*$", "")
    out = out:gsub("%f[%w]" .. key .. "%s*=%s*%S+", "")
    out = out:gsub("^%s+", ""):gsub("%s%s+", " ")
  end
  return (out:gsub("%s+$", ""))
end


return M
