/*
 * luaopen_mtenant_core: the runtime, error objects, protected calls and the
 * module's functions. See mt_lua.h.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"
#include "mtenant_lua.h"
#include "pg/quote.h"

/* ---- runtime ---------------------------------------------------------------- */

/* Every function of the module has the runtime as its first upvalue. */
mt_rt *mt_lua_rt(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

static mt_rt *push_rt(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, MT_LUA_RUNTIME);
  return lua_touserdata(L, -1);
}

/* Closes what the VM left open; bounded, since servers may be stalled. */
static void drain(mt_rt *rt) {
  int i;
  mt_reactor *real = rt->real.reactor, *simulated = rt->simulated.reactor;
  double until = mt_reactor_now(real) + 2000;
  while (simulated && mt_reactor_live(simulated) > 0 &&
         mt_reactor_now(real) < until)
    mt_virtual_turn(rt, INFINITY, 1);
  if (rt->real.borrowed) { /* connections close when the host's loop turns */
    for (i = 0; i < 100 && mt_reactor_end_turn(real); i++) continue;
    return;
  }
  while (mt_reactor_live(real) > 0 && mt_reactor_now(real) < until)
    mt_reactor_run_once(real, false);
  mt_reactor_run_once(real, false);
}

static void loop_free(mt_loop *loop) {
  mt_defer_del(&loop->deliver);
  if (!loop->borrowed) mt_reactor_free(loop->reactor);
  loop->reactor = NULL;
}

static int rt_gc(lua_State *L) {
  mt_rt *rt = lua_touserdata(L, 1);
  if (!rt->real.reactor) return 0;
  rt->closing = true;
  mt_ops_close(rt);
  drain(rt);
  mt_ops_close(rt); /* flights have ended now */
  loop_free(&rt->simulated);
  loop_free(&rt->real);
  mt_lua_shapes_free(rt);
  if (rt->c_locale) freelocale(rt->c_locale);
  mt_free(rt->ops);
  mt_free(rt->free_slots);
  return 0;
}

static void deliver(mt_defer *d) {
  mt_rt *rt = mt_container(d, mt_loop, deliver)->rt;
  bool running;
  if (rt->closing || rt->turn_ref == LUA_NOREF) return;
  running = mt_lua_gc_runs(rt->L);
  lua_rawgeti(rt->L, LUA_REGISTRYINDEX, rt->turn_ref);
  mt_lua_call(rt, 0, 0, "scheduler");
  if (running && !mt_lua_gc_runs(rt->L)) /* memory ran out midway */
    mt_lua_gc(rt->L, LUA_GCRESTART);
}

static uint64_t seed_of(const mt_rt *rt) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return mt_hash64(&ts, sizeof ts, (uint64_t)getpid() ^ (uintptr_t)rt);
}

static mt_rt *rt_new(lua_State *L) {
  mt_rt *rt = lua_newuserdatauv(L, sizeof *rt, 0);
  memset(rt, 0, sizeof *rt);
  rt->turn_ref = rt->error_mt_ref = rt->marker_mt_ref = rt->json_ref =
      rt->log_ref = LUA_NOREF;
  rt->real.rt = rt->simulated.rt = rt;
  rt->real.deliver.cb = rt->simulated.deliver.cb = deliver;
  rt->loop = &rt->real;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, rt_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  if (mt_reactor_ev_new(NULL, &rt->real.reactor) != MT_OK)
    luaL_error(L, "mtenant: no memory for an event loop");
  mt_rand_seed(&rt->real.rand, seed_of(rt));
  rt->c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (!rt->c_locale) luaL_error(L, "mtenant: no memory for a locale");
  lua_setfield(L, LUA_REGISTRYINDEX, MT_LUA_RUNTIME);
  rt->L = lua_newthread(L);
  mt_lua_disown_thread(rt->L);
  rt->thread_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return rt;
}

/* ---- protected calls ------------------------------------------------------------ */

static int traceback(lua_State *L) {
  const char *msg = luaL_tolstring(L, 1, NULL);
  luaL_traceback(L, L, msg, 1);
  return 1;
}

