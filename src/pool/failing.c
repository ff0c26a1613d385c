/*
 * Bad news for many at once, told in slices so that the loop is not held up:
 * what waits goes to a list of its own, each with its error. See pool_priv.h.
 */
#include "base/alloc.h"
#include "pool/pool_priv.h"

/* They are counted: nobody takes their share for idle. */
static void condemn_share(mt_share *s, const mt_error *err) {
  mt_pool *p = s->pool;
  mt_node *n;
  while ((n = mt_list_pop(&s->leases))) {
    mt_lease *l = mt_container(n, mt_lease, node);
    l->failed = mt_error_ref(err);
    s->failing++;
    mt_list_push(&p->failing_leases, n);
  }
  while ((n = mt_list_pop(&s->reqs))) {
    mt_req_set_error(mt_container(n, mt_req, node), mt_error_ref(err));
    s->failing++;
    mt_list_push(&p->failing, n);
  }
  mt__share_mark(s);
}

static void condemn(mt_pool *p, const mt_error *err) {
  mt_node *n;
  while (p->waiting.head)
    condemn_share(mt_container(p->waiting.head, mt_share, waiting), err);
  while ((n = mt_list_pop(&p->lease_waiters))) {
    mt_lease *l = mt_container(n, mt_lease, node);
    l->failed = mt_error_ref(err);
    l->share->failing++;
    mt_list_push(&p->failing_leases, n);
  }
}

/* False: there was none. */
static bool tell_one(void *pool) {
  mt_pool *p = pool;
  mt_node *n = mt_list_pop(&p->failing_leases);
  if (n) {
    mt_lease *l = mt_container(n, mt_lease, node);
    mt_error *err = l->failed;
    l->failed = NULL;
    l->share->failing--;
    mt__lease_fail(l, err);
    mt_error_unref(err);
  } else if ((n = mt_list_pop(&p->failing))) {
    mt_req *req = mt_container(n, mt_req, node);
    mt_share *s = req->owner;
    s->failing--;
    req->state = MT_REQ_DONE;
    req->on_finish(req);
    mt__share_settle(s);
  }
  return n != NULL;
}

static void on_failer(mt_defer *d) {
  mt_pool *p = mt_container(d, mt_pool, failer);
  mt_reactor_slice(p->reactor, d, tell_one, p);
}

void mt__pool_fail_waiters(mt_pool *p, const mt_error *err) {
  condemn(p, err);
  while (tell_one(p)) continue;
}

void mt__pool_fail_slowly(mt_pool *p, const mt_error *err) {
  condemn(p, err);
  if (p->failing.len || p->failing_leases.len)
    mt_defer_add(p->reactor, &p->failer, MT_DEFER_DELIVER);
}

void mt__failing_init(mt_pool *p) { p->failer.cb = on_failer; }
