--- A background worker: takes the jobs of many tenants from a shared table, and
-- does each in its tenant's context. Several may run; none does another's job.
--
--   mtenant-run worker.lua URL [--once]
--
-- Ends after the jobs under way on SIGINT or SIGTERM; with --once when no job
-- is left.

local mtenant = require "mtenant"
local policy = require "notes.policy"

local url, once = arg[1], arg[2] == "--once"
local WORKERS, IDLE_MS, MAX_ATTEMPTS = 8, 500, 5

local config = policy.config(url)
config.rate_limit = nil
local manager = assert(mtenant.create_tenant_manager(config))
local context = mtenant.create_tenant_context(manager)
local shared = manager:get_shared_db()
local done, failed = 0, 0


-- What a job does: it knows its tenant by the context alone.
local function write_note(body)
  return context:get_tenant_db():query("INSERT INTO notes (body) VALUES ($1)",
                                       body)
end


-- A job is locked for as long as it is worked on, and marked as done in the
-- transaction that holds the lock: one that dies leaves it to others. The
-- note is written by another transaction: a job may be done twice, never not.
local function work_on_one()
  return shared:transaction(function(tx)
    local job, err = tx:one("SELECT id, tenant, body FROM jobs "
      .. "WHERE done_at IS NULL AND attempts < $1 ORDER BY id LIMIT 1 "
      .. "FOR UPDATE SKIP LOCKED", MAX_ATTEMPTS)
    if not job then return err == nil and "none" or nil, err end
    local ok
    ok, err = context:run_with_tenant(job.tenant, write_note, job.body)
    if ok then
      done = done + 1
      return tx:query("UPDATE jobs SET done_at = now() WHERE id = $1", job.id)
    end
    failed = failed + 1
    io.stderr:write(("job %d of %s: %s\n"):format(job.id, job.tenant,
                                                  tostring(err)))
    return tx:query("UPDATE jobs SET attempts = attempts + 1 WHERE id = $1",
                    job.id)
  end)
end


local function worker()
  while true do
    local outcome, err = work_on_one()
    if not outcome and err.code == "cancelled" then return end
    if not outcome then
      io.stderr:write(tostring(err), "\n")
    elseif outcome == "none" and once then
      return
    end
    if not outcome or outcome == "none" then
      if not mtenant.sleep(IDLE_MS) then return end
    end
  end
end


local function progress()
  while mtenant.sleep(1000) do
    io.stderr:write(("\r%d jobs done, %d failed "):format(done, failed))
  end
end


local shown = mtenant.spawn(progress)
local tasks = {}
for i = 1, WORKERS do tasks[i] = mtenant.spawn(worker) end
for i = 1, WORKERS do tasks[i]:await() end
shown:cancel()
print(("%d jobs done, %d failed"):format(done, failed))
manager:dispose()
