/*
 * Sending units and reading their answers on an open connection. See conn.h.
 * A unit is a few steps and one Sync; it is acknowledged when its Sync is
 * answered, never earlier.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/conn_priv.h"

enum { MAX_STREAM_ROWS = 512 };

/* ---- send ------------------------------------------------------------------ */

static bool add_step(mt_req *req, mt_step kind, int sent) {
  if (!sent) return false;
  req->steps[req->nsteps++] = (uint8_t)kind;
  return true;
}

static int send_text(mt_conn *c, const char *sql) {
  return PQsendQueryParams(c->pg, sql, 0, NULL, NULL, NULL, NULL, 0);
}

static bool send_begin(mt_conn *c, mt_req *req) {
  const mt_scope *s = req->scope;
  return add_step(req, MT_STEP_BEGIN, send_text(c, req->begin)) &&
         add_step(req, MT_STEP_PATH, send_text(c, s->set_local)) &&
         (!s->local_role ||
          add_step(req, MT_STEP_ROLE, send_text(c, s->local_role)));
}

static bool send_scope(mt_conn *c, mt_req *req) {
  const mt_scope *s = req->scope;
  char timeout[32];
  const char *v[4] = {s->path, s->role, s->fence ? s->schema : NULL, timeout};
  int sent;
  if (req->flags & MT_REQ_SESSION_SCOPE) {
    sent = PQsendQueryParams(c->pg, MT_SCOPE_SESSION_SQL, 3, NULL, v, NULL,
                             NULL, 0);
  } else if (req->timeout_ms > 0) {
    snprintf(timeout, sizeof timeout, "%.0f",
             req->timeout_ms < 1 ? 1 : req->timeout_ms);
    sent = PQsendQueryPrepared(c->pg, "mt_scope_t", 4, v, NULL, NULL, 0);
  } else {
    sent = PQsendQueryPrepared(c->pg, "mt_scope", 3, v, NULL, NULL, 0);
  }
  return add_step(req, MT_STEP_SCOPE, sent);
}

static bool send_fence(mt_conn *c, mt_req *req) {
  const char *v[1] = {req->scope->fence ? req->scope->schema : NULL};
  return add_step(req, MT_STEP_FENCE,
                  PQsendQueryPrepared(c->pg, "mt_fence", 1, v, NULL, NULL, 0));
}

static void on_deallocated(mt_req *req) { mt_req_free(req); }

/* Its own unit: DEALLOCATE holds even if a unit fails, and must not fail a
 * user's. Lost without harm when memory is short. */
static void deallocate(mt_conn *c, uint32_t name) {
  char sql[48];
  mt_req *req;
  snprintf(sql, sizeof sql, "DEALLOCATE mt_%u", name);
  req = mt_req_new_text(0, NULL, sql);
  if (!req) return;
  req->on_done = on_deallocated;
  mt_conn_submit(c, req);
}

static bool send_unnamed(mt_conn *c, mt_req *req) {
  return add_step(req, MT_STEP_USER,
                  PQsendQueryParams(c->pg, mt_req_sql(req), req->nparams, NULL,
                                    req->params, NULL, NULL, 0));
}

static bool send_user(mt_conn *c, mt_req *req, uint32_t *evicted) {
  const char *name;
  mt_stmt_use use;
  if (req->flags & MT_REQ_PING) return true;
  if (!req->sql || !req->scope || req->flags & MT_REQ_UNNAMED)
    return send_unnamed(c, req);
  req->stmt_key = mt_stmt_key(req->scope->id, req->sql->id);
  use = mt_stmt_cache_use(&c->stmts, req->stmt_key, &name, evicted);
  if (use == MT_STMT_UNNAMED) return send_unnamed(c, req);
  req->named = true;
  if (use == MT_STMT_PREPARE &&
      !add_step(req, MT_STEP_PREPARE,
                PQsendPrepare(c->pg, name, req->sql->text, 0, NULL)))
    return false;
  return add_step(req, MT_STEP_USER,
                  PQsendQueryPrepared(c->pg, name, req->nparams, req->params,
                                      NULL, NULL, 0));
}

