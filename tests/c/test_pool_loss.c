/* Connections that fail under a pool: what is sent again elsewhere, what is
 * told to whom, and a server that is not there. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/pooled.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_pooled p;
  mt_lodger a, b;
} fixture;

static void begin(fixture *f, const char *url, int budget) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->p, f->r);
  mt_pooled_open(&f->p, url, budget);
  mt_lodger_init(&f->a, &f->p, 1, "t_a");
  mt_lodger_init(&f->b, &f->p, 2, "t_b");
}

/* Every test ends here. */
static void end(fixture *f) {
  mt_lodger_fini(&f->a);
  mt_lodger_fini(&f->b);
  mt_pooled_close(&f->p);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void terminate_all(void) {
  mt_observer_sql(&eye,
                  "SELECT pg_terminate_backend(pid) FROM "
                  "pg_stat_activity WHERE usename = 'mtenant'");
}

static void idle_loss_is_nobodys_business(void **state) {
  fixture f;
  uint64_t generation;
  (void)state;
  begin(&f, server.url, 4);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  generation = mt_pool_generation(f.p.pool);
  terminate_all();
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 0);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->lost, 1);
  assert_true(mt_pool_generation(f.p.pool) > generation);
  assert_false(mt_pool_has_open(f.p.pool));
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  end(&f);
}

static void what_was_not_run_goes_elsewhere(void **state) {
  mt_job j[10];
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url, 4);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  terminate_all();
  for (i = 0; i < 1000 && mt_observer_backends(&eye) > 0; i++) continue;
  for (i = 0; i < 10; i++)
    mt_job_send(&j[i], &f.p, i % 2 ? &f.a : &f.b,
                "INSERT INTO log(who) VALUES (current_schema())");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 10) == 10);
  for (i = 0; i < 10; i++) {
    mt_job_text(&j[i]);
    mt_job_free(&j[i]);
  }
  assert_int_equal(mt_observer_number(&eye, "SELECT count(*) FROM log"), 10);
  mt_observer_sql(&eye, "TRUNCATE log");
  end(&f);
}

/* In each share they keep the order in which they were submitted. */
static void order_survives_being_sent_again(void **state) {
  mt_job j[12];
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url, 1);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  terminate_all();
  for (i = 0; i < 1000 && mt_observer_backends(&eye) > 0; i++) continue;
  for (i = 0; i < 12; i++) mt_job_send(&j[i], &f.p, &f.a, "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 12) == 12);
  for (i = 0; i < 12; i++) {
    mt_job_text(&j[i]);
    assert_int_equal(j[i].order, i + 2);
    mt_job_free(&j[i]);
  }
  end(&f);
}

static void what_may_have_run_is_told(void **state) {
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_job_send(&j, &f.p, &f.a, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_test_run_for(f.r, 80);
  terminate_all();
  MT_RUN_UNTIL(f.r, j.done);
  mt_job_failed(&j, MT_E_CONNECTION_LOST, "57P01");
  assert_int_equal(j.req->resent, 0);
  mt_job_free(&j);
  end(&f);
}

static void dirty_connection_serves_nobody_else(void **state) {
  mt_job j;
  fixture f;
  char pid[16];
  (void)state;
  begin(&f, server.url, 4);
  mt_job_run(&j, &f.p, &f.a, "SELECT pg_backend_pid()");
  snprintf(pid, sizeof pid, "%s", mt_job_text(&j));
  mt_job_free(&j);
  mt_lodger_expect(&f.a, &f.p, "SELECT set_config('search_path', 't_a', false)",
                   "t_a");
  mt_job_run(&j, &f.p, &f.b, "SELECT name || pg_backend_pid() FROM items");
  assert_memory_equal(mt_job_text(&j), "t_b", 3);
  assert_string_not_equal(mt_job_text(&j) + 3, pid);
  assert_int_equal(j.req->resent, 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->retired, 1);
  mt_job_free(&j);
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 1);
  end(&f);
}

/* Each makes its connection dirty for those behind it: three times they go
 * elsewhere, no more. */
