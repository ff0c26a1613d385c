/*
 * The manager: registry of entries with LRU and TTL, disposal. See mtenant.h
 * and tenant.h. Its memory lives until its maker has let go and the last
 * entry is gone.
 */
#include <assert.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

enum { MAX_SQL_TEXTS = 2048, MAX_SQL_BYTES = 8 * 1024 * 1024 };

#define SWEEP_MS 60000.0
#define DISPOSE_MS 5000.0
/* The first version's struct: a smaller size is none. */
#define MT_CONFIG_LEAST offsetof(mt_manager_config, seed)

mt_error *mt__disposed_error(void) {
  return mt_error_new(MT_E_DISPOSED,
                      "[mtenant] TenantManager has been disposed");
}

/* ---- configuration -------------------------------------------------------------- */

static void set_defaults(mt_manager_config *c) {
  static const char *const path[] = {"$tenant", "public", NULL};
  *c = (mt_manager_config){.size = sizeof *c,
                           .application_name = "mtenant",
                           .pool_max = 10,
                           .max_waiting = 1000,
                           .cache_statements = 256,
                           .idle_timeout_ms = 30000,
                           .connect_timeout_ms = 5000,
                           .acquire_timeout_ms = 5000,
                           .max_lifetime_ms = 3600000,
                           .cancel_timeout_ms = 2000,
                           .max_tenants_touched = 500,
                           .retry = MT_RETRY_POLICY_DEFAULT,
                           .verify_schema = true,
                           .max_pools = 10000,
                           .pool_ttl_ms = 3600000,
                           .metrics = true,
                           .metrics_tenants = 50,
                           .search_path = path};
  mt_breaker_options_init(&c->breaker);
  mt_retry_budget_init(&c->retry_budget);
}

/* A caller's struct may be that of an older header, or of a newer one. */
void mt_manager_config_init_size(mt_manager_config *c, size_t size) {
  mt_manager_config all;
  set_defaults(&all);
  memset(c, 0, size);
  memcpy(c, &all, size < sizeof all ? size : sizeof all);
  c->size = size;
}

void mt__config_read(mt_manager_config *to, const mt_manager_config *from) {
  set_defaults(to);
  memcpy(to, from, from->size < sizeof *to ? from->size : sizeof *to);
  to->size = sizeof *to;
}

static int copy_path(mt_manager *m, const char *const *path) {
  size_t n = 0, i;
  while (path[n]) n++;
  m->path = mt_calloc((n + 1) * sizeof *m->path);
  if (!m->path) return MT_E_OUT_OF_MEMORY;
  for (i = 0; i < n; i++)
    if (!(m->path[i] = mt_strdup(path[i]))) return MT_E_OUT_OF_MEMORY;
  return MT_OK;
}

static int copy_config(mt_manager *m, const mt_manager_config *given,
                       mt_error **err) {
  mt_manager_config all, *c = &all;
  mt__config_read(c, given);
  m->cfg = *c;
  m->cfg.url = NULL;
  m->cfg.application_name = mt_strdup(c->application_name);
  m->sqls = mt_sql_table_new(MAX_SQL_TEXTS, MAX_SQL_BYTES);
  if (!m->cfg.application_name || !m->sqls ||
      copy_path(m, c->search_path) != MT_OK || mt__counts_init(m) != MT_OK)
    return mt_fail(err, mt_error_oom());
  m->cfg.search_path = (const char *const *)m->path;
  return mt_endpoint_parse(c->url ? c->url : "", &m->endpoint, err);
}

/* ---- life ------------------------------------------------------------------------- */

static void manager_fini(mt_manager *m) {
  char **p;
  mt_timer_del(&m->sweep);
  mt_defer_del(&m->disposed_defer);
  mt_defer_del(&m->starter);
  mt_defer_del(&m->teller);
  mt__pools_free(m);
  mt__counts_fini(m);
  mt_endpoint_unref(m->endpoint);
  mt_sql_table_free(m->sqls);
  for (p = m->path; p && *p; p++) mt_free(*p);
  mt_free(m->path);
  mt_free((char *)(uintptr_t)m->cfg.application_name);
  mt_free(m);
}

void mt__manager_unref(mt_manager *m) {
  assert(m->refs > 0);
  if (--m->refs == 0) manager_fini(m);
}

