--- mtenant.identify.jwt_claim: tokens that are signed and valid, and all others.

local crypto = require "mtenant.crypto"
local identify = require "mtenant.identify"
local tokens = require "tests.support.tokens"

local HEADER, NOW, SECRET = tokens.HEADER, tokens.NOW, tokens.SECRET
local bearer, claims, hs256 = tokens.bearer, tokens.claims, tokens.hs256
local id_of, jwt, misuse = tokens.id_of, tokens.jwt, tokens.misuse
local part = tokens.part


describe("jwt_claim", function()
  it("takes the claim of a token that is signed and valid", function()
    assert.equal("acme", (id_of(jwt(), bearer(hs256(HEADER, claims())))))
    local request = { headers = { cookie = "t=" .. hs256(HEADER, claims()) } }
    assert.equal("acme", (id_of(jwt({ cookie = "t" }), request)))
    request = { headers = { authorization = "bearer  " .. hs256(HEADER, claims()) } }
    assert.equal("acme", (id_of(jwt(), request)))
  end)

  it("is that of RFC 7515, A.1", function()
    local key = crypto.base64url_decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-Est"
      .. "JQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
    local token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiL"
      .. "A0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ij"
      .. "p0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    local fn = jwt({ key = key, claim = "iss",
                     now = function() return 1300819379 end })
    assert.equal("joe", (id_of(fn, bearer(token))))
  end)

  it("says when there is no token", function()
    for _, request in ipairs({ {}, { headers = {} },
                               { headers = { authorization = "Basic eA==" } },
                               { headers = { authorization = "Bearer" } } }) do
      local id, _, bad = id_of(jwt(), request)
      assert.is_nil(id)
      assert.is_nil(bad)
    end
  end)

  it("refuses every other token", function()
    local good = hs256(HEADER, claims())
    local head, body, sum = good:match("^(.-)%.(.-)%.(.-)$")
    local none = part('{"alg":"none"}')
    for name, token in pairs({
      ["alg none"] = none .. "." .. body .. ".",
      ["alg none with a signature"] = none .. "." .. body .. "." .. sum,
      ["alg None"] = hs256('{"alg":"None"}', claims()),
      ["no alg"] = hs256("{}", claims()),
      ["alg of another"] = hs256('{"alg":"HS512"}', claims()),
      ["alg RS256"] = hs256('{"alg":"RS256"}', claims()),
      ["alg that is a list"] = hs256('{"alg":["HS256"]}', claims()),
      ["another secret"] = hs256(HEADER, claims(), ("t"):rep(32)),
      ["an empty secret"] = hs256(HEADER, claims(), ""),
      ["no signature"] = head .. "." .. body .. ".",
      ["two parts"] = head .. "." .. body,
      ["four parts"] = good .. ".x",
      ["another payload"] = head .. "." .. part(claims(',"x":1')) .. "." .. sum,
      ["padding"] = good .. "=",
      ["the last bits changed"] = good:sub(1, -2) .. "_",
      ["crit"] = hs256('{"alg":"HS256","crit":["b64"],"b64":false}', claims()),
      ["no JSON in the header"] = hs256("x", claims()),
      ["a header that is a text"] = hs256('"HS256"', claims()),
      ["no JSON in the payload"] = hs256(HEADER, "x"),
      ["a payload that is a number"] = hs256(HEADER, "5"),
      ["expired"] = hs256(HEADER, '{"tenant":"a","exp":1699999000}'),
      ["no exp"] = hs256(HEADER, '{"tenant":"a"}'),
      ["exp as text"] = hs256(HEADER, '{"tenant":"a","exp":"9999999999"}'),
      ["exp huge"] = hs256(HEADER, '{"tenant":"a","exp":1e300}'),
      ["not yet"] = hs256(HEADER, claims(',"nbf":1700001000')),
      ["nbf that is none"] = hs256(HEADER, claims(',"nbf":{}')),
      ["an audience"] = hs256(HEADER, claims(',"aud":"other"')),
      ["no claim"] = hs256(HEADER, '{"exp":1700000100}'),
      ["null"] = hs256(HEADER, '{"tenant":null,"exp":1700000100}'),
      ["a number"] = hs256(HEADER, '{"tenant":5,"exp":1700000100}'),
      ["a list"] = hs256(HEADER, '{"tenant":["a"],"exp":1700000100}'),
      ["no id"] = hs256(HEADER, '{"tenant":"a b","exp":1700000100}'),
      ["too long"] = hs256(HEADER, claims(',"x":"' .. ("x"):rep(20000) .. '"')),
      ["deep"] = hs256(HEADER, ("["):rep(5000)),
      ["nothing"] = "..",
    }) do
      local id, _, bad = id_of(jwt(), bearer(token))
      assert.is_nil(id, name)
      assert.is_true(bad, name)
    end
  end)

  it("has some patience with clocks", function()
    local function at(now, leeway_ms)
      return (jwt({ now = function() return now end, leeway_ms = leeway_ms })(
        bearer(hs256(HEADER, '{"tenant":"acme","exp":1000,"nbf":500}'))))
    end
    assert.equal("acme", at(1059))
    assert.is_nil(at(1060))
    assert.equal("acme", at(440))
    assert.is_nil(at(439))
    assert.equal("acme", at(999, 0))
    assert.is_nil(at(1000, 0))
    assert.equal("acme", (jwt({ require_exp = false })(
      bearer(hs256(HEADER, '{"tenant":"acme"}')))))
  end)

  it("knows issuers and audiences", function()
    local fn = jwt({ issuer = "me", audience = "app" })
    for more, id in pairs({
      [',"iss":"me","aud":"app"'] = "acme",
      [',"iss":"me","aud":["x","app"]'] = "acme",
      [',"iss":"me","aud":["x"]'] = false, [',"iss":"me"'] = false,
      [',"iss":"you","aud":"app"'] = false, [',"aud":"app"'] = false,
      [',"iss":["me"],"aud":"app"'] = false,
      [',"iss":"me","aud":{"app":true}'] = false,
    }) do
      assert.equal(id or nil, (id_of(fn, bearer(hs256(HEADER, claims(more))))),
                   more)
    end
  end)

  it("chooses the key by its kid", function()
    local fn = identify.jwt_claim {
      claim = "tenant", now = function() return NOW end,
      keys = { a = { key = SECRET }, b = { key = ("b"):rep(32) } },
    }
    assert.equal("acme", (id_of(fn, bearer(hs256(
      '{"alg":"HS256","kid":"b"}', claims(), ("b"):rep(32))))))
    for _, header in ipairs({ '{"alg":"HS256","kid":"a"}', HEADER,
                              '{"alg":"HS256","kid":"c"}',
                              '{"alg":"HS256","kid":["b"]}',
                              '{"alg":"HS256","kid":""}' }) do
      local id, _, bad = id_of(fn, bearer(hs256(header, claims(), ("b"):rep(32))))
      assert.is_nil(id, header)
      assert.is_true(bad)
    end
  end)

  it("has one for tokens of any other kid, or of none", function()
    local fn = identify.jwt_claim {
      claim = "tenant", now = function() return NOW end,
      keys = { [""] = { key = SECRET }, b = { key = ("b"):rep(32) } },
    }
    for header, secret in pairs({ ['{"alg":"HS256","kid":"b"}'] = ("b"):rep(32),
                                  ['{"alg":"HS256","kid":"c"}'] = SECRET,
                                  [HEADER] = SECRET }) do
      assert.equal("acme", (id_of(fn, bearer(hs256(header, claims(), secret)))))
    end
    local id, _, bad = id_of(fn, bearer(hs256('{"alg":"HS256","kid":"b"}', claims())))
    assert.is_nil(id)
    assert.is_true(bad)
  end)

  it("raises for wrong options", function()
    for text, opts in pairs({
      ["claim"] = { key = SECRET }, ["one of key"] = { claim = "x" },
      ["less than 32"] = { claim = "x", key = "short" },
      ["is a public_key"] = { claim = "x",
        key = "-----BEGIN PUBLIC KEY-----" .. ("x"):rep(40) },
      ["public_key: it is no PEM"] = { claim = "x", public_key = "x" },
      ["alg is RS256"] = { claim = "x", key = SECRET, alg = "RS256" },
      ["alg is none"] = { claim = "x", key = SECRET, alg = "none" },
      ["unknown option algs"] = { claim = "x", key = SECRET, algs = {} },
      ["keys stands for"] = { claim = "x", key = SECRET, keys = {} },
      ["leeway_ms"] = { claim = "x", key = SECRET, leeway_ms = "1" },
      ["now"] = { claim = "x", key = SECRET, now = 5 },
    }) do
      misuse(text, identify.jwt_claim, opts)
    end
  end)
