/* Whose turn it is, what nothing queues behind, queue policies and rates. */
#include <stdio.h>
#include <string.h>

#include "support/lodging.h"

static mt_sql *text_of(mt_lodging *f, const char *sql) {
  mt_sql *s = mt_sql_intern(f->p.sqls, sql, strlen(sql));
  assert_non_null(s);
  mt_sql_unref(s); /* the table keeps it */
  return s;
}

/* A few runs, so that it has a history. */
static void learn(mt_lodging *f, const char *sql) {
  int i;
  for (i = 0; i < 6; i++) {
    mt_job j;
    mt_job_run(&j, &f->p, &f->t[0], sql);
    mt_job_text(&j);
    mt_job_free(&j);
  }
}

/* ---- history ------------------------------------------------------------------ */

static void what_a_text_costs_is_learned(void **state) {
  mt_sql *quick, *slow;
  mt_lodging f;
  (void)state;
  mt_lodging_begin(&f, 1);
  quick = text_of(&f, "SELECT 1");
  slow = text_of(&f, "SELECT pg_sleep(0.03)");
  assert_int_equal(quick->runs, 0);
  learn(&f, "SELECT 1");
  learn(&f, "SELECT pg_sleep(0.03)");
  assert_int_equal(quick->runs, 6);
  assert_true(quick->cost_ms < slow->cost_ms);
  assert_true(slow->cost_ms >= 10 && slow->cost_ms < 3000);
  mt_lodging_end(&f);
}

/* What stood behind it is not charged for it. */
static void waiting_behind_another_is_no_cost(void **state) {
  mt_job slow, quick;
  uint64_t before;
  mt_sql *text;
  mt_lodging f;
  (void)state;
  mt_lodging_begin(&f, 1);
  learn(&f, "SELECT 2"); /* the first may be behind the connection's set-up */
  before = mt_pool_get_stats(f.p.pool)->behind;
  text = text_of(&f, "SELECT pg_sleep(0.05)");
  mt_sql_observe(text, 0.1); /* believed to be quick: others go behind */
  mt_job_send(&slow, &f.p, &f.t[1], "SELECT pg_sleep(0.05)");
  mt_job_send(&quick, &f.p, &f.t[2], "SELECT 2");
  MT_RUN_UNTIL(f.r, slow.done && quick.done);
  assert_true(quick.order > slow.order);
  assert_true(quick.req->behind_ms > 30);
  assert_true(text_of(&f, "SELECT 2")->cost_ms < 30);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->behind, before + 1);
  assert_true(mt_pool_get_stats(f.p.pool)->behind_max_ms > 30);
  mt_job_free(&slow);
  mt_job_free(&quick);
  mt_lodging_end(&f);
}

static void nothing_queues_behind_what_is_slow_or_unknown(void **state) {
  static const char *const texts[] = {"SELECT 31, pg_sleep(0.2)",
                                      "SELECT 32, pg_sleep(0.2)"};
  mt_job slow, quick[20];
  mt_lodging f;
  int round, i;
  (void)state;
  mt_lodging_begin(&f, 2);
  learn(&f, "SELECT 3");
  learn(&f, texts[1]); /* the other one is unknown */
  for (round = 0; round < 2; round++) {
    mt_job_send(&slow, &f.p, &f.t[1], texts[round]);
    for (i = 0; i < 20; i++)
      mt_job_send(&quick[i], &f.p, &f.t[i % MT_LODGERS], "SELECT 3");
    MT_RUN_UNTIL(f.r, mt_jobs_done(quick, 20) == 20);
    if (slow.done) fail_msg("quick ones waited for %s", texts[round]);
    MT_RUN_UNTIL(f.r, slow.done);
    mt_job_free(&slow);
    mt_jobs_free(quick, 20);
  }
  mt_lodging_end(&f);
}

