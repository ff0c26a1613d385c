--- mtenant.identify: ids out of requests, none of which is believed.

local identify = require "mtenant.identify"
local sandbox = require "mtenant.policy.sandbox"
local tokens = require "tests.support.tokens"

local HEADER = tokens.HEADER
local bearer, claims, hs256 = tokens.bearer, tokens.claims, tokens.hs256
local id_of, jwt, misuse = tokens.id_of, tokens.jwt, tokens.misuse


describe("subdomain", function()
  local fn = identify.subdomain { base = "Example.com." }
  local cases = {
    ["acme.example.com"] = "acme", ["ACME.Example.COM"] = "acme",
    ["acme.example.com:8080"] = "acme", ["acme.example.com."] = "acme",
    ["acme.example.com.:443"] = "acme", ["acme.example.com:"] = "acme",
    ["a-1.example.com"] = "a-1",
    ["xn--mller-kva.example.com"] = "xn--mller-kva",
    ["1.example.com"] = "1", [("a"):rep(63) .. ".example.com"] = ("a"):rep(63),
  }
  local missing = { "example.com", "example.com:80", "www.example.com",
                    "acme.example.org", "evilexample.com", "localhost",
                    "10.0.0.1", "acme.example.com.evil.org", "" }
  local refused = { "a.b.example.com", ".example.com", "-a.example.com",
                    "a-.example.com", "a_b.example.com", "a..example.com",
                    "acme.example.com:x",
                    "acme.example.com:80:80", "acme.example.com:999999",
                    "acme.example.com/", "acme.example.com\0.org",
                    "acme.example.com\n", "acme .example.com", "[::1]:80",
                    "müller.example.com", "acme@example.com", "acme%2eexample.com",
                    "%61cme.example.com", ("a"):rep(64) .. ".example.com",
                    ("a."):rep(200) .. "example.com", "'; drop.example.com", "." }

  it("takes the label in front of the base", function()
    for host, id in pairs(cases) do
      assert.equal(id, (id_of(fn, { host = host })), host)
    end
  end)

  it("says when there is none", function()
    for _, host in ipairs(missing) do
      local id, why, bad = id_of(fn, { host = host })
      assert.is_nil(id, host)
      assert.is_nil(bad, why)
    end
    assert.is_nil((id_of(fn, {})))
    assert.is_nil((id_of(fn, { host = 5 })))
  end)

  it("refuses what is no host of one label", function()
    for _, host in ipairs(refused) do
      local id, why, bad = id_of(fn, { host = host })
      assert.is_nil(id, host)
      assert.is_true(bad, host .. ": " .. why)
    end
  end)

  it("takes several bases and labels to leave out", function()
    local f = identify.subdomain { base = { "a.com", "b.a.com" },
                                   ignore = { "WWW", "api" } }
    assert.equal("x", f { host = "x.a.com" })
    assert.equal(nil, (f { host = "api.a.com" }))
    local _, _, bad = f { host = "x.b.a.com" }
    assert.is_true(bad) -- two labels before the first base
  end)

  it("raises for wrong options", function()
    misuse("base", identify.subdomain, {})
    misuse("base", identify.subdomain, { base = "a b" })
    misuse("unknown option bass", identify.subdomain, { bass = "a.com" })
    misuse("table", identify.subdomain, "a.com")
  end)
end)


describe("header", function()
  local fn = identify.header("X-Tenant")

  it("takes the value, without blanks around", function()
    assert.equal("acme", fn { headers = { ["x-tenant"] = "acme" } })
    assert.equal("acme", fn { headers = { ["x-tenant"] = " \tacme " } })
    assert.equal("acme", fn { headers = { ["x-tenant"] = { "acme" } } })
  end)

  it("says when there is none", function()
    for _, request in ipairs({ {}, { headers = {} }, { headers = "x" },
                               { headers = { ["x-tenant"] = "" } },
                               { headers = { ["x-tenant"] = "  " } } }) do
      local id, _, bad = id_of(fn, request)
      assert.is_nil(id)
      assert.is_nil(bad)
    end
  end)

  it("refuses what no id is", function()
    for _, value in ipairs({ "a b", "a,b", "a;b", "a\0b", "a\nb", "a\127", "é",
                             '"a"', "a\\b", ("a"):rep(256), { "a", "b" }, 5,
                             { {} }, true }) do
      local id, _, bad = id_of(fn, { headers = { ["x-tenant"] = value } })
      assert.is_nil(id)
      assert.is_true(bad)
    end
  end)
end)


