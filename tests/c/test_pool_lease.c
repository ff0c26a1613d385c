/* Leases: one connection for one holder, from the grant to the decision
 * whether anybody else may have it afterwards. */
#include <stdio.h>
#include <string.h>

#include "support/pooled.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_pooled p;
  mt_lodger a, b;
} fixture;

static void begin_with(fixture *f, int budget, int max, double acquire_ms) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->p, f->r);
  f->p.opt.max = max;
  f->p.opt.acquire_timeout_ms = acquire_ms;
  mt_pooled_open(&f->p, server.url, budget);
  mt_lodger_init(&f->a, &f->p, 1, "t_a");
  mt_lodger_init(&f->b, &f->p, 2, "t_b");
}

static void begin(fixture *f, int budget) { begin_with(f, budget, 100, 15000); }

/* Every test ends here. */
static void end(fixture *f) {
  MT_RUN_UNTIL(f->r, f->a.share.inflight + f->b.share.inflight == 0);
  mt_lodger_fini(&f->a);
  mt_lodger_fini(&f->b);
  mt_pooled_close(&f->p);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void do_sql(mt_held *h, const char *sql) {
  mt_job j;
  mt_held_run(h, &j, sql);
  mt_job_text(&j);
  mt_job_free(&j);
}

static void held_connection_is_one_and_only(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  char pid[16];
  int i;
  (void)state;
  begin(&f, 4);
  mt_held_get(&h, &f.p, &f.a);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->leases, 1);
  snprintf(pid, sizeof pid, "%d", mt_lease_backend_pid(h.lease));
  for (i = 0; i < 3; i++) {
    mt_held_run(&h, &j, "SELECT pg_backend_pid()");
    assert_string_equal(mt_job_text(&j), pid);
    mt_job_free(&j);
    mt_job_run(&j, &f.p, &f.a, "SELECT pg_backend_pid()");
    assert_string_not_equal(mt_job_text(&j), pid); /* not for plain ones */
    mt_job_free(&j);
  }
  assert_int_equal(f.a.share.inflight, 1);
  mt_held_release(&h);
  assert_int_equal(f.a.share.inflight, 0);
  end(&f);
}

static void untouched_connection_is_used_again(void **state) {
  mt_held h;
  fixture f;
  int pid;
  (void)state;
  begin(&f, 4);
  mt_held_get(&h, &f.p, &f.a);
  pid = mt_lease_backend_pid(h.lease);
  do_sql(&h, "BEGIN");
  do_sql(&h, "COMMIT");
  mt_held_release(&h);
  mt_held_get(&h, &f.p, &f.b);
  assert_int_equal(mt_lease_backend_pid(h.lease), pid);
  mt_held_release(&h);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->opened, 1);
  end(&f);
}

static void open_transaction_is_rolled_back(void **state) {
  mt_held h;
  fixture f;
  int pid;
  (void)state;
  begin(&f, 4);
  mt_held_get(&h, &f.p, &f.a);
  pid = mt_lease_backend_pid(h.lease);
  do_sql(&h, "BEGIN");
  do_sql(&h, "INSERT INTO t_a.items VALUES (2, 'x')");
  mt_held_release(&h);
  MT_RUN_UNTIL(f.r, f.a.share.inflight == 0);
  assert_int_equal(mt_observer_number(&eye, "SELECT count(*) FROM t_a.items"),
                   1);
  mt_held_get(&h, &f.p, &f.b);
  assert_int_equal(mt_lease_backend_pid(h.lease), pid);
  mt_held_release(&h);
  end(&f);
}

static void failed_transaction_is_rolled_back(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 1);
  mt_held_get(&h, &f.p, &f.a);
  do_sql(&h, "BEGIN");
  mt_held_run(&h, &j, "SELECT 1/0");
  mt_job_failed(&j, MT_E_QUERY, "22012");
  mt_job_free(&j);
  mt_held_release(&h);
  mt_lodger_expect(&f.b, &f.p, "SELECT name FROM items", "t_b");
  assert_int_equal(mt_pool_get_stats(f.p.pool)->opened, 1);
  end(&f);
}

