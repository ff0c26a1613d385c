--- Lua's patterns in a policy's sandbox: a matcher of ours, which must find what
--- Lua's own does.

local sandbox = require "mtenant.policy.sandbox"

local jit = rawget(_G, "jit")


local function load_policy(source)
  return assert(sandbox.load(source, { name = "p.lua", time_ms = 500 }))
end


describe("patterns in a sandbox", function()
  local PIECES = { "a", "b", ".", "%a", "%d", "%w", "%s", "[ab]", "[^a]", "[a-c]",
                   "[%d_]", "a*", "b+", "a-", ".-", ".*", "b?", "%w+", "(a)",
                   "(.)", "(.-)", "()", "%%", "[]]", "[^]]", "%f[%w]", "%b()",
                   "(a*)", "x", "[%]-]", "-", "1", "_" }
  local LETTERS = { "a", "b", "c", "x", "1", "(", ")", " ", "]", "-", "_", "%", "" }

  local function some(list, most)
    local out = {}
    for i = 1, math.random(0, most) do out[i] = list[math.random(#list)] end
    return table.concat(out)
  end

  -- Lua 5.4 is what they are like, on either version
  local function outside(s, p, r)
    return { { s:find(p) }, { s:match(p) }, { pcall(s.find, s, p, 3) },
             { s:gsub(p, r) }, { s:find("^" .. p) } }
  end

  it("are those of Lua 5.4", function()
    if jit then return end -- empty matches are others there
    local seed = os.time()
    math.randomseed(seed)
    local policy = load_policy([[
      return function(_, ctx)
        local s, p, r = ctx.request[1], ctx.request[2], ctx.request[3]
        local all = {}
        for word in s:gmatch(p) do all[#all + 1] = word end
        return { { s:find(p) }, { s:match(p) }, { pcall(s.find, s, p, 3) },
                 { s:gsub(p, r) }, { s:find("^" .. p) }, all }
      end]])
    for i = 1, 20000 do
      local s, p, r = some(LETTERS, 12), some(PIECES, 5), some({ "x", "%0", "%%" }, 2)
      local expected = outside(s, p, r)
      expected[6] = {}
      for word in s:gmatch(p) do expected[6][#expected[6] + 1] = word end
      assert.same(expected, (policy.resolve("x", { request = { s, p, r } })),
                  ("seed %d, %d: %q %q %q"):format(seed, i, s, p, r))
    end
    policy:close()
  end)

  it("serve what policies need", function()
    local policy = load_policy([[
      return function(host)
        local sub, rest = host:match("^([%w-]+)%.(.+)$")
        local parts = {}
        for label in host:gmatch("[^.]+") do parts[#parts + 1] = label end
        return { labels = {
          sub = sub, rest = rest, n = #parts, last = parts[#parts],
          dashes = (host:gsub("%.", "-")), upper = host:upper(),
          swapped = (host:gsub("(%w+)%.(%w+)", "%2.%1", 1)),
          mapped = (host:gsub("%w+", { acme = "x" })),
          called = (host:gsub("%w", function(c) return c == "a" and "A" end)),
          plain = host:find(".", 1, true), none = host:find("%") and 1 or 2 } }
      end]])
    local route, err = policy.resolve("acme.eu.example.com", {})
    assert.is_nil(route)
    assert.truthy(err.message:find("malformed pattern", 1, true), err.message)
    policy:close()
    policy = load_policy([[
      return function(host)
        local sub, rest = host:match("^([%w-]+)%.(.+)$")
        local parts = {}
        for label in host:gmatch("[^.]+") do parts[#parts + 1] = label end
        return { sub, rest, #parts, (host:gsub("%.", "-")),
          (host:gsub("(%w+)%.(%w+)", "%2.%1", 1)),
          (host:gsub("%w+", { acme = "x" })),
          (host:gsub("%w", function(c) return c == "a" and "A" end)),
          host:find(".", 1, true) }
      end]])
    assert.same({ "acme", "eu.example.com", 4, "acme-eu-example-com",
                  "eu.acme.example.com", "x.eu.example.com",
                  "Acme.eu.exAmple.com", 5, 5 },
                (policy.resolve("acme.eu.example.com", {})))
    policy:close()
  end)
end)
