--- mtenant continues what drizzle-multitenant has migrated, and the other way
--- round. Called by run.sh, on a throwaway server.

local mtenant = require "mtenant"

local work = assert(os.getenv("COMPAT_WORK"))
local folder = work .. "/migrations"
local url = assert(os.getenv("DATABASE_URL"))
local passed, failed = 0, 0


local function check(what, expected, got)
  if expected == got then
    passed = passed + 1
  else
    failed = failed + 1
    print(("%s: expected %s, got %s"):format(what, expected, got))
  end
end


local function write(name, text)
  local file = assert(io.open(folder .. "/" .. name, "w"))
  file:write(text)
  file:close()
end


-- what theirs says, in one line
local function theirs(format)
  local pipe = assert(io.popen(("cd %s && COMPAT_URL='%s' node theirs.mjs %s %s 2>&1")
    :format(work, url, folder, format)))
  local text = pipe:read("a")
  pipe:close()
  return (text:gsub("\n$", ""):gsub("\n", " "))
end


local tenants = assert(mtenant.create_tenant_manager {
  isolation = { schema_name_template = function(id) return "t_" .. id end },
})
local shared = assert(tenants:get_shared_db())


local function ours(format)
  local migrator = mtenant.create_migrator({
    isolation = { schema_name_template = function(id) return "t_" .. id end },
  }, { migrations_folder = folder, default_format = format,
       tenant_discovery = function() return { "a", "b" } end })
  local results = assert(migrator:migrate_all())
  local out = {}
  for i, r in ipairs(results.details) do
    out[i] = r.success and #r.applied_migrations or tostring(r.error)
  end
  local status = assert(migrator:get_status())
  migrator:dispose()
  return table.concat(out, " "), status[1].format, status[1].status
end


for _, format in ipairs({ "name", "hash", "drizzle-kit" }) do
  for _, first in ipairs({ "theirs", "ours" }) do
    local what = format .. ", first " .. first .. ": "
    os.execute("rm -rf " .. folder .. "; mkdir " .. folder)
    assert(shared:exec("DROP SCHEMA IF EXISTS t_a CASCADE; "
      .. "DROP SCHEMA IF EXISTS t_b CASCADE; DROP SCHEMA IF EXISTS mtenant CASCADE; "
      .. "CREATE SCHEMA t_a; CREATE SCHEMA t_b"))
    write("0001_items.sql", "CREATE TABLE items (id int PRIMARY KEY);")
    write("0002_rows.sql", "INSERT INTO items VALUES (1);")
    if first == "theirs" then check(what .. "1", "2 2", theirs(format))
    else check(what .. "1", "2 2", (ours(format))) end
    write("0003_rows.sql", "INSERT INTO items VALUES (2);")
    if first == "theirs" then
      local applied, seen, status = ours(format)
      check(what .. "2", "1 1", applied)
      check(what .. "format", format, seen)
      check(what .. "status", "ok", status)
    else
      check(what .. "2", "1 1", theirs(format))
    end
    write("0004_rows.sql", "INSERT INTO items VALUES (3);")
    if first == "theirs" then check(what .. "3", "1 1", theirs(format))
    else check(what .. "3", "1 1", (ours(format))) end
    check(what .. "again, theirs", "0 0", theirs(format))
    check(what .. "again, ours", "0 0", (ours(format)))
    check(what .. "rows", 3, shared:value("SELECT count(*) FROM t_b.items"))
    check(what .. "records", 4,
          shared:value("SELECT count(*) FROM t_a.__drizzle_migrations"))
  end
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
