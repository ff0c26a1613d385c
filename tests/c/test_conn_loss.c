/* A connection that goes away with requests on it: who is told what. An
 * outcome is ambiguous only where the server may have committed it. */
#include <signal.h>
#include <string.h>

#include "base/alloc.h"
#include "support/client.h"
#include "support/observer.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *a;
} fixture;

static void begin(fixture *f) {
  mt_observer_schema(&eye, "t_a");
  f->r = mt_test_reactor();
  mt_client_open(&f->c, f->r, server.url);
  f->a = mt_client_scope(1, "t_a");
}

/* Every test ends here. */
static void end(fixture *f) {
  mt_client_end(&f->c);
  mt_scope_unref(f->a);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void terminate(fixture *f) {
  int pid = mt_conn_backend_pid(f->c.conn);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)", pid);
}

/* Backends notice only after seconds that their client has gone. */
static void stop_sleepers(void) {
  mt_observer_sql(&eye,
                  "SELECT pg_terminate_backend(pid) FROM "
                  "pg_stat_activity WHERE query LIKE '%%pg_sleep(60)'");
}

/* The head sleeps in the server; returns when it does. */
static void start_head(fixture *f, mt_answer *head, const char *sql) {
  mt_client_send(&f->c, head, 0, f->a, sql);
  MT_RUN_UNTIL(f->r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_test_run_for(f->r, 60);
}

static void expect_lost(const mt_answer *a, bool ambiguous, bool not_run) {
  assert_int_equal(a->done, 1);
  assert_non_null(a->req->err);
  assert_int_equal(a->req->err->code, MT_E_CONNECTION_LOST);
  if (a->req->err->ambiguous != ambiguous)
    fail_msg("%s %s", a->req->err->message, a->req->err->sqlstate);
  assert_int_equal(a->req->err->retryable, !ambiguous);
  assert_int_equal(a->req->not_run, not_run);
  assert_int_equal(a->req->state, MT_REQ_DONE);
  assert_false(mt_node_linked(&a->req->node));
}

static int rows(void) {
  return (int)mt_observer_number(&eye, "SELECT count(*) FROM t_a.items");
}

static void terminated_backend_ran_nothing_behind_its_head(void **state) {
  mt_answer head, behind[3];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  start_head(&f, &head,
             "WITH w AS (INSERT INTO items VALUES (2)) SELECT pg_sleep(60)");
  for (i = 0; i < 3; i++)
    mt_client_send(&f.c, &behind[i], 0, f.a, "INSERT INTO items VALUES (3)");
  mt_test_turn(f.r);
  terminate(&f);
  MT_RUN_UNTIL(f.r, f.c.closed);
  expect_lost(&head, false, false);
  assert_string_equal(head.req->err->sqlstate, "57P01");
  assert_string_equal(head.req->err->severity, "FATAL");
  assert_int_equal(head.order, 1);
  for (i = 0; i < 3; i++) {
    expect_lost(&behind[i], false, true);
    assert_int_equal(behind[i].order, i + 2);
    mt_answer_free(&behind[i]);
  }
  assert_int_equal(f.c.why->code, MT_E_CONNECTION_LOST);
  assert_int_equal(rows(), 1);
  mt_answer_free(&head);
  end(&f);
}

/* libpq drops its queue when it finds out while it sends. Then it goes on with
 * the head (here: answered but for its Sync, since its commit is slow), throws
 * the answers behind it away, and still tells the server's last words. What it
 * threw away may have been committed. */
static void answers_that_libpq_threw_away_are_ambiguous(void **state) {
  static const char *const sqls[] = {"INSERT INTO slow VALUES (1)",
                                     "INSERT INTO items VALUES (2)",
                                     "INSERT INTO items VALUES (3)"};
  enum { RUN = 3, ALL = 20 };
  mt_answer a[ALL];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  mt_observer_sql(
      &eye,
      "CREATE TABLE t_a.slow(id int); GRANT ALL ON t_a.slow TO public;"
      "CREATE FUNCTION t_a.wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
      "RAISE WARNING 'what was buffered is sent'; PERFORM pg_sleep(0.3); "
      "RETURN NULL; END$$; CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON "
      "t_a.slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "
      "t_a.wait()");
  for (i = 0; i < RUN; i++) mt_client_send(&f.c, &a[i], 0, f.a, sqls[i]);
  MT_RUN_UNTIL(f.r, a[0].req->answered);
  assert_false(a[0].done);
  for (i = 0; i < 100000 && rows() < RUN; i++) continue; /* one was there */
  assert_int_equal(rows(), RUN);
  terminate(&f);
  for (i = 0; i < 1000 && mt_observer_backends(&eye) > 0; i++) continue;
  for (i = RUN; i < ALL; i++)
    mt_client_send(&f.c, &a[i], 0, f.a, "INSERT INTO items VALUES (4)");
  MT_RUN_UNTIL(f.r, f.c.closed);
  for (i = 0; i < ALL; i++) {
    assert_int_equal(a[i].done, 1);
    if (i < RUN && a[i].req->err) expect_lost(&a[i], true, false);
    mt_answer_free(&a[i]);
  }
  assert_int_equal(rows(), RUN);
  end(&f);
}

static void terminated_while_idle_runs_nothing_of_what_follows(void **state) {
  mt_answer answers[4];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  terminate(&f);
  for (i = 0; i < 1000 && mt_observer_backends(&eye) > 0; i++) continue;
  assert_int_equal(mt_observer_backends(&eye), 0);
  for (i = 0; i < 4; i++) /* the loop has not turned: nobody knows yet */
    mt_client_send(&f.c, &answers[i], 0, f.a, "INSERT INTO items VALUES (2)");
  MT_RUN_UNTIL(f.r, f.c.closed);
  for (i = 0; i < 4; i++) {
    expect_lost(&answers[i], false, true);
    mt_answer_free(&answers[i]);
  }
  assert_int_equal(rows(), 1);
  end(&f);
}

/* The kernel knows of the end after the first one: the failed write
 * must be noticed, since no event will tell. */
static void write_that_fails_is_noticed(void **state) {
  mt_answer answers[4];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  terminate(&f);
  for (i = 0; i < 1000 && mt_observer_backends(&eye) > 0; i++) continue;
  for (i = 0; i < 4; i++) {
    mt_client_send(&f.c, &answers[i], 0, f.a, "INSERT INTO items VALUES (2)");
    mt_observer_sql(&eye, "SELECT pg_sleep(0.02)");
  }
  MT_RUN_UNTIL_MS(f.r, 1000, f.c.closed);
  for (i = 0; i < 4; i++) {
    expect_lost(&answers[i], false, true);
    mt_answer_free(&answers[i]);
  }
  assert_int_equal(rows(), 1);
  end(&f);
}

static void idle_connection_notices_its_end(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  terminate(&f);
  MT_RUN_UNTIL(f.r, f.c.closed);
  assert_int_equal(f.c.why->code, MT_E_CONNECTION_LOST);
  assert_true(f.c.why->retryable);
  end(&f);
}

static void what_was_answered_stays_answered(void **state) {
  mt_answer done, head;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &done, 0, f.a, "INSERT INTO items VALUES (2)");
  mt_client_send(&f.c, &head, 0, f.a, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f.r, done.done && mt_observer_running(&eye, "pg_sleep") == 1);
  terminate(&f);
  MT_RUN_UNTIL(f.r, f.c.closed);
  mt_answer_text(&done);
  assert_int_equal(rows(), 2);
  mt_answer_free(&done);
  mt_answer_free(&head);
  end(&f);
}

