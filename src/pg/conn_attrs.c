/*
 * target_session_attrs on a connection: is this the right host, and is it
 * still? See session_attrs.h; hosts and addresses are walked in conn.c.
 */
#include <string.h>

#include "base/alloc.h"
#include "pg/conn_priv.h"

/* For servers before 14, which report neither, and poolers, which repeat what
 * some server has once reported. Runs before the pipeline mode is entered. */
#define ROLE_SQL                                                          \
  "select case when pg_catalog.pg_is_in_recovery() then 'on' else 'off' " \
  "end,pg_catalog.current_setting('transaction_read_only')"

/* What is asked for now. */
static mt_target target(const mt_conn *c) {
  mt_target t = c->endpoint->target;
  if (t != MT_TARGET_PREFER_STANDBY) return t;
  return c->second_pass ? MT_TARGET_ANY : MT_TARGET_STANDBY;
}

/* ---- while it is made -------------------------------------------------------- */

static void judge(mt_conn *c, const char *standby, const char *read_only) {
  const char *why = mt_target_problem(target(c), standby, read_only);
  const mt_host *h = &c->endpoint->hosts[c->host];
  mt_error *e;
  if (!why) {
    c->standby = strcmp(standby, "on") == 0;
    mt__conn_opened(c);
    return;
  }
  c->mismatched = true;
  e = mt_error_new(MT_E_UNREACHABLE, "%s:%s %s (target_session_attrs=%s)",
                   mt_host_name(h), h->port, why,
                   mt_target_name(c->endpoint->target));
  if (e->refs) e->retryable = true; /* a failover may be under way */
  mt__conn_address_failed(c, e);
}

/* False: only a question would tell. */
static bool reported(const mt_conn *c, const char **standby,
                     const char **read_only) {
  *standby = PQparameterStatus(c->pg, "in_hot_standby");
  *read_only = PQparameterStatus(c->pg, "default_transaction_read_only");
  return *standby && *read_only && !c->opt.pooled;
}

void mt__attrs_check(mt_conn *c) {
  const char *standby, *read_only;
  if (target(c) == MT_TARGET_ANY) {
    mt__conn_opened(c);
  } else if (reported(c, &standby, &read_only)) {
    judge(c, standby, read_only);
  } else if (PQsendQuery(c->pg, ROLE_SQL)) {
    c->asking = true;
    mt_io_set(c->reactor, &c->io, PQsocket(c->pg), MT_READ);
  } else {
    mt__conn_address_failed(c, mt__conn_lost(c));
  }
}

static bool is_answer(const PGresult *res) {
  return PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1 &&
         PQnfields(res) == 2;
}

void mt__attrs_stop(mt_conn *c) {
  c->asking = false;
  PQclear(c->role);
  c->role = NULL;
}

static void answered(mt_conn *c) {
  PGresult *res = c->role;
  c->role = NULL;
  c->asking = false;
  if (res && is_answer(res))
    judge(c, PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1));
  else if (res && PQresultErrorField(res, PG_DIAG_SQLSTATE))
    mt__conn_address_failed(c, mt__result_error(c, res));
  else
    mt__conn_address_failed(c, mt__conn_lost(c));
  PQclear(res);
}

/* To its very end, which may come later than the result. */
void mt__attrs_on_io(mt_conn *c) {
  PGresult *res;
  if (!PQconsumeInput(c->pg)) {
    mt__conn_address_failed(c, mt__conn_lost(c));
    return;
  }
  while (!PQisBusy(c->pg)) {
    res = PQgetResult(c->pg);
    if (!res) {
      answered(c);
      return;
    }
    PQclear(c->role);
    c->role = res;
  }
}

/* ---- none will do ------------------------------------------------------------ */

bool mt__attrs_look_again(mt_conn *c) {
  if (c->endpoint->target != MT_TARGET_PREFER_STANDBY || c->second_pass)
    return false;
  c->second_pass = true;
  c->mismatched = false;
  mt_free(c->tried);
  c->tried = NULL;
  c->host = 0;
  return true;
}

void mt__attrs_note(mt_conn *c, const mt_error *err) {
  char *all;
  if (c->endpoint->target == MT_TARGET_ANY) return;
  all = mt_asprintf("%s%s%s", c->tried ? c->tried : "", c->tried ? "; " : "",
                    err->message);
  if (!all) return; /* the last one is told alone */
  mt_free(c->tried);
  c->tried = all;
}

mt_error *mt__attrs_failure(const mt_conn *c) {
  mt_error *e;
  if (!c->mismatched || !c->tried) return mt_error_ref(c->last_error);
  e = mt_error_new(MT_E_UNREACHABLE, "%s", c->tried);
  if (e->refs) e->retryable = true;
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

/* ---- while it is open -------------------------------------------------------- */

/* Nobody can set in_hot_standby by a statement, unlike the other one. */
void mt__attrs_watch(mt_conn *c) {
  const char *standby, *read_only;
  if (c->off_target || target(c) == MT_TARGET_ANY) return;
  if (reported(c, &standby, &read_only) &&
      (strcmp(standby, "on") == 0) != c->standby)
    c->off_target = true;
}

/* May the user have asked for it, as far as one can see? */
static bool by_request(const mt_conn *c, const mt_req *req, bool known) {
  if (req->scope && req->scope->read_only) return true;
  if (req->flags & MT_REQ_IN_TX) return !known && c->reads;
  if (req->flags & MT_REQ_SCOPE) return false; /* plain: sets nothing */
  return c->touched; /* a session that was SET, by whatever */
}

/* Is it the server, or did the user ask for what only reads? One that reports
 * its role leaves no doubt but for settings of the user's own session. Under
 * "primary" one whose sessions only read will do, so it is not left. */
void mt__attrs_refused(mt_conn *c, mt_req *req) {
  mt_target t = target(c);
  const char *standby, *read_only;
  bool known;
  if (t != MT_TARGET_READ_WRITE && t != MT_TARGET_PRIMARY) return;
  known = reported(c, &standby, &read_only);
  if (known && !mt_target_problem(t, standby, read_only)) return;
  if (!(known && strcmp(standby, "on") == 0) && by_request(c, req, known))
    return;
  c->off_target = true;
  if (req->err->refs == 1) req->err->retryable = true; /* nothing was done */
}
