/* Cancelling: the helper thread of pg/cancel.c, and the gate that a cancel
 * puts on its connection, so that it never hits a neighbour. */
#include <libpq-fe.h>
#include <signal.h>
#include <string.h>

#include "support/client.h"
#include "support/observer.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *a;
  int done;
} fixture;

static void begin(fixture *f) {
  mt_observer_schema(&eye, "t_a");
  memset(f, 0, sizeof *f);
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

static void sleep_on(fixture *f, mt_answer *a) {
  mt_client_send(&f->c, a, 0, f->a, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(f->r, mt_observer_running(&eye, "pg_sleep") == 1);
}

static void on_done(void *data) { ((fixture *)data)->done++; }

static mt_cancel *start_raw(fixture *f) {
  mt_cancel *cancel = NULL;
  assert_int_equal(mt_cancel_start(f->r, f->c.conn->pg, on_done, f, &cancel),
                   MT_OK);
  assert_non_null(cancel);
  assert_int_equal(f->done, 0);
  return cancel;
}

static void running_statement_is_cancelled(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  sleep_on(&f, &a);
  start_raw(&f);
  MT_RUN_UNTIL(f.r, a.done && f.done);
  mt_answer_failed(&a, MT_E_CANCELLED, "57014");
  assert_int_equal(f.done, 1);
  mt_answer_free(&a);
  end(&f);
}

static void cancel_of_nothing_harms_nothing(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  start_raw(&f);
  MT_RUN_UNTIL(f.r, f.done);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  end(&f);
}

static void forgotten_cancel_never_calls_back(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  sleep_on(&f, &a);
  mt_cancel_forget(start_raw(&f));
  MT_RUN_UNTIL(f.r, a.done); /* it works all the same */
  mt_test_run_for(f.r, 20);
  assert_int_equal(f.done, 0);
  mt_answer_free(&a);
  end(&f);
}

static void cancel_outlives_its_connection(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  start_raw(&f);
  mt_conn_close(f.c.conn, NULL);
  MT_RUN_UNTIL(f.r, f.done && f.c.closed);
  end(&f);
}

static void head_that_is_alone_is_cancelled(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  sleep_on(&f, &a);
  assert_true(mt_conn_cancel(f.c.conn, false));
  assert_true(a.req->cancelled);
  assert_false(mt_conn_cancel(f.c.conn, false)); /* one at a time */
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  mt_answer_failed(&a, MT_E_CANCELLED, "57014");
  assert_false(a.req->err->retryable || a.req->err->ambiguous);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  mt_answer_free(&a);
  end(&f);
}

static void idle_connection_has_nothing_to_cancel(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  assert_false(mt_conn_cancel(f.c.conn, false));
  assert_false(mt_conn_cancel(f.c.conn, true));
  end(&f);
}

static void neighbours_protect_each_other(void **state) {
  mt_answer head, behind;
  fixture f;
  (void)state;
  begin(&f);
  sleep_on(&f, &head);
  mt_client_send(&f.c, &behind, 0, f.a, "SELECT 1");
  assert_false(mt_conn_cancel(f.c.conn, false));
  assert_false(head.req->cancelled);
  assert_true(mt_conn_cancel(f.c.conn, true));
  MT_RUN_UNTIL(f.r, head.done && behind.done);
  mt_answer_failed(&head, MT_E_CANCELLED, "57014");
  mt_answer_free(&head);
  mt_answer_free(&behind);
  end(&f);
}

/* Until the cancel has returned, what is submitted stays here. */
static void gate_keeps_new_requests_back(void **state) {
  mt_answer head, behind[3];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  sleep_on(&f, &head);
  assert_true(mt_conn_cancel(f.c.conn, false));
  for (i = 0; i < 3; i++)
    mt_client_send(&f.c, &behind[i], 0, f.a, "SELECT 'unharmed'");
  assert_int_equal(f.c.conn->outbox.len, 3);
  assert_false(mt_conn_quiet(f.c.conn));
  MT_RUN_UNTIL(f.r, behind[2].done);
  for (i = 0; i < 3; i++) {
    assert_string_equal(mt_answer_text(&behind[i]), "unharmed");
    mt_answer_free(&behind[i]);
  }
  mt_answer_free(&head);
  end(&f);
}

/* The head may end by itself while its cancel is on its way. */
static void late_cancel_never_hits_the_next_one(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f);
  for (i = 0; i < 60; i++) {
    mt_answer head, next;
    mt_client_send(&f.c, &head, 0, f.a,
                   i % 2 ? "SELECT 'x'" : "SELECT pg_sleep(0.001)");
    assert_true(mt_conn_cancel(f.c.conn, false));
    mt_client_send(&f.c, &next, 0, f.a, "SELECT pg_sleep(0.002)");
    MT_RUN_UNTIL(f.r, head.done && next.done);
    mt_answer_text(&next);
    if (head.req->err) mt_answer_failed(&head, MT_E_CANCELLED, "57014");
    mt_answer_free(&head);
    mt_answer_free(&next);
  }
  end(&f);
}

static void progress_is_told_when_the_gate_opens(void **state) {
  mt_answer head;
  fixture f;
  int before;
  (void)state;
  begin(&f);
  sleep_on(&f, &head);
  assert_true(mt_conn_cancel(f.c.conn, false));
  before = f.c.progress;
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  assert_true(f.c.progress > before);
  mt_answer_free(&head);
  end(&f);
}

static void closing_in_the_middle_of_a_cancel(void **state) {
  mt_answer head;
  fixture f;
  (void)state;
  begin(&f);
  sleep_on(&f, &head);
  assert_true(mt_conn_cancel(f.c.conn, false));
  mt_conn_close(f.c.conn, NULL);
  MT_RUN_UNTIL(f.r, f.c.closed);
  mt_answer_failed(&head, MT_E_DISPOSED, "");
  mt_answer_free(&head);
  end(&f);
}

/* A backend that is stopped answers nothing, not even a cancel. */
static void no_answer_to_a_cancel_closes(void **state) {
  mt_answer head, behind;
  fixture f;
  int pid;
  (void)state;
  begin(&f);
  f.c.conn->opt.cancel_timeout_ms = 150;
  sleep_on(&f, &head);
  pid = mt_conn_backend_pid(f.c.conn);
  assert_int_equal(kill(pid, SIGSTOP), 0);
  assert_true(mt_conn_cancel(f.c.conn, false));
  mt_client_send(&f.c, &behind, 0, f.a, "SELECT 1");
  MT_RUN_UNTIL(f.r, f.c.closed);
  assert_int_equal(kill(pid, SIGCONT), 0);
  mt_answer_failed(&head, MT_E_CONNECTION_LOST, "");
  assert_true(head.req->err->ambiguous);
  assert_true(behind.req->not_run);
  mt_answer_free(&head);
  mt_answer_free(&behind);
  end(&f);
}

static void lost_in_the_middle_of_a_cancel(void **state) {
  mt_answer head;
  fixture f;
  (void)state;
  begin(&f);
  sleep_on(&f, &head);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)",
                  mt_conn_backend_pid(f.c.conn));
  assert_true(mt_conn_cancel(f.c.conn, false));
  MT_RUN_UNTIL(f.r, f.c.closed);
  assert_non_null(head.req->err);
  mt_answer_free(&head);
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
      cmocka_unit_test(running_statement_is_cancelled),
      cmocka_unit_test(cancel_of_nothing_harms_nothing),
      cmocka_unit_test(forgotten_cancel_never_calls_back),
      cmocka_unit_test(cancel_outlives_its_connection),
      cmocka_unit_test(head_that_is_alone_is_cancelled),
      cmocka_unit_test(idle_connection_has_nothing_to_cancel),
      cmocka_unit_test(neighbours_protect_each_other),
      cmocka_unit_test(gate_keeps_new_requests_back),
      cmocka_unit_test(late_cancel_never_hits_the_next_one),
      cmocka_unit_test(progress_is_told_when_the_gate_opens),
      cmocka_unit_test(closing_in_the_middle_of_a_cancel),
      cmocka_unit_test(no_answer_to_a_cancel_closes),
      cmocka_unit_test(lost_in_the_middle_of_a_cancel),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
