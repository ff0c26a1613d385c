--- The states in which a fault may meet a caller. `enter(c)` brings callers of
-- the cell (matrix/init.lua) into the state and returns when they are in it;
-- `after(c)`, where there is one, runs when the fault has struck.
--
-- Every write goes through `c:attempt`, which keeps it in the ledger and its
-- outcome, in the order of the calls, for the cell's expectation.

local env = require "tests.support.env"
local ledger = require "tests.support.matrix.ledger"
local mtenant = require "mtenant"


local function write(c, db, sql, ...)
  local params = { ... }
  return c:attempt(function(n)
    return db:query({ sql = sql, params = { n, table.unpack(params) },
                      timeout_ms = c.fault.timeout_ms })
  end)
end


local function connect(c)
  env.must(c.db:query("SELECT 1"))
end


-- The server itself says that somebody is at work, and for a while: nobody
-- takes it for an idle connection's first statement.
local function await_backends(c, n, condition)
  env.eventually("callers to be in their state", function()
    return env.count(condition
      .. " AND clock_timestamp() - query_start > interval '50 ms'",
      c.server) >= n
  end)
end


local function await_strike(c)
  while not c.struck do mtenant.sleep(1) end
end


local M = {}


--- The connection is there, and nobody uses it. Then somebody writes.
M.idle = {
  enter = connect,
  after = function(c)
    c:spawn(function() write(c, c.db, ledger.INSERT) end)
  end,
}


--- A connection is being made for a statement.
M.connecting = {
  enter = function(c)
    if c.family.hold then c.family.hold(c) end
    c:spawn(function() write(c, c.db, ledger.INSERT) end)
    mtenant.sleep(30)
  end,
}


--- Somebody else has the only connection.
M.waiting = {
  connections = 1,
  enter = function(c)
    connect(c)
    c:spawn(function() -- what becomes of it is `session`'s
      c.db:session(function(s)
        return s:query({ sql = "SELECT pg_sleep($1)", params = { c.long },
                         timeout_ms = c.fault.timeout_ms })
      end)
    end)
    await_backends(c, 1, "state = 'active' AND query ~ 'pg_sleep'")
    for _ = 1, 3 do
      c:spawn(function() write(c, c.db, ledger.INSERT) end)
    end
    mtenant.sleep(10)
  end,
}


--- The server works on a statement.
M.statement = {
  enter = function(c)
    connect(c)
    c:spawn(function() write(c, c.db, ledger.INSERT_LATE, c.long) end)
    await_backends(c, 1, "state = 'active' AND query ~ 'pg_sleep'")
  end,
}


--- Between two statements of a transaction.
M.transaction = {
  enter = function(c)
    connect(c)
    c:spawn(function()
      c:attempt(function(n)
        return c.db:transaction(function(tx)
          env.must(tx:query(ledger.INSERT, n))
          c.inside = true
          await_strike(c)
          return tx:query({ sql = ledger.INSERT, params = { -n },
                            timeout_ms = c.fault.timeout_ms })
        end)
      end, "pair")
    end)
    env.eventually("the transaction", function() return c.inside end)
  end,
}


--- The server works on a COMMIT.
M.commit = {
  enter = function(c)
    connect(c)
    c:spawn(function()
      c:attempt(function(n)
        return mtenant.with_deadline(c.fault.timeout_ms or math.huge, function()
          return c.db:transaction(function(tx)
            env.must(tx:query(ledger.INSERT, n))
            return tx:query(ledger.INSERT_LATE_COMMIT, -n, c.long)
          end)
        end)
      end, "pair")
    end)
    await_backends(c, 1, "state = 'active' AND query = 'COMMIT'")
  end,
}


--- The server works on the second of three statements; each is a unit of its
-- own. The first was acknowledged, the third has been sent.
M.pipeline = {
  enter = function(c)
    connect(c)
    c:spawn(function()
      c.db:pipeline(function(p)
        local futures = {}
        for i = 1, 3 do
          local late = i == 2 and c.long or 0
          futures[i] = c:begin(function(n)
            return p:query({ sql = ledger.INSERT_LATE, params = { n, late },
                             timeout_ms = c.fault.timeout_ms })
          end)
        end
        for i = 1, 3 do c:finish(futures[i], futures[i].future:await()) end
        return true
      end)
    end)
    await_backends(c, 1, "state = 'active' AND query ~ 'pg_sleep'")
  end,
}


--- Between two statements of a session, each its own transaction.
M.session = {
  enter = function(c)
    connect(c)
    c:spawn(function()
      c.db:session(function(s)
        write(c, s, ledger.INSERT)
        c.inside = true
        await_strike(c)
        return write(c, s, ledger.INSERT)
      end)
    end)
    env.eventually("the session", function() return c.inside end)
  end,
}


-- It does not end at the first cancel, so that the fault finds it alive.
local STUBBORN = [[
  DO $$ BEGIN
    INSERT INTO ledger (n) VALUES (%d);
    BEGIN PERFORM pg_sleep(30); EXCEPTION WHEN query_canceled THEN NULL; END;
    PERFORM pg_sleep(30);
  END $$]]


--- The manager is being disposed of, and a statement does not want to end.
M.dispose = {
  enter = function(c)
    local manager = c:make_manager()
    local db = assert(manager:get_db(c.tenant))
    c:spawn(function()
      c:attempt(function(n) return db:query(STUBBORN:format(n)) end)
    end)
    await_backends(c, 1, "state = 'active' AND query ~ 'pg_sleep'")
    c:spawn(function()
      local started = mtenant.now_ms()
      manager:dispose(1500)
      c.dispose_ms = mtenant.now_ms() - started
      assert(manager:get_stats().open == 0, "connections outlive dispose")
    end)
    mtenant.sleep(20)
  end,
}


M.NAMES = { "idle", "connecting", "waiting", "statement", "transaction",
            "commit", "pipeline", "session", "dispose" }


return M
