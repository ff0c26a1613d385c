/*
 * Readers: entries beside a tenant's own, for what reads it at a replica. They
 * are in no registry: a tenant has a list of them, and they follow it when it
 * is evicted, paused or disposed of. See tenant.h; which one is asked is
 * decided in lua/mtenant/reader.lua.
 */
#include <string.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

bool mt__readers_busy(const mt_tenant *t) {
  const mt_node *n;
  for (n = t->readers.head; n; n = n->next) {
    const mt_tenant *r = mt_container(n, mt_tenant, lru);
    if (mt_share_busy(&r->share)) return true;
  }
  return false;
}

void mt__readers_detach(mt_tenant *t) {
  mt_node *n;
  while ((n = mt_list_pop(&t->readers))) {
    mt_tenant *r = mt_container(n, mt_tenant, lru);
    r->registered = false;
    mt__tenant_check(r);
  }
}

/* A standby has the same schemas under the same OIDs. What the tenant's own
 * server has said is compared there, too. */
void mt__reader_follow(mt_tenant *t) {
  const mt_scope *own = t->of->scope;
  if (own && own->oid) t->scope->oid = own->oid;
}

mt_tenant *mt__reader_live(mt_tenant *t, mt_error **err) {
  mt_error *e;
  if (t->registered && mt_tenant_is_routed(t->of)) {
    mt__tenant_touch(t->of);
    return t;
  }
  e = mt_error_new(MT_E_CONNECTION_LOST,
                   "tenant \"%s\" is paused, or has another route by now",
                   t->id);
  if (e->refs) e->retryable = true;
  mt_fail(err, e);
  return NULL;
}

static mt_tenant *find(const mt_tenant *t, const char *url) {
  mt_node *n;
  for (n = t->readers.head; n; n = n->next) {
    mt_tenant *r = mt_container(n, mt_tenant, lru);
    if (strcmp(r->reader_url, url) == 0) return r;
  }
  return NULL;
}

/* Where it reads: the same database, where the tenant has one of its own. */
static mt_error *endpoint_of(const mt_tenant *t, const char *url,
                             mt_endpoint **out) {
  const mt_endpoint *own = mt_pool_endpoint(t->entry->pool);
  mt_endpoint *base = NULL;
  mt_error *err = NULL;
  if (!*url) {
    *out = mt_endpoint_ref((mt_endpoint *)(uintptr_t)own);
    return NULL;
  }
  if (mt_endpoint_parse(url, &base, &err) != MT_OK) return err;
  if (own->tenant_database)
    mt_endpoint_with_database(base, own->dbname, out, &err);
  else
    *out = mt_endpoint_ref(base);
  mt_endpoint_unref(base);
  return err;
}

static mt_error *build(mt_tenant *r) {
  mt_tenant *t = r->of;
  mt_endpoint *ep = NULL;
  mt_error *err = endpoint_of(t, r->reader_url, &ep);
  if (err) return err;
  r->scope = mt_scope_reader(++t->manager->next_scope, t->scope);
  if (!r->scope) err = mt_error_oom();
  if (r->scope && t->shared) r->scope->fence = false; /* for probes */
  if (!err) err = mt__route_own(r, ep, r->scope);
  if (!err)
    mt__pools_get(t->manager, ep, t->shared ? NULL : t->id,
                  t->entry->dedicated ? MT_POOL_DEDICATED : MT_POOL_SHARED,
                  &r->entry, &err);
  mt_endpoint_unref(ep);
  return err;
}

static mt_tenant *make(mt_tenant *t, const char *url, mt_error **err) {
  mt_tenant *r = mt__tenant_new(t->manager, t->id, t->shared);
  mt_error *e = NULL;
  if (!r) {
    mt_fail(err, mt_error_oom());
    return NULL;
  }
  r->of = mt_tenant_ref(t);
  r->reader_url = mt_strdup(url);
  e = r->reader_url ? build(r) : mt_error_oom();
  if (!e) {
    mt__route_share(r, t->share.max, t->share.max_waiting);
    r->state = MT_TENANT_READY;
    r->registered = true;
    mt_list_push(&t->readers, &r->lru);
    return r;
  }
  mt__route_undo(r);
  mt__tenant_check(r);
  mt_fail(err, e);
  return NULL;
}

int mt_tenant_reader(mt_tenant *t, const char *url, mt_tenant **out,
                     mt_error **err) {
  mt_tenant *r;
  t = mt_tenant_live(t, err);
  if (!t) return err && *err ? (*err)->code : MT_E_DISPOSED;
  if (t->of || !mt_tenant_is_routed(t))
    return mt_fail(
        err, mt_error_new(MT_E_CONNECTION_LOST,
                          "the route of tenant \"%s\" is not known", t->id));
  r = find(t, url ? url : "");
  if (!r) r = make(t, url ? url : "", err);
  if (!r) return err && *err ? (*err)->code : MT_E_OUT_OF_MEMORY;
  *out = mt_tenant_ref(r);
  return MT_OK;
}
