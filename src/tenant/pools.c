/*
 * The manager's pools and servers: one pool per endpoint (per tenant in
 * dedicated mode), one budget per server.
 */
#include <string.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

static mt_server *server_for(mt_manager *m, const char *name) {
  size_t len = strlen(name);
  mt_server_entry *e;
  bool failed = false;
  HASH_FIND(hh, m->servers, name, len, e);
  if (e) return e->server;
  e = mt_calloc(sizeof *e + len + 1);
  if (!e) return NULL;
  memcpy(e->name, name, len);
  e->server =
      mt_server_new(name, mt__max_connections(&m->cfg), m->cfg.processes);
  if (!e->server || (m->counts && !mt_server_count(e->server))) {
    mt_server_free(e->server);
    mt_free(e);
    return NULL;
  }
  mt_server_set_breaker(e->server, &m->cfg.breaker);
  mt_server_set_retry_budget(e->server, &m->cfg.retry_budget);
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(obj) failed = true
  HASH_ADD_KEYPTR(hh, m->servers, e->name, len, e);
  if (!failed) return e->server;
  mt_server_free(e->server);
  mt_free(e);
  return NULL;
}

bool mt__manager_password(void *manager, char *buf, size_t size) {
  mt_manager *m = manager;
  return m->cbs.password && m->cbs.password(m, buf, size, m->data);
}

static mt_pool *make_pool(mt_manager *m, mt_endpoint *ep) {
  mt_pool_options o = mt__pool_options(&m->cfg);
  mt_server *server = server_for(m, ep->server);
  o.seed = mt_rand_next(&m->rand);
  return server
             ? mt_pool_new(m->reactor, server, ep, &o, mt__manager_password, m)
             : NULL;
}

static mt_pool_entry *add(mt_manager *m, const char *key, mt_endpoint *ep,
                          bool dedicated) {
  size_t len = strlen(key);
  bool failed = false;
  mt_pool_entry *e = mt_calloc(sizeof *e + len + 1);
  if (!e) return NULL;
  memcpy(e->key, key, len);
  e->manager = m;
  e->dedicated = dedicated;
  e->pool = make_pool(m, ep);
  if (e->pool) {
    HASH_ADD_KEYPTR(hh, m->pools, e->key, len, e);
    if (!failed) return e;
    mt_pool_free(e->pool);
  }
  mt_free(e);
  return NULL;
}

int mt__pools_get(mt_manager *m, mt_endpoint *ep, const char *tenant_id,
                  mt_pool_mode mode, mt_pool_entry **out, mt_error **err) {
  bool own =
      tenant_id && (mode == MT_POOL_AS_CONFIGURED ? m->cfg.dedicated
                                                  : mode == MT_POOL_DEDICATED);
  char *key = own ? mt_asprintf("%s\x1ftenant=%s", ep->key, tenant_id)
                  : mt_strdup(ep->key);
  mt_pool_entry *e = NULL;
  if (!key) return mt_fail(err, mt_error_oom());
  HASH_FIND(hh, m->pools, key, strlen(key), e);
  if (!e) e = add(m, key, ep, own);
  mt_free(key);
  if (!e) return mt_fail(err, mt_error_oom());
  e->users++;
  *out = e;
  return MT_OK;
}

void mt__manager_closed_one(mt_manager *m) {
  m->pools_closing--;
  if (m->disposing && m->pools_closing == 0)
    mt_defer_add(m->reactor, &m->disposed_defer, MT_DEFER_DELIVER);
}

static void on_dedicated_closed(void *data) {
  mt_pool_entry *e = data;
  mt_manager *m = e->manager;
  mt_pool_free(e->pool);
  mt_free(e);
  mt__manager_closed_one(m);
  mt__manager_unref(m);
}

void mt__pools_close_dedicated(mt_pool_entry *e) {
  mt_manager *m = e->manager;
  if (--e->users > 0 || e->closed) return; /* or a disposal is at it */
  HASH_DEL(m->pools, e);
  e->closed = true;
  m->refs++;
  m->pools_closing++;
  mt_pool_close(e->pool, 5000, on_dedicated_closed, e);
}

static void on_closed(void *data) {
  mt__manager_closed_one(((mt_pool_entry *)data)->manager);
}

int mt__pools_close_all(mt_manager *m, double timeout_ms) {
  mt_pool_entry *e;
  for (e = m->pools; e; e = e->hh.next) {
    e->closed = true;
    m->pools_closing++;
    mt_pool_close(e->pool, timeout_ms, on_closed, e);
  }
  return m->pools_closing;
}

void mt__pools_free(mt_manager *m) {
  mt_pool_entry *e, *enext;
  mt_server_entry *s, *snext;
  HASH_ITER(hh, m->pools, e, enext) {
    HASH_DEL(m->pools, e);
    mt_pool_free(e->pool);
    mt_free(e);
  }
  HASH_ITER(hh, m->servers, s, snext) {
    HASH_DEL(m->servers, s);
    mt_server_free(s->server);
    mt_free(s);
  }
}
