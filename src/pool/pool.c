/*
 * Dispatch: which connection serves which share's request. Slots and growth
 * are in slot.c. See pool.h. Leases are in lease.c, lifetimes
 * and deadlines in pool_maint.c.
 */
#include "pool/pool.h"

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "pool/pool_priv.h"

/* ---- choosing --------------------------------------------------------------- */

static bool usable(const mt_slot *s, double now) {
  return mt__slot_is_plain(s) && !s->alone && s->ahead_ms < MT_AHEAD_MS &&
         mt_conn_depth(s->conn) < MT_DEPTH_MAX &&
         !mt__slot_stalled(s, now, MT_STALLED_MS);
}

/* Rendezvous hashing: the open slot with the highest hash of (share, slot). */
static mt_slot *home_of(mt_pool *p, mt_share *share) {
  uint64_t best = 0;
  mt_node *n;
  if (share->home && share->home_epoch == p->epoch) return share->home;
  share->home = NULL;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    uint64_t h;
    if (!s->open || s->retiring) continue;
    h = mt_hash64(&s->salt, sizeof s->salt, share->hash);
    if (share->home && h <= best) continue;
    best = h;
    share->home = s;
  }
  share->home_epoch = p->epoch;
  return share->home;
}

/* The one with the fewest requests, of those where nothing is stuck. */
static mt_slot *least_busy(mt_pool *p, double now) {
  mt_slot *best = NULL;
  mt_node *n;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    if (!usable(s, now)) continue;
    if (!best || mt_conn_depth(s->conn) < mt_conn_depth(best->conn)) best = s;
  }
  return best;
}

/* While quick statements come, slow ones leave them a connection, unless
 * there is only one. */
static bool leaves_express(const mt_pool *p, double now) {
  int plain = 0, free = 0;
  mt_node *n;
  if (!mt__pool_express(p, now)) return true;
  for (n = p->slots.head; n; n = n->next) {
    const mt_slot *s = mt_container(n, mt_slot, node);
    if (!mt__slot_is_plain(s)) continue;
    plain++;
    free += !s->alone;
  }
  return free > 1 || plain <= 1;
}

/* Its tenant has asked for a pipeline: it goes behind its own, however slow
 * they are. NULL: it asked for none, or none of it is under way. */
static mt_slot *behind_its_own(mt_pool *p, const mt_share *share) {
  const mt_req *req = mt_container(share->reqs.head, mt_req, node);
  mt_node *n;
  if (!(req->flags & MT_REQ_PIPELINED)) return NULL;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    if (s->alone > 0 && s->alone_for == share && mt__slot_is_plain(s) &&
        mt_conn_depth(s->conn) < MT_DEPTH_MAX)
      return s;
  }
  return NULL;
}

/* Home, unless it is much busier than others or stuck behind something slow.
 * NULL: better to wait in the pool, where any connection may take it. */
static mt_slot *choose(mt_pool *p, mt_share *share, mt_pace pace, double now) {
  mt_slot *home = home_of(p, share), *other;
  size_t depth, slack = pace == MT_QUICK ? MT_HOME_SLACK : 1;
  if ((other = behind_its_own(p, share))) return other;
  if (pace == MT_SLOW && !leaves_express(p, now)) return NULL;
  if (home && !usable(home, now)) home = NULL;
  depth = home ? mt_conn_depth(home->conn) : 0;
  if (home && depth < slack) return home;
  other = least_busy(p, now);
  if (!home || !other) return other;
  return depth >= mt_conn_depth(other->conn) + slack ? other : home;
}

/* ---- dispatch -------------------------------------------------------------- */

void mt__share_mark(mt_share *s) {
  bool queued = s->reqs.len > 0 || s->leases.len > 0;
  if (queued && !mt_node_linked(&s->waiting)) {
    mt_list_push(&s->pool->waiting, &s->waiting);
  } else if (!queued) {
    mt_node_unlink(&s->waiting);
    mt_node_unlink(&s->ready);
  }
}

void mt__share_wake(mt_share *s) {
  mt__share_line_up(s);
  mt__share_mark(s);
}

static void req_done(mt_req *req);

/* The request is on its connection from here until it has left it. */
static void arrive(mt_slot *s, mt_req *req) {
  req->place = s;
  req->cost_ms = mt__req_cost(req);
  req->alone = mt__req_alone(req);
  s->ahead_ms += req->cost_ms;
  s->alone += req->alone;
  if (req->alone) s->alone_for = req->owner;
}

