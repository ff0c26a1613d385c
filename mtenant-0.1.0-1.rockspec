rockspec_format = "3.0"
package = "mtenant"
version = "0.1.0-1"

source = {
  url = "git+file://.",
  tag = "v0.1.0",
}

description = {
  summary = "Multi-tenant PostgreSQL: pooled, fenced, asynchronous",
  detailed = [[
An embedded runtime for multi-tenant PostgreSQL. A database handle is already
in its tenant's schema, over a pool that survives outages and is shared fairly
by all tenants.]],
  license = "MIT",
  labels = { "postgresql", "multi-tenant", "async" },
}

dependencies = {
  "lua >= 5.4, < 5.5",
  "argparse >= 0.7", -- the commands of `mtenant`
  "luafilesystem >= 1.8", -- migrations
  "luasocket >= 3.0", -- `mtenant health` and `mtenant metrics`
}

external_dependencies = {
  EV = { header = "ev.h" },
  CARES = { header = "ares.h" },
  PG_QUERY = { header = "pg_query.h" },
  CRYPTO = { header = "openssl/evp.h" },
  MICROHTTPD = { header = "microhttpd.h" },
}

build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    MT_INSTALL_LUA_DIR = "$(LUADIR)",
    MT_INSTALL_LUA_CDIR = "$(LIBDIR)",
    MT_TESTS = "OFF",
  },
}
