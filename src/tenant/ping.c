/*
 * Pings for health checks: of a server, or of a tenant on it. They stand in a
 * queue of their own, so that they touch no tenant's turn, place in the LRU or
 * age. See tenant.h.
 */
#include <string.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

struct mt_ping {
  mt_manager *manager;
  mt_share share;
  mt_req *req;
  mt_timer timer;
  mt_defer freeing;
  double started_at;
  mt_ping_fn done; /* NULL: it has been called, or nobody waits */
  void *data;
};

static void on_free(mt_defer *d) {
  mt_ping *p = mt_container(d, mt_ping, freeing);
  mt_share_fini(&p->share);
  mt__manager_unref(p->manager);
  mt_free(p);
}

static void tell(mt_ping *p, mt_ping_end end, const mt_error *err) {
  mt_ping_fn done = p->done;
  double ms = mt_reactor_now(p->manager->reactor) - p->started_at;
  mt_timer_del(&p->timer);
  p->done = NULL;
  if (done) done(p->data, end, err, ms);
}

static void let_go(mt_ping *p) {
  mt_req_free(p->req);
  p->req = NULL;
  mt_defer_add(p->manager->reactor, &p->freeing, MT_DEFER_FREE);
}

static void on_finish(mt_req *req) {
  mt_ping *p = req->data;
  mt_error *err = req->err ? mt_error_ref(req->err) : NULL;
  let_go(p);
  tell(p, err ? MT_PING_FAILED : MT_PING_OK, err);
  mt_error_unref(err);
}

/* It is the next that the server would answer on its connection. */
static bool is_first(const mt_req *req) {
  return req->node.list && req->node.list->head == &req->node;
}

/* Unsent, it is taken back; sent, its answer finds nobody. Where others are in
 * front of it, that says nothing about the server. */
static void on_timeout(mt_timer *t) {
  mt_ping *p = mt_container(t, mt_ping, timer);
  bool busy = mt_pool_has_open(p->share.pool) &&
              (p->req->state != MT_REQ_SENT || !is_first(p->req));
  bool unsent = mt_share_take_back(&p->share, p->req);
  mt_error *err = mt_error_new(MT_E_TIMEOUT, "Health check ping timeout");
  mt_error_set_server(err, mt_pool_endpoint(p->share.pool)->server);
  if (unsent) let_go(p);
  tell(p, busy ? MT_PING_BUSY : MT_PING_FAILED, err);
  mt_error_unref(err);
}

void mt_ping_cancel(mt_ping *p) {
  p->done = NULL;
  mt_timer_del(&p->timer);
  if (mt_share_take_back(&p->share, p->req)) let_go(p);
}

static int start(mt_manager *m, mt_pool *pool, mt_scope *scope,
                 double timeout_ms, mt_ping_fn done, void *data, mt_ping **out,
                 mt_error **err) {
  mt_ping *p = mt_calloc(sizeof *p);
  int rc;
  if (!p) return mt_fail(err, mt_error_oom());
  p->req = mt_req_new(MT_REQ_PING | (scope ? MT_REQ_SCOPE : 0u), scope, NULL);
  if (!p->req) {
    mt_free(p);
    return mt_fail(err, mt_error_oom());
  }
  p->manager = m;
  p->started_at = mt_reactor_now(m->reactor);
  p->done = done;
  p->data = data;
  p->timer.cb = on_timeout;
  p->freeing.cb = on_free;
  p->req->on_finish = on_finish;
  p->req->data = p;
  mt_share_init(&p->share, pool, (uint64_t)(uintptr_t)p, NULL);
  rc = mt_share_submit(&p->share, p->req, err);
  if (rc != MT_OK) {
    mt_share_fini(&p->share);
    mt_req_free(p->req);
    mt_free(p);
    return rc;
  }
  m->refs++;
  mt_timer_set(m->reactor, &p->timer, timeout_ms);
  *out = p;
  return MT_OK;
}

/* One with a connection, if there is one: that asks for no other. */
static mt_pool *pool_of(mt_manager *m, const char *server) {
  mt_pool *any = NULL;
  mt_pool_entry *e;
  for (e = m->pools; e; e = e->hh.next) {
    if (e->closed || strcmp(mt_pool_endpoint(e->pool)->server, server) != 0)
      continue;
    if (mt_pool_has_open(e->pool)) return e->pool;
    any = e->pool;
  }
  return any;
}

int mt_manager_ping_server(mt_manager *m, const char *server, double timeout_ms,
                           mt_ping_fn done, void *data, mt_ping **out,
                           mt_error **err) {
  mt_pool *pool = m->disposing ? NULL : pool_of(m, server);
  if (m->disposing) return mt_fail(err, mt__disposed_error());
  if (!pool)
    return mt_fail(
        err, mt_error_new(MT_E_UNREACHABLE, "server %s is not used", server));
  return start(m, pool, NULL, timeout_ms, done, data, out, err);
}

int mt_manager_ping_tenant(mt_manager *m, const char *id, double timeout_ms,
                           mt_ping_fn done, void *data, mt_ping **out,
                           mt_error **err) {
  mt_tenant *t = mt_manager_find(m, id);
  if (m->disposing) return mt_fail(err, mt__disposed_error());
  if (!t || t->state != MT_TENANT_READY)
    return mt_fail(err, mt_error_new(MT_E_UNREACHABLE,
                                     "tenant \"%s\" is not connected", id));
  return start(m, t->entry->pool, t->scope, timeout_ms, done, data, out, err);
}

int mt_manager_use_own_server(mt_manager *m, mt_error **err) {
  mt_pool_entry *e;
  int rc = mt__pools_get(m, m->endpoint, NULL, MT_POOL_AS_CONFIGURED, &e, err);
  if (rc == MT_OK) e->users--;
  return rc;
}

const char *mt_manager_own_server(const mt_manager *m) {
  return m->endpoint->server;
}

/* ---- what there is ------------------------------------------------------------ */

void mt_manager_each_server(const mt_manager *m,
                            void (*see)(void *data, const mt_server_view *v),
                            void *data) {
  const mt_server_entry *e;
  for (e = m->servers; e; e = e->hh.next) {
    mt_server_view v;
    mt_server_look(e->server, &v);
    see(data, &v);
  }
}

void mt_tenant_look(const mt_tenant *t, mt_tenant_view *v) {
  bool ready = t->state == MT_TENANT_READY;
  memset(v, 0, sizeof *v);
  v->waiting = t->pending.len + t->acquires.len;
  if (!ready) return;
  v->server = mt_pool_endpoint(t->entry->pool)->server;
  v->waiting += t->share.reqs.len + t->share.leases.len;
  if (t->entry->dedicated)
    mt_pool_count(t->entry->pool, &v->total, &v->idle);
  else
    v->total = t->share.inflight;
}
