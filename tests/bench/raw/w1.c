/*
 * W1: sequential prepared selects on one connection, in one tenant.
 *   --n=20000 --warm=500 --verify
 *   --scope   each select carries the tenant's scope in its own transaction,
 *             as on a shared connection; else the connection's search_path is
 *             the tenant's
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "lane.h"

static void wait_readable(PGconn *pg) {
  struct pollfd fd = {.fd = PQsocket(pg), .events = POLLIN};
  poll(&fd, 1, -1);
  if (!PQconsumeInput(pg)) bench_fail("read", pg);
}

static PGresult *next_result(PGconn *pg) {
  while (PQisBusy(pg)) wait_readable(pg);
  return PQgetResult(pg);
}

static void select_plain(PGconn *pg, const char *id, long number) {
  PGresult *res;
  if (!PQsendQueryPrepared(pg, "q", 1, &id, NULL, NULL, 0))
    bench_fail("send", pg);
  while (PQflush(pg) > 0) continue;
  while ((res = next_result(pg))) {
    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
      bench_fail("select", pg);
    if (lane_verify) bench_verify_row(res, 1, number);
    lane_check += atoi(PQgetvalue(res, 0, 0));
    PQclear(res);
  }
}

static void select_scoped(lane *l, long id) {
  unit done;
  lane_send(l, (unit){.tenant = 1, .id = id}, LANE_NAMED);
  while (!lane_take(l, &done)) {
    struct pollfd fd = {.fd = PQsocket(l->pg), .events = lane_events(l)};
    poll(&fd, 1, -1);
    lane_handle(l, fd.revents);
  }
}

static void prepare_plain(PGconn *pg) {
  PGresult *res = PQprepare(pg, "q", LANE_SELECT, 0, NULL);
  if (PQresultStatus(res) != PGRES_COMMAND_OK) bench_fail("prepare", pg);
  PQclear(res);
  PQsetnonblocking(pg, 1);
}

int main(int argc, char **argv) {
  static lane scoped;
  bool scope = bench_option(argc, argv, "scope", 0) != 0;
  long n = bench_option(argc, argv, "n", 20000);
  long warm = bench_option(argc, argv, "warm", 500);
  double *latency = calloc((size_t)n, sizeof *latency);
  int64_t random = BENCH_SEED;
  lane_verify = bench_option(argc, argv, "verify", 0) != 0;
  PGconn *pg =
      bench_connect(scope ? LANE_GUARD : "-c search_path=tenant_0001,public");
  if (scope)
    lane_init(&scoped, pg, 1, LANE_NAMED);
  else
    prepare_plain(pg);

  for (long i = -warm; i < n; i++) {
    if (i == 0) {
      lane_check = 0;
      bench_begin();
    }
    long id = bench_random(&random) % BENCH_IDS + 1;
    double start = bench_now();
    if (scope) {
      select_scoped(&scoped, id);
    } else {
      char text[24];
      snprintf(text, sizeof text, "%ld", id);
      select_plain(pg, text, id);
    }
    if (i >= 0) latency[i] = bench_now() - start;
  }
  bench_end();
  bench_report(scope ? "raw-scope" : "raw-plain", n, latency, lane_check, 1,
               "");
  PQfinish(pg);
  return 0;
}
