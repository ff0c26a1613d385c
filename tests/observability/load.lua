-- Load for prometheus_spec.lua, with a ledger: what each call was told. Run by
-- mtenant-run --admin; arguments: seconds, number of tenants, where to write the
-- ledger. Then it waits until that file has gone.

local json = require "cjson"
local mtenant = require "mtenant"

local seconds, tenants, path = tonumber(arg[1]), tonumber(arg[2]), arg[3]

local ledger = { statements = 0, ambiguous = 0, leases = 0, retries = 0,
                 errors = {}, tenants = {} }
local stop = false


local function of(id)
  ledger.tenants[id] = ledger.tenants[id]
    or { statements = 0, leases = 0, errors = {} }
  return ledger.tenants[id]
end


local function add_error(id, err)
  local mine = of(id)
  for _, errors in ipairs { ledger.errors, mine.errors } do
    errors[err.code] = (errors[err.code] or 0) + 1
  end
  if err.ambiguous then ledger.ambiguous = ledger.ambiguous + 1 end
end


local function note(id, result, err)
  local mine = of(id)
  ledger.statements, mine.statements = ledger.statements + 1, mine.statements + 1
  if err then add_error(id, err) end
  return result, err
end


local function transaction(id, db)
  local inner
  local _, err = db:transaction(function(tx)
    local mine = of(id)
    ledger.leases, mine.leases = ledger.leases + 1, mine.leases + 1
    for i = 1, 2 do
      local ok
      ok, inner = note(id, tx:query("SELECT $1::int", i))
      if not ok then return nil, inner end
    end
    return true
  end)
  if err and err ~= inner then add_error(id, err) end -- the lease, or COMMIT
end


local KINDS = {
  function(id, db) note(id, db:query("SELECT $1::text AS t", id)) end,
  function(id, db) note(id, db:query("SELECT 1/0")) end,
  function(id, db)
    note(id, db:query { sql = "SELECT pg_sleep(1)", timeout_ms = 15 })
  end,
  transaction,
  function(id, db) note(id, db:one("SELECT generate_series(1, 20) AS n")) end,
}


local function work(manager, i)
  local n = i
  while not stop do
    n = n * 16807 % 2147483647
    local id = "p" .. n % tenants + 1
    local kind = n % 40 == 1 and 2 or n % 97 == 2 and 3 or n % 11 == 3 and 4
      or n % 7 == 4 and 5 or 1
    KINDS[kind](id, assert(manager:get_db(id)))
    if n % 50 == 0 then mtenant.sleep(5) end
  end
end


-- Takes connections away, and asks for tenants that there are none of.
local function disturb(manager)
  local db = manager:get_shared_db()
  while not stop do
    mtenant.sleep(700)
    note("(shared)", db:query [[SELECT pg_terminate_backend(pid)
      FROM pg_stat_activity WHERE application_name = 'mtenant-load'
      AND pid <> pg_backend_pid() ORDER BY backend_start LIMIT 1]])
    note("(unknown)", assert(manager:get_db("unknown")):query("SELECT 1"))
    manager:get_db_async("missing") -- that has no schema
  end
end


mtenant.run(function()
  local manager = mtenant.create_tenant_manager {
    connection = {
      application_name = "mtenant-load", max_connections = 5,
      retry = { max_attempts = 5, initial_delay_ms = 5,
                on_retry = function() ledger.retries = ledger.retries + 1 end },
    },
    resolve = function(id)
      if id == "unknown" then return nil, "unknown" end
      return { schema = "t_" .. id }
    end,
    metrics = { tenants = tenants + 1 },
  }
  local tasks = {}
  for i = 1, 16 do tasks[i] = mtenant.spawn(work, manager, i) end
  tasks[#tasks + 1] = mtenant.spawn(disturb, manager)
  mtenant.sleep(seconds * 1000)
  stop = true
  for _, task in ipairs(tasks) do assert(select("#", task:await()) >= 0) end
  mtenant.sleep(500)
  local file = assert(io.open(path .. ".new", "w"))
  file:write(json.encode(ledger))
  file:close()
  assert(os.rename(path .. ".new", path))
  while io.open(path) do mtenant.sleep(100) end
  manager:dispose()
end)