bool mt_lua_call(mt_rt *rt, int nargs, int nresults, const char *what) {
  lua_State *L = rt->L;
  int base = lua_gettop(L) - nargs, rc;
  lua_pushcfunction(L, traceback);
  lua_insert(L, base);
  rc = lua_pcall(L, nargs, nresults, base);
  if (rc == LUA_OK) {
    lua_remove(L, base);
    return true;
  }
  if (rc == LUA_YIELD) {
    mt_lua_resetthread(L);
    mt_lua_complain(rt, what, "attempt to yield from a callback");
    return false;
  }
  mt_lua_complain(rt, what, lua_tostring(L, -1));
  lua_settop(L, base - 1);
  return false;
}

/* ---- errors ----------------------------------------------------------------------- */

static void set_string(lua_State *L, const char *key, const char *value) {
  if (!value || !*value) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, key);
}

void mt_lua_push_error(lua_State *L, mt_rt *rt, const mt_error *err,
                       const char *tenant_id, int attempts) {
  lua_createtable(L, 0, 10);
  set_string(L, "code", mt_code_name(err->code));
  set_string(L, "message", err->message);
  set_string(L, "sqlstate", err->sqlstate);
  set_string(L, "severity", err->severity);
  set_string(L, "detail", err->detail);
  set_string(L, "hint", err->hint);
  set_string(L, "statement", err->statement);
  set_string(L, "server", err->server);
  set_string(L, "tenant_id", tenant_id);
  if (err->position > 0) {
    lua_pushinteger(L, err->position);
    lua_setfield(L, -2, "position");
  }
  if (err->statement_number > 0) {
    lua_pushinteger(L, err->statement_number);
    lua_setfield(L, -2, "statement_number");
  }
  if (attempts > 0) {
    lua_pushinteger(L, attempts);
    lua_setfield(L, -2, "attempts");
  }
  lua_pushboolean(L, err->retryable);
  lua_setfield(L, -2, "retryable");
  lua_pushboolean(L, err->ambiguous);
  lua_setfield(L, -2, "ambiguous");
  if (rt->error_mt_ref == LUA_NOREF) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->error_mt_ref);
  lua_setmetatable(L, -2);
}

int mt_lua_fail(lua_State *L, mt_error *err, const char *tenant_id) {
  if (!err) err = mt_error_oom();
  lua_pushnil(L);
  mt_lua_push_error(L, mt_lua_rt(L), err, tenant_id, 0);
  mt_error_unref(err);
  return 2;
}

/* Pushes "file:line: " of the innermost function that is not in our own Lua
 * files (those beside the scheduler's), or "". */
static void push_where(lua_State *L, mt_rt *rt) {
  char ours[LUA_IDSIZE * 4] = "";
  size_t len = 0;
  lua_Debug ar;
  int level;
  if (rt->turn_ref != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, rt->turn_ref);
    lua_getinfo(L, ">S", &ar);
    snprintf(ours, sizeof ours, "%s", ar.source);
    len = strrchr(ours, '/') ? (size_t)(strrchr(ours, '/') - ours) + 1 : 0;
  }
  for (level = 1; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline < 1) continue;
    if (len > 0 && strncmp(ar.source, ours, len) == 0) continue;
    lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
    return;
  }
  lua_pushliteral(L, "");
}

int mt_lua_misuse(lua_State *L, const char *fmt, ...) {
  mt_rt *rt = mt_lua_rt(L);
  char text[400];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  lua_createtable(L, 0, 4);
  lua_pushstring(L, "misuse");
  lua_setfield(L, -2, "code");
  push_where(L, rt);
  lua_pushstring(L, text);
  lua_concat(L, 2);
  lua_setfield(L, -2, "message");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "retryable");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "ambiguous");
  if (rt->error_mt_ref != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, rt->error_mt_ref);
    lua_setmetatable(L, -2);
  }
  lua_error(L);
  for (;;) {
  }
}

