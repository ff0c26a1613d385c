/*
 * Slots: the pool's connections, how they come and go, and when another one is
 * opened. See pool.h; what runs on them is decided in pool.c.
 */
#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/reset.h"
#include "pool/pool_priv.h"

/* ---- state ------------------------------------------------------------------ */

bool mt__slot_is_plain(const mt_slot *s) {
  return s->open && !s->retiring && !s->lease && !s->reserved &&
         !s->conn->retire;
}

bool mt__slot_idle(const mt_slot *s) {
  return mt__slot_is_plain(s) && mt_conn_quiet(s->conn);
}

bool mt__slot_stalled(const mt_slot *s, double now, double ms) {
  const mt_conn *c = s->conn;
  /* nobody knows yet how far away it is: the first unit may take its time */
  double limit = c->rtt_ms > 0 ? ms + 2 * c->rtt_ms : MT_LEASE_WAIT_MS;
  return mt_conn_head_ms(c, now) > limit;
}

void mt__slot_close(mt_slot *s) {
  s->retiring = true;
  mt_conn_close(s->conn, NULL);
}

/* Takes no more work; goes when it is quiet. */
void mt__slot_retire(mt_slot *s) {
  if (!s->retiring) s->pool->stats.retired++;
  s->retiring = true;
  s->pool->epoch++;
  if (!s->lease && mt_conn_quiet(s->conn)) mt__slot_close(s);
}

/* Counts distinct tenants roughly: relations of each stay in the backend's
 * caches, so a connection that saw too many is recycled. */
void mt__slot_touch(mt_slot *s, uint64_t hash) {
  unsigned bit = (unsigned)(hash % MT_TOUCHED_BITS);
  unsigned char mask = (unsigned char)(1u << (bit % 8));
  if (s->bits[bit / 8] & mask) return;
  s->bits[bit / 8] |= mask;
  s->touched++;
  if (s->touched > s->pool->opt.max_tenants_touched) mt__slot_retire(s);
}

static mt_slot *slot_of(mt_conn *c) { return c->data; }

/* ---- connections ------------------------------------------------------------ */

static void on_open(mt_conn *c) {
  mt_slot *s = slot_of(c);
  mt_pool *p = s->pool;
  double now = mt_reactor_now(p->reactor);
  double spread = 0.9 + 0.2 * mt_rand_unit(&p->rand);
  s->open = true;
  s->idle_since = now;
  s->expires_at = now + p->opt.max_lifetime_ms * spread;
  p->connecting--;
  p->server->live++;
  mt__server_connected(p->server);
  mt__breaker_answered(p->server, now);
  p->epoch++;
  p->stats.opened++;
  mt__count_connect(s, now);
  if (++p->stats.open > p->stats.peak) p->stats.peak = p->stats.open;
  if (p->closing) {
    mt__slot_close(s);
    return;
  }
  mt__server_ask(p->server, c);
  mt__pool_dispatch(p);
}

static void count_close(mt_slot *s, const mt_error *err) {
  mt_pool *p = s->pool;
  p->epoch++;
  if (s->open) {
    p->stats.open--;
    p->server->live--;
    if (!err) return;
    p->stats.lost++;
    p->generation++;
    return;
  }
  p->connecting--;
  mt__server_connected(p->server);
  if (!err) return;
  p->stats.connect_failures++;
  mt__count_connect_error(p, err);
  p->next_connect_at = mt_reactor_now(p->reactor) + MT_RECONNECT_PAUSE_MS;
  if (err->code == MT_E_TOO_MANY_CONNECTIONS) mt__server_too_many(p->server);
}

static void on_close(mt_conn *c, const mt_error *err) {
  mt_slot *s = slot_of(c);
  mt_pool *p = s->pool;
  bool was_open = s->open;
  mt_list_remove(&p->slots, &s->node);
  count_close(s, err);
  if (s->lease) mt__lease_lost(s->lease);
  mt_free(s);
  mt__server_give(p->server);
  /* a dead server: everybody hears of it, nobody retries behind their back */
  if (!was_open && err && !p->closing) mt__breaker_failed(p->server, p, err);
  if (p->closing) {
    if (p->slots.len == 0)
      mt_defer_add(p->reactor, &p->closed, MT_DEFER_DELIVER);
    return;
  }
  mt__pool_dispatch(p);
}

/* Nobody waits for what it has sent; ROLLBACK and reset are the pool's. */
static bool is_abandoned(const mt_lease *l) {
  return l && l->state == MT_LEASE_RELEASING && !l->rolled_back &&
         !l->resetting;
}

/* A plain statement has changed the session all the same, by a function. */
static void look_at_session(mt_slot *s) {
  if (s->lease || s->retiring || s->pool->opt.reset == MT_RESET_NEVER ||
      !s->conn->touched)
    return;
  s->pool->stats.tainted++;
  mt__slot_retire(s);
}

/* It is not the server that was asked for any more, and nor are the others:
 * they go, and new ones look for the right one. */
static void look_at_target(mt_slot *s) {
  mt_node *n;
  if (s->retiring || !s->conn->off_target) return;
  for (n = s->pool->server->pools.head; n; n = n->next)
    mt_pool_retire_all(mt_container(n, mt_pool, node));
}