static void leave(mt_req *req) {
  mt_slot *s = req->place;
  s->alone -= req->alone;
  s->ahead_ms = mt_conn_depth(s->conn) > 0 ? s->ahead_ms - req->cost_ms : 0;
}

static void give(mt_slot *s, mt_share *share, double now) {
  mt_pool *p = s->pool;
  mt_req *req = mt_container(share->reqs.head, mt_req, node);
  mt_list_remove(&share->reqs, &req->node);
  share->inflight++;
  req->sent_at = now;
  if (req->deadline > 0)
    req->timeout_ms = req->deadline - now > 1 ? req->deadline - now : 1;
  req->on_done = req_done;
  p->stats.requests++;
  arrive(s, req);
  if (!req->alone) p->quick_at = now;
  mt__rate_send(share, now);
  mt__retry_earn(share);
  mt_conn_submit(s->conn, req);
  mt__slot_touch(s, share->hash);
  mt__fair_charge(share, req->cost_ms);
  mt__share_wake(share);
}

static bool serve_one(mt_pool *p, mt_pace pace, double now) {
  mt_share *share = mt__fair_next(p, pace);
  mt_slot *s = share ? choose(p, share, pace, now) : NULL;
  if (s) give(s, share, now);
  return s;
}

/* The kind that was not served last comes first: where there is room for one
 * at a time, neither starves the other. */
static void dispatch_ready(mt_pool *p) {
  double now = mt_reactor_now(p->reactor);
  mt_pace other = p->served == MT_SLOW ? MT_QUICK : MT_SLOW;
  for (;;) {
    if (serve_one(p, other, now))
      p->served = other;
    else if (!serve_one(p, p->served, now))
      break;
    other = p->served == MT_SLOW ? MT_QUICK : MT_SLOW;
  }
  if (!mt__pool_has_ready(p))
    p->blocked_since = 0;
  else if (p->blocked_since == 0)
    p->blocked_since = now;
}

void mt__pool_dispatch(mt_pool *p) {
  if (p->dispatching || p->closing) return;
  if (p->server->paused) {
    mt__maint_start(p);
    return;
  }
  p->dispatching = true;
  if (p->lease_waiters.len) mt__lease_grant_all(p);
  dispatch_ready(p);
  if (mt__pool_has_ready(p) || p->lease_waiters.len || p->slots.len < 1 ||
      p->slots.len < (size_t)p->opt.min || p->slots.len < MT_SOFT_MAX)
    mt__pool_grow(p);
  p->dispatching = false;
  mt__maint_start(p);
}

/* ---- requests -------------------------------------------------------------- */

/* In its old place: several may come back, the oldest first. */
static void requeue(mt_share *share, mt_req *req) {
  mt_node *n = share->reqs.head;
  mt_req_reset(req);
  req->state = MT_REQ_WAITING;
  while (n && mt_container(n, mt_req, node)->seq < req->seq) n = n->next;
  mt_list_insert(&share->reqs, n, &req->node);
  share->pool->expire_at = 0; /* it may be older than all that wait */
}

/* Only what certainly did not run goes to another connection, a few times. */
static bool may_resend(const mt_pool *p, const mt_req *req) {
  return req->err && req->not_run && !p->closing && !req->detached &&
         req->resent < 3 &&
         (req->dirty || req->err->code == MT_E_CONNECTION_LOST ||
          req->err->code == MT_E_DISPOSED);
}

/* The cancel of a disposal may also hit the connection's own statements: what
 * came behind them has not run, and no other connection is left for it. */
void mt__req_disposed(const mt_pool *p, mt_req *req) {
  mt_error *e;
  if (!p->closing || !req->err) return;
  if (!req->dirty && strcmp(req->err->sqlstate, "57014") != 0) return;
  e = req->dirty ? mt_error_new(MT_E_DISPOSED, "the pool was closed")
                 : mt_error_dup(req->err);
  if (e->refs) e->code = MT_E_DISPOSED;
  mt_req_set_error(req, e);
}

static void count_behind(mt_pool *p, double ms) {
  p->stats.behind++;
  p->stats.behind_ms += ms;
  if (ms > p->stats.behind_max_ms) p->stats.behind_max_ms = ms;
}

static void req_done(mt_req *req) {
  mt_share *share = req->owner;
  mt_pool *p = share->pool;
  share->inflight--;
  leave(req);
  if (req->behind_ms > 0) count_behind(p, req->behind_ms);
  mt__req_disposed(p, req);
  if (may_resend(p, req)) {
    requeue(share, req);
    mt__share_wake(share);
    return; /* on_progress or on_close dispatches */
  }
  mt__share_wake(share);
  req->on_finish(req);
  mt__share_settle(share);
}

