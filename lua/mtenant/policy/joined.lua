--- A policy made of others: what the outer one has of the inner ones beside
--- their routes. Pure; also runs in the sandbox.

local pairs, ipairs = pairs, ipairs


local PASSED_ON = { "identify", "ttl_ms", "negative_ttl_ms", "on_event",
                    "selftest", "version" }
local HOUR_MS = 3600000


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


-- Subscribes to what all of them listen to; nil and an error when one fails.
local function subscriber(inners)
  return function(ctx, invalidate)
    local handles = {}
    for _, inner in ipairs(inners) do
      local handle, err = inner.subscribe(ctx, invalidate)
      if not handle then
        close_all(handles)
        return nil, err
      end
      handles[#handles + 1] = handle
    end
    return { close = function() close_all(handles) end }
  end
end


--- Listens until the task that runs it is stopped.
local function listener(subscribe)
  return function(ctx, invalidate)
    local handle, err = subscribe(ctx, invalidate)
    if not handle then return nil, err end
    invalidate() -- what has changed before somebody listened
    while ctx.sleep(HOUR_MS) do end -- luacheck: ignore
    handle:close()
    return true
  end
end


-- each once, however often it stands in the policy
local function listening(inners)
  local out, seen, alone = {}, {}, nil
  for _, inner in ipairs(inners) do
    if inner.subscribe and not seen[inner] then out[#out + 1] = inner end
    if inner.invalidations and not inner.subscribe then alone = inner end
    seen[inner] = true
  end
  return out, alone
end


--- The policy that `resolve` is, of inner ones and the options it was made with.
---@param opts table
---@param inners table[]  policies
---@param resolve fun(id: string, ctx: table): table|nil, any
---@return table
return function(opts, inners, resolve)
  local policy = { resolve = resolve }
  for _, key in pairs(PASSED_ON) do policy[key] = opts[key] end
  policy.ttl_ms = policy.ttl_ms or shortest(inners, "ttl_ms")
  policy.negative_ttl_ms = policy.negative_ttl_ms
    or shortest(inners, "negative_ttl_ms")
  local inner_ones, alone = listening(inners)
  if #inner_ones > 0 then
    policy.subscribe = subscriber(inner_ones)
    policy.invalidations = listener(policy.subscribe)
  elseif alone then -- of a policy of the user's own; one at most
    policy.invalidations = alone.invalidations
  end
  return policy
end
