/*
 * The sandbox of policy files where memory ends: each allocation of its state,
 * and all behind it, fail in turn, from the first one to the last one of a
 * policy's life. It ends in an error, and nothing leaks or crashes.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "support/test.h"

int luaopen_mtenant_core(lua_State *L);

static long left = -1; /* allocations that succeed; negative: all */

void *__wrap_mt_realloc(void *p, size_t size);
void *__real_mt_realloc(void *p, size_t size);

void *__wrap_mt_realloc(void *p, size_t size) {
  if (left == 0) return NULL;
  if (left > 0) left--;
  return __real_mt_realloc(p, size);
}

/* run(core, libraries, worker, set_left, n) -> what became of it */
static const char life[] =
    "local core, libraries, worker, set_left, n = ...\n"
    "local policy = [[ local kept = {}\n"
    "  return { ttl_ms = 5, resolve = function(id, ctx)\n"
    "    kept[#kept + 1] = { id, ctx.request }\n"
    "    local ok, err = pcall(error, { id })\n"
    "    local rows = ctx.shared:query('x', id)\n"
    "    return { server = rows[1].name, labels = { a = ('x'):rep(100) } }\n"
    "  end } ]]\n"
    "set_left(n)\n"
    "local box = core.sandbox{ memory_bytes = 2 ^ 20, time_ms = 10000,\n"
    "  libraries = libraries, worker = worker, functions = {} }\n"
    "if not box then set_left(-1) return 'boot' end\n"
    "local last = box:start(10000, 'load', policy, '@p.lua')\n"
    "for i = 1, 12 do\n"
    "  local state, handle = box:start(10000, 'resolve', 't' .. i,\n"
    "    { host = ('h'):rep(i * 40) }, false)\n"
    "  if state == 'wait' then\n"
    "    state = box:resume(handle, 10000, { { name = ('n'):rep(i * 30) } })\n"
    "  end\n"
    "  last = state\n"
    "end\n"
    "set_left(-1)\n"
    "assert(box:stats().calls >= 0)\n"
    "box:close()\n"
    "return last\n";

static int set_left(lua_State *L) {
  left = (long)luaL_checkinteger(L, 1);
  return 0;
}

static void push_file(lua_State *L, const char *path) {
  FILE *f = fopen(path, "rb");
  luaL_Buffer b;
  assert_non_null(f);
  luaL_buffinit(L, &b);
  for (;;) {
    char *room = luaL_prepbuffer(&b);
    size_t n = fread(room, 1, LUAL_BUFFERSIZE, f);
    luaL_addsize(&b, n);
    if (n == 0) break;
  }
  fclose(f);
  luaL_pushresult(&b);
}

/* The state that a life with n allocations ends in. */
static const char *live(lua_State *L, long n) {
  lua_settop(L, 4);
  lua_pushvalue(L, 4);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 3);
  lua_pushcfunction(L, set_left);
  lua_pushinteger(L, n);
  if (lua_pcall(L, 5, 1, 0) != LUA_OK) {
    left = -1;
    fail_msg("%ld: %s", n, lua_tostring(L, -1));
  }
  left = -1;
  return lua_tostring(L, -1);
}

static void each_allocation_fails(void **state) {
  lua_State *L = luaL_newstate();
  long n, boot = 0, failed = 0;
  (void)state;
  luaL_openlibs(L);
  luaL_requiref(L, "mtenant.core", luaopen_mtenant_core, 0);
  push_file(L, "lua/mtenant/sandbox/libraries.lua");
  push_file(L, "lua/mtenant/sandbox/worker.lua");
  assert_int_equal(luaL_loadstring(L, life), LUA_OK);
  for (n = 0; n<100000; n += boot> 50 && n % 16 ? 5 : 1) {
    const char *end = live(L, n);
    if (strcmp(end, "done") == 0) break;
    boot += strcmp(end, "boot") == 0;
    failed += strcmp(end, "failed") == 0;
  }
  assert_true(boot > 50);
  assert_true(failed > 20);
  assert_true(n < 100000);
  lua_close(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_fails)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
