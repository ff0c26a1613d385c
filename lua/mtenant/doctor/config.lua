--- Doctor: is the configuration right, and is what it says likely meant?

local config = require "mtenant.config"
local errors = require "mtenant.errors"
local named_servers = require "mtenant.named_servers"

local M = {}


-- What has no server at all is asked of DATABASE_URL alone.
local function without_file(case)
  if (case.url or "") == "" then
    case:add("error", "config", "there is neither a tenant.config.lua nor "
      .. "DATABASE_URL", {
        why = "without either there is nothing to look at",
        fix = "export DATABASE_URL=postgresql://user@host/database",
      })
    return
  end
  case:add("info", "config", "no tenant.config.lua: only the server of "
    .. "DATABASE_URL is looked at", {
      fix = "mtenant doctor --config FILE",
    })
  local _
  _, case.cfg = pcall(config.define, {
    connection = { url = case.url },
    isolation = { schema_name_template = function(id) return id end },
  })
end


-- ---- what is likely not meant ------------------------------------------------

local LOCAL = { [""] = true, localhost = true, ["127.0.0.1"] = true,
                ["[::1]"] = true }


--- The hosts of a URL, as far as it can be seen.
---@param url string
---@return string[] hosts
---@return boolean  whether all of them are this machine
function M.hosts(url)
  local rest = url:match("^postgres[ql]*://(.*)$")
  local list
  local out, here = {}, true
  if rest then
    list = rest:gsub("[/?].*$", ""):gsub("^.*@", "")
    local named = rest:match("[?&]host=([^&]*)")
    if named then
      list = named:gsub("%%(%x%x)", function(hex)
        return string.char(tonumber(hex, 16))
      end)
    end
  else
    list = url:match("host%s*=%s*'?([^%s']+)") or ""
  end
  for host in (list .. ","):gmatch("([^,]*),") do
    local bare = host:match("^%[.-%]") or host:gsub(":%d+$", "")
    out[#out + 1] = host
    if not LOCAL[bare] and bare:sub(1, 1) ~= "/" then here = false end
  end
  return out, here
end


local CHECKS = {}


function CHECKS.password(case, _, given)
  local url = type(given.connection) == "table" and given.connection.url
  if type(url) == "string" and url:find("://[^/@%s]*:[^@]+@") then
    case:add("warning", "config", "connection.url has a password in it", {
      why = "who can read the file has it, and so has every backup of it",
      fix = "connection = { password = function() return "
        .. 'os.getenv("PGPASSWORD") end } and a url without it',
    })
  end
end


function CHECKS.tls(case, cfg)
  local url = cfg.connection.url
  local _, here = M.hosts(url)
  local mode = url:match("sslmode=([%w-]+)") or os.getenv("PGSSLMODE")
  if here or mode == "verify-full" or mode == "verify-ca" then return end
  case:add("warning", "config", ("sslmode is %s, and the server is another "
    .. "machine"):format(mode or "not set"), {
      why = "who stands in between can read what is sent, or be the server",
      fix = "connection.url = \"...?sslmode=verify-full\"",
    })
end


function CHECKS.timeout(case, cfg)
  if (cfg.connection.statement_timeout_ms or 0) > 0 then return end
  case:add("warning", "config", "connection.statement_timeout_ms is not set", {
    why = "a statement that hangs holds its connection for ever, unless the "
      .. "server ends it",
    fix = "connection = { statement_timeout_ms = 30000 }",
  })
end


function CHECKS.pool(case, cfg)
  local max, all = cfg.connection.pool.max, cfg.connection.max_connections
  if type(all) == "number" and max > all then
    case:add("info", "config", ("connection.pool.max (%d) is more than "
      .. "connection.max_connections (%d)"):format(max, all), {
        why = "a pool never gets that many",
        fix = ("connection = { pool = { max = %d } }"):format(all),
      })
  end
end


function CHECKS.schema_check(case, cfg)
  if cfg.isolation.verify_schema then return end
  case:add("warning", "config", "isolation.verify_schema is false", {
    why = "a statement of a tenant whose schema is missing runs in the next "
      .. "schema of its path",
    fix = "isolation = { verify_schema = true }",
  })
end


function CHECKS.roles(case, cfg)
  local i = cfg.isolation
  if i.role_template or i.strategy ~= "schema" then return end
  case:add("info", "config", "all tenants work as the same role", {
    why = "a statement that names another tenant's schema by mistake reaches it",
    fix = "isolation.role_template, see docs/security.md",
  })
end


function CHECKS.parameters(case, cfg)
  if not (cfg.debug.enabled and cfg.debug.log_parameters) then return end
  case:add("warning", "config", "debug.log_parameters is on", {
    why = "the log has what users enter, which may be secret",
    fix = "debug = { log_parameters = false }",
  })
end


--- Adds what it finds; sets case.cfg.
function M.run(case)
  if not case.given then return without_file(case) end
  local ok, cfg = pcall(config.define, case.given)
  local known, wrong
  if ok then known, wrong = named_servers.of(cfg) else wrong = cfg end
  if not known then
    case:add("error", "config", case.path .. ": " .. errors._bare(wrong), {
      why = "no manager can be made of it",
      fix = "docs/configuration.md has all keys",
    })
    return
  end
  case.cfg = cfg
  case:add("ok", "config", case.path .. " is well-formed")
  for _, name in ipairs { "password", "tls", "timeout", "pool", "schema_check",
                          "roles", "parameters" } do
    CHECKS[name](case, cfg, case.given)
  end
end


return M
