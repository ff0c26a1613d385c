/*
 * Whole results as Lua tables: an array of rows keyed by column name, or of
 * arrays. What is not a row (affected, command, columns) comes from the
 * metatable, so that encoders see a plain array.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

enum { BIG_RESULT = 2000 }; /* cells; the collector waits while it is built */

/* The types that need no table look-up are decided here, once per cell. */
static void push_cell(lua_State *L, mt_rt *rt, const mt_result *r, int i, int j,
                      unsigned type, bool json, bool arrays) {
  size_t len;
  const char *v = mt_result_cell(r, i, j, &len);
  if (!v) {
    if (arrays)
      lua_pushlightuserdata(L, NULL);
    else
      lua_pushnil(L);
  } else if (type == MT_OID_BOOL) {
    lua_pushboolean(L, *v == 't');
  } else if (type == 25 || type == 1043) {
    lua_pushlstring(L, v, len);
  } else {
    mt_lua_push_value(L, rt, v, len, type, json);
  }
}

/* One row as a table; names are at `names` and following. */
static void push_row(lua_State *L, mt_rt *rt, const mt_result *r, int i,
                     int columns, int names, const unsigned *types, mt_as as,
                     bool json) {
  int j;
  if (as == MT_AS_ARRAYS) {
    lua_createtable(L, columns, 1);
    for (j = 0; j < columns; j++) {
      push_cell(L, rt, r, i, j, types[j], json, true);
      lua_rawseti(L, -2, j + 1);
    }
    lua_pushinteger(L, columns);
    lua_setfield(L, -2, "n");
    return;
  }
  lua_createtable(L, 0, columns);
  for (j = 0; j < columns; j++) {
    lua_pushvalue(L, names + j);
    push_cell(L, rt, r, i, j, types[j], json, false);
    lua_rawset(L, -3);
  }
}

/* "INSERT 0 3" -> 6 */
static size_t verb_len(const char *tag) {
  size_t len = strlen(tag);
  while (len > 0 &&
         ((tag[len - 1] >= '0' && tag[len - 1] <= '9') || tag[len - 1] == ' '))
    len--;
  return len;
}

/* ---- shapes ------------------------------------------------------------------- */

/* rows.affected of a shared metatable: such a result has as many rows. */
static int shared_index(lua_State *L) {
  const char *key = lua_tostring(L, 2);
  if (lua_type(L, 2) == LUA_TSTRING && strcmp(key, "affected") == 0) {
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, 1));
    return 1;
  }
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

/* Pushes the names of the columns as an array. */
static void push_names(lua_State *L, const mt_result *r, int columns) {
  int j;
  lua_createtable(L, columns, 0);
  for (j = 0; j < columns; j++) {
    lua_pushstring(L, mt_result_name(r, j));
    lua_rawseti(L, -2, j + 1);
  }
}

/* Pushes {command=, columns=[, affected=]}. */
static void push_info(lua_State *L, const mt_result *r, int columns) {
  const char *tag = mt_result_command(r);
  lua_createtable(L, 0, 3);
  lua_pushlstring(L, tag, verb_len(tag));
  lua_setfield(L, -2, "command");
  push_names(L, r, columns);
  lua_setfield(L, -2, "columns");
}

/* Pushes a metatable around the info on the top, which it replaces. */
static void wrap_info(lua_State *L, bool shared) {
  lua_createtable(L, 0, 2);
  lua_insert(L, -2);
  if (shared) lua_pushcclosure(L, shared_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "array"); /* the convention of dkjson and others */
  lua_setfield(L, -2, "__jsontype");
}

static void shape_clear(lua_State *L, mt_shape *s) {
  if (s->types) {
    luaL_unref(L, LUA_REGISTRYINDEX, s->info_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, s->names_ref);
  }
  mt_free(s->types);
  memset(s, 0, sizeof *s);
}

void mt_lua_shapes_free(mt_rt *rt) {
  int i;
  for (i = 0; i < MT_SHAPES; i++) mt_free(rt->shapes[i].types);
}

/* One statement's results differ where its tenants' tables do. */
static bool shape_fits(const mt_shape *s, const mt_result *r, int columns) {
  const char *at = s->texts, *tag = mt_result_command(r);
  int j;
  if (!s->types || s->columns != columns) return false;
  for (; *at && *at == *tag; at++) tag++;
  if (*at || verb_len(tag) > 0) return false;
  for (j = 0; j < columns; j++) {
    at += strlen(at) + 1;
    if (s->types[j] != mt_result_type(r, j) ||
        strcmp(at, mt_result_name(r, j)) != 0)
      return false;
  }
  return true;
}