int mt__share_refuse(mt_share *s, mt_error **err, const char *why) {
  mt_pool *p = s->pool;
  p->stats.queue_full++;
  if (s->on_exhausted) s->on_exhausted(s, MT_QUEUE_FULL, 0);
  return mt_fail(
      err, mt_error_new(MT_E_POOL_EXHAUSTED,
                        "%s (%zu statements and %zu "
                        "leases of this tenant wait, %d are in flight; %d of "
                        "%d connections are open)",
                        why, s->reqs.len, s->leases.len, s->inflight,
                        p->server->open, p->server->cap));
}

/* Under queue_policy = reject: it was not sent, and no connection that is on
 * its way will take it. */
static bool is_rejected(const mt_share *s, const mt_req *req) {
  const mt_pool *p = s->pool;
  return p->opt.queue_policy == MT_QUEUE_REJECT &&
         req->state == MT_REQ_WAITING && req->node.list == &s->reqs &&
         (s->inflight >= p->opt.max || mt__server_full(p->server));
}

int mt_share_submit(mt_share *s, mt_req *req, mt_error **err) {
  mt_pool *p = s->pool;
  mt_error *refusal;
  int rc;
  if (p->closing)
    return mt_fail(err, mt_error_new(MT_E_DISPOSED, "the pool is closed"));
  refusal = mt__breaker_refusal(p->server);
  if (refusal) return mt_fail(err, refusal);
  if (s->reqs.len >= (size_t)p->opt.max_waiting)
    return mt__share_refuse(s, err, "too many statements are waiting already");
  rc = mt__rate_admit(s, err);
  if (rc != MT_OK) return rc;
  req->owner = s;
  req->state = MT_REQ_WAITING;
  req->queued_at = mt__pool_clock(p);
  req->seq = s->next_seq++;
  mt_list_push(&s->reqs, &req->node);
  mt__share_wake(s);
  mt__pool_dispatch(p);
  if (!is_rejected(s, req)) return MT_OK;
  mt_share_take_back(s, req);
  return mt__share_refuse(s, err, "every connection is taken");
}

bool mt_share_take_back(mt_share *s, mt_req *req) {
  mt_node *n;
  if (req->state == MT_REQ_WAITING && req->node.list == &s->reqs) {
    mt_list_remove(&s->reqs, &req->node);
    req->state = MT_REQ_NEW;
    if (s->reqs.len == 0) mt_node_unlink(&s->ready);
    mt__share_wake(s); /* its leases may wait for its rate */
    mt__share_settle(s);
    return true;
  }
  if (req->node.list == &s->pool->failing) {
    mt_list_remove(&s->pool->failing, &req->node);
    mt_req_reset(req);
    s->failing--;
    mt__share_settle(s);
    return true;
  }
  for (n = s->pool->slots.head; n; n = n->next) {
    mt_slot *slot = mt_container(n, mt_slot, node);
    if (!mt_conn_take_back(slot->conn, req)) continue;
    s->inflight--;
    leave(req);
    mt__share_wake(s);
    mt__share_settle(s);
    return true;
  }
  return false;
}

mt_cancelled mt_share_cancel(mt_share *s, mt_req *req) {
  mt_node *n;
  if (mt_share_take_back(s, req)) return MT_CANCEL_TAKEN;
  for (n = s->pool->slots.head; n; n = n->next) {
    mt_slot *slot = mt_container(n, mt_slot, node);
    if (req->node.list != &slot->conn->inflight) continue;
    if (mt_conn_cancel(slot->conn, false)) return MT_CANCEL_SENT;
    break;
  }
  return MT_CANCEL_NONE;
}

/* ---- shares ---------------------------------------------------------------- */

void mt__share_settle(mt_share *s) {
  if (s->on_idle && !mt_share_busy(s)) s->on_idle(s);
}

void mt_share_init(mt_share *s, mt_pool *p, uint64_t hash,
                   void (*on_idle)(mt_share *s)) {
  memset(s, 0, sizeof *s);
  s->on_idle = on_idle;
  s->pool = p;
  s->hash = hash;
}

bool mt_share_busy(const mt_share *s) {
  return s->inflight > 0 || s->failing > 0 || s->reqs.len > 0 ||
         s->leases.len > 0;
}

