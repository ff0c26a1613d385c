/*
 * How long routes hold. A route that is stale is used on while the host, which
 * is told once, asks again; one that is outdated is not used any more: a new
 * entry takes the place of its entry and asks, while what is under way drains.
 * If the answer is the same route, the new entry goes on with the scope, the
 * pool and the ping of the old one, and nobody hears of it. See tenant.h.
 */
#include <math.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

/* ---- limits --------------------------------------------------------------- */

static void limit(mt_tenant *t, double fresh_ms, double stale_ms) {
  t->fresh_until = mt_reactor_now(t->manager->reactor) + fresh_ms;
  t->stale_until = t->fresh_until + stale_ms;
}

void mt__route_limit(mt_tenant *t, const mt_route_options *o) {
  t->epoch = t->manager->epoch;
  t->tag = o ? o->tag : 0;
  t->fresh_until = t->stale_until = HUGE_VAL;
  if (t->tag) limit(t, o->fresh_ms, o->stale_ms);
}

bool mt_manager_renew(mt_manager *m, const char *id, uint64_t tag,
                      double fresh_ms, double stale_ms) {
  mt_tenant *t = mt_manager_find(m, id);
  if (!t || t->state != MT_TENANT_READY || mt__tenant_held(t)) return false;
  if (t->tag != tag) {
    mt_manager_evict(m, id, "route_changed");
    return false;
  }
  t->epoch = m->epoch;
  limit(t, fresh_ms, stale_ms);
  return true;
}

void mt_manager_outdate(mt_manager *m) { m->epoch++; }

bool mt__route_is_outdated(const mt_tenant *t) {
  return !t->shared && !t->of && t->state == MT_TENANT_READY &&
         (t->epoch != t->manager->epoch ||
          mt_reactor_now(t->manager->reactor) >= t->stale_until);
}

/* ---- the entry before ------------------------------------------------------ */

static bool remember(mt_tenant *t, const mt_tenant *former) {
  t->former = mt_malloc(sizeof *t->former);
  if (!t->former) return false;
  *t->former = (mt_former){.tag = former->tag,
                           .verified = former->verified,
                           .scope = mt_scope_ref(former->scope),
                           .entry = former->entry};
  former->entry->users++;
  return true;
}

mt_scope *mt__route_keep(mt_tenant *t, uint64_t tag) {
  const mt_former *f = t->former;
  if (!f || !tag || tag != f->tag || f->scope->stale) return NULL;
  return mt_scope_ref(f->scope);
}

void mt__route_forget_former(mt_tenant *t, const char *reason) {
  mt_former *f = t->former;
  if (!f) return;
  t->former = NULL;
  if (reason) mt__tenant_tell_evicted(t, f->scope->schema, reason);
  mt_scope_unref(f->scope);
  if (f->entry->dedicated)
    mt__pools_close_dedicated(f->entry);
  else
    f->entry->users--;
  mt_free(f);
}

/* ---- at a use --------------------------------------------------------------- */

/* t drains, as if it were evicted. */
static mt_tenant *supersede(mt_tenant *t, mt_error **err) {
  mt_manager *m = t->manager;
  mt_tenant *now = mt__tenant_new(m, t->id, false);
  if (!now || !remember(now, t)) {
    if (now) mt__tenant_check(now);
    mt_fail(err, mt_error_oom());
    return NULL;
  }
  mt__tenant_leave(t);
  mt__tenant_check(t);
  return mt__tenant_enter(now, err) == MT_OK ? now : NULL;
}

static bool tell_one(void *manager) {
  mt_manager *m = manager;
  mt_node *n = mt_list_pop(&m->expiring);
  mt_tenant *t = n ? mt_container(n, mt_tenant, expiring) : NULL;
  mt_event ev = {.kind = "route_stale"};
  if (!t) return false;
  if (!t->registered || t->state != MT_TENANT_READY) return true;
  ev.tenant_id = t->id;
  ev.schema = t->scope->schema;
  mt__manager_event(m, &ev);
  return true;
}

void mt__routes_tell(mt_defer *d) {
  mt_manager *m = mt_container(d, mt_manager, teller);
  m->refs++;
  mt_reactor_slice(m->reactor, d, tell_one, m);
  mt__manager_unref(m);
}

void mt__route_tell_stale(mt_tenant *t) {
  mt_manager *m = t->manager;
  t->fresh_until = t->stale_until;
  if (!mt_node_linked(&t->expiring)) mt_list_push(&m->expiring, &t->expiring);
  mt_defer_add(m->reactor, &m->teller, MT_DEFER_DELIVER);
}

mt_tenant *mt__route_look(mt_tenant *t, mt_error **err) {
  if (t->shared || t->state != MT_TENANT_READY || mt__tenant_held(t)) return t;
  if (mt__route_is_outdated(t)) return supersede(t, err);
  mt__route_tell_stale(t);
  return t;
}
