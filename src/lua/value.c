/*
 * Text from the server to Lua values, by column type: numbers, booleans,
 * bytea, arrays, JSON on request; everything else stays a string. Input comes
 * from a server, but is parsed as if it were hostile.
 */
#include <stdlib.h>
#include <string.h>

#include "lua/mt_lua.h"

enum { MAX_DEPTH = 6 }; /* PostgreSQL's MAXDIM */

/* ---- numbers: as SQL writes them, whatever os.setlocale was told ------------ */

static void push_integer(lua_State *L, const char *v, size_t len) {
  bool negative = len > 0 && *v == '-';
  uint64_t n = 0, most = negative ? MT_LUA_INTEGER_MIN : MT_LUA_INTEGER_MAX;
  size_t i = negative;
  for (; i < len && v[i] >= '0' && v[i] <= '9'; i++)
    n = n * 10 + (uint64_t)(v[i] - '0');
  /* no integer after all, or one that Lua has no number for */
  if (i < len || len == 0 || n > most) {
    lua_pushlstring(L, v, len);
    return;
  }
  lua_pushinteger(L, (lua_Integer)(negative ? 0 - n : n));
}

/* ---- bytea -------------------------------------------------------------------------- */

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/* Three octal digits, up to 377? */
static bool is_octal(const char *v, size_t left) {
  return left >= 3 && v[0] >= '0' && v[0] <= '3' && v[1] >= '0' &&
         v[1] <= '7' && v[2] >= '0' && v[2] <= '7';
}

/* bytea_output = escape: backslash octal and doubled backslashes. */
static void push_escaped(lua_State *L, const char *v, size_t len) {
  luaL_Buffer b;
  size_t i = 0;
  luaL_buffinit(L, &b);
  while (i < len) {
    if (v[i] != '\\') {
      luaL_addchar(&b, v[i++]);
    } else if (is_octal(v + i + 1, len - i - 1)) {
      luaL_addchar(&b, (char)((v[i + 1] - '0') << 6 | (v[i + 2] - '0') << 3 |
                              (v[i + 3] - '0')));
      i += 4;
    } else {
      luaL_addchar(&b, '\\');
      i += 2;
    }
  }
  luaL_pushresult(&b);
}

static void push_bytea(lua_State *L, const char *v, size_t len) {
  MT_LUA_BUFFER b;
  char *out;
  size_t i, n;
  if (len < 2 || v[0] != '\\' || v[1] != 'x') {
    push_escaped(L, v, len);
    return;
  }
  n = (len - 2) / 2;
  out = mt_lua_bytes(L, &b, n);
  for (i = 0; i < n; i++) {
    int hi = hex(v[2 + 2 * i]), lo = hex(v[3 + 2 * i]);
    out[i] = (char)((hi < 0 ? 0 : hi) << 4 | (lo < 0 ? 0 : lo));
  }
  mt_lua_push_bytes(L, &b, n);
}

/* ---- JSON ------------------------------------------------------------------------------ */

static void push_json(lua_State *L, mt_rt *rt, const char *v, size_t len) {
  if (rt->json_ref == LUA_NOREF) {
    lua_pushlstring(L, v, len);
    return;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->json_ref);
  lua_pushlstring(L, v, len);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) return;
  lua_pop(L, 1); /* too deep for the decoder: as text */
  lua_pushlstring(L, v, len);
}

/* ---- arrays: array_out's syntax ------------------------------------------------------------ */

typedef struct reader {
  lua_State *L;
  mt_rt *rt;
  const char *at, *end;
  unsigned type;
  bool json;
} reader;

static bool push_quoted(reader *r) {
  luaL_Buffer b;
  luaL_buffinit(r->L, &b);
  for (r->at++; r->at < r->end && *r->at != '"'; r->at++) {
    if (*r->at == '\\' && ++r->at == r->end) break;
    luaL_addchar(&b, *r->at);
  }
  luaL_pushresult(&b);
  if (r->at >= r->end) {
    lua_pop(r->L, 1);
    return false;
  }
  r->at++;
  return true;
}

static bool push_element(reader *r) {
  const char *start = r->at;
  size_t len;
  if (*start == '"') {
    const char *s;
    if (!push_quoted(r)) return false;
    s = lua_tolstring(r->L, -1, &len);
    if (r->type != 25) {
      mt_lua_push_value(r->L, r->rt, s, len, r->type, r->json);
      lua_remove(r->L, -2);
    }
    return true;
  }
  while (r->at < r->end && *r->at != ',' && *r->at != '}') r->at++;
  len = (size_t)(r->at - start);
  if (len == 4 && strncmp(start, "NULL", 4) == 0)
    lua_pushlightuserdata(r->L, NULL);
  else
    mt_lua_push_value(r->L, r->rt, start, len, r->type, r->json);
  return true;
}

/* Pushes one table, or nothing and false. */
static bool push_level(reader *r, int depth) {
  int n = 0;
  bool ok;
  if (depth > MAX_DEPTH || !lua_checkstack(r->L, 6)) return false;
  lua_newtable(r->L);
  r->at++; /* { */
  while (r->at < r->end && *r->at != '}') {
    ok = *r->at == '{' ? push_level(r, depth + 1) : push_element(r);
    if (!ok) break;
    lua_rawseti(r->L, -2, ++n);
    if (r->at < r->end && *r->at == ',') r->at++;
  }
  if (r->at < r->end && *r->at == '}') {
    r->at++;
    return true;
  }
  lua_pop(r->L, 1);
  return false;
}

static void push_array(lua_State *L, mt_rt *rt, const char *v, size_t len,
                       unsigned element, bool json) {
  reader r = {L, rt, v, v + len, element, json};
  /* "[2:4]={...}": Lua arrays start at 1, the bounds are dropped */
  if (len && *v == '[')
    while (r.at < r.end && *r.at != '{') r.at++;
  if (r.at < r.end && *r.at == '{' && push_level(&r, 1)) return;
  lua_pushlstring(L, v, len);
}

/* ---- values ---------------------------------------------------------------------------------- */

void mt_lua_push_value(lua_State *L, mt_rt *rt, const char *v, size_t len,
                       unsigned type, bool json) {
  unsigned element;
  switch (type) {
    case MT_OID_INT2:
    case MT_OID_INT4:
    case MT_OID_INT8:
    case MT_OID_OID:
      push_integer(L, v, len);
      return;
    case MT_OID_BOOL:
      lua_pushboolean(L, *v == 't');
      return;
    case MT_OID_FLOAT4:
    case MT_OID_FLOAT8:
      /* NaN and Infinity included */
      lua_pushnumber(L, strtod_l(v, NULL, rt->c_locale));
      return;
    case MT_OID_BYTEA:
      push_bytea(L, v, len);
      return;
    case MT_OID_JSON:
    case MT_OID_JSONB:
      if (json) {
        push_json(L, rt, v, len);
        return;
      }
      break;
    default:
      element = mt_array_element(type);
      if (element) {
        push_array(L, rt, v, len, element, json);
        return;
      }
  }
  lua_pushlstring(L, v, len);
}
