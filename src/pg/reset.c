/*
 * Reset and its verification. See reset.h and docs/design.md, "Sessions and
 * their reset".
 */
#include "pg/reset.h"

#include <libpq-fe.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rand.h"
#include "pg/conn_priv.h"
#include "pg/result.h"

#define RESET_MS 5000.0 /* then the connection is closed */

/* What DISCARD ALL does, but for the plans. The seed of random() is nobody's
 * secret, but one tenant must not choose another's numbers. */
#define PARTS_SQL                                                            \
  "CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL;"        \
  "UNLISTEN *;SELECT pg_catalog.pg_advisory_unlock_all();DISCARD SEQUENCES;" \
  "DISCARD TEMP;SELECT pg_catalog.setseed(pg_catalog.hashtext("              \
  "pg_catalog.clock_timestamp()::text) / 2147483648.0)"

/* Names what is left of a session, or nothing. Temporary objects are found by
 * their dependency on the schema, which has an index. */
#define LEFT_SQL                                                              \
  "select pg_catalog.concat_ws(', ',"                                         \
  "case when current_user <> session_user or "                                \
  "pg_catalog.current_setting('role') <> 'none' then 'role' end,"             \
  "case when pg_catalog.current_setting('search_path') <> '' "                \
  "then 'search_path' end,"                                                   \
  "(select 'setting ' || pg_catalog.min(name) from pg_catalog.pg_settings "   \
  "where source = 'session' and name <> 'client_connection_check_interval')," \
  "(select 'prepared statement' from pg_catalog.pg_prepared_statements "      \
  "where from_sql limit 1),"                                                  \
  "(select 'scope statement' from pg_catalog.pg_prepared_statements "         \
  "where not from_sql and name in ('mt_scope', 'mt_scope_t', 'mt_same') "     \
  "having pg_catalog.count(*) < 3),"                                          \
  "(select 'cursor' from pg_catalog.pg_cursors where name <> '' limit 1),"    \
  "(select 'channel' from pg_catalog.pg_listening_channels() limit 1),"       \
  "(select 'advisory lock' from pg_catalog.pg_locks where locktype = "        \
  "'advisory' and pid = pg_catalog.pg_backend_pid() limit 1),"                \
  "case when pg_catalog.pg_my_temp_schema() <> 0 then (select "               \
  "'temporary object' from pg_catalog.pg_depend where refclassid = "          \
  "'pg_catalog.pg_namespace'::pg_catalog.regclass and refobjid = "            \
  "pg_catalog.pg_my_temp_schema() limit 1) end)"

/* ---- what the server reports ------------------------------------------------- */

static uint64_t reported(const mt_conn *c) {
  static const char *const names[] = {"TimeZone",
                                      "DateStyle",
                                      "IntervalStyle",
                                      "client_encoding",
                                      "standard_conforming_strings",
                                      "default_transaction_read_only",
                                      "session_authorization",
                                      "application_name"};
  uint64_t h = 0;
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    const char *v = PQparameterStatus(c->pg, names[i]);
    if (v) h = mt_hash64(v, strlen(v) + 1, h);
  }
  return h;
}

void mt__conn_remember(mt_conn *c) { c->reported_settings = reported(c); }

/* In a transaction SET LOCAL may have changed what its end changes back. */
static bool settled(const mt_conn *c) {
  int status = PQtransactionStatus(c->pg);
  return status != PQTRANS_INTRANS && status != PQTRANS_INERROR;
}

bool mt_conn_touched(mt_conn *c) {
  if (c->state == MT_CONN_OPEN && settled(c) &&
      reported(c) != c->reported_settings)
    c->touched = true;
  return c->touched;
}

void mt__conn_see_tag(mt_conn *c, const char *tag) {
  static const char *const lasting[] = {
      "SET",     "RESET",      "LISTEN", "PREPARE", "LOAD",
      "DISCARD", "DEALLOCATE", "DO",     "CALL",    "DECLARE CURSOR"};
  size_t i;
  if (strchr("SRLPD", *tag) == NULL && *tag != 'C') return;
  if (strncmp(tag, "SELECT", 6) == 0) return;
  for (i = 0; i < sizeof lasting / sizeof *lasting; i++)
    if (strncmp(tag, lasting[i], strlen(lasting[i])) == 0) c->touched = true;
  /* took our names along, which the rest of a transaction would fail by */
  if (strcmp(tag, "DEALLOCATE ALL") == 0 || strcmp(tag, "DISCARD ALL") == 0) {
    mt_stmt_cache_clear(&c->stmts);
    c->same_named = false;
  }
}

/* ---- reset ------------------------------------------------------------------- */

static bool start(mt_conn *c, mt_reset_kind kind);

static void end(mt_conn *c, bool clean) {
  c->resetting = false;
  mt_timer_del(&c->timer);
  if (c->state == MT_CONN_OPEN) c->cbs->on_reset(c, clean);
}

static bool nothing_left(mt_conn *c, const mt_req *req) {
  mt_result *res = mt_req_result(req);
  const char *left;
  if (req->err || !res || mt_result_rows(res) != 1) return false;
  left = mt_result_value(res, 0, 0);
  if (!left || *left) return false;
  c->touched = false;
  return !mt_conn_touched(c);
}

static void on_verified(mt_req *req) {
  mt_conn *c = req->data;
  bool clean = nothing_left(c, req);
  mt_req_free(req);
  if (c->state != MT_CONN_OPEN) return; /* on_close tells */
  if (!clean && c->reset_kind == MT_RESET_PARTS && start(c, MT_RESET_DISCARD))
    return;
  end(c, clean);
}

/* What it did is looked at afterwards, whether it failed or not. */
static void on_part(mt_req *req) { mt_req_free(req); }

static mt_req *make(mt_conn *c, unsigned flags, const char *sql,
                    void (*on_done)(mt_req *req)) {
  mt_req *req = mt_req_new_text(flags, NULL, sql);
  if (!req) return NULL;
  req->on_done = on_done;
  req->data = c;
  return req;
}

static bool start(mt_conn *c, mt_reset_kind kind) {
  bool parts = kind == MT_RESET_PARTS;
  mt_req *first = make(c, parts ? MT_REQ_SIMPLE : 0u,
                       parts ? PARTS_SQL : "DISCARD ALL", on_part);
  mt_req *check = first ? make(c, 0, LEFT_SQL, on_verified) : NULL;
  if (!check) {
    mt_req_free(first);
    return false;
  }
  c->reset_kind = kind;
  mt_conn_submit(c, first);
  if (!parts) mt__conn_prepare_scope(c);
  mt__conn_set_interval(c);
  mt_conn_submit(c, check);
  return true;
}

bool mt_conn_reset(mt_conn *c, mt_reset_kind kind) {
  if (!start(c, kind)) return false;
  c->resetting = true;
  mt_timer_set(c->reactor, &c->timer, RESET_MS);
  return true;
}
