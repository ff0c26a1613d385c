/*
 * A host that closes its lua_State while everything is under way: what is open
 * is closed by the host's loop, and nobody calls into the state that is gone.
 * And one whose loop is kept by nothing that is in the background.
 * Run by c_hosts.sh. Prints `ok NAME` for each check.
 */
#define _POSIX_C_SOURCE 200809L

#include <ev.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <mtenant_lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ending.h"

static const char script[] =
    "local mtenant = require 'mtenant'\n"
    "local function manager(url)\n"
    "  return mtenant.create_tenant_manager {\n"
    "    connection = { url = url },\n"
    "    isolation = { schema_name_template = function(id)\n"
    "      return 'tenant_' .. id end } }\n"
    "end\n"
    "local here = manager(os.getenv 'DATABASE_URL')\n"
    "local nowhere = manager 'host=127.0.0.1 port=1 user=nobody'\n"
    "mtenant.spawn(function()\n"
    "  here:get_db('acme'):value('SELECT 1')\n"
    "  here:get_db('acme'):value('SELECT pg_sleep(60)') end)\n"
    "mtenant.spawn(function()\n"
    "  here:get_db('globex'):transaction(function(tx)\n"
    "    tx:value('SELECT pg_sleep(60)') end) end)\n"
    "mtenant.spawn(function() nowhere:connect('acme') end)\n"
    "mtenant.spawn(function() mtenant.sleep(60000) end)\n"
    "local ok, err = pcall(mtenant.run, function() end)\n"
    "assert(not ok and tostring(err):find 'the host turns the loop')\n";

static void on_stop(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)w;
  (void)revents;
  ev_break(loop, EVBREAK_ONE);
}

static lua_State *open_state(mt_reactor *r) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  CHECK(mt_lua_set_reactor(L, r) == MT_OK);
  CHECK(mt_lua_set_reactor(L, r) == MT_OK); /* the same one again */
  if (luaL_dostring(L, script)) {
    printf("%s\n", lua_tostring(L, -1));
    exit(1);
  }
  return L;
}

static void close_after(double seconds) {
  struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
  mt_reactor *r, *other;
  lua_State *L;
  ev_timer stop;
  CHECK(mt_reactor_ev_attach(loop, &r, NULL) == MT_OK);
  CHECK(mt_reactor_ev_new(NULL, &other) == MT_OK);
  L = open_state(r);
  CHECK(mt_lua_set_reactor(L, other) == MT_E_MISUSE); /* too late */
  ev_timer_init(&stop, on_stop, seconds, 0.);
  ev_timer_start(loop, &stop);
  ev_run(loop, 0);
  lua_close(L);
  mt_host_run(loop, 15.);
  mt_reactor_free(r);
  mt_reactor_free(other);
  ev_loop_destroy(loop);
}

static const char background_script[] =
    "watcher = require('mtenant.core').watch_fd(..., function() end, true)\n";

/* ev_run returns though it is open. */
static void background_watcher(void) {
  struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
  mt_reactor *r;
  lua_State *L = luaL_newstate();
  int fds[2];
  luaL_openlibs(L);
  CHECK(pipe(fds) == 0 && mt_reactor_ev_attach(loop, &r, NULL) == MT_OK);
  CHECK(mt_lua_set_reactor(L, r) == MT_OK);
  CHECK(luaL_loadstring(L, background_script) == LUA_OK);
  lua_pushinteger(L, fds[0]);
  CHECK(lua_pcall(L, 1, 0, 0) == LUA_OK);
  mt_host_run(loop, 5.);
  lua_close(L);
  mt_reactor_free(r);
  ev_loop_destroy(loop);
  close(fds[0]);
  close(fds[1]);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  close_after(0);
  printf("ok closed before anything was sent\n");
  close_after(0.3);
  printf("ok closed while statements run\n");
  background_watcher();
  printf("ok a watcher in the background keeps no loop\n");
  return 0;
}