/* Eight tenants' slow statements do not take every connection. */
static void quick_ones_keep_a_connection(void **state) {
  mt_job slow[12], quick;
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_begin(&f, 3);
  learn(&f, "SELECT 4");
  learn(&f, "SELECT pg_sleep(0.1)");
  for (i = 0; i < 12; i++) {
    mt_job_run(&quick, &f.p, &f.t[0], "SELECT 4"); /* they keep coming */
    mt_job_free(&quick);
    mt_job_send(&slow[i], &f.p, &f.t[i % MT_LODGERS], "SELECT pg_sleep(0.1)");
  }
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 3);
  for (i = 0; i < 20; i++) {
    mt_job_run(&quick, &f.p, &f.t[i % MT_LODGERS], "SELECT 4");
    assert_true(mt_observer_running(&mt_lodging_eye, "pg_sleep") <= 2);
    mt_job_free(&quick);
  }
  MT_RUN_UNTIL(f.r, mt_jobs_done(slow, 12) == 12);
  mt_jobs_free(slow, 12);
  mt_lodging_end(&f);
}

/* ---- turns -------------------------------------------------------------------- */

/* One tenant's statements cost 40 times as much: each gets the same time. */
static void turns_are_of_equal_cost(void **state) {
  mt_job dear[40], cheap[200];
  mt_lodging f;
  int i, before = 0;
  (void)state;
  mt_lodging_begin(&f, 1);
  mt_sql_observe(text_of(&f, "SELECT 51"), 1.0);
  mt_sql_observe(text_of(&f, "SELECT 52"), 0.1);
  /* nothing can be sent before the connection is there */
  for (i = 0; i < 40; i++) mt_job_send(&dear[i], &f.p, &f.t[0], "SELECT 51");
  for (i = 0; i < 200; i++) mt_job_send(&cheap[i], &f.p, &f.t[1], "SELECT 52");
  MT_RUN_UNTIL(f.r, mt_jobs_done(cheap, 200) + mt_jobs_done(dear, 40) == 240);
  for (i = 0; i < 40; i++) before += dear[i].order <= 44;
  assert_in_range(before, 2, 12); /* 4, but history changes as they run */
  mt_jobs_free(dear, 40);
  mt_jobs_free(cheap, 200);
  mt_lodging_end(&f);
}

/* ---- policies ------------------------------------------------------------------- */

static void reject_refuses_what_would_wait(void **state) {
  mt_job slow[2], j;
  mt_error *err = NULL;
  mt_lodging f;
  int i;
  (void)state;
  mt_lodging_prepare(&f);
  f.p.opt.queue_policy = MT_QUEUE_REJECT;
  mt_lodging_open(&f, 2);
  for (i = 0; i < 2; i++) {
    mt_job_send(&slow[i], &f.p, &f.t[i], "SELECT pg_sleep(0.3)");
    MT_RUN_UNTIL(f.r,
                 mt_observer_running(&mt_lodging_eye, "pg_sleep") == i + 1);
    mt_test_run_for(f.r, 30);
  }
  assert_int_equal(mt_job_try(&j, &f.p, &f.t[3], "SELECT 1", &err),
                   MT_E_POOL_EXHAUSTED);
  assert_false(err->ambiguous);
  mt_error_unref(err);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->queue_full, 1);
  MT_RUN_UNTIL(f.r, mt_jobs_done(slow, 2) == 2);
  mt_lodger_expect(&f.t[3], &f.p, "SELECT 1", "1");
  mt_jobs_free(slow, 2);
  mt_lodging_end(&f);
}

/* Who was held back by his own limit gets in line behind others that came
 * later, and has waited for longer than they have. */
static void the_place_in_line_does_not_prolong_the_wait(void **state) {
  mt_held held, next, early, later;
  mt_lodging f;
  (void)state;
  mt_lodging_prepare(&f);
  f.p.opt.max = 1;
  f.p.opt.acquire_timeout_ms = 700;
  mt_lodging_open(&f, 1);
  mt_held_get(&held, &f.p, &f.t[0]);
  mt_held_acquire(&next, &f.p, &f.t[1]);
  mt_held_acquire(&early, &f.p, &f.t[0]);
  mt_test_run_for(f.r, 500);
  mt_held_acquire(&later, &f.p, &f.t[2]);
  mt_held_release(&held);
  MT_RUN_UNTIL(f.r, next.granted);
  MT_RUN_UNTIL(f.r, early.failed);
  assert_int_equal(later.failed, 0);
  MT_RUN_UNTIL(f.r, later.failed);
  assert_int_equal(early.err->code, MT_E_POOL_EXHAUSTED);
  mt_error_unref(early.err);
  mt_error_unref(later.err);
  mt_held_release(&next);
  mt_lodging_end(&f);
}