static void on_sweep(mt_timer *timer);
static void on_disposed(mt_defer *d);

static uint64_t seed_of(const mt_manager *m) {
  struct timespec ts;
  if (m->cfg.seed) return m->cfg.seed;
  clock_gettime(CLOCK_REALTIME, &ts);
  return mt_hash64(&ts, sizeof ts, (uint64_t)getpid());
}

int mt_manager_new(mt_reactor *r, const mt_manager_config *config,
                   const mt_manager_callbacks *cbs, void *data,
                   mt_manager **out, mt_error **err) {
  mt_manager *m;
  int rc;
  if (config->size < MT_CONFIG_LEAST)
    return mt_fail(
        err,
        mt_error_new(MT_E_MISUSE, "config: mt_manager_config_init it first"));
  m = mt_calloc(sizeof *m);
  if (!m) return mt_fail(err, mt_error_oom());
  m->refs = 1;
  m->reactor = r;
  m->cbs = *cbs;
  m->data = data;
  m->sweep.cb = on_sweep;
  m->sweep.background = true;
  m->disposed_defer.cb = on_disposed;
  m->starter.cb = mt__flights_start;
  m->teller.cb = mt__routes_tell;
  rc = copy_config(m, config, err);
  if (rc != MT_OK) {
    manager_fini(m);
    return rc;
  }
  mt_rand_seed(&m->rand, seed_of(m));
  *out = m;
  return MT_OK;
}

void mt_manager_free(mt_manager *m) {
  if (m) mt__manager_unref(m);
}

/* ---- events ------------------------------------------------------------------------ */

void mt__manager_event(mt_manager *m, const mt_event *ev) {
  if (m->cbs.on_event) m->cbs.on_event(m, ev, m->data);
}

/* ---- registry ---------------------------------------------------------------------- */

void mt__tenant_touch(mt_tenant *t) {
  mt_manager *m = t->manager;
  t->last_used = mt_reactor_now(m->reactor);
  if (t->shared || m->lru.tail == &t->lru) return;
  mt_list_remove(&m->lru, &t->lru);
  mt_list_push(&m->lru, &t->lru);
}

void mt__tenant_tell_evicted(mt_tenant *t, const char *schema,
                             const char *reason) {
  mt_event ev = {.kind = "pool_evicted",
                 .tenant_id = t->id,
                 .schema = schema,
                 .reason = reason};
  mt__count_eviction(t->manager, reason);
  mt__manager_event(t->manager, &ev);
}

static void tell_evicted(mt_tenant *t, const char *reason) {
  const mt_scope *scope = t->former ? t->former->scope : t->scope;
  mt__tenant_tell_evicted(t, scope ? scope->schema : NULL, reason);
  mt__route_forget_former(t, NULL);
}

/* What waits for it stays, and follows the new route. */
void mt__tenant_reroute(mt_tenant *t, const char *reason) {
  mt_tenant_ref(t);
  tell_evicted(t, reason);
  mt__readers_detach(t);
  if (t->state == MT_TENANT_READY) t->rerouting = true;
  mt__route_forget_question(t);
  mt__tenant_check(t);
  mt_tenant_unref(t);
}

void mt__tenant_leave(mt_tenant *t) {
  mt_manager *m = t->manager;
  assert(t->registered && !t->shared);
  HASH_DELETE(hh, m->tenants, t);
  mt_list_remove(&m->lru, &t->lru);
  mt_list_push(&m->draining, &t->lru);
  t->registered = false;
  mt__readers_detach(t);
}

void mt__tenant_evict(mt_tenant *t, const char *reason) {
  mt__tenant_leave(t);
  t->refs++;
  tell_evicted(t, reason);
  mt_tenant_unref(t);
  mt__tenant_check(t);
}

static mt_tenant *oldest_idle(mt_manager *m) {
  mt_node *n;
  for (n = m->lru.head; n; n = n->next) {
    mt_tenant *t = mt_container(n, mt_tenant, lru);
    if (!mt_tenant_busy(t)) return t;
  }
  return NULL;
}

/* Room for one more: the oldest entry that nobody uses goes. The host hears
 * of it and may change the registry: each round starts afresh. */
static void make_room(mt_manager *m) {
  mt_tenant *t;
  while (m->lru.len >= (size_t)m->cfg.max_pools && (t = oldest_idle(m)))
    mt__tenant_evict(t, "lru_eviction");
}