static void sending_again_has_an_end(void **state) {
  mt_job j[5];
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url, 1);
  for (i = 0; i < 5; i++)
    mt_job_send(&j[i], &f.p, &f.a,
                "SELECT set_config('search_path', 't_a', false)");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 5) == 5);
  for (i = 0; i < 4; i++) {
    assert_string_equal(mt_job_text(&j[i]), "t_a");
    assert_int_equal(j[i].req->resent, i);
    mt_job_free(&j[i]);
  }
  mt_job_failed(&j[4], MT_E_QUERY, "42602");
  assert_true(j[4].req->not_run);
  mt_job_free(&j[4]);
  end(&f);
}

static void transaction_left_open_closes_the_connection(void **state) {
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_lodger_expect(&f.a, &f.p, "BEGIN", "");
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 0);
  mt_job_run(&j, &f.p, &f.b, "SELECT name FROM items");
  assert_string_equal(mt_job_text(&j), "t_b");
  mt_job_free(&j);
  end(&f);
}

static void dead_server_fails_all_who_wait(void **state) {
  mt_job j[20];
  mt_held h;
  char url[128];
  int i, port, fd = mt_peer_reserve_port(&port);
  fixture f;
  (void)state;
  snprintf(url, sizeof url, "postgresql://mtenant@127.0.0.1:%d/mtenant", port);
  begin(&f, url, 4);
  for (i = 0; i < 20; i++)
    mt_job_send(&j[i], &f.p, i % 2 ? &f.a : &f.b, "SELECT 1");
  mt_held_acquire(&h, &f.p, &f.a);
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 20) == 20 && h.failed);
  for (i = 0; i < 20; i++) {
    mt_job_failed(&j[i], MT_E_REFUSED, "");
    assert_false(j[i].req->err->ambiguous);
    mt_job_free(&j[i]);
  }
  assert_int_equal(h.err->code, MT_E_REFUSED);
  mt_error_unref(h.err);
  assert_int_equal(mt_server_open(f.p.server), 0);
  assert_int_equal(f.a.share.inflight + f.b.share.inflight, 0);
  close(fd);
  end(&f);
}

static void restart_is_survived(void **state) {
  mt_job j[6];
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url, 4);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  mt_observer_close(&eye);
  mt_test_pg_stop(&server, "fast");
  for (i = 0; i < 6; i++) mt_job_send(&j[i], &f.p, &f.a, "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 6) == 6);
  for (i = 0; i < 6; i++) {
    assert_non_null(j[i].req->err);
    assert_true(j[i].req->err->retryable);
    mt_job_free(&j[i]);
  }
  mt_test_pg_start_again(&server);
  mt_observer_reopen(&eye, &server);
  mt_lodger_expect(&f.a, &f.p, "SELECT name FROM items", "t_a");
  end(&f);
}

/* While others live, one refusal is followed by a pause, not by a storm. */
static void failing_growth_does_not_storm(void **state) {
  mt_job slow, j[10];
  fixture f;
  int i;
  (void)state;
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT 1");
  begin(&f, server.url, 8);
  mt_job_send(&slow, &f.p, &f.a, "SELECT pg_sleep(0.5)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_test_run_for(f.r, 40);
  for (i = 0; i < 10; i++) mt_job_send(&j[i], &f.p, &f.b, "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 10) == 10);
  assert_in_range(mt_pool_get_stats(f.p.pool)->connect_failures, 1, 10);
  mt_observer_sql(&eye, "ALTER ROLE mtenant CONNECTION LIMIT -1");
  for (i = 0; i < 10; i++) {
    mt_job_text(&j[i]);
    mt_job_free(&j[i]);
  }
  mt_job_free(&slow);
  end(&f);
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, true, NULL);
  mt_observer_open(&eye, &server);
  mt_observer_schema(&eye, "t_a");
  mt_observer_schema(&eye, "t_b");
  mt_observer_sql(&eye,
                  "CREATE TABLE log(who text); GRANT ALL ON log TO "
                  "public");
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
      cmocka_unit_test(idle_loss_is_nobodys_business),
      cmocka_unit_test(what_was_not_run_goes_elsewhere),
      cmocka_unit_test(order_survives_being_sent_again),
      cmocka_unit_test(what_may_have_run_is_told),
      cmocka_unit_test(dirty_connection_serves_nobody_else),
      cmocka_unit_test(sending_again_has_an_end),
      cmocka_unit_test(transaction_left_open_closes_the_connection),
      cmocka_unit_test(dead_server_fails_all_who_wait),
      cmocka_unit_test(restart_is_survived),
      cmocka_unit_test(failing_growth_does_not_storm),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
