/*
 * Whose turn it is: deficit round robin between the shares that have something
 * to send, by what it costs; and each share's rate limit. See pool_priv.h.
 */
#include "base/alloc.h"
#include "pool/pool_priv.h"

/* ---- what a request costs ---------------------------------------------------- */

#define QUANTUM_MS 1.0
#define COST_MIN_MS 0.05
#define COST_MAX_MS (32 * QUANTUM_MS) /* so many rounds at most per request */

bool mt__req_alone(const mt_req *req) {
  return req->sql && (req->sql->runs == 0 || req->sql->cost_ms > MT_ALONE_MS);
}

double mt__req_cost(const mt_req *req) {
  double ms = req->sql && req->sql->runs > 0 ? req->sql->cost_ms : COST_MIN_MS;
  if (ms < COST_MIN_MS) return COST_MIN_MS;
  return ms < COST_MAX_MS ? ms : COST_MAX_MS;
}

/* ---- turns ------------------------------------------------------------------- */

static mt_req *first_of(const mt_share *s) {
  return mt_container(s->reqs.head, mt_req, node);
}

static mt_list *line_of(mt_share *s) {
  return &s->pool->ready[mt__req_alone(first_of(s)) ? MT_SLOW : MT_QUICK];
}

static void throttle(mt_share *s, double now);

void mt__share_line_up(mt_share *s) {
  mt_pool *p = s->pool;
  double now = p->opt.rate.per_second > 0 ? mt_reactor_now(p->reactor) : 0;
  while (s->leases.len && s->inflight < mt__share_max(s) &&
         mt__rate_allows(s, now)) {
    mt_node *n = mt_list_pop(&s->leases);
    mt_lease *l = mt_container(n, mt_lease, node);
    mt__rate_send(s, now);
    l->counted = l->paid = true;
    s->inflight++;
    mt_list_push(&p->lease_waiters, n);
  }
  if (mt_node_linked(&s->ready) || s->inflight >= mt__share_max(s)) return;
  if (!mt__rate_allows(s, now)) {
    if (s->reqs.len || s->leases.len) throttle(s, now);
  } else if (s->reqs.len) {
    mt_list_push(line_of(s), &s->ready);
  }
}

bool mt__pool_has_ready(const mt_pool *p) {
  return p->ready[MT_QUICK].len + p->ready[MT_SLOW].len > 0;
}

bool mt__pool_express(const mt_pool *p, double now) {
  return p->ready[MT_QUICK].len > 0 ||
         (p->quick_at > 0 && now - p->quick_at < MT_EXPRESS_MS);
}

/* Still in the right line? Its history has gone on, its leases have used its
 * connections or its rate up. */
static bool is_in_line(mt_share *s, mt_list *line) {
  bool here =
      s->inflight < mt__share_max(s) && s->reqs.len > 0 && line_of(s) == line;
  if (here && s->pool->opt.rate.per_second > 0)
    here = mt__rate_allows(s, mt_reactor_now(s->pool->reactor));
  if (here) return true;
  mt_node_unlink(&s->ready);
  mt__share_line_up(s);
  return false;
}

/*
 * Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin"
 * (1995): who is first sends for as long as its deficit lasts, then gets a
 * quantum more and goes to the end. Several of one tenant in a row also spare
 * the server's caches a change of tenants.
 */
mt_share *mt__fair_next(mt_pool *p, mt_pace pace) {
  mt_list *line = &p->ready[pace];
  while (line->head) {
    mt_share *s = mt_container(line->head, mt_share, ready);
    if (!is_in_line(s, line)) continue;
    if (line->len == 1) s->deficit = mt__req_cost(first_of(s));
    if (s->deficit >= mt__req_cost(first_of(s))) return s;
    s->deficit += QUANTUM_MS;
    mt_list_remove(line, &s->ready);
    mt_list_push(line, &s->ready);
  }
  return NULL;
}

