/*
 * Transactions of the C API: a lease whose first statement carries BEGIN, the
 * scope and its fence in the same unit. See mtenant.h. What the Lua layer
 * offers beyond that (savepoints, sessions, streams) is not here.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "pg/result.h"
#include "tenant/tenant_priv.h"

#define CANCEL_AGAIN_MS 50.0

struct mt_tx {
  mt_acquire *acquire; /* while it waits for a connection */
  mt_lease *lease;
  mt_tenant *tenant; /* a reference, while there is a lease */
  mt_scope *scope;
  mt_list statements; /* sent, not answered */
  char begin[64];     /* not sent yet, or "" */
  bool fence;         /* not sent yet */
  mt_reactor *reactor;
  mt_tx_fn ready;
  void (*committed)(void *data, const mt_error *err);
  void *data;
  mt_error *err; /* of a commit that could not be sent */
  mt_defer told;
};

typedef struct statement {
  mt_node node;
  mt_tx *tx;
  mt_tenant *tenant; /* a reference */
  mt_timer timer;
  bool timed_out;
  mt_query_fn done;
  void *data;
} statement;

/* ---- life ------------------------------------------------------------------- */

/* It gives up what it holds; answers of its statements still come. */
static void let_go(mt_tx *tx) {
  mt_node *n;
  while ((n = mt_list_pop(&tx->statements))) {
    statement *st = mt_container(n, statement, node);
    mt_timer_del(&st->timer);
    st->tx = NULL;
  }
  if (tx->lease) mt_lease_release(tx->lease);
  tx->lease = NULL;
  mt_scope_unref(tx->scope);
  tx->scope = NULL;
  if (tx->tenant) mt_tenant_unref(tx->tenant);
  tx->tenant = NULL;
}

static void tx_free(mt_tx *tx) {
  let_go(tx);
  mt_defer_del(&tx->told);
  mt_error_unref(tx->err);
  mt_free(tx);
}

static void begin_text(char *buf, size_t size, const mt_tx_options *o) {
  static const char *const levels[] = {"", " ISOLATION LEVEL READ COMMITTED",
                                       " ISOLATION LEVEL REPEATABLE READ",
                                       " ISOLATION LEVEL SERIALIZABLE"};
  snprintf(buf, size, "BEGIN%s%s%s", levels[o->isolation],
           o->read_only ? " READ ONLY" : "",
           o->deferrable ? " DEFERRABLE" : "");
}

static void on_acquired(mt_acquire *a, mt_lease *l, const mt_error *err) {
  mt_tx *tx = a->data;
  tx->acquire = NULL;
  if (err) {
    tx->ready(tx->data, NULL, err);
    tx_free(tx);
    return;
  }
  tx->lease = l;
  tx->tenant = mt_tenant_ref(a->tenant);
  tx->scope = mt_scope_ref(a->tenant->scope);
  tx->ready(tx->data, tx, NULL);
}

int mt_tenant_begin(mt_tenant *t, const mt_tx_options *options, mt_tx_fn ready,
                    void *data, mt_tx **out, mt_error **err) {
  static const mt_tx_options usual;
  mt_tx *tx;
  int rc;
  if (!options) options = &usual;
  t = mt_tenant_live(t, err);
  if (!t) return err && *err ? (*err)->code : MT_E_DISPOSED;
  if ((unsigned)options->isolation > MT_SERIALIZABLE)
    return mt_fail(err, mt_error_new(MT_E_MISUSE, "isolation: no such level"));
  tx = mt_calloc(sizeof *tx);
  if (!tx) return mt_fail(err, mt_error_oom());
  begin_text(tx->begin, sizeof tx->begin, options);
  tx->fence = true;
  tx->reactor = t->manager->reactor;
  tx->ready = ready;
  tx->data = data;
  rc = mt_tenant_acquire(t, on_acquired, tx, &tx->acquire, err);
  if (rc != MT_OK) {
    mt_free(tx);
    return rc;
  }
  if (out) *out = tx;
  return MT_OK;
}

void mt_tx_rollback(mt_tx *tx) {
  if (!tx) return;
  if (tx->acquire) mt_acquire_cancel(tx->acquire);
  tx_free(tx);
}

/* ---- statements -------------------------------------------------------------- */

/* 57014 says "cancelled" whoever asked for it. */
static void explain(mt_req *req) {
  mt_error *e;
  if (!req->err || req->err->code != MT_E_CANCELLED) return;
  e = mt_error_dup(req->err);
  if (e->refs) {
    e->code = MT_E_TIMEOUT;
    e->retryable = false;
  }
  mt_req_set_error(req, e);
}

static void on_answer(mt_req *req) {
  statement *st = req->data;
  mt_node_unlink(&st->node);
  mt_timer_del(&st->timer);
  if (st->timed_out) explain(req);
  mt_tenant_note_end(st->tenant, req, req->err);
  mt_tenant_unref(st->tenant);
  st->done(st->data, req->err ? NULL : mt_req_result(req), req->err);
  mt_free(st);
  mt_req_free(req);
}

/* Only one cancel at a time is possible. */
static void on_timeout(mt_timer *timer) {
  statement *st = mt_container(timer, statement, timer);
  st->timed_out = true;
  if (!mt_lease_cancel(st->tx->lease))
    mt_timer_set(st->tx->reactor, timer, CANCEL_AGAIN_MS);
}

