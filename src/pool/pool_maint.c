/*
 * The pool's clockwork: one short tick while something waits (acquire
 * timeouts, growth, grants), one slow sweep while there are connections (idle
 * and lifetime limits, minimum). No timer per request.
 */
#include <math.h>

#include "pool/pool_priv.h"

/* ---- tick: something waits ----------------------------------------------------- */

static mt_error *exhausted(const mt_pool *p) {
  return mt_error_new(MT_E_POOL_EXHAUSTED,
                      "no connection became free within %.0f ms (%d of %d "
                      "open)",
                      p->opt.acquire_timeout_ms, p->stats.open, p->server->cap);
}

/* Under `throttle` a tenant's own rate does not make it time out. */
static double waited(const mt_share *s, double since, double now) {
  if (s->pool->opt.rate.mode == MT_RATE_THROTTLE) {
    if (s->ready.list == &s->pool->throttled) return 0;
    if (s->throttled_at > since) since = s->throttled_at;
  }
  return now - since;
}

static void timed_out(mt_share *s, double ms) {
  s->pool->stats.queue_timeouts++;
  if (s->on_exhausted) s->on_exhausted(s, MT_QUEUE_TIMEOUT, ms);
}

/* `first` becomes the time when the oldest of those that go on waiting was
 * queued, unless it is before that. They are in that order. */
static void expire_reqs(mt_pool *p, mt_share *s, double now, double *first) {
  while (s->reqs.head) {
    mt_req *req = mt_container(s->reqs.head, mt_req, node);
    double ms = waited(s, req->queued_at, now);
    if (ms < p->opt.acquire_timeout_ms) {
      *first = fmin(*first, req->queued_at);
      return;
    }
    timed_out(s, ms);
    mt_share_take_back(s, req);
    req->state = MT_REQ_DONE;
    mt_req_set_error(req, exhausted(p));
    req->on_finish(req);
  }
}

/* Those in line stand as their tenants' turns came, not as they were queued. */
static mt_lease *overdue(mt_pool *p, mt_list *list, double now, double *first) {
  mt_node *n;
  for (n = list->head; n; n = n->next) {
    mt_lease *l = mt_container(n, mt_lease, node);
    if (waited(l->share, l->queued_at, now) >= p->opt.acquire_timeout_ms)
      return l;
    *first = fmin(*first, l->queued_at);
  }
  return NULL;
}

static void expire_leases(mt_pool *p, mt_list *list, double now,
                          double *first) {
  mt_lease *l;
  while ((l = overdue(p, list, now, first))) {
    mt_error *err;
    timed_out(l->share, waited(l->share, l->queued_at, now));
    mt_list_remove(list, &l->node);
    err = exhausted(p);
    mt__lease_fail(l, err);
    mt_error_unref(err);
  }
}

/* A pool without connections waits for its own connect, which decides, or for
 * room in the budget that others have taken. */
static bool server_answers(const mt_pool *p) {
  const mt_node *n;
  if (p->server->paused) return false;
  if (p->stats.open > 0 || p->connecting > 0) return p->stats.open > 0;
  if (mt__breaker_waits(p->server)) return false;
  for (n = p->server->pools.head; n; n = n->next)
    if (mt_container(n, mt_pool, node)->stats.open > 0) return true;
  return p->server->connecting == 0; /* nobody tries: time alone decides */
}

/* Read at every tick while something waits, and stands if no server answers. */
double mt__pool_clock(mt_pool *p) {
  double now = mt_reactor_now(p->reactor);
  bool waits = p->waiting.len > 0 || p->lease_waiters.len > 0;
  if (!waits || server_answers(p)) p->clock_ms += now - p->clock_at;
  p->clock_at = now;
  return p->clock_ms;
}

/* Runs while the server answers; while it does not, connect errors decide.
 * Thousands may wait, so it looks at them when the first can be due. */
static void expire(mt_pool *p) {
  double now = mt__pool_clock(p), first = now;
  mt_list shares = {0};
  mt_node *n;
  if (now < p->expire_at || !server_answers(p)) return;
  mt_list_take(&shares, &p->waiting);
  while ((n = mt_list_pop(&shares))) {
    mt_share *s = mt_container(n, mt_share, waiting);
    mt_list_push(&p->waiting, n);
    expire_reqs(p, s, now, &first);
    expire_leases(p, &s->leases, now, &first);
    mt__share_mark(s);
  }
  expire_leases(p, &p->lease_waiters, now, &first);
  p->expire_at = first + p->opt.acquire_timeout_ms;
}

static void on_tick(mt_timer *t) {
  mt_pool *p = mt_container(t, mt_pool, tick);
  if (p->closing) return;
  expire(p);
  mt__pool_dispatch(p);
}

/* ---- sweep: connections age -------------------------------------------------------- */

static bool too_old(const mt_slot *s, double now) {
  return now >= s->expires_at;
}

static bool idle_too_long(const mt_slot *s, double now) {
  const mt_pool *p = s->pool;
  return p->slots.len > (size_t)p->opt.min &&
         now - s->idle_since >= p->opt.idle_timeout_ms;
}

static void on_maint(mt_timer *t) {
  mt_pool *p = mt_container(t, mt_pool, maint);
  double now = mt_reactor_now(p->reactor);
  size_t left = p->slots.len;
  int beyond = p->server->open - p->server->cap; /* the budget has shrunk */
  mt_node *n, *next;
  for (n = p->slots.head; n; n = next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    next = n->next;
    if (!s->open || s->retiring) continue;
    if (too_old(s, now) && !mt__slot_idle(s)) {
      s->retiring = true;
      p->epoch++;
      p->stats.retired++;
    } else if (mt__slot_idle(s) &&
               (beyond-- > 0 || too_old(s, now) ||
                (left > (size_t)p->opt.min && idle_too_long(s, now)))) {
      left--;
      mt__slot_close(s);
    }
  }
  mt__pool_dispatch(p);
}

/* ---- start and stop ----------------------------------------------------------------- */

void mt__maint_init(mt_pool *p) {
  p->tick.cb = on_tick;
  p->maint.cb = on_maint;
  p->maint.background = true;
}

void mt__maint_start(mt_pool *p) {
  if (p->closing) return;
  if ((p->waiting.len || p->lease_waiters.len) && !p->tick.active)
    mt_timer_set(p->reactor, &p->tick, MT_TICK_MS);
  if (p->slots.len && !p->maint.active)
    mt_timer_set(p->reactor, &p->maint, MT_MAINT_MS);
}

void mt__maint_stop(mt_pool *p) {
  mt_timer_del(&p->tick);
  mt_timer_del(&p->maint);
  mt_timer_del(&p->closer);
  mt_timer_del(&p->rate_timer);
}
