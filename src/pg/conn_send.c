/*
 * Sending units on an open connection, and its set-up. A unit is a few steps
 * and one Sync; what can't be sent now waits in the outbox. See conn.h; the
 * answers are read in conn_recv.c.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/conn_priv.h"
#include "pg/reset.h"

/* ---- units ------------------------------------------------------------------ */

static bool send_begin(mt_conn *c, mt_req *req) {
  const mt_scope *s = req->scope;
  c->reads = strstr(req->begin, "READ ONLY") != NULL;
  return mt__add_step(req, MT_STEP_BEGIN, mt__send_text(c, req->begin)) &&
         mt__settings_begin(c, req) &&
         mt__add_step(req, MT_STEP_PATH, mt__send_text(c, s->local_path)) &&
         mt__add_step(req, MT_STEP_ROLE, mt__send_text(c, s->local_role)) &&
         (!s->setting || mt__add_step(req, MT_STEP_SETTING,
                                      mt__send_text(c, s->local_setting)));
}

/* The scope statement in its forms; a session's has no name. */
typedef struct scope_form {
  const char *name, *sql;
  int nparams;
} scope_form;

typedef enum scope_kind {
  SCOPE_SESSION,
  SCOPE_PLAIN,
  SCOPE_TIMEOUT,
  SCOPE_KINDS
} scope_kind;

typedef enum scope_family {
  FAMILY_KNOWN, /* the schema's OID is known, or nothing is to be checked */
  FAMILY_LOOK,
  FAMILY_ROW, /* with a setting */
  FAMILIES
} scope_family;

static const scope_form scope_forms[FAMILIES][SCOPE_KINDS] = {
    {{NULL, MT_SCOPE_SESSION_SQL, 4},
     {"mt_scope", MT_SCOPE_SQL, 4},
     {"mt_scope_t", MT_SCOPE_TIMEOUT_SQL, 5}},
    {{NULL, MT_LOOK_SESSION_SQL, 3},
     {"mt_scope_l", MT_LOOK_SQL, 3},
     {"mt_scope_lt", MT_LOOK_TIMEOUT_SQL, 4}},
    {{NULL, MT_ROW_SESSION_SQL, 5},
     {"mt_scope_r", MT_ROW_SQL, 5},
     {"mt_scope_rt", MT_ROW_TIMEOUT_SQL, 6}}};

/* In a transaction, where all but the check is done by text. */
static const char *const fence_forms[FAMILIES] = {
    MT_FENCE_SQL, MT_LOOK_FENCE_SQL, MT_ROW_FENCE_SQL};

static const scope_form same_form = {"mt_same", MT_SAME_SQL, 2};

static scope_family family_of(const mt_scope *s) {
  if (s->setting) return FAMILY_ROW;
  return s->fence && !s->oid ? FAMILY_LOOK : FAMILY_KNOWN;
}

static bool prepare_form(mt_conn *c, mt_req *req, const scope_form *f) {
  return mt__add_step(req, MT_STEP_PREPARE,
                      PQsendPrepare(c->pg, f->name, f->sql, f->nparams, NULL));
}

/* Gives the named ones their names. */
static bool prepare_scopes(mt_conn *c, mt_req *req, scope_family family) {
  int kind;
  for (kind = SCOPE_PLAIN; kind < SCOPE_KINDS; kind++)
    if (!prepare_form(c, req, &scope_forms[family][kind])) return false;
  c->scope_families |= 1u << family;
  return true;
}

/* By its name, which a pooler may have left on another connection. */
static int send_scope_form(mt_conn *c, const scope_form *f,
                           const char *const *v) {
  if (f->name && !c->opt.pooled)
    return PQsendQueryPrepared(c->pg, f->name, f->nparams, v, NULL, NULL, 0);
  return PQsendQueryParams(c->pg, f->sql, f->nparams, NULL, v, NULL, NULL, 0);
}

static scope_kind scope_kind_of(const mt_req *req) {
  if (req->flags & MT_REQ_SESSION_SCOPE) return SCOPE_SESSION;
  return req->timeout_ms > 0 ? SCOPE_TIMEOUT : SCOPE_PLAIN;
}

/* What is checked: the schema's name, and its OID where it is known (as text,
 * in `oid`). The number of parameters. */
