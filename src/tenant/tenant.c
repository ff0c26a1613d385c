/*
 * Entries: using them, and letting them go. What waits for a route waits
 * here; afterwards everything goes straight to the pool.
 */
#include "tenant/tenant.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

/* ---- life ------------------------------------------------------------------- */

bool mt_tenant_busy(const mt_tenant *t) {
  return t->paused || t->flight || t->pending.len || t->acquires.len ||
         (t->state == MT_TENANT_READY && mt_share_busy(&t->share)) ||
         mt__readers_busy(t);
}

/* What it has written as the last is not forgotten with it. */
static void leave_word(const mt_tenant *t) {
  mt_tenant *now =
      t->of || t->shared ? NULL : mt_manager_find(t->manager, t->id);
  uint64_t at = mt__tenant_written(t);
  if (now && now->written < at) now->written = at;
}

static void tenant_free(mt_tenant *t) {
  mt_manager *m = t->manager;
  mt_node_unlink(&t->lru);
  mt_node_unlink(&t->expiring);
  mt__tenant_uncount(t);
  if (t->of) mt_tenant_unref(t->of);
  mt_free(t->reader_url);
  mt_free(t);
  mt__manager_unref(m);
}

static void on_free(mt_defer *d) {
  mt_tenant *t = mt_container(d, mt_tenant, freeing);
  if (t->rerouting && !mt_share_busy(&t->share)) {
    t->rerouting = false;
    mt__route_drop(t);
    if (!t->paused) mt__tenant_resumed(t);
  }
  if (t->registered || mt_tenant_busy(t)) return;
  leave_word(t);
  mt__route_drop(t);
  if (t->refs > 0) return;
  tenant_free(t);
}

void mt__tenant_check(mt_tenant *t) {
  if (!t->rerouting && (t->registered || mt_tenant_busy(t))) return;
  mt_defer_add(t->manager->reactor, &t->freeing, MT_DEFER_FREE);
}

mt_tenant *mt__tenant_new(mt_manager *m, const char *id, bool shared) {
  size_t len = strlen(id);
  mt_tenant *t = mt_calloc(sizeof *t + len + 1);
  if (!t) return NULL;
  t->manager = m;
  t->shared = shared;
  t->freeing.cb = on_free;
  t->fresh_until = t->stale_until = HUGE_VAL;
  memcpy(t->id, id, len);
  m->refs++;
  mt__tenant_count(t);
  return t;
}

mt_tenant *mt_tenant_ref(mt_tenant *t) {
  t->refs++;
  return t;
}

void mt_tenant_unref(mt_tenant *t) {
  assert(t->refs > 0);
  if (--t->refs == 0) mt__tenant_check(t);
}

/* The registered entry, whatever its route is like. */
static mt_tenant *registered(mt_tenant *t, mt_error **err) {
  mt_tenant *now = NULL;
  mt_manager *m = t->manager;
  if (m->disposing) {
    mt_fail(err, mt__disposed_error());
    return NULL;
  }
  if (t->of) return mt__reader_live(t, err);
  if (t->registered && !mt__tenant_is_stale(t)) {
    mt__tenant_touch(t);
    return t;
  }
  if (t->shared ? mt_manager_shared(m, &now, err) != MT_OK
                : mt_manager_tenant(m, t->id, &now, err) != MT_OK)
    return NULL;
  now->refs--; /* the registry keeps it */
  return now;
}

mt_tenant *mt_tenant_live(mt_tenant *t, mt_error **err) {
  t = registered(t, err);
  return !t || t->of || mt__route_is_fresh(t) ? t : mt__route_look(t, err);
}

bool mt__tenant_is_stale(const mt_tenant *t) {
  return t->state == MT_TENANT_READY && !t->rerouting && t->scope->stale;
}

uint64_t mt__tenant_written(const mt_tenant *t) {
  uint64_t at = t->state == MT_TENANT_READY ? t->share.answered : 0;
  return at > t->written ? at : t->written;
}

uint64_t mt_tenant_written(const mt_tenant *t) {
  uint64_t at = mt__tenant_written(t), other;
  const mt_node *n;
  for (n = t->manager->draining.head; n; n = n->next) {
    const mt_tenant *old = mt_container(n, mt_tenant, lru);
    if (strcmp(old->id, t->id) != 0) continue;
    other = mt__tenant_written(old);
    if (other > at) at = other;
  }
  return at;
}

const char *mt_tenant_schema(const mt_tenant *t) {
  return t->state == MT_TENANT_READY ? t->scope->schema : NULL;
}

/* ---- requests ------------------------------------------------------------------- */

