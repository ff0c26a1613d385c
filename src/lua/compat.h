/*
 * The one place that knows Lua versions. The binding is written against Lua
 * 5.4; what another version lacks is defined here.
 */
#ifndef MT_LUA_COMPAT_H
#define MT_LUA_COMPAT_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if LUA_VERSION_NUM >= 504

/* A thread on which a callback wrongly yielded is made usable again. */
#define mt_lua_resetthread(L) lua_resetthread(L)
/* Is the collector not stopped? */
#define mt_lua_gc_runs(L) (lua_gc(L, LUA_GCISRUNNING) != 0)
#define mt_lua_gc(L, what) lua_gc(L, what)
/* A string of n bytes that is written in place: the room for them, which is
 * on the stack's top as long as it is written, and then the string. */
#define MT_LUA_BUFFER luaL_Buffer
#define mt_lua_bytes(L, b, n) luaL_buffinitsize(L, b, n)
#define mt_lua_push_bytes(L, b, n) luaL_pushresultsize(b, n)
/* Every integer from -MIN to MAX has a number. */
#define MT_LUA_INTEGER_MAX ((uint64_t)LUA_MAXINTEGER)
#define MT_LUA_INTEGER_MIN (MT_LUA_INTEGER_MAX + 1)
/* The decimal digits of a number that is no Lua number, or NULL. */
#define mt_lua_int64_text(L, i, buf, size) \
  ((void)(buf), (void)(size), (const char *)NULL)
/* A new thread inherits nothing. */
#define mt_lua_disown_thread(L) ((void)(L))
/* f(ud) protected, from where nothing may be raised: it takes no memory. */
static inline int mt_lua_cpcall(lua_State *L, lua_CFunction f, void *ud) {
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, ud);
  return lua_pcall(L, 1, 0, 0);
}
#define mt_lua_resume(co, from, n, results) lua_resume(co, from, n, results)
#define mt_lua_jit_off(L) ((void)(L))
/* The globals of a chunk that lies on top: takes the table there. */
#define mt_lua_set_env(L, chunk) lua_setupvalue(L, chunk, 1)
/* The libraries that a sandbox makes its own from. */
#define MT_LUA_SANDBOX_LIBS                                                   \
  {"_G", luaopen_base}, {"string", luaopen_string}, {"table", luaopen_table}, \
      {"math", luaopen_math}, {"os", luaopen_os}, {"debug", luaopen_debug},   \
      {"coroutine", luaopen_coroutine}, {                                     \
    "utf8", luaopen_utf8                                                      \
  }

#elif defined(LUA_JITLIBNAME)

#include <luajit.h>

/* Integers are doubles here. */
#define MT_LUA_INTEGER_MAX 9007199254740992ULL
#define MT_LUA_INTEGER_MIN MT_LUA_INTEGER_MAX

#define mt_lua_resetthread(L) lua_settop(L, 0)
#define mt_lua_gc_runs(L) (lua_gc(L, LUA_GCISRUNNING, 0) != 0)
#define mt_lua_gc(L, what) lua_gc(L, what, 0)

#define MT_LUA_BUFFER char
#define mt_lua_bytes(L, b, n) ((void)(b), (char *)lua_newuserdata(L, n))
static inline void mt_lua_push_bytes(lua_State *L, const char *b, size_t n) {
  (void)b;
  lua_pushlstring(L, lua_touserdata(L, -1), n);
  lua_remove(L, -2);
}

#define mt_lua_cpcall(L, f, ud) lua_cpcall(L, f, ud)
static inline int mt_lua_resume(lua_State *co, lua_State *from, int n,
                                int *results) {
  int status = lua_resume(co, n);
  (void)from;
  *results = lua_gettop(co);
  return status;
}
#define mt_lua_jit_off(L) \
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF)
#define mt_lua_set_env(L, chunk) lua_setfenv(L, chunk)
#define MT_LUA_SANDBOX_LIBS                                                   \
  {"_G", luaopen_base}, {"string", luaopen_string}, {"table", luaopen_table}, \
      {"math", luaopen_math}, {"os", luaopen_os}, {"debug", luaopen_debug}, { \
    "bit", luaopen_bit                                                        \
  }

#define lua_rawlen(L, i) lua_objlen(L, i)
#define lua_newuserdatauv(L, size, n) lua_newuserdata(L, size)

/* One user value, in a table that is the userdata's environment. */
static inline void lua_setiuservalue(lua_State *L, int i, int n) {
  lua_pushvalue(L, i);
  lua_insert(L, -2); /* below the value */
  lua_createtable(L, 1, 0);
  lua_insert(L, -2);
  lua_rawseti(L, -2, n);
  lua_setfenv(L, -2);
  lua_pop(L, 1);
}

static inline void lua_getiuservalue(lua_State *L, int i, int n) {
  lua_getfenv(L, i);
  lua_rawgeti(L, -1, n);
  lua_remove(L, -2);
}

static inline int lua_isinteger(lua_State *L, int i) {
  lua_Number x = lua_type(L, i) == LUA_TNUMBER ? lua_tonumber(L, i) : 0.5;
  return x >= -(double)MT_LUA_INTEGER_MAX && x <= (double)MT_LUA_INTEGER_MAX &&
         x == (lua_Number)(int64_t)x;
}

static inline const char *luaL_tolstring(lua_State *L, int i, size_t *len) {
  if (luaL_callmeta(L, i, "__tostring")) return lua_tolstring(L, -1, len);
  if (lua_isstring(L, i))
    lua_pushvalue(L, i);
  else
    lua_pushfstring(L, "%s: %p", luaL_typename(L, i), lua_topointer(L, i));
  return lua_tolstring(L, -1, len);
}

/* LuaJIT's 64-bit integers: 5LL, 5ULL. */
static inline const char *mt_lua_int64_text(lua_State *L, int i, char *buf,
                                            size_t size) {
  const char *text = luaL_tolstring(L, i, NULL);
  size_t n = strspn(text, "-0123456789");
  bool ok = n > 0 && n < size &&
            (strcmp(text + n, "LL") == 0 || strcmp(text + n, "ULL") == 0);
  if (ok) {
    memcpy(buf, text, n);
    buf[n] = 0;
  }
  lua_pop(L, 1);
  return ok ? buf : NULL;
}

/* OpenResty's threads inherit the request of the one that makes them, which
 * ends before this one does. Stock LuaJIT has no such thing. */
extern void lua_setexdata(lua_State *L, void *exdata) __attribute__((weak));
#define mt_lua_disown_thread(L) \
  (lua_setexdata ? lua_setexdata(L, NULL) : (void)0)

#else
#error "the binding is built for Lua 5.4 and for LuaJIT 2.1"
#endif

#endif