static bool send_unit(mt_conn *c, mt_req *req, uint32_t *evicted) {
  return (!req->begin || send_begin(c, req)) &&
         (!(req->flags & (MT_REQ_SCOPE | MT_REQ_SESSION_SCOPE)) ||
          send_scope(c, req)) &&
         (!(req->flags & MT_REQ_FENCE) || send_fence(c, req)) &&
         send_user(c, req, evicted) && PQpipelineSync(c->pg);
}

/* The simple protocol is refused in pipeline mode: step out of it. */
static bool send_simple(mt_conn *c, mt_req *req) {
  if (!PQexitPipelineMode(c->pg)) return false;
  c->simple = true;
  return add_step(req, MT_STEP_USER, PQsendQuery(c->pg, mt_req_sql(req)));
}

static mt_error *lost_error(mt_conn *c) {
  const char *text = PQerrorMessage(c->pg);
  size_t n = strcspn(text, "\n");
  mt_error *e = mt_error_new(MT_E_CONNECTION_LOST, "connection to %s lost%s%.*s",
                             c->endpoint->server, n ? ": " : "", (int)n, text);
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

static void send_req(mt_conn *c, mt_req *req) {
  uint32_t evicted = 0;
  bool ok;
  int r;
  req->state = MT_REQ_SENT;
  req->step = req->nsteps = 0;
  mt_list_push(&c->inflight, &req->node);
  c->requests++;
  ok = req->flags & MT_REQ_SIMPLE ? send_simple(c, req)
                                  : send_unit(c, req, &evicted);
  if (!ok) {
    req->not_run = req->nsteps == 0;
    mt_conn_close(c, lost_error(c));
    return;
  }
  if (req->flags & MT_REQ_STREAM && req->nsteps == 1)
    PQsetSingleRowMode(c->pg);
  r = PQflush(c->pg);
  c->blocked = r > 0;
  if (evicted) deallocate(c, evicted);
}

static bool alone(const mt_req *req) {
  return (req->flags & (MT_REQ_SIMPLE | MT_REQ_STREAM)) != 0;
}

static bool can_send(const mt_conn *c, const mt_req *req) {
  if (c->state != MT_CONN_OPEN || c->blocked || c->cancelling || c->simple)
    return false;
  if (!c->inflight.head) return true;
  return !alone(req) &&
         !alone(mt_container(c->inflight.head, mt_req, node));
}

void mt__conn_flush(mt_conn *c) {
  while (c->outbox.head) {
    mt_req *req = mt_container(c->outbox.head, mt_req, node);
    if (!can_send(c, req)) break;
    mt_list_remove(&c->outbox, &req->node);
    send_req(c, req);
  }
  mt__conn_update_io(c);
}

void mt_conn_submit(mt_conn *c, mt_req *req) {
  assert(c->state == MT_CONN_OPEN || c->state == MT_CONN_CLOSED);
  assert(req->state == MT_REQ_NEW || req->state == MT_REQ_WAITING);
  if (!c->outbox.head && can_send(c, req)) {
    send_req(c, req);
    mt__conn_update_io(c);
    return;
  }
  req->state = MT_REQ_WAITING;
  mt_list_push(&c->outbox, &req->node);
}

void mt__conn_update_io(mt_conn *c) {
  int fd;
  if (c->state != MT_CONN_OPEN) return;
  fd = PQsocket(c->pg);
  if (fd < 0) {
    mt_io_del(&c->io, true);
    return;
  }
  mt_io_set(c->reactor, &c->io, fd,
            (c->paused ? 0u : MT_READ) | (c->blocked ? MT_WRITE : 0u));
}

/* ---- errors ------------------------------------------------------------------- */

static void copy_field(char *to, size_t size, const char *from) {
  if (from) snprintf(to, size, "%s", from);
}

mt_error *mt__result_error(const mt_conn *c, const PGresult *res) {
  const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
  const char *msg = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
  const char *sev = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
  const char *pos = PQresultErrorField(res, PG_DIAG_STATEMENT_POSITION);
  bool retryable = false, fatal = sev && *sev != 'E';
  int code = mt_code_from_sqlstate(state ? state : "", MT_PHASE_STATEMENT,
                                   &retryable);
  mt_error *e;
  /* class 08 as a mere ERROR is about the message, not the connection */
  if (code == MT_E_CONNECTION_LOST && !fatal) code = MT_E_QUERY;
  e = mt_error_new(code, "%s", msg ? msg : PQresultErrorMessage(res));
  if (e->refs == 0) return e;
  e->retryable = retryable && code != MT_E_QUERY ? true : retryable;
  copy_field(e->sqlstate, sizeof e->sqlstate, state);
  copy_field(e->severity, sizeof e->severity, sev);
  for (; pos && *pos >= '0' && *pos <= '9'; pos++)
    e->position = e->position * 10 + (*pos - '0');
  mt_error_set_detail(e, PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL));
  mt_error_set_hint(e, PQresultErrorField(res, PG_DIAG_MESSAGE_HINT));
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

static mt_error *fence_error(const mt_conn *c, const mt_req *req) {
  mt_error *e = mt_error_new(
      MT_E_TENANT_NOT_FOUND,
      "schema \"%s\" does not exist, or the role may not use it",
      req->scope->schema);
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

static bool state_is(const mt_error *e, const char *sqlstate) {
  return strcmp(e->sqlstate, sqlstate) == 0;
}

/* The scope statement failed: the user's statement certainly did not run. */
static mt_error *scope_failed(mt_conn *c, mt_req *req, mt_error *e) {
  req->not_run = true;
  if (state_is(e, "22012")) {
    mt_error_unref(e);
    return fence_error(c, req);
  }
  if (state_is(e, "42602") || state_is(e, "26000")) {
    req->dirty = true;
    c->retire = true;
  }
  return e;
}

/* A prepared statement may be stale (DDL) or gone: forget its name; what was
 * refused before it ran is sent again once, outside transactions. */
static void named_failed(mt_conn *c, mt_req *req, mt_error *e) {
  static const char *const stale[] = {"0A000", "26000", "42703",
                                      "42P01", "22P02", "42883"};
  bool refused = state_is(e, "0A000") || state_is(e, "26000");
  uint32_t name;
  size_t i;
  for (i = 0; i < sizeof stale / sizeof *stale; i++)
    if (state_is(e, stale[i])) break;
  if (i == sizeof stale / sizeof *stale) return;
  name = mt_stmt_cache_drop(&c->stmts, req->stmt_key);
  if (name && !state_is(e, "26000")) deallocate(c, name);
  if (!refused) return;
  if (req->flags & MT_REQ_IN_TX) {
    if (e->refs) e->retryable = true;
  } else if (req->resent == 0) {
    req->rerun = true;
  }
}

static void step_failed(mt_conn *c, mt_req *req, const PGresult *res) {
  mt_error *e = mt__result_error(c, res);
  int kind = req->step < req->nsteps ? req->steps[req->step] : MT_STEP_USER;
  if (e->severity[0] == 'F' || e->severity[0] == 'P') c->fatal = true;
  if (kind == MT_STEP_SCOPE || kind == MT_STEP_FENCE) {
    e = scope_failed(c, req, e);
  } else if (kind == MT_STEP_PREPARE) {
    mt_stmt_cache_drop(&c->stmts, req->stmt_key);
  } else if (kind == MT_STEP_USER && req->named) {
    named_failed(c, req, e);
  }
  if (e->refs && kind >= MT_STEP_PREPARE && mt_req_sql(req))
    mt_error_set_statement(e, mt_req_sql(req));
  /* the first error of a unit is its cause; one at the Sync replaces a
   * result, not an error */
  if (!req->err)
    mt_req_set_error(req, e);
  else
    mt_error_unref(e);
}

/* ---- receive ---------------------------------------------------------------------- */

static void add_row(mt_req *req, PGresult *res) {
  if (req->err) {
    PQclear(res);
    return;
  }
  if (req->nrows == req->caprows) {
    int cap = req->caprows ? req->caprows * 2 : 64;
    PGresult **rows =
        mt_realloc(req->rows, (size_t)cap * sizeof *rows);
    if (!rows) {
      PQclear(res);
      if (!req->err) mt_req_set_error(req, mt_error_oom());
      return;
    }
    req->rows = rows;
    req->caprows = cap;
  }
  req->rows[req->nrows++] = res;
}

static void check_commit(mt_req *req) {
  if (!(req->flags & MT_REQ_COMMIT) || req->err || !req->result) return;
  if (strcmp(PQcmdStatus(req->result), "ROLLBACK") != 0) return;
  mt_req_set_error(req, mt_error_new(MT_E_QUERY,
                                     "COMMIT was answered by ROLLBACK: the "
                                     "transaction had failed"));
}

/* The unit's Sync (or the simple query's end) has come. */
static void finish(mt_conn *c, mt_req *req) {
  mt_list_remove(&c->inflight, &req->node);
  check_commit(req);
  if (c->cancelling && !c->cancel && c->inflight.len == 0) {
    c->cancelling = false;
    mt_timer_del(&c->timer);
  }
  if (req->rerun && req->err && !req->detached) {
    mt_req_reset(req);
    req->flags |= MT_REQ_UNNAMED;
    mt_conn_submit(c, req);
    return;
  }
  req->state = MT_REQ_DONE;
  req->on_done(req);
  if (c->state == MT_CONN_OPEN) c->cbs->on_progress(c);
}

static void user_result(mt_req *req, PGresult *res) {
  req->answered = true;
  if (req->err) {
    PQclear(res);
    return;
  }
  if (req->result) PQclear(req->result);
  req->result = res;
}

static void unexpected(mt_conn *c, const char *what) {
  mt_conn_close(c, mt_error_new(MT_E_PROTOCOL, "unexpected %s", what));
}

static void handle(mt_conn *c, mt_req *req, PGresult *res) {
  bool user = c->simple || (req->step < req->nsteps &&
                            req->steps[req->step] == MT_STEP_USER);
  switch (PQresultStatus(res)) {
    case PGRES_PIPELINE_SYNC:
      PQclear(res);
      finish(c, req);
      return;
    case PGRES_SINGLE_TUPLE:
      add_row(req, res);
      return;
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
      if (user) {
        user_result(req, res);
        return;
      }
      break;
    case PGRES_PIPELINE_ABORTED:
      if (req->step < req->nsteps && req->steps[req->step] == MT_STEP_PREPARE)
        mt_stmt_cache_drop(&c->stmts, req->stmt_key);
      break;
    case PGRES_FATAL_ERROR:
    case PGRES_BAD_RESPONSE:
    case PGRES_NONFATAL_ERROR:
      /* without SQLSTATE it is libpq's word on a lost connection */
      if (PQresultErrorField(res, PG_DIAG_SQLSTATE)) step_failed(c, req, res);
      break;
    default:
      unexpected(c, "COPY");
  }
  PQclear(res);
}

/* NULL ends a step, or a simple query. False: nothing more to read. */
static bool step_ended(mt_conn *c, mt_req *req) {
  if (PQstatus(c->pg) == CONNECTION_BAD) return false;
  if (c->simple) {
    c->simple = false;
    if (!PQenterPipelineMode(c->pg)) {
      unexpected(c, "state after a simple query");
      return false;
    }
    finish(c, req);
    return true;
  }
  if (++req->step > req->nsteps) {
    unexpected(c, "end of results");
    return false;
  }
  if (req->flags & MT_REQ_STREAM && req->step < req->nsteps &&
      req->steps[req->step] == MT_STEP_USER && !req->err)
    PQsetSingleRowMode(c->pg);
  return true;
}

static void deliver_rows(mt_conn *c) {
  mt_req *req;
  if (c->state != MT_CONN_OPEN || !c->inflight.head) return;
  req = mt_container(c->inflight.head, mt_req, node);
  if (!(req->flags & MT_REQ_STREAM) || req->nrows == 0) return;
  if (req->detached) { /* the loop was left: drain */
    while (req->nrows > 0) PQclear(req->rows[--req->nrows]);
    return;
  }
  if (req->nrows >= MAX_STREAM_ROWS) c->paused = true;
  req->on_rows(req);
}

void mt__conn_process(mt_conn *c) {
  mt_req *req;
  PGresult *res;
  c->progress_at = mt_reactor_now(c->reactor);
  while (c->state == MT_CONN_OPEN && c->inflight.head && !PQisBusy(c->pg)) {
    req = mt_container(c->inflight.head, mt_req, node);
    if (req->nrows >= MAX_STREAM_ROWS) {
      deliver_rows(c);
      if (c->paused) break;
      continue;
    }
    res = PQgetResult(c->pg);
    if (res)
      handle(c, req, res);
    else if (!step_ended(c, req))
      break;
  }
  deliver_rows(c);
  if (c->state != MT_CONN_OPEN) return;
  if (PQstatus(c->pg) == CONNECTION_BAD && !c->paused) {
    mt_conn_close(c, lost_error(c));
    return;
  }
  mt__conn_flush(c);
}

void mt__conn_on_io(mt_conn *c, unsigned ready) {
  int r;
  if (ready & MT_WRITE) {
    r = PQflush(c->pg);
    c->blocked = r > 0;
  }
  if (ready & MT_READ) {
    if (!PQconsumeInput(c->pg)) c->blocked = false;
  }
  mt__conn_process(c);
}

void mt_conn_resume(mt_conn *c) {
  if (c->state != MT_CONN_OPEN || !c->paused) return;
  c->paused = false;
  mt_defer_add(c->reactor, &c->processing, MT_DEFER_FLUSH);
}

/* ---- end ------------------------------------------------------------------------------ */

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

static void fail_list(mt_conn *c, mt_list *list, bool sent) {
  bool head = sent;
  mt_node *n;
  while ((n = mt_list_pop(list))) {
    mt_req *req = mt_container(n, mt_req, node);
    if (!sent) req->not_run = true;
    mt_req_set_error(req, loss_for(c, req, head));
    head = false;
    req->state = MT_REQ_DONE;
    req->on_done(req);
  }
}

void mt__conn_fail_requests(mt_conn *c) {
  fail_list(c, &c->inflight, true);
  fail_list(c, &c->outbox, false);
}

/* ---- set-up ------------------------------------------------------------------------------ */

static void on_setup(mt_req *req) {
  mt_conn *c = req->data;
  c->rtt_ms = mt_reactor_now(c->reactor) - c->opened_at;
  if (req->err && c->state == MT_CONN_OPEN)
    mt_conn_close(c, mt_error_ref(req->err));
  mt_req_free(req);
}

static void on_ignored(mt_req *req) { mt_req_free(req); }

/* Ends the backend soon after its client has gone, even in the middle of a
 * long statement (PostgreSQL 14 and newer, Linux). */
static void send_check_interval(mt_conn *c) {
  mt_req *req = mt_req_new_text(
      0, NULL,
      "select pg_catalog.set_config('client_connection_check_interval',"
      "'2000',false)");
  if (!req) return;
  req->on_done = on_ignored;
  mt_conn_submit(c, req);
}

/* Prepares the scope statements; units may be sent right behind them. */
void mt__conn_setup(mt_conn *c) {
  mt_req *req = mt_req_new(MT_REQ_PING, NULL, NULL);
  if (!req || PQsetnonblocking(c->pg, 1) != 0 ||
      !PQenterPipelineMode(c->pg)) {
    mt_req_free(req);
    mt_conn_close(c, mt_error_oom());
    return;
  }
  PQsetErrorVerbosity(c->pg, PQERRORS_DEFAULT);
  req->on_done = on_setup;
  req->data = c;
  req->state = MT_REQ_SENT;
  mt_list_push(&c->inflight, &req->node);
  if (!add_step(req, MT_STEP_PREPARE,
                PQsendPrepare(c->pg, "mt_scope", MT_SCOPE_SQL, 3, NULL)) ||
      !add_step(req, MT_STEP_PREPARE,
                PQsendPrepare(c->pg, "mt_scope_t", MT_SCOPE_TIMEOUT_SQL, 4,
                              NULL)) ||
      !add_step(req, MT_STEP_PREPARE,
                PQsendPrepare(c->pg, "mt_fence", MT_FENCE_SQL, 1, NULL)) ||
      !PQpipelineSync(c->pg)) {
    mt_conn_close(c, lost_error(c));
    return;
  }
  if (PQserverVersion(c->pg) >= 140000) send_check_interval(c);
  c->blocked = PQflush(c->pg) > 0;
  mt__conn_update_io(c);
}
