--- A policy made of others: what the outer one has of the inner ones beside
--- their routes. Pure; also runs in the sandbox.

local options = require "mtenant.policy.options"

local error, ipairs, pairs, pcall, setmetatable =
  error, ipairs, pairs, pcall, setmetatable


local HOUR_MS = 3600000

-- policy to what it hears of changes by: { sources =, own = }. Beside the policy,
-- for what a file returns is data and the functions of the contract
local hearing_by_policy = setmetatable({}, { __mode = "k" })


-- the shortest time that one of them asks for
local function shortest(inners, key)
  local least
  for _, inner in ipairs(inners) do
    if inner[key] and not (least and least <= inner[key]) then
      least = inner[key]
    end
  end
  return least
end


local function close_all(handles)
  for _, handle in ipairs(handles) do handle:close() end
end


-- Subscribes to all of them; nil and an error when one fails.
local function subscribe(sources, ctx, invalidate)
  local handles = {}
  for _, source in ipairs(sources) do
    local handle, err = source.subscribe(ctx, invalidate)
    if not handle then
      close_all(handles)
      return nil, err
    end
    handles[#handles + 1] = handle
  end
  return handles
end


local function sleep_on(ctx)
  while ctx.sleep(HOUR_MS) do end -- luacheck: ignore
  return true
end


-- Listens until the task that runs it is stopped: then its sleep raises.
local function listener(hearing)
  return function(ctx, invalidate)
    local handles, err = subscribe(hearing.sources, ctx, invalidate)
    if not handles then return nil, err end
    invalidate() -- what has changed before somebody listened
    local ran, ok, why = pcall(hearing.own or sleep_on, ctx, invalidate)
    close_all(handles)
    if not ran then error(ok, 0) end
    return ok, why
  end
end


-- What they listen to, each once, however often it stands in the policy; and
-- what a policy of the user's own runs, of which there can be one.
local function hearing_of(inners)
  local out, seen = { sources = {} }, {}
  for _, inner in ipairs(inners) do
    local one = hearing_by_policy[inner]
      or { sources = { inner.subscribe and inner }, own = inner.invalidations }
    for _, source in ipairs(one.sources) do
      if not seen[source] then out.sources[#out.sources + 1] = source end
      seen[source] = true
    end
    if out.own and one.own and out.own ~= one.own then
      error("[mtenant] policy: two of the policies have invalidations of their "
        .. "own, and only one can run", 3)
    end
    out.own = out.own or one.own
  end
  return out
end


--- The policy that `resolve` is, of inner ones and the options it was made with.
---@param opts table
---@param inners table[]  policies
---@param resolve fun(id: string, ctx: table): table|nil, any
---@return table
return function(opts, inners, resolve)
  local policy = { resolve = resolve }
  for key in pairs(options.PASSED_ON) do policy[key] = opts[key] end
  policy.ttl_ms = policy.ttl_ms or shortest(inners, "ttl_ms")
  policy.negative_ttl_ms = policy.negative_ttl_ms
    or shortest(inners, "negative_ttl_ms")
  local hearing = hearing_of(inners)
  if #hearing.sources > 0 then
    hearing_by_policy[policy] = hearing
    policy.invalidations = listener(hearing)
  else
    policy.invalidations = hearing.own
  end
  return policy
end
