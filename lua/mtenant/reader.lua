--- The reader of a tenant: a handle whose reads go to a replica that is fresh
-- enough, and to the primary where there is none.
--
-- Whatever it runs is in a read-only transaction of the tenant's scope, at the
-- primary, too: a write through it is refused wherever it gets. What certainly
-- has not run at a replica runs at the primary; what may have run does not run
-- again. Which replica it is, replicas.lua says. Made by db:reader.

local errors = require "mtenant.errors"
local replicas = require "mtenant.replicas"
local routes = require "mtenant.routes"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local pack, unpack = task.pack, task.unpack
local ipairs, pairs, pcall, type = ipairs, pairs, pcall, type


local READ_ONLY = "25006"

-- what kept a statement from running at a replica, and need not at the primary
local ELSEWHERE = {
  refused = true, unreachable = true, dns = true, auth = true, tls = true,
  starting_up = true, too_many_connections = true, connection_lost = true,
  pool_exhausted = true, breaker_open = true, tenant_not_found = true,
}

-- ended by the server for the sake of its replay, and rolled back
local CONFLICT = { ["40001"] = true, ["40P01"] = true }

-- these say nothing of the replica as a whole
local OF_THE_TENANT = { tenant_not_found = true, pool_exhausted = true }


local options = schema.new({
  name = "reader",
  { "max_lag_ms", kind = "number", min = 1 },
})


---@class mtenant.Reader
---@field tenant_id string
local methods = {}
local mt = { __name = "mtenant.reader", __index = methods }


-- ---- where ------------------------------------------------------------------

-- the route of the shared handle, which has no replicas
local NOWHERE = {}


-- A handle at one server, kept for as long as the tenant's entry is the same.
local function target(self, url)
  local key = url or ""
  local db = self._targets[key]
  if db and db._h:routed() then return db end
  local handle, err = self._db._h:reader(url)
  if not handle then return nil, err end
  db = self._db._m._new_handle(handle, self.tenant_id, self._db._on_query)
  self._targets[key] = db
  return db
end


-- the route, which is asked for if need be; a pause is waited for
local function current_route(self)
  local db = self._db
  if not db._h:routed() then
    local _, err = task.await(db._h:route())
    if err then return nil, err end
  end
  if db == db._m._shared then return NOWHERE end
  local route = routes.current(db._m, self.tenant_id)
  if not route then
    return nil, errors.new("connection_lost", "the tenant's route is changing",
                           { tenant_id = self.tenant_id, retryable = true })
  end
  return route
end


local function place_of(self, n)
  if not self._place then
    local hash = 5381
    for i = 1, #self.tenant_id do
      hash = (hash * 33 + self.tenant_id:byte(i)) % 16777216
    end
    self._place = hash
  end
  return self._place % n
end


