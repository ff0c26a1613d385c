/*
 * W4: from nothing to the first query of each of many tenants, over a few
 * shared connections that are opened within the measured time.
 *   --tenants=1000 --workers=64 --conns=20 --verify
 *   --scope  the tenant's scope rides with each query; else the schema's name
 *            is in its text
 * A worker that has its row asks for the next tenant; the wait for a
 * connection counts.
 */
#include <poll.h>
#include <stdlib.h>

#include "lane.h"

enum { MAX_LANES = 190, MAX_WORKERS = LANE_UNITS - 1 };

typedef struct opening {
  bool open;
  short events; /* what PQconnectPoll waits for */
} opening;

static lane lanes[MAX_LANES];
static opening state[MAX_LANES];
static unit waiting[MAX_WORKERS]; /* wanted, no connection yet: FIFO */
static int conns, workers, tenants, depth;
static unsigned first, last;
static int asked, answered;
static int64_t random_state = BENCH_SEED;
static lane_form form;

static void ask_next(int worker) {
  if (asked == tenants) return;
  waiting[last++ % (unsigned)workers] =
      (unit){.tenant = ++asked,
             .worker = worker,
             .id = bench_random(&random_state) % BENCH_IDS + 1,
             .since = bench_now()};
}

static lane *least_busy(void) {
  lane *best = NULL;
  for (int i = 0; i < conns; i++) {
    lane *l = &lanes[i];
    if (!state[i].open || lane_in_flight(l) >= (unsigned)depth) continue;
    if (!best || lane_in_flight(l) < lane_in_flight(best)) best = l;
  }
  return best;
}

static void dispatch(void) {
  lane *l;
  while (first != last && (l = least_busy()))
    lane_send(l, waiting[first++ % (unsigned)workers], form);
}

static void connect_step(int i) {
  switch (PQconnectPoll(lanes[i].pg)) {
    case PGRES_POLLING_OK:
      lane_init(&lanes[i], lanes[i].pg, tenants, form);
      state[i].open = true;
      break;
    case PGRES_POLLING_READING:
      state[i].events = POLLIN;
      break;
    case PGRES_POLLING_WRITING:
      state[i].events = POLLOUT;
      break;
    default:
      bench_fail("connect", lanes[i].pg);
  }
}

static void run(double *latency) {
  struct pollfd fds[MAX_LANES];
  unit u;
  while (answered < tenants) {
    for (int i = 0; i < conns; i++)
      fds[i] = (struct pollfd){
          .fd = PQsocket(lanes[i].pg),
          .events = state[i].open ? lane_events(&lanes[i]) : state[i].events};
    if (poll(fds, (nfds_t)conns, -1) < 0) bench_fail("poll", NULL);
    for (int i = 0; i < conns; i++) {
      if (!fds[i].revents) continue;
      if (!state[i].open) {
        connect_step(i);
        continue;
      }
      lane_handle(&lanes[i], fds[i].revents);
      while (lane_take(&lanes[i], &u)) {
        latency[answered++] = bench_now() - u.since;
        ask_next(u.worker);
      }
    }
    dispatch();
  }
}

int main(int argc, char **argv) {
  tenants = (int)bench_option(argc, argv, "tenants", 1000);
  workers = (int)bench_option(argc, argv, "workers", 64);
  conns = (int)bench_option(argc, argv, "conns", 20);
  bool scope = bench_option(argc, argv, "scope", 0) != 0;
  form = scope ? LANE_UNNAMED : LANE_QUALIFIED;
  lane_verify = bench_option(argc, argv, "verify", 0) != 0;
  if (conns < 1 || conns > MAX_LANES || workers < 1 || workers > MAX_WORKERS)
    bench_fail("--conns or --workers", NULL);
  depth = (workers + conns - 1) / conns;
  double *latency = calloc((size_t)tenants, sizeof *latency);

  bench_begin();
  for (int w = 0; w < workers; w++) ask_next(w);
  for (int i = 0; i < conns; i++) {
    lanes[i].pg = bench_connect_start(LANE_GUARD);
    state[i].events = POLLOUT;
  }
  run(latency);
  bench_end();
  bench_report(scope ? "raw-scope" : "raw-qualified", tenants, latency,
               lane_check, conns, "");
  for (int i = 0; i < conns; i++) PQfinish(lanes[i].pg);
  return 0;
}
