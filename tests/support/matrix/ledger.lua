--- The ledger of a cell: every write has a number of its own, what the caller
-- was told about it is kept, and at the end that is compared with the table.
--
-- A write puts its number `n` into the table once; a transaction that is to be
-- seen as a whole puts in a second row, `-n`.

local M = {}

local methods = {}
local mt = { __name = "ledger", __index = methods }


-- A row takes a page, and COMMIT takes as long as its rows say.
local TABLE = [[
  CREATE TABLE SCHEMA.ledger (
    n int, late float8 DEFAULT 0, wide char(600) DEFAULT ''
  ) WITH (fillfactor = 10) OPTIONS;
  CREATE FUNCTION SCHEMA.late() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(NEW.late); RETURN NULL; END $$;
  CREATE CONSTRAINT TRIGGER late AFTER INSERT ON SCHEMA.ledger
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.late > 0)
    EXECUTE FUNCTION SCHEMA.late();]]


--- SQL that makes the table; `options` go behind it (TABLESPACE ...).
function M.create(schema, options)
  return (TABLE:gsub("%u%u%u%u+", { SCHEMA = schema, OPTIONS = options or "" }))
end


M.INSERT = "INSERT INTO ledger (n) VALUES ($1)"
--- The same after so many seconds.
M.INSERT_LATE = "INSERT INTO ledger (n) SELECT $1::int FROM pg_sleep($2)"


--- With a COMMIT of so many seconds.
M.INSERT_LATE_COMMIT = "INSERT INTO ledger (n, late) VALUES ($1, $2)"


local last = 0 -- numbers are not used twice, in whatever table


function M.new()
  return setmetatable({ told = {}, pairs = {} }, mt)
end


--- A new number. With `pair` its writer adds -n in the same transaction.
function methods:begin(pair)
  last = last + 1
  self.told[last] = "pending"
  self.pairs[last] = pair
  return last
end


--- What the caller was told about n: a result, or an error.
function methods:tell(n, ok, err)
  if ok then
    self.told[n] = "acknowledged"
  else
    self.told[n] = err.ambiguous and "in doubt" or "failed"
  end
end


local function count_rows(text)
  local rows = {}
  for n, times in text:gmatch("(%-?%d+)|(%d+)") do
    rows[tonumber(n)] = tonumber(times)
  end
  return rows
end


local MAY_BE = {
  acknowledged = { [1] = true },
  failed = { [0] = true },
  ["in doubt"] = { [0] = true, [1] = true },
}


--- Compares; `text` is the output of `M.COUNTS`. Raises on any difference.
function methods:check(text)
  local rows, wrong = count_rows(text), {}
  for n, told in pairs(self.told) do
    local times = rows[n] or 0
    if not (MAY_BE[told] and MAY_BE[told][times]) then
      wrong[#wrong + 1] = ("%d was %s and is there %d times"):format(n, told, times)
    end
    if self.pairs[n] and (rows[-n] or 0) ~= times then
      wrong[#wrong + 1] = ("only one half of %d is there"):format(n)
    end
    rows[n], rows[-n] = nil, nil
  end
  for n in pairs(rows) do
    wrong[#wrong + 1] = ("nobody wrote %d"):format(n)
  end
  if #wrong > 0 then error("ledger: " .. table.concat(wrong, "; "), 0) end
end


function M.counts(schema)
  return ("SELECT n, count(*) FROM %s.ledger GROUP BY n"):format(schema)
end


return M
