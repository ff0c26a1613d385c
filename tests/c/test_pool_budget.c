/* One server's budget over two pools, as tenants of two databases have. */
#include <string.h>

#include "support/pooled.h"

static mt_test_pg server;
static mt_observer eye;

enum { JOBS = 8 };

typedef struct fixture {
  mt_reactor *r;
  mt_pooled a, b;
  mt_lodger ta, tb;
} fixture;

static void begin(fixture *f, int budget, double acquire_timeout_ms) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->a, f->r);
  mt_pooled_init(&f->b, f->r);
  f->a.opt.acquire_timeout_ms = f->b.opt.acquire_timeout_ms =
      acquire_timeout_ms;
  mt_pooled_open(&f->a, server.url, budget);
  mt_pooled_open_beside(&f->b, server.admin_url, &f->a);
  mt_lodger_init(&f->ta, &f->a, 1, "t_a");
  mt_lodger_init(&f->tb, &f->b, 2, "t_a");
}

/* Every test ends here. */
static void end(fixture *f) {
  mt_lodger_fini(&f->ta);
  mt_lodger_fini(&f->tb);
  mt_pooled_close(&f->b);
  mt_pooled_close(&f->a);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void hold(fixture *f, mt_held *h, int n) {
  int i;
  for (i = 0; i < n; i++) mt_held_get(&h[i], &f->a, &f->ta);
  assert_int_equal(mt_pool_get_stats(f->a.pool)->open, n);
}

static void release(mt_held *h, int n) {
  int i;
  for (i = 0; i < n; i++) mt_held_release(&h[i]);
}

static void idle_connection_makes_room(void **state) {
  mt_held h[2];
  fixture f;
  (void)state;
  begin(&f, 2, 15000);
  hold(&f, h, 2);
  release(h, 2);
  assert_int_equal(mt_server_open(f.a.server), 2);
  mt_lodger_expect(&f.tb, &f.b, "SELECT current_user", "postgres");
  assert_int_equal(mt_pool_get_stats(f.a.pool)->open, 1);
  assert_int_equal(mt_pool_get_stats(f.b.pool)->open, 1);
  assert_int_equal(mt_pool_get_stats(f.a.pool)->lost, 0);
  end(&f);
}

/* However many wait, one place is all that a pool without any may take. */
static void only_one_idle_connection_makes_room(void **state) {
  mt_job j[JOBS];
  mt_held h[4];
  fixture f;
  int i;
  (void)state;
  begin(&f, 4, 15000);
  hold(&f, h, 4);
  release(h, 4);
  for (i = 0; i < JOBS; i++) mt_job_send(&j[i], &f.b, &f.tb, "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, JOBS) == JOBS);
  assert_int_equal(mt_pool_get_stats(f.a.pool)->open, 3);
  for (i = 0; i < JOBS; i++) mt_job_free(&j[i]);
  end(&f);
}

static void busy_connections_are_waited_for(void **state) {
  mt_held h[2];
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 2, 15000);
  hold(&f, h, 2);
  mt_job_send(&j, &f.b, &f.tb, "SELECT current_user");
  mt_test_run_for(f.r, 80);
  assert_int_equal(j.done, 0);
  assert_int_equal(mt_server_open(f.a.server), 2);
  mt_held_release(&h[0]);
  MT_RUN_UNTIL(f.r, j.done);
  assert_string_equal(mt_job_text(&j), "postgres");
  mt_held_release(&h[1]);
  mt_job_free(&j);
  end(&f);
}

static void waiting_for_room_has_an_end(void **state) {
  mt_held h[2], waiting;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 2, 100);
  hold(&f, h, 2);
  mt_job_send(&j, &f.b, &f.tb, "SELECT 1");
  mt_held_acquire(&waiting, &f.b, &f.tb);
  MT_RUN_UNTIL_MS(f.r, 2000, j.done && waiting.failed);
  mt_job_failed(&j, MT_E_POOL_EXHAUSTED, "");
  assert_int_equal(waiting.err->code, MT_E_POOL_EXHAUSTED);
  mt_error_unref(waiting.err);
  mt_job_free(&j);
  release(h, 2);
  mt_lodger_expect(&f.tb, &f.b, "SELECT current_user", "postgres");
  end(&f);
}

