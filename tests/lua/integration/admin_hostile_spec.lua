--- What an admin endpoint makes of those who mean harm, or speak no HTTP: it
--- refuses them, holds nothing for them, and the loop goes on.

local admin = require "mtenant.admin"
local client = require "tests.support.http_client"
local env = require "tests.support.env"
local fuzz = require "tests.support.http_fuzz"
local mtenant = require "mtenant"


-- what the loop may stand still for; the sockets of these tests, and their
-- server, are on the same one. Sanitizers take their time.
local STALL_MS = os.getenv("ASAN_OPTIONS") and 200 or 20

local TOKEN = "s3kret"
local GOOD = "GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
  .. TOKEN .. "\r\n\r\n"

-- "MT_ADMIN_SEED=... MT_ADMIN_RUNS=..." repeats what failed, or does more
local SEED = tonumber(os.getenv("MT_ADMIN_SEED")) or os.time()
local RUNS = tonumber(os.getenv("MT_ADMIN_RUNS")) or 1500


-- beside refusals: go on; here it is; no such version of HTTP
local FINE = { [100] = true, [200] = true, [505] = true }


local endpoint, said

local function start(options)
  said = {}
  options = options or {}
  options.address = "127.0.0.1:0"
  if options.token == nil then options.token = TOKEN end
  options.token = options.token or nil
  options.log = function(line) said[#said + 1] = line end
  endpoint = assert(admin.start(options))
end


-- How long this process was ready to run and others had the processor.
local function waited_ms()
  local file = io.open("/proc/self/schedstat")
  if not file then return 0 end
  local _, ns = file:read("*n", "*n")
  file:close()
  return (ns or 0) / 1e6
end


-- How long the loop stood still at most while fn ran, for a task that does
-- nothing but look at the clock; without what the machine's other programs took.
local function stall_of(fn)
  local worst, over = 0, false
  local beat = mtenant.spawn(function()
    local last, before = mtenant.now_ms(), waited_ms()
    while not over do
      mtenant.sleep(1)
      local now, waited = mtenant.now_ms(), waited_ms()
      worst = math.max(worst, now - last - 1 - (waited - before))
      last, before = now, waited
    end
  end)
  local ok, err = pcall(fn)
  over = true
  beat:await()
  if not ok then error(err, 0) end
  return worst
end


-- The slowest beat of many is the machine's as well as ours: what a second try
-- does not show was not ours.
local function never_stalls(fn)
  local stall
  for _ = 1, 3 do
    stall = stall_of(fn)
    if stall <= STALL_MS then return end
  end
  error(("the loop stood still for %.1f ms"):format(stall), 2)
end


local function goes_on()
  local answer = client.get(endpoint, "/health", {
    headers = { Authorization = "Bearer " .. TOKEN },
  })
  assert.equal(200, answer.status)
end


-- sends bytes; the answer's status (nil: none) and whether it was closed
local function try(bytes, limit_ms)
  local peer = client.open(endpoint)
  peer:send(bytes)
  local got, closed = peer:read(limit_ms or 1000, client.parse)
  peer:close()
  return tonumber(got:match("^HTTP/1%.1 (%d%d%d)")), closed, got
end


-- A hostile peer sees no more of us than our refusals.
local function gives_nothing_away(got)
  assert.is_nil(got:find("healthy", 1, true), got)
  assert.is_nil(got:find("HTTP/1.1 200", 1, true), got)
end


-- one of http_fuzz.lua; what is answered to it
local function send_case(case)
  local peer = client.open(endpoint)
  for _, part in ipairs(case) do
    if not peer:send(part, 100) then break end
    mtenant.sleep(0)
  end
  if case.half_closed then peer:shutdown() end
  local got = peer:read(case.patience_ms, client.parse)
  peer:close()
  return got
end


local function open_many(n)
  local peers = {}
  for i = 1, n do
    peers[i] = client.open(endpoint)
    if i % 50 == 0 then mtenant.sleep(1) end -- connecting takes its time, too
  end
  return peers
end


describe("the admin endpoint", function()
  local manager

  setup(function() env.tenants { "acme" } end)

  before_each(function()
    manager = env.manager()
  end)

  after_each(function()
    client.close_endpoint(endpoint)
    endpoint = nil
    mtenant.run(function() manager:dispose() end)
    manager = nil
    env.assert_nothing_left()
  end)

  it("refuses what is malformed", env.in_task(function()
    start()
    never_stalls(function()
      for _, bytes in ipairs {
        "GET\r\n\r\n", "GET /health\r\n\r\n", "\0\0\0\0\r\n\r\n",
        "GET /health HTTP/9.9\r\nHost: x\r\n\r\n", "GET /health FTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n", -- no Host
        "GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: zwei\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\n"
          .. "Content-Length: 99999999999999999999999\r\n\r\n",
        "\22\3\1\2\0\1\0\1\252\3\3" .. ("x"):rep(200) .. "\r\n\r\n", -- TLS
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\0\0\0\8\4\210\22\47\r\n\r\n", -- PostgreSQL asks for TLS
      } do
        local status, closed, got = try(bytes, 300)
        assert.is_true(status == nil or status >= 400, got)
        assert.is_true(closed or status ~= nil or got == "", got)
        gives_nothing_away(got)
      end
    end)
    goes_on()
  end))

  it("refuses who has no right, however long he guesses", env.in_task(function()
    start()
    never_stalls(function()
      for _, value in ipairs {
        "", "Bearer", "Bearer ", "Bearer " .. TOKEN .. "x", "Bearer " .. ("x"):rep(8000),
        "Basic " .. ("A"):rep(8000), "Basic ====", ("Bearer "):rep(500), TOKEN,
        "Digest username=x", "Bearer \1\2\3", "Negotiate " .. ("="):rep(100),
      } do
        local status, _, got = try("GET /health HTTP/1.1\r\nHost: x\r\n"
          .. "Authorization: " .. value .. "\r\n\r\n")
        assert.is_true(status == 401 or status == 400, got)
        gives_nothing_away(got)
      end
    end)
    -- two headers: the good one counts only where it is the first
    local status = try("GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
      .. "nope\r\nAuthorization: Bearer " .. TOKEN .. "\r\n\r\n")
    assert.equal(401, status)
    goes_on()
  end))

  it("refuses tricks with paths", env.in_task(function()
    start()
    never_stalls(function()
      for _, path in ipairs {
        "/../../etc/passwd", "/..", "/health/../health", "/%2e%2e/", "/health%00",
        "//health", "/%68ealth", "http://localhost/health", "health",
        "*", "/health#x", "/health;x", "\\health", "/health\\", "/\27[31m", "",
        "?", "/" .. ("../"):rep(80), "/" .. ("a/"):rep(4000),
      } do
        local status, _, got = try("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n"
          .. "Authorization: Bearer " .. TOKEN .. "\r\n\r\n")
        assert.is_true(status ~= nil and status >= 400 and status < 500,
                       path .. ": " .. got)
        gives_nothing_away(got)
      end
    end)
    goes_on()
    for _, line in ipairs(said) do
      assert.is_nil(line:find("[^\32-\126]"), line)
    end
  end))

  it("refuses what is huge", env.in_task(function()
    start()
    local all = {
      ("x"):rep(1000000), "GET /" .. ("a"):rep(1000000) .. " HTTP/1.1\r\n",
      "GET / HTTP/1.1\r\nHost: x\r\nX: " .. ("a"):rep(1000000) .. "\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: x\r\n" .. ("X: y\r\n"):rep(100000) .. "\r\n",
      "GET / HTTP/1.1\r\nHost: x\r\n" .. (" folded\r\n"):rep(100000) .. "\r\n",
      ("\r\n"):rep(200000), ("\n"):rep(200000),
    }
    never_stalls(function()
      for _, bytes in ipairs(all) do
        local status, _, got = try(bytes, 300)
        assert.is_true(status == nil or status >= 400, got)
        gives_nothing_away(got)
      end
    end)
    goes_on()
  end))

  it("takes no body, and reads none", env.in_task(function()
    start()
    local head = " /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " .. TOKEN
      .. "\r\n"
    never_stalls(function()
      for request, expected in pairs {
        ["GET" .. head .. "Content-Length: 1000000000\r\n\r\n"] = 413,
        ["GET" .. head .. "Content-Length: 5\r\n\r\nhello"] = 413,
        ["GET" .. head .. "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
          = 413,
        ["GET" .. head .. "Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"] = 413,
        ["POST" .. head .. "Content-Length: 5\r\n\r\nhello"] = 405,
        ["GET" .. head .. "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
          .. "0\r\n\r\nGET / HTTP/1.1\r\n\r\n"] = 413,
      } do
        local peer = client.open(endpoint)
        assert(peer:send(request))
        local got, closed = peer:read(2000)
        assert.equal(expected, client.parse(got).status, request)
        assert.is_true(closed, request)
        -- no part of the body was taken for a request
        assert.is_nil(got:find("HTTP/1.1", 10, true), got)
        gives_nothing_away(got)
        peer:close()
      end
    end)
    goes_on()
  end))

  it("waits for nobody who is slow", env.in_task(function()
    start { request_timeout_ms = 500 }
    never_stalls(function()
      local peers = open_many(20)
      local began = mtenant.now_ms()
      local gone, at = 0, 1
      while gone < #peers and mtenant.now_ms() - began < 5000 do
        gone = 0
        for _, peer in ipairs(peers) do -- a byte now and then
          if peer.gone then
            gone = gone + 1
          else
            peer:send(GOOD:sub(at, at))
            local _, closed = peer:read(0)
            peer.gone = closed
          end
        end
        at = math.min(at + 1, #GOOD - 3)
        mtenant.sleep(20)
      end
      assert.equal(20, gone)
      assert.is_true(mtenant.now_ms() - began < 2500)
      for _, peer in ipairs(peers) do
        gives_nothing_away(peer.got)
        peer:close()
      end
    end)
    goes_on()
  end))

  it("waits for nobody who reads slowly", env.in_task(function()
    local folder = ("x"):rep(60)
    start { answer_timeout_ms = 500 }
    for i = 1, 40 do assert(manager:get_db(folder .. i)) end
    local peer = client.open(endpoint)
    peer.sock:setoption("recv-buffer-size", 2048)
    for _ = 1, 300 do
      if not peer:send((GOOD:gsub("/health", "/status.json")), 300) then break end
    end
    env.eventually("the end of it", function()
      return endpoint.core:stats().connections == 0
    end, 5000)
    peer:close()
    goes_on()
  end))

  it("goes on with who has ended his side, and with a pipeline",
     env.in_task(function()
    start { request_timeout_ms = 500 }
    never_stalls(function()
      local peer = client.open(endpoint)
      peer:send(GOOD)
      peer:shutdown()
      peer:read(2000)
      peer:close()
      peer = client.open(endpoint)
      peer:send("GET /hea")
      peer:shutdown()
      local got, closed = peer:read(2000)
      assert.is_true(closed)
      gives_nothing_away(got)
      peer:close()
      -- good ones, and then nonsense in the same breath
      peer = client.open(endpoint)
      peer:send(GOOD:rep(5) .. "\1\2\3 nonsense\r\n\r\n" .. GOOD)
      got, closed = peer:read(3000)
      local n = select(2, got:gsub("HTTP/1.1 200", ""))
      assert.is_true(n <= 5, got)
      assert.is_true(n >= 1)
      assert.is_true(closed)
      peer:close()
    end)
    goes_on()
  end))

  it("bears a thousand connections", env.in_task(function()
    start { request_timeout_ms = 1000 }
    never_stalls(function()
      local peers = open_many(1000)
      local closed, until_ms = 0, mtenant.now_ms() + 10000
      while closed < 900 and mtenant.now_ms() < until_ms do
        assert.is_true(endpoint.core:stats().connections <= 32)
        for i, peer in ipairs(peers) do
          if not peer.gone then
            local _, over = peer:read(0)
            if over then closed, peer.gone = closed + 1, true end
          end
          if i % 50 == 0 then mtenant.sleep(1) end
        end
      end
      assert.is_true(closed >= 900, closed .. " were closed")
      for i, peer in ipairs(peers) do
        peer:close()
        if i % 50 == 0 then mtenant.sleep(1) end
      end
    end)
    env.eventually("room", function()
      return endpoint.core:stats().connections == 0
    end)
    goes_on()
  end, 60000))

  it("bears a thousand that say nothing and stay", env.in_task(function()
    start { request_timeout_ms = 300, connections_per_address = 1000 }
    never_stalls(function()
      local peers = open_many(1000)
      mtenant.sleep(100)
      assert.is_true(endpoint.core:stats().connections <= 64)
      -- the others wait for their turn, and so does this one; it gets one
      for i, peer in ipairs(peers) do
        peer:close()
        if i % 50 == 0 then mtenant.sleep(1) end
      end
      goes_on()
    end)
  end, 60000))

  for _, token in ipairs { TOKEN, false } do
    it("bears requests that were changed at random, "
       .. (token and "of who has no token" or "of who needs none"),
       env.in_task(function()
      print(("MT_ADMIN_SEED=%d MT_ADMIN_RUNS=%d"):format(SEED, RUNS))
      start { request_timeout_ms = 200, token = token }
      local cases = fuzz.new(SEED):list(RUNS)
      local worst = stall_of(function()
        mtenant.each(cases, 16, function(case)
          local got = send_case(case)
          for status in got:gmatch("HTTP/1%.1 (%d+)") do
            status = tonumber(status)
            assert.is_true(status >= 400 and status < 500 or FINE[status],
                           status .. " to " .. ("%q"):format(table.concat(case)))
          end
          if token then gives_nothing_away(got) end
        end)
      end)
      -- of so many requests some fall into a pause of the machine's
      assert.is_true(worst < 10 * STALL_MS, worst .. " ms")
      goes_on()
    end, 300000))
  end
end)