/* The answers and the end have come together before anybody looked. */
static void answers_before_the_end_count(void **state) {
  static const char *const sqls[] = {
      "INSERT INTO items VALUES (2)", "INSERT INTO items VALUES (3)",
      "SELECT pg_terminate_backend(pg_backend_pid())",
      "INSERT INTO items VALUES (4)", "INSERT INTO items VALUES (5)"};
  mt_answer answers[5];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  for (i = 0; i < 5; i++) mt_client_send(&f.c, &answers[i], 0, f.a, sqls[i]);
  for (i = 0; i < 1000 && mt_observer_backends(&eye) > 0; i++)
    mt_observer_sql(&eye, "SELECT pg_sleep(0.002)");
  MT_RUN_UNTIL(f.r, f.c.closed);
  mt_answer_text(&answers[0]);
  mt_answer_text(&answers[1]);
  assert_false(answers[2].req->err->ambiguous);
  expect_lost(&answers[3], false, true);
  expect_lost(&answers[4], false, true);
  assert_int_equal(rows(), 3);
  for (i = 0; i < 5; i++) mt_answer_free(&answers[i]);
  end(&f);
}

static void closing_answers_what_is_on_the_way(void **state) {
  mt_answer sent, unsent[2];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &sent, MT_REQ_SIMPLE, NULL, "SELECT pg_sleep(60)");
  for (i = 0; i < 2; i++) /* a simple query wants to be alone */
    mt_client_send(&f.c, &unsent[i], 0, f.a, "INSERT INTO items VALUES (2)");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_conn_close(f.c.conn, NULL);
  assert_int_equal(sent.done + unsent[0].done + unsent[1].done, 0);
  MT_RUN_UNTIL(f.r, f.c.closed);
  mt_answer_failed(&sent, MT_E_DISPOSED, "");
  assert_true(sent.req->err->ambiguous);
  for (i = 0; i < 2; i++) {
    mt_answer_failed(&unsent[i], MT_E_DISPOSED, "");
    assert_false(unsent[i].req->err->ambiguous);
    assert_true(unsent[i].req->not_run);
    assert_int_equal(unsent[i].order, i + 2);
    mt_answer_free(&unsent[i]);
  }
  assert_null(f.c.why);
  mt_answer_free(&sent);
  stop_sleepers();
  end(&f);
}

static void closed_connection_answers_what_comes_late(void **state) {
  mt_answer late;
  fixture f;
  (void)state;
  begin(&f);
  mt_conn_close(f.c.conn, mt_error_new(MT_E_CONNECTION_LOST, "for a test"));
  mt_client_send(&f.c, &late, 0, f.a, "INSERT INTO items VALUES (2)");
  MT_RUN_UNTIL(f.r, f.c.closed);
  expect_lost(&late, false, true);
  assert_string_equal(late.req->err->message, "for a test");
  mt_answer_free(&late);
  end(&f);
}