static int submit_ready(mt_tenant *t, mt_req *req, mt_error **err) {
  if (t->of) mt__reader_follow(t);
  if (!req->scope) req->scope = mt_scope_ref(t->scope);
  return mt_share_submit(&t->share, req, err);
}

bool mt__tenant_held(const mt_tenant *t) { return t->paused || t->rerouting; }

static bool may_go_on(const mt_tenant *t) {
  return t->state == MT_TENANT_READY && !mt__tenant_held(t);
}

/* Puts it where it waits for the route, which is asked for if need be. */
static int wait_for_route(mt_tenant *t, mt_list *line, mt_node *n,
                          mt_error **err) {
  int rc;
  if (line->len >= (size_t)t->manager->cfg.max_waiting)
    return mt_fail(
        err, mt_error_new(MT_E_POOL_EXHAUSTED, "too many (%zu) wait already %s",
                          line->len,
                          mt__tenant_held(t) ? "for the tenant to be resumed"
                                             : "for the tenant's route"));
  mt_list_push(line, n);
  rc = mt__tenant_held(t) ? MT_OK : mt__route_start(t, err);
  if (rc != MT_OK) mt_node_unlink(n);
  return rc;
}

int mt_tenant_submit(mt_tenant *t, mt_req *req, mt_error **err) {
  int rc;
  t = registered(t, err); /* looked at by who has the handle: if it were
                             another now, that one could not cancel */
  if (!t) return err && *err ? (*err)->code : MT_E_DISPOSED;
  if (may_go_on(t)) return submit_ready(t, req, err);
  req->state = MT_REQ_WAITING;
  rc = wait_for_route(t, &t->pending, &req->node, err);
  if (rc != MT_OK) req->state = MT_REQ_NEW;
  return rc;
}

bool mt_tenant_take_back(mt_tenant *t, mt_req *req) {
  if (mt_node_linked(&req->node) && req->node.list == &t->pending) {
    mt_list_remove(&t->pending, &req->node);
    req->state = MT_REQ_NEW;
    mt__tenant_check(t);
    return true;
  }
  return t->state == MT_TENANT_READY && mt_share_take_back(&t->share, req);
}

mt_cancelled mt_tenant_cancel(mt_tenant *t, mt_req *req) {
  if (mt_tenant_take_back(t, req)) return MT_CANCEL_TAKEN;
  if (t->state != MT_TENANT_READY) return MT_CANCEL_NONE;
  return mt_share_cancel(&t->share, req);
}

bool mt_tenant_take_retry(mt_tenant *t) {
  return t->state != MT_TENANT_READY || mt_share_take_retry(&t->share);
}

/* ---- leases --------------------------------------------------------------------- */

const char *mt_tenant_id(const mt_tenant *t) {
  return t->shared ? NULL : t->id;
}

static void acquire_end(mt_acquire *a, mt_lease *l, const mt_error *err) {
  if (!a->route_only) mt__count_lease(a->tenant, l, err);
  a->on_done(a, l, err);
  mt_free(a);
}

static void on_grant(mt_lease *l, const mt_error *err) {
  mt_acquire *a = l->data;
  acquire_end(a, err ? NULL : l, err);
}

static int acquire_ready(mt_acquire *a, mt_error **err) {
  if (a->tenant->of) mt__reader_follow(a->tenant);
  return mt_lease_acquire(&a->tenant->share, on_grant, a, &a->lease, err);
}

int mt_tenant_acquire(mt_tenant *t,
                      void (*on_done)(mt_acquire *a, mt_lease *l,
                                      const mt_error *err),
                      void *data, mt_acquire **out, mt_error **err) {
  mt_acquire *a;
  int rc;
  t = registered(t, err);
  if (!t) return err && *err ? (*err)->code : MT_E_DISPOSED;
  a = mt_calloc(sizeof *a);
  if (!a) return mt_fail(err, mt_error_oom());
  a->tenant = t;
  a->on_done = on_done;
  a->data = data;
  *out = a;
  rc = may_go_on(t) ? acquire_ready(a, err)
                    : wait_for_route(t, &t->acquires, &a->node, err);
  if (rc != MT_OK) {
    mt_tenant_note_failed(t, rc);
    mt_free(a);
  }
  return rc;
}

bool mt_tenant_is_routed(const mt_tenant *t) {
  return t->registered && may_go_on(t) && !mt__tenant_is_stale(t) &&
         !mt__route_is_outdated(t);
}

