/*
 * Sends and receives units on a pipelined connection, see lane.h.
 */
#include "lane.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

double lane_check;
bool lane_verify;

static void flush(lane *l) {
  int left = PQflush(l->pg);
  if (left < 0) bench_fail("flush", l->pg);
  l->blocked = left > 0;
}

static void push(lane *l, unit u) {
  if (lane_in_flight(l) >= LANE_UNITS) bench_fail("lane overflow", NULL);
  l->queue[l->tail++ % LANE_UNITS] = u;
}

static void end_unit(lane *l) {
  if (!PQpipelineSync(l->pg)) bench_fail("sync", l->pg);
  flush(l);
}

void lane_init(lane *l, PGconn *pg, int tenants, lane_form form) {
  l->pg = pg;
  l->named = calloc((size_t)tenants + 1, sizeof *l->named);
  if (!l->named) bench_fail("memory", NULL);
  if (PQsetnonblocking(pg, 1) != 0 || !PQenterPipelineMode(pg))
    bench_fail("pipeline", pg);
  if (form == LANE_QUALIFIED) return;
  if (!PQsendPrepare(pg, "scope", LANE_SCOPE, 0, NULL))
    bench_fail("prepare", pg);
  push(l, (unit){.tenant = 0});
  end_unit(l);
}

static void send_scope(PGconn *pg, int tenant) {
  char schema[32], path[64];
  const char *params[] = {path, "none", schema};
  snprintf(schema, sizeof schema, "tenant_%04d", tenant);
  snprintf(path, sizeof path, "\"%s\",\"public\",pg_temp", schema);
  if (!PQsendQueryPrepared(pg, "scope", 3, params, NULL, NULL, 0))
    bench_fail("scope", pg);
}

static void send_named(lane *l, int tenant, const char *const *params) {
  char name[32];
  snprintf(name, sizeof name, "q%d", tenant);
  if (!l->named[tenant] && !PQsendPrepare(l->pg, name, LANE_SELECT, 0, NULL))
    bench_fail("prepare", l->pg);
  l->named[tenant] = true;
  if (!PQsendQueryPrepared(l->pg, name, 1, params, NULL, NULL, 0))
    bench_fail("send", l->pg);
}

void lane_send(lane *l, unit u, lane_form form) {
  char id[24], sql[128] = LANE_SELECT;
  const char *params[] = {id};
  snprintf(id, sizeof id, "%ld", u.id);
  u.scope_due = form != LANE_QUALIFIED;
  push(l, u);
  if (u.scope_due)
    send_scope(l->pg, u.tenant);
  else
    snprintf(sql, sizeof sql,
             "select id,name,balance from tenant_%04d.accounts where id=$1",
             u.tenant);
  if (form == LANE_NAMED)
    send_named(l, u.tenant, params);
  else if (!PQsendQueryParams(l->pg, sql, 1, NULL, params, NULL, NULL, 0))
    bench_fail("send", l->pg);
  end_unit(l);
}

unsigned lane_in_flight(const lane *l) { return l->tail - l->head; }

short lane_events(const lane *l) {
  return (short)(POLLIN | (l->blocked ? POLLOUT : 0));
}

void lane_handle(lane *l, short revents) {
  if (revents & POLLOUT) flush(l);
  if (revents & ~POLLOUT && !PQconsumeInput(l->pg)) bench_fail("read", l->pg);
}

static void take_row(const PGresult *res, const unit *u) {
  if (PQntuples(res) != 1) bench_fail("rows of a unit", NULL);
  if (lane_verify) bench_verify_row(res, u->tenant, u->id);
  lane_check += atoi(PQgetvalue(res, 0, 0));
}

/* One result of the oldest unit; true when it was the unit's Sync. */
static bool take_result(lane *l, const PGresult *res) {
  unit *u = &l->queue[l->head % LANE_UNITS];
  switch (PQresultStatus(res)) {
    case PGRES_PIPELINE_SYNC:
      return true;
    case PGRES_COMMAND_OK: /* a Prepare */
      return false;
    case PGRES_TUPLES_OK:
      if (!u->scope_due) take_row(res, u);
      u->scope_due = false;
      return false;
    default:
      bench_fail("result", l->pg);
  }
}

bool lane_take(lane *l, unit *done) {
  while (lane_in_flight(l) > 0 && !PQisBusy(l->pg)) {
    PGresult *res = PQgetResult(l->pg);
    bool complete = res && take_result(l, res);
    PQclear(res);
    if (!complete) continue;
    *done = l->queue[l->head++ % LANE_UNITS];
    if (done->tenant != 0) return true;
  }
  return false;
}
