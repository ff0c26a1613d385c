/*
 * Flights: one tenant's way from "known by id" to "routed, fenced, connected
 * and pinged", with retry. Concurrent callers share a flight; attempts belong
 * to it, joiners inherit them. A flight that waits holds no connection.
 */
#include <string.h>

#include "base/alloc.h"
#include "tenant/tenant_priv.h"

struct mt_attempts {
  mt_tenant *tenant;
  mt_list waiters; /* mt_flight */
  int attempt;     /* finished attempts */
  double started_at, delay_ms;
  mt_timer timer;     /* of the delay; while a ping is in flight, how long its
                         answer may take */
  mt_sleeper sleeper; /* in a delay while the server does not answer */
  mt_node turn;       /* in manager->attempts: its next attempt is due */
  mt_req *ping;       /* in flight */
};

struct mt_flight {
  mt_node node;
  mt_defer answer; /* for waiters that are answered without a flight */
  mt_tenant *tenant;
  mt_connect_fn done;
  void *data;
  bool cancelled;
};

static void attempt(mt_attempts *f);

/* ---- ends ----------------------------------------------------------------------- */

static void answer(mt_flight *w, const mt_error *err, int attempts,
                   double total_ms) {
  mt_connect_fn done = w->done;
  void *data = w->data;
  mt_tenant *t = w->tenant;
  mt_free(w);
  done(data, err, attempts, total_ms);
  mt_tenant_unref(t);
}

static void on_answer(mt_defer *d) {
  mt_flight *w = mt_container(d, mt_flight, answer);
  mt_error *err =
      w->cancelled ? mt_error_new(MT_E_CANCELLED, "cancelled") : NULL;
  answer(w, err, w->cancelled ? 0 : 1, 0);
  mt_error_unref(err);
}

static void end(mt_attempts *f, const mt_error *err) {
  mt_tenant *t = f->tenant;
  mt_reactor *r = t->manager->reactor;
  double total = mt_reactor_now(r) - f->started_at;
  int attempts = f->attempt;
  mt_list waiters = {0};
  mt_node *n;
  mt_list_take(&waiters, &f->waiters);
  mt_timer_del(&f->timer);
  mt_sleeper_forget(&f->sleeper);
  mt_node_unlink(&f->turn);
  if (f->ping) f->ping->data = NULL; /* its answer finds nobody */
  t->flight = NULL;
  mt_free(f);
  while ((n = mt_list_pop(&waiters)))
    answer(mt_container(n, mt_flight, node), err, attempts, total);
  mt__tenant_check(t);
}

void mt__flight_abort(mt_attempts *f, const mt_error *err) { end(f, err); }

/* False: the host has ended the flight within the event. */
static bool event(mt_attempts *f, const char *kind, const mt_error *err) {
  mt_tenant *t = f->tenant;
  mt_event ev = {
      .kind = kind,
      .tenant_id = t->shared ? "shared" : t->id,
      .schema = mt_tenant_schema(t),
      .error = err,
      .attempt = f->attempt,
      .max_attempts = t->manager->cfg.retry.max_attempts,
      .delay_ms = f->delay_ms,
      .total_time_ms = mt_reactor_now(t->manager->reactor) - f->started_at};
  mt__manager_event(t->manager, &ev);
  return t->flight == f;
}

static void succeeded(mt_attempts *f) {
  mt_tenant *t = f->tenant;
  f->attempt++;
  t->verified = mt_pool_generation(t->entry->pool);
  if (f->attempt == 1 || event(f, "connection_success", NULL)) end(f, NULL);
}

/* An entry that never worked is not kept: the next call starts afresh. */
static void gave_up(mt_attempts *f, const mt_error *err) {
  mt_tenant *t = f->tenant;
  if (!event(f, "pool_error", err)) return;
  mt_tenant_ref(t);
  end(f, err);
  if (t->registered && !t->shared && !t->verified && !mt_tenant_busy(t))
    mt__tenant_evict(t, "error");
  mt_tenant_unref(t);
}

/* ---- retry --------------------------------------------------------------------------- */

