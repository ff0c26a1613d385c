/*
 * One server's connection budget over all pools of this process. With "auto"
 * it starts at 4, and becomes min(20, half of what is free for us) once the
 * first connection has asked; a 53300 halves it.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/result.h"
#include "pool/pool_priv.h"

enum { AUTO_START = 4 };

/* What is free for us: of the server's slots that are not reserved, of the
 * login's limit and of the database's (-1: none). We are one of those that are
 * counted. least() skips NULL. */
#define LIMITS_SQL                                                           \
  "select least(20, greatest(1, least("                                      \
  "pg_catalog.current_setting('max_connections')::int - "                    \
  "pg_catalog.current_setting('superuser_reserved_connections')::int - "     \
  "coalesce(pg_catalog.current_setting('reserved_connections', true)::int, " \
  "0) - (select pg_catalog.sum(numbackends) from "                           \
  "pg_catalog.pg_stat_database)::int,"                                       \
  "(select rolconnlimit - (select pg_catalog.count(*) from "                 \
  "pg_catalog.pg_stat_activity where usesysid = r.oid) from "                \
  "pg_catalog.pg_roles r where rolname = session_user and rolconnlimit >= "  \
  "0)::int,"                                                                 \
  "(select datconnlimit - (select pg_catalog.count(*) from "                 \
  "pg_catalog.pg_stat_activity where datid = d.oid) from "                   \
  "pg_catalog.pg_database d where datname = "                                \
  "pg_catalog.current_database() and datconnlimit >= 0)::int) / 2))"

/* This process's part of what all of them may have. */
static int part_of(const mt_server *s, int all) {
  int part = all / s->processes;
  return part > 0 ? part : 1;
}

mt_server *mt_server_new(const char *name, int max, int processes) {
  mt_server *s = mt_calloc(sizeof *s);
  if (!s) return NULL;
  s->name = mt_strdup(name);
  if (!s->name) {
    mt_free(s);
    return NULL;
  }
  s->max = max;
  s->processes = processes > 0 ? processes : 1;
  mt_breaker_options_init(&s->breaker);
  mt_retry_budget_init(&s->retry_budget);
  s->cap = max > 0 ? max : part_of(s, AUTO_START);
  return s;
}

void mt_server_free(mt_server *s) {
  if (!s) return;
  assert(s->pools.len == 0 && s->open == 0);
  mt__breaker_free(s);
  mt_free(s->traffic);
  mt_free(s->name);
  mt_free(s);
}

void mt_server_set_breaker(mt_server *s, const mt_breaker_options *o) {
  if (o->sampling_duration_ms != s->breaker.sampling_duration_ms)
    memset(&s->samples, 0, sizeof s->samples); /* tenths of another time */
  s->breaker = *o;
}

void mt_server_set_max(mt_server *s, int max) {
  s->max = max;
  s->asked = false;
  if (max > 0) s->cap = max;
  mt__server_wake(s);
}

int mt_server_open(const mt_server *s) { return s->open; }
int mt_server_cap(const mt_server *s) { return s->cap; }

void mt_pool_count(const mt_pool *p, int *total, int *idle) {
  const mt_node *n;
  *total = p->stats.open;
  *idle = 0;
  for (n = p->slots.head; n; n = n->next)
    *idle += mt__slot_idle(mt_container(n, mt_slot, node));
}

void mt_server_look(const mt_server *s, mt_server_view *v) {
  const mt_node *n, *m;
  *v = (mt_server_view){.name = s->name,
                        .state = mt_server_breaker_state(s),
                        .cause = s->cause,
                        .paused = s->paused,
                        .live = s->live,
                        .connecting = s->connecting,
                        .cap = s->cap,
                        .pools = s->pools.len};
  for (n = s->pools.head; n; n = n->next) {
    const mt_pool *p = mt_container(n, mt_pool, node);
    int total, idle;
    mt_pool_count(p, &total, &idle);
    v->idle += idle;
    v->waiting += p->lease_waiters.len;
    for (m = p->waiting.head; m; m = m->next) {
      const mt_share *share = mt_container(m, mt_share, waiting);
      v->waiting += share->reqs.len + share->leases.len;
    }
  }
}

/* The longest idle connection of another pool; none while one that was chosen
 * before has not quite gone. */
static mt_slot *oldest_idle(mt_server *s, const mt_pool *asking) {
  mt_slot *best = NULL;
  mt_node *n, *m;
  for (n = s->pools.head; n; n = n->next) {
    mt_pool *p = mt_container(n, mt_pool, node);
    if (p == asking) continue;
    for (m = p->slots.head; m; m = m->next) {
      mt_slot *slot = mt_container(m, mt_slot, node);
      if (slot->conn->state == MT_CONN_CLOSED) return NULL;
      if (!mt__slot_idle(slot)) continue;
      if (!best || slot->idle_since < best->idle_since) best = slot;
    }
  }
  return best;
}

bool mt__server_full(const mt_server *s) {
  return s->connecting == 0 && s->open >= s->cap;
}

bool mt__server_take(mt_server *s, mt_pool *p) {
  mt_slot *victim;
  int cap = s->ramp > 0 && s->ramp < s->cap ? s->ramp : s->cap;
  if (s->connecting >= MT_CONNECTING_MAX || !mt__breaker_allows(s, p))
    return false;
  if (s->open < cap) {
    s->open++;
    s->connecting++;
    mt__breaker_note(s);
    return true;
  }
  /* its place becomes free when it has closed; the pool is woken then */
  victim = p->slots.len == 0 || p->opt.queue_policy == MT_QUEUE_EVICT_LRU
               ? oldest_idle(s, p)
               : NULL;
  if (victim) mt__slot_close(victim);
  return false;
}

void mt__server_wake(mt_server *s) {
  mt_node *n;
  for (n = s->pools.head; n; n = n->next) {
    mt_pool *p = mt_container(n, mt_pool, node);
    if (!p->closing && (p->waiting.len || p->lease_waiters.len))
      mt__pool_kick(p);
  }
}

void mt__server_give(mt_server *s) {
  assert(s->open > 0);
  s->open--;
  mt__server_wake(s);
}

void mt__server_connected(mt_server *s) {
  assert(s->connecting > 0);
  s->connecting--;
  mt__server_wake(s);
}

void mt__server_too_many(mt_server *s) {
  if (s->max == 0 && s->cap > 2) s->cap = s->cap > 3 ? s->cap / 2 : 2;
}

/* The server outlives its pools' connections: its manager frees it last. */
static void on_limits(mt_req *req) {
  mt_server *s = req->data;
  const char *v;
  mt_result *r = mt_req_result(req);
  if (s->max == 0 && !req->err && r && mt_result_rows(r) == 1 &&
      (v = mt_result_value(r, 0, 0)))
    s->cap = part_of(s, atoi(v));
  if (s->cap < 1) s->cap = 1;
  mt_req_free(req);
}

void mt__server_ask(mt_server *s, mt_conn *c) {
  mt_req *req;
  if (s->max > 0 || s->asked) return;
  req = mt_req_new_text(0, NULL, LIMITS_SQL);
  if (!req) return;
  s->asked = true;
  req->on_done = on_limits;
  req->data = s;
  mt_conn_submit(c, req);
}
