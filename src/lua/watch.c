/*
 * watch_fd(fd, fn, background) -> watcher: calls fn on the loop while fd is
 * readable, for the runner's signal pipe and the like. The descriptor stays
 * the caller's. A background watcher is nothing that a task may wait for, and
 * does not keep a host's loop running.
 */
#include <string.h>

#include "lua/mt_lua.h"

typedef struct watch {
  mt_io io;
  mt_rt *rt;
  int fn; /* registry reference */
  bool background;
} watch;

static void on_ready(mt_io *io, unsigned ready) {
  watch *w = mt_container(io, watch, io);
  (void)ready;
  if (w->rt->closing) return;
  lua_rawgeti(w->rt->L, LUA_REGISTRYINDEX, w->fn);
  mt_lua_call(w->rt, 0, 0, "descriptor callback");
}

int mt_lua_watch_fd(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  bool background = lua_toboolean(L, 3);
  watch *w;
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  w = lua_newuserdatauv(L, sizeof *w, 0);
  memset(w, 0, sizeof *w);
  w->rt = mt_lua_rt(L);
  w->fn = LUA_NOREF;
  luaL_setmetatable(L, MT_LUA_WATCH);
  lua_pushvalue(L, 2);
  w->fn = luaL_ref(L, LUA_REGISTRYINDEX);
  w->io.cb = on_ready;
  w->background = background;
  w->rt->watchers++;
  w->rt->background += background;
  mt_io_set(w->rt->loop->reactor, &w->io, fd, MT_READ);
  mt_io_set_background(&w->io, background);
  return 1;
}

static int watch_close(lua_State *L) {
  watch *w = luaL_checkudata(L, 1, MT_LUA_WATCH);
  if (w->fn == LUA_NOREF) return 0;
  mt_io_del(&w->io, false);
  luaL_unref(L, LUA_REGISTRYINDEX, w->fn);
  w->fn = LUA_NOREF;
  w->rt->watchers--;
  w->rt->background -= w->background;
  return 0;
}

void mt_lua_watch_register(lua_State *L) {
  static const luaL_Reg methods[] = {{"close", watch_close}, {NULL, NULL}};
  static const luaL_Reg meta[] = {
      {"__gc", watch_close}, {"__close", watch_close}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_WATCH, methods, meta);
}
