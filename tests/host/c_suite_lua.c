/*
 * The checks of suite.lua in a C host: its own ev_loop, its own lua_State. Run
 * by c_hosts.sh. Prints `ok NAME` for each check, and what fails.
 */
#include <ev.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <mtenant_lua.h>
#include <stdio.h>

static const char script[] =
    "local dir = os.getenv 'MT_SUITE'\n"
    "package.path = dir .. '/?.lua;' .. package.path\n"
    "local mtenant = require 'mtenant'\n"
    "mtenant.spawn(function()\n"
    "  failed = require('tests.host.suite').run {\n"
    "    mtenant = mtenant, url = os.getenv 'DATABASE_URL', say = print,\n"
    "    start = mtenant.spawn, pause = mtenant.sleep }\n"
    "end)\n";

int main(void) {
  struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
  lua_State *L = luaL_newstate();
  mt_reactor *r;
  int failed;

  luaL_openlibs(L);
  if (mt_reactor_ev_attach(loop, &r, NULL) != MT_OK ||
      mt_lua_set_reactor(L, r) != MT_OK)
    return 1;
  if (luaL_dostring(L, script) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
  }
  ev_run(loop, 0); /* returns when nobody waits any more */
  lua_getglobal(L, "failed");
  failed = lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : 1;
  lua_close(L);
  mt_reactor_free(r);
  ev_loop_destroy(loop);
  return failed;
}
