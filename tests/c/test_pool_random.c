/*
 * Two pools on one budget under 2,000 random operations: whatever happens, the
 * counters agree, all is answered once, what was acknowledged is there once,
 * and what failed for certain is not there. The seed is printed; MT_TEST_SEED
 * repeats a run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/pooled.h"

enum { STEPS = 2000, POOLS = 2, LODGERS = 5, JOBS = 120, HELD = 8, BUDGET = 5 };

static mt_test_pg server;
static mt_observer eye;

typedef struct entry {
  mt_job job;
  mt_lodger *t;
  int number; /* of its INSERT, -1: none */
} entry;

typedef struct world {
  mt_reactor *r;
  mt_rand rand;
  mt_pooled p[POOLS];
  mt_lodger t[POOLS][LODGERS];
  entry jobs[JOBS];
  mt_held held[HELD];
  mt_lodger *holder[HELD]; /* NULL: free */
  int next_number, acknowledged, refused, ambiguous, kills;
  char outcome[STEPS]; /* by number: 'y', 'n' or '?' */
} world;

static int pick(world *w, int n) {
  return (int)(mt_rand_next(&w->rand) % (uint64_t)n);
}

/* ---- what must hold at any time ------------------------------------------------ */

static int leases_of(world *w, const mt_lodger *t) {
  int i, n = 0;
  for (i = 0; i < HELD; i++) {
    const mt_lease *l = w->holder[i] == t ? w->held[i].lease : NULL;
    n += l && l->counted;
  }
  return n;
}

static int jobs_of(world *w, const mt_lodger *t) {
  int i, n = 0;
  for (i = 0; i < JOBS; i++) {
    const mt_req *req = w->jobs[i].job.req;
    if (w->jobs[i].t != t || !req || w->jobs[i].job.done) continue;
    n += req->owner == &t->share && req->node.list != &t->share.reqs &&
         req->node.list != &t->share.pool->failing;
  }
  return n;
}

static void check_pool(mt_pooled *p, int *slots, int *connecting) {
  int open = 0;
  mt_node *n;
  for (n = p->pool->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    open += s->open;
    if (s->lease) {
      assert_ptr_equal(s->lease->slot, s);
      assert_null(s->reserved);
    }
    if (s->reserved) assert_int_equal(s->reserved->state, MT_LEASE_WAITING);
  }
  assert_int_equal(p->pool->stats.open, open);
  assert_int_equal(p->pool->connecting + open, p->pool->slots.len);
  *slots += (int)p->pool->slots.len;
  *connecting += p->pool->connecting;
}

/* Leases that are being released count until their connection is quiet. */
static void check(world *w) {
  int i, k, slots = 0, connecting = 0;
  for (i = 0; i < POOLS; i++) {
    check_pool(&w->p[i], &slots, &connecting);
    for (k = 0; k < LODGERS; k++) {
      mt_lodger *t = &w->t[i][k];
      assert_in_range(t->share.inflight, jobs_of(w, t) + leases_of(w, t),
                      w->p[i].opt.max);
      assert_int_equal(mt_node_linked(&t->share.waiting),
                       t->share.reqs.len + t->share.leases.len > 0);
    }
  }
  assert_int_equal(w->p[0].server->open, slots);
  assert_int_equal(w->p[0].server->connecting, connecting);
  assert_in_range(slots, 0, BUDGET);
}

/* ---- operations ----------------------------------------------------------------- */

static mt_lodger *some_lodger(world *w, mt_pooled **p) {
  int i = pick(w, POOLS);
  *p = &w->p[i];
  return &w->t[i][pick(w, LODGERS)];
}

/* One that ended makes its slot free; what it says is noted. */
static void reap(world *w, entry *e) {
  const mt_error *err;
  if (!e->job.req || !e->job.done) return;
  assert_int_equal(e->job.done, 1);
  err = e->job.req->err;
  if (err && err->code != MT_E_CONNECTION_LOST && err->code != MT_E_QUERY &&
      err->code != MT_E_CANCELLED)
    fail_msg("%s: %s", mt_code_name(err->code), err->message);
  if (e->number >= 0)
    w->outcome[e->number] = !err ? 'y' : err->ambiguous ? '?' : 'n';
  w->acknowledged += !err;
  w->ambiguous += err && err->ambiguous;
  w->refused += err && !err->ambiguous;
  mt_job_free(&e->job);
}

