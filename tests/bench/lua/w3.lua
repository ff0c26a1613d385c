--- W3: 100,000 rows of six mixed columns into Lua.
--   --form=hash|array|get|index  eager row tables; eager arrays; lazy rows
--                                read by rows:get(i, column); lazy rows read
--                                by rows[i].name
--   --form=stream --rows=N       N generated rows by db:rows
--   --iters=5 --verify

local bench = require "bench"
local mtenant = bench.mtenant()

local BIG =
  "select id,name,email,balance,created_at,active from accounts_big"
-- A set-returning function in the target list: the server never holds all.
local GENERATED = "select id,'name '||id as name,"
  .. "'user'||id||'@example.org' as email,id/100.0 as balance,"
  .. "now() as created_at,id%2=0 as active "
  .. "from (select generate_series(1,$1::int) as id) s"

local options = bench.options {
  form = "hash", iters = 5, rows = 1000000, verify = 0,
}
local verify = options.verify == 1


local function verify_row(id, name, balance, active)
  local expected = id % 10 ~= 0 and "name " .. id or nil
  if name == mtenant.null then name = nil end
  if name ~= expected or active ~= (id % 2 == 0)
    or balance ~= ("%.2f"):format(id % 1000000 / 100) then
    error(("wrong row %d: name %s, balance %s, active %s"):format(id,
      tostring(name), tostring(balance), tostring(active)), 0)
  end
end

-- Each form: fetches all rows, returns their count and the sum over them of
-- id, and 1 where active.
local FORMS = {}


function FORMS.hash(db)
  local rows, sum = assert(db:query(BIG)), 0
  for i = 1, #rows do
    local row = rows[i]
    sum = sum + row.id + (row.active and 1 or 0)
    if verify then verify_row(row.id, row.name, row.balance, row.active) end
  end
  return #rows, sum
end


function FORMS.array(db)
  local rows, sum = assert(db:query { sql = BIG, as = "arrays" }), 0
  for i = 1, #rows do
    local row = rows[i]
    sum = sum + row[1] + (row[6] and 1 or 0)
    if verify then verify_row(row[1], row[2], row[4], row[6]) end
  end
  return #rows, sum
end


function FORMS.get(db)
  local rows, sum = assert(db:query { sql = BIG, as = "lazy" }), 0
  for i = 1, #rows do
    sum = sum + rows:get(i, 1) + (rows:get(i, 6) and 1 or 0)
    if verify then
      verify_row(rows:get(i, 1), rows:get(i, 2), rows:get(i, 4),
        rows:get(i, 6))
    end
  end
  return #rows, sum
end


function FORMS.index(db)
  local rows, sum = assert(db:query { sql = BIG, as = "lazy" }), 0
  for i = 1, #rows do
    local row = rows[i]
    sum = sum + row.id + (row.active and 1 or 0)
    if verify then verify_row(row.id, row.name, row.balance, row.active) end
  end
  return #rows, sum
end


local function measure_fetch(db)
  local fetch, n, check = assert(FORMS[options.form], "--form"), 0, 0
  fetch(db) -- warms both sides up
  bench.begin()
  for _ = 1, options.iters do
    local rows, sum = fetch(db)
    n, check = n + rows, sum
  end
  bench.finish()
  return { name = "mtenant-" .. options.form, n = n, check = check }
end


--- The peak's growth shows what is kept: all of it, and after the first tenth
-- of the rows what grows with their number.
local function measure_stream(db)
  assert(db:value "select 1")
  local before, early = bench.memory "VmHWM", 0
  local tenth, n, check = options.rows // 10, 0, 0
  bench.begin()
  for row in db:rows(GENERATED, options.rows) do
    n = n + 1
    check = check + row.id + (row.active and 1 or 0)
    if n == tenth then early = bench.memory "VmHWM" end
  end
  bench.finish()
  local after = bench.memory "VmHWM"
  return {
    name = "mtenant-stream", n = n, check = check,
    extra = { growth_kb = after - before, late_kb = after - early },
  }
end


local result = mtenant.run(function()
  local manager = bench.manager(1)
  local db = assert(manager:get_db(bench.tenant_id(1)))
  local measured = options.form == "stream" and measure_stream(db)
    or measure_fetch(db)
  measured.conns = bench.count_connections(db)
  manager:dispose()
  return measured
end)
bench.report(result)
