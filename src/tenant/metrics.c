/*
 * What statements and leases count: at their server, and for their tenant, if
 * it is one of those that do most; else for all the others together. A tenant's
 * entry has the pointers, so that a statement looks nothing up. See tenant.h.
 *
 * Who does most is found as by the space-saving algorithm (Metwally, Agrawal,
 * El Abbadi, 2005): there are so many places, and who does clearly more than
 * the least of them takes its place. Entries count their use exactly, so that
 * nobody starts with the use of whom he replaces.
 */
#include <string.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

enum { LOOK_EACH = 16 }; /* uses of who is not ranked */

/* ---- life ------------------------------------------------------------------- */

int mt__counts_init(mt_manager *m) {
  if (!m->cfg.metrics) return MT_OK;
  m->counts = mt_calloc(sizeof *m->counts);
  return m->counts ? MT_OK : MT_E_OUT_OF_MEMORY;
}

void mt__counts_fini(mt_manager *m) {
  mt_ranked *r, *next;
  if (!m->counts) return;
  HASH_ITER(hh, m->counts->ranked, r, next) {
    HASH_DEL(m->counts->ranked, r);
    mt_free(r);
  }
  mt_free(m->counts);
}

/* ---- ranks ------------------------------------------------------------------ */

static void join(mt_tenant *t, mt_ranked *r) {
  t->ranked = r;
  t->tally = &r->tally;
  mt_list_push(&r->tenants, &t->same_rank);
}

static void leave(mt_tenant *t) {
  if (!t->ranked) return;
  t->use = t->ranked->use;
  t->ranked = NULL;
  t->tally = &t->manager->counts->others;
  mt_node_unlink(&t->same_rank);
}

static mt_ranked *ranked_new(const char *id) {
  size_t len = strlen(id);
  mt_ranked *r = mt_calloc(sizeof *r + len + 1);
  if (r) memcpy(r->id, id, len);
  return r;
}

/* False: no memory, r is gone. */
static bool enter(mt_counts *c, mt_ranked *r) {
  bool failed = false;
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(obj) failed = true
  HASH_ADD_KEYPTR(hh, c->ranked, r->id, strlen(r->id), r);
  if (failed)
    mt_free(r);
  else
    c->n++;
  return !failed;
}

/* What it has counted is the others' from now on. */
static void drop(mt_counts *c, mt_ranked *r) {
  while (r->tenants.head)
    leave(mt_container(r->tenants.head, mt_tenant, same_rank));
  mt_tally_merge(&c->others, &r->tally);
  HASH_DEL(c->ranked, r);
  c->n--;
  mt_free(r);
}

static mt_ranked *least_of(mt_counts *c) {
  mt_ranked *r, *least = NULL;
  for (r = c->ranked; r; r = r->hh.next)
    if (!least || r->use < least->use) least = r;
  c->least = least ? least->use : 0;
  return least;
}

/* Clearly more: else tenants that do the same would take turns. */
static bool is_more(uint64_t use, uint64_t least) {
  return use > least + least / 8 + LOOK_EACH;
}

/* That of its id, where another entry of that has one; a free one, or that of
 * the least of them. */
static void find_place(mt_tenant *t) {
  mt_counts *c = t->manager->counts;
  mt_ranked *r, *least = NULL;
  HASH_FIND(hh, c->ranked, t->id, strlen(t->id), r);
  if (r) {
    join(t, r);
    return;
  }
  if (c->n >= t->manager->cfg.metrics_tenants) {
    if (!c->ranked || !is_more(t->use, c->least)) return;
    least = least_of(c);
    if (!is_more(t->use, c->least)) return;
  }
  r = ranked_new(t->id);
  if (!r) return; /* it stays one of the others */
  r->use = t->use;
  if (least) drop(c, least);
  if (enter(c, r)) join(t, r);
}

/* ---- entries ---------------------------------------------------------------- */

void mt__tenant_count(mt_tenant *t) {
  mt_counts *c = t->manager->counts;
  if (!c) return;
  t->traffic = &c->nowhere;
  t->tally = t->shared ? &c->shared : &c->others;
}

/* Nobody is ranked whose id is not known to be a tenant's. */
void mt__tenant_count_at(mt_tenant *t, mt_pool *pool) {
  mt_counts *c = t->manager->counts;
  if (!c) return;
  t->traffic = pool ? mt_pool_traffic(pool) : &c->nowhere;
  if (pool && !t->shared && !t->ranked) find_place(t);
}

void mt__tenant_uncount(mt_tenant *t) { leave(t); }

/* ---- counting --------------------------------------------------------------- */

static void used(mt_tenant *t) {
  if (t->ranked)
    t->ranked->use++;
  else if (!t->shared && ++t->use % LOOK_EACH == 0 &&
           t->state == MT_TENANT_READY)
    find_place(t);
}

static void add(mt_tally *a, const mt_req *req, mt_span wait, mt_span query) {
  a->statements++;
  a->bytes_sent += req->bytes_sent;
  a->bytes_received += req->bytes_received;
  if (req->waited) mt_hist_count_in(&a->wait, wait);
  if (req->timed) mt_hist_count_in(&a->query, query);
}