static int fence_params(const mt_scope *s, const char **v, char oid[16]) {
  v[0] = s->fence ? s->schema : NULL;
  if (family_of(s) != FAMILY_KNOWN) return 1;
  snprintf(oid, 16, "%u", (unsigned)s->oid);
  v[1] = s->oid ? oid : NULL;
  return 2;
}

/* The names that a connection may never need it gets at their first use, ahead
 * of all that may fail. */
static bool prepare_missing(mt_conn *c, mt_req *req, scope_family family) {
  if (!mt__settings_prepare(c, req)) return false;
  return c->scope_families & 1u << family || c->opt.pooled ||
         prepare_scopes(c, req, family);
}

/* The tenant's own limit holds beside the statement's. */
static double time_limit(const mt_req *req) {
  const mt_settings *s = req->scope->settings;
  double ms = req->timeout_ms < 1 ? 1 : req->timeout_ms;
  return s && s->timeout_ms > 0 && s->timeout_ms < ms ? s->timeout_ms : ms;
}

static bool send_scope(mt_conn *c, mt_req *req) {
  const mt_scope *s = req->scope;
  const char *v[6] = {s->path, mt_scope_role(s)};
  scope_kind kind = scope_kind_of(req);
  scope_family family = family_of(s);
  char timeout[32], oid[16];
  int n = 2 + fence_params(s, v + 2, oid);
  if (s->setting) {
    v[n++] = s->setting_value;
    v[n++] = s->setting;
  }
  if (kind == SCOPE_TIMEOUT) {
    snprintf(timeout, sizeof timeout, "%.0f", time_limit(req));
    v[n++] = timeout;
  }
  if ((kind != SCOPE_SESSION && !prepare_missing(c, req, family)) ||
      !mt__settings_send(c, req, kind == SCOPE_SESSION))
    return false;
  return mt__add_step(req, MT_STEP_SCOPE,
                      send_scope_form(c, &scope_forms[family][kind], v));
}

/* Not by a name, which somebody's function may have deallocated: a
 * transaction that has begun cannot go elsewhere as a plain statement does. */
static bool send_fence(mt_conn *c, mt_req *req) {
  const mt_scope *s = req->scope;
  const char *v[2];
  char oid[16];
  int n = fence_params(s, v, oid);
  return mt__add_step(req, MT_STEP_FENCE,
                      PQsendQueryParams(c->pg, fence_forms[family_of(s)], n,
                                        NULL, v, NULL, NULL, 0));
}

/* Nothing where the schema is nobody's own. By its name, where that is known to
 * be there, for the statements of a long transaction. */
static bool send_same(mt_conn *c, mt_req *req) {
  const mt_scope *s = req->scope;
  const scope_form *f = &same_form;
  bool named = c->same_named && req->flags & MT_REQ_IN_TX;
  char oid[16];
  const char *v[] = {s->schema, s->oid ? oid : NULL};
  if (!s->fence || s->any_oid) return true;
  snprintf(oid, sizeof oid, "%u", (unsigned)s->oid);
  return mt__add_step(
      req, MT_STEP_FENCE,
      named ? PQsendQueryPrepared(c->pg, f->name, f->nparams, v, NULL, NULL, 0)
            : PQsendQueryParams(c->pg, f->sql, f->nparams, NULL, v, NULL, NULL,
                                0));
}

static void on_deallocated(mt_req *req) { mt_req_free(req); }

/* Its own unit: DEALLOCATE holds even if a unit fails, and must not fail a
 * user's. Lost without harm when memory is short. */
void mt__conn_deallocate(mt_conn *c, uint32_t name) {
  char sql[48];
  mt_req *req;
  snprintf(sql, sizeof sql, "DEALLOCATE mt_%u", name);
  req = mt_req_new_text(0, NULL, sql);
  if (!req) return;
  req->on_done = on_deallocated;
  mt_conn_submit(c, req);
}

static const char *sent_text(const mt_req *req) {
  return req->commented ? req->commented : mt_req_sql(req);
}

static size_t sent_len(const mt_req *req) {
  return req->commented ? strlen(req->commented) : req->sql->len;
}

/* What is the user's of what is sent: texts and parameters. */
static void count_sent(mt_req *req, bool text) {
  if (!req->sql) return;
  req->bytes_sent += req->param_bytes + (text ? sent_len(req) : 0);
}

