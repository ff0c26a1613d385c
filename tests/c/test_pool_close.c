/* Closing a pool in every state: all is answered, once, and nothing is left. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

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

static void on_closed(void *data) { ((mt_pooled *)data)->closed++; }

/* Closes with a bound that is far beyond what is expected. */
static void close_pool(fixture *f) {
  mt_pool_close(f->p.pool, 15000, on_closed, &f->p);
  assert_int_equal(f->p.closed, 0); /* never from inside */
}

static void closing_an_unused_pool(void **state) {
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 100, f.p.closed);
  end(&f);
}

static void never_used_pool_may_just_be_freed(void **state) {
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  f.p.closed = 1; /* it would have said so */
  end(&f);
}

static void idle_connections_are_closed(void **state) {
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_lodger_expect(&f.a, &f.p, "SELECT 1", "1");
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 1000, f.p.closed);
  end(&f);
}

static void running_statement_is_cancelled(void **state) {
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_job_send(&j, &f.p, &f.a, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 2000, f.p.closed);
  mt_job_failed(&j, MT_E_DISPOSED, "57014");
  assert_false(j.req->err->ambiguous); /* it was rolled back */
  mt_job_free(&j);
  end(&f);
}

/* One cancel is not enough for all that stand in line on a connection. */
static void pipeline_of_slow_statements_is_cancelled(void **state) {
  mt_job j[5];
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url, 1);
  for (i = 0; i < 5; i++)
    mt_job_send(&j[i], &f.p, i % 2 ? &f.a : &f.b, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 4000, f.p.closed);
  for (i = 0; i < 5; i++) {
    assert_int_equal(j[i].req->err->code, MT_E_DISPOSED);
    mt_job_free(&j[i]);
  }
  end(&f);
}

static void what_waits_is_disposed_of(void **state) {
  mt_held held, waiting;
  mt_job j[3];
  mt_error *err = NULL;
  mt_lease *lease = NULL;
  fixture f;
  int i;
  (void)state;
  begin(&f, server.url, 1);
  mt_held_get(&held, &f.p, &f.a);
  for (i = 0; i < 3; i++) mt_job_send(&j[i], &f.p, &f.a, "SELECT 1");
  mt_held_acquire(&waiting, &f.p, &f.b);
  close_pool(&f);
  for (i = 0; i < 3; i++) {
    mt_job_failed(&j[i], MT_E_DISPOSED, "");
    assert_false(j[i].req->err->ambiguous);
    mt_job_free(&j[i]);
  }
  assert_int_equal(waiting.err->code, MT_E_DISPOSED);
  mt_error_unref(waiting.err);
  assert_int_equal(mt_job_try(&j[0], &f.p, &f.a, "SELECT 1", &err),
                   MT_E_DISPOSED);
  mt_error_unref(err);
  assert_int_equal(mt_lease_acquire(&f.a.share, NULL, NULL, &lease, NULL),
                   MT_E_DISPOSED);
  mt_held_release(&held);
  MT_RUN_UNTIL_MS(f.r, 1000, f.p.closed);
  end(&f);
}

static void held_lease_loses_its_connection(void **state) {
  mt_held h;
  mt_job j;
  mt_req *req;
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_held_get(&h, &f.p, &f.a);
  mt_held_run(&h, &j, "BEGIN");
  mt_job_free(&j);
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 1000, f.p.closed);
  req = mt_req_new_text(0, NULL, "SELECT 1");
  assert_int_equal(mt_lease_submit(h.lease, req, NULL), MT_E_DISPOSED);
  mt_req_free(req);
  mt_held_release(&h);
  end(&f);
}

static void busy_lease_is_cancelled(void **state) {
  mt_held h;
  mt_job j[2];
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_held_get(&h, &f.p, &f.a);
  mt_held_send(&h, &j[0], "SELECT pg_sleep(60)");
  mt_held_send(&h, &j[1], "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 4000, mt_jobs_done(j, 2) == 2);
  mt_held_release(&h);
  MT_RUN_UNTIL_MS(f.r, 1000, f.p.closed);
  assert_int_equal(j[0].req->err->code, MT_E_DISPOSED);
  assert_int_equal(j[1].req->err->code, MT_E_DISPOSED);
  mt_job_free(&j[0]);
  mt_job_free(&j[1]);
  end(&f);
}

static void lease_in_the_middle_of_its_release(void **state) {
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f, server.url, 4);
  mt_held_get(&h, &f.p, &f.a);
  mt_held_run(&h, &j, "BEGIN");
  mt_job_free(&j);
  mt_held_release(&h); /* its ROLLBACK is on the way */
  close_pool(&f);
  MT_RUN_UNTIL_MS(f.r, 1000, f.p.closed);
  end(&f);
}

