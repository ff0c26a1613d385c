/*
 * One breaker per server: while it does not answer, one connection attempt at
 * a time probes it, with a delay that grows; everybody else waits for what that
 * finds. See pool_priv.h and docs/design.md, "Breaker".
 */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "pool/pool_priv.h"

#define JITTER 0.25 /* probes of several processes spread */
#define RAMP_NONE 0 /* the budget alone decides */

void mt_breaker_options_init(mt_breaker_options *o) {
  *o = (mt_breaker_options){.failure_threshold = 1,
                            .initial_delay_ms = 100,
                            .max_delay_ms = 1000,
                            .minimum_throughput = 10,
                            .sampling_duration_ms = 10000};
}

/* ---- the ratio of failures ---------------------------------------------------- */

static void sample(mt_server *s, double now, bool failed) {
  mt_samples *w = &s->samples;
  int64_t tenth = (int64_t)(now * MT_SAMPLES / s->breaker.sampling_duration_ms);
  int64_t i = tenth - w->tenth > MT_SAMPLES ? tenth - MT_SAMPLES : w->tenth;
  if (s->breaker.failure_ratio <= 0) return;
  while (i < tenth) { /* their time is over */
    i++;
    w->all[i % MT_SAMPLES] = w->failed[i % MT_SAMPLES] = 0;
  }
  w->tenth = tenth;
  w->all[tenth % MT_SAMPLES]++;
  w->failed[tenth % MT_SAMPLES] += failed;
}

static bool too_many_failed(const mt_server *s) {
  const mt_breaker_options *o = &s->breaker;
  unsigned all = 0, failed = 0;
  int i;
  if (o->failure_ratio <= 0) return false;
  for (i = 0; i < MT_SAMPLES; i++) {
    all += s->samples.all[i];
    failed += s->samples.failed[i];
  }
  return all >= (unsigned)o->minimum_throughput &&
         failed >= o->failure_ratio * all;
}

/* ---- state ------------------------------------------------------------------ */

static bool is_open(const mt_server *s) {
  return s->tripped ||
         (s->failures >= s->breaker.failure_threshold && s->live == 0);
}

bool mt__breaker_waits(const mt_server *s) { return s->isolated || is_open(s); }

static double delay_of(mt_server *s, mt_pool *p) {
  const mt_breaker_options *o = &s->breaker;
  int n = s->failures - o->failure_threshold;
  double ms = o->initial_delay_ms * pow(2, n < 0 ? 0 : n < 30 ? n : 30);
  if (ms > o->max_delay_ms) ms = o->max_delay_ms;
  if (o->break_duration_ms > 0) ms = o->break_duration_ms;
  return ms * (1 + JITTER * mt_rand_unit(&p->rand));
}

static void on_time(mt_timer *t) {
  mt__server_wake(mt_container(t, mt_server, probe_timer));
}

bool mt__breaker_allows(mt_server *s, mt_pool *p) {
  double now;
  if (s->isolated) return false;
  if (!is_open(s)) return true;
  if (s->connecting > 0) return false;
  now = mt_reactor_now(p->reactor);
  if (now >= s->probe_at) return true;
  s->probe_timer.cb = on_time;
  s->probe_timer.background = true; /* who waits has a timer of his own */
  if (!s->probe_timer.active)
    mt_timer_set(p->reactor, &s->probe_timer, s->probe_at - now);
  return false;
}

/* It is time for the next attempt, and nobody makes it: whoever comes does. */
static bool is_due(const mt_server *s) {
  const mt_node *n = s->pools.head;
  if (s->connecting > 0 || !n) return false;
  return mt_reactor_now(mt_container(n, mt_pool, node)->reactor) >= s->probe_at;
}

mt_error *mt__breaker_refusal(const mt_server *s) {
  mt_error *e;
  bool fast = s->breaker.fail_fast && is_open(s) && s->live == 0 && !is_due(s);
  if (!s->isolated && !fast) return NULL;
  e = s->isolated
          ? mt_error_new(MT_E_BREAKER_OPEN, "server %s is isolated", s->name)
          : mt_error_new(MT_E_BREAKER_OPEN, "server %s does not answer: %s",
                         s->name, s->cause ? s->cause->message : "?");
  mt_error_set_server(e, s->name);
  if (e->refs) e->retryable = true; /* it was not sent */
  return e;
}

