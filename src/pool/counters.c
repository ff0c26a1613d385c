/*
 * What a server's pools count beyond their statistics. See base/metrics.h; none
 * of it decides anything.
 */
#include "base/alloc.h"
#include "pool/pool_priv.h"

bool mt_server_count(mt_server *s) {
  if (!s->traffic) s->traffic = mt_calloc(sizeof *s->traffic);
  return s->traffic;
}

mt_traffic *mt_server_traffic(const mt_server *s) { return s->traffic; }
mt_traffic *mt_pool_traffic(const mt_pool *p) { return p->server->traffic; }

/* ---- sums ------------------------------------------------------------------- */

void mt_pool_stats_add(mt_pool_stats *to, const mt_pool_stats *s) {
  to->opened += s->opened;
  to->lost += s->lost;
  to->connect_failures += s->connect_failures;
  to->retired += s->retired;
  to->leases += s->leases;
  to->requests += s->requests;
  to->tainted += s->tainted;
  to->resets += s->resets;
  to->queue_full += s->queue_full;
  to->queue_timeouts += s->queue_timeouts;
  to->rate_limited += s->rate_limited;
  to->retries += s->retries;
  to->retries_refused += s->retries_refused;
  to->resent += s->resent;
  to->behind += s->behind;
  to->behind_ms += s->behind_ms;
  if (s->behind_max_ms > to->behind_max_ms)
    to->behind_max_ms = s->behind_max_ms;
  to->open += s->open;
  to->peak += s->peak;
}

void mt_server_sum(const mt_server *s, mt_pool_stats *out) {
  const mt_node *n;
  *out = s->gone;
  for (n = s->pools.head; n; n = n->next)
    mt_pool_stats_add(out, &mt_container(n, mt_pool, node)->stats);
}

void mt__count_gone(mt_pool *p) {
  p->stats.open = p->stats.peak = 0; /* these are of now */
  mt_pool_stats_add(&p->server->gone, &p->stats);
}

/* ---- events ----------------------------------------------------------------- */

void mt__count_connect(mt_slot *s, double now) {
  mt_traffic *t = s->pool->server->traffic;
  if (t) mt_hist_add(&t->connect, now - s->started_at);
}

void mt__count_connect_error(mt_pool *p, const mt_error *err) {
  mt_traffic *t = p->server->traffic;
  if (t) t->connect_errors[-err->code]++;
}

void mt__count_lease_end(mt_pool *p, mt_lease_end how) {
  mt_traffic *t = p->server->traffic;
  if (t) t->ends[how]++;
}

void mt__breaker_note(mt_server *s) {
  mt_breaker_state state = mt_server_breaker_state(s);
  if (state == s->noted) return;
  s->noted = state;
  if (s->traffic) s->traffic->transitions[state]++;
}