static void transaction_is_lost_for_certain_until_its_commit(void **state) {
  mt_answer first, commit;
  mt_req *req;
  fixture f;
  (void)state;
  begin(&f);
  req = mt_req_new_text(MT_REQ_IN_TX, f.a,
                        "WITH w AS (INSERT INTO items VALUES (2)) "
                        "SELECT pg_sleep(60)");
  assert_true(mt_req_set_begin(req, "BEGIN"));
  mt_client_submit(&f.c, &first, req);
  mt_client_send(&f.c, &commit, MT_REQ_IN_TX | MT_REQ_COMMIT, NULL, "COMMIT");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_conn_close(f.c.conn, mt_error_new(MT_E_CONNECTION_LOST, "cut"));
  MT_RUN_UNTIL(f.r, f.c.closed);
  expect_lost(&first, false, false);
  expect_lost(&commit, true, false);
  mt_answer_free(&first);
  mt_answer_free(&commit);
  stop_sleepers();
  end(&f);
  assert_int_equal(rows(), 1);
}

static void ping_is_never_ambiguous(void **state) {
  mt_answer ping;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &ping, MT_REQ_PING, f.a, NULL);
  mt_conn_close(f.c.conn, mt_error_new(MT_E_CONNECTION_LOST, "cut"));
  MT_RUN_UNTIL(f.r, f.c.closed);
  expect_lost(&ping, false, false);
  mt_answer_free(&ping);
  end(&f);
}

/* ---- the whole server goes --------------------------------------------------- */

static void come_back(void) {
  mt_test_pg_start_again(&server); /* nothing if it restarts by itself */
  mt_observer_reopen(&eye, &server);
}

/* No last words: what was flushed may have been committed. */
static void silent_end(const char *how, int signal_backend) {
  mt_answer head, behind;
  fixture f;
  begin(&f);
  start_head(&f, &head, "SELECT pg_sleep(60)");
  mt_client_send(&f.c, &behind, 0, f.a, "INSERT INTO items VALUES (2)");
  mt_test_turn(f.r);
  if (signal_backend)
    assert_int_equal(kill(mt_conn_backend_pid(f.c.conn), signal_backend), 0);
  else
    mt_test_pg_stop(&server, how);
  MT_RUN_UNTIL(f.r, f.c.closed);
  expect_lost(&head, true, false);
  expect_lost(&behind, true, false);
  assert_int_equal(f.c.why->code, MT_E_CONNECTION_LOST);
  come_back();
  assert_int_equal(rows(), 1);
  mt_answer_free(&head);
  mt_answer_free(&behind);
  end(&f);
}

static void killed_backend_leaves_all_in_doubt(void **state) {
  (void)state;
  silent_end(NULL, SIGKILL);
}

static void immediate_shutdown_leaves_all_in_doubt(void **state) {
  (void)state;
  silent_end("immediate", 0);
}

static void killed_server_leaves_all_in_doubt(void **state) {
  (void)state;
  silent_end("kill", 0);
}

static void fast_shutdown_ran_nothing_more(void **state) {
  mt_answer head, behind;
  fixture f;
  (void)state;
  begin(&f);
  start_head(&f, &head,
             "WITH w AS (INSERT INTO items VALUES (2)) SELECT pg_sleep(60)");
  mt_client_send(&f.c, &behind, 0, f.a, "INSERT INTO items VALUES (3)");
  mt_test_turn(f.r);
  mt_test_pg_stop(&server, "fast");
  MT_RUN_UNTIL(f.r, f.c.closed);
  expect_lost(&head, false, false);
  expect_lost(&behind, false, true);
  come_back();
  assert_int_equal(rows(), 1);
  mt_answer_free(&head);
  mt_answer_free(&behind);
  end(&f);
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, true, NULL);
  mt_observer_open(&eye, &server);
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
      cmocka_unit_test(terminated_backend_ran_nothing_behind_its_head),
      cmocka_unit_test(answers_that_libpq_threw_away_are_ambiguous),
      cmocka_unit_test(terminated_while_idle_runs_nothing_of_what_follows),
      cmocka_unit_test(write_that_fails_is_noticed),
      cmocka_unit_test(idle_connection_notices_its_end),
      cmocka_unit_test(what_was_answered_stays_answered),
      cmocka_unit_test(answers_before_the_end_count),
      cmocka_unit_test(closing_answers_what_is_on_the_way),
      cmocka_unit_test(closed_connection_answers_what_comes_late),
      cmocka_unit_test(transaction_is_lost_for_certain_until_its_commit),
      cmocka_unit_test(ping_is_never_ambiguous),
      cmocka_unit_test(killed_backend_leaves_all_in_doubt),
      cmocka_unit_test(immediate_shutdown_leaves_all_in_doubt),
      cmocka_unit_test(killed_server_leaves_all_in_doubt),
      cmocka_unit_test(fast_shutdown_ran_nothing_more),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