/* The types and texts of r in one block; false when memory is short. */
static bool shape_copy(mt_shape *s, const mt_result *r, int columns) {
  const char *tag = mt_result_command(r);
  size_t types = (size_t)columns * sizeof *s->types, size = types;
  size_t verb = verb_len(tag);
  char *at;
  int j;
  for (j = 0; j < columns; j++) size += strlen(mt_result_name(r, j)) + 1;
  s->types = mt_malloc(size + verb + 1);
  if (!s->types) return false;
  s->columns = columns;
  s->texts = at = (char *)s->types + types;
  memcpy(at, tag, verb);
  at[verb] = '\0';
  at += verb + 1;
  for (j = 0; j < columns; j++) {
    size_t len = strlen(mt_result_name(r, j)) + 1;
    memcpy(at, mt_result_name(r, j), len);
    at += len;
    s->types[j] = mt_result_type(r, j);
  }
  return true;
}

static void shape_make(lua_State *L, mt_shape *s, const mt_result *r,
                       int columns) {
  int info, names;
  push_info(L, r, columns);
  wrap_info(L, true);
  push_names(L, r, columns);
  names = luaL_ref(L, LUA_REGISTRYINDEX);
  info = luaL_ref(L, LUA_REGISTRYINDEX);
  if (!shape_copy(s, r, columns)) {
    luaL_unref(L, LUA_REGISTRYINDEX, names);
    luaL_unref(L, LUA_REGISTRYINDEX, info);
    luaL_error(L, "not enough memory");
  }
  s->names_ref = names;
  s->info_ref = info;
}

/* The shape of r, which answers req; made if need be. The column names are
 * pushed one by one. Raises when memory is short. */
static const mt_shape *push_shape(lua_State *L, mt_rt *rt, const mt_req *req,
                                  const mt_result *r) {
  int columns = mt_result_columns(r), j, top;
  mt_shape *s = &rt->shapes[(uintptr_t)req->sql / sizeof *req->sql % MT_SHAPES];
  luaL_checkstack(L, columns + 12, "too many columns");
  if (!shape_fits(s, r, columns)) {
    shape_clear(L, s);
    shape_make(L, s, r, columns);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->names_ref);
  top = lua_gettop(L);
  for (j = 0; j < columns; j++) lua_rawgeti(L, top, j + 1);
  lua_remove(L, top);
  return s;
}

static void set_info(lua_State *L, const mt_result *r, const mt_shape *s,
                     int rows) {
  long long affected = mt_result_affected(r);
  if (affected == rows && s->columns > 0) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->info_ref);
  } else {
    push_info(L, r, s->columns);
    lua_pushinteger(L, (lua_Integer)affected);
    lua_setfield(L, -2, "affected");
    wrap_info(L, false);
  }
  lua_setmetatable(L, -2);
}

/* ---- results ------------------------------------------------------------------ */

void mt_lua_push_rows(lua_State *L, mt_rt *rt, mt_req *req, mt_as as,
                      bool json) {
  const mt_result *r = mt_req_result(req);
  int base = lua_gettop(L), names = base + 1, i, rows, columns;
  const mt_shape *s;
  bool pause;
  if (!r) {
    lua_newtable(L);
    return;
  }
  s = push_shape(L, rt, req, r);
  rows = mt_result_rows(r);
  columns = s->columns;
  lua_createtable(L, rows, 0);
  pause = (double)rows * columns > BIG_RESULT && mt_lua_gc_runs(L);
  if (pause) mt_lua_gc(L, LUA_GCSTOP);
  for (i = 0; i < rows; i++) {
    push_row(L, rt, r, i, columns, names, s->types, as, json);
    lua_rawseti(L, -2, i + 1);
  }
  if (pause) mt_lua_gc(L, LUA_GCRESTART);
  set_info(L, r, s, rows);
  if (columns > 0) lua_replace(L, names);
  lua_settop(L, base + 1);
}

void mt_lua_push_batch(lua_State *L, mt_rt *rt, const mt_req *req,
                       mt_result **batch, int n, mt_as as, bool json) {
  int base = lua_gettop(L), names = base + 1, i;
  const mt_shape *s = push_shape(L, rt, req, batch[0]);
  lua_createtable(L, n, 0);
  for (i = 0; i < n; i++) {
    push_row(L, rt, batch[i], 0, s->columns, names, s->types, as, json);
    mt_result_clear(batch[i]);
    lua_rawseti(L, -2, i + 1);
  }
  if (s->columns > 0) lua_replace(L, names);
  lua_settop(L, base + 1);
}