/* ---- what attempts find ------------------------------------------------------- */

/* Waiters of all pools that have no connection, and none on its way, hear it
 * at once: the probe was theirs too. */
static void tell_waiters(mt_server *s, const mt_error *err) {
  mt_node *n, *next;
  for (n = s->pools.head; n; n = next) {
    mt_pool *p = mt_container(n, mt_pool, node);
    next = n->next;
    if (p->stats.open == 0 && p->connecting == 0 && !p->closing)
      mt__pool_fail_slowly(p, err);
  }
}

static void wake_sleepers(mt_server *s) {
  mt_node *n;
  while ((n = mt_list_pop(&s->sleepers))) {
    mt_sleeper *sl = mt_container(n, mt_sleeper, node);
    sl->wake(sl);
  }
}

static void recovered(mt_server *s) {
  if (s->failures == 0 && !s->tripped) return;
  s->failures = 0;
  if (s->tripped) memset(&s->samples, 0, sizeof s->samples);
  s->tripped = false;
  mt_error_unref(s->cause);
  s->cause = NULL;
  mt_timer_del(&s->probe_timer);
  wake_sleepers(s);
  mt__server_wake(s);
}

void mt__breaker_answered(mt_server *s, double now) {
  sample(s, now, false);
  if (s->ramp != RAMP_NONE) s->ramp = s->ramp * 2 < s->cap ? s->ramp * 2 : 0;
  recovered(s);
  mt__breaker_note(s);
}

/* It answers, if only to this one, and to say no. */
static bool answers(const mt_server *s, const mt_error *err) {
  return s->live > 0 || !err->retryable;
}

void mt__breaker_failed(mt_server *s, mt_pool *p, const mt_error *err) {
  double now = mt_reactor_now(p->reactor);
  sample(s, now, err->retryable);
  if (too_many_failed(s)) s->tripped = true;
  if (answers(s, err) && !s->tripped) {
    if (p->stats.open == 0) mt__pool_fail_slowly(p, err);
    if (err->sqlstate[0]) recovered(s); /* the server itself has said so */
    mt__breaker_note(s);
    return;
  }
  s->failures++;
  mt_error_unref(s->cause);
  s->cause = mt_error_ref(err);
  s->ramp = s->live + 1;
  s->probe_at = now + delay_of(s, p);
  mt__breaker_note(s);
  mt_timer_del(&s->probe_timer);
  tell_waiters(s, err);
}

bool mt_pool_sleep(mt_pool *p, mt_sleeper *sl) {
  mt_server *s = p->server;
  if (!mt__breaker_waits(s) || mt_node_linked(&sl->node)) return false;
  mt_list_push(&s->sleepers, &sl->node);
  return true;
}

void mt_sleeper_forget(mt_sleeper *sl) { mt_node_unlink(&sl->node); }

/* ---- by hand -------------------------------------------------------------------- */

void mt_server_isolate(mt_server *s) {
  mt_node *n;
  mt_error *err;
  s->isolated = true;
  mt__breaker_note(s);
  err = mt__breaker_refusal(s);
  for (n = s->pools.head; n; n = n->next) {
    mt_pool *p = mt_container(n, mt_pool, node);
    if (p->closing) continue;
    mt__pool_fail_slowly(p, err);
    mt_pool_retire_all(p);
  }
  mt_error_unref(err);
}

void mt_server_close_breaker(mt_server *s) {
  s->isolated = false;
  s->ramp = RAMP_NONE;
  recovered(s);
  mt__breaker_note(s);
  wake_sleepers(s); /* of those that it was isolated from */
  mt__server_wake(s);
}

mt_breaker_state mt_server_breaker_state(const mt_server *s) {
  if (s->isolated) return MT_BREAKER_ISOLATED;
  if (!is_open(s)) return MT_BREAKER_CLOSED;
  return s->connecting > 0 ? MT_BREAKER_HALF_OPEN : MT_BREAKER_OPEN;
}

void mt__breaker_free(mt_server *s) {
  assert(s->sleepers.len == 0);
  mt_timer_del(&s->probe_timer);
  mt_error_unref(s->cause);
}
