/* What travels over one connection: units in order, each with its own scope,
 * its own error and its own end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "support/client.h"
#include "support/observer.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *a, *b;
} fixture;

static void begin(fixture *f) {
  mt_observer_schema(&eye, "t_a");
  mt_observer_schema(&eye, "t_b");
  f->r = mt_test_reactor();
  mt_client_open(&f->c, f->r, server.url);
  f->a = mt_client_scope(1, "t_a");
  f->b = mt_client_scope(2, "t_b");
}

/* Every test ends here. */
static void end(fixture *f) {
  mt_client_end(&f->c);
  mt_scope_unref(f->a);
  mt_scope_unref(f->b);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void units_are_answered_in_order(void **state) {
  enum { N = 60 };
  mt_answer answers[N];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  for (i = 0; i < N; i++) {
    char number[16];
    const char *param = number;
    snprintf(number, sizeof number, "%d", i);
    mt_client_send_with(&f.c, &answers[i], 0, i % 2 ? f.a : f.b,
                        "SELECT name || $1 FROM items", 1, &param);
  }
  assert_int_equal(mt_conn_depth(f.c.conn), N);
  MT_RUN_UNTIL(f.r, answers[N - 1].done);
  for (i = 0; i < N; i++) {
    char text[32];
    snprintf(text, sizeof text, "%s%d", i % 2 ? "t_a" : "t_b", i);
    assert_string_equal(mt_answer_text(&answers[i]), text);
    assert_int_equal(answers[i].order, i + 1);
    mt_answer_free(&answers[i]);
  }
  assert_true(mt_conn_quiet(f.c.conn));
  assert_true(mt_conn_idle_status(f.c.conn));
  end(&f);
}

static void error_stays_in_its_unit(void **state) {
  mt_answer ok, bad, after;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &ok, 0, f.a, "INSERT INTO items VALUES (2, 'x')");
  mt_client_send(&f.c, &bad, 0, f.a,
                 "WITH w AS (INSERT INTO items VALUES (3, 'y') RETURNING id) "
                 "SELECT 1 / (id - 3) FROM w");
  mt_client_send(&f.c, &after, 0, f.a, "INSERT INTO items VALUES (4, 'z')");
  MT_RUN_UNTIL(f.r, after.done);
  assert_int_equal(mt_result_affected(mt_req_result(ok.req)), 1);
  mt_answer_failed(&bad, MT_E_QUERY, "22012");
  assert_false(bad.req->err->retryable || bad.req->err->ambiguous);
  mt_answer_text(&after);
  mt_client_expect(&f.c, f.a, "SELECT string_agg(id::text, ',') FROM items",
                   "1,2,4");
  mt_answer_free(&ok);
  mt_answer_free(&bad);
  mt_answer_free(&after);
  end(&f);
}

static void error_tells_all_the_server_said(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_run(&f.c, &a, 0, f.a, "SELECT *\n FROM absent");
  mt_answer_failed(&a, MT_E_QUERY, "42P01");
  assert_string_equal(a.req->err->severity, "ERROR");
  assert_string_equal(a.req->err->message,
                      "relation \"absent\" does not exist");
  assert_int_equal(a.req->err->position, 16);
  assert_string_equal(a.req->err->statement, "SELECT * FROM absent");
  assert_non_null(strstr(a.req->err->server, "127.0.0.1:"));
  mt_answer_free(&a);
  mt_client_run(&f.c, &a, 0, f.a, "INSERT INTO items VALUES (1, 'again')");
  mt_answer_failed(&a, MT_E_QUERY, "23505");
  assert_string_equal(a.req->err->detail, "Key (id)=(1) already exists.");
  mt_answer_free(&a);
  end(&f);
}

