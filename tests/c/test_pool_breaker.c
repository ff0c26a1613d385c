/* A server that does not answer, and the pools that would like to use it. */
#include <stdio.h>
#include <string.h>

#include "support/pooled.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_pooled p, q; /* two pools of one server */
  mt_lodger a, b;
} fixture;

static void begin(fixture *f, const char *url) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->p, f->r);
  mt_pooled_init(&f->q, f->r);
  f->q.opt.conn.application_name = "mtenant-test-q";
  mt_pooled_open(&f->p, url, 8);
  mt_pooled_open_beside(&f->q, url, &f->p);
  mt_lodger_init(&f->a, &f->p, 1, "t_a");
  mt_lodger_init(&f->b, &f->q, 2, "t_b");
}

static void end(fixture *f) {
  mt_lodger_fini(&f->a);
  mt_lodger_fini(&f->b);
  mt_pooled_close(&f->q);
  mt_pooled_close(&f->p);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static uint64_t failures(const fixture *f) {
  return mt_pool_get_stats(f->p.pool)->connect_failures +
         mt_pool_get_stats(f->q.pool)->connect_failures;
}

static void set_delays(fixture *f, double initial, double max) {
  mt_breaker_options o;
  mt_breaker_options_init(&o);
  o.initial_delay_ms = initial;
  o.max_delay_ms = max;
  mt_server_set_breaker(f->p.server, &o);
}

static void a_probe_is_everybodys_attempt(void **state) {
  mt_job j[20];
  fixture f;
  int i, round;
  (void)state;
  begin(&f, "host=127.0.0.1 port=1 dbname=x user=x");
  set_delays(&f, 40, 40);
  for (round = 0; round < 3; round++) {
    uint64_t before = failures(&f);
    for (i = 0; i < 20; i++)
      mt_job_send(&j[i], i % 2 ? &f.q : &f.p, i % 2 ? &f.b : &f.a, "SELECT 1");
    MT_RUN_UNTIL(f.r, mt_jobs_done(j, 20) == 20);
    for (i = 0; i < 20; i++) mt_job_failed(&j[i], MT_E_REFUSED, "");
    /* the first time both of them try */
    assert_in_range(failures(&f) - before, 1, round == 0 ? 2 : 1);
    mt_jobs_free(j, 20);
    assert_int_equal(mt_server_breaker_state(f.p.server), MT_BREAKER_OPEN);
  }
  end(&f);
}

static void probes_become_rarer(void **state) {
  double at[6], now = 0;
  fixture f;
  int n = 0;
  (void)state;
  begin(&f, "host=127.0.0.1 port=1 dbname=x user=x");
  set_delays(&f, 20, 80);
  while (n < 6) { /* somebody always waits */
    mt_job j;
    mt_job_run(&j, &f.p, &f.a, "SELECT 1");
    mt_job_failed(&j, MT_E_REFUSED, "");
    now = mt_reactor_now(f.r);
    at[n++] = now;
    mt_job_free(&j);
  }
  assert_int_equal(failures(&f), 6);
  assert_true(at[1] - at[0] >= 19);
  assert_true(at[2] - at[1] >= 39);
  assert_true(at[4] - at[3] >= 79);
  assert_true(at[5] - at[4] >= 79);
  end(&f);
}

static void another_connection_keeps_it_closed(void **state) {
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, server.url);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT 1");
  mt_job_run(&j, &f.q, &f.b, "SELECT 1");
  mt_job_failed(&j, MT_E_TOO_MANY_CONNECTIONS, "53300");
  assert_int_equal(mt_server_breaker_state(f.p.server), MT_BREAKER_CLOSED);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT -1");
  mt_job_free(&j);
  end(&f);
}

typedef struct sleeper {
  mt_sleeper sl;
  int woken;
} sleeper;

static void wake(mt_sleeper *sl) { mt_container(sl, sleeper, sl)->woken++; }

