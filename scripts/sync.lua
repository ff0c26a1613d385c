--- mtenant sync: compares the records of migrations with the files.

local cli = require "mtenant.cli"
local status = require "mtenant.cli.status"


-- A tenant's results of both steps as one; of a single step it is that one.
local function join(marked, last)
  local first = marked or last
  return {
    tenant_id = last.tenant_id, schema_name = last.schema_name,
    success = first.success and last.success,
    error = first.error or last.error,
    marked_migrations = first.applied_migrations or {},
    removed_orphans = last.removed_orphans or {},
    duration_ms = last.duration_ms + (marked and marked.duration_ms or 0),
  }
end


-- The names of what was recorded and of what was removed.
local function items(result)
  return status.changes(result.marked_migrations, result.removed_orphans)
end


local function mark(run, ids, o)
  return run:migrator():migrate_tenants(ids, {
    mark_applied = true, concurrency = o.concurrency,
    on_progress = not run.opts.clean_orphans and o.on_progress or nil,
  })
end


local function repair(run, ids)
  local opts, marked = run.opts, {}
  local words = {
    done = "repaired", same = "in sync", again = true, items = items,
    shape = function(result) return join(marked[result.tenant_id], result) end,
  }
  return run:batch(ids, words, function(o)
    local results, err
    if opts.mark_missing then
      results, err = mark(run, ids, o)
    end
    if err or not opts.clean_orphans then
      return results, err
    end
    for _, result in ipairs(results and results.details or {}) do
      marked[result.tenant_id] = result
    end
    o.tenants = ids
    return run:migrator():clean_all_orphans(o)
  end)
end


return cli.run("sync", function(run)
  local opts = run.opts
  local writes = opts.mark_missing or opts.clean_orphans
  if writes then
    run:need_tenants()
  end
  local ids, migrator = run:tenants(), run:migrator()
  if writes then
    return repair(run, ids)
  end
  local sync = run:must(migrator:get_sync_status({ tenants = ids }))
  status.show_sync(run.console, sync)
  return sync.error > 0 and 1 or 0
end)