static void scope_ends_with_its_unit(void **state) {
  mt_scope *reader;
  static const char *const path[] = {"$tenant", NULL};
  fixture f;
  (void)state;
  begin(&f);
  mt_observer_sql(&eye, "GRANT USAGE ON SCHEMA t_a TO t_reader");
  reader = mt_scope_new(3, "t_a", path, "t_reader", true);
  mt_client_expect(&f.c, reader,
                   "SELECT current_user || ' ' || current_schema()",
                   "t_reader t_a");
  mt_client_expect(&f.c, NULL, "SELECT current_user", "mtenant");
  mt_client_expect(&f.c, NULL, "SELECT current_setting('search_path')", "");
  mt_client_expect(&f.c, f.b, "SELECT current_user || name FROM items",
                   "mtenantt_b");
  mt_scope_unref(reader);
  end(&f);
}

static void without_its_schema_nothing_runs(void **state) {
  static const char *const names[] = {"absent", "t_locked", "T_A"};
  fixture f;
  size_t i;
  (void)state;
  begin(&f);
  for (i = 0; i < MT_COUNT(names); i++) {
    mt_scope *s = mt_client_scope(9, names[i]);
    mt_answer a;
    mt_client_run(&f.c, &a, 0, s, "INSERT INTO public.log VALUES (1)");
    mt_answer_failed(&a, MT_E_TENANT_NOT_FOUND, "");
    assert_non_null(strstr(a.req->err->message, names[i]));
    assert_true(a.req->not_run);
    assert_false(a.req->dirty);
    mt_answer_free(&a);
    mt_scope_unref(s);
  }
  assert_int_equal(mt_observer_number(&eye, "SELECT count(*) FROM log"), 0);
  assert_false(f.c.conn->retire);
  end(&f);
}

static void role_that_may_not_be_taken_runs_nothing(void **state) {
  static const char *const path[] = {"$tenant", NULL};
  mt_scope *s = mt_scope_new(9, "t_a", path, "postgres", true);
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_run(&f.c, &a, 0, s, "INSERT INTO public.log VALUES (1)");
  mt_answer_failed(&a, MT_E_QUERY, "42501");
  assert_true(a.req->not_run);
  assert_int_equal(mt_observer_number(&eye, "SELECT count(*) FROM log"), 0);
  mt_answer_free(&a);
  mt_scope_unref(s);
  end(&f);
}

static void dirty_session_is_refused_and_retired(void **state) {
  static const char *const traces[] = {"SET search_path = t_b",
                                       "DEALLOCATE mt_scope"};
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(traces); i++) {
    mt_answer trace, next;
    fixture f;
    begin(&f);
    mt_client_expect(&f.c, f.a, "SELECT 1",
                     "1"); /* the schema's OID is known */
    mt_client_run(&f.c, &trace, 0, NULL, traces[i]);
    mt_answer_text(&trace);
    assert_false(f.c.conn->retire);
    mt_client_run(&f.c, &next, 0, f.a, "INSERT INTO public.log VALUES (1)");
    assert_non_null(next.req->err);
    assert_true(next.req->not_run && next.req->dirty);
    assert_true(f.c.conn->retire);
    assert_int_equal(mt_observer_number(&eye, "SELECT count(*) FROM log"), 0);
    mt_answer_free(&trace);
    mt_answer_free(&next);
    end(&f);
  }
}

static void ping_checks_the_scope_alone(void **state) {
  mt_scope *s = mt_client_scope(9, "absent");
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_run(&f.c, &a, MT_REQ_PING, f.a, NULL);
  assert_string_equal(mt_answer_text(&a), "");
  mt_answer_free(&a);
  mt_client_run(&f.c, &a, MT_REQ_PING, s, NULL);
  mt_answer_failed(&a, MT_E_TENANT_NOT_FOUND, "");
  mt_answer_free(&a);
  mt_scope_unref(s);
  end(&f);
}

static void timeout_is_kept_by_the_server(void **state) {
  mt_answer slow;
  mt_req *req;
  fixture f;
  (void)state;
  begin(&f);
  req = mt_req_new_text(MT_REQ_SCOPE, f.a, "SELECT pg_sleep(60)");
  req->timeout_ms = 50;
  mt_client_submit(&f.c, &slow, req);
  MT_RUN_UNTIL(f.r, slow.done);
  mt_answer_failed(&slow, MT_E_CANCELLED, "57014");
  assert_false(req->cancelled);
  mt_client_expect(&f.c, f.a, "SELECT current_setting('statement_timeout')",
                   "0");
  mt_answer_free(&slow);
  end(&f);
}

