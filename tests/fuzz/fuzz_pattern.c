/*
 * The sandbox's own matcher of Lua's patterns, beside Lua's: both find the same
 * or both refuse; and plain data on its way through a sandbox's wire.
 */
#include "fuzz/fuzz.h"
#include "lua/sandbox.h"

/* Lua's own takes for ever with more of them. */
enum { PATTERN = 12, SUBJECT = 16 };

/* What a function says of (subject, pattern, from): results on the stack from
 * `base` on, or a raised error. */
static bool ask(lua_State *L, int subject, int from, int base) {
  lua_pushvalue(L, subject);
  lua_pushvalue(L, subject + 1);
  lua_pushinteger(L, from);
  FUZZ_CHECK(lua_gettop(L) == base + 3);
  return lua_pcall(L, 3, LUA_MULTRET, 0) == LUA_OK;
}

static void check_same(lua_State *L, lua_CFunction ours, const char *theirs,
                       int from) {
  int base, middle, i, n;
  bool a, b;
  base = lua_gettop(L);
  lua_pushcfunction(L, ours);
  a = ask(L, 1, from, base + 1);
  middle = lua_gettop(L);
  lua_getglobal(L, "string");
  lua_getfield(L, -1, theirs);
  lua_remove(L, -2);
  b = ask(L, 1, from, middle + 1);
  n = lua_gettop(L) - middle;
  /* too complex for the one may be done by the other */
  if (a && b) {
    FUZZ_CHECK(n == middle - base);
    for (i = 1; i <= n; i++)
      FUZZ_CHECK(lua_compare(L, base + i, middle + i, LUA_OPEQ));
  } else if (a != b) {
    const char *why = lua_tostring(L, a ? lua_gettop(L) : middle);
    FUZZ_CHECK(why && strstr(why, "too complex"));
  }
  lua_settop(L, base);
}

/* ---- the wire --------------------------------------------------------------- */

static void push_value(lua_State *L, fuzz_input *in, int depth) {
  uint8_t kind = fuzz_byte(in);
  size_t len;
  char *text;
  int i;
  switch (kind % 6) {
    case 0:
      lua_pushboolean(L, kind & 8);
      return;
    case 1:
      lua_pushinteger(L, (lua_Integer)fuzz_byte(in) - 100);
      return;
    case 2:
      lua_pushnumber(L, fuzz_byte(in) / 7.0);
      return;
    case 3:
      text = fuzz_text(in, kind / 8, &len);
      lua_pushlstring(L, text, len);
      free(text);
      return;
    default:
      lua_newtable(L);
      for (i = 0; i < kind / 16 && depth < 5 && in->left > 0; i++) {
        lua_pushinteger(L, fuzz_byte(in) % 16);
        push_value(L, in, depth + 1);
        lua_rawset(L, -3);
      }
  }
}

static int count(lua_State *L, int t) {
  int n = 0;
  lua_pushnil(L);
  for (; lua_next(L, t); n++) lua_pop(L, 1);
  return n;
}

/* The length of a table with holes may be another one. */
static void check_equal(lua_State *L, int a, int b) {
  FUZZ_CHECK(lua_type(L, a) == lua_type(L, b) && lua_checkstack(L, 8));
  if (!lua_istable(L, a)) {
    FUZZ_CHECK(lua_rawequal(L, a, b));
    FUZZ_CHECK(lua_isinteger(L, a) == lua_isinteger(L, b));
    return;
  }
  FUZZ_CHECK(count(L, a) == count(L, b));
  lua_pushnil(L);
  while (lua_next(L, a)) {
    lua_pushvalue(L, -2);
    lua_rawget(L, b);
    check_equal(L, lua_gettop(L) - 1, lua_gettop(L));
    lua_pop(L, 2);
  }
}

static void check_wire(lua_State *L, fuzz_input *in) {
  mt_wire w = {0};
  size_t at = 0;
  push_value(L, in, 0);
  FUZZ_CHECK(mt__wire_put(L, lua_gettop(L), &w));
  mt__wire_get(L, &w, &at);
  FUZZ_CHECK(at == w.len);
  check_equal(L, lua_gettop(L) - 1, lua_gettop(L));
  lua_pop(L, 2);
  mt__wire_fini(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  mt_sandbox sandbox = {.period = 100};
  lua_State *L = lua_newstate(mt__sandbox_alloc, &sandbox);
  uint8_t sizes = fuzz_byte(&in), from = fuzz_byte(&in);
  size_t plen, len;
  char *pattern = fuzz_text(&in, sizes % PATTERN, &plen);
  char *subject = fuzz_text(&in, from % SUBJECT, &len);
  FUZZ_CHECK(L);
  luaL_openlibs(L);
  lua_settop(L, 0);
  lua_pushlstring(L, subject, len);
  lua_pushlstring(L, pattern, plen);
  check_same(L, mt__sandbox_find, "find", (from / SUBJECT) - 5);
  check_same(L, mt__sandbox_match, "match", 1);
  check_wire(L, &in);
  lua_close(L);
  FUZZ_CHECK(sandbox.used == 0);
  free(pattern);
  free(subject);
  return 0;
}
