/*
 * What the end of a connection means for each request that it holds: whether
 * the server may have done it, and whether it may run elsewhere. See conn.h.
 */
#include <string.h>

#include "pg/conn_priv.h"

#define SHUTDOWN_MS 50.0 /* from SIGTERM to an idle backend's last words */

/* May the server have done it? See docs/design.md, "What is ambiguous". */
static bool is_ambiguous(const mt_conn *c, const mt_req *req, bool head) {
  if (req->not_run || req->state != MT_REQ_SENT) return false;
  if (req->flags & MT_REQ_PING) return false;
  if (req->flags & MT_REQ_IN_TX && !(req->flags & MT_REQ_COMMIT)) return false;
  if (c->fatal) return head && req->answered;
  return true;
}

static mt_error *loss_for(mt_conn *c, const mt_req *req, bool head) {
  const mt_error *cause = head && req->err ? req->err : c->why;
  mt_error *e = cause ? mt_error_dup(cause)
                      : mt_error_new(MT_E_DISPOSED, "the pool was closed");
  if (e->refs == 0) return e;
  e->ambiguous = is_ambiguous(c, req, head);
  e->retryable = !e->ambiguous && e->code == MT_E_CONNECTION_LOST;
  if (mt_req_sql(req)) mt_error_set_statement(e, mt_req_sql(req));
  return e;
}

/* A backend that was told to go ran nothing behind its head, and not the head
 * either if it had been idle until just now: that may run elsewhere. A head
 * that ran for longer may be what an administrator wanted to stop. */
static bool never_ran(const mt_conn *c, const mt_req *req, bool head) {
  if (!c->fatal || req->answered) return false;
  return !head || (req->err && strncmp(req->err->sqlstate, "57P0", 4) == 0 &&
                   mt_reactor_now(c->reactor) - req->sent_at < SHUTDOWN_MS);
}

static void fail_list(mt_conn *c, mt_list *list, bool sent) {
  bool head = sent;
  mt_node *n;
  while ((n = mt_list_pop(list))) {
    mt_req *req = mt_container(n, mt_req, node);
    if (!sent || never_ran(c, req, head)) req->not_run = true;
    mt_req_set_error(req, loss_for(c, req, head));
    head = false;
    req->state = MT_REQ_DONE;
    req->on_done(req);
  }
}

void mt__conn_fail_requests(mt_conn *c) {
  if (c->unheard) c->fatal = false;
  fail_list(c, &c->inflight, true);
  fail_list(c, &c->outbox, false);
}
