--- Servers as a manager sees them: their breakers, by hand.
-- A server is named as errors name it ("host:port", or a list of them), or as
-- the configuration's `servers` do.

local errors = require "mtenant.errors"
local named_servers = require "mtenant.named_servers"


local M = {}


local function check_name(server, what)
  if type(server) == "string" then return end
  errors.misuse(3, "%s: server must be a string such as err.server, got %s",
                what, type(server))
end


--- What errors and the core call a server: a name of the configuration's is
--- looked up, anything else is taken for that already.
---@param manager mtenant.TenantManager
---@param server string
---@return string
function M.address(manager, server)
  local named = named_servers.of(manager._config).by_name[server]
  return named and named.address or server
end


--- Adds the methods to a manager's.
---@param methods mtenant.TenantManager
function M.install(methods)

  --- Keeps everybody from a server until `close`: who waits for it and who
  --- comes fails with code "breaker_open", its connections go as soon as they
  --- are free. What runs goes on.
  ---@param server string
  ---@return boolean  false: this manager has not used such a server
  function methods:isolate(server)
    check_name(server, "isolate")
    return not self._over and self._core:isolate(M.address(self, server))
  end


  --- Closes a server's breaker, isolated or not: it is tried at once.
  ---@param server string
  ---@return boolean  false: this manager has not used such a server
  function methods:close(server)
    check_name(server, "close")
    return not self._over and self._core:close_breaker(M.address(self, server))
  end


  --- Replaces the connections to a server, or to all: idle ones go at once,
  --- those in use when they are free, and new ones look for their host afresh.
  --- No statement fails by it. For a failover that nobody could see from here,
  --- or an address that has changed.
  ---@param server? string
  ---@return boolean  false: this manager has not used such a server
  function methods:reconnect(server)
    if server ~= nil then
      check_name(server, "reconnect")
      server = M.address(self, server)
    end
    return not self._over and self._core:reconnect(server) > 0
  end


  --- Whether a server answers, as far as is known.
  ---@param server string
  ---@return string|nil state  "closed": it does; "open": it does not;
  --- "half_open": somebody tries; "isolated"; nil: not used
  function methods:breaker_state(server)
    check_name(server, "breaker_state")
    return self._core:breaker_state(M.address(self, server))
  end
end


return M
