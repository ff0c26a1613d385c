/*
 * luaclock: what standard Lua cannot tell a benchmark.
 *
 *   luaclock.now()   seconds, monotonic, finer than a microsecond
 *   luaclock.cpu()   user and system seconds of this process
 *   luaclock.heap()  kB that malloc has handed out and not got back
 */
#include <lauxlib.h>
#include <lua.h>
#include <malloc.h>
#include <sys/resource.h>
#include <time.h>

static int clock_now(lua_State *L) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  lua_pushnumber(L, (lua_Number)t.tv_sec + (lua_Number)t.tv_nsec / 1e9);
  return 1;
}

static lua_Number seconds(struct timeval t) {
  return (lua_Number)t.tv_sec + (lua_Number)t.tv_usec / 1e6;
}

static int clock_cpu(lua_State *L) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  lua_pushnumber(L, seconds(usage.ru_utime));
  lua_pushnumber(L, seconds(usage.ru_stime));
  return 2;
}

static int clock_heap(lua_State *L) {
  struct mallinfo2 info = mallinfo2();
  lua_pushnumber(L, (lua_Number)(info.uordblks + info.hblkhd) / 1024);
  return 1;
}

int luaopen_luaclock(lua_State *L) {
  static const luaL_Reg functions[] = {{"now", clock_now},
                                       {"cpu", clock_cpu},
                                       {"heap", clock_heap},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
