/*
 * The database handle's C side: one tenant reference, and the start of plain
 * queries. Everything that needs a lease is composed in lua/mtenant/.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

typedef struct db_ud {
  mt_tenant *t;
  char *comment; /* goes behind its queries, owned; NULL: none */
} db_ud;

void mt_lua_push_db(lua_State *L, mt_tenant *t) {
  db_ud *d = lua_newuserdatauv(L, sizeof *d, 0);
  d->t = NULL;
  d->comment = NULL;
  luaL_setmetatable(L, MT_LUA_DB);
  d->t = t; /* the reference is ours */
}

/* luaL_checkudata looks the name up; the address of the metatable will do. */
static db_ud *check_db(lua_State *L) {
  db_ud *d = lua_touserdata(L, 1);
  if (d && lua_getmetatable(L, 1)) {
    bool ours = lua_topointer(L, -1) == mt_lua_rt(L)->db_metatable;
    lua_pop(L, 1);
    if (ours) return d;
  }
  return luaL_checkudata(L, 1, MT_LUA_DB);
}

static mt_tenant *check_tenant(lua_State *L) { return check_db(L)->t; }

/* The live entry, which the handle refers to from now on. */
static mt_tenant *live_tenant(lua_State *L, mt_error **err) {
  db_ud *d = lua_touserdata(L, 1);
  mt_tenant *before = d->t, *live = mt_tenant_live(before, err);
  if (live && live != before) {
    d->t = mt_tenant_ref(live);
    mt_tenant_unref(before);
  }
  return live;
}

static const char *name_of(const mt_tenant *t) {
  return t->shared ? "shared" : t->id;
}

mt_sql *mt_lua_check_sql(lua_State *L, mt_manager *m) {
  size_t len;
  const char *sql;
  mt_sql *s;
  if (lua_type(L, 2) != LUA_TSTRING)
    mt_lua_misuse(L, "sql: a string expected, got %s", luaL_typename(L, 2));
  sql = lua_tolstring(L, 2, &len);
  if (memchr(sql, '\0', len)) mt_lua_misuse(L, "sql: it has a NUL byte");
  s = mt_manager_sql(m, sql, len);
  if (!s) luaL_error(L, "not enough memory");
  return s;
}

/*
 * query(sql, as, timeout_ms or nil, json, ...)
 *   -> slot | nil, err | false, class, keyword   (needs a lease, or refused)
 */
static int query(lua_State *L) {
  db_ud *d = check_db(L);
  mt_tenant *t = d->t;
  mt_manager *m = t->manager;
  int as = (int)luaL_checkinteger(L, 3);
  unsigned flags = MT_REQ_SCOPE;
  double timeout = luaL_optnumber(L, 4, 0);
  bool json = lua_toboolean(L, 5);
  mt_error *err = NULL;
  mt_params params;
  mt_tenant *live;
  mt_sql *sql;
  mt_req *req;
  mt_op *op;
  mt_lua_params(L, 6, &params); /* raises: before anything is owned */
  sql = mt_lua_check_sql(L, m);
  if (sql->info.cls > MT_SQL_PLAIN || sql->info.statements != 1) {
    lua_pushboolean(L, 0);
    lua_pushstring(
        L, mt_manager_get_config(m)->pooled && sql->info.cls == MT_SQL_SESSION
               ? "pooled"
               : mt_sql_class_name(sql->info.cls));
    lua_pushstring(L, sql->info.control);
    mt_sql_unref(sql);
    return 3;
  }
  live = live_tenant(L, &err);
  if (live) t = live;
  if (as & MT_AS_PIPELINED) flags |= MT_REQ_PIPELINED;
  req = live ? mt_req_new(flags, NULL, sql) : NULL;
  mt_sql_unref(sql);
  if (!req || mt_req_set_params(req, params.n, params.values, params.lens) ||
      mt_req_set_comment(req, d->comment)) {
    mt_req_free(req);
    return mt_lua_fail(L, err, name_of(t));
  }
  op = mt_op_new(L, MT_OP_QUERY);
  op->tenant = mt_tenant_ref(live);
  op->as = (mt_as)(as & MT_AS_KIND);
  op->json = json;
  req->timeout_ms = timeout;
  if (mt_query_wire(op, req) && mt_tenant_submit(live, req, &err) == MT_OK)
    return mt_op_push_slot(L, op);
  mt_tenant_note_refused(live, req, err ? err->code : MT_E_OUT_OF_MEMORY);
  mt_op_drop(op);
  return mt_lua_fail(L, err, name_of(t));
}

