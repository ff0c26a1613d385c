/*
 * W2: closed-loop workers, each query to a random tenant, over few pipelined
 * connections; scope and statement of a query in one Sync, statements named
 * per tenant.
 *   --n=100000 --warm=2000 --workers=64 --conns=4 --tenants=100 --verify
 *   --affinity  a tenant always uses the same connection; else a worker does
 */
#include <poll.h>
#include <stdlib.h>

#include "lane.h"

enum { MAX_LANES = 64, MAX_WORKERS = LANE_UNITS - 1 };

static lane lanes[MAX_LANES];
static int conns, tenants, workers;
static bool affinity;
static int64_t random_state = BENCH_SEED;
static double *latency; /* NULL while warming up */

static void next_unit(int worker) {
  unit u = {.worker = worker, .since = bench_now()};
  u.tenant = (int)(bench_random(&random_state) % tenants) + 1;
  u.id = bench_random(&random_state) % BENCH_IDS + 1;
  lane_send(&lanes[(affinity ? u.tenant : worker) % conns], u, LANE_NAMED);
}

/* Runs n units to their end, `workers` of them in flight. */
static void run(long n) {
  struct pollfd fds[MAX_LANES];
  long issued = 0, done = 0;
  unit u;
  for (int w = 0; w < workers && issued < n; w++, issued++) next_unit(w);
  while (done < n) {
    for (int i = 0; i < conns; i++)
      fds[i] = (struct pollfd){.fd = PQsocket(lanes[i].pg),
                               .events = lane_events(&lanes[i])};
    if (poll(fds, (nfds_t)conns, -1) < 0) bench_fail("poll", NULL);
    for (int i = 0; i < conns; i++) {
      if (!fds[i].revents) continue;
      lane_handle(&lanes[i], fds[i].revents);
      while (lane_take(&lanes[i], &u)) {
        if (latency) latency[done] = bench_now() - u.since;
        done++;
        if (issued < n) {
          issued++;
          next_unit(u.worker);
        }
      }
    }
  }
}

int main(int argc, char **argv) {
  long n = bench_option(argc, argv, "n", 100000);
  long warm = bench_option(argc, argv, "warm", 2000);
  workers = (int)bench_option(argc, argv, "workers", 64);
  conns = (int)bench_option(argc, argv, "conns", 4);
  tenants = (int)bench_option(argc, argv, "tenants", 100);
  affinity = bench_option(argc, argv, "affinity", 0) != 0;
  lane_verify = bench_option(argc, argv, "verify", 0) != 0;
  if (conns < 1 || conns > MAX_LANES || workers < 1 || workers > MAX_WORKERS)
    bench_fail("--conns or --workers", NULL);
  double *samples = calloc((size_t)n, sizeof *samples);
  for (int i = 0; i < conns; i++)
    lane_init(&lanes[i], bench_connect(LANE_GUARD), tenants, LANE_NAMED);

  run(warm);
  latency = samples;
  lane_check = 0;
  bench_begin();
  run(n);
  bench_end();
  bench_report(affinity ? "raw-affinity" : "raw", n, samples, lane_check, conns,
               "");
  for (int i = 0; i < conns; i++) PQfinish(lanes[i].pg);
  return 0;
}
