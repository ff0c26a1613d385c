--- The same checks (tests/host/suite.lua) in every host: where the loop, and
-- the coroutines, belong to somebody else.

local env = require "tests.support.env"


local RUNNER = os.getenv("MTENANT_RUN") or "build/release/bin/mtenant-run"

-- name, command; %s: the server's URL
local HOSTS = {
  { "mtenant-run", RUNNER .. " tests/host/run.lua %s" },
  { "a plain Lua", arg[-1] .. " tests/host/run.lua %s" },
  { "cqueues", arg[-1] .. " tests/host/cqueues.lua %s" },
  { "luv", arg[-1] .. " tests/host/luv.lua %s" },
}

local luajit = env.lua_5_1()
for _, name in ipairs(luajit and { "run", "cqueues", "luv" } or {}) do
  HOSTS[#HOSTS + 1] = { "LuaJIT (" .. name .. ".lua)",
                        luajit .. " tests/host/" .. name .. ".lua %s" }
end


local function lines_of(command)
  local pipe = assert(io.popen("timeout 120 " .. command .. " 2>&1", "r"))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines
end


describe("mtenant in", function()
  for _, host in ipairs(HOSTS) do
    it(host[1] .. " does all that it does anywhere", function()
      local url = "'" .. env.server().url .. "'"
      local lines = lines_of(host[2]:format(url))
      local ok = 0
      for _, line in ipairs(lines) do
        if line:find("^ok ") then
          ok = ok + 1
        elseif line ~= "end" then
          error(host[1] .. ": " .. line, 0)
        end
      end
      assert.equal("end", lines[#lines])
      assert.is_true(ok >= 25, ok .. " checks")
    end)
  end
end)