static bool attempt_one(void *manager) {
  mt_node *n = mt_list_pop(&((mt_manager *)manager)->attempts);
  if (n) attempt(mt_container(n, mt_attempts, turn));
  return n != NULL;
}

/* Thousands may be due at once. */
void mt__flights_start(mt_defer *d) {
  mt_manager *m = mt_container(d, mt_manager, starter);
  m->refs++;
  mt_reactor_slice(m->reactor, d, attempt_one, m);
  mt__manager_unref(m);
}

static void take_turn(mt_attempts *f) {
  mt_manager *m = f->tenant->manager;
  if (!mt_node_linked(&f->turn)) mt_list_push(&m->attempts, &f->turn);
  mt_defer_add(m->reactor, &m->starter, MT_DEFER_DELIVER);
}

static void on_delay(mt_timer *timer) {
  mt_attempts *f = mt_container(timer, mt_attempts, timer);
  mt_sleeper_forget(&f->sleeper);
  take_turn(f);
}

/* The server answers again: no reason to wait any longer. */
static void on_answers(mt_sleeper *sl) {
  mt_attempts *f = mt_container(sl, mt_attempts, sleeper);
  mt_timer_del(&f->timer);
  take_turn(f);
}

static bool worth_it(mt_manager *m, const mt_error *err) {
  if (err->code == MT_E_DISPOSED || err->code == MT_E_CANCELLED) return false;
  if (m->cbs.is_retryable) return m->cbs.is_retryable(m, err, m->data);
  return err->retryable;
}

static void failed(mt_attempts *f, const mt_error *err) {
  mt_tenant *t = f->tenant;
  mt_manager *m = t->manager;
  const mt_retry_policy *p = &m->cfg.retry;
  double elapsed = mt_reactor_now(m->reactor) - f->started_at;
  double delay;
  f->attempt++;
  if (f->attempt >= p->max_attempts || !worth_it(m, err)) {
    gave_up(f, err);
    return;
  }
  delay =
      mt_backoff_delay(p, f->attempt - 1, mt_rand_unit(&m->rand), f->delay_ms);
  if (m->cbs.on_retry)
    m->cbs.on_retry(m, t->shared ? "shared" : t->id, f->attempt, err, elapsed,
                    &delay, m->data);
  if (t->flight != f) return; /* the callback has ended it */
  if (delay < 0 || (p->deadline_ms > 0 && elapsed + delay >= p->deadline_ms)) {
    gave_up(f, err);
    return;
  }
  f->delay_ms = delay;
  if (!event(f, "connection_retry", err)) return;
  f->timer.cb = on_delay;
  mt_timer_set(m->reactor, &f->timer, delay);
  if (t->state == MT_TENANT_READY) mt_pool_sleep(t->entry->pool, &f->sleeper);
}

/* ---- one attempt: route, then ping ------------------------------------------------------ */

static void on_ping(mt_req *req) {
  mt_attempts *f = req->data;
  mt_error *err = req->err ? mt_error_ref(req->err) : NULL;
  mt_req_free(req);
  if (f) {
    f->ping = NULL;
    mt_timer_del(&f->timer);
    if (err)
      failed(f, err);
    else
      succeeded(f);
  }
  mt_error_unref(err);
}

static double answer_limit(const mt_attempts *f) {
  return f->tenant->manager->cfg.connect_timeout_ms;
}

static mt_error *no_answer(const mt_attempts *f) {
  mt_error *e = mt_error_new(MT_E_TIMEOUT, "no answer to a ping within %.0f ms",
                             answer_limit(f));
  if (e->refs) e->retryable = true;
  return e;
}

/* A ping does nothing, so it may be left alone. Where it has a connection to
 * itself the cancel shows whether that is dead, and closes it then. */
static void leave_ping(mt_attempts *f) {
  mt_req *req = f->ping;
  f->ping = NULL;
  req->data = NULL;
  if (mt_share_cancel(&f->tenant->share, req) == MT_CANCEL_TAKEN)
    mt_req_free(req);
}

