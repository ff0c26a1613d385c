/*
 * Lazy rows: a userdata that keeps the server's result and decodes a cell
 * when it is touched. rows:get(i, column), rows[i].name, #rows; columns by
 * name or number.
 */
#include <string.h>

#include "lua/mt_lua.h"

typedef struct lazy {
  mt_rt *rt;
  mt_result *r;
  int rows, columns;
  bool json;
  unsigned types[];
} lazy;

typedef struct lazy_row {
  lazy *of; /* kept alive by the user value */
  int row;
} lazy_row;

void mt_lua_push_lazy(lua_State *L, mt_rt *rt, mt_req *req, bool json) {
  mt_result *r = mt_req_result(req);
  int columns = r ? mt_result_columns(r) : 0, j;
  lazy *l =
      lua_newuserdatauv(L, sizeof *l + (size_t)columns * sizeof l->types[0], 1);
  l->rt = rt;
  l->r = NULL;
  luaL_setmetatable(L, MT_LUA_LAZY);
  l->json = json;
  l->rows = r ? mt_result_rows(r) : 0;
  l->columns = columns;
  /* name -> number, for look-ups by name */
  lua_createtable(L, 0, columns);
  for (j = 0; j < columns; j++) {
    l->types[j] = mt_result_type(r, j);
    lua_pushinteger(L, j + 1);
    lua_setfield(L, -2, mt_result_name(r, j));
  }
  lua_setiuservalue(L, -2, 1);
  l->r = r;
  req->result = NULL; /* ours now */
}

/* Column at stack index `arg` as 0-based number; -1: there is none. The lazy
 * userdata is at `self`. */
static int column(lua_State *L, const lazy *l, int self, int arg) {
  lua_Integer j;
  if (lua_type(L, arg) == LUA_TNUMBER) {
    j = lua_tointeger(L, arg);
  } else {
    lua_getiuservalue(L, self, 1);
    lua_pushvalue(L, arg);
    lua_rawget(L, -2);
    j = lua_tointeger(L, -1);
    lua_pop(L, 2);
  }
  return j >= 1 && j <= l->columns ? (int)j - 1 : -1;
}

static int push_at(lua_State *L, const lazy *l, int row, int col) {
  size_t len;
  const char *v = mt_result_cell(l->r, row, col, &len);
  if (v)
    mt_lua_push_value(L, l->rt, v, len, l->types[col], l->json);
  else
    lua_pushnil(L);
  return 1;
}

/* rows:get(i, column) -> value or nil */
static int get(lua_State *L) {
  lazy *l = luaL_checkudata(L, 1, MT_LUA_LAZY);
  lua_Integer i = luaL_checkinteger(L, 2);
  int j = column(L, l, 1, 3);
  luaL_argcheck(L, i >= 1 && i <= l->rows, 2, "no such row");
  luaL_argcheck(L, j >= 0, 3, "no such column");
  return push_at(L, l, (int)i - 1, j);
}

static int push_columns(lua_State *L, const lazy *l) {
  int j;
  lua_createtable(L, l->columns, 0);
  for (j = 0; j < l->columns; j++) {
    lua_pushstring(L, mt_result_name(l->r, j));
    lua_rawseti(L, -2, j + 1);
  }
  return 1;
}

static int push_row(lua_State *L, lazy *l, lua_Integer i) {
  lazy_row *row;
  if (i < 1 || i > l->rows) return 0;
  row = lua_newuserdatauv(L, sizeof *row, 1);
  row->of = l;
  row->row = (int)i - 1;
  luaL_setmetatable(L, MT_LUA_LAZY_ROW);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

static int lazy_index(lua_State *L) {
  lazy *l = lua_touserdata(L, 1);
  const char *key;
  if (lua_type(L, 2) == LUA_TNUMBER) return push_row(L, l, lua_tointeger(L, 2));
  key = luaL_checkstring(L, 2);
  if (strcmp(key, "get") == 0) {
    lua_pushvalue(L, lua_upvalueindex(2));
    return 1;
  }
  if (strcmp(key, "affected") == 0) {
    lua_pushinteger(L, l->r ? (lua_Integer)mt_result_affected(l->r) : 0);
    return 1;
  }
  if (strcmp(key, "columns") == 0) return push_columns(L, l);
  if (strcmp(key, "command") == 0) {
    const char *tag = l->r ? mt_result_command(l->r) : "";
    lua_pushlstring(L, tag, strcspn(tag, " "));
    return 1;
  }
  return 0;
}

static int lazy_len(lua_State *L) {
  lazy *l = luaL_checkudata(L, 1, MT_LUA_LAZY);
  lua_pushinteger(L, l->rows);
  return 1;
}

static int lazy_gc(lua_State *L) {
  lazy *l = luaL_checkudata(L, 1, MT_LUA_LAZY);
  if (l->r) mt_result_clear(l->r);
  l->r = NULL;
  l->rows = l->columns = 0;
  return 0;
}

static int row_index(lua_State *L) {
  lazy_row *row = lua_touserdata(L, 1);
  int j;
  lua_getiuservalue(L, 1, 1);
  j = column(L, row->of, 3, 2);
  return j < 0 ? 0 : push_at(L, row->of, row->row, j);
}

void mt_lua_lazy_register(lua_State *L) {
  static const luaL_Reg meta[] = {
      {"__len", lazy_len}, {"__gc", lazy_gc}, {NULL, NULL}};
  static const luaL_Reg row_meta[] = {{"__index", row_index}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_LAZY, NULL, meta);
  luaL_getmetatable(L, MT_LUA_LAZY);
  lua_pushnil(L); /* where other functions have the runtime */
  lua_pushcfunction(L, get);
  lua_pushcclosure(L, lazy_index, 2);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  mt_lua_newclass(L, MT_LUA_LAZY_ROW, NULL, row_meta);
}
