/*
 * W3: 100,000 rows of six mixed columns, in text format, every cell touched.
 *   --iters=5 --verify
 *   --stream=N  instead N generated rows, read one at a time
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#define BIG \
  "select id,name,email,balance,created_at,active from public.accounts_big"
/* A set-returning function in the target list: the server never holds all. */
#define GENERATED                                                      \
  "select id,'name '||id as name,'user'||id||'@example.org' as email," \
  "id/100.0 as balance,now() as created_at,id%2=0 as active "          \
  "from (select generate_series(1,$1::int) as id) s"

enum { ID, NAME, EMAIL, BALANCE, CREATED_AT, ACTIVE };

static bool verify;
static volatile size_t touched; /* keeps the reads from being optimised away */

static void verify_row(const PGresult *res, int row) {
  char expected[64] = "";
  long id = atol(PQgetvalue(res, row, ID));
  bool null_name = id % 10 == 0;
  if (!null_name) snprintf(expected, sizeof expected, "name %ld", id);
  if (strcmp(PQgetvalue(res, row, NAME), expected) == 0 &&
      PQgetisnull(res, row, NAME) == null_name &&
      (*PQgetvalue(res, row, ACTIVE) == 't') == (id % 2 == 0))
    return;
  fprintf(stderr, "wrong row %ld\n", id);
  exit(BENCH_WRONG_ROW);
}

/* The sum over the rows of id, and 1 where active. */
static double read_rows(const PGresult *res) {
  double sum = 0;
  int rows = PQntuples(res), columns = PQnfields(res);
  for (int i = 0; i < rows; i++) {
    size_t bytes = 0;
    for (int j = 0; j < columns; j++)
      if (!PQgetisnull(res, i, j))
        bytes += (size_t)PQgetlength(res, i, j) +
                 (unsigned char)*PQgetvalue(res, i, j);
    touched += bytes;
    sum += atoi(PQgetvalue(res, i, ID));
    sum += *PQgetvalue(res, i, ACTIVE) == 't';
    if (verify) verify_row(res, i);
  }
  return sum;
}

static double fetch_all(PGconn *pg, long *rows) {
  PGresult *res = PQexecParams(pg, BIG, 0, NULL, NULL, NULL, NULL, 0);
  if (PQresultStatus(res) != PGRES_TUPLES_OK) bench_fail("select", pg);
  double sum = read_rows(res);
  *rows += PQntuples(res);
  PQclear(res);
  return sum;
}

typedef struct growth {
  long all_kb, late_kb; /* of the peak: in all, after a tenth of the rows */
} growth;

static growth stream(PGconn *pg, long n, double *check) {
  char count[24];
  const char *params[] = {count};
  PGresult *res;
  long rows = 0, before = bench_memory("VmHWM"), early = 0;
  snprintf(count, sizeof count, "%ld", n);
  if (!PQsendQueryParams(pg, GENERATED, 1, NULL, params, NULL, NULL, 0) ||
      !PQsetSingleRowMode(pg))
    bench_fail("send", pg);
  while ((res = PQgetResult(pg))) {
    ExecStatusType status = PQresultStatus(res);
    if (status == PGRES_SINGLE_TUPLE && ++rows == n / 10)
      early = bench_memory("VmHWM");
    if (status != PGRES_SINGLE_TUPLE && status != PGRES_TUPLES_OK)
      bench_fail("stream", pg);
    *check += read_rows(res);
    PQclear(res);
  }
  long after = bench_memory("VmHWM");
  return (growth){.all_kb = after - before, .late_kb = after - early};
}

int main(int argc, char **argv) {
  long iters = bench_option(argc, argv, "iters", 5);
  long streamed = bench_option(argc, argv, "stream", 0), rows = 0;
  double check = 0;
  char extra[96] = "";
  verify = bench_option(argc, argv, "verify", 0) != 0;
  PGconn *pg = bench_connect("");
  if (streamed) {
    bench_begin();
    growth g = stream(pg, streamed, &check);
    bench_end();
    snprintf(extra, sizeof extra, ",\"growth_kb\":%ld,\"late_kb\":%ld",
             g.all_kb, g.late_kb);
    bench_report("raw-stream", streamed, NULL, check, 1, extra);
  } else {
    fetch_all(pg, &rows); /* warms both sides up */
    rows = 0;
    bench_begin();
    for (long i = 0; i < iters; i++) check = fetch_all(pg, &rows);
    bench_end();
    bench_report("raw-text", rows, NULL, check, 1, "");
  }
  PQfinish(pg);
  return 0;
}