/* Time in a queue does not count: others see to it. */
static void on_silence(mt_timer *timer) {
  mt_attempts *f = mt_container(timer, mt_attempts, timer);
  mt_reactor *r = f->tenant->manager->reactor;
  double limit = answer_limit(f), sent_at = f->ping->sent_at;
  double left = sent_at > 0 ? sent_at + limit - mt_reactor_now(r) : limit;
  mt_error *err;
  if (limit <= 0) return; /* there is none any more */
  if (left > 0.5) {
    mt_timer_set(r, &f->timer, left);
    return;
  }
  err = no_answer(f);
  leave_ping(f);
  failed(f, err);
  mt_error_unref(err);
}

static void ping(mt_attempts *f) {
  mt_tenant *t = f->tenant;
  mt_error *err = NULL;
  mt_req *req = mt_req_new(MT_REQ_SCOPE | MT_REQ_PING, t->scope, NULL);
  if (!req) {
    failed(f, mt_error_oom());
    return;
  }
  req->on_finish = on_ping;
  req->data = f;
  f->ping = req;
  if (mt_share_submit(&t->share, req, &err) == MT_OK) {
    f->timer.cb = on_silence;
    if (answer_limit(f) > 0)
      mt_timer_set(t->manager->reactor, &f->timer, answer_limit(f));
    return;
  }
  f->ping = NULL;
  mt_req_free(req);
  failed(f, err);
  mt_error_unref(err);
}

static bool under_way(const mt_attempts *f) {
  return f->ping || f->timer.active || mt_node_linked(&f->turn);
}

void mt__flight_resumed(mt_attempts *f) {
  if (!under_way(f)) take_turn(f);
}

void mt__flight_routed(mt_attempts *f, const mt_error *err) {
  if (under_way(f)) return;
  if (err)
    failed(f, err);
  else if (f->tenant->state == MT_TENANT_READY && !mt__tenant_held(f->tenant))
    ping(f);
}

static void attempt(mt_attempts *f) {
  mt_error *err = NULL;
  if (mt__tenant_held(f->tenant)) return;
  if (f->tenant->state == MT_TENANT_READY) {
    ping(f);
  } else if (mt__route_start(f->tenant, &err) != MT_OK) {
    failed(f, err);
    mt_error_unref(err);
  }
}

/* ---- joining -------------------------------------------------------------------------------- */

static bool take_off(mt_tenant *t) {
  mt_attempts *f = mt_calloc(sizeof *f);
  if (!f) return false;
  f->tenant = t;
  f->started_at = mt_reactor_now(t->manager->reactor);
  f->sleeper.wake = on_answers;
  t->flight = f;
  take_turn(f);
  return true;
}

static bool is_verified(const mt_tenant *t) {
  return t->state == MT_TENANT_READY && t->verified &&
         t->verified == mt_pool_generation(t->entry->pool) &&
         mt_pool_has_open(t->entry->pool);
}

int mt_tenant_connect(mt_tenant *t, mt_connect_fn done, void *data,
                      mt_flight **out, mt_error **err) {
  mt_flight *w;
  t = mt_tenant_live(t, err);
  if (!t) return err && *err ? (*err)->code : MT_E_DISPOSED;
  w = mt_calloc(sizeof *w);
  if (!w) return mt_fail(err, mt_error_oom());
  if (!t->flight && !is_verified(t) && !take_off(t)) {
    mt_free(w);
    return mt_fail(err, mt_error_oom());
  }
  w->tenant = mt_tenant_ref(t);
  w->done = done;
  w->data = data;
  w->answer.cb = on_answer;
  if (t->flight)
    mt_list_push(&t->flight->waiters, &w->node);
  else
    mt_defer_add(t->manager->reactor, &w->answer, MT_DEFER_DELIVER);
  if (out) *out = w;
  return MT_OK;
}

void mt_flight_cancel(mt_flight *w) {
  mt_attempts *f = w->tenant->flight;
  mt_error *err;
  w->cancelled = true;
  mt_node_unlink(&w->node);
  mt_defer_add(w->tenant->manager->reactor, &w->answer, MT_DEFER_DELIVER);
  if (!f || f->waiters.len > 0) return;
  err = mt_error_new(MT_E_CANCELLED, "nobody waits any more");
  end(f, err);
  mt_error_unref(err);
}