static void running_statement_is_cancelled_at_release(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 1);
  mt_held_get(&h, &f.p, &f.a);
  mt_held_send(&h, &j, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_held_release(&h);
  MT_RUN_UNTIL(f.r, j.done);
  mt_job_failed(&j, MT_E_CANCELLED, "57014");
  mt_lodger_expect(&f.b, &f.p, "SELECT 1", "1");
  mt_job_free(&j);
  end(&f);
}

static void cancel_reaches_the_held_connection(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 2);
  mt_held_get(&h, &f.p, &f.a);
  assert_false(mt_lease_cancel(h.lease));
  mt_held_send(&h, &j, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  assert_true(mt_lease_cancel(h.lease));
  MT_RUN_UNTIL(f.r, j.done);
  mt_job_failed(&j, MT_E_CANCELLED, "57014");
  mt_job_free(&j);
  do_sql(&h, "SELECT 1"); /* it is still held, and works */
  mt_held_release(&h);
  end(&f);
}

/* Plain ones keep coming: the lease gets its connection all the same, and
 * they get an answer while it is held. */
static void lease_gets_through_plain_load(void **state) {
  enum { N = 40 };
  mt_job j[N];
  mt_held h;
  fixture f;
  int i, left = 0;
  (void)state;
  begin(&f, 2);
  for (i = 0; i < N; i++)
    mt_job_send(&j[i], &f.p, &f.b, "SELECT pg_sleep(0.002)");
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, N) > 0);
  mt_held_acquire(&h, &f.p, &f.a);
  while (!h.granted) {
    for (i = 0; i < N; i++) {
      if (!j[i].done) continue;
      mt_job_free(&j[i]);
      mt_job_send(&j[i], &f.p, &f.b, "SELECT pg_sleep(0.002)");
    }
    mt_test_turn(f.r);
    assert_true(left++ < 2000);
  }
  MT_RUN_UNTIL(f.r, mt_jobs_done(j, N) == N);
  mt_held_release(&h);
  for (i = 0; i < N; i++) mt_job_free(&j[i]);
  end(&f);
}

static void leases_are_granted_in_order(void **state) {
  enum { N = 6 };
  mt_held h[N];
  fixture f;
  int i, k;
  (void)state;
  begin(&f, 1);
  mt_held_get(&h[0], &f.p, &f.a);
  for (i = 1; i < N; i++) mt_held_acquire(&h[i], &f.p, i % 2 ? &f.a : &f.b);
  for (i = 1; i < N; i++) {
    mt_held_release(&h[i - 1]);
    MT_RUN_UNTIL(f.r, h[i].granted);
    for (k = i + 1; k < N; k++) assert_int_equal(h[k].granted, 0);
  }
  mt_held_release(&h[N - 1]);
  end(&f);
}

static void share_holds_no_more_than_its_limit(void **state) {
  mt_held h[4];
  fixture f;
  int i;
  (void)state;
  begin_with(&f, 10, 2, 15000);
  for (i = 0; i < 4; i++) mt_held_acquire(&h[i], &f.p, &f.a);
  MT_RUN_UNTIL(f.r, h[0].granted && h[1].granted);
  mt_test_run_for(f.r, 150);
  assert_int_equal(h[2].granted + h[3].granted, 0);
  mt_lodger_expect(&f.b, &f.p, "SELECT 1", "1"); /* others are not held up */
  mt_held_release(&h[1]);
  MT_RUN_UNTIL(f.r, h[2].granted);
  assert_int_equal(h[3].granted, 0);
  mt_held_release(&h[3]);
  mt_held_release(&h[0]);
  mt_held_release(&h[2]);
  end(&f);
}

static void waiting_has_an_end(void **state) {
  mt_held h[3];
  fixture f;
  (void)state;
  begin_with(&f, 1, 2, 100);
  mt_held_get(&h[0], &f.p, &f.a);
  mt_held_acquire(&h[1], &f.p, &f.a);
  mt_held_acquire(&h[2], &f.p, &f.a); /* beyond the share's limit */
  MT_RUN_UNTIL_MS(f.r, 2000, h[1].failed && h[2].failed);
  assert_int_equal(h[1].err->code, MT_E_POOL_EXHAUSTED);
  assert_int_equal(h[2].err->code, MT_E_POOL_EXHAUSTED);
  mt_error_unref(h[1].err);
  mt_error_unref(h[2].err);
  assert_int_equal(f.a.share.inflight, 1);
  mt_held_release(&h[0]);
  end(&f);
}

