--- demo: tenants made, migrated in parallel, and read across a restart.
--
--     mtenant-run scripts/demo.lua [--help]
--
-- The routing policy is in demo/policy.lua, the SQL in demo/migrations/.

local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. package.path

local errors = require "mtenant.errors"
local migrations = require "demo.migrations"
local mtenant = require "mtenant"
local options = require "demo.options"
local outage = require "demo.outage"
local policy = require "demo.policy"
local readers = require "demo.readers"
local screens = require "demo.screen"
local tenants = require "demo.tenants"
local throwaway = require "mtenant.throwaway"

local OUTAGE_AT = 0.3       -- of the time of reading
local LONGEST_OUTAGE_MS = 1200

local count, seconds = screens.count, screens.seconds


--- A URL that is none is the user's mistake, not this program's.
local function new_manager(demo)
  local ok, manager = pcall(mtenant.create_tenant_manager, {
    connection = { url = demo.url, application_name = demo.name },
    resolve = policy.resolve,
  })
  if ok then
    return manager
  end
  error(errors.new(errors.CODE.unreachable, "DATABASE_URL: " .. manager.message), 0)
end


--- Starts a server unless there is one; the manager is of its tenants.
local function connect(demo)
  local screen, began = demo.screen, mtenant.now_ms()
  demo.url = os.getenv("DATABASE_URL")
  demo.server = throwaway.given()
  if not demo.url or demo.url == "" then
    demo.at = "starting PostgreSQL"
    screen:progress("PostgreSQL starts")
    demo.server = assert(throwaway.start())
    demo.url = demo.server.url
  end
  demo.at = "connecting"
  demo.name = ("mtenant demo %08x"):format(math.random(0xffffffff))
  demo.manager = new_manager(demo)
  local shared = assert(demo.manager:get_shared_db_async())
  local about = assert(shared:one [[
    SELECT current_user AS user, current_setting('server_version') AS version,
           current_setting('is_superuser') AS super
  ]])
  screen:hide()
  screen:done(("PostgreSQL %s %s; user %s, %s superuser"):format(
    about.version:match("^%S+"),
    demo.server and "started for this run" or "of DATABASE_URL", about.user,
    about.super == "on" and "a" or "not a"), mtenant.now_ms() - began)
  return shared
end


--- Runs a step that has a progress bar; returns what it returns.
local function step(demo, label, total, fn)
  local tell = demo.screen:progress(label, total)
  local began = mtenant.now_ms()
  demo.at, demo.total, demo.count = label, total, 0
  local result = fn(function(n)
    demo.count = n
    tell(n)
  end)
  demo.screen:hide()
  return result, mtenant.now_ms() - began
end


