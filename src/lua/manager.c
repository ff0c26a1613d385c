/*
 * The manager's userdata: configuration from a checked Lua table, callbacks
 * into one Lua function, and the calls that do not wait. See
 * lua/mtenant/manager.lua for the other half.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"
#include "pg/endpoint.h"

/* ---- callbacks: function(kind, ...) ------------------------------------------------------- */

static bool start_call(mt_manager_ud *u, const char *kind) {
  if (!u || u->rt->closing || u->callbacks == LUA_NOREF) return false;
  if (!lua_checkstack(u->rt->L, 24)) return false;
  lua_rawgeti(u->rt->L, LUA_REGISTRYINDEX, u->callbacks);
  lua_pushstring(u->rt->L, kind);
  return true;
}

static void on_resolve(mt_manager *m, const char *id, uint64_t token,
                       void *data) {
  mt_manager_ud *u = data;
  mt_error *err;
  if (start_call(u, "resolve")) {
    lua_pushstring(u->rt->L, id);
    lua_pushlightuserdata(u->rt->L, (void *)(uintptr_t)token);
    if (mt_lua_call(u->rt, 3, 0, "resolve")) return;
  }
  err = mt_error_new(MT_E_POLICY, "the resolver of \"%s\" failed", id);
  mt_manager_resolved(m, token, NULL, err);
  mt_error_unref(err);
}

static void on_retry(mt_manager *m, const char *id, int attempt,
                     const mt_error *err, double elapsed_ms, double *delay_ms,
                     void *data) {
  mt_manager_ud *u = data;
  lua_State *L = u->rt->L;
  (void)m;
  if (!start_call(u, "retry")) return;
  lua_pushstring(L, id);
  lua_pushinteger(L, attempt);
  mt_lua_push_error(L, u->rt, err, id, attempt);
  lua_pushnumber(L, elapsed_ms);
  lua_pushinteger(L, (lua_Integer)*delay_ms);
  if (!mt_lua_call(u->rt, 6, 1, "on_retry")) return;
  if (lua_type(L, -1) == LUA_TNUMBER)
    *delay_ms = lua_tonumber(L, -1) < 0 ? 0 : lua_tonumber(L, -1);
  else if (lua_type(L, -1) == LUA_TBOOLEAN && !lua_toboolean(L, -1))
    *delay_ms = -1;
  lua_pop(L, 1);
}

static bool is_retryable(mt_manager *m, const mt_error *err, void *data) {
  mt_manager_ud *u = data;
  bool yes;
  (void)m;
  if (!start_call(u, "is_retryable")) return err->retryable;
  mt_lua_push_error(u->rt->L, u->rt, err, NULL, 0);
  if (!mt_lua_call(u->rt, 2, 1, "is_retryable")) return err->retryable;
  yes = lua_toboolean(u->rt->L, -1);
  lua_pop(u->rt->L, 1);
  return yes;
}

/* Thousands of these come at once: tries, of which each tenant that waits has
 * one with each probe, and entries. Is there nobody to hear of it? */
static bool is_unheard(const mt_manager_ud *u, const mt_event *ev) {
  if (strncmp(ev->kind, "connection_", 11) == 0) return !u->hears_tries;
  if (strcmp(ev->kind, "pool_created") == 0) return !u->hears_entries;
  return false;
}

static void on_event(mt_manager *m, const mt_event *ev, void *data) {
  mt_manager_ud *u = data;
  lua_State *L = u->rt->L;
  (void)m;
  if (is_unheard(u, ev)) return;
  if (!start_call(u, "event")) return;
  lua_createtable(L, 0, 8);
  mt_lua_set_text(L, "kind", ev->kind);
  mt_lua_set_text(L, "tenant_id", ev->tenant_id);
  mt_lua_set_text(L, "schema", ev->schema);
  mt_lua_set_text(L, "reason", ev->reason);
  if (ev->attempt > 0) {
    lua_pushinteger(L, ev->attempt);
    lua_setfield(L, -2, "attempt");
    lua_pushinteger(L, ev->max_attempts);
    lua_setfield(L, -2, "max_attempts");
    mt_lua_set_number(L, "delay_ms", ev->delay_ms);
  }
  if (ev->attempt > 0 || ev->total_time_ms > 0)
    mt_lua_set_number(L, "total_time_ms", ev->total_time_ms);
  if (ev->error) {
    mt_lua_push_error(L, u->rt, ev->error, ev->tenant_id, ev->attempt);
    lua_setfield(L, -2, "error");
  }
  mt_lua_call(u->rt, 2, 0, "event callback");
}

