/* Which connection a request goes to, and when another one is opened. */
#include <stdio.h>
#include <string.h>

#include "support/lodging.h"

/* n statements that sleep at once, each on a connection of its own. */
static void start_sleepers(mt_lodging *f, mt_job *j, int n, const char *sql) {
  int i;
  for (i = 0; i < n; i++) {
    mt_job_send(&j[i], &f->p, &f->t[i % MT_LODGERS], sql);
    MT_RUN_UNTIL(f->r,
                 mt_observer_running(&mt_lodging_eye, "pg_sleep") == i + 1);
    mt_test_run_for(f->r, 30); /* now it is known to be slow */
  }
}

static void stop_sleepers(mt_lodging *f, mt_job *j, int n) {
  mt_observer_sql(&mt_lodging_eye,
                  "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                  "WHERE query LIKE '%%pg_sleep(60)'");
  MT_RUN_UNTIL(f->r, mt_jobs_done(j, n) == n);
  mt_jobs_free(j, n);
}

static void first_request_opens_one_connection(void **state) {
  mt_lodging f;
  (void)state;
  mt_lodging_begin(&f, 10);
  mt_test_run_for(f.r, 20);
  assert_int_equal(mt_server_open(f.p.server), 0); /* not before it is needed */
  mt_lodger_expect(&f.t[1], &f.p, "SELECT name FROM items", "t_1");
  mt_lodger_expect(&f.t[2], &f.p, "SELECT name FROM items", "t_2");
  assert_int_equal(mt_server_open(f.p.server), 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->opened, 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->requests, 2);
  assert_int_equal(f.t[1].idle, 1);
  mt_lodging_end(&f);
}

static void quick_requests_need_few_connections(void **state) {
  mt_job j[400];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_begin(&f, 20);
  for (i = 0; i < 400; i++)
    mt_job_send(&j[i], &f.p, &f.t[i % MT_LODGERS], "SELECT name FROM items");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 400) == 400);
  for (i = 0; i < 400; i++)
    assert_int_equal(mt_job_text(&j[i])[2] - '0', i % MT_LODGERS);
  assert_in_range(mt_pool_get_stats(f.p.pool)->peak, 1, MT_SOFT_MAX);
  mt_jobs_free(j, 400);
  mt_lodging_end(&f);
}

static void waiting_behind_slow_ones_opens_more(void **state) {
  mt_job slow[7], quick;
  mt_lodging f;
  (void)state;
  mt_lodging_begin(&f, 10);
  start_sleepers(&f, slow, 7, "SELECT pg_sleep(60)");
  mt_job_run(&quick, &f.p, &f.t[7], "SELECT 1");
  assert_int_equal(mt_jobs_done(slow, 7), 0);
  assert_int_equal(mt_server_open(f.p.server), 8);
  stop_sleepers(&f, slow, 7);
  mt_job_free(&quick);
  mt_lodging_end(&f);
}

static void budget_is_never_exceeded(void **state) {
  mt_job j[12];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_begin(&f, 3);
  for (i = 0; i < 12; i++) {
    mt_job_send(&j[i], &f.p, &f.t[i % MT_LODGERS], "SELECT pg_sleep(0.1)");
    mt_test_run_for(f.r, 20);
  }
  while (mt_jobs_done(j, 12) < 12) {
    assert_in_range(mt_server_open(f.p.server), 0, 3);
    assert_in_range(mt_observer_backends(&mt_lodging_eye), 0, 3);
    mt_test_turn(f.r);
  }
  for (i = 0; i < 12; i++) mt_job_text(&j[i]);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->peak, 3);
  mt_jobs_free(j, 12);
  mt_lodging_end(&f);
}

static void share_has_its_own_limit(void **state) {
  mt_job j[20];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_prepare(&f);
  f.p.opt.max = 2;
  mt_lodging_open(&f, 10);
  for (i = 0; i < 20; i++)
    mt_job_send(&j[i], &f.p, &f.t[0], "SELECT pg_sleep(0.01)");
  while (mt_jobs_done(j, 20) < 20) {
    assert_in_range(f.t[0].share.inflight, 0, 2);
    mt_test_turn(f.r);
  }
  mt_jobs_free(j, 20);
  mt_lodging_end(&f);
}

static void depth_of_a_connection_is_bounded(void **state) {
  mt_job j[200];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_begin(&f, 1);
  for (i = 0; i < 200; i++)
    mt_job_send(&j[i], &f.p, &f.t[i % 5], "SELECT name FROM items");
  while (mt_jobs_done(j, 200) < 200) {
    mt_slot *s = mt_pooled_slot(&f.p, 0);
    if (s) assert_in_range(mt_conn_depth(s->conn), 0, MT_DEPTH_MAX + 1);
    mt_test_turn(f.r);
  }
  mt_jobs_free(j, 200);
  mt_lodging_end(&f);
}

