/*
 * Leases: a connection pinned to one share. See pool.h. The decision whether
 * a connection may be used again is made in one place, mt__lease_continue.
 */
#include <assert.h>

#include "base/alloc.h"
#include "pg/reset.h"
#include "pool/pool_priv.h"

/* ---- granting ---------------------------------------------------------------- */

static void hold(mt_lease *l, mt_slot *s) {
  mt_node_unlink(&l->node);
  s->reserved = NULL;
  s->lease = l;
  l->slot = s;
  l->state = MT_LEASE_HELD;
  s->pool->stats.leases++;
}

/* Last in, first out: the others stay idle and may be closed. */
static mt_slot *idle_slot(mt_pool *p) {
  mt_slot *best = NULL;
  mt_node *n;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    if (mt__slot_idle(s) && (!best || s->idle_since > best->idle_since))
      best = s;
  }
  return best;
}

/* The least busy slot that serves plain requests now. One is left to them,
 * unless it is the only connection there will ever be. */
static mt_slot *slot_to_reserve(mt_pool *p) {
  mt_slot *best = NULL;
  size_t plain = 0;
  mt_node *n;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    if (!s->open || s->retiring || s->lease || s->reserved || s->conn->retire)
      continue;
    plain++;
    if (!best || mt_conn_depth(s->conn) < mt_conn_depth(best->conn)) best = s;
  }
  if (plain <= 1 && p->slots.len > 1 && p->waiting.len) return NULL;
  return best;
}

static mt_slot *reserved_for(mt_pool *p, const mt_lease *l) {
  mt_node *n;
  for (n = p->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    if (s->reserved == l) return s;
  }
  return NULL;
}

/* True if the lease is held now. Otherwise a slot may be draining for it. */
static bool grant(mt_pool *p, mt_lease *l) {
  mt_slot *s = reserved_for(p, l), *idle;
  bool going = s && (s->retiring || s->conn->retire);
  if (s && !going && mt_conn_quiet(s->conn)) {
    hold(l, s);
    return true;
  }
  idle = idle_slot(p); /* sooner than what still drains */
  if (s && (idle || going)) s->reserved = NULL;
  if (idle) {
    hold(l, idle);
    return true;
  }
  if (s && !going) return false;
  s = slot_to_reserve(p);
  if (s) s->reserved = l;
  return false;
}

/* Told when all is decided: a holder may give up others who wait. */
void mt__lease_grant_all(mt_pool *p) {
  mt_list granted = {0};
  mt_node *n = p->lease_waiters.head, *next;
  for (; n; n = next) {
    next = n->next;
    if (grant(p, mt_container(n, mt_lease, node))) mt_list_push(&granted, n);
  }
  while ((n = mt_list_pop(&granted))) {
    mt_lease *l = mt_container(n, mt_lease, node);
    l->on_grant(l, NULL);
  }
}

/* Under queue_policy = reject: it would have to wait for another's end. */
static bool is_rejected(const mt_share *s) {
  mt_pool *p = s->pool;
  if (p->opt.queue_policy != MT_QUEUE_REJECT) return false;
  if (s->inflight >= mt__share_max(s)) return true;
  return mt__server_full(p->server) &&
         (p->lease_waiters.len > 0 || !idle_slot(p));
}

int mt_lease_acquire(mt_share *s,
                     void (*on_grant)(mt_lease *l, const mt_error *err),
                     void *data, mt_lease **out, mt_error **err) {
  mt_pool *p = s->pool;
  mt_lease *l;
  mt_error *refusal;
  int rc;
  if (p->closing)
    return mt_fail(err, mt_error_new(MT_E_DISPOSED, "the pool is closed"));
  refusal = mt__breaker_refusal(p->server);
  if (refusal) return mt_fail(err, refusal);
  if (s->leases.len >= mt__share_max_waiting(s))
    return mt__share_refuse(s, err, "too many leases are waiting already");
  if (is_rejected(s))
    return mt__share_refuse(s, err, "every connection is taken");
  rc = mt__rate_admit(s, err);
  if (rc != MT_OK) return rc;
  l = mt_calloc(sizeof *l);
  if (!l) return mt_fail(err, mt_error_oom());
  l->share = s;
  l->on_grant = on_grant;
  l->data = data;
  l->queued_at = mt__pool_clock(p);
  mt_list_push(&s->leases, &l->node);
  *out = l;
  mt__share_wake(s);
  mt__pool_kick(p); /* granting calls back, which must not happen in here */
  return MT_OK;
}

/* ---- use --------------------------------------------------------------------------- */

static void req_done(mt_req *req) {
  mt_lease *l = req->owner;
  l->inflight--;
  l->share->answered = mt_reactor_tick(l->share->pool->reactor);
  mt__req_disposed(l->share->pool, req);
  req->on_finish(req);
}

int mt_lease_submit(mt_lease *l, mt_req *req, mt_error **err) {
  mt_pool *p = l->share->pool;
  assert(l->state == MT_LEASE_HELD);
  if (p->closing)
    return mt_fail(err, mt_error_new(MT_E_DISPOSED, "the pool was closed"));
  if (!l->slot || l->slot->conn->state != MT_CONN_OPEN) {
    mt_error *e = mt_error_new(MT_E_CONNECTION_LOST,
                               "the connection of this lease was lost");
    return mt_fail(err, e);
  }
  if (req->sql) { /* the first of it was counted when it was acquired */
    if (!l->paid) mt__rate_take(l->share, mt_reactor_now(p->reactor));
    l->paid = false;
  }
  req->owner = l;
  req->on_done = req_done;
  req->sent_at = mt_reactor_now(p->reactor);
  l->inflight++;
  p->stats.requests++;
  mt_conn_submit(l->slot->conn, req);
  return MT_OK;
}

