--- One operation: who asked, its random numbers, and how it judges what comes
-- back. Everything that touches the database goes through here or `probe`.

local ledger = require "leaks.ledger"
local random = require "leaks.random"

local M = {}

local methods = {}
local mt = { __index = methods }

-- happens to anybody while backends are killed
local WEATHER = { connection_lost = true }


--- `index` decides everything about the operation but the tenant's state.
function M.new(world, index)
  return setmetatable({
    world = world, index = index, rand = random.new(world.options.seed, index),
    writes = 0, allowed = {},
  }, mt)
end


--- Binds it to its tenant.
function methods:bind(t, name)
  self.t, self.name, self.epoch = t, name, t.epoch
  self.db = self.world:db(t)
end


--- Has the tenant's schema been dropped or made while this ran?
function methods:disturbed()
  return self.t.changing or self.t.epoch ~= self.epoch
end


local function is_allowed(self, err, allowed)
  return allowed == "any" or self.allowed[err.code]
    or self.allowed[err.sqlstate]
    or allowed and (" " .. allowed .. " "):find(
      " " .. (err.sqlstate or err.code) .. " ", 1, true)
    or allowed and (" " .. allowed .. " "):find(" " .. err.code .. " ", 1, true)
end


--- Judges an error. `allowed`: codes and SQLSTATEs, separated by blanks, that
-- this statement may end with; what the weather brings is always allowed.
function methods:fail(err, allowed)
  if type(err) ~= "table" then
    return self.world:problem(self, "error is no object: " .. tostring(err))
  end
  local key = err.sqlstate or err.code
  self.world.errors[key] = (self.world.errors[key] or 0) + 1
  if is_allowed(self, err, allowed) then return end
  if WEATHER[err.code] then return end
  if self:disturbed()
    and (err.code == "query" or err.code == "tenant_not_found") then
    return
  end
  self.world:problem(self, tostring(err))
end


--- Codes that this operation may meet anywhere from now on.
function methods:allow(...)
  for _, code in ipairs({ ... }) do self.allowed[code] = true end
end


--- Every row must bear the mark of the tenant that asked.
function methods:check_rows(rows, how)
  for _, row in ipairs(rows) do
    self.world.checks = self.world.checks + 1
    local seen = row.owner
    if seen ~= nil and seen ~= self.t.mark then
      self.world:leak("row", self, ("%s read a row of %s by %s"):format(
        self.t.mark, tostring(seen), how))
    end
    if row.home ~= nil and row.home ~= self.t.mark then
      self.world:leak("write", self, ("%s wrote into the schema of %s by %s")
        :format(self.t.mark, tostring(row.home), how))
    end
    if row.schema ~= nil and row.schema ~= self.t.schema then
      self.world:leak("current_schema", self, ("%s is in schema %s by %s")
        :format(self.t.mark, tostring(row.schema), how))
    end
    local user = self.t.role or "mtenant"
    if row.role ~= nil and row.role ~= user then
      self.world:leak("current_user", self, ("%s is user %s by %s"):format(
        self.t.mark, tostring(row.role), how))
    end
  end
  return rows
end


local READS = {
  "SELECT owner, current_schema() AS schema, current_user AS role FROM me",
  "SELECT me.owner, i.home, i.id FROM me LEFT JOIN items i ON true LIMIT 20",
  "SELECT owner, home, id FROM items ORDER BY id DESC LIMIT 10",
  "SELECT * FROM items ORDER BY id LIMIT 5",
  "SELECT min(owner) AS owner, max(home) AS home, count(*) AS n FROM items",
  "SELECT max(owner) AS owner FROM items WHERE owner <> (SELECT owner FROM me)",
  "TABLE me",
  "WITH m AS (SELECT owner FROM me) SELECT m.owner, g FROM m, "
    .. "generate_series(1, 5) AS g",
}
M.READS = READS


--- A read on a handle, transaction or session; its rows are checked.
function methods:read(h, how, allowed)
  local sql = self.rand:pick(READS)
  local rows, err = h:query(sql)
  if not rows then
    self:fail(err, allowed)
    return nil, err
  end
  return self:check_rows(rows, how .. ": " .. sql)
end


--- A number for a row, never used again.
function methods:new_id()
  self.writes = self.writes + 1
  return self.index * 64 + self.writes
end


local INSERT = "INSERT INTO items (owner, id) VALUES ($1, $2) "
  .. "RETURNING owner, home, current_schema() AS schema"


--- A write on a handle or session that commits by itself, entered in the
-- tenant's ledger. With `pending` (a list) it goes there instead: the caller
-- knows its fate later.
function methods:write(h, how, allowed, pending)
  local id = self:new_id()
  local rows, err = h:query(INSERT, self.t.mark, id)
  if rows then self:check_rows(rows, how .. ": insert") end
  if pending then
    pending[#pending + 1] = id
  else
    ledger.enter(self, id, rows ~= nil, err)
  end
  if not rows then
    self:fail(err, allowed)
    return nil, err
  end
  return true
end


--- Makes an operation of one that works on a session: its tenant's schema is
-- not dropped meanwhile. Whoever has a session when that happens is in
-- `public` from then on, a documented limit.
function M.on_session(operation)
  return function(c)
    local t = c.t
    if t.changing then return c:read(c.db, "query") end
    t.sessions = t.sessions + 1
    local ok, err = xpcall(operation, debug.traceback, c)
    t.sessions = t.sessions - 1
    if not ok then error(err, 0) end
  end
end


--- Calls fn, which may raise an error object (db:rows does).
function methods:guard(allowed, fn)
  local ok, err = pcall(fn)
  if ok then return true end
  if type(err) ~= "table" or not err.code or err.code == "misuse" then
    error(err, 0)
  end
  self:fail(err, allowed)
  return false
end


return M
