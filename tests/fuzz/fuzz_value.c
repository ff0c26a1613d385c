/*
 * Column values and arrays to Lua values. Each text gives one value of the
 * kind its type allows, without a Lua error; arrays that are written as the
 * server writes them come back element by element.
 */
#include "fuzz/fuzz.h"
#include "lua/mt_lua.h"

static const unsigned types[] = {
    25,   MT_OID_BOOL, MT_OID_BYTEA, MT_OID_INT8,   MT_OID_INT2,   MT_OID_INT4,
    114,  MT_OID_OID,  MT_OID_JSONB, MT_OID_FLOAT4, MT_OID_FLOAT8, 1000,
    1001, 1005,        1016,         1022,          1009,          1231,
    199,  3807,        2951};

enum { TEXT_ARRAY = 1009, MAX_DEPTH = 6 };

/* A decoder of the host's: gives the text back, or raises. */
static int decode(lua_State *L) {
  size_t len;
  const char *s = luaL_checklstring(L, 1, &len);
  if (len > 0 && *s == 'x') return luaL_error(L, "too deep");
  return 1;
}

static void check_table(lua_State *L, int depth) {
  FUZZ_CHECK(depth <= MAX_DEPTH);
  FUZZ_CHECK(lua_checkstack(L, 4));
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    FUZZ_CHECK(lua_isinteger(L, -2));
    FUZZ_CHECK(!lua_isnil(L, -1) && !lua_isfunction(L, -1));
    if (lua_istable(L, -1)) check_table(L, depth + 1);
    lua_pop(L, 1);
  }
}

static void check_value(lua_State *L, unsigned type, const char *v,
                        size_t len) {
  size_t n;
  switch (type) {
    case MT_OID_BOOL:
      FUZZ_CHECK(lua_isboolean(L, -1));
      return;
    case MT_OID_FLOAT4:
    case MT_OID_FLOAT8:
      FUZZ_CHECK(lua_type(L, -1) == LUA_TNUMBER);
      return;
    case MT_OID_BYTEA:
      FUZZ_CHECK(lua_type(L, -1) == LUA_TSTRING && lua_rawlen(L, -1) <= len);
      return;
    default:
      break;
  }
  if (lua_istable(L, -1)) {
    FUZZ_CHECK(mt_array_element(type));
    check_table(L, 1);
  } else if (!lua_isinteger(L, -1)) {
    FUZZ_CHECK(lua_type(L, -1) == LUA_TSTRING);
    FUZZ_CHECK(memcmp(lua_tolstring(L, -1, &n), v, len) == 0 && n == len);
  }
}

typedef struct job {
  mt_rt rt;
  const char *v;
  size_t len;
  unsigned type;
  bool json;
} job;

/* Under lua_pcall: [1] the job, leaves one value. */
static int push(lua_State *L) {
  job *j = lua_touserdata(L, 1);
  int top = lua_gettop(L);
  mt_lua_push_value(L, &j->rt, j->v, j->len, j->type, j->json);
  FUZZ_CHECK(lua_gettop(L) == top + 1);
  return 1;
}

static void convert(lua_State *L, job *j) {
  lua_pushcfunction(L, push);
  lua_pushlightuserdata(L, j);
  FUZZ_CHECK(lua_pcall(L, 1, 1, 0) == LUA_OK);
}

/* ---- arrays as array_out writes them -------------------------------------- */

typedef struct builder {
  char *text;
  size_t len;
} builder;

static void add(builder *b, const char *s, size_t len) {
  b->text = realloc(b->text, b->len + len + 1);
  FUZZ_CHECK(b->text);
  memcpy(b->text + b->len, s, len);
  b->len += len;
  b->text[b->len] = '\0';
}

static void add_quoted(builder *b, const char *s, size_t len) {
  size_t i;
  add(b, "\"", 1);
  for (i = 0; i < len; i++) {
    if (s[i] == '"' || s[i] == '\\') add(b, "\\", 1);
    add(b, s + i, 1);
  }
  add(b, "\"", 1);
}

/* The text in pieces of `step` bytes, an empty one is NULL. */
static void check_round_trip(lua_State *L, job *j, size_t step) {
  builder b = {NULL, 0};
  const char *v = j->v;
  size_t len = j->len, at, n, i = 0;
  add(&b, "{", 1);
  for (at = 0; at < len; at += step) {
    n = len - at < step ? len - at : step;
    if (at) add(&b, ",", 1);
    if (v[at] == 'N')
      add(&b, "NULL", 4);
    else
      add_quoted(&b, v + at, n);
  }
  add(&b, "}", 1);
  j->v = b.text;
  j->len = b.len;
  j->type = TEXT_ARRAY;
  convert(L, j);
  FUZZ_CHECK(lua_istable(L, -1));
  for (at = 0; at < len; at += step) {
    size_t got = 0;
    n = len - at < step ? len - at : step;
    lua_rawgeti(L, -1, (lua_Integer)++i);
    if (v[at] == 'N')
      FUZZ_CHECK(lua_islightuserdata(L, -1));
    else
      FUZZ_CHECK(memcmp(lua_tolstring(L, -1, &got), v + at, n) == 0 &&
                 got == n);
    lua_pop(L, 1);
  }
  FUZZ_CHECK(lua_rawlen(L, -1) == i);
  free(b.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static locale_t c_locale;
  fuzz_input in = {data, size};
  uint8_t type = fuzz_byte(&in), flags = fuzz_byte(&in);
  lua_State *L = luaL_newstate();
  job j = {.rt = {.L = L, .json_ref = LUA_NOREF}};
  char *text = fuzz_rest(&in, &j.len);

  if (!c_locale) c_locale = newlocale(LC_ALL_MASK, "C", NULL);
  FUZZ_CHECK(L && c_locale);
  j.rt.c_locale = c_locale;
  j.v = text;
  j.type = types[type % (sizeof types / sizeof *types)];
  j.json = flags & 1;
  if (flags & 2) {
    lua_pushcfunction(L, decode);
    j.rt.json_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  convert(L, &j);
  check_value(L, j.type, text, j.len);
  if (flags & 4) check_round_trip(L, &j, 1u + flags / 8u);
  lua_close(L);
  free(text);
  return 0;
}
