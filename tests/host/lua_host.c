/*
 * A bare Lua interpreter for the specs: under sanitizers, linked with their
 * runtime, so that nothing has to be preloaded, which every PostgreSQL server
 * and shell that a spec starts would inherit; and on LuaJIT, whose packages
 * bring none.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>

static int traceback(lua_State *L) {
  const char *message;
  if (lua_isnil(L, 1)) return 1; /* error() says: end, and say nothing */
  lua_getglobal(L, "tostring");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  message = lua_tostring(L, -1);
  luaL_traceback(L, L, message, 1);
  return 1;
}

static void set_arg(lua_State *L, int argc, char **argv) {
  int i;
  lua_createtable(L, argc, 0);
  for (i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - 1); /* the script is arg[0] */
  }
  lua_setglobal(L, "arg");
}

static int run(lua_State *L, int argc, char **argv) {
  int i;
  lua_pushcfunction(L, traceback);
  if (luaL_loadfile(L, argv[1]) != LUA_OK) return 1;
  luaL_checkstack(L, argc, "too many arguments");
  for (i = 2; i < argc; i++) lua_pushstring(L, argv[i]);
  return lua_pcall(L, argc - 2, 0, 1) != LUA_OK;
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  int failed;

  if (!L || argc < 2) {
    fprintf(stderr, "usage: %s script [args]\n", argv[0]);
    return 2;
  }
  luaL_openlibs(L);
  set_arg(L, argc, argv);
  failed = run(L, argc, argv);
  if (failed && !lua_isnil(L, -1)) fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_close(L);
  return failed;
}