/* classify(sql) -> "plain" | "ddl" | ..., control keyword or nil, lasting,
 * statements; read once, as it is interned */
static int classify(lua_State *L) {
  mt_sql *sql = mt_lua_check_sql(L, check_tenant(L)->manager);
  const mt_sql_info *info = &sql->info;
  lua_pushstring(L, mt_sql_class_name(info->cls));
  lua_pushstring(L, info->control[0] ? info->control : NULL);
  lua_pushboolean(L, info->lasting);
  lua_pushinteger(L, info->statements);
  mt_sql_unref(sql);
  return 4;
}

void mt_lua_take_text(lua_State *L, int index, char **text) {
  const char *given = luaL_optstring(L, index, NULL);
  char *copy = given ? mt_strdup(given) : NULL;
  if (given && !copy) luaL_error(L, "not enough memory");
  mt_free(*text);
  *text = copy;
}

/* comment(text or nil): goes behind the queries that are started from now on */
static int comment(lua_State *L) {
  mt_lua_take_text(L, 2, &check_db(L)->comment);
  return 0;
}

/* ---- connecting ------------------------------------------------------------------------ */

static void on_connected(void *data, const mt_error *err, int attempts,
                         double total_ms) {
  mt_op *op = data;
  mt_error *e = NULL;
  op->flight = NULL;
  op->attempts = attempts;
  op->total_ms = total_ms;
  if (err)
    e = op->stop
            ? mt_error_new(op->stop, "%s while connecting",
                           op->stop == MT_E_TIMEOUT ? "timed out" : "cancelled")
            : mt_error_ref(err);
  mt_op_finish(op, e);
}

/* connect() -> slot | nil, err; the result is the number of attempts */
static int connect_tenant(lua_State *L) {
  mt_tenant *t = check_tenant(L);
  mt_error *err = NULL;
  mt_op *op = mt_op_new(L, MT_OP_CONNECT);
  op->tenant = mt_tenant_ref(t);
  if (mt_tenant_connect(t, on_connected, op, &op->flight, &err) == MT_OK)
    return mt_op_push_slot(L, op);
  mt_op_drop(op);
  return mt_lua_fail(L, err, name_of(t));
}

/* take_retry(code or nil) -> may what has failed with it run again? */
static int take_retry(lua_State *L) {
  mt_tenant *t = check_tenant(L);
  const char *code = luaL_optstring(L, 2, NULL);
  bool may = mt_tenant_take_retry(t);
  if (may) mt_tenant_note_retry(t, code ? mt_code_from_name(code) : 0);
  lua_pushboolean(L, may);
  return 1;
}

/* ---- leases ---------------------------------------------------------------------------- */

static void on_acquired(mt_acquire *a, mt_lease *l, const mt_error *err) {
  mt_op *op = a->data;
  op->acquire = NULL;
  op->lease = l;
  mt_op_finish(op, err ? mt_error_ref(err) : NULL);
}

/* acquire() -> slot | nil, err; the result is a lease */
static int acquire(lua_State *L) {
  mt_tenant *t = check_tenant(L);
  mt_error *err = NULL;
  mt_tenant *live = live_tenant(L, &err);
  mt_op *op;
  if (!live) return mt_lua_fail(L, err, name_of(t));
  t = live;
  op = mt_op_new(L, MT_OP_ACQUIRE);
  op->tenant = mt_tenant_ref(live);
  if (mt_tenant_acquire(live, on_acquired, op, &op->acquire, &err) == MT_OK)
    return mt_op_push_slot(L, op);
  mt_op_drop(op);
  return mt_lua_fail(L, err, name_of(t));
}