void mt__fair_charge(mt_share *s, double cost_ms) {
  s->deficit = s->reqs.len ? s->deficit - cost_ms : 0;
  if (s->reqs.len && s->inflight < mt__share_max(s)) return;
  mt_node_unlink(&s->ready);
}

/* ---- rates --------------------------------------------------------------------- */

/*
 * The generic cell rate algorithm (ITU-T I.371): one number per share, the time
 * at which its next statement would be exactly on time. It may come earlier by
 * what `burst` allows.
 */
static double interval_ms(const mt_share *s) {
  return 1000.0 / s->pool->opt.rate.per_second;
}

/* What it had under another rate counts for nothing. */
static double due_at(const mt_share *s) {
  return s->rate_epoch == s->pool->rate_epoch ? s->rate_at : 0;
}

static double allowed_at(const mt_share *s) {
  return due_at(s) - interval_ms(s) * (s->pool->opt.rate.burst - 1);
}

/* Under `reject` what is queued has been let in before. */
bool mt__rate_allows(const mt_share *s, double now) {
  const mt_rate_limit *rate = &s->pool->opt.rate;
  return rate->per_second <= 0 || rate->mode == MT_RATE_REJECT ||
         now >= allowed_at(s);
}

void mt__rate_take(mt_share *s, double now) {
  if (s->pool->opt.rate.per_second <= 0) return;
  s->rate_at = (due_at(s) > now ? due_at(s) : now) + interval_ms(s);
  s->rate_epoch = s->pool->rate_epoch;
}

void mt__rate_send(mt_share *s, double now) {
  if (s->pool->opt.rate.mode != MT_RATE_REJECT) mt__rate_take(s, now);
}

int mt__rate_admit(mt_share *s, mt_error **err) {
  const mt_rate_limit *rate = &s->pool->opt.rate;
  double now;
  mt_error *e;
  if (rate->per_second <= 0 || rate->mode != MT_RATE_REJECT) return MT_OK;
  now = mt_reactor_now(s->pool->reactor);
  if (now >= allowed_at(s)) {
    mt__rate_take(s, now);
    return MT_OK;
  }
  s->pool->stats.rate_limited++;
  e = mt_error_new(MT_E_POOL_EXHAUSTED,
                   "the rate limit of %g statements a second is reached; the "
                   "next one may come in %.0f ms",
                   rate->per_second, allowed_at(s) - now);
  if (e->refs) e->retryable = true;
  return mt_fail(err, e);
}

static void wait_for(mt_pool *p, double at, double now) {
  if (p->rate_timer.active && p->rate_due <= at) return;
  p->rate_due = at;
  mt_timer_set(p->reactor, &p->rate_timer, at - now);
}

static void throttle(mt_share *s, double now) {
  mt_pool *p = s->pool;
  p->stats.rate_limited++;
  s->throttled_at = mt__pool_clock(p);
  mt_list_push(&p->throttled, &s->ready);
  wait_for(p, allowed_at(s), now);
}

static void on_rate(mt_timer *t) {
  mt_pool *p = mt_container(t, mt_pool, rate_timer);
  double now = mt_reactor_now(p->reactor);
  mt_list due = {0};
  mt_node *n;
  if (p->closing) return;
  mt_list_take(&due, &p->throttled);
  while ((n = mt_list_pop(&due))) {
    mt_share *s = mt_container(n, mt_share, ready);
    s->throttled_at = mt__pool_clock(p);
    if (mt__rate_allows(s, now)) {
      mt__share_line_up(s);
    } else {
      mt_list_push(&p->throttled, n);
      wait_for(p, allowed_at(s), now);
    }
  }
  mt__pool_dispatch(p);
}

void mt__rate_changed(mt_pool *p) {
  mt_list all = {0};
  mt_node *n;
  p->rate_epoch++;
  mt_timer_del(&p->rate_timer);
  mt_list_take(&all, &p->throttled);
  while ((n = mt_list_pop(&all)))
    mt__share_line_up(mt_container(n, mt_share, ready));
}

void mt__rate_init(mt_pool *p) { p->rate_timer.cb = on_rate; }