bool mt_lease_cancel(mt_lease *l) {
  return l->slot && mt_conn_cancel(l->slot->conn, false);
}

int mt_lease_backend_pid(const mt_lease *l) {
  return l->slot ? mt_conn_backend_pid(l->slot->conn) : 0;
}

void mt_lease_resume(mt_lease *l) {
  if (l->slot) mt_conn_resume(l->slot->conn);
}

/* ---- end ------------------------------------------------------------------------------- */

static void drop(mt_lease *l) {
  mt_share *s = l->share;
  mt_pool *p = s->pool;
  mt_slot *reserved = l->slot ? NULL : reserved_for(p, l);
  if (reserved) reserved->reserved = NULL;
  if (l->slot) l->slot->lease = NULL;
  mt_node_unlink(&l->node);
  if (l->counted) s->inflight--;
  if (l->failed) s->failing--;
  mt_error_unref(l->failed);
  mt_free(l);
  if (!p->closing) mt__share_wake(s);
  mt__share_settle(s);
}

void mt__lease_fail(mt_lease *l, const mt_error *err) {
  mt_slot *reserved = reserved_for(l->share->pool, l);
  mt_share *s = l->share;
  if (reserved) reserved->reserved = NULL;
  if (l->counted) s->inflight--;
  if (l->counted && !s->pool->closing) mt__share_wake(s);
  l->on_grant(l, err);
  mt_free(l);
  mt__share_settle(s);
}

void mt__lease_lost(mt_lease *l) {
  mt_slot *s = l->slot;
  l->slot = NULL;
  if (s) s->lease = NULL;
  if (l->state == MT_LEASE_RELEASING) drop(l);
}

static void on_rolled_back(mt_req *req) {
  mt_lease *l = req->owner;
  l->inflight--;
  mt_req_free(req);
}

static bool roll_back(mt_lease *l) {
  mt_req *req = mt_req_new_text(MT_REQ_IN_TX, NULL, "ROLLBACK");
  if (!req) return false;
  l->rolled_back = true;
  req->owner = l;
  req->on_done = on_rolled_back;
  l->inflight++;
  mt_conn_submit(l->slot->conn, req);
  return true;
}

void mt_lease_note(mt_lease *l, const mt_sql_info *info) {
  if (info->lasting || info->cls == MT_SQL_BLOCK) l->tainted = true;
  if (info->unprovable) l->unprovable = true;
}

/* Free for others, or closed. */
static void go_idle(mt_lease *l, bool clean) {
  mt_slot *s = l->slot;
  mt_pool *p = s->pool;
  bool again = clean && !p->closing && !s->retiring && !s->conn->retire;
  if (!clean) p->stats.tainted++;
  s->idle_since = mt_reactor_now(p->reactor);
  drop(l);
  if (!again) mt__slot_close(s);
}

static bool needs_reset(mt_lease *l) {
  mt_conn *c = l->slot->conn;
  mt_reset_mode mode = l->slot->pool->opt.reset;
  if (mode == MT_RESET_NEVER) return c->touched = false;
  return l->tainted || l->unprovable || mode == MT_RESET_ALWAYS ||
         mt_conn_touched(c);
}

/* It will not be used again anyway. */
static bool is_ending(const mt_slot *s) {
  return s->pool->closing || s->retiring || s->conn->retire;
}

static void reset(mt_lease *l) {
  mt_slot *s = l->slot;
  bool all = s->pool->opt.reset == MT_RESET_DISCARD_ALL;
  /* behind a pooler it would be another session's */
  if (!l->unprovable && !is_ending(s) && !s->pool->opt.conn.pooled) {
    l->resetting =
        mt_conn_reset(s->conn, all ? MT_RESET_DISCARD : MT_RESET_PARTS);
    if (l->resetting) return;
  }
  go_idle(l, is_ending(s));
}

void mt__lease_reset_done(mt_lease *l, bool clean) {
  mt_pool *p = l->share->pool;
  if (clean) p->stats.resets++;
  go_idle(l, clean);
  mt__pool_kick(p);
}

/* The reuse decision: quiet, then no transaction, then nothing left behind. */
void mt__lease_continue(mt_lease *l) {
  mt_conn *c = l->slot->conn;
  if (c->state != MT_CONN_OPEN) return; /* on_close ends it */
  if (!mt_conn_quiet(c) || l->resetting) return;
  if (!mt_conn_idle_status(c)) {
    if (l->rolled_back || !roll_back(l)) go_idle(l, false);
  } else if (needs_reset(l)) {
    reset(l);
  } else {
    go_idle(l, true);
  }
}

void mt_lease_release(mt_lease *l) {
  mt_pool *p = l->share->pool;
  assert(l->state != MT_LEASE_RELEASING);
  if (!l->slot) {
    drop(l);
    mt__pool_kick(p);
    return;
  }
  l->state = MT_LEASE_RELEASING;
  mt_node_unlink(&l->node); /* granted, and not told yet */
  if (mt_conn_quiet(l->slot->conn)) {
    mt__lease_continue(l);
  } else {
    mt_conn_resume(l->slot->conn);
    mt_conn_cancel(l->slot->conn, true);
  }
  mt__pool_kick(p);
}