static void evict_lru_takes_an_idle_connection_of_another_pool(void **state) {
  mt_pooled other;
  mt_lodger guest;
  mt_job slow, j;
  mt_lodging f;
  (void)state;
  mt_lodging_prepare(&f);
  f.p.opt.queue_policy = MT_QUEUE_EVICT_LRU;
  mt_lodging_open(&f, 2);
  mt_pooled_init(&other, f.r);
  mt_pooled_open_beside(&other, mt_lodging_server.url, &f.p);
  mt_lodger_init(&guest, &other, 99, "t_0");
  mt_lodger_expect(&guest, &other, "SELECT 1", "1"); /* and stays idle */
  mt_job_send(&slow, &f.p, &f.t[0], "SELECT pg_sleep(1)");
  mt_test_run_for(f.r, 50);
  mt_job_run(&j, &f.p, &f.t[1], "SELECT 1");
  assert_int_equal(slow.done, 0);
  assert_int_equal(mt_pool_get_stats(other.pool)->open, 0);
  MT_RUN_UNTIL(f.r, slow.done);
  mt_job_free(&slow);
  mt_job_free(&j);
  mt_lodger_fini(&guest);
  mt_pooled_close(&other);
  mt_lodging_end(&f);
}

/* ---- rates ---------------------------------------------------------------------- */

static void begin_rated(mt_lodging *f, double per_second, double burst,
                        mt_rate_mode mode) {
  mt_lodging_prepare(f);
  f->p.opt.rate = (mt_rate_limit){per_second, burst, mode};
  mt_lodging_open(f, 2);
  mt_lodger_expect(&f->t[5], &f->p, "SELECT 1", "1"); /* connected */
}

static void a_rate_holds_on_average(void **state) {
  mt_job j[25], other;
  double start;
  mt_lodging f;
  int i;
  (void)state;
  begin_rated(&f, 100, 5, MT_RATE_QUEUE);
  start = mt_reactor_now(f.r);
  for (i = 0; i < 25; i++) mt_job_send(&j[i], &f.p, &f.t[0], "SELECT 1");
  mt_job_run(&other, &f.p, &f.t[1], "SELECT 1"); /* nobody else is held back */
  assert_true(mt_jobs_done(j, 25) < 20);
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 25) == 25);
  assert_true(j[4].at - start < j[5].at - start);
  for (i = 5; i < 25; i++) /* the burst, then one each 10 ms */
    assert_true(j[i].at - start >= (i - 4) * 10 - 1);
  assert_true(mt_pool_get_stats(f.p.pool)->rate_limited > 0);
  mt_jobs_free(j, 25);
  mt_job_free(&other);
  mt_lodging_end(&f);
}

static void a_rate_may_reject(void **state) {
  mt_job j[4];
  mt_error *err = NULL;
  mt_lodging f;
  int i;
  (void)state;
  begin_rated(&f, 10, 3, MT_RATE_REJECT);
  for (i = 0; i < 3; i++) mt_job_send(&j[i], &f.p, &f.t[0], "SELECT 1");
  assert_int_equal(mt_job_try(&j[3], &f.p, &f.t[0], "SELECT 1", &err),
                   MT_E_POOL_EXHAUSTED);
  assert_true(err->retryable);
  assert_non_null(strstr(err->message, "10 statements a second"));
  mt_error_unref(err);
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, 3) == 3);
  mt_jobs_free(j, 3);
  mt_test_run_for(f.r, 120); /* one more has come due */
  mt_lodger_expect(&f.t[0], &f.p, "SELECT 1", "1");
  mt_lodging_end(&f);
}

