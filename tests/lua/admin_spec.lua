--- What an admin endpoint decides before anybody works on a request.

local address = require "mtenant.admin.address"
local auth = require "mtenant.admin.auth"
local http = require "mtenant.admin.http"
local prometheus = require "mtenant.prometheus"


describe("an admin address", function()
  for text, expected in pairs({
    ["127.0.0.1:9187"] = { host = "127.0.0.1", port = 9187, local_only = true },
    ["127.8.9.1"] = { host = "127.8.9.1", port = 9187, local_only = true },
    ["localhost:1"] = { host = "127.0.0.1", port = 1, local_only = true },
    [":80"] = { host = "127.0.0.1", port = 80, local_only = true },
    ["8080"] = { host = "127.0.0.1", port = 8080, local_only = true },
    ["[::1]:0"] = { host = "::1", port = 0, local_only = true },
    ["[::]:5"] = { host = "::", port = 5, local_only = false },
    ["[::ffff:127.0.0.1]:5"] =
      { host = "::ffff:127.0.0.1", port = 5, local_only = true },
    ["0.0.0.0:9187"] = { host = "0.0.0.0", port = 9187, local_only = false },
    ["10.1.2.3"] = { host = "10.1.2.3", port = 9187, local_only = false },
    ["unix:/run/a.sock"] = { path = "/run/a.sock", local_only = true },
    ["/run/a.sock"] = { path = "/run/a.sock", local_only = true },
  }) do
    it("may be " .. text, function()
      assert.same(expected, address.parse(text))
    end)
  end

  for _, text in ipairs { "example.com:1", "::1", "127.0.0.1:99999", "a:b",
                          "[::1", "[zz]:1", "http://127.0.0.1:1", "1.2.3:4" } do
    it("may not be " .. text, function()
      local place, message = address.parse(text)
      assert.is_nil(place)
      assert.is_string(message)
    end)
  end

  it("is written as people do", function()
    assert.equal("http://[::1]:9187", address.text(address.parse("[::1]")))
    assert.equal("unix:/a", address.text(address.parse("/a")))
  end)
end)


describe("authorization", function()
  it("encodes base 64", function()
    for text, expected in pairs { [""] = "", f = "Zg==", fo = "Zm8=",
                                  foo = "Zm9v", foobar = "Zm9vYmFy",
                                  ["\255\254\253"] = "//79" } do
      assert.equal(expected, auth.base64(text))
    end
  end)

  it("is by token, by user, or not asked for", function()
    assert.is_nil(auth.new({}))
    local good, challenge = auth.new({ token = "s3kret" })
    assert.is_true(good("Bearer s3kret"))
    assert.is_true(good("bearer   s3kret"))
    for _, wrong in ipairs { "Bearer s3kre", "Bearer s3krets", "s3kret", "Bearer",
                             "Basic s3kret", "Bearer s3kret x", "" } do
      assert.is_false(good(wrong) or false, wrong)
    end
    assert.is_false(good(nil) or false)
    assert.matches("^Bearer", challenge)
    -- a password may have a colon
    good, challenge = auth.new({ basic = "me:pass:word" })
    assert.is_true(good("Basic " .. auth.base64("me:pass:word")))
    assert.is_false(good("Basic " .. auth.base64("me:pass")) or false)
    assert.matches("^Basic", challenge)
    good = auth.new({ token = "t", basic = "a:b" })
    assert.is_true(good("Bearer t"))
    assert.is_true(good("BASIC " .. auth.base64("a:b")))
  end)

  it("reads the first line of a file", function()
    local name = os.tmpname()
    local function write(text)
      local file = assert(io.open(name, "wb"))
      file:write(text)
      file:close()
    end
    write("  s3kret \r\nmore\n")
    assert.equal("s3kret", auth.read_secret(name))
    write("\nmore\n")
    local text, message = auth.read_secret(name)
    assert.is_nil(text)
    assert.matches("its first line is empty", message)
    os.remove(name)
    text, message = auth.read_secret(name)
    assert.is_nil(text)
    assert.matches("No such file", message)
  end)
end)


describe("a request", function()
  it("has a path that hides nothing", function()
    for _, target in ipairs { "/", "/metrics", "/metrics?name[]=x", "/a.b-c_d/e",
                              "/metrics?" } do
      assert.equal(target:match("^[^?]*"), http.path_of(target))
    end
    for _, target in ipairs {
      "", "metrics", "*", "//", "//metrics", "/metrics//", "/../metrics",
      "/./metrics", "/metrics/..", "/metrics/.", "/%6detrics", "/metrics%00",
      "/metrics\0", "/metrics\r", "/met rics", "/metrics;x", "/metrics#x",
      "http://127.0.0.1/metrics", "/metrics\\..", "/\195\188", "/metrics?a\1b",
      "/metrics?\255",
    } do
      assert.is_nil(http.path_of(target), target)
    end
  end)

  it("asks for OpenMetrics by what it accepts", function()
    local om = "application/openmetrics-text"
    for accept, expected in pairs {
      [om] = true, [om .. ";version=1.0.0;q=0.5,text/plain;q=0.4"] = true,
      [om .. ";q=0.4, text/plain;version=0.0.4;q=0.5"] = false,
      [om .. ";q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"] = true,
      [om .. ";q=0"] = false, ["text/plain"] = false, ["*/*"] = false,
      [""] = false, [";;;,,q=,"] = false, [om:upper()] = true,
      [om .. ";q=x"] = false, [om .. ";q=1.2.3"] = false,
    } do
      assert.equal(expected, prometheus.wants_openmetrics(accept), accept)
    end
    assert.is_false(prometheus.wants_openmetrics(nil))
  end)

  it("is logged without what steers a terminal", function()
    assert.equal("GET /\\x1b[31m\\x0d\\x0a\\xff", http.escape("GET /\27[31m\r\n\255"))
    assert.equal(200, #http.escape(("a"):rep(5000)))
  end)

  it("is logged once a second", function()
    local lines = {}
    local handle = http.new {
      routes = {}, start = function() end,
      log = function(line) lines[#lines + 1] = line end,
    }
    for i = 1, 100 do
      assert.equal(404, (handle { target = "/x" .. i, method = "GET",
                                  address = "127.0.0.1" }))
    end
    assert.same({ "admin endpoint: 404 to 127.0.0.1: GET /x1" }, lines)
  end)

  it("of a page in a browser that found a way here is refused", function()
    local handle = http.new { checks_host = true, start = function() return 200 end,
                              routes = { ["/"] = function() end },
                              log = function() end }
    local function status(host)
      return (handle { target = "/", method = "GET", address = "x", host = host })
    end
    for _, host in ipairs { "localhost", "localhost:9187", "127.0.0.1:9187",
                            "[::1]:80", "LOCALHOST", "10.0.0.1" } do
      assert.equal(200, status(host), host)
    end
    for _, host in ipairs { "evil.example", "localhost.evil.example", "a:1",
                            "127.0.0.1.evil.example", "[evil]" } do
      assert.equal(403, status(host), host)
    end
  end)
end)
