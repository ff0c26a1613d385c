/*
 * luarows: the least C that turns a PGresult into Lua values, as the floor
 * for W3. No pool, no coroutines, no errors but raised ones.
 *
 *   conn = luarows.connect()             by the PG* environment
 *   rows = conn:query(sql, "hash")       { {id = 1, name = "a"}, ... }
 *   rows = conn:query(sql, "array")      { {1, "a"}, ... }
 *   rows = conn:query(sql, "lazy")       #rows, rows:get(i, j): a cell becomes
 *                                        a Lua value when asked for
 *
 * Integers, floats and booleans are converted, NULL is nil, the rest strings.
 */
#include <lauxlib.h>
#include <libpq-fe.h>
#include <lua.h>
#include <stdbool.h>
#include <stdlib.h>

#define CONN "luarows.conn"
#define ROWS "luarows.rows"

enum { BOOL = 16, INT8 = 20, INT2 = 21, INT4 = 23, FLOAT4 = 700, FLOAT8 };
enum { MAX_COLUMNS = 64 };

static lua_Integer to_integer(const char *s) {
  bool negative = *s == '-';
  lua_Unsigned value = 0;
  for (s += negative; *s; s++) value = value * 10 + (lua_Unsigned)(*s - '0');
  return (lua_Integer)(negative ? 0 - value : value);
}

static void push_cell(lua_State *L, const PGresult *res, int row, int column,
                      Oid type) {
  const char *text = PQgetvalue(res, row, column);
  int len = PQgetlength(res, row, column);
  if (len == 0 && PQgetisnull(res, row, column)) {
    lua_pushnil(L);
    return;
  }
  switch (type) {
    case BOOL:
      lua_pushboolean(L, *text == 't');
      break;
    case INT2:
    case INT4:
    case INT8:
      lua_pushinteger(L, to_integer(text));
      break;
    case FLOAT4:
    case FLOAT8:
      lua_pushnumber(L, strtod(text, NULL));
      break;
    default:
      lua_pushlstring(L, text, (size_t)len);
  }
}

/* Leaves the table of rows on the stack. */
static void push_hash_rows(lua_State *L, const PGresult *res) {
  int rows = PQntuples(res), columns = PQnfields(res);
  int names = lua_gettop(L) + 1;
  Oid types[MAX_COLUMNS];
  for (int j = 0; j < columns; j++) {
    types[j] = PQftype(res, j);
    lua_pushstring(L, PQfname(res, j));
  }
  lua_createtable(L, rows, 0);
  for (int i = 0; i < rows; i++) {
    lua_createtable(L, 0, columns);
    for (int j = 0; j < columns; j++) {
      lua_pushvalue(L, names + j);
      push_cell(L, res, i, j, types[j]);
      lua_rawset(L, -3);
    }
    lua_rawseti(L, -2, i + 1);
  }
}

static void push_array_rows(lua_State *L, const PGresult *res) {
  int rows = PQntuples(res), columns = PQnfields(res);
  Oid types[MAX_COLUMNS];
  for (int j = 0; j < columns; j++) types[j] = PQftype(res, j);
  lua_createtable(L, rows, 0);
  for (int i = 0; i < rows; i++) {
    lua_createtable(L, columns, 0);
    for (int j = 0; j < columns; j++) {
      push_cell(L, res, i, j, types[j]);
      lua_rawseti(L, -2, j + 1);
    }
    lua_rawseti(L, -2, i + 1);
  }
}

static PGresult *check_rows(lua_State *L) {
  PGresult **box = luaL_checkudata(L, 1, ROWS);
  luaL_argcheck(L, *box, 1, "rows are gone");
  return *box;
}

static int rows_get(lua_State *L) {
  const PGresult *res = check_rows(L);
  int row = (int)luaL_checkinteger(L, 2) - 1;
  int column = (int)luaL_checkinteger(L, 3) - 1;
  push_cell(L, res, row, column, PQftype(res, column));
  return 1;
}

static int rows_len(lua_State *L) {
  lua_pushinteger(L, PQntuples(check_rows(L)));
  return 1;
}

static int rows_gc(lua_State *L) {
  PGresult **box = luaL_checkudata(L, 1, ROWS);
  PQclear(*box);
  *box = NULL;
  return 0;
}

static PGconn *check_conn(lua_State *L) {
  PGconn **box = luaL_checkudata(L, 1, CONN);
  luaL_argcheck(L, *box, 1, "connection is closed");
  return *box;
}

static int conn_query(lua_State *L) {
  static const char *const shapes[] = {"hash", "array", "lazy", NULL};
  PGconn *pg = check_conn(L);
  const char *sql = luaL_checkstring(L, 2);
  int shape = luaL_checkoption(L, 3, "hash", shapes);
  /* The box first, so that the result is collected whatever raises. */
  PGresult **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, ROWS);
  *box = PQexec(pg, sql);
  if (PQresultStatus(*box) != PGRES_TUPLES_OK)
    return luaL_error(L, "%s", PQerrorMessage(pg));
  if (shape == 2) return 1;
  if (PQnfields(*box) > MAX_COLUMNS) return luaL_error(L, "too many columns");
  luaL_checkstack(L, MAX_COLUMNS + 8, NULL);
  if (shape == 0)
    push_hash_rows(L, *box);
  else
    push_array_rows(L, *box);
  PQclear(*box);
  *box = NULL;
  return 1;
}

static int conn_close(lua_State *L) {
  PGconn **box = luaL_checkudata(L, 1, CONN);
  PQfinish(*box);
  *box = NULL;
  return 0;
}

static int connect_env(lua_State *L) {
  PGconn **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, CONN);
  *box = PQconnectdb("application_name=mtenant-bench-luarows");
  if (PQstatus(*box) != CONNECTION_OK)
    return luaL_error(L, "%s", PQerrorMessage(*box));
  return 1;
}

static const luaL_Reg conn_methods[] = {
    {"query", conn_query}, {"close", conn_close}, {NULL, NULL}};
static const luaL_Reg rows_methods[] = {{"get", rows_get}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"connect", connect_env}, {NULL, NULL}};

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods,
                      lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
}

int luaopen_luarows(lua_State *L) {
  new_class(L, CONN, conn_methods, conn_close);
  new_class(L, ROWS, rows_methods, rows_gc);
  lua_pushcfunction(L, rows_len);
  lua_setfield(L, -2, "__len");
  luaL_newlib(L, functions);
  return 1;
}
