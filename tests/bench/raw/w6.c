/*
 * W6: quiet tenants, each on a connection of its own, beside the noise of one
 * tenant that always has `noise_conns` slow statements under way.
 *   --noise=10000 --noise_ms=5
 *   --noise_conns=N  else the number in the file $BENCH_NOISE, where
 *                    lua/w6.lua leaves what it has come to, else 10
 *   --tenants=50 --each=40 --interval=100
 * Schedule and ids of the quiet tenants are those of lua/w6.lua.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lane.h"

enum { MAX_CONNS = 190, NOISY = 100, START_MS = 200 };

typedef struct member {
  PGconn *pg;
  bool noisy, busy, blocked;
  double due;    /* of the next query, or of the one under way */
  double since;  /* its wait counts from here */
  const int *id; /* of the next query */
  int left;      /* queries to come */
  int tenant;
} member;

static member members[MAX_CONNS];
static int count, tenants, each;
static long noise_asked, noise_left, waits_taken;
static const double grain = 0.001; /* of timers, as in lua/w6.lua */
static double interval;
static double *waits, check;
static char noise_sql[64];

static PGconn *open_tenant(int tenant) {
  char options[64];
  snprintf(options, sizeof options, "-c search_path=tenant_%04d,public",
           tenant);
  PGconn *pg = bench_connect(options);
  PGresult *res = PQprepare(pg, "q", LANE_SELECT, 0, NULL);
  if (PQresultStatus(res) != PGRES_COMMAND_OK) bench_fail("prepare", pg);
  PQclear(res);
  res = PQprepare(pg, "noise", noise_sql, 0, NULL);
  if (PQresultStatus(res) != PGRES_COMMAND_OK) bench_fail("prepare", pg);
  PQclear(res);
  if (PQsetnonblocking(pg, 1) != 0) bench_fail("nonblocking", pg);
  return pg;
}

/* Phases and ids, tenant by tenant, as every program draws them. */
static void draw_schedule(void) {
  int64_t state = BENCH_SEED;
  for (int t = 0; t < tenants; t++) {
    int *ids = calloc((size_t)each, sizeof *ids);
    member *m = &members[count++];
    if (!ids) bench_fail("memory", NULL);
    m->tenant = t + 1;
    m->due = (double)(bench_random(&state) % (long)interval) / 1000;
    for (int k = 0; k < each; k++)
      ids[k] = (int)(bench_random(&state) % BENCH_IDS) + 1;
    m->id = ids;
    m->left = each;
  }
}

static void flush(member *m) {
  int left = PQflush(m->pg);
  if (left < 0) bench_fail("flush", m->pg);
  m->blocked = left > 0;
}

static void ask(member *m) {
  char id[24];
  const char *params[] = {id};
  int sent;
  if (m->noisy) {
    sent = PQsendQueryPrepared(m->pg, "noise", 0, NULL, NULL, NULL, 0);
    noise_asked--;
  } else {
    snprintf(id, sizeof id, "%d", *m->id);
    sent = PQsendQueryPrepared(m->pg, "q", 1, params, NULL, NULL, 0);
  }
  if (!sent) bench_fail("send", m->pg);
  m->busy = true;
  m->since = bench_now();
  if (m->since > m->due + grain) m->since = m->due + grain;
  flush(m);
}

/* Asks what is due; returns the seconds until something else is. */
static double ask_due(void) {
  double now = bench_now(), next = 1;
  for (int i = 0; i < count; i++) {
    member *m = &members[i];
    if (m->busy || (m->noisy ? noise_asked == 0 : m->left == 0)) continue;
    if (m->noisy || m->due <= now)
      ask(m);
    else if (m->due - now < next)
      next = m->due - now;
  }
  return next;
}

static void take_row(member *m, const PGresult *res) {
  if (PQresultStatus(res) != PGRES_TUPLES_OK) bench_fail("select", m->pg);
  if (m->noisy) {
    noise_left--;
    return;
  }
  waits[waits_taken++] = bench_now() - m->since;
  bench_verify_row(res, m->tenant, *m->id);
  check += *m->id++;
  m->left--;
  m->due += interval / 1000;
}

static void answer(member *m, short revents) {
  PGresult *res;
  if (revents & POLLOUT) flush(m);
  if (revents & ~POLLOUT && !PQconsumeInput(m->pg)) bench_fail("read", m->pg);
  while (m->busy && !PQisBusy(m->pg)) {
    res = PQgetResult(m->pg);
    if (res)
      take_row(m, res);
    else
      m->busy = false;
    PQclear(res);
  }
}

static void turn(void) {
  struct pollfd fds[MAX_CONNS];
  double left = ask_due();
  struct timespec timeout = {.tv_sec = (time_t)left};
  timeout.tv_nsec = (long)((left - (double)timeout.tv_sec) * 1e9);
  for (int i = 0; i < count; i++)
    fds[i] = (struct pollfd){
        .fd = PQsocket(members[i].pg),
        .events = (short)(POLLIN | (members[i].blocked ? POLLOUT : 0))};
  if (ppoll(fds, (nfds_t)count, &timeout, NULL) < 0) bench_fail("poll", NULL);
  for (int i = 0; i < count; i++)
    if (fds[i].revents) answer(&members[i], fds[i].revents);
}

/* As many as mtenant gives its noisy tenant, else pool.max. */
static int default_noise_conns(void) {
  const char *path = getenv("BENCH_NOISE");
  FILE *f = path ? fopen(path, "r") : NULL;
  int number = 0;
  if (f) {
    if (fscanf(f, "%d", &number) != 1) number = 0;
    fclose(f);
  }
  return number > 0 ? number : 10;
}

int main(int argc, char **argv) {
  long noise = bench_option(argc, argv, "noise", 10000), due, left;
  long noise_ms = bench_option(argc, argv, "noise_ms", 5);
  int noise_conns =
      (int)bench_option(argc, argv, "noise_conns", default_noise_conns());
  double start;
  char extra[128];
  tenants = (int)bench_option(argc, argv, "tenants", 50);
  each = (int)bench_option(argc, argv, "each", 40);
  interval = (double)bench_option(argc, argv, "interval", 100);
  if (tenants < 1 || each < 1 || tenants + noise_conns > MAX_CONNS)
    bench_fail("--tenants, --each or --noise_conns", NULL);
  snprintf(noise_sql, sizeof noise_sql, "select pg_sleep(%g)",
           (double)noise_ms / 1000);
  due = (long)tenants * each;
  waits = calloc((size_t)due, sizeof *waits);
  draw_schedule();
  for (int i = 0; i < noise_conns; i++)
    members[count++] = (member){.noisy = true, .tenant = NOISY};
  for (int i = 0; i < count; i++)
    members[i].pg = open_tenant(members[i].tenant);

  noise_asked = noise_left = noise;
  bench_begin();
  start = bench_now();
  for (int i = 0; i < tenants; i++) members[i].due += start + START_MS / 1e3;
  while (waits_taken < due) turn();
  bench_end();
  left = noise_left;
  snprintf(extra, sizeof extra,
           ",\"noise_left\":%ld,\"noise_per_s\":%.1f,\"noise_conns\":%d", left,
           (double)(noise - left) / (bench_now() - start), noise_conns);
  while (noise_left > 0) turn();
  bench_report("raw", due, waits, check, count, extra);
  for (int i = 0; i < count; i++) PQfinish(members[i].pg);
  return 0;
}
