--- What is sent to bring one schema up to date, as one text where the files
-- allow it: the lock, a last look at the records, and for each file BEGIN, its
-- statements, its record and COMMIT. Keeps a note of which statement is whose,
-- so that an error can be told by file and line. Pure.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local formats = require "mtenant.migrator.formats"
local sqlfile = require "mtenant.sqlfile"
local state = require "mtenant.migrator.state"
local task = require "mtenant.task"


local concat, format = table.concat, string.format
local ident, literal = core.quote_ident, core.quote_literal


local M = {}


-- What a file may have left on the session, taken away in a transaction: all
-- of DISCARD ALL but the advisory locks, which are ours, too.
M.CLEAN = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; "
  .. "DEALLOCATE ALL; UNLISTEN *; DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
local CLEAN_COUNT = 8


--- Ahead of the record: a role or a path that the file has set must not write
-- or misplace it.
M.OURSELVES = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL"


local methods = {}
local mt = { __index = methods }


function M.new()
  return setmetatable({ parts = {}, count = 0, bytes = 0, marks = {},
                        copy = {} }, mt)
end


--- Adds SQL of ours.
---@param sql string  without a semicolon at its end
---@param count? integer  statements in it; 1
---@param what? string  what it means if it fails
function methods:add(sql, count, what)
  self.parts[#self.parts + 1] = sql .. ";\n"
  self.bytes = self.bytes + #sql + 2
  if what then
    self.marks[#self.marks + 1] = { first = self.count + 1,
      last = self.count + (count or 1), what = what }
  end
  self.count = self.count + (count or 1)
end


-- The text of a part without what is between its statements, made once; and
-- where each of them begins in it.
local function text_of(part)
  if part.sent then return part.sent end
  local out, at, starts = {}, 1, {}
  for i, s in ipairs(part.statements) do
    out[i] = part.text:sub(s.first, s.last) .. "\n;\n"
    starts[i] = at
    at = at + #out[i]
  end
  part.sent, part.starts = concat(out), starts
  return part.sent
end


--- Adds the statements of a file.
function methods:add_file(migration, part)
  local sent = text_of(part)
  self.marks[#self.marks + 1] = {
    first = self.count + 1, last = self.count + #part.statements,
    at = self.bytes + 1, stop = self.bytes + #sent, migration = migration,
    part = part,
  }
  self.parts[#self.parts + 1] = sent
  self.bytes = self.bytes + #sent
  self.count = self.count + #part.statements
  for _, s in ipairs(part.statements) do
    if s.copy_first then
      self.copy[#self.copy + 1] = part.text:sub(s.copy_first, s.copy_last)
    end
  end
end


function methods:text()
  return concat(self.parts)
end


-- ---- what it is made of ------------------------------------------------------

local function ms(value)
  return format("%.0f", math.max(value, 1))
end


local function path_of(unit)
  local path = {}
  for i, name in ipairs(unit.search_path) do
    path[i] = ident(name == "$tenant" and unit.schema or name)
  end
  return concat(path, ", ")
end


--- SET of the path and the times that a migration runs with.
---@param scope "LOCAL"|"SESSION"
---@param path? string  the unit's, if it is known
---@return string sql
---@return integer count
function M.settings(scope, unit, migration, path)
  local out = { format("SET %s search_path TO %s", scope, path or path_of(unit)) }
  local opts = unit.opts
  local lock = migration.lock_timeout_ms or opts.lock_timeout_ms
  local statement = migration.statement_timeout_ms or opts.statement_timeout_ms
  if lock then
    out[#out + 1] = format("SET %s lock_timeout TO %s", scope, ms(lock))
  end
  if statement then
    out[#out + 1] = format("SET %s statement_timeout TO %s", scope,
                           ms(statement))
  end
  return concat(out, ";\n"), #out
end


local function table_of(unit)
  return formats.qualified(unit.schema, unit.tracking)
end


--- The records of migrations that have been applied, in both tables.
---@param list mtenant.Migration[]
function M.record(unit, list)
  local identifiers, sums = {}, {}
  for i, m in ipairs(list) do
    identifiers[i] = formats.identifier(unit.shape, m)
  end
  local sql = formats.record_sql(table_of(unit), unit.shape, identifiers)
  if not unit.checksums then return sql end
  local schema, tracking = literal(unit.schema), literal(unit.tracking)
  for i, m in ipairs(list) do
    sums[i] = format("(%s, %s, %s, %s)", schema, tracking, literal(m.name),
                     literal(m.checksum))
  end
  return format("WITH mtenant AS (INSERT INTO mtenant.checksums (schema_name, "
    .. "table_name, name, checksum) VALUES %s ON CONFLICT (schema_name, "
    .. "table_name, name) DO UPDATE SET checksum = excluded.checksum, "
    .. "applied_at = excluded.applied_at) %s", concat(sums, ", "), sql)
end


--- The opposite, for one that was taken back.
---@param identifiers? string[]  instead of the migration's own
function M.forget(unit, migration, identifiers)
  local sql = formats.forget_sql(table_of(unit), unit.shape, identifiers
    or { migration.checksum, migration.name })
  if not unit.checksums or not migration then return sql end
  return format("WITH mtenant AS (DELETE FROM mtenant.checksums WHERE "
    .. "schema_name = %s AND table_name = %s AND name = %s) %s",
    literal(unit.schema), literal(unit.tracking), literal(migration.name), sql)
end


--- What notes that migrations went up, or that one went down.
---@param way "up"|"down"
function M.note(unit, list, way)
  if way == "up" then return M.record(unit, list) end
  return M.forget(unit, list[1])
end


--- CREATE TABLE of the tracking table.
function M.create(unit)
  return formats.create_sql(table_of(unit), unit.shape)
end


function M.look(unit)
  return format("SELECT 1 / ((pg_catalog.pg_get_object_address('schema', "
    .. "ARRAY[%s]::pg_catalog.text[], '{}')).objid = %d)::pg_catalog.int4",
    literal(unit.schema), unit.state.oid)
end


--- Fails unless the schema of that name is the tenant's, which is kept from
-- being dropped until the transaction ends. No lock keeps it from being renamed:
-- who may have written into another one looks again before the COMMIT.
function methods:look(unit)
  self:add(M.look(unit), 1, "changed")
end


--- Fails where another runner has the tenant, or has had it meanwhile. The lock
-- comes first: what fails as changed has it.
function methods:guard(unit)
  self:add(format("SELECT 1 / (pg_catalog.pg_try_advisory_lock(%d, %d))"
    .. "::pg_catalog.int4", unit.lock[1], unit.lock[2]), 1, "locked")
  self:look(unit)
  self:add(format("SELECT 1 / (%s)::pg_catalog.int4",
    state.unchanged_sql(unit.state, unit.tracking)), 1, "changed")
end


--- BEGIN, with what has to come before the first file.
function methods:begin(unit, guarded)
  self:add("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
  if guarded then self:guard(unit) else self:look(unit) end
  if not unit.has_table then self:add(M.create(unit)) end
end


local function any_touches(list, way)
  for _, m in ipairs(list) do
    if m[way].touches then return true end
  end
  return false
end


--- A transaction: BEGIN, the statements of files, their records and COMMIT.
---@param list mtenant.Migration[]
---@param guarded? boolean  takes the tenant's lock first
function methods:transaction(unit, list, way, guarded)
  self:begin(unit, guarded)
  local path = path_of(unit)
  for _, m in ipairs(list) do
    self:add(M.settings("LOCAL", unit, m, path))
    self:add_file(m, m[way])
  end
  if any_touches(list, way) then self:add(M.OURSELVES, 2) end
  self:add(M.note(unit, list, way))
  self:look(unit)
  self:add("COMMIT", 1, "commit")
  self.marks[#self.marks].migrations = list
end


function M.unlock(unit)
  return format("SELECT pg_catalog.pg_advisory_unlock(%d, %d)", unit.lock[1],
                unit.lock[2])
end


--- Ends the work on a schema: nothing of it stays on the session.
function methods:leave(unit, touched)
  if touched then self:add(M.CLEAN, CLEAN_COUNT) end
  self:add(M.unlock(unit))
end


-- ---- errors ------------------------------------------------------------------

-- The byte of the whole text that the server points at; it counts characters.
local function byte_of(text, position)
  return position and (sqlfile.position(text, position))
end


-- Which mark a failure belongs to. Where the server could not even parse the
-- text it has run nothing of it, and only its position says where.
local function mark_of(self, err, at)
  local number = err.statement_number
  if number == 1 and at and err.sqlstate == "42601" then
    for _, mark in ipairs(self.marks) do
      if mark.at and at >= mark.at and at <= mark.stop then return mark end
    end
  end
  for _, mark in ipairs(self.marks) do
    if number and number >= mark.first and number <= mark.last then
      return mark
    end
  end
  return nil
end


-- The statement's number and where in the file it failed.
local function place(mark, number, at)
  local part = mark.part
  local index = number - mark.first + 1
  if index < 1 or index > #part.statements then
    index = 1
    while part.starts[index + 1] and at
      and part.starts[index + 1] <= at - mark.at + 1 do
      index = index + 1
    end
  end
  local s = part.statements[index]
  local offset = at and at - mark.at + 1 - part.starts[index]
  local inside = offset and offset >= 0 and offset <= s.last - s.first
  local _, more, column
  if inside then
    _, more = part.text:sub(s.first, s.first + offset - 1):gsub("\n", "")
    local head = part.text:sub(1, s.first + offset - 1):match "[^\n]*$"
    column = #(head:gsub("[\128-\191]", "")) + 1
  end
  return index, s.line + part.line - 1 + (more or 0), column,
    part.text:sub(s.first, s.last)
end


local NO_BLOCK = "25001"


--- An error with its place in the file: `migration`, `line`, `column`,
-- `statement_number`, and a message that says them.
function M.explain(err, migration, number, line, column, text, unit)
  local out = errors.copy(err)
  local now = task.current()
  if err.sqlstate == "57014" and not (now and (now.cancelled or now.expired)) then
    -- nobody here asked for it: a time that was set, or an administrator
    out.code = (migration.statement_timeout_ms or unit.opts.statement_timeout_ms)
      and "timeout" or "query"
  end
  out.migration, out.statement_number = migration.name, number
  out.line, out.column, out.position = line, column, nil
  local where = migration.name .. "." .. migration.kind
  if line then where = format("%s, line %d", where, line) end
  if number then where = format("%s, statement %d", where, number) end
  out.message = where .. ": " .. err.message
  out.tenant_id, out.cause = unit.id, err
  if text then
    out.statement = #text > 200 and text:sub(1, 200) .. "..." or text
    out.statement = out.statement:gsub("%s+", " ")
  end
  if err.sqlstate == NO_BLOCK and migration.transaction then
    out.hint = "a line `-- mtenant:no-transaction` in the file runs it outside"
      .. " of a transaction"
  end
  return out
end


--- The migrations whose COMMIT came before the statement that failed.
---@return mtenant.Migration[]
function methods:committed(err)
  local out = {}
  for _, mark in ipairs(self.marks) do
    if mark.migrations and mark.last < (err.statement_number or 0) then
      for _, m in ipairs(mark.migrations) do out[#out + 1] = m end
    end
  end
  return out
end


-- How look and guard fail: a division by zero, or there is no such schema.
local NOT_SO = { ["22012"] = true, ["3F000"] = true }


--- What a failed script means.
---@return string what  "locked", "changed", "file" or "other"
---@return mtenant.error err
---@return mtenant.Migration|nil migration  whose statement failed
function methods:failure(err, unit)
  local at = byte_of(self:text(), err.position)
  local mark = mark_of(self, err, at)
  if not mark then return "other", err end
  if mark.part then
    local number, line, column, text = place(mark, err.statement_number, at)
    return "file", M.explain(err, mark.migration, number, line, column, text,
                             unit), mark.migration
  end
  if mark.migrations then -- a deferred constraint, at COMMIT
    local last = mark.migrations[#mark.migrations]
    return "file", M.explain(err, last, nil, nil, nil, nil, unit), last
  end
  if not NOT_SO[err.sqlstate] then return "other", err end
  return mark.what, err
end


return M