static void deferred_constraint_fails_at_the_end(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  mt_observer_sql(&eye,
                  "ALTER TABLE t_a.items ADD parent int REFERENCES t_a.items "
                  "DEFERRABLE INITIALLY DEFERRED");
  mt_client_run(&f.c, &a, 0, f.a, "INSERT INTO items VALUES (2, 'x', 99)");
  mt_answer_failed(&a, MT_E_QUERY, "23503");
  assert_true(a.req->answered);
  mt_answer_free(&a);
  mt_client_expect(&f.c, f.a, "SELECT count(*) FROM items", "1");
  end(&f);
}

static void parameters_are_typed_by_the_server(void **state) {
  static const char *const params[] = {"2", NULL, "it's", "{1,2}"};
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_send_with(&f.c, &a, 0, f.a,
                      "SELECT $1::int + 1 || ' ' || ($2::text IS NULL)::text "
                      "|| ' ' || $3::text || ' ' || ($4::int[])[2]",
                      4, params);
  MT_RUN_UNTIL(f.r, a.done);
  assert_string_equal(mt_answer_text(&a), "3 true it's 2");
  mt_answer_free(&a);
  mt_client_send_with(&f.c, &a, 0, f.a, "SELECT $1::int + $2::int", 1, params);
  MT_RUN_UNTIL(f.r, a.done);
  mt_answer_failed(&a, MT_E_QUERY, "08P01"); /* too few: no lost connection */
  mt_answer_free(&a);
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  end(&f);
}

static void nothing_and_too_much_in_one_unit(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_run(&f.c, &a, 0, f.a, "  -- nothing");
  assert_string_equal(mt_answer_text(&a), "");
  assert_int_equal(mt_result_affected(mt_req_result(a.req)), 0);
  mt_answer_free(&a);
  mt_client_run(&f.c, &a, 0, f.a, "SELECT 1; SELECT 2");
  mt_answer_failed(&a, MT_E_QUERY, "42601");
  mt_answer_free(&a);
  end(&f);
}

/* More than the sockets hold in both directions at once, behind a statement
 * that keeps the server from reading until we let go of a lock. */
static void full_sockets_do_not_block(void **state) {
  enum { N = 12, SIZE = 2 * 1024 * 1024 };
  mt_answer answers[N], head;
  char *text = malloc(SIZE + 1);
  const char *param = text;
  fixture f;
  double start;
  int i;
  (void)state;
  begin(&f);
  memset(text, 'x', SIZE);
  text[SIZE] = '\0';
  mt_observer_number(&eye, "SELECT count(pg_advisory_lock(7))");
  mt_client_send(&f.c, &head, 0, NULL, "SELECT pg_advisory_xact_lock(7)");
  start = mt_reactor_now(f.r);
  for (i = 0; i < N; i++)
    mt_client_send_with(&f.c, &answers[i], 0, f.a, "SELECT $1::text", 1,
                        &param);
  assert_true(f.c.conn->blocked);
  assert_true(f.c.conn->outbox.len > 0);
  assert_true(mt_reactor_now(f.r) - start < 20000);
  assert_false(head.done);
  mt_observer_sql(&eye, "SELECT pg_advisory_unlock(7)");
  MT_RUN_UNTIL(f.r, answers[N - 1].done);
  mt_answer_free(&head);
  for (i = 0; i < N; i++) {
    assert_int_equal(strlen(mt_answer_text(&answers[i])), SIZE);
    assert_int_equal(answers[i].order, i + 2);
    mt_answer_free(&answers[i]);
  }
  free(text);
  end(&f);
}

