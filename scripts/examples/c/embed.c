/*
 * A C program with a libev loop and a lua_State of its own: it loads a routing
 * policy in Lua and serves several tenants at once, while its own timer ticks.
 *
 *   cc embed.c $(pkg-config --cflags --libs mtenant-lua5.4 lua5.4) -lev -o
 * embed DATABASE_URL=postgres:///app ./embed policy.lua acme globex
 */
#include <ev.h> /* before mtenant.h: it compares what both know of libev */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <mtenant_lua.h>
#include <stdio.h>

typedef struct host {
  struct ev_loop *loop;
  lua_State *L;
  int policy; /* the policy's table, in the registry */
  int left, failed, ticks;
  ev_timer tick;
} host;

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)loop;
  (void)revents;
  ((host *)w->data)->ticks++;
}

/* Calls policy[name](argument..., done). */
static int call(host *h, const char *name, const char *id, lua_CFunction done) {
  lua_State *L = h->L;
  int nargs = 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, h->policy);
  lua_getfield(L, -1, name);
  if (id) lua_pushstring(L, id), nargs++;
  lua_pushlightuserdata(L, h);
  if (id)
    lua_pushstring(L, id);
  else
    lua_pushnil(L);
  lua_pushcclosure(L, done, 2);
  if (lua_pcall(L, nargs + 1, 0, 0) != LUA_OK) {
    fprintf(stderr, "%s: %s\n", name, lua_tostring(L, -1));
    lua_pop(L, 2);
    return -1;
  }
  lua_pop(L, 1);
  return 0;
}

/* Nothing of ours keeps the loop then, and ev_run returns. */
static int on_disposed(lua_State *L) {
  host *h = lua_touserdata(L, lua_upvalueindex(1));
  ev_timer_stop(h->loop, &h->tick);
  return 0;
}

/* done(text) or done(nil, err), from a task that the host's loop resumed */
static int on_served(lua_State *L) {
  host *h = lua_touserdata(L, lua_upvalueindex(1));
  const char *id = lua_tostring(L, lua_upvalueindex(2));
  if (lua_isnil(L, 1)) {
    fprintf(stderr, "%s: %s\n", id, luaL_tolstring(L, 2, NULL));
    h->failed++;
  } else {
    printf("%s: %s\n", id, lua_tostring(L, 1));
  }
  if (--h->left == 0) call(h, "dispose", NULL, on_disposed);
  return 0;
}

/* The module runs on our loop before the policy requires it. */
static int open_policy(host *h, mt_reactor *reactor, const char *file) {
  lua_State *L = h->L;
  luaL_openlibs(L);
  if (mt_lua_set_reactor(L, reactor) != MT_OK) return -1;
  if (luaL_loadfile(L, file) != LUA_OK || lua_pcall(L, 0, 1, 0) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return -1;
  }
  h->policy = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

int main(int argc, char **argv) {
  host h = {0};
  mt_reactor *reactor;
  mt_error *err = NULL;
  int i;

  if (argc < 3) return 2;
  setvbuf(stdout, NULL, _IOLBF, 0);
  h.loop = ev_loop_new(EVFLAG_AUTO);
  h.L = luaL_newstate();
  if (mt_reactor_ev_attach(h.loop, &reactor, &err) != MT_OK) {
    fprintf(stderr, "%s\n", err->message);
    mt_error_unref(err);
    return 1;
  }
  if (open_policy(&h, reactor, argv[1]) != 0) return 1;

  ev_timer_init(&h.tick, on_tick, 0.005, 0.005);
  h.tick.data = &h;
  ev_timer_start(h.loop, &h.tick);
  h.left = argc - 2;
  for (i = 2; i < argc; i++)
    if (call(&h, "serve", argv[i], on_served) != 0) return 1;

  ev_run(h.loop, 0);

  printf("the host's timer %s\n", h.ticks > 2 ? "ticked" : "stood still");
  lua_close(h.L);
  mt_reactor_free(reactor);
  ev_loop_destroy(h.loop);
  return h.failed > 0;
}