/* route() -> slot | nil, err; done when the route is known, and the tenant not
 * paused */
static int route(lua_State *L) {
  mt_tenant *t = check_tenant(L);
  mt_error *err = NULL;
  mt_tenant *live = mt_tenant_live(t, &err);
  mt_op *op;
  if (!live) return mt_lua_fail(L, err, name_of(t));
  op = mt_op_new(L, MT_OP_ROUTE);
  op->tenant = mt_tenant_ref(live);
  if (mt_tenant_wait_route(live, on_acquired, op, &op->acquire, &err) == MT_OK)
    return mt_op_push_slot(L, op);
  mt_op_drop(op);
  return mt_lua_fail(L, err, name_of(t));
}

/* The entry that is registered now under its id, or NULL; does not count as a
 * use. */
static mt_tenant *current(mt_tenant *t) {
  if (t->shared || t->of) return t;
  return mt_manager_find(t->manager, t->id);
}

/* routed() -> is it so already? */
static int routed(lua_State *L) {
  mt_tenant *now = current(check_tenant(L));
  lua_pushboolean(L, now && mt_tenant_is_routed(now));
  return 1;
}

/* written() -> the tick until which it may have written */
static int written(lua_State *L) {
  mt_tenant *now = current(check_tenant(L));
  lua_pushnumber(L, now ? (double)mt_tenant_written(now) : 0);
  return 1;
}

/* reader(url or nil) -> a handle that reads there | nil, err */
static int reader(lua_State *L) {
  mt_tenant *t = check_tenant(L), *r = NULL;
  mt_error *err = NULL;
  if (mt_tenant_reader(t, luaL_optstring(L, 2, NULL), &r, &err) != MT_OK)
    return mt_lua_fail(L, err, name_of(t));
  mt_lua_push_db(L, r);
  return 1;
}

static int schema(lua_State *L) {
  const char *s = mt_tenant_schema(check_tenant(L));
  lua_pushstring(L, s); /* nil for NULL */
  return 1;
}

/* place() -> a text that is the same for all tenants of the same database, or
 * nil: it has no route */
static int place(lua_State *L) {
  mt_error *err = NULL;
  mt_tenant *live = mt_tenant_live(check_tenant(L), &err);
  mt_error_unref(err);
  lua_pushstring(L, live ? mt_tenant_place(live) : NULL);
  return 1;
}

/* listener() -> that of its database, not open; or nil, err */
static int listener(lua_State *L) {
  mt_tenant *t = check_tenant(L);
  mt_error *err = NULL;
  mt_tenant *live = mt_tenant_live(t, &err);
  return live ? mt_lua_push_listener(L, live) : mt_lua_fail(L, err, name_of(t));
}

static int db_gc(lua_State *L) {
  db_ud *d = luaL_checkudata(L, 1, MT_LUA_DB);
  if (d->t) mt_tenant_unref(d->t);
  d->t = NULL;
  mt_free(d->comment);
  d->comment = NULL;
  return 0;
}

void mt_lua_db_register(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"query", query},       {"classify", classify},
      {"comment", comment},   {"connect", connect_tenant},
      {"acquire", acquire},   {"take_retry", take_retry},
      {"schema", schema},     {"route", route},
      {"routed", routed},     {"written", written},
      {"reader", reader},     {"place", place},
      {"listener", listener}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", db_gc}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_DB, methods, meta);
  lua_getfield(L, LUA_REGISTRYINDEX, MT_LUA_RUNTIME);
  luaL_getmetatable(L, MT_LUA_DB);
  ((mt_rt *)lua_touserdata(L, -2))->db_metatable = lua_topointer(L, -1);
  lua_pop(L, 2);
}
