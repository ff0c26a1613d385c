/*
 * What the code that boots a sandbox is given beside Lua's own libraries. It
 * wraps those for the policy (lua/mtenant/sandbox/); the policy itself never
 * sees these functions.
 */
#include "lua/sandbox.h"

enum { MAX_LEVELS = 600 };

/* check(...) -> ..., or raises if the time or the memory is used up */
static int check(lua_State *L) {
  mt__sandbox_check(L, mt__sandbox_of(L));
  return lua_gettop(L);
}

/* shallow(): raises where calls are nested deeply. Each pcall in there has to
 * be gone through when the code is stopped. */
static int shallow(lua_State *L) {
  lua_Debug ar;
  if (lua_getstack(L, MAX_LEVELS, &ar))
    return luaL_error(L, "stack overflow (too many nested calls)");
  return 0;
}

/* charge(bytes): for what takes as long as going over so many bytes */
static int charge(lua_State *L) {
  lua_Number n = luaL_checknumber(L, 1);
  mt__sandbox_charge(L, mt__sandbox_of(L), n > 0 && n < 1e9 ? (size_t)n : 0);
  return 0;
}

/* compile(source, name, env) -> function | nil, message: text, never bytecode
 */
static int compile(lua_State *L) {
  size_t len;
  const char *source = luaL_checklstring(L, 1, &len);
  const char *name = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  if (luaL_loadbufferx(L, source, len, name, "t") != LUA_OK) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushvalue(L, 3);
  mt_lua_set_env(L, -2);
  return 1;
}

void mt__sandbox_push_lib(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"check", check},           {"shallow", shallow},
      {"charge", charge},         {"compile", compile},
      {"find", mt__sandbox_find}, {"match", mt__sandbox_match},
      {"step", mt__sandbox_step}, {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_pushinteger(L, MT_SANDBOX_STRING);
  lua_setfield(L, -2, "longest");
}
