--- mtenant sync: compares the records of migrations with the files.

local cli = require "mtenant.cli"
local status = require "mtenant.cli.status"

-- What both changes of a tenant's records come to.
local function join(marked, cleaned)
  if not marked or not marked.success or not cleaned then
    return marked or cleaned
  end
  for key, value in pairs(marked) do
    if cleaned[key] == nil or key == "marked_migrations" then
      cleaned[key] = value
    end
  end
  cleaned.duration_ms = cleaned.duration_ms + marked.duration_ms
  return cleaned
end


local function repair(run, id)
  local migrator = run:migrator()
  local marked, cleaned, err
  if run.opts.mark_missing then
    marked, err = migrator:mark_missing(id)
    if not marked then return nil, err end
  end
  if run.opts.clean_orphans and (not marked or marked.success) then
    cleaned, err = migrator:clean_orphans(id)
    if not cleaned then return nil, err end
  end
  return join(marked, cleaned)
end


local function items(result)
  local out = {}
  for _, name in ipairs(result.marked_migrations or {}) do
    out[#out + 1] = "+" .. name
  end
  for _, name in ipairs(result.removed_orphans or {}) do
    out[#out + 1] = "-" .. name
  end
  return out
end


return cli.run("sync", function(run)
  local opts = run.opts
  if not (opts.mark_missing or opts.clean_orphans) then
    local ids, migrator = run:tenants(), run:migrator()
    local sync = run:must(migrator:get_sync_status({ tenants = ids }))
    status.show_sync(run.console, sync)
    return sync.error > 0 and 1 or 0
  end
  run:need_tenants()
  local words = { done = "repaired", same = "in sync", items = items }
  return run:batch_of_each(run:tenants(), words, function(id)
    return repair(run, id)
  end)
end)