static bool password(mt_manager *m, char *buf, size_t size, void *data) {
  mt_manager_ud *u = data;
  const char *s;
  size_t len = 0;
  bool ok;
  (void)m;
  if (!start_call(u, "password")) return false;
  if (!mt_lua_call(u->rt, 1, 1, "password function")) return false;
  s = lua_tolstring(u->rt->L, -1, &len);
  ok = s && len < size;
  if (ok) memcpy(buf, s, len + 1);
  lua_pop(u->rt->L, 1);
  return ok;
}

/* ---- making one ------------------------------------------------------------- */

/* manager(config, callbacks) -> manager | nil, err; config is a flat table of
 * checked values, has_on_retry etc. say which callbacks there are */
int mt_lua_manager_new(lua_State *L) {
  mt_manager_config c;
  const char *path[MT_LUA_PATH_NAMES + 1];
  mt_manager_callbacks cbs = {.resolve = on_resolve, .on_event = on_event};
  mt_error *err = NULL;
  mt_manager_ud *u;
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  mt_lua_read_config(L, &c, path);
  if (!c.seed) c.seed = mt_rand_next(&mt_lua_rt(L)->loop->rand);
  if (mt_lua_flag(L, "has_on_retry")) cbs.on_retry = on_retry;
  if (mt_lua_flag(L, "has_is_retryable")) cbs.is_retryable = is_retryable;
  if (mt_lua_flag(L, "has_password")) cbs.password = password;
  u = lua_newuserdatauv(L, sizeof *u, 0);
  memset(u, 0, sizeof *u);
  u->rt = mt_lua_rt(L);
  u->hears_tries = mt_lua_flag(L, "hears_tries");
  u->hears_entries = mt_lua_flag(L, "hears_entries");
  u->callbacks = LUA_NOREF;
  luaL_setmetatable(L, MT_LUA_MANAGER);
  lua_pushvalue(L, 2);
  u->callbacks = luaL_ref(L, LUA_REGISTRYINDEX);
  if (mt_manager_new(u->rt->loop->reactor, &c, &cbs, u, &u->m, &err) == MT_OK) {
    u->rt->managers++;
    return 1;
  }
  luaL_unref(L, LUA_REGISTRYINDEX, u->callbacks);
  u->callbacks = LUA_NOREF;
  return mt_lua_fail(L, err, NULL);
}

/* ---- methods -------------------------------------------------------------------------------------- */

/* Finalizers run in any order: what one of them still reaches may have had
 * its own. */
mt_manager_ud *mt_lua_check_manager(lua_State *L) {
  mt_manager_ud *u = luaL_checkudata(L, 1, MT_LUA_MANAGER);
  if (!u->m) mt_lua_misuse(L, "this manager has been collected");
  return u;
}

static int tenant(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  const char *id = luaL_checkstring(L, 2);
  mt_error *err = NULL;
  mt_tenant *t;
  if (mt_manager_tenant(u->m, id, &t, &err) != MT_OK)
    return mt_lua_fail(L, err, id);
  mt_lua_push_db(L, t);
  return 1;
}

static int shared(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  mt_error *err = NULL;
  mt_tenant *t;
  if (mt_manager_shared(u->m, &t, &err) != MT_OK)
    return mt_lua_fail(L, err, "shared");
  mt_lua_push_db(L, t);
  return 1;
}

/* renew(id, tag, fresh_ms, stale_ms) -> is that still its route? */
static int renew(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  const char *id = luaL_checkstring(L, 2);
  uint64_t tag = (uint64_t)luaL_checknumber(L, 3);
  lua_pushboolean(L, mt_manager_renew(u->m, id, tag, luaL_checknumber(L, 4),
                                      luaL_checknumber(L, 5)));
  return 1;
}

