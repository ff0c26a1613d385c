--- The leak checker: random programs of many tenants over few connections.
--
--     mtenant-run tests/isolation/leaks.lua [--help]
--
-- What an operation does is in leaks/plain.lua, sessions.lua, transactions.lua
-- and faults.lua; how its results are judged in context.lua and probe.lua.

local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. package.path

local context = require "leaks.context"
local faults = require "leaks.faults"
local ledger = require "leaks.ledger"
local mtenant = require "mtenant"
local options = require "leaks.options"
local random = require "leaks.random"
local report = require "leaks.report"
local worlds = require "leaks.world"

local STALLED_MS = 90000


local function is_wanted(name, only)
  for part in (only or name):gmatch("[^,]+") do
    if name:find(part, 1, true) then return true end
  end
  return false
end


local function operations(only)
  local all = {}
  for _, name in ipairs({ "plain", "sessions", "transactions", "faults" }) do
    for _, row in ipairs(require("leaks." .. name).operations) do
      if is_wanted(row[1], only) then all[#all + 1] = row end
    end
  end
  return #all > 0 and random.weighted(all) or nil
end


--- A tenant for an operation; not one that is being looked at alone.
local function tenant_for(world, c)
  local n = c.rand:int(#world.tenants)
  while world.tenants[n].alone do
    n = n % #world.tenants + 1
    if c.world.stopped then break end
  end
  return world.tenants[n]
end


--- Waits until nothing of a tenant is under way, and compares its rows with
-- what it was told.
local function settle(world, t)
  local c = context.new(world, world.next)
  t.alone = true
  while t.busy > 0 do mtenant.sleep(1) end
  c:bind(t, "settle")
  ledger.settle(c)
  t.alone = nil
end


local function run(c, operation)
  local kind = c.rand:int(100)
  if kind <= 4 and operation.name ~= "drop schema" then
    c.world:count("cancelled tasks")
    return faults.cancelled(c, operation.run)
  elseif kind <= 8 and operation.name ~= "drop schema" then
    c.world:count("deadlines")
    return faults.hurried(c, operation.run)
  end
  return operation.run(c)
end


local function one(world, all, index)
  local c = context.new(world, index)
  local operation = c.rand:pick_weighted(all)
  local t = tenant_for(world, c)
  c:bind(t, operation.name)
  t.busy = t.busy + 1
  world:count(operation.name)
  local ok, err = xpcall(run, debug.traceback, c, operation)
  if not ok then world:problem(c, "raised " .. tostring(err)) end
  t.busy = t.busy - 1
  world.done = world.done + 1
  if ledger.is_full(t) and not t.alone and not world.stopped then
    settle(world, t)
  end
end


local function work(world, all)
  while not world.stopped and world.next < world.options.operations do
    world.next = world.next + 1
    one(world, all, world.next)
  end
end


--- Shows progress, and ends the run when nothing moves any more.
local function watch(world)
  local terminal = report.on_terminal() and not world.options.json
  local last, moved = -1, mtenant.now_ms()
  while not world.over do
    local now = mtenant.now_ms()
    if world.done ~= last then last, moved = world.done, now end
    if now - moved > STALLED_MS then
      print("PROBLEM: nothing has ended for " .. STALLED_MS .. " ms")
      report.finish(world)
      os.exit(1)
    end
    if terminal then report.progress(world, (now - world.began) / 1000) end
    mtenant.sleep(250)
  end
  if terminal then report.hide() end
end


local function main()
  local opts, wrong = options.parse(arg)
  if not opts or opts.help then
    (opts and io.stdout or io.stderr):write(wrong and wrong .. "\n" or "",
                                            options.USAGE)
    return opts and 0 or 2
  end
  local all = operations(opts.only)
  if not all then
    io.stderr:write("no operation is called ", opts.only, "\n")
    return 2
  end
  if not opts.json then print("seed " .. opts.seed) end
  local world = worlds.new(opts)
  if opts.no_reset and not world:keep_sessions() then
    print("--no-reset is not built")
    world:close()
    return 2
  end
  world.began, world.next = mtenant.now_ms(), 0
  local watcher = mtenant.spawn(watch, world)
  mtenant.each({ n = opts.workers }, opts.workers, function()
    work(world, all)
  end)
  if not world.stopped then
    mtenant.each(world.tenants, 5, function(t) settle(world, t) end)
  end
  world.over = true
  watcher:await()
  report.finish(world)
  world:close()
  return #world.leaks + #world.problems > 0 and 1 or 0
end


return main()
