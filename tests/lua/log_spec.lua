--- log.lua and its parts: lines, levels, limits, sinks, adapters.

local errors = require "mtenant.errors"
local format = require "mtenant.log.format"
local log = require "mtenant.log"
local limit = require "mtenant.log.limit"


-- A log that collects records and lines.
local function collecting(opts)
  local records, lines = {}, {}
  opts = opts or {}
  opts.sink = function(record, line)
    records[#records + 1], lines[#lines + 1] = record, line
  end
  return log.new(opts), records, lines
end


local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end


local function record(fields)
  local out = { time = 1764366209123, level = "warn", message = "a message" }
  for name, value in pairs(fields) do out[name] = value end
  return out
end


local function decode(line)
  return require("cjson").decode(line)
end


describe("lines of text", function()
  it("have time, level, ids, message and fields, in this order", function()
    assert.equal(
      "2025-11-28T21:43:29.123Z warn  [mtenant] tenant=acme request=ab-12 "
        .. "trace=0af7 a message server=db1:5432 count=3 why=\"it is so\"",
      format.text(record { tenant_id = "acme", request_id = "ab-12",
                           trace_id = "0af7", server = "db1:5432", count = 3,
                           why = "it is so", event = "x" }))
    assert.equal("[mtenant] a message", format.text(record {}, true))
  end)

  it("stay one line that nobody can forge or colour", function()
    local evil = "x\r\n2025-01-01 error [mtenant] tenant=root\0\27[31m\127"
      .. "\194\155\226\128\174\226\128\168\255 \195\164"
    local line = format.text(record { message = evil, tenant_id = evil,
                                      request_id = 'a" tenant="root',
                                      ["k\n=\""] = evil })
    assert.is_nil(line:find("[%c\127\255]"))
    assert.is_nil(line:find("\194\155", 1, true))
    assert.is_nil(line:find("\226\128", 1, true))
    assert.is_truthy(line:find("\195\164", 1, true))
    assert.is_truthy(line:find('request="a\\" tenant=\\"root"', 1, true))
    assert.is_truthy(line:find("x\\r\\n2025", 1, true))
  end)

  it("show no passwords", function()
    for _, text in ipairs {
      "postgres://u:s3cret@db/x", "postgresql://u:s3cret@a@db:5432/x?y=1",
      "host=db password=s3cret user=u", "password = 's3cret x' host=db",
      "postgres://db/x?user=u&password=s3cret&z=1", "PGPASSWORD=s3cret psql",
    } do
      for _, made in ipairs { format.text, format.json } do
        local line = made(record { message = text, url = text })
        assert.is_nil(line:find("s3cret", 1, true), line)
        assert.is_truthy(line:find("***", 1, true), line)
      end
    end
    assert.equal("postgres://u:***@db/x", format.redact "postgres://u:p@db/x")
    assert.equal("http://db:80/x", format.redact "http://db:80/x")
  end)

  it("are short enough for a pipe to take them whole", function()
    for _, text in ipairs { ("x"):rep(9999), ("\195\164"):rep(9999),
                            ("\1"):rep(9999), ("\255"):rep(9999) } do
      local fields = { message = text }
      for i = 1, 40 do fields["field" .. i] = text end
      for _, made in ipairs { format.text, format.json } do
        assert.is_true(#made(record(fields)) < 4096)
      end
      assert.equal("warn", decode(format.json(record(fields))).level)
    end
  end)
end)


describe("lines of JSON", function()
  it("can be read back", function()
    local got = decode(format.json(record {
      event = "pool_error", tenant_id = 'a"c\\me', n = 1.5, yes = true,
      bad = 0 / 0, object = setmetatable({}, { __tostring = function()
        return "shown\n" end }),
    }))
    assert.same({ time = "2025-11-28T21:43:29.123Z", level = "warn",
                  message = "a message", event = "pool_error",
                  tenant_id = 'a"c\\me', n = 1.5, yes = true,
                  bad = require("cjson").null, object = "shown\n" }, got)
  end)

  it("are lines, whatever is in them, and valid UTF-8", function()
    local line = format.json(record { message = "a\n\0\27\255\237\160\128\226\128\168b" })
    assert.is_nil(line:find("[%c\127-\255]"))
    assert.is_truthy(decode(line).message:find("^a\n"))
  end)
end)


describe("levels", function()
  it("hold back what is below", function()
    local logger, records = collecting { level = "warn" }
    for _, level in ipairs { "debug", "info", "warn", "error" } do
      logger[level](logger, level)
    end
    assert.equal(2, #records)
    assert.equal("warn", records[1].level)
    assert.is_false(logger:wants("info"))
    logger:set_level("off")
    logger:error("x")
    assert.equal(2, #records)
    assert.has_error(function() logger:set_level("loud") end)
  end)

  it("and options are checked", function()
    for _, wrong in ipairs { { level = "loud" }, { format = "xml" },
                             { sink = {} }, { burst = 0 }, { file = "x" },
                             { path = "/no/such/dir/x.log" } } do
      local ok, err = pcall(log.new, wrong)
      assert.is_false(ok)
      assert.is_true(errors.is(err, "misuse"))
    end
  end)
end)


describe("what is repeated", function()
  it("is told so often, then counted, per event and server", function()
    local now, got = 0, {}
    local limiter = limit.new(3, 1000)
    local function emit(one) got[#got + 1] = one end
    local function event(fields)
      if limiter:pass(fields, now, emit) then emit(fields) end
    end
    for _ = 1, 10 do
      event { event = "retry", server = "a", tenant_id = "t1", message = "no" }
    end
    event { event = "retry", server = "b", message = "other server" }
    event { event = "other", server = "a", message = "other event" }
    assert.equal(5, #got)
    now = 1000
    event { event = "new", message = "later" }
    assert.equal(7, #got)
    assert.equal("no (repeated 7 times within 1 s)", got[6].message)
    assert.equal(7, got[6].repeated)
    event { event = "retry", server = "a", message = "again" }
    assert.equal("again", got[8].message)
  end)

  it("is told at the end, and lines without an event always", function()
    local logger, records = collecting { burst = 2 }
    for _ = 1, 5 do
      logger:warn("same", { event = "e", tenant_id = "acme" })
      logger:warn("free")
    end
    assert.equal(7, #records)
    logger:flush()
    assert.equal(8, #records)
    assert.equal("same (repeated 3 times within 60 s)", records[8].message)
    assert.equal("acme", records[8].tenant_id)
  end)

  it("takes bounded memory", function()
    local limiter, told = limit.new(1, 1000), 0
    for i = 1, 20000 do
      for _ = 1, 2 do
        limiter:pass({ event = "e", tenant_id = "t" .. i, message = "m" }, 0,
                     function() told = told + 1 end)
      end
    end
    assert.is_true(limiter.last - limiter.first < 4096)
    assert.equal(20000 - 4096, told)
  end)
end)


describe("a sink", function()
  it("that fails, raises or logs itself disturbs nobody", function()
    local env_said, real = {}, io.stderr
    io.stderr = { write = function(_, ...) -- luacheck: ignore 122
      for i = 1, select("#", ...) do env_said[#env_said + 1] = (select(i, ...)) end
    end }
    local ok, err = pcall(function()
      local raising = log.new { sink = function() error("disk\nfull") end }
      raising:warn("one")
      raising:warn("two")
      assert.equal(2, raising:get_stats().failures)
      local inner
      inner = log.new { sink = function() inner:warn("again") end }
      inner:warn("one")
      local failing = log.new { sink = { write = function()
        return nil, "no" end } }
      failing:warn("x")
      assert.equal(1, failing:get_stats().failures)
      raising:warn(setmetatable({}, { __tostring = function() error "no" end }))
    end)
    io.stderr = real -- luacheck: ignore 122
    assert.is_true(ok, tostring(err))
    local said = table.concat(env_said)
    assert.is_truthy(said:find("disk\\nfull", 1, true), said)
    local _, lines = said:gsub("\n", "")
    assert.equal(2, lines) -- of each log one, however often it fails
  end)

  it("of a file appends, and follows logrotate", function()
    local path = os.tmpname()
    local logger = log.new { path = path, format = "json" }
    logger:info("one", { tenant_id = "acme" })
    assert(os.rename(path, path .. ".1"))
    logger:info("two")
    assert.is_true(logger:reopen())
    logger:info("three")
    local _, lines = read(path .. ".1"):gsub("\n", "")
    assert.equal(2, lines)
    assert.equal("three", decode(read(path)).message)
    os.remove(path)
    os.remove(path .. ".1")
  end)

  it("of a full pipe waits for nobody, and says what was lost", function()
    local path = os.tmpname()
    os.remove(path)
    assert(os.execute("mkfifo " .. path))
    local reader = assert(io.popen("exec 3<>" .. path .. "; read x; "
      .. "timeout 2 cat <&3 >" .. path .. ".got", "w"))
    local logger = log.new { path = path, interval_ms = 0 }
    local text = ("x"):rep(1000)
    local began = os.time()
    for i = 1, 3000 do logger:info(i .. " " .. text) end
    assert.is_true(os.time() - began <= 5)
    local lost = logger:get_stats().lost
    assert.is_true(lost > 1000)
    reader:write("go\n")
    reader:flush()
    assert.is_true(logger:flush(1500))
    reader:close()
    local got = read(path .. ".got")
    assert.is_truthy(got:find(lost .. " lines of this log were lost", 1, true))
    local _, lines = got:gsub("\n", "")
    assert.equal(3000 - lost + 1, lines)
    for line in got:gmatch("[^\n]+") do
      assert.is_truthy(line:find("^%d+%-%d+%-%d+T.*x$")
                       or line:find("lost", 1, true), line)
    end
    os.remove(path)
    os.remove(path .. ".got")
  end)

  it("whose reader has gone kills nobody", function()
    local said = io.stderr
    io.stderr = { write = function() end } -- luacheck: ignore 122
    finally(function() io.stderr = said end) -- luacheck: ignore 122
    local path = os.tmpname()
    os.remove(path)
    assert(os.execute("mkfifo " .. path))
    local reader = assert(io.popen("head -c1 " .. path .. " >/dev/null", "r"))
    local logger = log.new { path = path }
    logger:info("one")
    reader:close()
    logger:info("two")
    assert.equal(1, logger:get_stats().lost)
    os.remove(path)
  end)

  it("that is slow gets a tenth of the time at most", function()
    local stream = require "mtenant.log.stream"
    local path = os.tmpname()
    local sink = assert(stream.new(path, format.text))
    os.remove(path)
    local writes = 0
    sink.file = { write = function(_, text)
      writes = writes + 1
      return #text + 1, 200
    end }
    for _ = 1, 50 do sink:write(record {}) end
    assert.equal(1, writes)
    assert.equal(0, sink:lost_lines())
    sink:flush()
    assert.equal(50, writes)
  end)
end)


describe("adapters", function()
  it("hand lines to lua-logging, the real one", function()
    local before = package.path
    package.path = "/usr/share/lua/5.1/?.lua;" .. before
    local logging = require "logging"
    package.path = before
    local got = {}
    local theirs = logging.new(function(_, level, message)
      got[#got + 1] = level .. " " .. message
      return true
    end)
    theirs:setLevel(logging.INFO)
    got = {} -- it tells of that
    local logger = log.new { sink = log.lualogging(theirs), bare = true }
    logger:debug("not wanted there")
    logger:info("100 % %s %d", { tenant_id = "acme" })
    logger:error("bad\nthing")
    assert.same({ "INFO [mtenant] tenant=acme 100 % %s %d",
                  "ERROR [mtenant] bad\\nthing" }, got)
    assert.has_error(function() log.lualogging({}) end)
    assert.has_error(function() log.ngx({}) end)
  end)
end)


describe("the default log", function()
  it("can be another one", function()
    local before = log.default()
    local logger, records = collecting()
    assert.equal(logger, log.set_default(logger))
    log.default():warn("x")
    assert.equal(1, #records)
    assert.equal(before, log.set_default(before))
    assert.equal(logger, log._of(logger))
    assert.equal(before, log._of(nil))
  end)
end)