static void handshake_is_cut_off(void **state) {
  mt_reactor *r = mt_test_reactor();
  mt_peer peer;
  mt_pooled p;
  mt_lodger t;
  mt_job j;
  char url[64];
  (void)state;
  mt_peer_open(&peer, r, MT_PEER_SILENT);
  snprintf(url, sizeof url, "postgresql://u@127.0.0.1:%d/d", peer.port);
  mt_pooled_init(&p, r);
  mt_pooled_open(&p, url, 4);
  mt_lodger_init(&t, &p, 1, "t_a");
  mt_job_send(&j, &p, &t, "SELECT 1");
  MT_RUN_UNTIL(r, peer.accepted == 1);
  mt_pool_close(p.pool, 15000, on_closed, &p);
  MT_RUN_UNTIL_MS(r, 1000, p.closed);
  mt_job_failed(&j, MT_E_DISPOSED, "");
  mt_job_free(&j);
  mt_lodger_fini(&t);
  mt_pooled_close(&p);
  mt_peer_close(&peer);
  mt_test_reactor_end(r);
}

/* Who does not answer in time is cut off. */
static void closing_has_an_end(void **state) {
  mt_job j;
  fixture f;
  int pid;
  (void)state;
  begin(&f, server.url, 1);
  mt_job_send(&j, &f.p, &f.a, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  pid = mt_conn_backend_pid(mt_pooled_slot(&f.p, 0)->conn);
  assert_int_equal(kill(pid, SIGSTOP), 0);
  mt_pool_close(f.p.pool, 100, on_closed, &f.p);
  MT_RUN_UNTIL_MS(f.r, 1000, f.p.closed);
  assert_int_equal(kill(pid, SIGCONT), 0);
  mt_job_failed(&j, MT_E_DISPOSED, "");
  assert_true(j.req->err->ambiguous);
  mt_job_free(&j);
  end(&f);
}

/* From the first step of a connect to the last answer. */
static void close_is_allowed_at_every_step(void **state) {
  int turns, i;
  (void)state;
  for (turns = 0; turns < 24; turns++) {
    mt_job j[4];
    mt_held h;
    fixture f;
    begin(&f, server.url, 2);
    for (i = 0; i < 4; i++)
      mt_job_send(&j[i], &f.p, i % 2 ? &f.a : &f.b, "SELECT pg_sleep(0.002)");
    mt_held_acquire(&h, &f.p, &f.a);
    for (i = 0; i < turns; i++) mt_reactor_run_once(f.r, i % 4 == 3);
    close_pool(&f);
    MT_RUN_UNTIL_MS(f.r, 6000, f.p.closed);
    assert_int_equal(mt_jobs_done(j, 4), 4);
    for (i = 0; i < 4; i++) {
      if (j[i].req->err) assert_int_equal(j[i].req->err->code, MT_E_DISPOSED);
      mt_job_free(&j[i]);
    }
    assert_int_equal(h.granted + h.failed, 1);
    mt_error_unref(h.err);
    if (h.lease) mt_held_release(&h);
    end(&f);
  }
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
      cmocka_unit_test(closing_an_unused_pool),
      cmocka_unit_test(never_used_pool_may_just_be_freed),
      cmocka_unit_test(idle_connections_are_closed),
      cmocka_unit_test(running_statement_is_cancelled),
      cmocka_unit_test(pipeline_of_slow_statements_is_cancelled),
      cmocka_unit_test(what_waits_is_disposed_of),
      cmocka_unit_test(held_lease_loses_its_connection),
      cmocka_unit_test(busy_lease_is_cancelled),
      cmocka_unit_test(lease_in_the_middle_of_its_release),
      cmocka_unit_test(handshake_is_cut_off),
      cmocka_unit_test(closing_has_an_end),
      cmocka_unit_test(close_is_allowed_at_every_step),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