/* What can't run in a transaction of ours, as MT_E_MISUSE. */
static mt_error *refusal(const mt_tx *tx, const mt_sql_info *info) {
  const char *what = NULL;
  if (info->statements > 1)
    what = "several statements in one text";
  else if (info->cls == MT_SQL_COPY)
    what = "COPY";
  else if (info->cls == MT_SQL_CONTROL)
    what = info->control;
  else if (info->lasting && tx->tenant->manager->cfg.pooled)
    what = "what stays on a session that a pooler gives to others";
  if (!what) return NULL;
  return mt_error_new(MT_E_MISUSE, "mt_tx_query does not take %s", what);
}

/* BEGIN and the fence go in front of the first statement, and a look whether
 * it still is the same schema in front of the others. A query, which they are,
 * would forbid SET TRANSACTION. */
static bool add_prelude(mt_tx *tx, mt_req *req, const mt_sql_info *info) {
  if (tx->begin[0] && !mt_req_set_begin(req, tx->begin)) return false;
  req->flags |= MT_REQ_IN_TX;
  if (!info->set_transaction)
    req->flags |= tx->fence ? MT_REQ_FENCE : MT_REQ_SAME;
  return true;
}

static mt_req *make(mt_tx *tx, const char *sql, int n,
                    const char *const *params, mt_error **err) {
  mt_sql *text = mt_manager_sql(tx->tenant->manager, sql, strlen(sql));
  mt_error *why = text ? refusal(tx, &text->info) : NULL;
  mt_req *req = text && !why ? mt_req_new(0, tx->scope, text) : NULL;
  if (req && (!add_prelude(tx, req, &text->info) ||
              mt__req_params(req, n, params) != MT_OK)) {
    mt_req_free(req);
    req = NULL;
  }
  if (req && text->info.cls > MT_SQL_PLAIN) req->flags |= MT_REQ_UNNAMED;
  mt_sql_unref(text);
  if (!req) mt_fail(err, why ? why : mt_error_oom());
  return req;
}

static void note_sent(mt_tx *tx, const mt_req *req) {
  mt_lease_note(tx->lease, &req->sql->info);
  tx->begin[0] = '\0';
  if (req->flags & MT_REQ_FENCE) tx->fence = false;
}

int mt_tx_query(mt_tx *tx, const char *sql, int nparams,
                const char *const *params, double timeout_ms, mt_query_fn done,
                void *data, mt_error **err) {
  mt_error *why = NULL;
  statement *st;
  mt_req *req;
  int rc;
  if (!tx->lease)
    return mt_fail(err, mt_error_new(MT_E_MISUSE,
                                     "the transaction has not begun: wait for "
                                     "its callback"));
  req = make(tx, sql, nparams, params, &why);
  if (!req) return mt_fail(err, why);
  st = mt_calloc(sizeof *st);
  if (!st) {
    mt_req_free(req);
    return mt_fail(err, mt_error_oom());
  }
  st->tx = tx;
  st->tenant = mt_tenant_ref(tx->tenant);
  st->done = done;
  st->data = data;
  st->timer.cb = on_timeout;
  req->on_finish = on_answer;
  req->data = st;
  note_sent(tx, req); /* sent or not: who can't send is at the end anyway */
  mt_list_push(&tx->statements, &st->node);
  rc = mt_lease_submit(tx->lease, req, err);
  if (rc != MT_OK) {
    mt_list_remove(&tx->statements, &st->node);
    mt_tenant_note_refused(st->tenant, req, rc);
    mt_tenant_unref(st->tenant);
    mt_free(st);
    mt_req_free(req);
    return rc;
  }
  if (timeout_ms <= 0)
    timeout_ms = tx->tenant->manager->cfg.statement_timeout_ms;
  if (timeout_ms > 0) mt_timer_set(tx->reactor, &st->timer, timeout_ms);
  return MT_OK;
}

/* ---- commit ------------------------------------------------------------------ */

static void tell(mt_tx *tx, const mt_error *err) {
  let_go(tx); /* first: who is told may begin the next one */
  tx->committed(tx->data, err);
  tx_free(tx);
}

static void on_committed(mt_req *req) {
  mt_tx *tx = req->data;
  mt_tenant_note_end(tx->tenant, req, req->err);
  tell(tx, req->err);
  mt_req_free(req);
}

static void on_told(mt_defer *d) {
  mt_tx *tx = mt_container(d, mt_tx, told);
  tell(tx, tx->err);
}

static void tell_later(mt_tx *tx, mt_error *err) {
  tx->err = err;
  tx->told.cb = on_told;
  mt_defer_add(tx->reactor, &tx->told, MT_DEFER_DELIVER);
}

void mt_tx_commit(mt_tx *tx, void (*done)(void *data, const mt_error *),
                  void *data) {
  mt_error *err = NULL;
  mt_req *req;
  assert(tx->lease && !tx->committed);
  tx->committed = done;
  tx->data = data;
  if (tx->begin[0]) { /* nothing was ever sent */
    tell_later(tx, NULL);
    return;
  }
  req = mt_req_new_text(MT_REQ_IN_TX | MT_REQ_COMMIT, tx->scope, "COMMIT");
  if (!req) {
    tell_later(tx, mt_error_oom());
    return;
  }
  req->on_finish = on_committed;
  req->data = tx;
  if (mt_lease_submit(tx->lease, req, &err) == MT_OK) return;
  mt_req_free(req);
  tell_later(tx, err);
}
