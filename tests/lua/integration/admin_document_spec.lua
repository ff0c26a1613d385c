--- docs/admin.md, field by field, against what the admin endpoint says.

local admin = require "mtenant.admin"
local cjson = require "cjson"
local client = require "tests.support.http_client"
local env = require "tests.support.env"
local folders = require "tests.support.folder"
local mtenant = require "mtenant"


-- of what this version knows nothing: not looked into
local OPAQUE = { ["managers[].policy"] = true }


-- The fields of a chapter: { path = { type = true } }.
local function documented(title)
  local file = assert(io.open("docs/admin.md"))
  local text = file:read("*a")
  file:close()
  local start = assert(text:find("\n## " .. title .. "\n", 1, true))
  local chapter = text:sub(start, (text:find("\n## ", start + 1, true)))
  local fields = {}
  for cell, kinds in chapter:gmatch("\n| (`[^|]*) | ([%l, ]+) |") do
    local base
    for name in cell:gmatch("`([^`]+)`") do
      -- "a.p50`, `p95`" has p95 beside p50
      local path = base and base:match("^(.*%.)") .. name or name
      base = base or name
      fields[path] = {}
      for kind in kinds:gmatch("%a+") do fields[path][kind] = true end
    end
  end
  return fields
end


local function is_array(value) return #value > 0 or next(value) == nil end


-- Adds the paths of a document and the types of their values.
local function flatten(value, path, seen)
  if type(value) ~= "table" then
    seen[path] = seen[path] or {}
    seen[path][type(value)] = true
  elseif OPAQUE[path] then
    seen[path] = { object = true }
  elseif is_array(value) then
    for _, item in ipairs(value) do flatten(item, path .. "[]", seen) end
  else
    for key, item in pairs(value) do
      flatten(item, path == "" and key or path .. "." .. key, seen)
    end
  end
end


local function check(fields, seen)
  for path, kinds in pairs(seen) do
    assert.truthy(fields[path], "not documented: " .. path)
    for kind in pairs(kinds) do
      assert.is_true(fields[path][kind], path .. " is a " .. kind)
    end
  end
  for path in pairs(fields) do
    assert.truthy(seen[path] or OPAQUE[path], "never seen: " .. path)
  end
end


describe("docs/admin.md", function()
  local endpoint

  after_each(function()
    client.close_endpoint(endpoint)
    env.assert_nothing_left()
  end)

  it("has every field, and no other", env.in_task(function()
    local server = env.start()
    env.tenants({ "acme", "globex" }, server)
    local manager = env.manager({
      connection = { statement_timeout_ms = 4000, max_connections = 3,
                     pool = { max = 3 } },
      metrics = { tenants = 1 },
    }, server)
    local automatic = env.manager({ connection = { pooler = "transaction" } },
                                  server)
    endpoint = assert(admin.start { address = "127.0.0.1:0" })
    local status, brief = {}, {}
    local function look()
      for path, seen in pairs { ["/status.json"] = status, ["/health"] = brief,
                                ["/ready"] = brief } do
        local answer = client.get(endpoint, path)
        flatten(cjson.decode(answer.body), "", seen)
      end
    end
    look()
    for _, id in ipairs { "acme", "globex" } do
      assert(manager:get_db(id):query("SELECT 1"))
    end
    assert(manager:get_db("acme"):session(function(s) return s:query("SELECT 1") end))
    local folder = folders.new { ["0001_slow.sql"] = "SELECT pg_sleep(0.2);" }
    local migrator = assert(mtenant.create_migrator({
      connection = { url = server.url },
      isolation = { schema_name_template = function(id) return "t_" .. id end },
    }, { tenant_folder = folder.path,
         tenant_discovery = function() return { "acme", "globex" } end }))
    local run = mtenant.spawn(function()
      return migrator:migrate_all { concurrency = 1 }
    end)
    env.eventually("a migration that is half done", function()
      look()
      return status["migrations[].eta_ms"]
    end)
    assert(run:await())
    migrator:dispose()
    folder.close()
    server:stop("immediate")
    env.eventually("an outage", function()
      look()
      return status["managers[].servers[].error"]
    end)
    env.eventually("its error", function()
      look()
      return status["managers[].servers[].last_error"]
    end)
    check(documented("/status.json"), status)
    check(documented("/health and /ready"), brief)
    endpoint:close()
    manager:dispose()
    automatic:dispose()
    env.close(server)
  end, 120000))

  it("is right that there are no secrets", env.in_task(function()
    local url = env.server().url:gsub("//mtenant@", "//mtenant:s3kret@")
    local manager = env.manager({ connection = { url = url } })
    env.tenants { "acme" }
    assert(manager:get_db("acme"):query("SELECT $1::text AS it", "s3kret"))
    endpoint = assert(admin.start { address = "127.0.0.1:0" })
    for _, path in ipairs { "/status.json", "/health", "/ready", "/metrics", "/" } do
      local body = client.get(endpoint, path).body
      assert.is_nil(body:find("s3kret", 1, true), path)
      assert.is_nil(body:find("SELECT", 1, true), path)
    end
  end))
end)
