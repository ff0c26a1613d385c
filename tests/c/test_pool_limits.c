/* How long connections live: idle, old, worn out by many tenants, or kept. */
#include <stdio.h>
#include <string.h>

#include "support/pooled.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_pooled p;
  mt_lodger a;
} fixture;

static void prepare(fixture *f) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->p, f->r);
}

static void open_pool(fixture *f, int budget) {
  mt_pooled_open(&f->p, server.url, budget);
  mt_lodger_init(&f->a, &f->p, 1, "t_a");
}

/* Every test ends here. */
static void end(fixture *f) {
  mt_lodger_fini(&f->a);
  mt_pooled_close(&f->p);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

/* Opens n connections by holding them. */
static void warm(fixture *f, int n) {
  mt_held h[8];
  int i;
  for (i = 0; i < n; i++) mt_held_get(&h[i], &f->p, &f->a);
  for (i = 0; i < n; i++) mt_held_release(&h[i]);
  assert_int_equal(mt_server_open(f->p.server), n);
}

static void idle_connections_go(void **state) {
  fixture f;
  (void)state;
  prepare(&f);
  f.p.opt.idle_timeout_ms = 50;
  open_pool(&f, 3);
  warm(&f, 3);
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 0);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->lost, 0);
  MT_RUN_UNTIL(f.r, mt_observer_backends(&eye) == 0);
  MT_RUN_UNTIL(f.r, mt_reactor_live(f.r) == 0); /* nothing ticks any more */
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  end(&f);
}

static void minimum_stays(void **state) {
  fixture f;
  (void)state;
  prepare(&f);
  f.p.opt.idle_timeout_ms = 50;
  f.p.opt.min = 2;
  open_pool(&f, 4);
  warm(&f, 4);
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 2);
  mt_test_run_for(f.r, 1100);
  assert_int_equal(mt_server_open(f.p.server), 2);
  end(&f);
}

static void minimum_is_opened_with_the_first_use(void **state) {
  fixture f;
  (void)state;
  prepare(&f);
  f.p.opt.min = 3;
  open_pool(&f, 4);
  mt_test_run_for(f.r, 20);
  assert_int_equal(mt_server_open(f.p.server), 0);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  MT_RUN_UNTIL(f.r, mt_pool_get_stats(f.p.pool)->open == 3);
  end(&f);
}

static void old_connections_go_even_when_used(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  prepare(&f);
  f.p.opt.max_lifetime_ms = 100;
  open_pool(&f, 1);
  mt_held_get(&h, &f.p, &f.a);
  MT_RUN_UNTIL(f.r, h.lease->slot->retiring);
  mt_held_run(&h, &j, "SELECT 1"); /* the holder is not disturbed */
  assert_string_equal(mt_job_text(&j), "1");
  mt_job_free(&j);
  mt_held_release(&h);
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 0);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->retired, 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->lost, 0);
  end(&f);
}

static void old_idle_connection_goes_beyond_the_minimum(void **state) {
  fixture f;
  (void)state;
  prepare(&f);
  f.p.opt.max_lifetime_ms = 100;
  f.p.opt.min = 1;
  open_pool(&f, 2);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  MT_RUN_UNTIL(f.r, mt_pool_get_stats(f.p.pool)->opened >= 2 ||
                        mt_server_open(f.p.server) == 0);
  end(&f);
}

static void lifetimes_do_not_end_together(void **state) {
  double first = 0;
  int i, different = 0;
  fixture f;
  (void)state;
  prepare(&f);
  open_pool(&f, 4);
  warm(&f, 4);
  for (i = 0; i < 4; i++) {
    double ends = mt_pooled_slot(&f.p, i)->expires_at - mt_reactor_now(f.r);
    assert_true(ends > 60000 * 0.9 - 5000 && ends <= 60000 * 1.1);
    if (i == 0) first = ends;
    different += ends - first > 500 || first - ends > 500;
  }
  assert_true(different > 0);
  end(&f);
}

