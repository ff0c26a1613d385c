/*
 * What an operator does by hand while the manager serves: isolate a server,
 * pause a tenant or a server, change settings. See tenant.h.
 */
#include <limits.h>
#include <string.h>

#include "tenant/tenant_priv.h"

/* ---- servers ---------------------------------------------------------------- */

static mt_server *find_server(const mt_manager *m, const char *name) {
  mt_server_entry *e;
  HASH_FIND(hh, m->servers, name, strlen(name), e);
  return e ? e->server : NULL;
}

bool mt_manager_isolate(mt_manager *m, const char *server) {
  mt_server *s = find_server(m, server);
  if (s) mt_server_isolate(s);
  return s;
}

bool mt_manager_close_breaker(mt_manager *m, const char *server) {
  mt_server *s = find_server(m, server);
  if (s) mt_server_close_breaker(s);
  return s;
}

bool mt_manager_breaker(const mt_manager *m, const char *server,
                        mt_breaker_state *out) {
  const mt_server *s = find_server(m, server);
  if (s) *out = mt_server_breaker_state(s);
  return s;
}

int mt_manager_reconnect(mt_manager *m, const char *server) {
  mt_pool_entry *p;
  int n = 0;
  for (p = m->pools; p; p = p->hh.next) {
    if (server && strcmp(mt_pool_endpoint(p->pool)->server, server) != 0)
      continue;
    mt_pool_retire_all(p->pool);
    n++;
  }
  return n;
}

bool mt_manager_pause_server(mt_manager *m, const char *server) {
  mt_server *s = find_server(m, server);
  if (s) mt_server_pause(s);
  return s;
}

bool mt_manager_resume_server(mt_manager *m, const char *server) {
  mt_server *s = find_server(m, server);
  return s && mt_server_resume(s);
}

bool mt_manager_server_quiet(const mt_manager *m, const char *server) {
  const mt_server *s = find_server(m, server);
  return !s || mt_server_quiet(s);
}

/* ---- tenants ---------------------------------------------------------------- */

int mt_manager_pause(mt_manager *m, const char *id, mt_error **err) {
  mt_tenant *t;
  int rc = mt_manager_tenant(m, id, &t, err);
  if (rc != MT_OK) return rc;
  t->paused = true; /* it stays in the registry for that */
  mt_tenant_unref(t);
  return MT_OK;
}

bool mt_manager_resume(mt_manager *m, const char *id) {
  mt_tenant *t = mt_manager_find(m, id);
  if (!t || !t->paused) return false;
  t->paused = false;
  mt__tenant_resumed(t);
  return true;
}

bool mt_manager_quiet(const mt_manager *m, const char *id) {
  const mt_tenant *t = mt_manager_find(m, id);
  return !t || t->state != MT_TENANT_READY ||
         (!mt_share_busy(&t->share) && !mt__readers_busy(t));
}

/* ---- settings --------------------------------------------------------------- */

/* A pooler's clients are cheap, and what the server has free is not ours to
 * divide. */
enum { POOLED_MAX_CONNECTIONS = 20 };

int mt__max_connections(const mt_manager_config *c) {
  int all = c->max_connections, part;
  if (all == 0 && c->pooled) all = POOLED_MAX_CONNECTIONS;
  if (all == 0) return 0;
  part = c->processes > 1 ? all / c->processes : all;
  return part > 0 ? part : 1;
}

mt_pool_options mt__pool_options(const mt_manager_config *c) {
  mt_pool_options o = {
      .conn = {.application_name = c->application_name,
               .connect_timeout_ms = c->connect_timeout_ms,
               .cancel_timeout_ms = c->cancel_timeout_ms,
               .idle_transaction_timeout_ms = c->idle_transaction_timeout_ms,
               .cache_statements = c->cache_statements,
               .pooled = c->pooled},
      .max = c->pool_max,
      .min = c->pool_min,
      .max_waiting = c->max_waiting,
      .idle_timeout_ms = c->idle_timeout_ms,
      .acquire_timeout_ms = c->acquire_timeout_ms,
      .max_lifetime_ms = c->max_lifetime_ms,
      .max_tenants_touched = c->max_tenants_touched,
      .reset = c->reset,
      .queue_policy = c->queue_policy,
      .rate = c->rate_limit};
  if (c->pooled) { /* the sessions are not ours to reset or to recycle */
    o.max_tenants_touched = INT_MAX;
    o.reset = MT_RESET_AUTO;
  }
  return o;
}

static void take_over(mt_manager_config *to, const mt_manager_config *from) {
  to->pool_max = from->pool_max;
  to->pool_min = from->pool_min;
  to->max_waiting = from->max_waiting;
  to->idle_timeout_ms = from->idle_timeout_ms;
  to->connect_timeout_ms = from->connect_timeout_ms;
  to->acquire_timeout_ms = from->acquire_timeout_ms;
  to->max_lifetime_ms = from->max_lifetime_ms;
  to->cancel_timeout_ms = from->cancel_timeout_ms;
  to->statement_timeout_ms = from->statement_timeout_ms;
  to->max_connections = from->max_connections;
  to->retry = from->retry;
  to->queue_policy = from->queue_policy;
  to->rate_limit = from->rate_limit;
  to->breaker = from->breaker;
  to->retry_budget = from->retry_budget;
  to->max_pools = from->max_pools;
  to->pool_ttl_ms = from->pool_ttl_ms;
}

void mt_manager_reconfigure(mt_manager *m, const mt_manager_config *given) {
  mt_manager_config all, *c = &all;
  bool budget;
  mt_pool_options o;
  mt_server_entry *s;
  mt_pool_entry *p;
  mt__config_read(c, given);
  budget = c->max_connections != m->cfg.max_connections;
  take_over(&m->cfg, c);
  o = mt__pool_options(&m->cfg);
  for (s = m->servers; s; s = s->hh.next) {
    mt_server_set_breaker(s->server, &m->cfg.breaker);
    mt_server_set_retry_budget(s->server, &m->cfg.retry_budget);
    if (budget) mt_server_set_max(s->server, mt__max_connections(&m->cfg));
  }
  for (p = m->pools; p; p = p->hh.next) mt_pool_set_options(p->pool, &o);
}
