--- Replicas: how far they are, asked once per server and not per tenant.
--
-- A primary is asked for its position in the WAL, then a replica for what it
-- has replayed. A replica that has replayed what the primary had at a time
-- lacks at most what was written since then: that bounds its age without a
-- clock of the servers', and with a primary that writes nothing as well.
-- (pg_last_xact_replay_timestamp grows old there, and receive = replay says
-- nothing of what has not been received.) Servers are asked only while somebody
-- reads, and with breaks. Used by reader.lua; part of a manager.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local task = require "mtenant.task"
local with_deadline = require "mtenant.deadline"


local format, ipairs, math_max = string.format, ipairs, math.max


-- a server is asked no sooner again; after a failure, in this time
local BREAK_MS, RETRY_MS = 20, 500
-- nothing is known for sure of a server that was not asked for so long
local HEALTH_MS = 1000
-- so long an answer is waited for
local LIMIT_MS = 1000
local SAMPLES_MAX = 64


local M = {}


-- pg_lsn has no other way to a number. What is exact up to 2^53 will do.
local PROBE = [[
  SELECT pg_catalog.pg_is_in_recovery() AS standby,
    pg_catalog.pg_wal_lsn_diff(
      CASE WHEN pg_catalog.pg_is_in_recovery()
        THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_insert_lsn() END,
      '0/0')::pg_catalog.float8 AS position,
    (SELECT system_identifier::pg_catalog.text
      FROM pg_catalog.pg_control_system()) AS system,
    pg_catalog.current_setting('wal_block_size')::pg_catalog.int4 AS block]]


-- Where the next record goes is behind the header of a page, if that begins
-- there; what has been replayed ends before it. A record that ends at such a
-- place has begun on the page before, so that no other one ends in between.
local PAGE_HEADERS = { [24] = true, [40] = true }

local function position_of(row)
  local into = row.position % row.block
  return PAGE_HEADERS[into] and row.position - into or row.position
end


-- ---- asking ----------------------------------------------------------------

-- a server's state, made if need be; `url` is how it is reached
local function server_of(manager, address, url)
  local all = manager._replicas
  if not all then
    all = {}
    manager._replicas = all
  end
  local server = all[address]
  if not server then
    server = { address = address, url = url, samples = {} }
    all[address] = server
  elseif server.err and server.url ~= url then -- perhaps it was the login
    server.url, server.db = url, nil
  end
  return server
end


local function handle_for(manager, server)
  if server.db then return server.db end
  local shared, err = manager._core:shared()
  if not shared then return nil, err end
  if not shared:routed() then
    local _, failed = task.await(shared:route())
    if failed then return nil, failed end
  end
  local reader
  reader, err = shared:reader(server.url)
  if not reader then return nil, err end
  server.db = manager._new_handle(reader, "shared")
  return server.db
end