/* outdate(): every route is asked for before it is used again */
static int outdate(lua_State *L) {
  mt_manager_outdate(mt_lua_check_manager(L)->m);
  return 0;
}

static int has(lua_State *L) {
  lua_pushboolean(L, mt_manager_find(mt_lua_check_manager(L)->m,
                                     luaL_checkstring(L, 2)) != NULL);
  return 1;
}

static int count(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mt_manager_count(mt_lua_check_manager(L)->m));
  return 1;
}

static int ids(lua_State *L) {
  mt_manager *m = mt_lua_check_manager(L)->m;
  mt_tenant *t = NULL;
  lua_Integer n = 0;
  lua_newtable(L);
  while ((t = mt_manager_next(m, t))) {
    lua_pushstring(L, t->id);
    lua_rawseti(L, -2, (int)++n);
  }
  return 1;
}

/* schema(id) -> schema of the cached route or nil */
static int schema(lua_State *L) {
  mt_tenant *t =
      mt_manager_find(mt_lua_check_manager(L)->m, luaL_checkstring(L, 2));
  lua_pushstring(L, t ? mt_tenant_schema(t) : NULL);
  return 1;
}

static int evict(lua_State *L) {
  lua_pushboolean(L, mt_manager_evict(mt_lua_check_manager(L)->m,
                                      luaL_checkstring(L, 2), "manual"));
  return 1;
}

static void on_disposed(void *data) { mt_op_finish(data, NULL); }

/* dispose(timeout_ms or nil) -> slot */
static int dispose(lua_State *L) {
  mt_manager_ud *u = luaL_checkudata(L, 1, MT_LUA_MANAGER);
  double timeout = luaL_optnumber(L, 2, 0);
  mt_op *op = mt_op_new(L, MT_OP_DISPOSE);
  if (u->m)
    mt_manager_dispose(u->m, timeout, on_disposed, op);
  else
    mt_op_finish(op, NULL);
  return mt_op_push_slot(L, op);
}

/* A method of a tenant's or server's name that says yes or no. */
static int by_name(lua_State *L, bool (*fn)(mt_manager *m, const char *name)) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  lua_pushboolean(L, fn(u->m, luaL_checkstring(L, 2)));
  return 1;
}

static int retire(lua_State *L) { return by_name(L, mt_manager_retire); }

static int isolate(lua_State *L) { return by_name(L, mt_manager_isolate); }

static int close_breaker(lua_State *L) {
  return by_name(L, mt_manager_close_breaker);
}

static int breaker_state(lua_State *L) {
  mt_breaker_state state;
  mt_manager_ud *u = mt_lua_check_manager(L);
  if (!mt_manager_breaker(u->m, luaL_checkstring(L, 2), &state)) return 0;
  lua_pushstring(L, mt_lua_state_name(state));
  return 1;
}

/* reconnect(server or nil) -> pools */
static int reconnect(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  lua_pushinteger(L, mt_manager_reconnect(u->m, luaL_optstring(L, 2, NULL)));
  return 1;
}

/* pause(id) -> true | nil, err */
static int pause_tenant(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  const char *id = luaL_checkstring(L, 2);
  mt_error *err = NULL;
  if (mt_manager_pause(u->m, id, &err) != MT_OK) return mt_lua_fail(L, err, id);
  lua_pushboolean(L, 1);
  return 1;
}

static int resume_tenant(lua_State *L) { return by_name(L, mt_manager_resume); }

static int quiet(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  lua_pushboolean(L, mt_manager_quiet(u->m, luaL_checkstring(L, 2)));
  return 1;
}

static int pause_server(lua_State *L) {
  return by_name(L, mt_manager_pause_server);
}

static int resume_server(lua_State *L) {
  return by_name(L, mt_manager_resume_server);
}

static int server_quiet(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  lua_pushboolean(L, mt_manager_server_quiet(u->m, luaL_checkstring(L, 2)));
  return 1;
}

/* reconfigure(config): a flat table as for manager() */
static int reconfigure(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  mt_manager_config c;
  const char *path[MT_LUA_PATH_NAMES + 1];
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_remove(L, 1);
  mt_lua_read_config(L, &c, path);
  mt_manager_reconfigure(u->m, &c);
  return 0;
}

