/*
 * Plain data on its way between two Lua states: nil, booleans, numbers,
 * strings and tables of them, as bytes. What is inside a table is read as it
 * is, by no metamethod. Bounded in bytes, values and depth; a cycle is too
 * deep.
 */
#include <assert.h>
#include <stdio.h>

#include "base/alloc.h"
#include "lua/sandbox.h"

enum { MAX_BYTES = 1 << 20, MAX_NODES = 1 << 16, MAX_DEPTH = 32 };

enum {
  NIL = 'n',
  TRUE = 't',
  FALSE = 'f',
  INTEGER = 'i',
  NUMBER = 'd',
  STRING = 's',
  TABLE = '{',
  END = '}'
};

typedef struct counts {
  uint32_t array, hash;
} counts;

static bool fail(mt_wire *w, const char *problem) {
  w->problem = problem;
  return false;
}

static bool append(mt_wire *w, const void *bytes, size_t n) {
  if (w->len + n > MAX_BYTES) return fail(w, "it is larger than 1 MiB");
  if (w->len + n > w->cap) {
    size_t cap = w->cap ? w->cap : 256;
    char *data;
    while (cap < w->len + n) cap *= 2;
    data = mt_realloc(w->data, cap);
    if (!data) return fail(w, "there is no memory for it");
    w->data = data;
    w->cap = cap;
  }
  memcpy(w->data + w->len, bytes, n);
  w->len += n;
  return true;
}

static bool put_tag(mt_wire *w, char tag) { return append(w, &tag, 1); }

static bool put_number(lua_State *L, int i, mt_wire *w) {
  if (lua_isinteger(L, i)) {
    lua_Integer n = lua_tointeger(L, i);
    return put_tag(w, INTEGER) && append(w, &n, sizeof n);
  } else {
    lua_Number x = lua_tonumber(L, i);
    return put_tag(w, NUMBER) && append(w, &x, sizeof x);
  }
}

static bool put_string(lua_State *L, int i, mt_wire *w) {
  size_t len;
  const char *s = lua_tolstring(L, i, &len);
  uint32_t n = (uint32_t)len;
  if (len > MT_SANDBOX_STRING) return fail(w, "a text is longer than 256 KiB");
  return put_tag(w, STRING) && append(w, &n, sizeof n) && append(w, s, len);
}

/* Puts a key in front of the path to what can't cross. */
static void lead_path(lua_State *L, int key, mt_wire *w) {
  char rest[sizeof w->path];
  const char *dot = w->path[0] && w->path[0] != '[' ? "." : "";
  memcpy(rest, w->path, sizeof rest);
  if (lua_type(L, key) == LUA_TSTRING)
    snprintf(w->path, sizeof w->path, "%.32s%s%.62s", lua_tostring(L, key), dot,
             rest);
  else if (lua_type(L, key) == LUA_TNUMBER)
    snprintf(w->path, sizeof w->path, "[%.14g]%s%.62s", lua_tonumber(L, key),
             dot, rest);
}

static bool put(lua_State *L, int i, mt_wire *w, int depth);

static bool put_pairs(lua_State *L, int t, mt_wire *w, int depth, counts *n) {
  lua_pushnil(L);
  while (lua_next(L, t)) {
    int key = lua_gettop(L) - 1;
    size_t before = w->len;
    /* the host's NULL is an absent field, as in rows */
    bool absent = lua_islightuserdata(L, -1) && !lua_touserdata(L, -1);
    if (!absent && (!put(L, key, w, depth) || !put(L, key + 1, w, depth))) {
      lead_path(L, key, w);
      lua_pop(L, 2);
      return false;
    }
    n->hash += w->len > before;
    lua_pop(L, 1);
  }
  return true;
}

static bool put_table(lua_State *L, int i, mt_wire *w, int depth) {
  counts n = {0, 0};
  size_t at;
  if (depth >= MAX_DEPTH)
    return fail(w, "it is a table in itself, or deeper than 32");
  if (!lua_checkstack(L, 8)) return fail(w, "there is no stack for it");
  if (!put_tag(w, TABLE)) return false;
  at = w->len;
  if (!append(w, &n, sizeof n) || !put_pairs(L, i, w, depth + 1, &n))
    return false;
  n.array = (uint32_t)lua_rawlen(L, i);
  if (n.array > n.hash) n.array = n.hash;
  n.hash -= n.array;
  memcpy(w->data + at, &n, sizeof n);
  return put_tag(w, END);
}

static bool put(lua_State *L, int i, mt_wire *w, int depth) {
  if (++w->nodes > MAX_NODES) return fail(w, "it has more than 65536 values");
  switch (lua_type(L, i)) {
    case LUA_TNONE:
    case LUA_TNIL:
      return put_tag(w, NIL);
    case LUA_TBOOLEAN:
      return put_tag(w, lua_toboolean(L, i) ? TRUE : FALSE);
    case LUA_TNUMBER:
      return put_number(L, i, w);
    case LUA_TSTRING:
      return put_string(L, i, w);
    case LUA_TTABLE:
      return put_table(L, i, w, depth);
    case LUA_TLIGHTUSERDATA:
      if (!lua_touserdata(L, i)) return put_tag(w, NIL);
      break;
    default:
      break;
  }
  w->kind = luaL_typename(L, i);
  return fail(w, "only plain data may cross");
}

bool mt__wire_put(lua_State *L, int index, mt_wire *w) {
  if (!lua_checkstack(L, 8)) return fail(w, "there is no stack for it");
  return put(L, index, w, 0);
}

/* ---- out of it ---------------------------------------------------------------- */

static void take(const mt_wire *w, size_t *at, void *to, size_t n) {
  assert(*at + n <= w->len); /* it is our own */
  memcpy(to, w->data + *at, n);
  *at += n;
}

/* Hints: a table may have holes that its length knows nothing of. */
static void get_table(lua_State *L, const mt_wire *w, size_t *at) {
  counts n;
  take(w, at, &n, sizeof n);
  luaL_checkstack(L, 4, "a table that crosses");
  lua_createtable(L, (int)n.array, (int)n.hash);
  while (w->data[*at] != END) {
    mt__wire_get(L, w, at);
    mt__wire_get(L, w, at);
    lua_rawset(L, -3);
  }
  ++*at;
}

void mt__wire_get(lua_State *L, const mt_wire *w, size_t *at) {
  char tag;
  lua_Integer n;
  lua_Number x;
  uint32_t len;
  take(w, at, &tag, 1);
  switch (tag) {
    case TRUE:
    case FALSE:
      lua_pushboolean(L, tag == TRUE);
      break;
    case INTEGER:
      take(w, at, &n, sizeof n);
      lua_pushinteger(L, n);
      break;
    case NUMBER:
      take(w, at, &x, sizeof x);
      lua_pushnumber(L, x);
      break;
    case STRING:
      take(w, at, &len, sizeof len);
      assert(*at + len <= w->len);
      lua_pushlstring(L, w->data + *at, len);
      *at += len;
      break;
    case TABLE:
      get_table(L, w, at);
      break;
    default:
      assert(tag == NIL);
      lua_pushnil(L);
  }
}

void mt__wire_reset(mt_wire *w) {
  w->len = 0;
  w->nodes = 0;
  w->problem = w->kind = NULL;
  w->path[0] = 0;
  if (w->cap > 64 << 10) mt__wire_fini(w);
}

void mt__wire_fini(mt_wire *w) {
  mt_free(w->data);
  w->data = NULL;
  w->cap = w->len = 0;
}