end)


describe("jwt_claim by RS256", function()
  local dir, pem

  local function shell(command)
    assert(os.execute("cd " .. dir .. " && " .. command .. " 2>/dev/null"))
  end

  local function read(name)
    local f = assert(io.open(dir .. "/" .. name, "rb"))
    local text = f:read("*a")
    f:close()
    return text
  end

  local function rs256(header, payload)
    local text = part(header) .. "." .. part(payload)
    local f = assert(io.open(dir .. "/text", "wb"))
    f:write(text)
    f:close()
    shell("openssl dgst -sha256 -sign key.pem -out sig text")
    return text .. "." .. part(read("sig"))
  end

  setup(function()
    local pipe = assert(io.popen("mktemp -d"))
    dir = pipe:read("*l")
    pipe:close()
    shell("openssl genrsa -out key.pem 2048")
    shell("openssl rsa -in key.pem -pubout -out pub.pem")
    pem = read("pub.pem")
  end)

  teardown(function() os.execute("rm -r " .. dir) end)

  local function fn()
    return identify.jwt_claim { claim = "tenant", public_key = pem,
                                alg = "RS256", now = function() return NOW end }
  end

  it("takes what the key's owner has signed", function()
    assert.equal("acme", (id_of(fn(), bearer(rs256('{"alg":"RS256"}', claims())))))
  end)

  it("refuses HS256 with the public key as the secret", function()
    for _, header in ipairs({ '{"alg":"HS256"}', '{"alg":"RS256"}' }) do
      local id, _, bad = id_of(fn(), bearer(hs256(header, claims(), pem)))
      assert.is_nil(id)
      assert.is_true(bad)
    end
  end)

  it("refuses what was changed", function()
    local head, _, sum = rs256('{"alg":"RS256"}', claims()):match(
      "^(.-)%.(.-)%.(.-)$")
    local forged = head .. "." .. part(claims(',"x":1')) .. "." .. sum
    assert.is_nil((id_of(fn(), bearer(forged))))
  end)
end)