static void unsent_request_can_be_taken_back(void **state) {
  mt_answer head, behind, last;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &head, MT_REQ_SIMPLE, NULL, "SELECT pg_sleep(0.05)");
  mt_client_send(&f.c, &behind, 0, f.a, "INSERT INTO log VALUES (1)");
  mt_client_send(&f.c, &last, 0, f.a, "SELECT 1");
  assert_false(mt_conn_take_back(f.c.conn, head.req));
  assert_true(mt_conn_take_back(f.c.conn, behind.req));
  assert_false(mt_conn_take_back(f.c.conn, behind.req));
  MT_RUN_UNTIL(f.r, last.done);
  assert_int_equal(behind.done, 0);
  assert_int_equal(behind.req->state, MT_REQ_NEW);
  assert_int_equal(mt_observer_number(&eye, "SELECT count(*) FROM log"), 0);
  mt_req_free(behind.req);
  mt_answer_free(&head);
  mt_answer_free(&last);
  end(&f);
}

static void in_transaction(fixture *f, mt_answer *a, unsigned flags,
                           const char *first, const char *sql) {
  mt_req *req = mt_req_new_text(flags | MT_REQ_IN_TX, f->a, sql);
  assert_true(!first || mt_req_set_begin(req, first));
  mt_client_submit(&f->c, a, req);
  MT_RUN_UNTIL(f->r, a->done);
}

static void transaction_keeps_its_scope_to_the_end(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  in_transaction(&f, &a, MT_REQ_FENCE, "BEGIN", "INSERT INTO items VALUES (2)");
  mt_answer_text(&a);
  mt_answer_free(&a);
  assert_false(mt_conn_idle_status(f.c.conn));
  mt_client_expect(&f.c, NULL, "SELECT count(*) FROM items", "2");
  in_transaction(&f, &a, MT_REQ_COMMIT, NULL, "COMMIT");
  mt_answer_text(&a);
  mt_answer_free(&a);
  assert_true(mt_conn_idle_status(f.c.conn));
  mt_client_expect(&f.c, f.a, "SELECT count(*) FROM items", "2");
  end(&f);
}

static void commit_of_a_failed_transaction_is_an_error(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  in_transaction(&f, &a, MT_REQ_FENCE, "BEGIN", "SELECT 1/0");
  mt_answer_failed(&a, MT_E_QUERY, "22012");
  mt_answer_free(&a);
  in_transaction(&f, &a, MT_REQ_COMMIT, NULL, "COMMIT");
  mt_answer_failed(&a, MT_E_QUERY, "");
  mt_answer_free(&a);
  assert_true(mt_conn_idle_status(f.c.conn));
  end(&f);
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, true, NULL);
  mt_observer_open(&eye, &server);
  mt_observer_sql(&eye,
                  "CREATE TABLE log(id int);"
                  "GRANT ALL ON log TO public;"
                  "CREATE SCHEMA t_locked;"
                  "CREATE ROLE t_reader; GRANT t_reader TO mtenant;"
                  "ALTER DATABASE mtenant SET search_path = public");
  mt_observer_schema(&eye, "t_a");
  mt_observer_sql(&eye,
                  "ALTER DEFAULT PRIVILEGES FOR ROLE postgres "
                  "GRANT USAGE ON SCHEMAS TO t_reader");
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
      cmocka_unit_test(units_are_answered_in_order),
      cmocka_unit_test(error_stays_in_its_unit),
      cmocka_unit_test(error_tells_all_the_server_said),
      cmocka_unit_test(scope_ends_with_its_unit),
      cmocka_unit_test(without_its_schema_nothing_runs),
      cmocka_unit_test(role_that_may_not_be_taken_runs_nothing),
      cmocka_unit_test(dirty_session_is_refused_and_retired),
      cmocka_unit_test(ping_checks_the_scope_alone),
      cmocka_unit_test(timeout_is_kept_by_the_server),
      cmocka_unit_test(deferred_constraint_fails_at_the_end),
      cmocka_unit_test(parameters_are_typed_by_the_server),
      cmocka_unit_test(nothing_and_too_much_in_one_unit),
      cmocka_unit_test(full_sockets_do_not_block),
      cmocka_unit_test(unsent_request_can_be_taken_back),
      cmocka_unit_test(transaction_keeps_its_scope_to_the_end),
      cmocka_unit_test(commit_of_a_failed_transaction_is_an_error),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