static void sleepers_wake_when_it_answers(void **state) {
  sleeper s[3] = {{.sl.wake = wake}, {.sl.wake = wake}, {.sl.wake = wake}};
  mt_job j;
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url);
  set_delays(&f, 10, 10);
  assert_false(mt_pool_sleep(f.p.pool, &s[0].sl)); /* nothing is wrong */
  mt_test_pg_stop(&server, "immediate");
  mt_job_run(&j, &f.p, &f.a, "SELECT 1");
  assert_non_null(j.req->err);
  mt_job_free(&j);
  for (i = 0; i < 3; i++) assert_true(mt_pool_sleep(f.p.pool, &s[i].sl));
  mt_sleeper_forget(&s[1].sl);
  mt_job_run(&j, &f.q, &f.b, "SELECT 1");
  assert_non_null(j.req->err);
  mt_job_free(&j);
  assert_int_equal(s[0].woken, 0);
  mt_test_pg_start_again(&server);
  mt_observer_reopen(&eye, &server);
  do {
    mt_job_run(&j, &f.q, &f.b, "SELECT 1");
    i = j.req->err == NULL;
    mt_job_free(&j);
  } while (!i);
  MT_RUN_UNTIL(f.r, s[0].woken && s[2].woken);
  assert_int_equal(s[0].woken + s[2].woken, 2);
  assert_int_equal(s[1].woken, 0);
  end(&f);
}

/* It is there again, though it does not let this one in. */
static void a_refusal_is_an_answer(void **state) {
  sleeper s = {.sl.wake = wake};
  mt_pooled wrong;
  mt_lodger guest;
  mt_job j;
  fixture f;
  char url[600];
  (void)state;
  begin(&f, server.url);
  set_delays(&f, 10, 10);
  mt_pooled_init(&wrong, f.r);
  snprintf(url, sizeof url, "host=%s port=%d user=mtenant dbname=missing",
           server.dir, server.port);
  mt_pooled_open_beside(&wrong, url, &f.p);
  mt_lodger_init(&guest, &wrong, 9, "t_a");
  mt_test_pg_stop(&server, "immediate");
  mt_job_run(&j, &f.p, &f.a, "SELECT 1");
  assert_non_null(j.req->err);
  mt_job_free(&j);
  assert_true(mt_pool_sleep(f.p.pool, &s.sl));
  mt_test_pg_start_again(&server);
  mt_observer_reopen(&eye, &server);
  do {
    mt_job_run(&j, &wrong, &guest, "SELECT 1");
    if (strcmp(j.req->err->sqlstate, "3D000") == 0) break;
    mt_job_free(&j);
  } while (true);
  mt_job_free(&j);
  assert_int_equal(mt_server_breaker_state(f.p.server), MT_BREAKER_CLOSED);
  MT_RUN_UNTIL(f.r, s.woken);
  mt_lodger_fini(&guest);
  mt_pooled_close(&wrong);
  end(&f);
}

static void after_an_outage_connections_ramp_up(void **state) {
  mt_held h[8];
  mt_job j;
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url);
  f.p.server->ramp = 1; /* as after a failure */
  for (i = 0; i < 8; i++) mt_held_acquire(&h[i], &f.p, &f.a);
  while (mt_server_open(f.p.server) < 8) {
    int live = f.p.server->live;
    assert_in_range(mt_server_open(f.p.server), 0, live == 0 ? 1 : 2 * live);
    mt_test_turn(f.r);
  }
  MT_RUN_UNTIL(f.r, f.p.server->live == 8);
  for (i = 0; i < 8; i++) {
    MT_RUN_UNTIL(f.r, h[i].granted);
    mt_held_release(&h[i]);
  }
  mt_job_run(&j, &f.p, &f.a, "SELECT 1");
  assert_string_equal(mt_job_text(&j), "1");
  mt_job_free(&j);
  end(&f);
}

static void isolated_by_hand(void **state) {
  mt_error *err = NULL;
  mt_held h;
  mt_job j, slow;
  fixture f;
  (void)state;
  begin(&f, server.url);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  mt_job_send(&slow, &f.p, &f.a, "SELECT pg_sleep(0.1)");
  mt_test_run_for(f.r, 20);
  mt_held_acquire(&h, &f.q, &f.b); /* waits for its connection */
  mt_server_isolate(f.p.server);
  assert_int_equal(mt_job_try(&j, &f.p, &f.a, "SELECT 1", &err),
                   MT_E_BREAKER_OPEN);
  assert_true(err->retryable);
  mt_error_unref(err);
  MT_RUN_UNTIL(f.r, h.failed);
  assert_int_equal(h.err->code, MT_E_BREAKER_OPEN);
  mt_error_unref(h.err);
  MT_RUN_UNTIL(f.r, slow.done); /* it goes on */
  mt_job_text(&slow);
  mt_job_free(&slow);
  MT_RUN_UNTIL(f.r, f.p.server->live == 0);
  mt_server_close_breaker(f.p.server);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  end(&f);
}