static void add_error(mt_tenant *t, int code, bool ambiguous) {
  t->traffic->all.errors[-code]++;
  t->tally->errors[-code]++;
  t->traffic->all.ambiguous += ambiguous;
  t->tally->ambiguous += ambiguous;
}

static void add_statement(mt_tenant *t, const mt_req *req) {
  mt_span wait = mt_span_of(req->wait_ms), query = mt_span_of(req->took_ms);
  used(t);
  add(&t->traffic->all, req, wait, query);
  add(t->tally, req, wait, query);
  if (req->timed)
    mt_traffic_exemplify(t->traffic, query, req->sent_at + req->took_ms,
                         t->shared ? "(shared)" : t->id);
}

void mt_tenant_note_end(mt_tenant *t, const mt_req *req, const mt_error *err) {
  if (!t->traffic) return;
  if (req->sql) add_statement(t, req);
  if (err && (req->sql || req->flags & MT_REQ_COMMIT))
    add_error(t, err->code, err->ambiguous);
}

void mt_tenant_note_refused(mt_tenant *t, const mt_req *req, int code) {
  if (!t->traffic) return;
  if (req->sql) add_statement(t, req);
  if (req->sql || req->flags & MT_REQ_COMMIT) add_error(t, code, false);
}

void mt_tenant_note_failed(mt_tenant *t, int code) {
  if (t->traffic) add_error(t, code, false);
}

void mt_tenant_note_retry(mt_tenant *t, int code) {
  if (t->traffic) t->traffic->retries[-code]++;
}

void mt__count_lease(mt_tenant *t, const mt_lease *l, const mt_error *err) {
  if (!t->traffic) return;
  used(t);
  if (err) {
    add_error(t, err->code, err->ambiguous);
    return;
  }
  t->traffic->all.leases++;
  t->tally->leases++;
  mt_hist_add(&t->traffic->all.wait, l->waited_ms);
  mt_hist_add(&t->tally->wait, l->waited_ms);
}

/* ---- evictions -------------------------------------------------------------- */

static const char *const eviction_names[] = {"lru_eviction",   "ttl_expired",
                                             "manual",         "error",
                                             "schema_changed", "other"};

const char *mt_eviction_name(mt_eviction e) { return eviction_names[e]; }

void mt__count_eviction(mt_manager *m, const char *reason) {
  int i = 0;
  while (i < MT_EVICTED_OTHER && strcmp(reason, eviction_names[i]) != 0) i++;
  m->evictions[i]++;
}

const uint64_t *mt_manager_evictions(const mt_manager *m) {
  return m->evictions;
}

/* ---- reading ---------------------------------------------------------------- */

void mt_manager_each_traffic(const mt_manager *m,
                             void (*see)(void *data, const mt_server_counts *c),
                             void *data) {
  const mt_server_entry *e;
  for (e = m->servers; e; e = e->hh.next) {
    mt_server_counts c;
    mt_server_look(e->server, &c.view);
    mt_server_sum(e->server, &c.stats);
    c.traffic = mt_server_traffic(e->server);
    see(data, &c);
  }
}

const mt_traffic *mt_manager_nowhere(const mt_manager *m) {
  return m->counts ? &m->counts->nowhere : NULL;
}

void mt_manager_each_tally(const mt_manager *m,
                           void (*see)(void *data, const char *id,
                                       const mt_tally *tally),
                           void *data) {
  const mt_counts *c = m->counts;
  const mt_ranked *r;
  if (!c) return;
  for (r = c->ranked; r; r = r->hh.next) see(data, r->id, &r->tally);
  see(data, NULL, &c->others);
  see(data, "", &c->shared);
}

void mt_manager_look_at_others(const mt_manager *m, mt_tenant_view *v,
                               size_t *tenants) {
  const mt_node *n;
  mt_tenant_view one;
  memset(v, 0, sizeof *v);
  *tenants = 0;
  for (n = m->lru.head; n; n = n->next) {
    const mt_tenant *t = mt_container(n, mt_tenant, lru);
    if (t->ranked) continue;
    mt_tenant_look(t, &one);
    v->total += one.total;
    v->idle += one.idle;
    v->waiting += one.waiting;
    (*tenants)++;
  }
}

bool mt_manager_look_at_shared(const mt_manager *m, mt_tenant_view *v) {
  memset(v, 0, sizeof *v);
  if (!m->shared) return false;
  mt_tenant_look(m->shared, v);
  return m->shared->state == MT_TENANT_READY;
}

void mt_manager_stats(const mt_manager *m, mt_pool_stats *out,
                      int *server_connections) {
  const mt_server_entry *e;
  memset(out, 0, sizeof *out);
  for (e = m->servers; e; e = e->hh.next) {
    mt_pool_stats s;
    mt_server_sum(e->server, &s);
    mt_pool_stats_add(out, &s);
  }
  *server_connections = out->open;
}