static void on_sweep(mt_timer *timer) {
  mt_manager *m = mt_container(timer, mt_manager, sweep);
  double now = mt_reactor_now(m->reactor);
  while (m->lru.head) {
    mt_tenant *t = mt_container(m->lru.head, mt_tenant, lru);
    if (now - t->last_used < m->cfg.pool_ttl_ms) break;
    if (mt_tenant_busy(t))
      mt__tenant_touch(t);
    else
      mt__tenant_evict(t, "ttl_expired");
  }
  if (m->lru.len > 0)
    mt_timer_set(m->reactor, &m->sweep,
                 m->cfg.pool_ttl_ms < SWEEP_MS ? m->cfg.pool_ttl_ms : SWEEP_MS);
}

static void start_sweep(mt_manager *m) {
  double ttl = m->cfg.pool_ttl_ms;
  if (ttl <= 0 || m->sweep.active) return;
  mt_timer_set(m->reactor, &m->sweep, ttl < SWEEP_MS ? ttl : SWEEP_MS);
}

int mt__tenant_enter(mt_tenant *t, mt_error **err) {
  mt_manager *m = t->manager;
  bool failed = false;
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(obj) failed = true
  HASH_ADD_KEYPTR(hh, m->tenants, t->id, strlen(t->id), t);
  if (failed) {
    mt__tenant_check(t);
    return mt_fail(err, mt_error_oom());
  }
  t->registered = true;
  mt_list_push(&m->lru, &t->lru);
  t->last_used = mt_reactor_now(m->reactor);
  start_sweep(m);
  return MT_OK;
}

mt_tenant *mt_manager_find(const mt_manager *m, const char *id) {
  mt_tenant *t;
  HASH_FIND(hh, m->tenants, id, strlen(id), t);
  return t;
}

int mt_manager_tenant(mt_manager *m, const char *id, mt_tenant **out,
                      mt_error **err) {
  mt_tenant *t;
  int rc;
  if (m->disposing) return mt_fail(err, mt__disposed_error());
  t = mt_manager_find(m, id);
  if (t && mt__tenant_is_stale(t)) mt_manager_evict(m, id, "schema_changed");
  t = mt_manager_find(m, id);
  if (!t && !m->disposing) {
    make_room(m);
    t = mt_manager_find(m, id); /* the host may have made it */
  }
  if (m->disposing) return mt_fail(err, mt__disposed_error());
  if (t) {
    mt__tenant_touch(t);
    *out = mt_tenant_ref(t);
    return MT_OK;
  }
  t = mt__tenant_new(m, id, false);
  if (!t) return mt_fail(err, mt_error_oom());
  rc = mt__tenant_enter(t, err);
  if (rc == MT_OK) *out = mt_tenant_ref(t);
  return rc;
}

int mt_manager_shared(mt_manager *m, mt_tenant **out, mt_error **err) {
  if (m->disposing) return mt_fail(err, mt__disposed_error());
  if (!m->shared) {
    m->shared = mt__tenant_new(m, "", true);
    if (!m->shared) return mt_fail(err, mt_error_oom());
    m->shared->registered = true;
  }
  *out = mt_tenant_ref(m->shared);
  return MT_OK;
}

bool mt_manager_evict(mt_manager *m, const char *id, const char *reason) {
  mt_tenant *t = mt_manager_find(m, id);
  if (!t) return false;
  if (t->paused)
    mt__tenant_reroute(t, reason);
  else
    mt__tenant_evict(t, reason);
  return true;
}

bool mt_manager_retire(mt_manager *m, const char *id) {
  mt_tenant *t = mt_manager_find(m, id);
  if (!t || t->state != MT_TENANT_READY) return false;
  mt_pool_retire_all(t->entry->pool);
  return true;
}

/* ---- disposal -------------------------------------------------------------------------- */

static void drop_entry(mt_tenant *t, const mt_error *err) {
  t->refs++;
  t->paused = t->rerouting = false;
  mt__route_forget_former(t, NULL);
  if (t->flight) mt__flight_abort(t->flight, err);
  mt__tenant_fail_pending(t, err);
  mt__readers_detach(t);
  if (t->registered) {
    t->registered = false;
    if (t->shared) {
      t->manager->shared = NULL;
    } else {
      HASH_DELETE(hh, t->manager->tenants, t);
      mt_list_remove(&t->manager->lru, &t->lru);
    }
  }
  mt_tenant_unref(t);
  mt__tenant_check(t);
}

