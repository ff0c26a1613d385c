--- The fault matrix, 4: connections that are cut at byte N, for N over all of
-- the protocol: start, authentication, first answer, every kind of work. What
-- the caller is told is true (the ledger), and the next call works.
--
-- MT_MATRIX_STEP=1 tries every byte. The default of 7 skips no more than one
-- message at a time: the shortest have 5 bytes.

local env = require "tests.support.env"
local ledger = require "tests.support.matrix.ledger"
local matrix = require "tests.support.matrix"
local mtenant = require "mtenant"
local proxy = require "tests.support.proxy"

local STEP = tonumber(os.getenv("MT_MATRIX_STEP")) or 7
local SILENCE_STEP = STEP * 9
local LIMIT_MS = 180000

local HBA = "local all app scram-sha-256\nlocal all all trust"

local family = {
  faults = {},
  set_up = function(f)
    f.server = env.start({ hba = HBA })
    f.server:psql([[
      CREATE ROLE app LOGIN PASSWORD 'first' IN ROLE mtenant;
      GRANT pg_read_all_stats TO mtenant]])
    f.proxy = proxy.start(f.server)
  end,
}


local function url(user)
  return ("postgresql://%s@127.0.0.1:%d/mtenant"):format(user, family.proxy.port)
end


local function make_manager(user, how)
  return env.manager({
    connection = {
      url = url(user), max_connections = 1, cancel_timeout_ms = 50,
      pool = { connect_timeout_ms = how == "silence" and 300 or 5000 },
      retry = { max_attempts = 1 },
    },
    breaker = { initial_delay_ms = 0 },
  })
end


-- ---- what is cut --------------------------------------------------------------------

-- Each runs with `book(fn, pair)`, which keeps one write and its outcome.
local WORK = {
  query = function(db, book)
    book(function(n) return db:query(ledger.INSERT, n) end)
  end,
  transaction = function(db, book)
    book(function(n)
      return db:transaction(function(tx)
        env.must(tx:query(ledger.INSERT, n))
        return tx:query(ledger.INSERT, -n)
      end)
    end, "pair")
  end,
  ["atomic pipeline"] = function(db, book)
    book(function(n)
      return db:pipeline({ atomic = true }, function(p)
        p:query(ledger.INSERT, n)
        return p:query(ledger.INSERT, -n)
      end)
    end, "pair")
  end,
  session = function(db, book)
    db:session(function(s)
      for _ = 1, 2 do
        book(function(n) return s:query(ledger.INSERT, n) end)
      end
      return true
    end)
  end,
  script = function(db, book)
    book(function(n)
      return db:exec(("INSERT INTO ledger VALUES (%d); INSERT INTO ledger "
        .. "VALUES (%d)"):format(n, -n))
    end, "pair")
  end,
}


local function pipeline(db, book, numbers)
  db:pipeline(function(p)
    local futures = {}
    for i = 1, 3 do
      local n = numbers:begin()
      futures[i] = { n, p:query(ledger.INSERT, n) }
    end
    for i = 1, 3 do
      book(function() return futures[i][2]:await() end, nil, futures[i][1])
    end
    return true
  end)
end


-- ---- the sweep ----------------------------------------------------------------------

local TOLD = {
  ok = true,
  ["connection_lost retryable"] = true,
  ["connection_lost ambiguous"] = true,
}
local SILENT = {
  ok = true,
  ["timeout"] = true,              -- nothing was sent
  ["timeout retryable"] = true,    -- nor was there a connection
  ["timeout ambiguous"] = true,
  ["connection_lost retryable"] = true, -- no answer to the cancel; not its COMMIT
  ["connection_lost ambiguous"] = true,
}


local function new_book(how)
  local numbers, seen = ledger.new(), {}
  local allowed = how == "silence" and SILENT or TOLD
  local function book(fn, pair, n)
    n = n or numbers:begin(pair)
    local ok, err = fn(n)
    numbers:tell(n, ok, err)
    local outcome = matrix.outcome_of(ok, err)
    if not allowed[outcome] then
      error(("got %s (%s)"):format(outcome, tostring(err)), 0)
    end
    seen[outcome] = (seen[outcome] or 0) + 1
    return ok, err
  end
  return book, numbers, seen
