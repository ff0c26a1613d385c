/*
 * The retry budget of a server: a token bucket that statements fill and time
 * fills, and what runs again takes from; a tenant may take a share of it. Kept
 * as what was taken and has not come back, so that a full bucket is zero. After
 * Finagle's RetryBudget (twitter.github.io/finagle/guide), which fills by a
 * fifth of the requests and ten a second.
 */
#include "pool/pool_priv.h"

void mt_retry_budget_init(mt_retry_budget *o) {
  *o = (mt_retry_budget){.enabled = true,
                         .per_second = 10,
                         .ratio = 0.2,
                         .burst = 100,
                         .tenant_share = 0.5};
}

void mt_server_set_retry_budget(mt_server *s, const mt_retry_budget *o) {
  s->retry_budget = *o;
}

static void give_back(mt_bucket *b, double tokens) {
  b->taken = b->taken > tokens ? b->taken - tokens : 0;
}

static void let_time_pass(mt_bucket *b, double now, double per_second) {
  give_back(b, (now - b->at) * per_second / 1000);
  b->at = now;
}

void mt__retry_earn(mt_share *s) {
  mt_server *server = s->pool->server;
  give_back(&server->retries, server->retry_budget.ratio);
  give_back(&s->retries, server->retry_budget.ratio);
}

bool mt_share_take_retry(mt_share *s) {
  mt_server *server = s->pool->server;
  const mt_retry_budget *o = &server->retry_budget;
  double now = mt_reactor_now(s->pool->reactor);
  if (!o->enabled) return true;
  let_time_pass(&server->retries, now, o->per_second);
  let_time_pass(&s->retries, now, o->per_second * o->tenant_share);
  if (server->retries.taken + 1 > o->burst ||
      s->retries.taken + 1 > o->burst * o->tenant_share) {
    s->pool->stats.retries_refused++;
    return false;
  }
  server->retries.taken++;
  s->retries.taken++;
  s->pool->stats.retries++;
  return true;
}
