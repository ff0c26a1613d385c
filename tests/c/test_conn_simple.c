/* The simple protocol and COPY on one connection: what steps out of the
 * pipeline, and comes back or not. */
#include <string.h>

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

static void simple(fixture *f, mt_answer *a, const char *sql) {
  mt_client_run(&f->c, a, MT_REQ_SIMPLE, NULL, sql);
}

static void last_result_of_many_statements_is_kept(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  simple(&f, &a,
         "CREATE TABLE t_a.more(id int); INSERT INTO t_a.more VALUES (1), (2);"
         "SELECT count(*) FROM t_a.more");
  assert_string_equal(mt_answer_text(&a), "2");
  mt_answer_free(&a);
  simple(&f, &a, "SELECT 1; DELETE FROM t_a.more");
  assert_string_equal(mt_result_command(mt_req_result(a.req)), "DELETE 2");
  mt_answer_free(&a);
  simple(&f, &a, "");
  assert_string_equal(mt_answer_text(&a), "");
  mt_answer_free(&a);
  end(&f);
}

static void error_ends_the_whole_text(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  simple(&f, &a,
         "INSERT INTO t_a.items VALUES (2); SELECT 1/0; SELECT 'unreached'");
  mt_answer_failed(&a, MT_E_QUERY, "22012");
  mt_answer_free(&a);
  mt_client_expect(&f.c, f.a, "SELECT count(*) FROM items", "1");
  assert_true(mt_conn_idle_status(f.c.conn));
  end(&f);
}

static void it_waits_its_turn_and_lets_others_in_again(void **state) {
  mt_answer before[3], alone[2], after[3];
  fixture f;
  int i;
  (void)state;
  begin(&f);
  for (i = 0; i < 3; i++)
    mt_client_send(&f.c, &before[i], 0, f.a, "SELECT name FROM items");
  mt_client_send(&f.c, &alone[0], MT_REQ_SIMPLE, NULL, "SELECT 1; SELECT 'x'");
  mt_client_send(&f.c, &alone[1], MT_REQ_SIMPLE, NULL, "SELECT nothing");
  for (i = 0; i < 3; i++)
    mt_client_send(&f.c, &after[i], 0, f.a, "SELECT name FROM items");
  assert_int_equal(f.c.conn->outbox.len, 5);
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  for (i = 0; i < 3; i++) {
    assert_string_equal(mt_answer_text(&before[i]), "t_a");
    assert_string_equal(mt_answer_text(&after[i]), "t_a");
    assert_int_equal(before[i].order, i + 1);
    assert_int_equal(after[i].order, i + 6);
    mt_answer_free(&before[i]);
    mt_answer_free(&after[i]);
  }
  assert_string_equal(mt_answer_text(&alone[0]), "x");
  mt_answer_failed(&alone[1], MT_E_QUERY, "42703");
  mt_answer_free(&alone[0]);
  mt_answer_free(&alone[1]);
  end(&f);
}

static void statements_that_need_to_be_alone_can_be(void **state) {
  static const char *const sqls[] = {
      "VACUUM t_a.items", "CREATE INDEX CONCURRENTLY more ON t_a.items (name)",
      "DISCARD ALL"};
  mt_answer a;
  fixture f;
  size_t i;
  (void)state;
  begin(&f);
  for (i = 0; i < MT_COUNT(sqls); i++) {
    simple(&f, &a, sqls[i]);
    mt_answer_text(&a);
    mt_answer_free(&a);
  }
  end(&f);
}

static void open_transaction_is_seen_when_quiet(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  simple(&f, &a, "BEGIN");
  mt_answer_free(&a);
  assert_true(mt_conn_quiet(f.c.conn));
  assert_false(mt_conn_idle_status(f.c.conn));
  simple(&f, &a, "SELECT 1/0");
  mt_answer_free(&a);
  assert_false(mt_conn_idle_status(f.c.conn));
  simple(&f, &a, "ROLLBACK");
  mt_answer_free(&a);
  assert_true(mt_conn_idle_status(f.c.conn));
  end(&f);
}

static void lost_in_a_simple_query(void **state) {
  mt_answer a, behind;
  fixture f;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &a, MT_REQ_SIMPLE, NULL,
                 "SELECT 'one'; SELECT pg_sleep(60)");
  mt_client_send(&f.c, &behind, 0, f.a, "SELECT 1");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)",
                  mt_conn_backend_pid(f.c.conn));
  MT_RUN_UNTIL(f.r, f.c.closed);
  mt_answer_failed(&a, MT_E_CONNECTION_LOST, "57P01");
  assert_non_null(behind.req->err);
  assert_true(behind.req->not_run);
  mt_answer_free(&a);
  mt_answer_free(&behind);
  end(&f);
}

/* No stream of COPY data is ever begun here: it ends the connection. */
static void copy_closes_the_connection(void **state) {
  static const struct {
    unsigned flags;
    const char *sql;
  } cases[] = {
      {0, "COPY t_a.items TO STDOUT"},
      {0, "COPY t_a.items FROM STDIN"},
      {MT_REQ_SIMPLE, "COPY t_a.items TO STDOUT"},
      {MT_REQ_SIMPLE, "COPY t_a.items FROM STDIN"},
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(cases); i++) {
    mt_answer copy, behind[2];
    fixture f;
    begin(&f);
    mt_client_send(&f.c, &copy, cases[i].flags, NULL, cases[i].sql);
    mt_client_send(&f.c, &behind[0], 0, f.a, "INSERT INTO items VALUES (2)");
    mt_client_send(&f.c, &behind[1], 0, f.a, "INSERT INTO items VALUES (3)");
    MT_RUN_UNTIL(f.r, f.c.closed);
    assert_int_equal(f.c.why->code, MT_E_PROTOCOL);
    assert_non_null(copy.req->err);
    assert_non_null(behind[0].req->err);
    assert_non_null(behind[1].req->err);
    mt_answer_free(&copy);
    mt_answer_free(&behind[0]);
    mt_answer_free(&behind[1]);
    end(&f);
  }
}

static void notices_and_notifications_are_ignored(void **state) {
  mt_answer a;
  fixture f;
  (void)state;
  begin(&f);
  simple(&f, &a, "LISTEN mt_test");
  mt_answer_free(&a);
  mt_observer_sql(&eye, "NOTIFY mt_test, 'hello'");
  mt_client_run(&f.c, &a, 0, NULL,
                "DO $$BEGIN FOR i IN 1..100 LOOP RAISE NOTICE 'n %', i; "
                "END LOOP; END$$");
  mt_answer_text(&a);
  mt_answer_free(&a);
  mt_observer_sql(&eye, "NOTIFY mt_test, 'again'");
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  mt_test_run_for(f.r, 20);
  assert_int_equal(f.c.closed, 0);
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
      cmocka_unit_test(last_result_of_many_statements_is_kept),
      cmocka_unit_test(error_ends_the_whole_text),
      cmocka_unit_test(it_waits_its_turn_and_lets_others_in_again),
      cmocka_unit_test(statements_that_need_to_be_alone_can_be),
      cmocka_unit_test(open_transaction_is_seen_when_quiet),
      cmocka_unit_test(lost_in_a_simple_query),
      cmocka_unit_test(copy_closes_the_connection),
      cmocka_unit_test(notices_and_notifications_are_ignored),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
