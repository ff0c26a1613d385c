/*
 * What the code that boots a sandbox is given beside Lua's own libraries. It
 * wraps those for the policy (lua/mtenant/sandbox/); the policy itself never
 * sees these functions.
 */
#include "lua/sandbox.h"

/* check(...) -> ..., or raises if the time or the memory is used up */
static int check(lua_State *L) {
  mt__sandbox_check(L, mt__sandbox_of(L));
  return lua_gettop(L);
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

/* single() -> bytes of the largest string that may be made */
static int single(lua_State *L) {
  lua_pushnumber(L, (lua_Number)mt__sandbox_of(L)->single);
  return 1;
}

void mt__sandbox_push_lib(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"check", check},           {"charge", charge},
      {"compile", compile},       {"single", single},
      {"find", mt__sandbox_find}, {"match", mt__sandbox_match},
      {"step", mt__sandbox_step}, {NULL, NULL}};
  luaL_newlib(L, functions);
}
