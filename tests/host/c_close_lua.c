/*
 * A host that closes its lua_State while everything is under way: what is open
 * is closed by the host's loop, and nobody calls into the state that is gone.
 * Run by c_hosts.sh. Prints `ok NAME` for each check.
 */
#include <ev.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <mtenant_lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

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

static void on_limit(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)loop;
  (void)w;
  (void)revents;
  CHECK(!"ended in time");
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
  ev_timer stop, limit;
  CHECK(mt_reactor_ev_attach(loop, &r, NULL) == MT_OK);
  CHECK(mt_reactor_ev_new(NULL, &other) == MT_OK);
  L = open_state(r);
  CHECK(mt_lua_set_reactor(L, other) == MT_E_MISUSE); /* too late */
  ev_timer_init(&stop, on_stop, seconds, 0.);
  ev_timer_start(loop, &stop);
  ev_run(loop, 0);
  lua_close(L);
  ev_timer_init(&limit, on_limit, 15., 0.);
  ev_now_update(loop);
  ev_timer_start(loop, &limit);
  ev_unref(loop);
  ev_run(loop, 0);
  ev_ref(loop);
  ev_timer_stop(loop, &limit);
  mt_reactor_free(r);
  mt_reactor_free(other);
  ev_loop_destroy(loop);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  close_after(0);
  printf("ok closed before anything was sent\n");
  close_after(0.3);
  printf("ok closed while statements run\n");
  return 0;
}
