/* Streams on one connection: rows in batches, a consumer that falls behind,
 * and every way to leave one early. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/client.h"
#include "support/observer.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *a;
  mt_answer stream;
  bool take; /* take rows as they come */
  bool resume;
  int calls, max_waiting;
  long next; /* the row that must come next */
} fixture;

static fixture *now; /* on_rows knows its request only */

static void take_rows(fixture *f) {
  mt_result *rows[16];
  int i, n;
  while ((n = mt_req_take_rows(f->stream.req, rows, 16)) > 0) {
    for (i = 0; i < n; i++) {
      assert_int_equal(mt_result_rows(rows[i]), 1);
      assert_int_equal(strtol(mt_result_value(rows[i], 0, 0), NULL, 10),
                       f->next++);
      mt_result_clear(rows[i]);
    }
  }
}

static void on_rows(mt_req *req) {
  fixture *f = now;
  f->calls++;
  assert_true(req->nrows > 0);
  if (req->nrows > f->max_waiting) f->max_waiting = req->nrows;
  if (f->take) take_rows(f);
  if (f->resume) mt_conn_resume(f->c.conn);
}

static void begin(fixture *f) {
  mt_observer_schema(&eye, "t_a");
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_client_open(&f->c, f->r, server.url);
  f->a = mt_client_scope(1, "t_a");
  f->next = 1;
  now = f;
}

/* Every test ends here. */
static void end(fixture *f) {
  mt_answer_free(&f->stream);
  mt_client_end(&f->c);
  mt_scope_unref(f->a);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void stream(fixture *f, const char *sql) {
  mt_req *req = mt_req_new_text(MT_REQ_STREAM | MT_REQ_SCOPE, f->a, sql);
  req->on_rows = on_rows;
  mt_client_submit(&f->c, &f->stream, req);
}

static void rows_come_in_order_and_in_batches(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  f.take = f.resume = true;
  stream(&f, "SELECT generate_series(1, 20000)");
  MT_RUN_UNTIL(f.r, f.stream.done);
  take_rows(&f);
  assert_int_equal(f.next, 20001);
  assert_in_range(f.max_waiting, 2, 512);
  assert_in_range(f.calls, 20000 / 512, 10000);
  mt_answer_text(&f.stream);
  assert_int_equal(mt_result_rows(mt_req_result(f.stream.req)), 0);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  end(&f);
}

static void few_rows_need_no_batch(void **state) {
  static const int counts[] = {0, 1, 3, 511, 512, 513, 1024};
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(counts); i++) {
    char sql[64];
    fixture f;
    begin(&f);
    f.take = f.resume = true;
    snprintf(sql, sizeof sql, "SELECT generate_series(1, %d)", counts[i]);
    stream(&f, sql);
    MT_RUN_UNTIL(f.r, f.stream.done);
    take_rows(&f);
    assert_int_equal(f.next, counts[i] + 1);
    end(&f);
  }
}

/* Who does not take has a bounded number waiting; the rest stays outside. */
static void slow_consumer_holds_the_stream_up(void **state) {
  fixture f;
  int calls;
  (void)state;
  begin(&f);
  stream(&f, "SELECT generate_series(1, 200000), repeat('x', 100)");
  MT_RUN_UNTIL(f.r, f.c.conn->paused);
  calls = f.calls;
  mt_test_run_for(f.r, 60);
  assert_int_equal(f.calls, calls);
  assert_int_equal(f.stream.req->nrows, 512);
  assert_int_equal(f.stream.done, 0);
  f.take = f.resume = true;
  take_rows(&f);
  mt_conn_resume(f.c.conn);
  assert_int_equal(f.calls, calls); /* not inside the call */
  MT_RUN_UNTIL(f.r, f.stream.done);
  take_rows(&f);
  assert_int_equal(f.next, 200001);
  end(&f);
}

static void taking_without_resume_stays_paused(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  f.take = true;
  stream(&f, "SELECT generate_series(1, 2000)");
  MT_RUN_UNTIL(f.r, f.c.conn->paused);
  mt_test_run_for(f.r, 30);
  assert_int_equal(f.next, 513);
  MT_RUN_UNTIL(f.r, (mt_conn_resume(f.c.conn), f.stream.done));
  take_rows(&f);
  assert_int_equal(f.next, 2001);
  end(&f);
}