static bool send_unnamed(mt_conn *c, mt_req *req) {
  count_sent(req, true);
  return mt__add_step(req, MT_STEP_USER,
                      PQsendQueryParams(c->pg, sent_text(req), req->nparams,
                                        NULL, req->params, NULL, NULL, 0));
}

static void count_use(mt_conn *c, mt_stmt_use use, bool evicted) {
  mt_traffic *t = c->opt.traffic;
  if (!t) return;
  t->cache_hits += use == MT_STMT_READY;
  t->cache_misses += use != MT_STMT_READY;
  t->cache_evictions += evicted;
}

static void count_scope(mt_conn *c, const mt_req *req) {
  mt_traffic *t = c->opt.traffic;
  if (!t || !req->scope || req->scope->id == c->last_scope) return;
  t->scope_switches++;
  c->last_scope = req->scope->id;
}

static bool send_user(mt_conn *c, mt_req *req, uint32_t *evicted) {
  const char *name;
  mt_stmt_use use;
  if (req->flags & MT_REQ_PING) return true;
  if (!req->sql || !req->scope || req->flags & MT_REQ_UNNAMED ||
      req->commented || c->opt.pooled)
    return send_unnamed(c, req);
  req->stmt_key = mt_stmt_key(req->scope->id, req->sql->id);
  use = mt_stmt_cache_use(&c->stmts, req->stmt_key, &name, evicted);
  count_use(c, use, *evicted != 0);
  if (use == MT_STMT_UNNAMED) return send_unnamed(c, req);
  req->named = true;
  count_sent(req, use == MT_STMT_PREPARE);
  if (use == MT_STMT_PREPARE &&
      !mt__add_step(req, MT_STEP_PREPARE,
                    PQsendPrepare(c->pg, name, req->sql->text, 0, NULL)))
    return false;
  return mt__add_step(req, MT_STEP_USER,
                      PQsendQueryPrepared(c->pg, name, req->nparams,
                                          req->params, NULL, NULL, 0));
}

static bool send_unit(mt_conn *c, mt_req *req, uint32_t *evicted) {
  return (!req->begin || send_begin(c, req)) &&
         (!(req->flags & (MT_REQ_SCOPE | MT_REQ_SESSION_SCOPE)) ||
          send_scope(c, req)) &&
         (!(req->flags & MT_REQ_FENCE) || send_fence(c, req)) &&
         (!(req->flags & MT_REQ_SAME) || send_same(c, req)) &&
         send_user(c, req, evicted) && PQpipelineSync(c->pg);
}

/* The simple protocol is refused in pipeline mode: step out of it. */
static bool send_simple(mt_conn *c, mt_req *req) {
  if (!PQexitPipelineMode(c->pg)) return false;
  c->simple = true;
  if (req->sql) req->bytes_sent += sent_len(req);
  return mt__add_step(req, MT_STEP_USER, PQsendQuery(c->pg, sent_text(req)));
}

static void send_req(mt_conn *c, mt_req *req) {
  uint32_t evicted = 0;
  bool ok;
  int r;
  req->state = MT_REQ_SENT;
  req->step = req->nsteps = 0;
  mt_list_push(&c->inflight, &req->node);
  c->requests++;
  count_scope(c, req);
  mt__cork_before(c);
  ok = req->flags & MT_REQ_SIMPLE ? send_simple(c, req)
                                  : send_unit(c, req, &evicted);
  if (!ok) {
    req->not_run = req->nsteps == 0;
    /* with the socket gone, the server's last words are still to be read */
    if (PQstatus(c->pg) != CONNECTION_BAD) mt_conn_close(c, mt__conn_lost(c));
    return;
  }
  if (req->flags & MT_REQ_STREAM && req->nsteps == 1) PQsetSingleRowMode(c->pg);
  r = PQflush(c->pg);
  c->blocked = r > 0;
  mt__cork_after(c);
  if (evicted) mt__conn_deallocate(c, evicted);
}

static bool alone(const mt_req *req) {
  return (req->flags & (MT_REQ_SIMPLE | MT_REQ_STREAM)) != 0;
}