static void on_reset(mt_conn *c, bool clean) {
  mt_slot *s = slot_of(c);
  if (s->lease) mt__lease_reset_done(s->lease, clean);
}

static void on_progress(mt_conn *c) {
  mt_slot *s = slot_of(c);
  mt_pool *p = s->pool;
  look_at_session(s);
  look_at_target(s);
  if (c->state != MT_CONN_OPEN) return;
  if (mt_conn_quiet(c)) {
    s->idle_since = mt_reactor_now(p->reactor);
    if (s->lease && s->lease->state == MT_LEASE_RELEASING)
      mt__lease_continue(s->lease);
    if (c->retire) mt__slot_retire(s);
    if (!s->lease && (s->retiring || p->closing)) {
      mt__slot_close(s);
      return;
    }
    if (!s->lease && !mt_conn_idle_status(c)) { /* nobody may inherit that */
      mt_conn_close(c,
                    mt_error_new(MT_E_PROTOCOL, "a transaction was left open"));
      return;
    }
  } else if (p->closing || is_abandoned(s->lease)) {
    mt_conn_cancel(c, true); /* what runs now; what has run has answered */
  }
  if (p->waiting.len || p->lease_waiters.len) mt__pool_dispatch(p);
}

static bool get_password(mt_conn *c, char *buf, size_t size) {
  mt_pool *p = slot_of(c)->pool;
  return p->password && p->password(p->data, buf, size);
}

static const mt_conn_callbacks conn_callbacks = {
    on_open, on_close, on_progress, get_password, on_reset, NULL};

/* False: no budget or no memory. */
static bool open_one(mt_pool *p) {
  mt_slot *s;
  if (!mt__server_take(p->server, p)) return false;
  s = mt_calloc(sizeof *s);
  if (s) {
    s->pool = p;
    s->salt = mt_rand_next(&p->rand);
    s->started_at = mt_reactor_now(p->reactor);
    s->conn =
        mt_conn_new(p->reactor, p->endpoint, &p->opt.conn, &conn_callbacks, s);
    if (s->conn) {
      mt_list_push(&p->slots, &s->node);
      p->connecting++;
      return true;
    }
  }
  mt_free(s);
  p->server->open--;
  p->server->connecting--;
  p->no_memory = p->slots.len == 0;
  if (p->no_memory) mt__pool_kick(p);
  return false;
}

/* ---- growth ----------------------------------------------------------------- */

typedef struct load {
  size_t usable, loaded, stalled, slow, reserved;
} load;

static load measure(mt_pool *p, double now) {
  load l = {0};
  mt_node *n;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    /* one that drains behind a slow statement is not on its way */
    l.reserved += s->reserved && !mt__slot_stalled(s, now, MT_SLOW_MS);
    if (!s->open || s->retiring || s->lease || s->reserved) continue;
    l.usable++;
    l.loaded += mt_conn_depth(s->conn) >= MT_DEPTH_GROW;
    l.stalled += mt__slot_stalled(s, now, MT_STALLED_MS);
    /* is slow, or will be as far as one knows */
    l.slow += mt__slot_stalled(s, now, MT_SLOW_MS) ||
              (s->alone > 0 && s->ahead_ms >= MT_SLOW_MS);
  }
  return l;
}

/* Does waiting call for another connection? `total` counts those opening. */
static bool wants_one(mt_pool *p, const load *l, size_t total, double now) {
  bool plain = mt__pool_has_ready(p);
  /* one connection that the slow leave to the quick does not count */
  size_t express = mt__pool_express(p, now) && p->ready[MT_SLOW].len > 0;
  size_t soft = MT_SOFT_MAX + express;
  size_t coming = l->reserved + (size_t)p->connecting;
  const mt_lease *first;
  if (total == 0) return plain || p->lease_waiters.len > 0;
  if (total < (size_t)p->opt.min) return true;
  if (p->lease_waiters.len > coming) {
    if (total < soft) return true;
    first = mt_container(p->lease_waiters.head, mt_lease, node);
    if (mt__pool_clock(p) - first->queued_at > MT_LEASE_WAIT_MS) return true;
  }
  if (p->connecting > 0) return false;
  if (plain && l->usable == 0) return true;
  if (plain && l->slow + express >= l->usable) return true;
  if (total >= soft || l->usable == 0) return false;
  if (plain && now - p->blocked_since > MT_BLOCKED_MS) return true;
  return l->loaded == l->usable || (plain && l->stalled == l->usable);
}

void mt__pool_grow(mt_pool *p) {
  double now = mt_reactor_now(p->reactor);
  size_t total = p->slots.len;
  load l;
  if (p->closing) return;
  if (p->stats.open > 0 && now < p->next_connect_at) return;
  l = measure(p, now);
  while (p->connecting < MT_CONNECTING_MAX && wants_one(p, &l, total, now)) {
    if (!open_one(p)) return;
    total = p->slots.len;
  }
}

void mt_pool_retire_all(mt_pool *p) {
  mt_node *n, *next;
  p->generation++;
  for (n = p->slots.head; n; n = next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    next = n->next;
    if (s->open) mt__slot_retire(s);
  }
}