static int disposed(lua_State *L) {
  mt_manager_ud *u = luaL_checkudata(L, 1, MT_LUA_MANAGER);
  lua_pushboolean(L, !u->m || mt_manager_disposed(u->m));
  return 1;
}

/* tick() -> greater than all before, see written() of a handle */
static int tick(lua_State *L) {
  mt_manager *m = mt_lua_check_manager(L)->m;
  lua_pushnumber(L, (double)mt_reactor_tick(mt_manager_reactor(m)));
  return 1;
}

static int random_unit(lua_State *L) {
  lua_pushnumber(L, mt_manager_random(mt_lua_check_manager(L)->m));
  return 1;
}

static int stats(lua_State *L) {
  mt_pool_stats s;
  int connections;
  mt_manager_stats(mt_lua_check_manager(L)->m, &s, &connections);
  lua_createtable(L, 0, 16);
  mt_lua_set_number(L, "open", connections);
  mt_lua_set_number(L, "peak", s.peak);
  mt_lua_set_number(L, "opened", (double)s.opened);
  mt_lua_set_number(L, "lost", (double)s.lost);
  mt_lua_set_number(L, "connect_failures", (double)s.connect_failures);
  mt_lua_set_number(L, "retired", (double)s.retired);
  mt_lua_set_number(L, "resets", (double)s.resets);
  mt_lua_set_number(L, "tainted", (double)s.tainted);
  mt_lua_set_number(L, "leases", (double)s.leases);
  mt_lua_set_number(L, "requests", (double)s.requests);
  mt_lua_set_number(L, "queue_full", (double)s.queue_full);
  mt_lua_set_number(L, "queue_timeouts", (double)s.queue_timeouts);
  mt_lua_set_number(L, "rate_limited", (double)s.rate_limited);
  mt_lua_set_number(L, "retries", (double)s.retries);
  mt_lua_set_number(L, "retries_refused", (double)s.retries_refused);
  mt_lua_set_number(L, "held_up", (double)s.behind);
  mt_lua_set_number(L, "held_up_ms", s.behind_ms);
  mt_lua_set_number(L, "held_up_max_ms", s.behind_max_ms);
  return 1;
}

/* unsafe_keep_sessions(): before its first use; connections go from tenant to
 * tenant as they are. For tests that show what the reset prevents. */
static int unsafe_keep_sessions(lua_State *L) {
  mt_manager_keep_sessions(mt_lua_check_manager(L)->m);
  return 0;
}

static int manager_gc(lua_State *L) {
  mt_manager_ud *u = luaL_checkudata(L, 1, MT_LUA_MANAGER);
  if (!u->m) return 0;
  luaL_unref(L, LUA_REGISTRYINDEX, u->callbacks);
  u->callbacks = LUA_NOREF;
  mt_manager_dispose(u->m, 500, NULL, NULL);
  mt_manager_detach(u->m);
  mt_manager_free(u->m);
  u->m = NULL;
  u->rt->managers--;
  return 0;
}

void mt_lua_manager_register(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"tenant", tenant},
      {"shared", shared},
      {"resolved", mt_lua_resolved},
      {"renew", renew},
      {"outdate", outdate},
      {"has", has},
      {"count", count},
      {"ids", ids},
      {"schema", schema},
      {"evict", evict},
      {"dispose", dispose},
      {"disposed", disposed},
      {"retire", retire},
      {"isolate", isolate},
      {"close_breaker", close_breaker},
      {"breaker_state", breaker_state},
      {"reconnect", reconnect},
      {"pause", pause_tenant},
      {"resume", resume_tenant},
      {"quiet", quiet},
      {"pause_server", pause_server},
      {"resume_server", resume_server},
      {"server_quiet", server_quiet},
      {"reconfigure", reconfigure},
      {"random", random_unit},
      {"tick", tick},
      {"stats", stats},
      {"unsafe_keep_sessions", unsafe_keep_sessions},
      {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", manager_gc}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_MANAGER, methods, meta);
  mt_lua_add_methods(L, MT_LUA_MANAGER, mt_lua_health_methods);
  mt_lua_add_methods(L, MT_LUA_MANAGER, mt_lua_metrics_methods);
}
