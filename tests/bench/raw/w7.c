/*
 * W7: what a connection costs, in client and in server memory. A pool of its
 * own per tenant pays this per tenant.
 *   --conns=100  each in another tenant's search_path, one query run on each
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { WARM = 5 }; /* connections that load libraries and size the heap */

static PGconn *open_tenant(int tenant) {
  char options[64];
  snprintf(options, sizeof options, "-c search_path=tenant_%04d,public",
           tenant);
  PGconn *pg = bench_connect(options);
  PGresult *res = PQexec(pg, "select id,name,balance from accounts where id=7");
  if (PQresultStatus(res) != PGRES_TUPLES_OK) bench_fail("select", pg);
  bench_verify_row(res, tenant, 7);
  PQclear(res);
  return pg;
}

/* Private memory of a server process in kB; 0 where we may not look. */
static long private_kb(int pid) {
  static const char key[] = "Private_Dirty:";
  char path[64], line[256];
  long kb = 0;
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  while (fgets(line, sizeof line, f))
    if (strncmp(line, key, sizeof key - 1) == 0)
      kb = atol(line + sizeof key - 1);
  fclose(f);
  return kb;
}

int main(int argc, char **argv) {
  int conns = (int)bench_option(argc, argv, "conns", 100);
  PGconn **pgs = calloc((size_t)conns + WARM, sizeof(PGconn *));
  char extra[128];
  double server_kb = 0;
  for (int i = 0; i < WARM; i++) pgs[conns + i] = open_tenant(1);

  long before = bench_memory("VmRSS");
  bench_begin();
  for (int i = 0; i < conns; i++) pgs[i] = open_tenant(i + 1);
  bench_end();
  double client_kb = (double)(bench_memory("VmRSS") - before) / conns;
  for (int i = 0; i < conns; i++)
    server_kb += (double)private_kb(PQbackendPID(pgs[i])) / conns;

  snprintf(extra, sizeof extra,
           ",\"kb_per_item\":%.3f,\"server_kb_per_item\":%.0f", client_kb,
           server_kb);
  bench_report("raw-connections", conns, NULL, conns, conns + WARM, extra);
  for (int i = 0; i < conns + WARM; i++) PQfinish(pgs[i]);
  return 0;
}