static void on_disposed(mt_defer *d) {
  mt_manager *m = mt_container(d, mt_manager, disposed_defer);
  bool first = !m->disposed;
  m->disposed = true;
  m->refs++;
  while (m->disposals) {
    mt_disposal *next = m->disposals;
    mt_disposal now = *next;
    m->disposals = now.next;
    if (next == &m->first_disposal)
      next->done = NULL;
    else
      mt_free(next);
    now.done(now.data);
  }
  if (first) mt__manager_unref(m); /* taken by start_disposal */
  mt__manager_unref(m);
}

static void start_disposal(mt_manager *m, double timeout_ms) {
  mt_error *err = mt__disposed_error();
  m->disposing = true;
  m->refs++;
  mt_timer_del(&m->sweep);
  while (m->lru.head)
    drop_entry(mt_container(m->lru.head, mt_tenant, lru), err);
  if (m->shared) drop_entry(m->shared, err);
  mt_error_unref(err);
  mt__listeners_close_all(m);
  if (mt__pools_close_all(m, timeout_ms > 0 ? timeout_ms : DISPOSE_MS) == 0)
    mt_defer_add(m->reactor, &m->disposed_defer, MT_DEFER_DELIVER);
}

void mt_manager_dispose(mt_manager *m, double timeout_ms,
                        void (*done)(void *data), void *data) {
  mt_disposal *w = &m->first_disposal;
  if (done && w->done) w = mt_calloc(sizeof *w);
  if (done && w) {
    w->done = done;
    w->data = data;
    w->next = m->disposals;
    m->disposals = w;
  } else if (done) {
    done(data);
    return;
  }
  if (!m->disposing)
    start_disposal(m, timeout_ms);
  else if (m->disposed)
    mt_defer_add(m->reactor, &m->disposed_defer, MT_DEFER_DELIVER);
}

static void answer_nothing(mt_manager *m, const char *tenant_id, uint64_t token,
                           void *data) {
  (void)tenant_id;
  (void)data;
  mt_manager_resolved(m, token, NULL, NULL);
}

void mt_manager_detach(mt_manager *m) {
  m->cbs = (mt_manager_callbacks){.resolve = answer_nothing};
  m->data = NULL;
}

/* ---- reading ---------------------------------------------------------------------------- */

mt_sql *mt_manager_sql(mt_manager *m, const char *sql, size_t len) {
  return mt_sql_intern(m->sqls, sql, len);
}

void mt_manager_keep_sessions(mt_manager *m) { m->cfg.reset = MT_RESET_NEVER; }

mt_reactor *mt_manager_reactor(const mt_manager *m) { return m->reactor; }

const mt_manager_config *mt_manager_get_config(const mt_manager *m) {
  return &m->cfg;
}

bool mt_manager_disposed(const mt_manager *m) { return m->disposing; }

size_t mt_manager_count(const mt_manager *m) { return m->lru.len; }

mt_tenant *mt_manager_next(const mt_manager *m, const mt_tenant *t) {
  mt_node *n = t ? t->lru.next : m->lru.head;
  return n ? mt_container(n, mt_tenant, lru) : NULL;
}

double mt_manager_random(mt_manager *m) { return mt_rand_unit(&m->rand); }

void mt_manager_read_stats(const mt_manager *m, mt_stats *out, size_t size) {
  mt_pool_stats s;
  mt_stats all;
  int open;
  mt_manager_stats(m, &s, &open);
  all = (mt_stats){.opened = s.opened,
                   .lost = s.lost,
                   .connect_failures = s.connect_failures,
                   .retired = s.retired,
                   .leases = s.leases,
                   .requests = s.requests,
                   .resets = s.resets,
                   .tainted = s.tainted,
                   .queue_full = s.queue_full,
                   .queue_timeouts = s.queue_timeouts,
                   .rate_limited = s.rate_limited,
                   .retries = s.retries,
                   .retries_refused = s.retries_refused,
                   .open = open,
                   .tenants = mt_manager_count(m)};
  memset(out, 0, size);
  memcpy(out, &all, size < sizeof all ? size : sizeof all);
}
