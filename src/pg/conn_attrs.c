/*
 * target_session_attrs on a connection: is this the right host, and is it
 * still? See session_attrs.h; hosts and addresses are walked in conn.c.
 */
#include <string.h>

#include "pg/conn_priv.h"

/* What is asked for now. */
static mt_target target(const mt_conn *c) {
  mt_target t = c->endpoint->target;
  if (t != MT_TARGET_PREFER_STANDBY) return t;
  return c->second_pass ? MT_TARGET_ANY : MT_TARGET_STANDBY;
}

static const char *problem(const mt_conn *c) {
  return mt_target_problem(
      target(c), PQparameterStatus(c->pg, "in_hot_standby"),
      PQparameterStatus(c->pg, "default_transaction_read_only"));
}

mt_error *mt__attrs_error(const mt_conn *c) {
  const char *why = problem(c);
  const mt_host *h = &c->endpoint->hosts[c->host];
  mt_error *e;
  if (!why) return NULL;
  e = mt_error_new(MT_E_UNREACHABLE, "%s:%s %s (target_session_attrs=%s)",
                   h->host       ? h->host
                   : h->hostaddr ? h->hostaddr
                                 : "local",
                   h->port, why, mt_target_name(c->endpoint->target));
  if (e->refs) e->retryable = true; /* a failover may be under way */
  return e;
}

bool mt__attrs_look_again(mt_conn *c) {
  if (c->endpoint->target != MT_TARGET_PREFER_STANDBY || c->second_pass)
    return false;
  c->second_pass = true;
  c->host = 0;
  return true;
}

bool mt_conn_off_target(const mt_conn *c) {
  if (c->state != MT_CONN_OPEN || target(c) == MT_TARGET_ANY) return false;
  return c->refused_write || problem(c) != NULL;
}

/* 25006 in a transaction may be the user's own READ ONLY; what the session has
 * by itself is what counts. */
void mt__attrs_refused(mt_conn *c, const mt_req *req, mt_error *e) {
  mt_target t = target(c);
  if (strcmp(e->sqlstate, "25006") != 0 || e->refs == 0) return;
  if (t != MT_TARGET_READ_WRITE && t != MT_TARGET_PRIMARY) return;
  if (req->flags & MT_REQ_IN_TX && !problem(c)) return;
  c->refused_write = true;
  e->retryable = true; /* nothing was done */
}