/* ---- functions --------------------------------------------------------------------- */

void mt_lua_newclass(lua_State *L, const char *name, const luaL_Reg *methods,
                     const luaL_Reg *meta) {
  luaL_newmetatable(L, name);
  push_rt(L);
  luaL_setfuncs(L, meta, 1);
  if (methods) {
    lua_newtable(L);
    push_rt(L);
    luaL_setfuncs(L, methods, 1);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
}

void mt_lua_set_text(lua_State *L, const char *key, const char *v) {
  if (!v) return;
  lua_pushstring(L, v);
  lua_setfield(L, -2, key);
}

void mt_lua_set_number(lua_State *L, const char *key, double v) {
  lua_pushnumber(L, v);
  lua_setfield(L, -2, key);
}

void mt_lua_set_integer(lua_State *L, const char *key, lua_Integer v) {
  lua_pushinteger(L, v);
  lua_setfield(L, -2, key);
}

void mt_lua_add_methods(lua_State *L, const char *name,
                        const luaL_Reg *methods) {
  luaL_getmetatable(L, name);
  lua_getfield(L, -1, "__index");
  push_rt(L);
  luaL_setfuncs(L, methods, 1);
  lua_pop(L, 2);
}

static int set_ref(lua_State *L, int *ref) {
  luaL_unref(L, LUA_REGISTRYINDEX, *ref);
  lua_settop(L, 1);
  *ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int set_turn_handler(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  return set_ref(L, &mt_lua_rt(L)->turn_ref);
}

static int set_error_metatable(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  return set_ref(L, &mt_lua_rt(L)->error_mt_ref);
}

static int set_marker_metatable(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  return set_ref(L, &mt_lua_rt(L)->marker_mt_ref);
}

static int set_json_decoder(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  return set_ref(L, &mt_lua_rt(L)->json_ref);
}

/* post(): another turn without blocking, with a call of the turn handler */
static int post(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  mt_defer_add(rt->loop->reactor, &rt->loop->deliver, MT_DEFER_DELIVER);
  return 0;
}

static int run_once(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  mt_reactor_run_once(rt->loop->reactor, lua_toboolean(L, 1));
  return 0;
}

static int now_ms(lua_State *L) {
  lua_pushnumber(L, mt_reactor_now(mt_lua_rt(L)->loop->reactor));
  return 1;
}

/* random() -> [0, 1), by the loop that runs */
static int random_unit(lua_State *L) {
  lua_pushnumber(L, mt_rand_unit(&mt_lua_rt(L)->loop->rand));
  return 1;
}

/* backoff(initial, max, multiplier, jitter, attempt, u, previous) */
static int backoff(lua_State *L) {
  static const char *const names[] = {"none",  "true",         "full",
                                      "equal", "decorrelated", NULL};
  mt_retry_policy p = MT_RETRY_POLICY_DEFAULT;
  p.initial_delay_ms = luaL_checknumber(L, 1);
  p.max_delay_ms = luaL_checknumber(L, 2);
  p.multiplier = luaL_checknumber(L, 3);
  p.jitter = (mt_jitter)luaL_checkoption(L, 4, NULL, names);
  lua_pushinteger(L, (lua_Integer)mt_backoff_delay(
                         &p, (int)luaL_checkinteger(L, 5),
                         luaL_checknumber(L, 6), luaL_optnumber(L, 7, 0)));
  return 1;
}

static const char *check_text(lua_State *L, size_t *len) {
  const char *s = luaL_checklstring(L, 1, len);
  if (!mt_utf8_valid(s, *len))
    mt_lua_misuse(L, "argument 1: not valid UTF-8, or a NUL in it");
  return s;
}

static int push_quoted(lua_State *L, char *quoted) {
  if (!quoted) return luaL_error(L, "not enough memory");
  lua_pushstring(L, quoted);
  mt_free(quoted);
  return 1;
}

static int quote_ident(lua_State *L) {
  size_t len;
  const char *s = check_text(L, &len);
  return push_quoted(L, mt_quote_ident(s, len));
}

static int quote_literal(lua_State *L) {
  size_t len;
  const char *s = check_text(L, &len);
  return push_quoted(L, mt_quote_literal(s, len));
}

/* database_problem(name) -> why it can't be a tenant's database, or nil */
static int database_problem(lua_State *L) {
  size_t len;
  const char *s = luaL_checklstring(L, 1, &len);
  lua_pushstring(L, mt_database_name_problem(s, len));
  return 1;
}

/* schema_problem(name) -> why it can't be a tenant's schema, or nil */
static int schema_problem(lua_State *L) {
  size_t len;
  const char *s = luaL_checklstring(L, 1, &len);
  lua_pushstring(L, mt_schema_name_problem(s, len));
  return 1;
}

/* libpq_version() -> 150008 for 15.8 */
static int libpq_version(lua_State *L) {
  lua_pushinteger(L, mt_pg_version());
  return 1;
}

/* stats() -> what is alive, for leak checks */
static int stats(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  lua_createtable(L, 0, 7);
  lua_pushinteger(L, rt->nops - rt->nfree);
  lua_setfield(L, -2, "operations");
  lua_pushinteger(L, rt->managers);
  lua_setfield(L, -2, "managers");
  lua_pushinteger(L, rt->leases);
  lua_setfield(L, -2, "leases");
  lua_pushinteger(L, rt->watchers);
  lua_setfield(L, -2, "fd_watchers");
  lua_pushinteger(L, rt->background);
  lua_setfield(L, -2, "background_watchers");
  lua_pushinteger(L, (lua_Integer)mt_reactor_live(rt->loop->reactor));
  lua_setfield(L, -2, "loop_watchers");
  lua_pushinteger(L, rt->simulated.reactor
                         ? (lua_Integer)mt_reactor_live(rt->simulated.reactor)
                         : 0);
  lua_setfield(L, -2, "simulated_watchers");
  return 1;
}

static const luaL_Reg functions[] = {
    {"set_turn_handler", set_turn_handler},
    {"set_error_metatable", set_error_metatable},
    {"set_marker_metatable", set_marker_metatable},
    {"set_json_decoder", set_json_decoder},
    {"post", post},
    {"run_once", run_once},
    {"now_ms", now_ms},
    {"random", random_unit},
    {"backoff", backoff},
    {"quote_ident", quote_ident},
    {"quote_literal", quote_literal},
    {"database_problem", database_problem},
    {"schema_problem", schema_problem},
    {"libpq_version", libpq_version},
    {"stats", stats},
    {"manager", mt_lua_manager_new},
    {"check_route", mt_lua_check_route},
    {"server_url", mt_lua_server_url},
    {"watch_fd", mt_lua_watch_fd},
    {"watch_folder", mt_lua_watch_folder},
    {"sandbox", mt_lua_sandbox_new},
    {NULL, NULL}};

int luaopen_mtenant_core(lua_State *L) {
  const luaL_Reg *const all[] = {functions,
                                 mt_lua_ops_functions,
                                 mt_lua_loop_functions,
                                 mt_lua_pump_functions,
                                 mt_lua_log_functions,
                                 mt_lua_virtual_functions};
  size_t i;
  if (!push_rt(L)) rt_new(L);
  lua_settop(L, 0);
  mt_lua_manager_register(L);
  mt_lua_db_register(L);
  mt_lua_lease_register(L);
  mt_lua_listen_register(L);
  mt_lua_lazy_register(L);
  mt_lua_watch_register(L);
  mt_lua_folder_register(L);
  mt_lua_metrics_register(L);
  mt_lua_pump_register(L);
  mt_lua_sandbox_register(L);
  mt_lua_log_register(L);
  lua_newtable(L);
  for (i = 0; i < sizeof all / sizeof *all; i++) {
    push_rt(L);
    luaL_setfuncs(L, all[i], 1);
  }
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  mt_lua_push_list_key(L);
  lua_setfield(L, -2, "list");
  lua_pushstring(L, MT_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
