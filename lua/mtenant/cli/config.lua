--- The configuration file of a command: finding it, loading it, and the
-- migrator that it asks for. Every error is one line.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"

local NAME = "tenant.config.lua"
local LEVELS = 40

-- Options of the command line that the migrator takes under the same name.
local PASSED_ON = { "lock_timeout_ms", "statement_timeout_ms", "lock_wait_ms",
                    "allow_out_of_order", "allow_edited" }

local FOLDERS = {
  tenant = { "migrations_folder", "tenant_folder" },
  shared = { "shared_folder", "shared_migrations_folder" },
}

local M = {}


local function exists(path)
  local file = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil
end


--- The nearest one, from this directory upwards; nil and a message.
---@return string|nil path
---@return string|nil message
function M.find()
  local above = ""
  for _ = 1, LEVELS do
    if exists(above .. NAME) then
      return above .. NAME
    end
    above = "../" .. above
  end
  return nil, ("there is no %s here or in a directory above; name one by "
    .. "--config FILE"):format(NAME)
end


local function copy(t)
  local out = {}
  for key, value in pairs(t) do
    out[key] = value
  end
  return out
end


local function one_line(text)
  return (text:gsub("%s*\n%s*", " "))
end


--- What the file returns.
local function run_file(path)
  local chunk, err = loadfile(path)
  if not chunk then
    return nil, one_line(err)
  end
  local dir = path:match("^(.*/)") or "./"
  package.path = dir .. "?.lua;" .. package.path
  local ok, value = pcall(chunk, path)
  if not ok then
    local text = errors.text_of(value)
    local placed = text:find(path, 1, true)
    return nil, one_line(placed and text or path .. ": " .. text)
  elseif type(value) ~= "table" then
    return nil, ("%s returns a %s, not a table"):format(path, type(value))
  end
  return value, dir
end


--- What t[name] names, if it is a path, is relative to the file.
local function place(t, name, dir)
  local path = t[name]
  if type(path) == "string" and path ~= "" and path:sub(1, 1) ~= "/" then
    t[name] = (dir .. path):gsub("^%./", "")
  end
end


local function place_folders(migrations, dir)
  for _, names in pairs(FOLDERS) do
    for _, name in ipairs(names) do
      place(migrations, name, dir)
    end
  end
end


local function set_folder(migrations, which, folder)
  for _, name in ipairs(FOLDERS[which]) do
    migrations[name] = nil
  end
  migrations[FOLDERS[which][1]] = folder
end


local function apply_options(settings, opts)
  local config, migrations = settings.config, settings.migrations
  if opts.migrations_folder then
    set_folder(migrations, opts.folder_is or "tenant", opts.migrations_folder)
  end
  if opts.url then
    local given = config.connection
    config.connection = copy(type(given) == "table" and given or {})
    config.connection.url = opts.url
  end
  for _, name in ipairs(PASSED_ON) do
    if opts[name] ~= nil then
      migrations[name] = opts[name]
    end
  end
end


--- The file that --config names, or the nearest one; what it returns, and its
-- folder.
local function read(opts)
  local path, err = opts.config, nil
  if not path then
    path, err = M.find()
  end
  if not path and opts.may_lack_config then
    return {}, "./", "the configuration"
  elseif not path then
    return nil, err
  end
  local value, dir = run_file(path)
  return value, dir, path
end


--- Loads the file, with the command's options laid over it.
---@param opts table  config, url, migrations_folder, ...; folder_is = "shared":
--- migrations_folder is that of the shared schema; migrations_optional: the file
--- need not have that table; may_lack_config: nor need there be a file
---@return table|nil settings  { path, config, migrations }
---@return string|nil message
function M.load(opts)
  local value, dir, path = read(opts)
  if not value then
    return nil, dir
  end
  local migrations = value.migrations
  if migrations == nil and (opts.may_lack_config or opts.migrations_optional) then
    migrations = {}
  end
  if type(migrations) ~= "table" then
    return nil, path .. " has no table named migrations"
  end
  local settings = { path = path, config = copy(value),
                     migrations = copy(migrations) }
  settings.config.migrations = nil
  place(settings.config, "policy", dir)
  place_folders(settings.migrations, dir)
  apply_options(settings, opts)
  return settings
end


--- The folder of the migrations; nil and a message when none is named.
---@param settings table
---@param which string tenant or shared
function M.folder(settings, which)
  local names = FOLDERS[which]
  local folder = settings.migrations[names[1]] or settings.migrations[names[2]]
  if type(folder) == "string" then
    return folder
  end
  return nil, ("%s: migrations.%s_folder is missing"):format(settings.path, which)
end


--- The migrator that the settings ask for; nil and a message when something
-- in them is wrong.
---@param settings table
function M.migrator(settings)
  local ok, migrator, err = pcall(mtenant.create_migrator, settings.config,
                                  settings.migrations)
  if ok and migrator then
    return migrator
  end
  return nil, one_line(settings.path .. ": "
    .. errors._bare(ok and err or migrator))
end


--- The tenants that tenant_discovery names; nil and an error or a message.
function M.discover(settings, migrator)
  local ids, err = migrator:discover()
  if ids or not errors.is(err, errors.CODE.policy) then
    return ids, err
  end
  return nil, settings.path .. ": " .. err.message
end


return M
