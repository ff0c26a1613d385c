/*
 * What a health check asks of a manager: its servers, its tenants, pings. The
 * rest is in lua/mtenant/health.lua.
 */
#include "lua/mt_lua.h"

const char *mt_lua_state_name(mt_breaker_state state) {
  static const char *const names[] = {"closed", "open", "half_open",
                                      "isolated"};
  return names[state];
}

/* ---- what there is ------------------------------------------------------------- */

typedef struct seen {
  lua_State *L;
  mt_rt *rt;
} seen;

static void push_server(void *data, const mt_server_view *v) {
  const seen *s = data;
  lua_State *L = s->L;
  lua_createtable(L, 0, 10);
  mt_lua_set_text(L, "name", v->name);
  mt_lua_set_text(L, "state", mt_lua_state_name(v->state));
  mt_lua_set_integer(L, "total", v->live);
  mt_lua_set_integer(L, "idle", v->idle);
  mt_lua_set_integer(L, "connecting", v->connecting);
  mt_lua_set_integer(L, "max", v->cap);
  mt_lua_set_integer(L, "waiting", (lua_Integer)v->waiting);
  mt_lua_set_integer(L, "pools", (lua_Integer)v->pools);
  lua_pushboolean(L, v->paused);
  lua_setfield(L, -2, "paused");
  if (v->cause) {
    mt_lua_push_error(L, s->rt, v->cause, NULL, 0);
    lua_setfield(L, -2, "cause");
  }
  lua_rawseti(L, -2, (int)lua_rawlen(L, -2) + 1);
}

/* servers(with_own) -> array of tables; with the configuration's own server,
 * used or not */
static int servers(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  seen s = {L, u->rt};
  mt_error *err = NULL;
  if (lua_toboolean(L, 2) && mt_manager_use_own_server(u->m, &err) != MT_OK)
    return mt_lua_fail(L, err, NULL);
  lua_newtable(L);
  mt_manager_each_server(u->m, push_server, &s);
  return 1;
}

/* own_server() -> its name */
static int own_server(lua_State *L) {
  lua_pushstring(L, mt_manager_own_server(mt_lua_check_manager(L)->m));
  return 1;
}

/* tenants() -> array of { id, schema, server, total, idle, waiting }, without
 * touching their places in the LRU */
static int tenants(lua_State *L) {
  const mt_manager *m = mt_lua_check_manager(L)->m;
  mt_tenant *t = NULL;
  mt_tenant_view v;
  lua_Integer n = 0;
  lua_createtable(L, (int)mt_manager_count(m), 0);
  while ((t = mt_manager_next(m, t))) {
    mt_tenant_look(t, &v);
    lua_createtable(L, 0, 6);
    mt_lua_set_text(L, "id", t->id);
    mt_lua_set_text(L, "schema", mt_tenant_schema(t));
    mt_lua_set_text(L, "server", v.server);
    mt_lua_set_integer(L, "total", v.total);
    mt_lua_set_integer(L, "idle", v.idle);
    mt_lua_set_integer(L, "waiting", (lua_Integer)v.waiting);
    lua_rawseti(L, -2, (int)++n);
  }
  return 1;
}

/* ---- pings ----------------------------------------------------------------------- */

static void on_pinged(void *data, mt_ping_end end, const mt_error *err,
                      double took_ms) {
  mt_op *op = data;
  op->ping = NULL;
  op->busy = end == MT_PING_BUSY;
  op->total_ms = took_ms;
  mt_op_finish(op, end == MT_PING_FAILED ? mt_error_ref(err) : NULL);
}

typedef int (*ping_fn)(mt_manager *m, const char *what, double timeout_ms,
                       mt_ping_fn done, void *data, mt_ping **out,
                       mt_error **err);

static int ping(lua_State *L, ping_fn start) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  const char *what = luaL_checkstring(L, 2);
  double timeout_ms = luaL_checknumber(L, 3);
  mt_error *err = NULL;
  mt_op *op = mt_op_new(L, MT_OP_PING);
  if (start(u->m, what, timeout_ms, on_pinged, op, &op->ping, &err) == MT_OK)
    return mt_op_push_slot(L, op);
  mt_op_drop(op);
  return mt_lua_fail(L, err, NULL);
}

/* ping_server(name, timeout_ms) -> slot; the result is "ok" or "busy" */
static int ping_server(lua_State *L) { return ping(L, mt_manager_ping_server); }

/* ping_tenant(id, timeout_ms) -> slot */
static int ping_tenant(lua_State *L) { return ping(L, mt_manager_ping_tenant); }

const luaL_Reg mt_lua_health_methods[] = {
    {"servers", servers},         {"own_server", own_server},
    {"tenants", tenants},         {"ping_server", ping_server},
    {"ping_tenant", ping_tenant}, {NULL, NULL}};
