/*
 * What every raw program needs: options, the clock, CPU and memory of this
 * process, the shared random sequence, and the JSON line at the end.
 * The programs are short-lived: what fails ends them, nothing is freed.
 */
#ifndef BENCH_H
#define BENCH_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

enum { BENCH_SEED = 42, BENCH_IDS = 100, BENCH_WRONG_ROW = 3 };

/* The value of --name=value, else fallback. A bare --name counts as 1. */
long bench_option(int argc, char **argv, const char *name, long fallback);

/* Park-Miller: exact in doubles, so that every language draws the same. */
long bench_random(int64_t *state);

/* Seconds, monotonic. */
double bench_now(void);

/* Memory of this process in kB, by the key of /proc/self/status. */
long bench_memory(const char *key);

/* The measured part lies between these two. */
void bench_begin(void);
void bench_end(void);

/*
 * Prints the JSON line of the measured part: n operations, their latencies
 * in seconds (NULL: none; sorted in place), the check sum and the number of
 * connections. `extra` is more JSON, starting with a comma, or "".
 */
void bench_report(const char *name, long n, double *latency, double check,
                  int conns, const char *extra);

/* A connection by the PG* environment, with `options` as server options. */
PGconn *bench_connect(const char *options);
/* The same, not waited for. */
PGconn *bench_connect_start(const char *options);

/* Prints what, and libpq's message if there is a connection; exits 1. */
_Noreturn void bench_fail(const char *what, const PGconn *pg);

/* Ends the program unless the row is that tenant's, by its name column. */
void bench_verify_row(const PGresult *res, int tenant, long id);

#endif