static entry *free_entry(world *w) {
  int i;
  for (i = 0; i < JOBS; i++) reap(w, &w->jobs[i]);
  for (i = 0; i < JOBS; i++)
    if (!w->jobs[i].job.req) return &w->jobs[i];
  return NULL;
}

static const char *some_sql(world *w, entry *e, char *buf, size_t size) {
  static const char *const others[] = {
      "SELECT name FROM items",
      "SELECT name FROM items",
      "SELECT pg_sleep(0.002)",
      "SELECT 1/0",
      "SELECT pg_sleep(0.05)",
      "SELECT set_config('search_path', 't_0', false)"};
  e->number = -1;
  if (pick(w, 3) == 0) return others[pick(w, MT_COUNT(others))];
  e->number = w->next_number++;
  snprintf(buf, size, "INSERT INTO log VALUES (%d)", e->number);
  return buf;
}

static void submit(world *w) {
  mt_pooled *p;
  mt_lodger *t = some_lodger(w, &p);
  entry *e = free_entry(w);
  char sql[64];
  if (!e) return;
  e->t = t;
  mt_job_send(&e->job, p, t, some_sql(w, e, sql, sizeof sql));
}

static int free_holder(world *w) {
  int i;
  for (i = 0; i < HELD; i++) {
    if (w->holder[i] && w->held[i].failed) {
      assert_int_equal(w->held[i].failed + w->held[i].granted, 1);
      mt_error_unref(w->held[i].err);
      w->holder[i] = NULL;
    }
    if (!w->holder[i]) return i;
  }
  return -1;
}

static void acquire(world *w) {
  mt_pooled *p;
  mt_lodger *t = some_lodger(w, &p);
  int i = free_holder(w);
  if (i < 0) return;
  w->holder[i] = t;
  mt_held_acquire(&w->held[i], p, t);
}

/* In any state, granted or not, with statements on the way or not. */
static void release(world *w) {
  int i = pick(w, HELD);
  if (!w->holder[i] || w->held[i].failed) return;
  if (pick(w, 6) == 0 && w->held[i].granted) w->held[i].lease->tainted = true;
  mt_held_release(&w->held[i]);
  w->holder[i] = NULL;
}

static void use_lease(world *w) {
  static const char *const sqls[] = {"BEGIN", "SELECT pg_sleep(0.003)",
                                     "SELECT 1/0", "SELECT 1", "COMMIT"};
  int i = pick(w, HELD);
  entry *e;
  mt_lease *l;
  if (!w->holder[i] || !w->held[i].granted) return;
  l = w->held[i].lease;
  if (!l->slot || l->slot->conn->state != MT_CONN_OPEN) return;
  e = free_entry(w);
  if (!e) return;
  e->t = NULL;
  e->number = -1;
  mt_held_send(&w->held[i], &e->job, sqls[pick(w, MT_COUNT(sqls))]);
}

static void cancel(world *w) {
  entry *e = &w->jobs[pick(w, JOBS)];
  if (!e->job.req || e->job.done || !e->t) return;
  if (mt_share_cancel(&e->t->share, e->job.req) != MT_CANCEL_TAKEN) return;
  if (e->number >= 0) w->outcome[e->number] = 'n';
  mt_req_free(e->job.req);
  e->job.req = NULL;
}

static void kill_one(world *w) {
  w->kills++;
  mt_observer_sql(&eye,
                  "SELECT pg_terminate_backend(pid) FROM "
                  "pg_stat_activity WHERE backend_type = "
                  "'client backend' AND pid <> pg_backend_pid() "
                  "ORDER BY random() LIMIT 1");
}

/* An entry that has nothing to do goes, and another one comes. */
static void replace(world *w) {
  mt_pooled *p;
  mt_lodger *t = some_lodger(w, &p);
  char schema[16];
  if (mt_share_busy(&t->share)) return;
  snprintf(schema, sizeof schema, "t_%d", pick(w, LODGERS));
  mt_lodger_fini(t);
  mt_lodger_init(t, p, 100 + (uint32_t)w->next_number, schema);
}

static void step(world *w) {
  int dice = pick(w, 100);
  if (dice < 45)
    submit(w);
  else if (dice < 53)
    acquire(w);
  else if (dice < 62)
    release(w);
  else if (dice < 74)
    use_lease(w);
  else if (dice < 80)
    cancel(w);
  else if (dice < 82)
    kill_one(w);
  else if (dice < 85)
    replace(w);
  else
    mt_reactor_run_once(w->r, pick(w, 2));
}

