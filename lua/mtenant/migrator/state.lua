--- The state of many schemas of one database, read by few statements: which of
-- them are there, how their tracking tables look and what is in them.
--
-- A statement speaks of at most CHUNK tables. One over ten thousand would take
-- all of the server's lock table, and nest deeper than its stack allows.

local core = require "mtenant.core"
local formats = require "mtenant.migrator.formats"
local markers = require "mtenant.markers"


local concat, format = table.concat, string.format
local array, literal = markers.array, core.quote_literal


local M = {}


M.CHUNK = 500


local CATALOG_SQL = [[
  SELECT n.nspname::pg_catalog.text AS schema, n.oid::pg_catalog.int8 AS oid,
    (SELECT pg_catalog.string_agg(a.attname || ':' || t.typname, ','
              ORDER BY a.attnum)
     FROM pg_catalog.pg_attribute a
     JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
      AS columns
  FROM pg_catalog.pg_namespace n
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
    AND c.relname = $2::pg_catalog.name AND c.relkind IN ('r', 'p')
  WHERE n.nspname = ANY ($1::pg_catalog.name[])]]


-- the side table that knows what the files were when they were applied
local HAS_CHECKSUMS_SQL =
  "SELECT pg_catalog.to_regclass('mtenant.checksums') IS NOT NULL"

local EDITED_SQL = [[
  SELECT c.schema_name AS schema, c.name
  FROM mtenant.checksums c
  JOIN ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]),
                  pg_catalog.unnest($2::pg_catalog.text[]))
    AS f (name, checksum) ON f.name = c.name
  WHERE c.table_name = $3 AND c.checksum <> f.checksum
    AND ($4::pg_catalog.text[] IS NULL OR c.schema_name = ANY ($4))
  ORDER BY 1, 2]]


-- one line per table: its number in the list and its records
local function records_sql(chunk, tracking)
  local parts = {}
  for i, s in ipairs(chunk) do
    parts[i] = format("SELECT %d, (SELECT pg_catalog.string_agg(%s, e'\\n') "
      .. "FROM %s)", i, s.shape.id, formats.qualified(s.schema, tracking))
  end
  return concat(parts, "\nUNION ALL ")
end


local function lines(text)
  local out = {}
  for line in text:gmatch "[^\n]+" do out[#out + 1] = line end
  return out
end


-- Most tenants have the same records: they share one list.
local function share(cache, text)
  text = text or ""
  local list = cache[text]
  if not list then
    list = lines(text)
    cache[text] = list
  end
  return list
end


local function look_up(db, names, tracking, into)
  local rows, err = db:query(CATALOG_SQL, array(names), tracking)
  if not rows then return nil, err end
  local with_table = {}
  for _, row in ipairs(rows) do
    local s = { schema = row.schema, oid = row.oid, columns = row.columns,
                shape = row.columns and formats.detect(row.columns),
                records = {}, edited = {} }
    into[row.schema] = s
    if s.shape then with_table[#with_table + 1] = s end
  end
  return with_table
end


--- Reads a chunk of schemas. Those that are not there get no entry.
---@param db table  a handle on the database
---@param names string[]  at most CHUNK schemas
---@param tracking string  name of the tracking table
---@param into table  by schema: { schema, oid, columns, shape, records, edited }
---@param cache table  shared lists of records, by their text
---@return boolean|nil ok
---@return mtenant.error|nil err
function M.read_chunk(db, names, tracking, into, cache)
  local with_table, err = look_up(db, names, tracking, into)
  if not with_table then return nil, err end
  if #with_table == 0 then return true end
  local rows
  rows, err = db:query({ sql = records_sql(with_table, tracking),
                         as = "arrays" })
  if not rows then
    -- a table has gone in between: then one after the other
    if err.sqlstate ~= "42P01" or #names == 1 then return nil, err end
    for _, name in ipairs(names) do
      into[name] = nil
      local ok
      ok, err = M.read_chunk(db, { name }, tracking, into, cache)
      if not ok then return nil, err end
    end
    return true
  end
  for _, row in ipairs(rows) do
    local text = row[2]
    if text == markers.null then text = "" end
    with_table[row[1]].records = share(cache, text)
  end
  return true
end


--- Is there a side table of checksums in this database?
function M.has_checksums(db)
  return db:value(HAS_CHECKSUMS_SQL)
end


--- Notes which files are not what was applied, by what was remembered.
---@param names string[]|nil  schemas; nil: all
function M.read_edited(db, migrations, tracking, into, names)
  local file_names, checksums = {}, {}
  for i, m in ipairs(migrations) do
    file_names[i], checksums[i] = m.name, m.checksum
  end
  local rows, err = db:query(EDITED_SQL, array(file_names), array(checksums),
                             tracking, names and array(names) or markers.null)
  if not rows then return nil, err end
  for _, row in ipairs(rows) do
    local s = into[row.schema]
    if s then
      if #s.edited == 0 then s.edited = {} end
      s.edited[#s.edited + 1] = row.name
    end
  end
  return true
end


-- What identifies a state, to be compared by the server once more.
---@param s table  as read_chunk makes it
---@return string sql  an expression: true if nothing has changed
function M.unchanged_sql(s, tracking)
  local where = formats.qualified(s.schema, tracking)
  if not s.shape then
    return format("pg_catalog.to_regclass(%s) IS NULL", literal(where))
  end
  return format("(SELECT pg_catalog.count(*) = %d AND coalesce("
    .. "pg_catalog.string_agg(%s, e'\\n'), '') = %s FROM %s)", #s.records,
    s.shape.id, literal(concat(s.records, "\n")), where)
end


return M