end


local function check(numbers)
  env.eventually("our backends to go", function()
    return env.count("true", family.server) == 0
  end)
  numbers:check(env.sql(ledger.counts("t_victim"), family.server))
end


local function run(work, db, book, numbers, limit_ms)
  mtenant.with_deadline(limit_ms, work, db, book, numbers)
end


-- What was cut is told, and then everything works again.
local function next_call_works(manager, db, book, at)
  family.proxy:normal()
  env.eventually("the loss to be noticed", function()
    return manager:get_stats().open == family.proxy:stats().open
  end)
  local ok, err = book(function(n) return db:query(ledger.INSERT, n) end)
  if not ok then
    error(("after a cut at %d: %s"):format(at, tostring(err)), 0)
  end
end


-- Connections that are new, cut at each byte until the first answer.
local function cut_starts(direction, how, step)
  local p = family.proxy
  local book, numbers, seen = new_book(how)
  local limit_ms = how == "silence" and 450 or math.huge
  local at, all = 0, nil
  repeat
    local manager = make_manager("app:first", how)
    local db = assert(manager:get_db("victim"))
    if all then
      p:cut({ direction = direction, at = at, how = how })
      at = at + step
    end
    run(WORK.query, db, book, numbers, limit_ms)
    all = all or p:stats()[direction]
    next_call_works(manager, db, book, at)
    manager:dispose()
  until at > all + step
  check(numbers)
  return seen, all
end


-- One that is in use, cut at each byte of a piece of work.
local function cut_work(work, direction, how, step)
  local p = family.proxy
  local book, numbers, seen = new_book(how)
  local limit_ms = how == "silence" and 60 or math.huge
  local manager = make_manager("mtenant", how)
  local db = assert(manager:get_db("victim"))
  local at, all = 0, nil
  repeat
    for _ = 1, 2 do -- known to be quick, and prepared
      next_call_works(manager, db, book, at)
    end
    local before = p:stats()[direction]
    if all then
      p:cut_open({ direction = direction, at = at, how = how })
      at = at + step
    end
    run(work, db, book, numbers, limit_ms)
    all = all or p:stats()[direction] - before
    next_call_works(manager, db, book, at)
  until at > all + step
  manager:dispose()
  check(numbers)
  return seen, all
end


local function count(seen)
  local n = 0
  for _, times in pairs(seen) do n = n + times end
  return n
end


local function report(name, seen, all)
  if not os.getenv("MT_MATRIX_TIMES") then return end
  local words = {}
  for outcome, times in pairs(seen) do words[#words + 1] = outcome .. ": " .. times end
  table.sort(words)
  io.stderr:write(("%s, %d bytes: %s\n"):format(name, all, table.concat(words, ", ")))
end


describe("fault matrix, cut at byte N:", function()
  setup(matrix.set_up(family))
  teardown(matrix.tear_down(family))
  before_each(function() env.sql("TRUNCATE t_victim.ledger", family.server) end)
  after_each(env.assert_nothing_left)

  WORK.pipeline = pipeline
  for _, how in ipairs({ "rst", "fin", "silence" }) do
    local step = how == "silence" and SILENCE_STEP or STEP
    for _, direction in ipairs({ "down", "up" }) do
      local name = ("%s, %s"):format(direction, how)
      it("a start with SCRAM, " .. name, env.in_task(function()
        local seen, all = cut_starts(direction, how, step)
        report("start, " .. name, seen, all)
        assert.is_true(count(seen) >= all / step)
      end, LIMIT_MS))
      for _, kind in ipairs({ "query", "transaction", "pipeline",
                              "atomic pipeline", "session", "script" }) do
        it(("a %s, %s"):format(kind, name), env.in_task(function()
          local seen, all = cut_work(WORK[kind], direction, how, step)
          report(kind .. ", " .. name, seen, all)
          assert.is_true(count(seen) >= all / step)
        end, LIMIT_MS))
      end
    end
  end
end)
