/*
 * Shared by the raw programs, see bench.h.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

typedef struct snapshot {
  double wall, user, sys;
  long rss_kb, peak_kb;
} snapshot;

static snapshot began, ended;

long bench_option(int argc, char **argv, const char *name, long fallback) {
  size_t len = strlen(name);
  for (int i = 1; i < argc; i++) {
    const char *arg = argv[i];
    if (strncmp(arg, "--", 2) != 0 || strncmp(arg + 2, name, len) != 0)
      continue;
    if (arg[2 + len] == '=') return atol(arg + 3 + len);
    if (arg[2 + len] == '\0') return 1;
  }
  return fallback;
}

long bench_random(int64_t *state) {
  *state = *state * 16807 % 2147483647;
  return (long)*state;
}

double bench_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

long bench_memory(const char *key) {
  char line[256];
  long kb = 0;
  size_t len = strlen(key);
  FILE *f = fopen("/proc/self/status", "r");
  if (!f) return 0;
  while (fgets(line, sizeof line, f))
    if (strncmp(line, key, len) == 0 && line[len] == ':')
      kb = atol(line + len + 1);
  fclose(f);
  return kb;
}

static double seconds(struct timeval t) {
  return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void take(snapshot *s) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  s->user = seconds(usage.ru_utime);
  s->sys = seconds(usage.ru_stime);
  s->wall = bench_now();
}

void bench_begin(void) { take(&began); }

void bench_end(void) {
  take(&ended);
  ended.rss_kb = bench_memory("VmRSS");
  ended.peak_kb = bench_memory("VmHWM");
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double percentile_us(const double *sorted, long n, double p) {
  long i = (long)((double)n * p);
  if (!sorted || n == 0) return 0;
  return sorted[i < n ? i : n - 1] * 1e6;
}

void bench_report(const char *name, long n, double *latency, double check,
                  int conns, const char *extra) {
  if (latency) qsort(latency, (size_t)n, sizeof *latency, ascending);
  printf(
      "{\"name\":\"%s\",\"n\":%ld,\"wall_s\":%.6f,\"user_s\":%.6f,"
      "\"sys_s\":%.6f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,"
      "\"max_us\":%.1f,\"rss_kb\":%ld,"
      "\"peak_kb\":%ld,\"check\":%.0f,\"conns\":%d%s}\n",
      name, n, ended.wall - began.wall, ended.user - began.user,
      ended.sys - began.sys, percentile_us(latency, n, 0.50),
      percentile_us(latency, n, 0.90), percentile_us(latency, n, 0.99),
      percentile_us(latency, n, 1), ended.rss_kb, ended.peak_kb, check, conns,
      extra);
}

PGconn *bench_connect_start(const char *options) {
  static const char *const keys[] = {"application_name", "options", NULL};
  const char *values[] = {"mtenant-bench-raw", options, NULL};
  PGconn *pg = PQconnectStartParams(keys, values, 0);
  if (!pg || PQstatus(pg) == CONNECTION_BAD) bench_fail("connect", pg);
  return pg;
}

PGconn *bench_connect(const char *options) {
  static const char *const keys[] = {"application_name", "options", NULL};
  const char *values[] = {"mtenant-bench-raw", options, NULL};
  PGconn *pg = PQconnectdbParams(keys, values, 0);
  if (!pg || PQstatus(pg) != CONNECTION_OK) bench_fail("connect", pg);
  return pg;
}

void bench_fail(const char *what, const PGconn *pg) {
  fprintf(stderr, "%s: %s\n", what, pg ? PQerrorMessage(pg) : "failed");
  exit(1);
}

void bench_verify_row(const PGresult *res, int tenant, long id) {
  char expected[64];
  const char *got = PQntuples(res) == 1 ? PQgetvalue(res, 0, 1) : "no row";
  snprintf(expected, sizeof expected, "name %d-%ld", tenant, id);
  if (strcmp(expected, got) == 0) return;
  fprintf(stderr, "wrong row: asked for \"%s\", got \"%s\"\n", expected, got);
  exit(BENCH_WRONG_ROW);
}
