/* See state.h. */
#include "run/state.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run/host.h"

/* The binding, linked in. */
int luaopen_mtenant_core(lua_State *L);
int luaopen_mtenant_crypto(lua_State *L);
int luaopen_mtenant_sqlfile(lua_State *L);
int luaopen_mtenant_admin_core(lua_State *L);

static void preload(lua_State *L, const char *name, lua_CFunction open) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, open);
  lua_setfield(L, -2, name);
  lua_pop(L, 1);
}

/* Pushes the directory of this program, "" when it is unknown. */
static const char *push_exe_dir(lua_State *L) {
  char path[4096];
  ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
  path[len > 0 ? len : 0] = '\0';
  char *slash = strrchr(path, '/');
  if (slash) *slash = '\0';
  return lua_pushstring(L, slash ? path : "");
}

/*
 * Pushes the top of the source tree when the program lies in its
 * build/<preset>/bin, else nil: an installed program must not look for code
 * in whatever stands three directories above it.
 */
static void push_source_dir(lua_State *L, const char *exe_dir) {
  static const char *const want[] = {"bin", NULL, "build"};
  size_t len = strlen(exe_dir);
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    size_t start = len;
    while (start > 0 && exe_dir[start - 1] != '/') start--;
    if (start == 0) break;
    size_t n = len - start;
    if (want[i] &&
        (n != strlen(want[i]) || strncmp(exe_dir + start, want[i], n) != 0))
      break;
    len = start - 1;
    if (i == 2) {
      lua_pushlstring(L, exe_dir, len);
      return;
    }
  }
  lua_pushnil(L);
}

/* Adds dir/?.lua and dir/?/init.lua; a template with `?` stands as it is. */
static void add_path(luaL_Buffer *b, const char *dir, const char *below) {
  if (!dir || *dir == '\0') return;
  luaL_addstring(b, dir);
  if (!strchr(dir, '?')) {
    luaL_addstring(b, below);
    luaL_addstring(b, "/?.lua;");
    luaL_addstring(b, dir);
    luaL_addstring(b, below);
    luaL_addstring(b, "/?/init.lua");
  }
  luaL_addstring(b, ";");
}

/* The stack: exe_dir and source_dir at the given places. */
static void set_package_path(lua_State *L, int exe_dir, int source_dir) {
  luaL_Buffer b;
  lua_getglobal(L, "package");
  luaL_buffinit(L, &b);
  add_path(&b, getenv("MTENANT_LUA_PATH"), "");
  add_path(&b, lua_tostring(L, source_dir), "/lua");
  const char *dir = lua_tostring(L, exe_dir);
  if (dir && *dir)
    add_path(&b, dir, "/../share/lua/" LUA_VERSION_MAJOR "." LUA_VERSION_MINOR);
  luaL_pushresult(&b);
  lua_getfield(L, -2, "path");
  lua_concat(L, 2);
  lua_setfield(L, -2, "path");
  lua_pop(L, 1);
}

static void set_strings(lua_State *L, const char *name, const char *const *list,
                        int n, int first) {
  lua_createtable(L, n, 1);
  for (int i = 0; i < n; i++) {
    lua_pushstring(L, list[i]);
    lua_rawseti(L, -2, i + first);
  }
  lua_setfield(L, -2, name);
}

static void set_text(lua_State *L, const char *name, const char *value) {
  lua_pushstring(L, value); /* NULL is nil */
  lua_setfield(L, -2, name);
}

/* The options as runner.lua takes them. */
static void push_options(lua_State *L, const mt_run_options *o, int exe_dir,
                         int source_dir) {
  lua_newtable(L);
  lua_pushstring(L, o->name);
  lua_setfield(L, -2, "name");
  lua_pushboolean(L, o->command);
  lua_setfield(L, -2, "command");
  lua_pushboolean(L, o->interactive);
  lua_setfield(L, -2, "interactive");
  lua_pushboolean(L, o->help);
  lua_setfield(L, -2, "help");
  set_text(L, "admin", o->admin);
  set_text(L, "admin_token_file", o->admin_token_file);
  set_text(L, "admin_basic_file", o->admin_basic_file);
  set_text(L, "admin_ready", o->admin_ready);
  set_strings(L, "argv", (const char *const *)o->argv, o->argc, 0);
  set_strings(L, "evals", o->evals, o->nevals, 1);
  if (o->script < o->argc) {
    lua_pushinteger(L, o->script);
    lua_setfield(L, -2, "script");
  }
  lua_pushvalue(L, exe_dir);
  lua_setfield(L, -2, "exe_dir");
  lua_pushvalue(L, source_dir);
  lua_setfield(L, -2, "source_dir");
}

/* Protected: takes the options as light userdata, returns the status. */
static int run(lua_State *L) {
  const mt_run_options *o = lua_touserdata(L, 1);
  luaL_checkversion(L);
  luaL_openlibs(L);
  preload(L, "mtenant.core", luaopen_mtenant_core);
  preload(L, "mtenant.sqlfile", luaopen_mtenant_sqlfile);
  preload(L, "mtenant.crypto", luaopen_mtenant_crypto);
  preload(L, "mtenant.admin_core", luaopen_mtenant_admin_core);
  preload(L, "mtenant.runner_host", mt_run_host_open);
  const char *exe = push_exe_dir(L);
  int exe_dir = lua_gettop(L);
  push_source_dir(L, exe);
  int source_dir = lua_gettop(L);
  set_package_path(L, exe_dir, source_dir);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "mtenant.runner");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  push_options(L, o, exe_dir, source_dir);
  lua_call(L, 1, 1);
  return 1;
}

static int traceback(lua_State *L) {
  const char *text = luaL_tolstring(L, 1, NULL);
  luaL_traceback(L, L, text, 1);
  return 1;
}

int mt_run_state_run(const mt_run_options *o) {
  int status = 1;
  lua_State *L = luaL_newstate();
  if (!L) {
    fprintf(stderr, "%s: out of memory\n", o->name);
    return status;
  }
  lua_pushcfunction(L, traceback);
  lua_pushcfunction(L, run);
  lua_pushlightuserdata(L, (void *)(uintptr_t)o);
  if (lua_pcall(L, 1, 1, 1) == LUA_OK)
    status = (int)lua_tointeger(L, -1);
  else
    fprintf(stderr, "%s: %s\n", o->name, lua_tostring(L, -1));
  lua_close(L);
  return status;
}