static void queue_counts_the_waiting_and_throttle_does_not(void **state) {
  mt_lodging f;
  int mode;
  (void)state;
  for (mode = MT_RATE_QUEUE; mode <= MT_RATE_THROTTLE; mode += 2) {
    mt_job j[6];
    int i, failed = 0;
    mt_lodging_prepare(&f);
    f.p.opt.rate = (mt_rate_limit){20, 1, (mt_rate_mode)mode};
    f.p.opt.acquire_timeout_ms = 120;
    mt_lodging_open(&f, 2);
    for (i = 0; i < 6; i++) mt_job_send(&j[i], &f.p, &f.t[0], "SELECT 1");
    MT_RUN_UNTIL(f.r, mt_jobs_done(j, 6) == 6);
    for (i = 0; i < 6; i++) failed += j[i].req->err != NULL;
    if (mode == MT_RATE_QUEUE)
      assert_in_range(failed, 2, 5);
    else
      assert_int_equal(failed, 0);
    assert_int_equal(mt_pool_get_stats(f.p.pool)->queue_timeouts, failed);
    mt_jobs_free(j, 6);
    mt_lodging_end(&f);
  }
}

/* Held back inside, it would hold its locks for longer. */
static void a_lease_is_charged_and_not_held_back(void **state) {
  mt_held h, next;
  mt_job j[5];
  double start;
  mt_lodging f;
  int i;
  (void)state;
  begin_rated(&f, 20, 1, MT_RATE_QUEUE);
  start = mt_reactor_now(f.r);
  mt_held_get(&h, &f.p, &f.t[0]);
  for (i = 0; i < 5; i++) mt_held_run(&h, &j[i], "SELECT 1");
  assert_true(mt_reactor_now(f.r) - start < 150);
  mt_held_release(&h);
  mt_held_get(&next, &f.p, &f.t[0]); /* pays for the five */
  assert_true(mt_reactor_now(f.r) - start >= 249);
  mt_held_release(&next);
  mt_jobs_free(j, 5);
  mt_lodging_end(&f);
}

/* What is taken back while its rate holds it leaves nothing behind. */
static void throttled_ones_can_be_taken_back(void **state) {
  mt_held h;
  mt_job j[3];
  mt_lodging f;
  int i;
  (void)state;
  begin_rated(&f, 2, 1, MT_RATE_THROTTLE);
  for (i = 0; i < 3; i++) mt_job_send(&j[i], &f.p, &f.t[0], "SELECT 1");
  MT_RUN_UNTIL(f.r, j[0].done);
  mt_held_acquire(&h, &f.p, &f.t[0]);
  for (i = 1; i < 3; i++)
    assert_int_equal(mt_share_cancel(&f.t[0].share, j[i].req), MT_CANCEL_TAKEN);
  MT_RUN_UNTIL(f.r, h.granted); /* it waited behind them, and is let go */
  mt_held_release(&h);
  mt_held_acquire(&h, &f.p, &f.t[0]);
  mt_held_release(&h); /* still waiting */
  assert_false(mt_share_busy(&f.t[0].share));
  mt_job_free(&j[0]);
  for (i = 1; i < 3; i++) mt_req_free(j[i].req);
  mt_lodging_end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_a_text_costs_is_learned),
      cmocka_unit_test(waiting_behind_another_is_no_cost),
      cmocka_unit_test(nothing_queues_behind_what_is_slow_or_unknown),
      cmocka_unit_test(quick_ones_keep_a_connection),
      cmocka_unit_test(turns_are_of_equal_cost),
      cmocka_unit_test(reject_refuses_what_would_wait),
      cmocka_unit_test(the_place_in_line_does_not_prolong_the_wait),
      cmocka_unit_test(evict_lru_takes_an_idle_connection_of_another_pool),
      cmocka_unit_test(a_rate_holds_on_average),
      cmocka_unit_test(a_rate_may_reject),
      cmocka_unit_test(queue_counts_the_waiting_and_throttle_does_not),
      cmocka_unit_test(a_lease_is_charged_and_not_held_back),
      cmocka_unit_test(throttled_ones_can_be_taken_back),
  };
  return cmocka_run_group_tests(tests, mt_lodging_start, mt_lodging_stop);
}