/* A lease that gives up leaves its place in the share to what waits there. */
static void refused_lease_makes_room_in_its_share(void **state) {
  mt_held held, refused;
  mt_job j;
  fixture f;
  (void)state;
  begin_with(&f, 1, 1, 200);
  mt_held_get(&held, &f.p, &f.b);
  mt_held_acquire(&refused, &f.p, &f.a);
  mt_test_run_for(f.r, 120);
  mt_job_send(&j, &f.p, &f.a, "SELECT 1");
  MT_RUN_UNTIL(f.r, refused.failed);
  mt_error_unref(refused.err);
  assert_int_equal(j.done, 0);
  mt_held_release(&held);
  MT_RUN_UNTIL(f.r, j.done);
  assert_string_equal(mt_job_text(&j), "1");
  mt_job_free(&j);
  end(&f);
}

static void waiting_lease_can_be_given_up(void **state) {
  mt_held h[3];
  fixture f;
  (void)state;
  begin(&f, 1);
  mt_held_get(&h[0], &f.p, &f.a);
  mt_held_acquire(&h[1], &f.p, &f.a);
  mt_held_acquire(&h[2], &f.p, &f.b);
  mt_test_run_for(f.r, 30);
  mt_held_release(&h[1]);
  mt_held_release(&h[0]);
  MT_RUN_UNTIL(f.r, h[2].granted);
  assert_int_equal(h[1].granted + h[1].failed, 0);
  mt_held_release(&h[2]);
  end(&f);
}

static void give_up_other(mt_held *h) { mt_held_release(h->other); }

static void holder_may_give_up_others_when_granted(void **state) {
  mt_held h[4];
  fixture f;
  (void)state;
  begin(&f, 2);
  mt_held_get(&h[0], &f.p, &f.a);
  mt_held_get(&h[1], &f.p, &f.a);
  mt_held_acquire(&h[2], &f.p, &f.a);
  mt_held_acquire(&h[3], &f.p, &f.b);
  h[2].then = give_up_other;
  h[2].other = &h[3]; /* the next in the queue goes while it is walked */
  mt_held_release(&h[0]);
  mt_held_release(&h[1]);
  MT_RUN_UNTIL(f.r, h[2].granted);
  mt_test_run_for(f.r, 20);
  assert_int_equal(h[3].granted + h[3].failed, 0);
  mt_held_release(&h[2]);
  end(&f);
}

static void release_self(mt_held *h) { mt_held_release(h); }

static void holder_may_release_when_granted(void **state) {
  mt_held h[3];
  fixture f;
  int i;
  (void)state;
  begin(&f, 1);
  for (i = 0; i < 3; i++) {
    mt_held_acquire(&h[i], &f.p, &f.a);
    h[i].then = release_self;
  }
  MT_RUN_UNTIL(f.r, h[0].granted && h[1].granted && h[2].granted);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  end(&f);
}

/* The same when it fails: the limit of the share must not be miscounted. */
static void holder_may_give_up_others_when_refused(void **state) {
  mt_held h[4];
  fixture f;
  (void)state;
  begin_with(&f, 1, 1, 100);
  mt_held_get(&h[0], &f.p, &f.a);
  mt_held_acquire(&h[1], &f.p, &f.a);
  mt_held_acquire(&h[2], &f.p, &f.a);
  h[1].then = give_up_other;
  h[1].other = &h[2];
  MT_RUN_UNTIL(f.r, h[1].failed);
  mt_error_unref(h[1].err);
  assert_int_equal(h[2].granted + h[2].failed, 0);
  assert_int_equal(f.a.share.inflight, 1);
  mt_held_release(&h[0]);
  end(&f);
}

