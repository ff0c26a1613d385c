--- Brings tenants up to date: the SQL files of a directory, in the order of
-- their names, each applied once.
--
-- A tenant is done in one transaction: what it lacks and the records of it are
-- there together or not at all, and a second run finds nothing to do.

local errors = require "mtenant.errors"
local for_each = require "demo.for_each"
local mtenant = require "mtenant"

local AT_A_TIME = 8

local RECORDS = [[
  CREATE TABLE IF NOT EXISTS migrations (
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
  );
  LOCK TABLE migrations IN SHARE ROW EXCLUSIVE MODE;
]]

local M = {}


local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end


local function names_in(directory)
  local quoted = "'" .. directory:gsub("'", "'\\''") .. "'"
  local pipe = assert(io.popen("LC_ALL=C ls " .. quoted))
  local names, err = pipe:read("a")
  pipe:close()
  if not names then -- a signal ends the read: then this task is to stop
    assert(mtenant.sleep(1000))
    error(directory .. ": " .. err, 0)
  end
  return names
end


--- The SQL files of a directory.
---@return table[] list of { name =, sql = }, by name
function M.load(directory)
  local files = {}
  for name in names_in(directory):gmatch("[^\n]+") do
    if name:match("%.sql$") then
      files[#files + 1] = { name = name,
                            sql = read_file(directory .. "/" .. name) }
    end
  end
  return files
end


local function applied(tx)
  local names = {}
  for _, row in ipairs(assert(tx:query("SELECT name FROM migrations"))) do
    names[row.name] = true
  end
  return names
end


local function in_file(file, err)
  local message = file.name .. ": " .. err.message
  return errors.new(err.code, message, { tenant_id = err.tenant_id,
                                         sqlstate = err.sqlstate, cause = err })
end


--- Returns how many files were applied, or nil and an error.
local function apply_to(db, files)
  return db:transaction({ retry = 3 }, function(tx)
    local n = 0
    assert(tx:exec(RECORDS))
    local there = applied(tx)
    for _, file in ipairs(files) do
      if not there[file.name] then
        local _, err = tx:exec(file.sql)
        if err then
          return nil, in_file(file, err)
        end
        assert(tx:query("INSERT INTO migrations (name) VALUES ($1)", file.name))
        n = n + 1
      end
    end
    return n
  end)
end


--- Applies the files to all tenants, in parallel. Raises the first failure.
---@param progress fun(done: integer)
---@return integer applied  files times tenants
function M.apply(manager, list, files, progress)
  local total = 0
  for_each(list, AT_A_TIME, progress, function(tenant)
    local db = assert(manager:get_db_async(tenant.id))
    local count = assert(apply_to(db, files))
    total = total + count
    return count
  end)
  return total
end


return M