static void others_wait_for_the_stream(void **state) {
  mt_answer before, behind;
  fixture f;
  (void)state;
  begin(&f);
  f.take = f.resume = true;
  mt_client_send(&f.c, &before, 0, f.a, "SELECT 'before'");
  stream(&f, "SELECT generate_series(1, 3000)");
  mt_client_send(&f.c, &behind, 0, f.a, "SELECT 'behind'");
  assert_int_equal(f.stream.req->state, MT_REQ_WAITING);
  MT_RUN_UNTIL(f.r, behind.done);
  take_rows(&f);
  assert_int_equal(f.next, 3001);
  assert_int_equal(before.order, 1);
  assert_int_equal(f.stream.order, 2);
  assert_string_equal(mt_answer_text(&behind), "behind");
  mt_answer_free(&before);
  mt_answer_free(&behind);
  end(&f);
}

static void error_in_the_middle_comes_at_the_end(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  f.take = f.resume = true;
  stream(&f,
         "SELECT i / (i - 5000) * 0 + i FROM generate_series(1, 9999) AS i");
  MT_RUN_UNTIL(f.r, f.stream.done);
  mt_answer_failed(&f.stream, MT_E_QUERY, "22012");
  assert_in_range(f.next, 2, 5000);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  end(&f);
}

static void error_of_the_scope_delivers_no_row(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  mt_observer_sql(&eye, "DROP SCHEMA t_a CASCADE");
  stream(&f, "SELECT generate_series(1, 10)");
  MT_RUN_UNTIL(f.r, f.stream.done);
  mt_answer_failed(&f.stream, MT_E_TENANT_NOT_FOUND, "");
  assert_int_equal(f.calls, 0);
  end(&f);
}

static void stream_that_nobody_wants_is_drained(void **state) {
  fixture f;
  int calls;
  (void)state;
  begin(&f);
  stream(&f, "SELECT generate_series(1, 50000)");
  MT_RUN_UNTIL(f.r, f.c.conn->paused);
  calls = f.calls;
  f.stream.req->detached = true;
  mt_conn_resume(f.c.conn);
  MT_RUN_UNTIL(f.r, f.stream.done);
  assert_int_equal(f.calls, calls);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  end(&f);
}

static void cancel_ends_a_paused_stream(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  stream(&f, "SELECT generate_series(1, 100000000)");
  MT_RUN_UNTIL(f.r, f.c.conn->paused);
  assert_true(mt_conn_cancel(f.c.conn, false));
  f.stream.req->detached = true;
  mt_conn_resume(f.c.conn);
  MT_RUN_UNTIL(f.r, f.stream.done && mt_conn_quiet(f.c.conn));
  mt_answer_failed(&f.stream, MT_E_CANCELLED, "57014");
  assert_true(f.stream.req->cancelled);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  end(&f);
}

static void close_ends_a_paused_stream(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  stream(&f, "SELECT generate_series(1, 100000000)");
  MT_RUN_UNTIL(f.r, f.c.conn->paused);
  mt_conn_close(f.c.conn, NULL);
  MT_RUN_UNTIL(f.r, f.c.closed);
  mt_answer_failed(&f.stream, MT_E_DISPOSED, "");
  assert_int_equal(f.stream.req->nrows, 0);
  end(&f);
}

/* The end is behind rows that nobody has taken yet: it waits for them. */
static void lost_while_paused(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  stream(&f, "SELECT generate_series(1, 100000000), repeat('x', 1000)");
  MT_RUN_UNTIL(f.r, f.c.conn->paused);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d, 5000)",
                  mt_conn_backend_pid(f.c.conn));
  mt_test_run_for(f.r, 30);
  assert_int_equal(f.c.closed, 0);
  f.take = f.resume = true;
  take_rows(&f);
  mt_conn_resume(f.c.conn);
  MT_RUN_UNTIL(f.r, f.c.closed);
  assert_int_equal(f.stream.req->err->code, MT_E_CONNECTION_LOST);
  assert_true(f.next > 512);
  end(&f);
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, false, NULL);
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
      cmocka_unit_test(rows_come_in_order_and_in_batches),
      cmocka_unit_test(few_rows_need_no_batch),
      cmocka_unit_test(slow_consumer_holds_the_stream_up),
      cmocka_unit_test(taking_without_resume_stays_paused),
      cmocka_unit_test(others_wait_for_the_stream),
      cmocka_unit_test(error_in_the_middle_comes_at_the_end),
      cmocka_unit_test(error_of_the_scope_delivers_no_row),
      cmocka_unit_test(stream_that_nobody_wants_is_drained),
      cmocka_unit_test(cancel_ends_a_paused_stream),
      cmocka_unit_test(close_ends_a_paused_stream),
      cmocka_unit_test(lost_while_paused),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