-- a handle, and the address of the replica that it is at; nil: the primary
local function choose(self)
  local route, err = current_route(self)
  if not route then return nil, nil, err end
  if not route.read then return nil end
  local h = self._db._h
  local at, why = replicas.choose(self._db._m, route, self._opts,
                                  function() return h:written() end,
                                  place_of(self, #route.read))
  self._why = why
  -- it may have waited, and the route have changed
  if not at or route ~= routes.current(self._db._m, self.tenant_id) then
    return nil
  end
  return target(self, route.read[at].url), route.read[at].address
end


-- at the primary, by the route of now
local function at_primary(self)
  local route, err = current_route(self)
  if not route then return nil, err end
  return target(self)
end


-- ---- and back ------------------------------------------------------------

-- (Of a time limit: a connection was not there in time. A rate limit is the
-- tenant's, wherever it reads.)
local function goes_elsewhere(err)
  if not errors.is(err) or err.ambiguous then return false end
  if err.code == "timeout" then return err.retryable end
  if err.code == "pool_exhausted" then return not err.retryable end
  return ELSEWHERE[err.code] == true or CONFLICT[err.sqlstate or ""] == true
end


-- The error as a caller sees it.
local function explained(self, err)
  if not errors.is(err) or err.sqlstate ~= READ_ONLY then return err end
  local copy = errors.copy(err)
  copy.message = "a reader does not write: " .. err.message
  copy.hint = "use the tenant's own handle for what writes"
  copy.tenant_id, copy.retryable = self.tenant_id, false
  return copy
end


local function note_failure(self, address, err)
  if errors.is(err) and ELSEWHERE[err.code] and not OF_THE_TENANT[err.code] then
    replicas.failed(self._db._m, address, err)
  end
end


-- what fn(db) returns, packed, and its error
local function try(fn, db)
  local res = pack(fn(db))
  return res, res.n >= 2 and res[1] == nil and res[2]
end


-- Calls fn(db), which returns as query does: at a replica, or, if that has
-- certainly not run it, at the primary. `started()`: it is too late for that.
local function run(self, fn, started)
  local db, address, err = choose(self)
  if err then return nil, err end
  if db then
    self._last = address
    local res, failure = try(fn, db)
    if not failure then return unpack(res, 1, res.n) end
    note_failure(self, address, failure)
    if not goes_elsewhere(failure) or started and started() then
      return nil, explained(self, failure)
    end
  end
  local last
  self._last = "primary"
  for _ = 1, 3 do -- the route may change once more while it is asked for
    db, last = at_primary(self)
    if db then
      local res, failure = try(fn, db)
      if not failure then return unpack(res, 1, res.n) end
      last = failure
      local detached = errors.is(failure) and failure.code == "connection_lost"
        and not failure.ambiguous and not db._h:routed()
      if not detached or started and started() then break end
    elseif not (errors.is(last) and last.code == "connection_lost") then
      break
    end
  end
  return nil, explained(self, last)
end


local function check_statement(h, sql, what)
  local text = type(sql) == "table" and sql.sql or sql
  if type(text) ~= "string" then return end -- the statement says it better
  local class, keyword = h:classify(text)
  if class == "session" then
    errors.misuse(4, "%s: a reader runs no %s, which needs a session: it reads "
      .. "from wherever the data is fresh enough", what, keyword or "statement")
  end
end


for _, name in ipairs({ "query", "one", "value" }) do
  methods[name] = function(self, sql, ...)
    local stop = task.check(name)
    if stop then return nil, stop end
    check_statement(self._db._h, sql, name)
    local n, args = select("#", ...), { ... }
    return run(self, function(db) return db[name](db, sql, unpack(args, 1, n)) end)
  end
end


--- Runs one statement and returns its rows; as db:query. At a replica that is
--- fresh enough, else at the primary, always read-only.
---@class mtenant.Reader
---@field query fun(self, sql: string|table, ...): table|nil, mtenant.error|nil
---@field one fun(self, sql: string|table, ...): table|nil, mtenant.error|nil
---@field value fun(self, sql: string|table, ...): any, mtenant.error|nil


--- Runs fn(tx) in a read-only transaction, all of it at one server; as
--- db:transaction. It goes to the primary if it could not begin at a replica.
---@param opts? table  as db:transaction; read_only is always true
---@param fn fun(tx: mtenant.Transaction): ...
---@return any ...
function methods:transaction(opts, fn)
  if type(opts) == "function" and fn == nil then opts, fn = {}, opts end
  if type(fn) ~= "function" then
    errors.misuse(2, "transaction: fn must be a function, got %s", type(fn))
  end
  if opts ~= nil and type(opts) ~= "table" then
    errors.misuse(2, "transaction: opts must be a table, got %s", type(opts))
  end
  if opts and opts.read_only == false then
    errors.misuse(2, "transaction: a reader's are read-only")
  end
  local stop = task.check("transaction")
  if stop then return nil, stop end
  local given = { read_only = true }
  for key, value in pairs(opts or {}) do given[key] = value end
  local begun = false
  return run(self, function(db)
    return db:transaction(given, function(tx)
      begun = true
      return fn(tx)
    end)
  end, function() return begun end)
end


--- Iterates over a result bit by bit; as db:rows.
---@param sql string|table
---@return fun(): table|nil
function methods:rows(sql, ...)
  local stop = task.check("rows")
  if stop then error(stop, 0) end
  local n, args = select("#", ...), { ... }
  local res = pack(run(self, function(db)
    local out = pack(pcall(db.rows, db, sql, unpack(args, 1, n)))
    if out[1] then return unpack(out, 2, out.n) end
    if errors.is(out[2]) and out[2].code ~= "misuse" then return nil, out[2] end
    error(out[2], 0)
  end))
  if res[1] == nil then error(res[2], 0) end
  return unpack(res, 1, res.n)
end


for _, name in ipairs({ "exec", "session", "pipeline", "notify",
                        "listen" }) do
  methods[name] = function()
    errors.misuse(2, "a reader has no %s: use the tenant's own handle", name)
  end
end


--- Where the last call went: the address of a replica's server, or "primary" and
--- why no replica would do. For people and tests.
---@return string where
---@return string|nil why
function methods:last_target()
  return self._last or "none", self._why
end


local function to_string(self)
  return "mtenant.reader (" .. tostring(self.tenant_id) .. ")"
end

mt.__tostring = to_string


local M = {}


--- Adds db:reader to a handle's methods.
---@param own mtenant.Db
function M.install(own)

  --- A handle for reads, which go to the replicas of the tenant's route
  --- (`route.read`) as long as they are fresh enough, and to the primary
  --- otherwise. Nothing can be written through it.
  ---@param opts? table  max_lag_ms: another bound than the route's
  ---@return mtenant.Reader
  function own:reader(opts)
    opts = options:check(opts or {}, 2)
    return setmetatable({ _db = self, _opts = opts, _targets = {},
                          tenant_id = self.tenant_id }, mt)
  end
end


return M