static void holder_may_give_up_others_when_nothing_opens(void **state) {
  mt_held h[3];
  fixture f;
  int i;
  (void)state;
  mt_observer_sql(&eye, "ALTER ROLE mtenant NOLOGIN");
  begin_with(&f, 1, 1, 15000);
  for (i = 0; i < 3; i++) mt_held_acquire(&h[i], &f.p, &f.a);
  h[1].then = give_up_other;
  h[1].other = &h[2]; /* both wait in the share, not counted yet */
  MT_RUN_UNTIL(f.r, h[0].failed && h[1].failed);
  mt_observer_sql(&eye, "ALTER ROLE mtenant LOGIN");
  assert_int_equal(h[2].granted + h[2].failed, 0);
  assert_int_equal(f.a.share.inflight, 0);
  assert_int_equal(h[0].err->code, MT_E_AUTH);
  mt_error_unref(h[0].err);
  mt_error_unref(h[1].err);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  end(&f);
}

static void waiting_behind_a_lost_lease_has_an_end(void **state) {
  mt_held held, waiting;
  fixture f;
  (void)state;
  begin_with(&f, 1, 1, 100);
  mt_held_get(&held, &f.p, &f.a);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)",
                  mt_lease_backend_pid(held.lease));
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 0);
  mt_held_acquire(&waiting, &f.p, &f.a);
  MT_RUN_UNTIL_MS(f.r, 2000, waiting.failed);
  assert_int_equal(waiting.err->code, MT_E_POOL_EXHAUSTED);
  mt_error_unref(waiting.err);
  mt_held_release(&held);
  end(&f);
}

static void lost_while_it_is_held(void **state) {
  mt_held h;
  mt_job j;
  mt_error *err = NULL;
  mt_req *req;
  fixture f;
  (void)state;
  begin(&f, 1);
  mt_held_get(&h, &f.p, &f.a);
  mt_held_send(&h, &j, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)",
                  mt_lease_backend_pid(h.lease));
  MT_RUN_UNTIL(f.r, j.done);
  mt_job_failed(&j, MT_E_CONNECTION_LOST, "57P01");
  assert_int_equal(j.req->resent, 0); /* never elsewhere: it was pinned */
  mt_job_free(&j);
  MT_RUN_UNTIL(f.r, mt_server_open(f.p.server) == 0);
  assert_int_equal(mt_lease_backend_pid(h.lease), 0);
  assert_false(mt_lease_cancel(h.lease));
  req = mt_req_new_text(0, NULL, "SELECT 1");
  assert_int_equal(mt_lease_submit(h.lease, req, &err), MT_E_CONNECTION_LOST);
  mt_error_unref(err);
  mt_req_free(req);
  mt_lodger_expect(&f.b, &f.p, "SELECT 1", "1"); /* its place was free */
  mt_held_release(&h);
  end(&f);
}

static void lost_while_it_is_released(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, 1);
  mt_held_get(&h, &f.p, &f.a);
  mt_held_send(&h, &j, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)",
                  mt_lease_backend_pid(h.lease));
  mt_held_release(&h);
  MT_RUN_UNTIL(f.r, j.done);
  assert_non_null(j.req->err);
  mt_job_free(&j);
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
      cmocka_unit_test(held_connection_is_one_and_only),
      cmocka_unit_test(untouched_connection_is_used_again),
      cmocka_unit_test(open_transaction_is_rolled_back),
      cmocka_unit_test(failed_transaction_is_rolled_back),
      cmocka_unit_test(running_statement_is_cancelled_at_release),
      cmocka_unit_test(cancel_reaches_the_held_connection),
      cmocka_unit_test(lease_gets_through_plain_load),
      cmocka_unit_test(leases_are_granted_in_order),
      cmocka_unit_test(share_holds_no_more_than_its_limit),
      cmocka_unit_test(waiting_has_an_end),
      cmocka_unit_test(refused_lease_makes_room_in_its_share),
      cmocka_unit_test(waiting_lease_can_be_given_up),
      cmocka_unit_test(holder_may_give_up_others_when_granted),
      cmocka_unit_test(holder_may_release_when_granted),
      cmocka_unit_test(holder_may_give_up_others_when_refused),
      cmocka_unit_test(holder_may_give_up_others_when_nothing_opens),
      cmocka_unit_test(waiting_behind_a_lost_lease_has_an_end),
      cmocka_unit_test(lost_while_it_is_held),
      cmocka_unit_test(lost_while_it_is_released),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