static void pools_take_turns_under_pressure(void **state) {
  mt_job ja[JOBS], jb[JOBS];
  fixture f;
  int i;
  (void)state;
  begin(&f, 1, 15000);
  for (i = 0; i < JOBS; i++) {
    mt_job_send(&ja[i], &f.a, &f.ta, "SELECT current_user");
    mt_job_send(&jb[i], &f.b, &f.tb, "SELECT current_user");
  }
  while (mt_jobs_done(ja, JOBS) + mt_jobs_done(jb, JOBS) < 2 * JOBS) {
    assert_in_range(mt_server_open(f.a.server), 0, 1);
    mt_test_turn(f.r);
  }
  for (i = 0; i < JOBS; i++) {
    assert_string_equal(mt_job_text(&ja[i]), "mtenant");
    assert_string_equal(mt_job_text(&jb[i]), "postgres");
    mt_job_free(&ja[i]);
    mt_job_free(&jb[i]);
  }
  end(&f);
}

static void closing_one_pool_makes_room(void **state) {
  mt_held h[2];
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 2, 15000);
  hold(&f, h, 2);
  mt_job_send(&j, &f.b, &f.tb, "SELECT current_user");
  mt_test_turn(f.r);
  release(h, 2);
  mt_lodger_fini(&f.ta);
  f.a.owns_server = false; /* b still uses it */
  mt_pooled_close(&f.a);
  MT_RUN_UNTIL(f.r, j.done);
  assert_string_equal(mt_job_text(&j), "postgres");
  mt_job_free(&j);
  mt_lodger_fini(&f.tb);
  f.b.owns_server = true;
  mt_pooled_close(&f.b);
  MT_RUN_UNTIL(f.r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f.r);
}

static void two_handshakes_at_a_time(void **state) {
  mt_job j[JOBS];
  fixture f;
  int i;
  (void)state;
  begin(&f, 10, 15000);
  for (i = 0; i < JOBS; i++)
    mt_job_send(&j[i], i % 2 ? &f.a : &f.b, i % 2 ? &f.ta : &f.tb,
                "SELECT pg_sleep(0.01)");
  while (mt_jobs_done(j, JOBS) < JOBS) {
    assert_in_range(f.a.server->connecting, 0, MT_CONNECTING_MAX);
    mt_reactor_run_once(f.r, false);
  }
  for (i = 0; i < JOBS; i++) mt_job_free(&j[i]);
  end(&f);
}

/* Until the answer has come the cap is that of the start. */
static int cap_read_from_the_server(void) {
  mt_job j;
  fixture f;
  int cap;
  begin(&f, 0, 15000);
  mt_job_run(&j, &f.a, &f.ta, "SELECT 1");
  assert_string_equal(mt_job_text(&j), "1");
  mt_job_free(&j);
  mt_job_run(&j, &f.a, &f.ta, "SELECT 2");
  assert_string_equal(mt_job_text(&j), "2");
  mt_job_free(&j);
  cap = mt_server_cap(f.a.server);
  end(&f);
  return cap;
}

static void limits_of_login_and_database_count(void **state) {
  (void)state;
  assert_int_equal(cap_read_from_the_server(), 20);
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT 11");
  assert_int_equal(cap_read_from_the_server(), 5);
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT -1");
  mt_observer_sql(&eye, "ALTER DATABASE mtenant CONNECTION LIMIT 7");
  assert_int_equal(cap_read_from_the_server(), 2); /* the observer counts too */
  mt_observer_sql(&eye, "ALTER DATABASE mtenant CONNECTION LIMIT 2");
  assert_int_equal(cap_read_from_the_server(), 1);
  mt_observer_sql(&eye, "ALTER DATABASE mtenant CONNECTION LIMIT -1");
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, false, NULL);
  mt_observer_open(&eye, &server);
  mt_observer_schema(&eye, "t_a");
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
      cmocka_unit_test(idle_connection_makes_room),
      cmocka_unit_test(only_one_idle_connection_makes_room),
      cmocka_unit_test(busy_connections_are_waited_for),
      cmocka_unit_test(waiting_for_room_has_an_end),
      cmocka_unit_test(pools_take_turns_under_pressure),
      cmocka_unit_test(closing_one_pool_makes_room),
      cmocka_unit_test(two_handshakes_at_a_time),
      cmocka_unit_test(limits_of_login_and_database_count),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
