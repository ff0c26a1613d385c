--- nginx under load, while all goes on that goes on in production: reloads,
-- clients that go away, backends that are killed, a restart of the server.
-- 10 seconds, or MT_LOAD_SECONDS=600 of them. Needs wrk.

local env = require "tests.support.env"
local mtenant = require "mtenant"
local nginx = require "tests.support.nginx"
local program = require "tests.support.program"

local sh = program.sh
local SECONDS = tonumber(os.getenv("MT_LOAD_SECONDS")) or 10
local RELOAD_S = SECONDS >= 120 and 20 or 3


local function free_port()
  return sh("for p in $(shuf -i 20000-30000 -n 20); do "
    .. "(exec 3<>/dev/tcp/127.0.0.1/$p) 2>/dev/null || { echo $p; break; }; done")
end


-- KiB of nginx's workers, the largest of them
local function rss(web)
  return tonumber(sh(("for p in $(pgrep -P %s); do grep VmRSS /proc/$p/status; "
    .. "done | awk '{print $2}' | sort -n | tail -1"):format(web:pid())))
end


local HTTP = [[
  init_worker_by_lua_block {
    mtenant = require "mtenant"
    manager = assert(mtenant.create_tenant_manager {
      connection = {
        url = "%s", application_name = "%s", max_connections = 8,
        pool = { max = 8 }, retry = { max_attempts = 40, deadline_ms = 20000 },
      },
      isolation = {
        schema_name_template = function(id) return "t_" .. id end,
      },
    })
  }
  lua_check_client_abort on;
]]

local SERVER = [[
  listen 127.0.0.1:%s;
  location / { content_by_lua_block {
    local id = ({ "acme", "globex" })[math.random(2)]
    local db, err = manager:get_db_async(id)
    local owner
    if db then
      owner, err = db:value { sql = "SELECT owner FROM me", idempotent = true }
    end
    if owner ~= id then
      ngx.status = 500
      ngx.log(ngx.ERR, "failed: ", tostring(err or owner))
    end
    ngx.say(owner) } }
  location /slow { content_by_lua_block {
    manager:get_db("acme"):query("SELECT pg_sleep(20)") } }
]]


describe("nginx under load", function()
  local web
  after_each(function()
    if web then web:stop() end
  end)

  it("serves every request but those of a restart, and leaks nothing",
     env.in_task(function()
    local server = env.start()
    env.tenants({ "acme", "globex" }, server)
    for _, id in ipairs({ "acme", "globex" }) do
      env.sql(("CREATE TABLE t_%s.me AS SELECT '%s'::text AS owner; GRANT ALL "
        .. "ON t_%s.me TO PUBLIC"):format(id, id, id), server)
    end
    local port = free_port()
    web = nginx.start({
      http = HTTP:format(server.url, env.APPLICATION),
      server = SERVER:format(port), workers = 2,
    })

    local function load(seconds)
      local out = web.dir .. "/wrk"
      os.execute(("wrk -t1 -c16 -d%ds --timeout 30s http://127.0.0.1:%s/ > %s 2>&1 &")
        :format(seconds, port, out))
      return out
    end

    -- requests, and those that failed
    local function result(out)
      local text
      env.eventually("wrk has ended", function()
        text = sh("cat " .. out)
        return text:find("Requests/sec", 1, true)
      end, SECONDS * 1000 + 60000)
      return tonumber(text:match("(%d+) requests in")),
        tonumber(text:match("Non%-2xx or 3xx responses: (%d+)") or 0)
    end

    local function disturb(seconds)
      local until_ms = mtenant.now_ms() + seconds * 1000
      local reload_at = mtenant.now_ms() + RELOAD_S * 1000
      while mtenant.now_ms() < until_ms do
        web:get("/slow", "-m 0.1")
        env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
          .. "application_name = '" .. env.APPLICATION .. "' LIMIT 1", server)
        if mtenant.now_ms() > reload_at then
          web:signal("HUP")
          reload_at = mtenant.now_ms() + RELOAD_S * 1000
        end
        mtenant.sleep(300)
      end
    end

    local first = load(2)
    mtenant.sleep(1000)
    local before = rss(web)
    assert.is_true(result(first) > 100)

    local out = load(SECONDS)
    disturb(SECONDS - 1)
    local requests, failed = result(out)
    assert.is_true(requests > 100, "only " .. requests)
    assert.equal(0, failed, sh("grep 'failed:' " .. web.dir
      .. "/error.log | tail -3"))

    out = load(4)
    mtenant.sleep(1000)
    server:stop("fast")
    server:start()
    assert.is_true(result(out) > 100)

    out = load(2)
    requests, failed = result(out)
    assert.is_true(requests > 100, "only " .. requests)
    assert.equal(0, failed)
    local after = rss(web)
    assert.is_true(after < before * 1.5, ("%d KiB, then %d"):format(before, after))
    assert.is_true(env.count(nil, server) <= 8, env.count(nil, server))
    web:stop()
    web = nil
    env.eventually("no backend is left", function()
      return env.count(nil, server) == 0
    end)
    env.close(server)
  end, (SECONDS + 120) * 1000))
end)