/* ---- the run ---------------------------------------------------------------------- */

static bool all_done(world *w) {
  int i;
  for (i = 0; i < JOBS; i++)
    if (w->jobs[i].job.req && !w->jobs[i].job.done) return false;
  return true;
}

static bool all_quiet(world *w) {
  int i, k;
  for (i = 0; i < POOLS; i++)
    for (k = 0; k < LODGERS; k++)
      if (mt_share_busy(&w->t[i][k].share)) return false;
  return true;
}

static void init(world *w, uint64_t seed) {
  char schema[16];
  int i, k;
  memset(w, 0, sizeof *w);
  mt_rand_seed(&w->rand, seed);
  w->r = mt_test_reactor();
  for (i = 0; i < POOLS; i++) {
    mt_pooled_init(&w->p[i], w->r);
    w->p[i].opt.max = 6;
    w->p[i].opt.max_tenants_touched = 20;
    if (i == 0)
      mt_pooled_open(&w->p[i], server.url, BUDGET);
    else
      mt_pooled_open_beside(&w->p[i], server.admin_url, &w->p[0]);
    for (k = 0; k < LODGERS; k++) {
      snprintf(schema, sizeof schema, "t_%d", k);
      mt_lodger_init(&w->t[i][k], &w->p[i], (uint32_t)(i * LODGERS + k + 1),
                     schema);
    }
  }
}

static void drain(world *w) {
  int i, k;
  for (i = 0; i < HELD; i++) {
    if (w->holder[i] && !w->held[i].failed) {
      mt_held_release(&w->held[i]);
    } else if (w->holder[i]) {
      mt_error_unref(w->held[i].err);
    }
    w->holder[i] = NULL;
  }
  MT_RUN_UNTIL(w->r, all_done(w) && all_quiet(w));
  check(w);
  for (i = 0; i < JOBS; i++) reap(w, &w->jobs[i]);
  for (i = POOLS - 1; i >= 0; i--) {
    for (k = 0; k < LODGERS; k++) mt_lodger_fini(&w->t[i][k]);
    mt_pooled_close(&w->p[i]);
  }
  MT_RUN_UNTIL(w->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(w->r);
}

static void check_outcomes(const world *w) {
  int i;
  for (i = 0; i < w->next_number; i++) {
    long n =
        mt_observer_number(&eye, "SELECT count(*) FROM log WHERE n = %d", i);
    if (n > 1 || (n == 1 && w->outcome[i] == 'n') ||
        (n == 0 && w->outcome[i] == 'y') || !w->outcome[i])
      fail_msg("insert %d was answered '%c' and is there %ld times", i,
               w->outcome[i], n);
  }
}

static void whatever_happens_the_books_agree(void **state) {
  static world w;
  const char *given = getenv("MT_TEST_SEED");
  uint64_t seed;
  int i;
  (void)state;
  init(&w, 1);
  seed = given ? strtoull(given, NULL, 10)
               : (uint64_t)(mt_reactor_now(w.r) * 1e3) % 1000000;
  print_message("MT_TEST_SEED=%llu\n", (unsigned long long)seed);
  mt_rand_seed(&w.rand, seed);
  for (i = 0; i < STEPS; i++) {
    step(&w);
    check(&w);
  }
  drain(&w);
  check_outcomes(&w);
  print_message("%d acknowledged, %d refused, %d ambiguous, %d killed\n",
                w.acknowledged, w.refused, w.ambiguous, w.kills);
  assert_true(w.acknowledged > 0); /* how many depends on the time taken */
}

static int start(void **state) {
  char schema[16];
  int i;
  (void)state;
  mt_test_pg_start(&server, false, NULL);
  mt_observer_open(&eye, &server);
  for (i = 0; i < LODGERS; i++) {
    snprintf(schema, sizeof schema, "t_%d", i);
    mt_observer_schema(&eye, schema);
  }
  mt_observer_sql(&eye,
                  "CREATE TABLE log(n int); GRANT ALL ON log TO public;"
                  "CREATE INDEX ON log (n)");
  return 0;
}

static int stop(void **state) {
  (void)state;
  mt_observer_close(&eye);
  mt_test_pg_close(&server);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whatever_happens_the_books_agree),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