/* Each tenant leaves something in a backend's caches. */
static void connection_wears_out_by_tenants(void **state) {
  enum { N = 12 };
  mt_lodger t[N];
  fixture f;
  char schema[16];
  int i;
  (void)state;
  prepare(&f);
  f.p.opt.max_tenants_touched = 4;
  open_pool(&f, 1);
  for (i = 0; i < N; i++) {
    snprintf(schema, sizeof schema, "t_%d", i);
    mt_lodger_init(&t[i], &f.p, 10 + (uint32_t)i, schema);
    t[i].scope->fence = false; /* their schemas are not there */
    mt_lodger_expect(&t[i], &f.p, "SELECT 1", "1");
    mt_lodger_expect(&t[i], &f.p, "SELECT 2", "2"); /* counts once */
  }
  assert_in_range(mt_pool_get_stats(f.p.pool)->retired, 2, 3);
  assert_in_range(mt_pool_get_stats(f.p.pool)->opened, 3, 4);
  for (i = 0; i < N; i++) mt_lodger_fini(&t[i]);
  end(&f);
}

static void waiting_has_an_end(void **state) {
  mt_held h;
  mt_job j[3];
  double start;
  fixture f;
  int i;
  (void)state;
  prepare(&f);
  f.p.opt.acquire_timeout_ms = 100;
  open_pool(&f, 1);
  mt_held_get(&h, &f.p, &f.a);
  start = mt_reactor_now(f.r);
  for (i = 0; i < 3; i++) mt_job_send(&j[i], &f.p, &f.a, "SELECT 1");
  MT_RUN_UNTIL_MS(f.r, 2000, mt_jobs_done(j, 3) == 3);
  assert_true(mt_reactor_now(f.r) - start >= 99);
  for (i = 0; i < 3; i++) {
    mt_job_failed(&j[i], MT_E_POOL_EXHAUSTED, "");
    assert_true(!j[i].req->err->ambiguous);
    assert_int_equal(j[i].order, i + 1);
    mt_job_free(&j[i]);
  }
  assert_true(f.a.idle == 0); /* it still holds its lease */
  mt_held_release(&h);
  assert_int_equal(f.a.idle, 1);
  end(&f);
}

/* The owner is told when the last thing of a share has timed out. */
static void share_that_timed_out_is_idle(void **state) {
  mt_lodger b;
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  prepare(&f);
  f.p.opt.acquire_timeout_ms = 60;
  open_pool(&f, 1);
  mt_lodger_init(&b, &f.p, 2, "t_b");
  mt_held_get(&h, &f.p, &f.a);
  mt_job_send(&j, &f.p, &b, "SELECT 1");
  MT_RUN_UNTIL_MS(f.r, 2000, j.done);
  assert_false(mt_share_busy(&b.share));
  assert_int_equal(b.idle, 1);
  mt_job_free(&j);
  mt_held_release(&h);
  mt_lodger_fini(&b);
  end(&f);
}

static void share_whose_request_was_taken_back_is_idle(void **state) {
  mt_lodger b;
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  prepare(&f);
  open_pool(&f, 1);
  mt_lodger_init(&b, &f.p, 2, "t_b");
  mt_held_get(&h, &f.p, &f.a);
  mt_job_send(&j, &f.p, &b, "SELECT 1");
  assert_true(mt_share_take_back(&b.share, j.req));
  assert_false(mt_share_busy(&b.share));
  MT_RUN_UNTIL_MS(f.r, 100, b.idle == 1);
  mt_req_free(j.req);
  mt_held_release(&h);
  mt_lodger_fini(&b);
  end(&f);
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, false, NULL);
  mt_observer_open(&eye, &server);
  mt_observer_schema(&eye, "t_a");
  mt_observer_schema(&eye, "t_b");
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
      cmocka_unit_test(idle_connections_go),
      cmocka_unit_test(minimum_stays),
      cmocka_unit_test(minimum_is_opened_with_the_first_use),
      cmocka_unit_test(old_connections_go_even_when_used),
      cmocka_unit_test(old_idle_connection_goes_beyond_the_minimum),
      cmocka_unit_test(lifetimes_do_not_end_together),
      cmocka_unit_test(connection_wears_out_by_tenants),
      cmocka_unit_test(waiting_has_an_end),
      cmocka_unit_test(share_that_timed_out_is_idle),
      cmocka_unit_test(share_whose_request_was_taken_back_is_idle),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
