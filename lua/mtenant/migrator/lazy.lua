--- Tenants that are brought up to date when somebody asks for them first.
--
-- Those who ask for one tenant share one flight; those who ask for tenants of
-- one database share the statements that look at them. The files are read once.
-- Other processes keep off by the tenant's lock, and find its records after it.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local routing = require "mtenant.routing"
local task = require "mtenant.task"


local FAILED_MS = 1000 -- so long a failure is answered to all who ask again
local AT_ONCE = 8


local M = {}


local function new_state()
  return { done = {}, failed = {}, flights = {}, queues = {} }
end


-- done: where a tenant was found up to date
local function settle(lazy, id, ok, err)
  local flight = lazy.flights[id]
  if not flight then return end
  lazy.flights[id] = nil
  if flight.forgotten then -- what it did was for a tenant that lived elsewhere
    ok, err = nil, nil
  elseif ok then
    lazy.done[id] = flight.place
  else
    lazy.failed[id] = { err = err, until_ms = core.now_ms() + FAILED_MS }
  end
  for _, resume in ipairs(flight.waiting) do resume(ok or nil, err) end
end


local function settle_all(lazy, ids, err)
  for _, id in ipairs(ids) do settle(lazy, id, nil, err) end
end


-- A failure of our own must not leave anybody waiting.
local function guarded(lazy, ids, fn)
  local ok, err = pcall(fn)
  if not ok then settle_all(lazy, ids, errors.wrap(err, "policy")) end
end


local function migrate(self, inside, units)
  local lazy, ids = self.lazy, {}
  for i, unit in ipairs(units) do ids[i] = unit.id end
  guarded(lazy, ids, function()
    local _, err = inside.bring_up(self, units, {
      concurrency = math.min(#units, AT_ONCE),
      on_progress = function(id, status, _, result)
        if status == "completed" then settle(lazy, id, true)
        elseif status == "failed" then settle(lazy, id, nil, result.error) end
      end,
    })
    settle_all(lazy, ids, err or errors.new("cancelled",
                                            "the migration was cut off"))
  end)
end


-- Looks at tenants of one database; those that are behind go on by themselves.
local function look(self, inside, ids)
  local lazy = self.lazy
  local units, err
  if not lazy.migrations then
    lazy.migrations, err = inside.load_files(self)
    if not lazy.migrations then return settle_all(lazy, ids, err) end
  end
  units, err = inside.read_units(self, ids, nil, lazy.migrations)
  if not units then return settle_all(lazy, ids, err) end
  local behind = {}
  for _, unit in ipairs(units) do
    if unit.error then
      settle(lazy, unit.id, nil, unit.error)
    elseif #unit.plan.pending == 0 then
      settle(lazy, unit.id, true)
    else
      behind[#behind + 1] = unit
    end
  end
  if #behind > 0 then
    task.spawn(migrate, self, inside, behind).observed = true
  end
end


local function work(self, inside, queue)
  while #queue.ids > 0 do
    local ids = queue.ids
    queue.ids = {}
    guarded(self.lazy, ids, function() look(self, inside, ids) end)
  end
  queue.busy = false
end


local function database_of(route)
  return (route.url or "") .. "\0" .. (route.database or "")
end


-- Those of one database, so that none waits for another one's server.
local function enqueue(self, inside, id, route)
  local key = database_of(route)
  local queue = self.lazy.queues[key] or { ids = {} }
  self.lazy.queues[key] = queue
  queue.ids[#queue.ids + 1] = id
  if queue.busy then return end
  queue.busy = true
  task.spawn(work, self, inside, queue).observed = true
end


local function recent_failure(lazy, id)
  local failed = lazy.failed[id]
  if not failed then return nil end
  if core.now_ms() < failed.until_ms then return failed.err end
  lazy.failed[id] = nil
  lazy.migrations = nil -- the files may have been mended
end


--- The route that a flight was started with, instead of asking again.
function M.route_of(migrator, id)
  local flight = migrator.lazy and migrator.lazy.flights[id]
  return flight and flight.route
end


local function place_of(route)
  return database_of(route) .. "\0" .. (route.schema or "")
end


-- Joins the flight of a tenant, or starts one. Neither of both: what it answered
-- was about a schema that the tenant has left meanwhile, or that came anew.
local function fly(self, inside, id, route)
  local flights, place = self.lazy.flights, place_of(route)
  local flight = flights[id]
  if not flight then
    flight = { route = route, place = place, waiting = {} }
    flights[id] = flight
    enqueue(self, inside, id, route)
  end
  local ok, err = task.suspend(function(resume)
    flight.waiting[#flight.waiting + 1] = resume
  end)
  if flight.place == place then return ok, err end
  return nil, task.check("ensure_tenant")
end


--- Adds the methods to a migrator's.
function M.install(methods, inside)

  --- Brings a tenant up to date unless this migrator knows that it is: once
  --- for all who ask at a time, and never again after it has. Files that come
  --- later need another migrator. A failure is answered again for a second.
  ---@param id string
  ---@param route? table  where it lives, if that is known
  ---@return boolean|nil ok
  ---@return mtenant.error|nil err
  function methods:ensure_tenant(id, route)
    local lazy = self.lazy or new_state()
    self.lazy = lazy
    local ok, err
    if not route then
      route, err = routing.resolve(self.config, id, self.targets.ctx)
      if not route then return nil, err end
    end
    if lazy.done[id] == place_of(route) then return true end
    err = recent_failure(lazy, id)
    if err then return nil, err end
    repeat ok, err = fly(self, inside, id, route) until ok or err
    return ok, err
  end


  --- Forgets that a tenant is up to date, that it failed and where it lives.
  -- Those who wait for it now get what is found after this.
  function methods:forget_tenant(id)
    self.targets:forget(id)
    local lazy = self.lazy
    if not lazy then return end
    lazy.done[id], lazy.failed[id] = nil, nil
    if lazy.flights[id] then lazy.flights[id].forgotten = true end
  end
end


return M
