--- Operations that disturb others: backends killed, entries evicted, schemas
-- dropped and made again; and operations that are cancelled from outside.

local ledger = require "leaks.ledger"
local mtenant = require "mtenant"
local world = require "leaks.world"

local M = {}


local function kill(c)
  local killed, err = c.world:kill_one(c.rand:int(1000))
  if err then return c:fail(err) end
  if killed then c.world:count("killed backends") end
end


local function evict(c)
  if c.world.manager:evict_pool(c.t.id) then c.world:count("evictions") end
  c:read(c.db, "query after an eviction")
end


--- Again and again until it is done: backends are killed meanwhile, and the
-- tenant's own transactions may be in the way.
local function insist(c, what, attempt)
  for _ = 1, 50 do
    local ok, err = attempt()
    if ok then return true end
    c:fail(err, "any")
    if c.world.stopped then return false end
    mtenant.sleep(2)
  end
  c.world:problem(c, "cannot " .. what .. " the schema")
  return false
end


local function exists(c)
  local found, err = c.world:db(c.world.shared):value(
    "SELECT count(*) FROM pg_namespace WHERE nspname = $1", c.t.schema)
  return found, err
end


local function drop(c)
  local found, err = exists(c)
  if found == 0 then return true end
  if not found then return nil, err end
  local sql = "DROP SCHEMA " .. world.quote(c.t.schema) .. " CASCADE"
  return c.db:query(sql)
end


local function create(c)
  local found, err = exists(c)
  if found == 1 then return true end
  if not found then return nil, err end
  return c.world:db(c.world.shared):exec(world.create_schema(c.t))
end


--- While it is gone its tenant must be told so, and find nothing of others.
local function look_for_it(c)
  local rows, err = c.db:query("SELECT owner FROM me")
  if rows and #rows > 0 then
    c.world:leak("row", c, ("%s read a row of %s after its schema was dropped")
      :format(c.t.mark, tostring(rows[1].owner)))
  elseif err then
    c:fail(err, "tenant_not_found")
  end
  local ok
  ok, err = c.db:transaction(function(tx)
    return tx:value("SELECT owner FROM me")
  end)
  if ok then
    c.world:leak("row", c, ("%s read %s after its schema was dropped"):format(
      c.t.mark, tostring(ok)))
  elseif err then
    c:fail(err, "tenant_not_found")
  end
end


local function drop_schema(c)
  local t = c.t
  if t.shared or t.changing then return c:read(c.db, "query") end
  t.changing = true
  t.epoch = t.epoch + 1
  -- a session keeps its path, whatever becomes of the schema
  while t.sessions > 0 and not c.world.stopped do mtenant.sleep(1) end
  ledger.forget(t)
  if insist(c, "drop", function() return drop(c) end) then
    look_for_it(c)
    c.world:count("dropped schemas")
  end
  insist(c, "create", function() return create(c) end)
  -- the schema that has its name now is another one, and must be said to be
  c.world.manager:invalidate(t.id)
  t.changing, t.epoch = nil, t.epoch + 1
end


M.operations = {
  { "kill", 4, kill },
  { "evict", 6, evict },
  { "drop schema", 3, drop_schema },
}


--- Runs an operation in a task that is cancelled after a moment.
function M.cancelled(c, run)
  c:allow("cancelled", "57014")
  local task = mtenant.spawn(run, c)
  mtenant.sleep(c.rand:int(40) / 10)
  task:cancel()
  task:await()
end


--- Runs an operation within a deadline that may pass anywhere in it.
function M.hurried(c, run)
  c:allow("timeout", "57014")
  mtenant.with_deadline(c.rand:int(40) / 10, run, c)
end


return M