local function note_sample(server, sample)
  local samples = server.samples
  if #samples >= SAMPLES_MAX then table.remove(samples, 1) end
  samples[#samples + 1] = sample
end


local function ask(manager, server)
  local db, err = handle_for(manager, server)
  local row
  local sample = { tick = manager._core:tick(), at = core.now_ms() }
  if db then
    row, err = db:one({ sql = PROBE, timeout_ms = LIMIT_MS })
  end
  if not row then
    server.err, server.failed_at = err, core.now_ms()
    if errors.is(err) and err.code == "disposed" then server.db = nil end
    return
  end
  server.err, server.standby, server.system = nil, row.standby, row.system
  server.at = sample.at
  if row.standby then
    server.position = row.position
  else
    server.position, sample.position = nil, position_of(row)
    note_sample(server, sample)
  end
end


-- May it be asked now? While it is being asked one may join, unless that takes
-- too long.
local function may_ask(server, now)
  if server.flight then return now - server.asked_at < LIMIT_MS end
  if server.err then return now - server.failed_at >= RETRY_MS end
  return not server.asked_at or now - server.asked_at >= BREAK_MS
end


-- Asks in a task of its own, which others may join.
local function start(manager, server)
  if server.flight then return server.flight end
  server.asked_at = core.now_ms()
  local flight = task.spawn(function()
    local ok, err = pcall(ask, manager, server)
    server.flight = nil
    if not ok then server.err, server.failed_at = err, core.now_ms() end
  end)
  flight.observed = true
  server.flight = flight
  return flight
end


local function join(flight)
  if not flight.done then flight:await() end
end


-- Asks the primary, then the replicas: what the latter have replayed is
-- compared with what the former had written before.
local function refresh(manager, primary, replicas)
  local flights, now = {}, core.now_ms()
  if may_ask(primary, now) then join(start(manager, primary)) end
  for i, replica in ipairs(replicas) do
    if may_ask(replica, core.now_ms()) then
      flights[i] = start(manager, replica)
    end
  end
  for i = 1, #replicas do
    if flights[i] then join(flights[i]) end
  end
end


-- One for all who want the same now; nil: there is nothing to be asked.
local function refresh_later(manager, primary, replicas)
  if primary.refreshing then return primary.refreshing end
  local now, wanted = core.now_ms(), may_ask(primary, core.now_ms())
  for _, replica in ipairs(replicas) do
    wanted = wanted or may_ask(replica, now)
  end
  if not wanted then return nil end
  local flight = task.spawn(function()
    pcall(refresh, manager, primary, replicas)
    primary.refreshing = nil
  end)
  flight.observed = true
  primary.refreshing = flight
  return flight
end


-- ---- judging ---------------------------------------------------------------

-- The position that has what the primary had at that tick, or later; nil: not
-- known.
local function position_at(primary, tick)
  for _, sample in ipairs(primary.samples) do
    if sample.tick >= tick then return sample.position end
  end
end


-- Since when it may lack something: the newest sample that it has replayed.
local function fresh_at(primary, replica)
  local samples = primary.samples
  for i = #samples, 1, -1 do
    if samples[i].position <= replica.position then return samples[i].at end
  end
end


-- Why it can't be read from at all, or nil.
local function trouble(manager, primary, replica)
  if replica.err then return errors.text_of(replica.err) end
  if manager._core:breaker_state(replica.address) ~= "closed" then
    return "its breaker is open"
  end
  if not replica.standby or not replica.position then return "is no standby" end
  if not primary.system or primary.system ~= replica.system then
    return "is no standby of " .. primary.address
  end
end


-- wants: position (nil: none), max_lag_ms (nil: any). True, or nil and why not
local function fits(manager, primary, replica, wants, now)
  if not replica.at then return nil, "has not been asked yet" end
  local why = trouble(manager, primary, replica)
  if why then return nil, why end
  if wants.position and replica.position < wants.position then
    return nil, "has not replayed the tenant's last write"
  end
  if not wants.max_lag_ms then return true end
  local since = fresh_at(primary, replica)
  if since and now - since <= wants.max_lag_ms then return true end
  return nil, since and format("may be %.0f ms behind", now - since)
    or "is behind all that is known"
end


-- Is something worth waiting for: a server that is well, as far as one knows,
-- and may be asked now?
local function worth_asking(primary, replicas, now)
  if primary.err or not may_ask(primary, now) then return false end
  for _, replica in ipairs(replicas) do
    if not replica.err and may_ask(replica, now) then return true end
  end
  return false
end


-- what is known grows old: ask again, while this is read from
local function keep_up(manager, primary, replicas, replica, wants, now)
  local half = math_max((wants.max_lag_ms or HEALTH_MS) / 2, BREAK_MS)
  if now - replica.at > half and may_ask(replica, now) then
    refresh_later(manager, primary, replicas)
  end
end


-- The first that fits, from the tenant's own place on: tenants are spread over
-- the replicas, and each stays where it is, so that it does not see time go
-- back.
local function pick(manager, primary, replicas, wants, start_at)
  local now, n, why = core.now_ms(), #replicas, nil
  for i = 0, n - 1 do
    local at = (start_at + i) % n + 1
    local ok, reason = fits(manager, primary, replicas[at], wants, now)
    if ok then
      keep_up(manager, primary, replicas, replicas[at], wants, now)
      return at
    end
    why = why or replicas[at].address .. " " .. reason
  end
  return nil, why
end


local function wants_of(read, opts, primary, written)
  local wants = { max_lag_ms = opts.max_lag_ms or read.max_lag_ms }
  local known = true
  if read.read_your_writes then
    wants.position = position_at(primary, written())
    known = wants.position ~= nil
  end
  return wants, known
end


--- Which of a route's replicas is to be read from now; may wait for what they
--- answer, a second at most.
---@param manager mtenant.TenantManager
---@param route table  as routing.resolve makes it, with `read`
---@param opts table  max_lag_ms: instead of the route's
---@param written fun(): number  the tick until which the tenant may have written
---@param start_at integer  the tenant's place among replicas
---@return integer|nil index  into route.read; nil: the primary
---@return string|mtenant.error|nil why
function M.choose(manager, route, opts, written, start_at)
  local read = route.read
  local primary = server_of(manager, route.address,
                            route.url or manager._config.connection.url)
  local replicas = {}
  for i, one in ipairs(read) do
    replicas[i] = server_of(manager, one.address, one.url)
  end
  local at, why
  for turn = 1, 2 do
    local wants, known = wants_of(read, opts, primary, written)
    at, why = nil, "where the primary is has not been asked since the last write"
    if known then at, why = pick(manager, primary, replicas, wants, start_at) end
    local now = core.now_ms()
    if at or turn == 2 then break end
    if worth_asking(primary, replicas, now) then
      local flight = refresh_later(manager, primary, replicas)
      with_deadline(LIMIT_MS, join, flight)
    else
      refresh_later(manager, primary, replicas)
      break
    end
  end
  return at, why
end


--- A replica did not do a read: nobody else tries it until it has answered.
function M.failed(manager, address, err)
  local server = manager._replicas and manager._replicas[address]
  if not server or server.err then return end
  server.err, server.failed_at = err, core.now_ms()
end


--- What is known of a route's replicas, for who wants to see it.
---@return table[]  { server, url is not there; address, ok, reason, lag_ms }
function M.status(manager, route)
  local primary = server_of(manager, route.address,
                            route.url or manager._config.connection.url)
  local out, now = {}, core.now_ms()
  for i, one in ipairs(route.read) do
    local replica = server_of(manager, one.address, one.url)
    local ok, why = fits(manager, primary, replica, {
      max_lag_ms = route.read.max_lag_ms }, now)
    local since = replica.at and replica.position
      and fresh_at(primary, replica)
    out[i] = { server = one.server, address = one.address, ok = ok or false,
               reason = why, lag_ms = since and now - since or nil }
  end
  return out
end


return M