int mt_tenant_wait_route(mt_tenant *t,
                         void (*on_done)(mt_acquire *a, mt_lease *l,
                                         const mt_error *err),
                         void *data, mt_acquire **out, mt_error **err) {
  mt_acquire *a;
  int rc;
  t = mt_tenant_live(t, err);
  if (!t) return err && *err ? (*err)->code : MT_E_DISPOSED;
  a = mt_calloc(sizeof *a);
  if (!a) return mt_fail(err, mt_error_oom());
  a->tenant = t;
  a->route_only = true;
  a->on_done = on_done;
  a->data = data;
  *out = a;
  rc = wait_for_route(t, &t->acquires, &a->node, err);
  if (rc == MT_OK && may_go_on(t)) mt__tenant_resumed(t); /* it is there */
  if (rc != MT_OK) mt_free(a);
  return rc;
}

void mt_acquire_cancel(mt_acquire *a) {
  mt_node_unlink(&a->node);
  if (a->lease) mt_lease_release(a->lease);
  mt__tenant_check(a->tenant);
  mt_free(a);
}

/* ---- the route has come -------------------------------------------------------------- */

static void finish_req(mt_req *req, mt_error *err) {
  req->state = MT_REQ_DONE;
  mt_req_set_error(req, err);
  req->on_finish(req);
}

void mt__tenant_fail_pending(mt_tenant *t, const mt_error *err) {
  mt_list reqs = {0}, acquires = {0};
  mt_node *n;
  mt_list_take(&reqs, &t->pending);
  mt_list_take(&acquires, &t->acquires);
  while ((n = mt_list_pop(&reqs)))
    finish_req(mt_container(n, mt_req, node), mt_error_ref(err));
  while ((n = mt_list_pop(&acquires)))
    acquire_end(mt_container(n, mt_acquire, node), NULL, err);
}

static void go_on(mt_tenant *t) {
  mt_list reqs = {0}, acquires = {0};
  mt_node *n;
  mt_error *err = NULL;
  mt_list_take(&reqs, &t->pending);
  mt_list_take(&acquires, &t->acquires);
  while ((n = mt_list_pop(&reqs))) {
    mt_req *req = mt_container(n, mt_req, node);
    req->state = MT_REQ_NEW;
    if (submit_ready(t, req, &err) != MT_OK) finish_req(req, err);
    err = NULL;
  }
  while ((n = mt_list_pop(&acquires))) {
    mt_acquire *a = mt_container(n, mt_acquire, node);
    if (a->route_only || acquire_ready(a, &err) != MT_OK)
      acquire_end(a, NULL, err);
    mt_error_unref(err);
    err = NULL;
  }
}

typedef struct routed {
  mt_defer defer;
  mt_tenant *tenant;
  mt_error *err;
} routed;

static void deliver(mt_tenant *t, const mt_error *err) {
  if (err)
    mt__tenant_fail_pending(t, err);
  else if (may_go_on(t))
    go_on(t);
  if (t->flight) mt__flight_routed(t->flight, err);
  mt__tenant_check(t);
}

static void on_routed(mt_defer *d) {
  routed *r = mt_container(d, routed, defer);
  mt_tenant *t = r->tenant;
  t->refs--;
  deliver(t, r->err);
  mt_error_unref(r->err);
  mt_free(r);
}

/* It was paused for longer than its route holds. */
static bool outdated(mt_tenant *t) {
  if (!mt__route_is_outdated(t)) return false;
  mt__tenant_reroute(t, "route_changed");
  return true;
}

static void on_resumed(mt_defer *d) {
  routed *r = mt_container(d, routed, defer);
  mt_tenant *t = r->tenant;
  mt_error *err = NULL;
  t->refs--;
  mt_free(r);
  if (mt__tenant_held(t) || outdated(t)) return;
  if (t->state == MT_TENANT_READY)
    go_on(t);
  else if ((t->pending.len || t->acquires.len) &&
           mt__route_start(t, &err) != MT_OK)
    mt__tenant_fail_pending(t, err);
  mt_error_unref(err);
  if (t->flight) mt__flight_resumed(t->flight);
  mt__tenant_check(t);
}

void mt__tenant_resumed(mt_tenant *t) {
  routed *r = mt_calloc(sizeof *r);
  if (!r) {
    mt__tenant_fail_pending(t, mt_error_oom());
    return;
  }
  r->defer.cb = on_resumed;
  r->tenant = mt_tenant_ref(t);
  mt_defer_add(t->manager->reactor, &r->defer, MT_DEFER_DELIVER);
}

/* The resolver may answer inside the call that asked: go on later. */
void mt__tenant_routed(mt_tenant *t, const mt_error *err) {
  routed *r = mt_calloc(sizeof *r);
  if (!r) { /* the only way left to answer */
    deliver(t, err ? err : mt_error_oom());
    return;
  }
  r->defer.cb = on_routed;
  r->tenant = mt_tenant_ref(t);
  r->err = err ? mt_error_ref(err) : NULL;
  mt_defer_add(t->manager->reactor, &r->defer, MT_DEFER_DELIVER);
}