static bool can_send(const mt_conn *c, const mt_req *req) {
  if (c->state != MT_CONN_OPEN || c->blocked || c->cancelling || c->simple)
    return false;
  if (!c->inflight.head) return true;
  if (c->opt.pooled) return false; /* see on_setup */
  return !alone(req) && !alone(mt_container(c->inflight.head, mt_req, node));
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

void mt__conn_note_quiet(mt_conn *c) {
  mt_io_set_background(&c->io, c->state == MT_CONN_OPEN && mt_conn_quiet(c));
}

void mt__conn_update_io(mt_conn *c) {
  int fd;
  if (c->state != MT_CONN_OPEN) return;
  mt__conn_note_quiet(c);
  fd = PQsocket(c->pg);
  if (fd < 0) { /* libpq has closed it: no event will come */
    mt_io_del(&c->io, true);
    if (!c->paused) mt_defer_add(c->reactor, &c->processing, MT_DEFER_FLUSH);
    return;
  }
  mt_io_set(c->reactor, &c->io, fd,
            (c->paused ? 0u : MT_READ) | (c->blocked ? MT_WRITE : 0u));
}

/* ---- set-up ----------------------------------------------------------------- */

static void on_ignored(mt_req *req) { mt_req_free(req); }

/* Ends the backend soon after its client has gone, even in the middle of a
 * long statement (PostgreSQL 14 and newer, Linux). */
void mt__conn_set_interval(mt_conn *c) {
  mt_req *req;
  if (PQserverVersion(c->pg) < 140000 || c->opt.pooled) return;
  req = mt_req_new_text(
      0, NULL,
      "select pg_catalog.set_config('client_connection_check_interval',"
      "'2000',false)");
  if (!req) return;
  req->on_done = on_ignored;
  mt_conn_submit(c, req);
}

static bool prepare_names(mt_conn *c, mt_req *req) {
  c->same_named = true;
  return prepare_scopes(c, req, FAMILY_KNOWN) &&
         prepare_form(c, req, &same_form);
}

/* A unit of the guard, the scope statements' names, or both. */
static void send_names(mt_conn *c, const char *guard,
                       void (*on_done)(mt_req *req)) {
  mt_req *req = mt_req_new(MT_REQ_PING, NULL, NULL);
  if (!req) {
    mt_conn_close(c, mt_error_oom());
    return;
  }
  mt_stmt_cache_clear(&c->stmts);
  c->scope_families = 0;
  c->settings_named = false;
  req->on_done = on_done;
  req->data = c;
  req->state = MT_REQ_SENT;
  mt_list_push(&c->inflight, &req->node);
  if ((guard && !mt__add_step(req, MT_STEP_GUARD, mt__send_text(c, guard))) ||
      (!c->opt.pooled && !prepare_names(c, req)) || !PQpipelineSync(c->pg)) {
    mt_conn_close(c, mt__conn_lost(c));
    return;
  }
  c->blocked = PQflush(c->pg) > 0;
}

static void on_prepared(mt_req *req) {
  mt_conn *c = req->data;
  if (req->err && c->state == MT_CONN_OPEN)
    mt_conn_close(c, mt_error_ref(req->err));
  mt_req_free(req);
}

/* Units may be sent right behind it. */
void mt__conn_prepare_scope(mt_conn *c) { send_names(c, NULL, on_prepared); }

/* Only now may others use it. Nothing was sent behind the set-up: PgBouncer
 * gives the answers that a client has not waited for to the next one. */
static void on_setup(mt_req *req) {
  mt_conn *c = req->data;
  mt_error *err = NULL;
  c->rtt_ms = mt_reactor_now(c->reactor) - c->opened_at;
  if (c->state == MT_CONN_OPEN) err = mt__setup_error(c, req);
  mt_req_free(req);
  if (err) mt_conn_close(c, err);
  if (c->state != MT_CONN_OPEN) return;
  mt_timer_del(&c->timer);
  c->ready = true;
  mt__cork_open(c);
  mt__conn_remember(c);
  mt__conn_set_interval(c);
  if (c->state == MT_CONN_OPEN) c->cbs->on_open(c);
}

void mt__conn_setup(mt_conn *c) {
  if (PQsetnonblocking(c->pg, 1) != 0 || !PQenterPipelineMode(c->pg)) {
    mt_conn_close(c, mt_error_oom());
    return;
  }
  PQsetErrorVerbosity(c->pg, PQERRORS_DEFAULT);
  send_names(c, c->opt.pooled ? MT_GUARD_POOLED_SQL : MT_GUARD_SQL, on_setup);
  if (c->state == MT_CONN_OPEN) mt__conn_update_io(c);
}
