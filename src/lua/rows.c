/*
 * Whole results as Lua tables: an array of rows keyed by column name, or of
 * arrays. What is not a row (affected, command, columns) comes from the
 * metatable, so that encoders see a plain array.
 */
#include <string.h>

#include "lua/mt_lua.h"

enum { BIG_RESULT = 2000 }; /* cells; the collector waits while it is built */

/* Column types, on the stack as a userdata block. */
static unsigned *push_types(lua_State *L, const mt_result *r, int columns) {
  unsigned *types = lua_newuserdatauv(
      L, (size_t)(columns ? columns : 1) * sizeof *types, 0);
  int j;
  for (j = 0; j < columns; j++) types[j] = mt_result_type(r, j);
  return types;
}

/* The types that need no table look-up are decided here, once per cell. */
static void push_cell(lua_State *L, mt_rt *rt, const mt_result *r, int i,
                      int j, unsigned type, bool json, bool arrays) {
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

static void push_names(lua_State *L, const mt_result *r, int columns) {
  int j;
  luaL_checkstack(L, columns + 10, "too many columns");
  for (j = 0; j < columns; j++) lua_pushstring(L, mt_result_name(r, j));
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

/* "INSERT 0 3" -> "INSERT" */
static void push_verb(lua_State *L, const mt_result *r) {
  const char *tag = mt_result_command(r);
  size_t len = strlen(tag);
  while (len > 0 && ((tag[len - 1] >= '0' && tag[len - 1] <= '9') ||
                     tag[len - 1] == ' '))
    len--;
  lua_pushlstring(L, tag, len);
}

/* Metatable of the rows: {affected=, command=, columns=}. */
static void set_info(lua_State *L, const mt_result *r, int columns,
                     int names) {
  int j;
  lua_createtable(L, 0, 2);
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, (lua_Integer)mt_result_affected(r));
  lua_setfield(L, -2, "affected");
  push_verb(L, r);
  lua_setfield(L, -2, "command");
  lua_createtable(L, columns, 0);
  for (j = 0; j < columns; j++) {
    lua_pushvalue(L, names + j);
    lua_rawseti(L, -2, j + 1);
  }
  lua_setfield(L, -2, "columns");
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "array"); /* the convention of dkjson and others */
  lua_setfield(L, -2, "__jsontype");
  lua_setmetatable(L, -2);
}

void mt_lua_push_rows(lua_State *L, mt_rt *rt, mt_req *req, mt_as as,
                      bool json) {
  const mt_result *r = mt_req_result(req);
  int base = lua_gettop(L), names = base + 2, i, rows, columns;
  unsigned *types;
  bool pause;
  if (!r) {
    lua_newtable(L);
    return;
  }
  rows = mt_result_rows(r);
  columns = mt_result_columns(r);
  types = push_types(L, r, columns);
  push_names(L, r, columns);
  lua_createtable(L, rows, 0);
  pause = (double)rows * columns > BIG_RESULT &&
          lua_gc(L, LUA_GCISRUNNING);
  if (pause) lua_gc(L, LUA_GCSTOP);
  for (i = 0; i < rows; i++) {
    push_row(L, rt, r, i, columns, names, types, as, json);
    lua_rawseti(L, -2, i + 1);
  }
  if (pause) lua_gc(L, LUA_GCRESTART);
  set_info(L, r, columns, names);
  lua_replace(L, base + 1);
  lua_settop(L, base + 1);
}

void mt_lua_push_batch(lua_State *L, mt_rt *rt, mt_result **batch, int n,
                       mt_as as, bool json) {
  int base = lua_gettop(L), names = base + 2, i;
  int columns = mt_result_columns(batch[0]);
  unsigned *types = push_types(L, batch[0], columns);
  push_names(L, batch[0], columns);
  lua_createtable(L, n, 0);
  for (i = 0; i < n; i++) {
    push_row(L, rt, batch[i], 0, columns, names, types, as, json);
    mt_result_clear(batch[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_replace(L, base + 1);
  lua_settop(L, base + 1);
}