/* What is to be told of a failure may still be taken back, or released. */
static void the_condemned_may_leave(void **state) {
  mt_job j[3];
  mt_held h;
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url);
  for (i = 0; i < 3; i++) mt_job_send(&j[i], &f.p, &f.a, "SELECT 1");
  mt_held_acquire(&h, &f.p, &f.a);
  mt_server_isolate(f.p.server);
  assert_true(mt_share_busy(&f.a.share));
  assert_int_equal(mt_share_cancel(&f.a.share, j[1].req), MT_CANCEL_TAKEN);
  mt_held_release(&h);
  MT_RUN_UNTIL(f.r, j[0].done && j[2].done);
  mt_job_failed(&j[0], MT_E_BREAKER_OPEN, "");
  mt_job_failed(&j[2], MT_E_BREAKER_OPEN, "");
  assert_int_equal(j[1].done, 0);
  assert_false(mt_share_busy(&f.a.share));
  mt_req_free(j[1].req);
  mt_job_free(&j[0]);
  mt_job_free(&j[2]);
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

/* A job whose connect fails, or finds the breaker open. */
static void fail_once(fixture *f) {
  mt_job j;
  mt_job_run(&j, &f->p, &f->a, "SELECT 1");
  mt_job_failed(&j, MT_E_REFUSED, "");
  mt_job_free(&j);
}

static void set_ratio(fixture *f, double ratio, int throughput) {
  mt_breaker_options o;
  mt_breaker_options_init(&o);
  o.failure_threshold = 1000; /* that is not it */
  o.initial_delay_ms = o.max_delay_ms = 200;
  o.failure_ratio = ratio;
  o.minimum_throughput = throughput;
  o.sampling_duration_ms = 2000;
  mt_server_set_breaker(f->p.server, &o);
}

static void a_ratio_of_failures_opens_it(void **state) {
  double opened;
  fixture f;
  int i;
  (void)state;
  begin(&f, "host=127.0.0.1 port=1 dbname=x user=x");
  set_ratio(&f, 0.5, 4);
  for (i = 0; i < 4; i++) {
    assert_int_equal(mt_server_breaker_state(f.p.server), MT_BREAKER_CLOSED);
    fail_once(&f);
  }
  assert_int_equal(mt_server_breaker_state(f.p.server), MT_BREAKER_OPEN);
  opened = mt_reactor_now(f.r);
  fail_once(&f); /* waits for the probe */
  assert_true(mt_reactor_now(f.r) - opened > 190);
  end(&f);
}

static void few_attempts_are_no_ratio(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f, "host=127.0.0.1 port=1 dbname=x user=x");
  set_ratio(&f, 0.5, 4);
  for (i = 0; i < 3; i++) fail_once(&f);
  mt_test_run_for(f.r, 2300); /* their time is over */
  for (i = 0; i < 3; i++) fail_once(&f);
  assert_int_equal(mt_server_breaker_state(f.p.server), MT_BREAKER_CLOSED);
  end(&f);
}

/* A server that lets some in and turns others away is not run against. */
static void a_ratio_counts_beside_open_connections(void **state) {
  mt_held h[8];
  uint64_t failed;
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url);
  set_ratio(&f, 0.5, 4);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT 1");
  for (i = 0; i < 8; i++) mt_held_acquire(&h[i], &f.p, &f.a);
  MT_RUN_UNTIL(f.r, mt_server_breaker_state(f.p.server) == MT_BREAKER_OPEN);
  failed = failures(&f);
  mt_test_run_for(f.r, 100);
  assert_int_equal(failures(&f), failed);
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT -1");
  MT_RUN_UNTIL(f.r, mt_server_breaker_state(f.p.server) == MT_BREAKER_CLOSED);
  for (i = 0; i < 8; i++) {
    MT_RUN_UNTIL(f.r, h[i].granted);
    mt_lease_release(h[i].lease);
  }
  end(&f);
}

static int stop(void **state) {
  (void)state;
  mt_observer_close(&eye);
  mt_test_pg_close(&server);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_probe_is_everybodys_attempt),
      cmocka_unit_test(probes_become_rarer),
      cmocka_unit_test(another_connection_keeps_it_closed),
      cmocka_unit_test(after_an_outage_connections_ramp_up),
      cmocka_unit_test(isolated_by_hand),
      cmocka_unit_test(the_condemned_may_leave),
      cmocka_unit_test(sleepers_wake_when_it_answers),
      cmocka_unit_test(a_refusal_is_an_answer),
      cmocka_unit_test(a_ratio_of_failures_opens_it),
      cmocka_unit_test(few_attempts_are_no_ratio),
      cmocka_unit_test(a_ratio_counts_beside_open_connections),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