static void tenants_stay_at_home(void **state) {
  char pids[MT_LODGERS][16];
  int i, round, different = 0;
  mt_job slow[4];
  mt_lodging f;
  (void)state;
  mt_lodging_begin(&f, 4);
  start_sleepers(&f, slow, 4, "SELECT pg_sleep(60)");
  stop_sleepers(&f, slow, 4);
  assert_int_equal(mt_server_open(f.p.server), 4);
  for (round = 0; round < 5; round++) {
    for (i = 0; i < MT_LODGERS; i++) {
      mt_job j;
      mt_job_run(&j, &f.p, &f.t[i], "SELECT pg_backend_pid()");
      if (round == 0) snprintf(pids[i], sizeof pids[i], "%s", mt_job_text(&j));
      assert_string_equal(mt_job_text(&j), pids[i]);
      mt_job_free(&j);
    }
  }
  for (i = 1; i < MT_LODGERS; i++) different += strcmp(pids[i], pids[0]) != 0;
  assert_true(different > 0);
  mt_lodging_end(&f);
}

static void shares_are_served_in_turn(void **state) {
  mt_job many[300], one[3];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_prepare(&f);
  f.p.opt.max = 4;
  mt_lodging_open(&f, 1);
  for (i = 0; i < 300; i++) mt_job_send(&many[i], &f.p, &f.t[0], "SELECT 1");
  for (i = 0; i < 3; i++) mt_job_send(&one[i], &f.p, &f.t[i + 1], "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_jobs_done(many, 300) == 300);
  for (i = 0; i < 3; i++) {
    assert_in_range(one[i].order, 1, 12);
    mt_job_free(&one[i]);
  }
  for (i = 1; i < 300; i++) assert_true(many[i].order > many[i - 1].order);
  mt_jobs_free(many, 300);
  mt_lodging_end(&f);
}

static void nothing_queues_behind_a_slow_statement(void **state) {
  mt_job slow, quick[30];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_begin(&f, 2);
  start_sleepers(&f, &slow, 1, "SELECT pg_sleep(60)");
  for (i = 0; i < 30; i++)
    mt_job_send(&quick[i], &f.p, &f.t[i % MT_LODGERS], "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_jobs_done(quick, 30) == 30);
  assert_int_equal(slow.done, 0);
  stop_sleepers(&f, &slow, 1);
  mt_jobs_free(quick, 30);
  mt_lodging_end(&f);
}

static void queue_is_bounded(void **state) {
  mt_job j[6];
  mt_error *err = NULL;
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_prepare(&f);
  f.p.opt.max_waiting = 5;
  mt_lodging_open(&f, 1);
  for (i = 0; i < 5; i++) mt_job_send(&j[i], &f.p, &f.t[0], "SELECT 1");
  assert_int_equal(mt_job_try(&j[5], &f.p, &f.t[0], "SELECT 1", &err),
                   MT_E_POOL_EXHAUSTED);
  assert_false(err->ambiguous);
  mt_error_unref(err);
  mt_lodger_expect(&f.t[1], &f.p, "SELECT 1", "1"); /* its own queue */
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 5) == 5);
  mt_jobs_free(j, 5);
  mt_lodging_end(&f);
}

static void limits_of_the_server_are_asked_for(void **state) {
  mt_lodging f;
  (void)state;
  mt_lodging_begin(&f, 0);
  assert_int_equal(mt_server_cap(f.p.server), 4);
  mt_lodger_expect(&f.t[0], &f.p, "SELECT 1", "1");
  MT_RUN_UNTIL(f.r, mt_server_cap(f.p.server) == 20); /* of about 95 free */
  mt_lodging_end(&f);
}

static void too_many_connections_lowers_the_cap(void **state) {
  mt_job j[5];
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_begin(&f, 0);
  mt_lodger_expect(&f.t[0], &f.p, "SELECT 1", "1");
  MT_RUN_UNTIL(f.r, mt_server_cap(f.p.server) == 20);
  mt_observer_sql(&mt_lodging_eye, "ALTER ROLE mtenant CONNECTION LIMIT 2");
  for (i = 0; i < 5; i++) {
    mt_job_send(&j[i], &f.p, &f.t[i], "SELECT pg_sleep(0.2)");
    mt_test_run_for(f.r, 30);
  }
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 5) == 5);
  for (i = 0; i < 5; i++) mt_job_text(&j[i]); /* nobody hears of it */
  assert_true(mt_pool_get_stats(f.p.pool)->connect_failures > 0);
  assert_in_range(mt_server_cap(f.p.server), 2, 10);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->peak, 2);
  mt_observer_sql(&mt_lodging_eye, "ALTER ROLE mtenant CONNECTION LIMIT -1");
  mt_jobs_free(j, 5);
  mt_lodging_end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_request_opens_one_connection),
      cmocka_unit_test(quick_requests_need_few_connections),
      cmocka_unit_test(waiting_behind_slow_ones_opens_more),
      cmocka_unit_test(budget_is_never_exceeded),
      cmocka_unit_test(share_has_its_own_limit),
      cmocka_unit_test(depth_of_a_connection_is_bounded),
      cmocka_unit_test(tenants_stay_at_home),
      cmocka_unit_test(shares_are_served_in_turn),
      cmocka_unit_test(nothing_queues_behind_a_slow_statement),
      cmocka_unit_test(queue_is_bounded),
      cmocka_unit_test(limits_of_the_server_are_asked_for),
      cmocka_unit_test(too_many_connections_lowers_the_cap),
  };
  return cmocka_run_group_tests(tests, mt_lodging_start, mt_lodging_stop);
}