local function create(demo, shared)
  local list = tenants.list(demo.opts.tenants)
  local _, ms = step(demo, "tenants made", #list, function(tell)
    tenants.create(shared, list, tell)
  end)
  demo.tenants = list
  demo.screen:done(("%s tenants, each with a schema, such as %s"):format(
    count(#list), list[1].schema), ms)
end


local function migrate(demo)
  local files = demo.files
  local applied, ms = step(demo, "tenants migrated", #demo.tenants,
    function(tell)
      return migrations.apply(demo.manager, demo.tenants, files, tell)
    end)
  demo.applied = applied
  local text = applied > 0
    and ("%s migrations applied: %d files, one transaction per tenant"):format(
      count(applied), #files)
    or "nothing to migrate: all tenants are up to date"
  demo.screen:done(text, ms)
end


--- What is drawn while tasks read.
local function load_lines(demo, began)
  local r, screen = demo.readers, demo.screen
  local chart = screen:chart(r.samples, screen.width - 30)
  chart[#chart + 1] = ("  %s reads/s"):format(count(r.rate))
  table.insert(chart, 1, "    ")
  return {
    { "  ", screen:spinner(), (" %d tasks read"):format(r.running),
      { "dim", "  " .. seconds(mtenant.now_ms() - began) } },
    chart,
    { "    ", { "bold", count(r.reads) }, " reads   ",
      { r.retries > 0 and "yellow" or "dim", count(r.retries) .. " retries" },
      "   ", { r.waiting > 0 and "yellow" or "dim",
               ("%d tasks wait"):format(r.waiting) },
      "   ", { r.wrong > 0 and "red" or "dim", r.wrong .. " wrong rows" } },
    { "    ", { "yellow", r.waiting > 0 and r.last_retry or "" } },
  }
end


local function new_readers(demo, event)
  return readers.new(demo.manager, demo.tenants, {
    on_first_retry = function(err)
      event(("first retry, of %s: %s"):format(err.tenant_id or "?", err.message))
    end,
    on_answer = function()
      event(("a read is answered after its retries, %s so far"):format(
        count(demo.readers.retries)), "green")
    end,
  })
end


--- Tasks read; meanwhile the server goes away and comes back.
local function read_across_outage(demo)
  local screen, opts, began = demo.screen, demo.opts, mtenant.now_ms()
  local ends, over = began + opts.seconds * 1000, false
  local function event(text, style)
    screen:event(mtenant.now_ms() - began, text, style)
  end
  demo.at, demo.total = "reading", nil
  demo.readers = new_readers(demo, event)
  screen:line(screen.live and "    " or "",
    ("%d tasks read random tenants; meanwhile the server %s"):format(opts.tasks,
      demo.server and "is restarted" or "loses their connections"))
  demo.readers:start(opts.tasks, function()
    return not over or mtenant.now_ms() < ends
  end)
  screen:show(function() return load_lines(demo, began) end)
  assert(mtenant.sleep(opts.seconds * 1000 * OUTAGE_AT))
  local ok, err = pcall(outage.run, {
    server = demo.server, url = demo.url, application_name = demo.name,
    down_ms = math.min(LONGEST_OUTAGE_MS, opts.seconds * 200),
  }, event)
  over = true
  if not ok then
    error(err, 0)
  end
  demo.readers:await()
  screen:hide()
  demo.read_ms = mtenant.now_ms() - began
  if screen.live then
    local chart = screen:chart(demo.readers.samples, screen.width - 26)
    chart[#chart + 1] = { "dim", "  reads over time" }
    screen:line("    ", table.unpack(chart))
  end
  local r = demo.readers
  local finished = ("%d of %d tasks finished"):format(r.finished, r.started)
  if r.finished == r.started then
    screen:done(finished, demo.read_ms)
  else
    screen:failed(finished)
  end
end


local function summary(demo)
  local r, stats = demo.readers, demo.manager:get_stats()
  local files = #demo.files
  local function good(n)
    return n == 0 and "green" or "red"
  end
  demo.screen:line("")
  demo.screen:table {
    { "tenants", count(#demo.tenants), "a schema each, by region and plan" },
    { "migrations", count(demo.applied), ("of %d files; %s were applied already")
      :format(files, count(#demo.tenants * files - demo.applied)) },
    { "queries", count(stats.requests), ("%s reads, %s a second"):format(
      count(r.reads), count(r.reads * 1000 // demo.read_ms)) },
    { "retries", count(r.retries), r:retry_reasons(count) },
    { "unanswered reads", count(r.unanswered), ("the longest took %s"):format(
      seconds(r.longest_ms)), good(r.unanswered) },
    { "wrong-tenant rows", count(r.wrong), "each row names its tenant and schema",
      good(r.wrong) },
    { "server connections", count(stats.peak), ("at most; %d opened, %d lost")
      :format(stats.opened, stats.lost) },
    { "time", seconds(mtenant.now_ms() - demo.began), "" },
  }
end


local function drop(demo, shared)
  local list = tenants.left(shared)
  local _, ms = step(demo, "tenants removed", #list, function(tell)
    tenants.remove(shared, list, tell)
  end)
  demo.screen:done(count(#list) .. " tenants removed", ms)
end


local function run(demo)
  demo.at = "listing the migrations"
  demo.files = migrations.load(here .. "/demo/migrations")
  local shared = connect(demo)
  if demo.opts.drop then
    return drop(demo, shared)
  end
  create(demo, shared)
  migrate(demo)
  read_across_outage(demo)
  summary(demo)
end


--- After an interruption, where things stand.
local function stand(demo)
  local text = "stopped while " .. demo.at
  local r = demo.readers
  if r then
    return ("%s: %s reads were answered, %s retries, %d wrong rows"):format(text,
      count(r.reads), count(r.retries), r.wrong)
  elseif demo.total then
    return ("stopped: %d of %d %s"):format(demo.count, demo.total, demo.at)
  end
  return text
end


--- The exit status.
local function verdict(demo, ok, err)
  if ok and not demo.readers then
    return 0
  elseif ok then
    local r = demo.readers
    local good = r.unanswered == 0 and r.wrong == 0 and r.finished == r.started
    if not good and r.last_error then
      demo.screen:failed("the last error: " .. tostring(r.last_error), io.stderr)
    end
    return good and 0 or 1
  end
  demo.screen:hide()
  if errors.is(err, errors.CODE.cancelled) then
    demo.screen:failed(stand(demo))
  elseif errors.is(err) and err.code ~= errors.CODE.misuse then
    demo.screen:failed(tostring(err), io.stderr)
  else
    error(err, 0)
  end
  return 1
end


local opts, wrong = options.parse(arg)
if not opts then
  io.stderr:write("demo: ", wrong, "\nTry --help.\n")
  return 2
elseif opts.help then
  io.stdout:write(options.HELP)
  return 0
end
local demo = { opts = opts, began = mtenant.now_ms(),
               screen = screens.new(opts.plain) }
return verdict(demo, pcall(run, demo))
