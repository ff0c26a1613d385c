--- Migrates shops ring by ring: one that can bear it, a few more, then all. A
-- ring begins when the one before it has gone well.
--
--   mtenant-run --pg migrate.lua [SHOPS]
--
-- SHOPS (40) are made if there are none. Without --pg in DATABASE_URL.

local here = arg[0]:match("^(.*)/[^/]*$") or "."
local mtenant = require "mtenant"
local terminal = require "mtenant.cli.terminal"

local SHOPS = math.tointeger(tonumber(arg[1] or 40))
local RINGS = { "canary", "early", "everybody else" }

local config = dofile(here .. "/tenant.config.lua")
local options = config.migrations
config.migrations = nil
options.tenant_folder = here .. "/" .. options.tenant_folder

local manager = assert(mtenant.create_tenant_manager(config))
local migrator = mtenant.create_migrator(config, options)
local shared = manager:get_shared_db()
local screen = terminal.new(2)


local function make_shops()
  assert(shared:exec("CREATE TABLE IF NOT EXISTS shops "
    .. "(id text PRIMARY KEY, ring int NOT NULL)"))
  if assert(shared:value("SELECT count(*) FROM shops")) > 0 then return end
  for i = 1, SHOPS do
    local id, ring = ("s%03d"):format(i), i == 1 and 1 or i <= SHOPS / 10 and 2 or 3
    assert(migrator:create_tenant(id, { migrate = false }))
    assert(shared:query("INSERT INTO shops VALUES ($1, $2)", id, ring))
  end
end


local function shops_of(ring)
  local ids = {}
  for i, row in ipairs(assert(shared:query(
    "SELECT id FROM shops WHERE ring = $1 ORDER BY id", ring))) do
    ids[i] = row.id
  end
  return ids
end


--- Draws a line, on a terminal, in the place of the one before.
local function draw(...)
  if screen.live then
    io.stderr:write("\r", screen:render({ ... }, screen:width()), "\27[K")
  end
end


local function migrate(name, ids)
  local done, files = 0, 0
  local results = assert(migrator:migrate_tenants(ids, {
    stop_on_error = true,
    on_progress = function(_, status)
      if status == "completed" or status == "failed" then
        done = done + 1
        local full, empty = screen:bar(done, #ids, 30)
        draw(full, empty, ("  %s %d/%d"):format(name, done, #ids))
      end
    end,
  }))
  draw()
  for _, result in ipairs(results.details) do
    files = files + #result.applied_migrations
    if result.error and not result.skipped then
      io.stderr:write(tostring(result.error), "\n")
    end
  end
  print(("%s: %d of %d shops are up to date, %d files applied"):format(name,
    results.succeeded, results.total, files))
  return results.succeeded == results.total
end


make_shops()
for ring, name in ipairs(RINGS) do
  if not migrate(name, shops_of(ring)) then
    print("stopped; the rings after this one are as they were")
    return 1
  end
end
