--- A policy made of others: what the outer one has of the inner ones beside
--- their routes. Pure; also runs in the sandbox.

local ipairs, pairs, setmetatable = ipairs, pairs, setmetatable


local PASSED_ON = { "identify", "ttl_ms", "negative_ttl_ms", "on_event",
                    "selftest", "version" }
local HOUR_MS = 3600000

-- policy to what it listens to: beside the policy, for what a file returns is
-- data and the functions of the contract
local sources_by_policy = setmetatable({}, { __mode = "k" })


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


-- Listens until the task that runs it is stopped.
local function listener(sources)
  return function(ctx, invalidate)
    local handles, err = subscribe(sources, ctx, invalidate)
    if not handles then return nil, err end
    invalidate() -- what has changed before somebody listened
    while ctx.sleep(HOUR_MS) do end -- luacheck: ignore
    close_all(handles)
    return true
  end
end


-- What they listen to, each once, however often it stands in the policy; and
-- the listening of a policy of the user's own.
local function sources_of(inners)
  local out, seen, own = {}, {}, nil
  for _, inner in ipairs(inners) do
    local sources = sources_by_policy[inner] or inner.subscribe and { inner }
    if not sources then own = own or inner.invalidations end
    for _, source in ipairs(sources or {}) do
      if not seen[source] then out[#out + 1] = source end
      seen[source] = true
    end
  end
  return out, own
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
  local sources, own = sources_of(inners)
  if #sources > 0 then
    sources_by_policy[policy] = sources
    policy.invalidations = listener(sources)
  else
    policy.invalidations = own
  end
  return policy
end
