/*
 * Reading the answers of units on an open connection: results and errors. A
 * unit is acknowledged when its Sync is answered, never earlier. See conn.h;
 * what a lost connection means for each request is in conn_fail.c.
 */
#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/conn_priv.h"
#include "pg/reset.h"
#include "pg/result.h"

enum { MAX_STREAM_ROWS = 512 };

/* ---- errors ----------------------------------------------------------------- */
mt_error *mt__conn_lost(mt_conn *c) {
  const char *text = PQerrorMessage(c->pg);
  size_t n = strcspn(text, "\n");
  mt_error *e =
      mt_error_new(MT_E_CONNECTION_LOST, "connection to %s lost%s%.*s",
                   c->endpoint->server, n ? ": " : "", (int)n, text);
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

static void copy_field(char *to, size_t size, const char *from) {
  if (from) snprintf(to, size, "%s", from);
}

/* 0 for what is none: no statement is that long. */
static int position(const char *text) {
  int n = 0;
  for (; *text >= '0' && *text <= '9'; text++) {
    if (n > (INT_MAX - 9) / 10) return 0;
    n = n * 10 + (*text - '0');
  }
  return n;
}

mt_error *mt__result_error(const mt_conn *c, const PGresult *res) {
  const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
  const char *msg = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
  const char *sev = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
  const char *pos = PQresultErrorField(res, PG_DIAG_STATEMENT_POSITION);
  bool retryable = false, fatal = sev && *sev != 'E';
  int code =
      mt_code_from_sqlstate(state ? state : "", MT_PHASE_STATEMENT, &retryable);
  mt_error *e;
  /* class 08 as a mere ERROR is about the message, not the connection; and
   * whatever is FATAL (57P05, 25P03 ...) is its end */
  if (code == MT_E_CONNECTION_LOST && !fatal) code = MT_E_QUERY;
  if (code == MT_E_QUERY && fatal) code = MT_E_CONNECTION_LOST;
  e = mt_error_new(code, "%s", msg ? msg : PQresultErrorMessage(res));
  if (e->refs == 0) return e;
  e->retryable = retryable && code != MT_E_QUERY ? true : retryable;
  copy_field(e->sqlstate, sizeof e->sqlstate, state);
  copy_field(e->severity, sizeof e->severity, sev);
  if (pos) e->position = position(pos);
  mt_error_set_detail(e, PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL));
  mt_error_set_hint(e, PQresultErrorField(res, PG_DIAG_MESSAGE_HINT));
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

static mt_error *fence_error(const mt_conn *c, mt_req *req) {
  mt_scope *s = req->scope;
  mt_error *e = mt_error_new(
      MT_E_TENANT_NOT_FOUND,
      s->oid ? "schema \"%s\" does not exist any more, has been made anew, or "
               "the role may not use it"
             : "schema \"%s\" does not exist, or the role may not use it",
      s->schema);
  if (s->oid && !s->read_only) s->stale = true;
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

static bool state_is(const mt_error *e, const char *sqlstate) {
  return strcmp(e->sqlstate, sqlstate) == 0;
}

/* The scope statement failed: the user's statement certainly did not run. */
static mt_error *scope_failed(mt_conn *c, mt_req *req, mt_error *e) {
  req->not_run = true;
  if (state_is(e, "22012") || state_is(e, "3F000")) {
    mt_error_unref(e);
    return fence_error(c, req);
  }
  if (state_is(e, "22P02") && req->scope->setting) { /* bypasses the policies */
    mt_error *policy = mt_error_new(
        MT_E_POLICY,
        "strategy row: the role of the tenant's statements is a superuser or "
        "has BYPASSRLS, so it would see every tenant's rows; connect as "
        "another login, or set isolation.role_template");
    mt_error_set_server(policy, c->endpoint->server);
    mt_error_unref(e);
    return policy;
  }
  if (state_is(e, "42602") || state_is(e, "26000")) {
    req->dirty = true;
    c->retire = true;
    if (req->flags & MT_REQ_IN_TX && e->refs) e->retryable = true;
  }
  return e;
}

/* What is answered now; at the Sync the user's statement is. */
static int step_kind(const mt_req *req) {
  return req->step < req->nsteps ? req->steps[req->step] : MT_STEP_USER;
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
  if (name && !state_is(e, "26000")) mt__conn_deallocate(c, name);
  if (!refused) return;
  if (req->flags & MT_REQ_IN_TX) {
    if (e->refs) e->retryable = true;
  } else if (req->resent == 0) {
    req->rerun = true;
  }
}

static void step_failed(mt_conn *c, mt_req *req, const PGresult *res) {
  mt_error *e = mt__result_error(c, res);
  int kind = step_kind(req);
  /* a pooler's FATAL says nothing about what the server did before */
  if (e->severity[0] == 'F' || e->severity[0] == 'P') {
    c->fatal = !c->opt.pooled;
    if (kind != MT_STEP_USER) req->not_run = true;
  }
  if (kind == MT_STEP_SCOPE || kind == MT_STEP_FENCE) {
    e = scope_failed(c, req, e);
  } else if (kind == MT_STEP_SETTINGS) {
    e = mt__settings_failed(c, req, e);
  } else if (kind == MT_STEP_PREPARE) {
    mt_stmt_cache_drop(&c->stmts, req->stmt_key);
  } else if (kind == MT_STEP_USER && req->named) {
    named_failed(c, req, e);
  }
  if (e->refs && kind >= MT_STEP_PREPARE && mt_req_sql(req))
    mt_error_set_statement(e, mt_req_sql(req));
  if (e->refs && req->flags & MT_REQ_SIMPLE)
    e->statement_number = req->completed + 1;
  /* the first error of a unit is its cause; one at the Sync replaces a
   * result, not an error */
  if (!req->err)
    mt_req_set_error(req, e);
  else
    mt_error_unref(e);
}

/* ---- receive ---------------------------------------------------------------- */

/* Values that a user's statement has given. */
static void count_bytes(const mt_conn *c, mt_req *req, const PGresult *res) {
  if (c->opt.traffic && req->sql)
    req->bytes_received +=
        mt_result_payload((const mt_result *)(const void *)res);
}

static void add_row(const mt_conn *c, mt_req *req, PGresult *res) {
  if (req->err) {
    PQclear(res);
    return;
  }
  if (req->nrows == req->caprows) {
    int cap = req->caprows ? req->caprows * 2 : 64;
    PGresult **rows = mt_realloc(req->rows, (size_t)cap * sizeof *rows);
    if (!rows) {
      PQclear(res);
      if (!req->err) mt_req_set_error(req, mt_error_oom());
      return;
    }
    req->rows = rows;
    req->caprows = cap;
  }
  req->rows[req->nrows++] = res;
  count_bytes(c, req, res);
}

static void check_commit(mt_req *req) {
  if (!(req->flags & MT_REQ_COMMIT) || req->err || !req->result) return;
  if (strcmp(PQcmdStatus(req->result), "ROLLBACK") != 0) return;
  mt_req_set_error(req, mt_error_new(MT_E_QUERY,
                                     "COMMIT was answered by ROLLBACK: the "
                                     "transaction had failed"));
}

/* A statement that nobody waits for runs on while others share its connection,
 * since a cancel might hit them; once it is alone it can go. */
static void cancel_abandoned(mt_conn *c) {
  const mt_req *head;
  if (c->state != MT_CONN_OPEN || c->inflight.len != 1) return;
  head = mt_container(c->inflight.head, mt_req, node);
  if (head->detached && !(head->flags & (MT_REQ_STREAM | MT_REQ_COMMIT)))
    mt_conn_cancel(c, false);
}

/* What the unit took the server, as far as one can see from here: since it can
 * have arrived there, or since the one before it was done. */
static void measure(mt_conn *c, mt_req *req) {
  double arrived = req->sent_at + c->rtt_ms;
  double start = c->answered_at > arrived ? c->answered_at : arrived;
  req->behind_ms = start - arrived;
  req->took_ms = c->progress_at - req->sent_at; /* as its caller sees it */
  req->timed = true;
  if (c->answered_at <= req->sent_at && req->took_ms < c->rtt_ms)
    c->rtt_ms = req->took_ms; /* it was alone: the way takes that at most */
  if (req->sql && !(req->flags & MT_REQ_STREAM))
    mt_sql_observe(req->sql, c->heard_at > start ? c->heard_at - start : 0);
  c->answered_at = c->heard_at;
}

/* The unit's Sync (or the simple query's end) has come. */
static void finish(mt_conn *c, mt_req *req) {
  mt_list_remove(&c->inflight, &req->node);
  check_commit(req);
  if (req->err && state_is(req->err, "25006")) mt__attrs_refused(c, req);
  measure(c, req);
  if (c->cancelling && !c->cancel && c->inflight.len == 0) {
    c->cancelling = false;
    mt_timer_del(&c->timer);
  }
  mt__conn_note_quiet(c);
  if (req->rerun && req->err && !req->detached) {
    mt_req_reset(req);
    req->flags |= MT_REQ_UNNAMED;
    mt_conn_submit(c, req);
    return;
  }
  req->state = MT_REQ_DONE;
  req->on_done(req);
  cancel_abandoned(c);
  c->progressed = true;
}

static void user_result(mt_conn *c, mt_req *req, PGresult *res) {
  req->answered = true;
  req->completed++;
  if (req->sql) mt__conn_see_tag(c, PQcmdStatus(res));
  if (req->err) {
    PQclear(res);
    return;
  }
  if (req->result) PQclear(req->result);
  req->result = res;
  count_bytes(c, req, res);
}

/* All of it at once: libpq keeps what the socket does not take. False: it is
 * nobody's COPY, or there is no memory. */
static bool send_copy(mt_conn *c, mt_req *req) {
  const char *data;
  size_t n;
  if (!c->simple || req->copied >= req->nparams) return false;
  data = req->params[req->copied++];
  n = data ? strlen(data) : 0;
  if (n > INT_MAX || PQputCopyData(c->pg, data, (int)n) < 0) return false;
  if (PQputCopyEnd(c->pg, NULL) < 0) return false;
  c->blocked = PQflush(c->pg) > 0;
  req->bytes_sent += n;
  return true;
}

static void unexpected(mt_conn *c, const char *what) {
  mt_conn_close(c, mt_error_new(MT_E_PROTOCOL, "unexpected %s", what));
}

/* Without SQLSTATE it is libpq's word: on a lost connection, which has its own
 * way; or on an answer that it has no memory for or can't read, and drops. */
static void unreadable(mt_conn *c, const PGresult *res) {
  const char *text = PQresultErrorMessage(res);
  if (PQstatus(c->pg) == CONNECTION_BAD) return;
  mt_conn_close(c, mt_error_new(MT_E_PROTOCOL, "an answer can't be read: %.*s",
                                (int)strcspn(text, "\n"), text));
}

/* The Sync is answered before what was sent ahead of it: answers would go to
 * the wrong requests from here on. (Behind an error libpq ends the other steps
 * itself, and not each of them is seen to end.) */
static bool too_early(const mt_req *req) {
  return !req->err && req->step < req->nsteps;
}

/* The first look at a tenant's schema tells which one it is. */
static void note_schema(mt_req *req, const PGresult *res) {
  int kind = step_kind(req);
  mt_scope *s = req->scope;
  if (kind != MT_STEP_SCOPE && kind != MT_STEP_FENCE) return;
  if (!s->fence || s->any_oid || s->oid || PQntuples(res) != 1) return;
  if (req->flags & MT_REQ_SAME) return;
  s->oid = (uint32_t)strtoul(PQgetvalue(res, 0, 0), NULL, 10);
}

static void handle(mt_conn *c, mt_req *req, PGresult *res) {
  bool user = c->simple || (req->step < req->nsteps &&
                            req->steps[req->step] == MT_STEP_USER);
  switch (PQresultStatus(res)) {
    case PGRES_PIPELINE_SYNC:
      PQclear(res);
      if (too_early(req))
        unexpected(c, "ReadyForQuery");
      else
        finish(c, req);
      return;
    case PGRES_SINGLE_TUPLE:
      add_row(c, req, res);
      return;
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
      if (user) {
        user_result(c, req, res);
        return;
      }
      note_schema(req, res);
      break;
    case PGRES_PIPELINE_ABORTED:
      if (step_kind(req) == MT_STEP_PREPARE)
        mt_stmt_cache_drop(&c->stmts, req->stmt_key);
      break;
    case PGRES_FATAL_ERROR:
    case PGRES_BAD_RESPONSE:
    case PGRES_NONFATAL_ERROR:
      if (PQresultErrorField(res, PG_DIAG_SQLSTATE))
        step_failed(c, req, res);
      else
        unreadable(c, res);
      break;
    case PGRES_COPY_IN:
      if (!send_copy(c, req)) unexpected(c, "COPY");
      break;
    default:
      unexpected(c, "COPY");
  }
  PQclear(res);
}

/* NULL ends a step, or a simple query. False: nothing more to read. */
static bool step_ended(mt_conn *c, mt_req *req) {
  /* libpq drops its queue with the connection: it knows no step any more */
  if (PQstatus(c->pg) == CONNECTION_BAD) return false;
  if (c->simple) {
    c->simple = false;
    if (!req->answered && !req->err) {
      unexpected(c, "end of a simple query");
      return false;
    }
    if (!PQenterPipelineMode(c->pg)) {
      unexpected(c, "state after a simple query");
      return false;
    }
    finish(c, req);
    return true;
  }
  /* an error at the Sync itself, of a deferred constraint, ends like a step */
  if (++req->step > req->nsteps + (req->err != NULL)) {
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

/* One that was sent on a connection that is closed meanwhile is dropped. */
static void deliver_notifications(mt_conn *c) {
  PGnotify *n;
  while (c->state == MT_CONN_OPEN && (n = PQnotifies(c->pg))) {
    c->cbs->on_notify(c, n->relname, n->extra);
    PQfreemem(n);
  }
}

void mt__conn_process(mt_conn *c) {
  mt_req *req;
  PGresult *res;
  c->progress_at = mt_reactor_now(c->reactor);
  c->heard_at = mt_reactor_arrival(c->reactor, c->progress_at);
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
  if (c->cbs->on_notify) deliver_notifications(c);
  if (c->state != MT_CONN_OPEN) return;
  /* once for all that was answered together: the look costs a third of a us */
  mt__attrs_watch(c);
  if ((!c->touched && mt_conn_touched(c)) || c->progressed || c->off_target) {
    c->progressed = false;
    c->cbs->on_progress(c);
  }
  if (c->state != MT_CONN_OPEN) return;
  if (PQstatus(c->pg) == CONNECTION_BAD && !c->paused) {
    mt_conn_close(c, mt__conn_lost(c));
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
