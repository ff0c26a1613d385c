/* The tests' own connection. See observer.h. */
#include "support/observer.h"

#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/test.h"

static bool open_once(mt_observer *o, const mt_test_pg *pg) {
  PGconn *conn = PQconnectdb(pg->admin_url);
  o->pg = conn;
  if (PQstatus(conn) != CONNECTION_OK) return false;
  PQclear(PQexec(conn, "SET client_min_messages = warning"));
  return true;
}

void mt_observer_open(mt_observer *o, const mt_test_pg *pg) {
  if (open_once(o, pg)) return;
  fprintf(stderr, "observer: %s", PQerrorMessage(o->pg));
  exit(1);
}

void mt_observer_close(mt_observer *o) {
  PQfinish(o->pg);
  o->pg = NULL;
}

void mt_observer_reopen(mt_observer *o, const mt_test_pg *pg) {
  int i;
  for (i = 0; i < 2000; i++) {
    mt_observer_close(o);
    if (open_once(o, pg)) return;
    usleep(5000);
  }
  fail_msg("the server does not recover");
}

static void run(mt_observer *o, const char *fmt, va_list ap) {
  char sql[4096];
  PGresult *res;
  ExecStatusType status;
  int len = vsnprintf(sql, sizeof sql, fmt, ap);
  assert_true(len >= 0 && (size_t)len < sizeof sql);
  res = PQexec(o->pg, sql);
  status = PQresultStatus(res);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
    PQclear(res);
    fail_msg("%s: %s", sql, PQerrorMessage(o->pg));
  }
  o->text[0] = '\0';
  if (PQntuples(res) > 0)
    snprintf(o->text, sizeof o->text, "%s", PQgetvalue(res, 0, 0));
  PQclear(res);
}

const char *mt_observer_sql(mt_observer *o, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  run(o, fmt, ap);
  va_end(ap);
  return o->text;
}

long mt_observer_number(mt_observer *o, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  run(o, fmt, ap);
  va_end(ap);
  return strtol(o->text, NULL, 10);
}

int mt_observer_backends(mt_observer *o) {
  return (int)mt_observer_number(
      o,
      "SELECT count(*) FROM pg_stat_activity"
      " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
}

int mt_observer_running(mt_observer *o, const char *part) {
  return (int)mt_observer_number(
      o,
      "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
      " AND pid <> pg_backend_pid() AND position('%s' in query) > 0",
      part);
}

void mt_observer_schema(mt_observer *o, const char *schema) {
  mt_observer_sql(o,
                  "DROP SCHEMA IF EXISTS %s CASCADE;"
                  "CREATE SCHEMA %s AUTHORIZATION mtenant;"
                  "SET ROLE mtenant;"
                  "CREATE TABLE %s.items(id int PRIMARY KEY, name text);"
                  "INSERT INTO %s.items VALUES (1, '%s');"
                  "RESET ROLE",
                  schema, schema, schema, schema, schema);
}
