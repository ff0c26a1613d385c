--- The admin endpoint as a decent client sees it: its pages, who may ask, where
--- it listens, when it ends.

local admin = require "mtenant.admin"
local auth = require "mtenant.admin.auth"
local cjson = require "cjson"
local client = require "tests.support.http_client"
local core = require "mtenant.core"
local env = require "tests.support.env"
local folders = require "tests.support.folder"
local mtenant = require "mtenant"


local endpoints = {}

local function start(options)
  options = options or {}
  options.address = options.address or "127.0.0.1:0"
  local endpoint = assert(admin.start(options))
  endpoints[#endpoints + 1] = endpoint
  return endpoint
end


local function refused(message, options)
  local endpoint, err = admin.start(options)
  assert.is_nil(endpoint)
  assert.equal("misuse", err.code)
  assert.truthy(err.message:find(message, 1, true), err.message)
end


local function secret_file(text)
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  file:write(text)
  file:close()
  return name
end


describe("the admin endpoint", function()
  setup(function() env.tenants { "acme", "globex" } end)

  after_each(function()
    for _, endpoint in ipairs(endpoints) do client.close_endpoint(endpoint) end
    endpoints = {}
    env.assert_nothing_left()
  end)

  it("has these pages", env.in_task(function()
    local manager = env.manager()
    assert(manager:get_db_async("acme"))
    local endpoint = start()
    for path, kind in pairs {
      ["/"] = "text/plain; charset=utf-8",
      ["/metrics"] = "text/plain; version=0.0.4; charset=utf-8",
      ["/health"] = "application/json; charset=utf-8",
      ["/ready"] = "application/json; charset=utf-8",
      ["/status.json"] = "application/json; charset=utf-8",
    } do
      local answer = client.get(endpoint, path)
      assert.equal(200, answer.status, path)
      assert.equal(kind, answer.headers["content-type"])
      assert.equal("no-store", answer.headers["cache-control"])
      assert.is_true(#answer.body > 0)
      if kind:find("json") then cjson.decode(answer.body) end
      local head = client.get(endpoint, path, { method = "HEAD" })
      assert.equal(200, head.status)
      assert.equal(kind, head.headers["content-type"])
      assert.equal("", head.rest)
      assert.is_true(tonumber(head.headers["content-length"]) > 0)
    end
  end))

  it("speaks OpenMetrics to who wants it", env.in_task(function()
    env.manager()
    local answer = client.get(start(), "/metrics", { headers = {
      Accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3",
    } })
    assert.equal("application/openmetrics-text; version=1.0.0; charset=utf-8",
                 answer.headers["content-type"])
    assert.matches("\n# EOF\n$", answer.body)
  end))

  it("refuses what it does not have", env.in_task(function()
    local said = {}
    local endpoint = start { log = function(line) said[#said + 1] = line end }
    for path, status in pairs {
      ["/nothing"] = 404, ["/metrics/"] = 404, ["/Metrics"] = 404,
      ["/metrics?x=1"] = 200, ["/../etc/passwd"] = 400, ["/%2e%2e/"] = 400,
      ["//metrics"] = 400, ["/metrics%00"] = 400,
      ["http://localhost/metrics"] = 400, ["/" .. ("a"):rep(300)] = 414,
    } do
      assert.equal(status, client.get(endpoint, path).status, path)
    end
    for _, method in ipairs { "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X" } do
      local answer = client.get(endpoint, "/metrics", { method = method })
      assert.equal(405, answer.status, method)
      assert.equal("GET, HEAD", answer.headers.allow)
    end
    assert.equal(1, #said)
  end))

  it("goes on with a connection", env.in_task(function()
    local peer = client.open(start())
    for i = 1, 5 do
      peer.got = ""
      assert(peer:send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
      local bytes, closed = peer:read(5000, client.parse)
      assert.is_false(closed, "request " .. i)
      assert.equal(200, client.parse(bytes).status)
    end
    peer.got = ""
    assert(peer:send("GET / HTTP/1.1\r\nHost: localhost\r\n"
      .. "Connection: close\r\n\r\n"))
    local bytes, closed = peer:read(5000)
    assert.equal(200, client.parse(bytes).status)
    assert.is_true(closed)
    peer:close()
  end))

  it("serves many at a time, each its own", env.in_task(function()
    local manager = env.manager()
    assert(manager:get_db_async("acme"))
    local endpoint = start()
    local paths = { "/metrics", "/health", "/status.json", "/", "/nothing" }
    local all = mtenant.each(paths, 5, function(path)
      local out = {}
      for i = 1, 20 do out[i] = client.get(endpoint, path) end
      return out
    end)
    for i, path in ipairs(paths) do
      for _, answer in ipairs(all[i]) do
        assert.equal(path == "/nothing" and 404 or 200, answer.status)
        assert.equal(all[i][1].headers["content-type"],
                     answer.headers["content-type"])
      end
    end
  end))

  it("names managers, and serves those it is given", env.in_task(function()
    local first = env.manager { name = "eu" }
    local second = env.manager()
    assert.equal("eu", first:get_name())
    assert.matches("^manager%d+$", second:get_name())
    local function names(endpoint)
      local out = {}
      local document = cjson.decode(client.get(endpoint, "/status.json").body)
      for i, one in ipairs(document.managers) do out[i] = one.name end
      return out
    end
    assert.same({ "eu", second:get_name() }, names(start()))
    assert.same({ "eu" }, names(start { managers = { first } }))
    assert.same({ second:get_name() },
                names(start { managers = function() return { second } end }))
    first:dispose()
    assert.same({ second:get_name() }, names(start()))
  end))

  it("lets in who has the token or the password", env.in_task(function()
    local function status(endpoint, authorization)
      local answer = client.get(endpoint, "/health", {
        headers = { Authorization = authorization },
      })
      return answer.status, answer.headers["www-authenticate"]
    end
    local quiet = function() end
    local file = secret_file("s3kret\n")
    local endpoint = start { token_file = file, log = quiet }
    os.remove(file)
    assert.equal(200, (status(endpoint, "Bearer s3kret")))
    for _, wrong in ipairs { "Bearer nope", "Bearer s3kret2", "Bearer ",
                             "Basic " .. auth.base64("s3kret:") } do
      local code, challenge = status(endpoint, wrong)
      assert.equal(401, code)
      assert.equal('Bearer realm="mtenant"', challenge)
    end
    assert.equal(401, (status(endpoint)))
    -- what there is, is nobody else's business
    assert.equal(401, client.get(endpoint, "/nothing").status)
    endpoint = start { basic = "me:pass:word", log = quiet }
    assert.equal(200, (status(endpoint, "Basic " .. auth.base64("me:pass:word"))))
    local code, challenge = status(endpoint, "Basic " .. auth.base64("me:pass"))
    assert.equal(401, code)
    assert.matches("^Basic ", challenge)
  end))

  it("is where it is told, for others only with a secret", env.in_task(function()
    local path = os.tmpname()
    os.remove(path)
    for _, address in ipairs { "unix:" .. path, "[::1]:0", "localhost:0" } do
      local endpoint = start { address = address }
      assert.equal(200, client.get(endpoint, "/").status, address)
    end
    local mode = io.popen("stat -c %a '" .. path .. "'")
    assert.equal("600", mode:read("l"))
    mode:close()
    refused("Address already in use", { address = "unix:" .. path })
    endpoints[1]:close()
    assert.is_nil(io.open(path))
    refused("can be reached from other machines", { address = "0.0.0.0:0" })
    refused("can be reached from other machines", { address = "[::]:0" })
    assert.equal(401, client.get(start { address = "0.0.0.0:0", token = "t",
                                         log = function() end }, "/").status)
    refused("Address already in use", {
      address = endpoints[2]:url():match("//(.*)$"),
    })
    refused("no numeric address", { address = "db.example:1" })
    refused("first line is empty", { token_file = "/dev/null" })
    refused("No such file", { token_file = path })
    refused("user:password", { basic = "me" })
    assert.has_error(function() admin.start { token = "a", token_file = "b" } end)
    assert.has_error(function() admin.start { tokn = "a" } end)
  end))

  it("takes over a path that nobody listens on any more", env.in_task(function()
    local path = os.tmpname()
    os.remove(path)
    local unix = assert(require("socket.unix").stream())
    assert(unix:bind(path))
    unix:close()
    local endpoint = start { address = path }
    assert.equal(200, client.get(endpoint, "/").status)
    local file = assert(io.open(path .. ".txt", "w"), "file")
    file:close()
    refused("Address already in use", { address = path .. ".txt" })
    os.remove(path .. ".txt")
  end))

  it("ends at once, whoever is connected", env.in_task(function()
    local endpoint = start()
    local idle, asking = client.open(endpoint), client.open(endpoint)
    assert(asking:send("GET / HT"))
    mtenant.sleep(20)
    local began = mtenant.now_ms()
    endpoint:close()
    endpoint:close()
    for _, peer in ipairs { idle, asking } do
      local _, closed = peer:read(2000)
      assert.is_true(closed)
      peer:close()
    end
    assert.is_true(mtenant.now_ms() - began < 500)
  end))

  it("ends while it answers", env.in_task(function()
    local manager = env.manager()
    local endpoint = start { managers = { manager } }
    local peers = {}
    for i = 1, 10 do
      peers[i] = client.open(endpoint)
      assert(peers[i]:send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    end
    mtenant.sleep(1)
    endpoint:close()
    for _, peer in ipairs(peers) do
      local _, closed = peer:read(2000)
      assert.is_true(closed)
      peer:close()
    end
  end))

  it("ends with all managers, and keeps no program", function()
    local endpoint
    mtenant.run(function()
      endpoint = start()
      env.manager()
      assert.equal(1, core.stats().background_watchers)
    end)
    -- the loop stands still; it went home though the endpoint is open
    assert.is_nil(endpoint.closed)
    mtenant.run(mtenant.dispose_all)
    assert.is_true(endpoint.closed)
  end)

  it("shows a migration that is under way", env.in_task(function()
    local folder = folders.new { ["0001_slow.sql"] = "SELECT pg_sleep(0.3);" }
    local migrator = assert(mtenant.create_migrator({
      connection = { url = env.server().url },
      isolation = { schema_name_template = function(id) return "t_" .. id end },
    }, { tenant_folder = folder.path,
         tenant_discovery = function() return { "acme", "globex" } end }))
    local endpoint = start()
    local function migrations()
      return cjson.decode(client.get(endpoint, "/status.json").body).migrations
    end
    assert.equal(0, #migrations())
    local run = mtenant.spawn(function()
      return migrator:migrate_all { concurrency = 1 }
    end)
    local seen = env.eventually("one of two", function()
      local one = migrations()[1]
      return one and one.done == 1 and one
    end)
    assert.equal(2, seen.total)
    assert.equal(0, seen.failed)
    assert.is_true(seen.eta_ms > 0)
    assert.equal("tenant", seen.kind)
    assert(run:await())
    assert.equal(0, #migrations())
    migrator:dispose()
    folder.close()
  end))
end)