void mt_share_fini(mt_share *s) {
  assert(!mt_share_busy(s));
  mt_node_unlink(&s->ready);
  mt_node_unlink(&s->waiting);
  s->pool = NULL;
}

/* ---- life ------------------------------------------------------------------ */

static void on_kick(mt_defer *d) {
  mt_pool *p = mt_container(d, mt_pool, kick);
  if (p->no_memory) {
    p->no_memory = false;
    mt__pool_fail_waiters(p, mt_error_oom());
  }
  mt__pool_dispatch(p);
}

void mt__pool_kick(mt_pool *p) {
  if (!p->closing) mt_defer_add(p->reactor, &p->kick, MT_DEFER_DELIVER);
}

static void on_closed(mt_defer *d) {
  mt_pool *p = mt_container(d, mt_pool, closed);
  void (*done)(void *) = p->on_closed;
  p->on_closed = NULL;
  mt__maint_stop(p);
  if (done) done(p->on_closed_data);
}

static void on_cut_off(mt_timer *t) {
  mt_pool *p = mt_container(t, mt_pool, closer);
  mt_node *n;
  for (n = p->slots.head; n; n = n->next)
    mt_conn_close(mt_container(n, mt_slot, node)->conn, NULL);
}

mt_pool *mt_pool_new(mt_reactor *r, mt_server *server, mt_endpoint *ep,
                     const mt_pool_options *opt, mt_password_fn password,
                     void *data) {
  mt_pool *p = mt_calloc(sizeof *p);
  if (!p) return NULL;
  p->reactor = r;
  p->server = server;
  p->endpoint = mt_endpoint_ref(ep);
  p->opt = *opt;
  p->password = password;
  p->data = data;
  p->closed.cb = on_closed;
  p->kick.cb = on_kick;
  mt__failing_init(p);
  p->closer.cb = on_cut_off;
  p->generation = 1;
  mt__rate_init(p);
  mt_rand_seed(&p->rand, opt->seed ? opt->seed
                                   : (uint64_t)(uintptr_t)p ^
                                         (uint64_t)(mt_reactor_now(r) * 1e3));
  mt__maint_init(p);
  mt_list_push(&server->pools, &p->node);
  return p;
}

static void close_slot(mt_slot *s) {
  if (!s->open || mt_conn_quiet(s->conn))
    mt__slot_close(s);
  else
    mt_conn_cancel(s->conn, true);
}

void mt_pool_close(mt_pool *p, double timeout_ms, void (*done)(void *data),
                   void *data) {
  mt_error *err;
  mt_node *n, *next;
  assert(!p->closing);
  p->closing = true;
  p->on_closed = done;
  p->on_closed_data = data;
  err = mt_error_new(MT_E_DISPOSED, "the pool was closed");
  mt__pool_fail_waiters(p, err);
  mt_error_unref(err);
  for (n = p->slots.head; n; n = next) {
    next = n->next;
    close_slot(mt_container(n, mt_slot, node));
  }
  mt_timer_set(p->reactor, &p->closer, timeout_ms);
  if (p->slots.len == 0) mt_defer_add(p->reactor, &p->closed, MT_DEFER_DELIVER);
}

void mt_pool_free(mt_pool *p) {
  if (!p) return;
  assert(p->slots.len == 0 && p->waiting.len == 0);
  mt__maint_stop(p);
  mt_defer_del(&p->closed);
  mt_defer_del(&p->kick);
  mt_defer_del(&p->failer);
  mt_node_unlink(&p->node);
  mt_endpoint_unref(p->endpoint);
  mt_free(p);
}

void mt_pool_set_options(mt_pool *p, const mt_pool_options *opt) {
  bool rate = opt->rate.per_second != p->opt.rate.per_second ||
              opt->rate.burst != p->opt.rate.burst ||
              opt->rate.mode != p->opt.rate.mode;
  mt_node *n;
  p->opt = *opt;
  p->expire_at = 0;
  if (rate) mt__rate_changed(p);
  for (n = p->waiting.head; n; n = n->next)
    mt__share_line_up(mt_container(n, mt_share, waiting));
  mt__pool_kick(p);
}

const mt_pool_stats *mt_pool_get_stats(const mt_pool *p) { return &p->stats; }
const mt_endpoint *mt_pool_endpoint(const mt_pool *p) { return p->endpoint; }
uint64_t mt_pool_generation(const mt_pool *p) { return p->generation; }
bool mt_pool_has_open(const mt_pool *p) { return p->stats.open > 0; }
