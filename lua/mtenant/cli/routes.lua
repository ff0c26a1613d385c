--- What `mtenant route` shows: a tenant's route, and why it is that one. For people
--- and for programs.

local errors = require "mtenant.errors"

local M = {}

-- In this order; others come behind.
local FIELDS = { "server", "url", "database", "schema", "role", "strategy" }


local function pairs_of(t)
  local keys, out = {}, {}
  for key in pairs(t) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  for i, key in ipairs(keys) do out[i] = key .. "=" .. tostring(t[key]) end
  return table.concat(out, ", ")
end


local function replica_name(replica)
  if type(replica) == "string" then return replica end
  return replica.server or replica.url or "?"
end


local function read_text(read)
  local names = {}
  for i, replica in ipairs(read) do names[i] = replica_name(replica) end
  local text = table.concat(names, ", ")
  if read.max_lag_ms then
    text = text .. (", at most %g ms behind"):format(read.max_lag_ms)
  end
  return read.read_your_writes and text .. ", with the tenant's own writes"
    or text
end


-- without what is not the route's own
local function shown(found)
  local out = {}
  for key, value in pairs(found.route) do out[key] = value end
  out.ttl_ms = nil
  return out
end


-- how long a manager keeps the answer, in ms
local function ttl_of(self, found)
  return found.answer and found.answer.ttl_ms or self.policy and self.policy.ttl_ms
    or self.manager._config.routing and self.manager._config.routing.ttl_ms
end


local function say_fields(console, rows)
  local width = 0
  for _, row in ipairs(rows) do width = math.max(width, #row[1]) end
  for _, row in ipairs(rows) do
    console:say({ "dim", row[1] .. (" "):rep(width - #row[1] + 2) }, row[2])
  end
end


local function rows_of(self, found)
  local route = shown(found)
  local rows = { { "tenant", found.tenant_id } }
  local function add(name, text) rows[#rows + 1] = { name, text } end
  for _, name in ipairs(FIELDS) do
    if route[name] then add(name, tostring(route[name])) end
  end
  for _, name in ipairs({ "settings", "pool", "labels" }) do
    if route[name] and next(route[name]) ~= nil then
      add(name, pairs_of(route[name]))
    end
  end
  if route.read then add("read", read_text(route.read)) end
  add("policy", self.name)
  local ttl = ttl_of(self, found)
  add("asked", "just now" .. (ttl and ("; a manager keeps the answer for %g ms")
    :format(ttl) or ""))
  return rows
end


-- a list is one, whatever else is in it
local function plain_read(read)
  local names = {}
  for i, replica in ipairs(read) do names[i] = replica_name(replica) end
  return { servers = names, max_lag_ms = read.max_lag_ms,
           read_your_writes = read.read_your_writes }
end


local function event_of(self, found)
  local event = { event = "route", tenant_id = found.tenant_id,
                  policy = self.name, notes = found.notes }
  if found.error then
    event.success, event.error = false, found.error
    return event
  end
  event.success, event.route = true, shown(found)
  event.ttl_ms = ttl_of(self, found)
  if event.route.read then event.route.read = plain_read(event.route.read) end
  return event
end


--- Shows what was found; returns the exit status.
---@param self table  the policy, as mtenant.cli.policies has opened it
---@param console mtenant.console
---@param found table  as its ask gives it
---@param explain? boolean
---@return integer
function M.show(self, console, found, explain)
  console:event(event_of(self, found))
  if console.json then return found.error and 1 or 0 end
  if not found.error then say_fields(console, rows_of(self, found)) end
  for i, note in ipairs(explain and found.notes or {}) do
    if i == 1 then console:say({ "bold", "because" }) end
    console:say("  ", note)
  end
  if explain and #found.notes == 0 then
    console:say({ "dim", "the policy has noted nothing" })
  end
  if not found.error then return 0 end
  console:warn({ "red", "no route: " }, errors.is(found.error)
    and found.error.message or tostring(found.error))
  return 1
end


return M
