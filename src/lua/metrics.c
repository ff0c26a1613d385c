/*
 * What a manager has counted, as one table. Its shape is
 * lua/mtenant/metrics.lua's and prometheus.lua's affair; nothing here waits.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

static void set_count(lua_State *L, const char *key, uint64_t n) {
  mt_lua_set_integer(L, key, (lua_Integer)n); /* LuaJIT's up to 2^53 */
}

/* { code = n } of those that were counted */
static void set_codes(lua_State *L, const char *key, const uint64_t *counts) {
  int i;
  lua_newtable(L);
  for (i = 0; i < MT__ORD_COUNT; i++)
    if (counts[i] > 0)
      set_count(L, i == 0 ? "unknown" : mt_code_name(-i), counts[i]);
  lua_setfield(L, -2, key);
}

/* { count, sum_ms, p50, p95, p99, upto = { of 64 us, of 128 us, ... } } */
static void set_hist(lua_State *L, const char *key, const mt_hist *h) {
  uint64_t upto[MT_LES];
  int i;
  lua_createtable(L, 0, 6);
  set_count(L, "count", mt_hist_count(h));
  mt_lua_set_number(L, "sum_ms", (double)h->sum_ns / 1e6);
  mt_lua_set_number(L, "p50_ms", mt_hist_quantile_ms(h, 0.5));
  mt_lua_set_number(L, "p95_ms", mt_hist_quantile_ms(h, 0.95));
  mt_lua_set_number(L, "p99_ms", mt_hist_quantile_ms(h, 0.99));
  mt_hist_upto(h, MT_LE_FIRST, MT_LE_LAST, upto);
  lua_createtable(L, MT_LES, 0);
  for (i = 0; i < MT_LES; i++) {
    lua_pushinteger(L, (lua_Integer)upto[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "upto");
  lua_setfield(L, -2, key);
}

static void fill_tally(lua_State *L, const mt_tally *t) {
  set_count(L, "statements", t->statements);
  set_codes(L, "errors", t->errors);
  set_count(L, "ambiguous", t->ambiguous);
  set_count(L, "leases", t->leases);
  set_count(L, "bytes_sent", t->bytes_sent);
  set_count(L, "bytes_received", t->bytes_received);
  set_hist(L, "query", &t->query);
  set_hist(L, "wait", &t->wait);
}

static void set_exemplars(lua_State *L, const mt_traffic *t) {
  int i;
  lua_newtable(L);
  for (i = 0; i <= MT_LES; i++) {
    const mt_exemplar *e = &t->slow[i];
    if (e->at <= 0) continue;
    lua_createtable(L, 0, 3);
    mt_lua_set_text(L, "tenant", e->tenant);
    mt_lua_set_number(L, "ms", e->ms);
    mt_lua_set_number(L, "at_ms", e->at);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "exemplars");
}

static void fill_traffic(lua_State *L, const mt_traffic *t) {
  static const char *const ends[] = {"clean", "reset", "closed", "lost"};
  int i;
  fill_tally(L, &t->all);
  set_hist(L, "connect", &t->connect);
  set_codes(L, "connect_errors", t->connect_errors);
  set_codes(L, "retries_by_code", t->retries);
  lua_newtable(L);
  for (i = 0; i < 4; i++)
    set_count(L, mt_lua_state_name((mt_breaker_state)i), t->transitions[i]);
  lua_setfield(L, -2, "transitions");
  lua_newtable(L);
  for (i = 0; i < MT_ENDS; i++) set_count(L, ends[i], t->ends[i]);
  lua_setfield(L, -2, "lease_ends");
  set_count(L, "cache_hits", t->cache_hits);
  set_count(L, "cache_misses", t->cache_misses);
  set_count(L, "cache_evictions", t->cache_evictions);
  set_count(L, "scope_switches", t->scope_switches);
  set_exemplars(L, t);
}

static void fill_stats(lua_State *L, const mt_pool_stats *s) {
  set_count(L, "opened", s->opened);
  set_count(L, "lost", s->lost);
  set_count(L, "connect_failures", s->connect_failures);
  set_count(L, "retired", s->retired);
  set_count(L, "requests", s->requests);
  set_count(L, "resets", s->resets);
  set_count(L, "tainted", s->tainted);
  set_count(L, "queue_full", s->queue_full);
  set_count(L, "queue_timeouts", s->queue_timeouts);
  set_count(L, "rate_limited", s->rate_limited);
  set_count(L, "retries_granted", s->retries);
  set_count(L, "retries_refused", s->retries_refused);
  set_count(L, "resent", s->resent);
  set_count(L, "held_up", s->behind);
  mt_lua_set_number(L, "held_up_ms", s->behind_ms);
}

/* Appends what is on the top to the table below it. */
static void append(lua_State *L) {
  lua_rawseti(L, -2, (int)lua_rawlen(L, -2) + 1);
}

static void see_server(void *data, const mt_server_counts *c) {
  lua_State *L = data;
  lua_createtable(L, 0, 48);
  mt_lua_set_text(L, "name", c->view.name);
  mt_lua_set_text(L, "state", mt_lua_state_name(c->view.state));
  lua_pushboolean(L, c->view.paused);
  lua_setfield(L, -2, "paused");
  mt_lua_set_integer(L, "total", c->view.live);
  mt_lua_set_integer(L, "idle", c->view.idle);
  mt_lua_set_integer(L, "connecting", c->view.connecting);
  mt_lua_set_integer(L, "max", c->view.cap);
  mt_lua_set_integer(L, "waiting", (lua_Integer)c->view.waiting);
  mt_lua_set_integer(L, "pools", (lua_Integer)c->view.pools);
  fill_stats(L, &c->stats);
  if (c->traffic) fill_traffic(L, c->traffic);
  append(L);
}

/* ---- tenants ----------------------------------------------------------------
 *
 * Their tallies are copied, all at one moment, so that sums are exact; to make
 * tables of thousands takes longer than the loop may be held, and is done one
 * by one when asked for.
 */
typedef struct tallies {
  size_t n;
  mt_tally *of; /* NULL: no memory, or given back */
} tallies;

typedef struct seeing {
  lua_State *L;
  const mt_manager *m;
  double now;
  tallies *copies;
} seeing;

static int tallies_gc(lua_State *L) {
  tallies *t = luaL_checkudata(L, 1, MT_LUA_TALLIES);
  mt_free(t->of);
  t->of = NULL;
  t->n = 0;
  return 0;
}

/* fill(i, record): puts the i-th tally's fields into the record */
static int tallies_fill(lua_State *L) {
  tallies *t = luaL_checkudata(L, 1, MT_LUA_TALLIES);
  lua_Integer i = luaL_checkinteger(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_argcheck(L, i >= 1 && (size_t)i <= t->n, 2, "no such tally");
  lua_settop(L, 3);
  fill_tally(L, &t->of[i - 1]);
  return 0;
}

void mt_lua_metrics_register(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"fill", tallies_fill}, {"close", tallies_gc}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", tallies_gc}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_TALLIES, methods, meta);
}

static void count_tally(void *n, const char *id, const mt_tally *tally) {
  (void)tally;
  *(size_t *)n += id && *id;
}

/* Pushes it, with room for all. */
static tallies *new_tallies(lua_State *L, const mt_manager *m) {
  tallies *t = lua_newuserdatauv(L, sizeof *t, 0);
  size_t n = 0;
  memset(t, 0, sizeof *t);
  luaL_setmetatable(L, MT_LUA_TALLIES);
  mt_manager_each_tally(m, count_tally, &n);
  t->of = mt_malloc((n + 1) * sizeof *t->of);
  if (!t->of) luaL_error(L, "not enough memory");
  return t;
}

static void fill_view(lua_State *L, const mt_tenant_view *v) {
  mt_lua_set_integer(L, "total", v->total);
  mt_lua_set_integer(L, "idle", v->idle);
  mt_lua_set_integer(L, "waiting", (lua_Integer)v->waiting);
}

static void fill_entry(const seeing *s, const mt_tenant *t) {
  mt_tenant_view v;
  mt_tenant_look(t, &v);
  mt_lua_set_text(s->L, "schema", mt_tenant_schema(t));
  mt_lua_set_text(s->L, "server", v.server);
  fill_view(s->L, &v);
  mt_lua_set_number(s->L, "idle_ms", s->now - t->last_used);
}

/* On the stack: the result, its tenants. Theirs are only copied. */
static void see_tally(void *data, const char *id, const mt_tally *tally) {
  const seeing *s = data;
  const mt_tenant *t = id && *id ? mt_manager_find(s->m, id) : NULL;
  lua_createtable(s->L, 0, 16);
  if (id && *id) {
    s->copies->of[s->copies->n++] = *tally;
    mt_lua_set_text(s->L, "id", id);
    if (t) fill_entry(s, t);
    append(s->L);
  } else {
    fill_tally(s->L, tally);
    lua_setfield(s->L, -3, id ? "shared" : "others");
  }
}

static void set_others(const seeing *s) {
  mt_tenant_view v;
  size_t n;
  mt_manager_look_at_others(s->m, &v, &n);
  lua_getfield(s->L, -1, "others");
  fill_view(s->L, &v);
  mt_lua_set_integer(s->L, "tenants", (lua_Integer)n);
  lua_pop(s->L, 1);
}

static void set_shared(const seeing *s) {
  mt_tenant_view v;
  bool there = mt_manager_look_at_shared(s->m, &v);
  lua_createtable(s->L, 0, 4);
  lua_pushboolean(s->L, there);
  lua_setfield(s->L, -2, "initialized");
  fill_view(s->L, &v);
  lua_setfield(s->L, -2, "shared_view");
}

/* Protected: (an open manager) -> what metrics() returns */
static int tell(lua_State *L) {
  const mt_manager *m = ((mt_manager_ud *)lua_touserdata(L, 1))->m;
  const mt_traffic *nowhere = mt_manager_nowhere(m);
  seeing s = {L, m, mt_reactor_now(mt_manager_reactor(m)), NULL};
  int i;
  luaL_checkstack(L, 12, NULL);
  lua_createtable(L, 0, 8);
  mt_lua_set_integer(L, "pools", (lua_Integer)mt_manager_count(m));
  mt_lua_set_number(L, "now_ms", s.now);
  lua_newtable(L);
  for (i = 0; i < MT_EVICTIONS; i++)
    set_count(L, mt_eviction_name((mt_eviction)i), mt_manager_evictions(m)[i]);
  lua_setfield(L, -2, "evictions");
  lua_newtable(L);
  mt_manager_each_traffic(m, see_server, L);
  lua_setfield(L, -2, "servers");
  set_shared(&s);
  if (!nowhere) return 1;
  lua_newtable(L);
  fill_traffic(L, nowhere);
  lua_setfield(L, -2, "nowhere");
  s.copies = new_tallies(L, m);
  lua_setfield(L, -2, "tallies"); /* which keeps it */
  lua_newtable(L);
  mt_manager_each_tally(m, see_tally, &s);
  lua_setfield(L, -2, "tenants");
  set_others(&s);
  return 1;
}

/* metrics() -> { servers, tenants, tallies, others, shared, nowhere, evictions,
 * ... }; of what is not counted nothing but servers and evictions. The tenants'
 * counts are filled in by tallies:fill(i, tenants[i]). Without the collector:
 * it may end a stream, which counts, which may give the place of a tenant that
 * is being looked at to another one. */
static int metrics(lua_State *L) {
  bool runs = mt_lua_gc_runs(L);
  int rc;
  mt_lua_check_manager(L);
  lua_settop(L, 1);
  lua_pushcfunction(L, tell);
  lua_insert(L, 1);
  if (runs) mt_lua_gc(L, LUA_GCSTOP);
  rc = lua_pcall(L, 1, 1, 0);
  if (runs) mt_lua_gc(L, LUA_GCRESTART);
  return rc == LUA_OK ? 1 : lua_error(L);
}

/* entry(id) -> { schema, server, total, idle, waiting, idle_ms } or nil */
static int entry(lua_State *L) {
  const mt_manager *m = mt_lua_check_manager(L)->m;
  const mt_tenant *t = mt_manager_find(m, luaL_checkstring(L, 2));
  seeing s = {L, m, mt_reactor_now(mt_manager_reactor(m)), NULL};
  if (!t) return 0;
  lua_createtable(L, 0, 6);
  fill_entry(&s, t);
  return 1;
}

const luaL_Reg mt_lua_metrics_methods[] = {
    {"metrics", metrics}, {"entry", entry}, {NULL, NULL}};