describe("path_segment", function()
  local second = identify.path_segment(2)

  it("takes the segment", function()
    for path, id in pairs({ ["/t/acme"] = "acme", ["/t/acme/"] = "acme",
                            ["/t/acme/users/1"] = "acme", ["/t/acme?x=/y"] = "acme",
                            ["/t/acme#x"] = "acme", ["/t/%61cme"] = "acme",
                            ["/t/a%2Db"] = "a-b" }) do
      assert.equal(id, (id_of(second, { path = path })), path)
    end
    assert.equal("acme", identify.path_segment(1) { path = "/acme" })
  end)

  it("says when there is none", function()
    for _, path in ipairs({ "/", "/t", "/t/", "/t?/acme", "/t/?acme" }) do
      local id, why, bad = id_of(second, { path = path })
      assert.is_nil(id, path)
      assert.is_nil(bad, path .. ": " .. tostring(why))
    end
    assert.is_nil((id_of(second, {})))
  end)

  it("refuses what others may read differently", function()
    for _, path in ipairs({ "", "t/acme", "http://x/t/acme", "//t/acme",
                            "//acme", "/./acme", "/t/../acme", "/%2e%2e/acme",
                            "/t/..", "/t/%2e", "/t/%", "/t/%4", "/t/%zz",
                            "/t/a%2fb", "/t/a%00b", "/t/a%0ab", "/t/a%20b",
                            "/%/acme", "*" }) do
      local id, _, bad = id_of(second, { path = path })
      assert.is_nil(id, path)
      assert.is_true(bad, path)
    end
  end)

  it("decodes once", function()
    assert.equal("a%41", (id_of(second, { path = "/t/a%2541" })))
  end)

  it("raises for wrong numbers", function()
    misuse("path_segment", identify.path_segment, 0)
    misuse("path_segment", identify.path_segment, 1.5)
    misuse("path_segment", identify.path_segment, "1")
  end)
end)


describe("cookie", function()
  local fn = identify.cookie("tenant")

  local function with(line)
    return id_of(fn, { headers = { cookie = line } })
  end

  it("takes the value", function()
    for _, line in ipairs({ "tenant=acme", "a=b; tenant=acme; c=d",
                            "a=b;tenant=acme", 'tenant="acme"', " tenant = acme ",
                            "xtenant=x; tenant=acme", "Tenant=x; tenant=acme",
                            "tenant=acme; tenant=acme" }) do
      assert.equal("acme", (with(line)), line)
    end
    assert.equal("acme", (with({ "a=b", "tenant=acme" })))
  end)

  it("says when there is none", function()
    for _, line in ipairs({ "", "tenant", "a=b", "xtenant=acme", "tenant=",
                            "TENANT=acme", ";;;" }) do
      local id, _, bad = with(line)
      assert.is_nil(id, line)
      assert.is_nil(bad, line)
    end
  end)

  it("refuses two that differ, and what no id is", function()
    for _, line in ipairs({ "tenant=acme; tenant=evil", "tenant=; tenant=a",
                            "tenant=a b", "tenant=a,b", "tenant=a\1" }) do
      local id, _, bad = with(line)
      assert.is_nil(id, line)
      assert.is_true(bad, line)
    end
  end)
end)


describe("claim", function()
  it("takes what somebody else has verified", function()
    local fn = identify.claim("org")
    assert.equal("acme", fn { claims = { org = "acme" } })
    assert.is_nil((id_of(fn, { claims = {} })))
    assert.is_nil((id_of(fn, {})))
    assert.is_true(select(3, fn { claims = { org = 5 } }))
  end)
end)


describe("first", function()
  local fn = identify.first { jwt(), identify.header("x-tenant"),
                              identify.subdomain { base = "example.com" } }

  it("takes the first that there is", function()
    assert.equal("a", fn { host = "a.example.com" })
    assert.equal("b", fn { host = "a.example.com",
                           headers = { ["x-tenant"] = "b" } })
    local request = bearer(hs256(HEADER, claims()))
    request.headers["x-tenant"] = "b"
    assert.equal("acme", fn(request))
  end)

  it("ends at one that is refused", function()
    local request = bearer(hs256(HEADER, claims(), ("x"):rep(32)))
    request.headers["x-tenant"] = "b"
    local id, why, bad = fn(request)
    assert.is_nil(id)
    assert.truthy(why:find("signature", 1, true))
    assert.is_true(bad)
  end)

  it("says everything that is missing", function()
    local id, why = id_of(fn, {})
    assert.is_nil(id)
    assert.truthy(why:find("authorization") and why:find("x%-tenant")
      and why:find("host"), why)
  end)

  it("raises for what is no function", function()
    misuse("empty", identify.first, {})
    misuse("[1]", identify.first, { "x" })
  end)
end)


describe("in a sandbox", function()
  it("does the same", function()
    local policy = assert(sandbox.load([[
      local identify = require "mtenant.identify"
      return {
        resolve = function() return {} end,
        identify = identify.first {
          identify.jwt_claim { claim = "tenant", key = ("s"):rep(32),
                               now = function() return 1700000000 end },
          identify.cookie("tenant"), identify.path_segment(1),
          identify.subdomain { base = "example.com" },
        },
      }]], { name = "i.lua", time_ms = 200 }))
    assert.equal("acme", policy.identify(bearer(hs256(HEADER, claims()))))
    assert.equal("b", policy.identify { headers = { cookie = "tenant=b" } })
    assert.equal("c", policy.identify { path = "/%63/x" })
    assert.equal("d", policy.identify { host = "D.example.com:80", path = "/" })
    assert.is_nil((policy.identify(bearer(hs256(HEADER, claims(), "x")))))
    assert.is_nil((policy.identify { host = "x" }))
    policy:close()
  end)

  it("raises for wrong options when the file is loaded", function()
    local policy, err = sandbox.load(
      'return require("mtenant.identify").subdomain {}', { name = "i.lua" })
    assert.is_nil(policy)
    assert.truthy(err.message:find("base", 1, true), err.message)
  end)
end)
