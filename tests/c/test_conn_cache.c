/* Prepared statements as a connection keeps them, and what happens when the
 * server has changed or lost them. */
#include <string.h>

#include "support/client.h"
#include "support/observer.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *a, *b;
} fixture;

static void begin(fixture *f, int cap) {
  mt_observer_schema(&eye, "t_a");
  mt_observer_schema(&eye, "t_b");
  f->r = mt_test_reactor();
  mt_client_init(&f->c, f->r);
  f->c.options.cache_statements = cap;
  mt_client_start(&f->c, server.url);
  MT_RUN_UNTIL(f->r, f->c.opened);
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

/* The names on the server; asking is not itself prepared. */
static void expect_names(fixture *f, const char *names) {
  mt_answer a;
  mt_client_run(&f->c, &a, MT_REQ_UNNAMED, NULL,
                "SELECT coalesce(string_agg(name, ' ' ORDER BY prepare_time), "
                "'') FROM pg_prepared_statements WHERE name ~ '^mt_[0-9]'");
  assert_string_equal(mt_answer_text(&a), names);
  mt_answer_free(&a);
}

static void expect_resent(fixture *f, mt_scope *scope, const char *sql,
                          const char *text, int resent) {
  mt_answer a;
  mt_client_run(&f->c, &a, 0, scope, sql);
  assert_string_equal(mt_answer_text(&a), text);
  assert_int_equal(a.req->resent, resent);
  mt_answer_free(&a);
}

static void second_use_prepares(void **state) {
  fixture f;
  (void)state;
  begin(&f, 16);
  mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  expect_names(&f, "");
  mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  expect_names(&f, "mt_1");
  mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  mt_client_expect(&f.c, f.b, "SELECT name FROM items", "t_b");
  mt_client_expect(&f.c, f.b, "SELECT name FROM items", "t_b");
  expect_names(&f, "mt_1 mt_2");
  mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  end(&f);
}

static void without_cap_nothing_is_prepared(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f, 0);
  for (i = 0; i < 4; i++)
    mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  expect_names(&f, "");
  end(&f);
}

static void evicted_one_is_deallocated(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f, 2);
  for (i = 0; i < 2; i++) {
    mt_client_expect(&f.c, f.a, "SELECT 1", "1");
    mt_client_expect(&f.c, f.a, "SELECT 2", "2");
    mt_client_expect(&f.c, f.a, "SELECT 3", "3");
  }
  expect_names(&f, "mt_2 mt_3");
  mt_client_expect(&f.c, f.a, "SELECT 1", "1");
  expect_names(&f, "mt_3 mt_4");
  end(&f);
}

/* Evictions in the middle of a pipeline hit nothing that is still in use. */
static void eviction_under_load_breaks_nothing(void **state) {
  enum { N = 60 };
  static const char *const sqls[] = {"SELECT 10", "SELECT 11", "SELECT 12",
                                     "SELECT 13", "SELECT 14"};
  mt_answer answers[N];
  fixture f;
  int i;
  (void)state;
  begin(&f, 2);
  for (i = 0; i < N; i++)
    mt_client_send(&f.c, &answers[i], 0, i % 3 ? f.a : f.b,
                   sqls[(i * 7 + i / 9) % 5]);
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  for (i = 0; i < N; i++) {
    assert_string_equal(mt_answer_text(&answers[i]),
                        sqls[(i * 7 + i / 9) % 5] + strlen("SELECT "));
    assert_int_equal(answers[i].req->resent, 0);
    mt_answer_free(&answers[i]);
  }
  mt_client_expect(&f.c, NULL,
                   "SELECT count(*) FROM pg_prepared_statements "
                   "WHERE name ~ '^mt_[0-9]'",
                   "2");
  end(&f);
}

static void changed_result_type_is_run_again(void **state) {
  mt_answer a;
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 3; i++)
    mt_client_expect(&f.c, f.a, "SELECT * FROM items", "1");
  mt_observer_sql(&eye, "ALTER TABLE t_a.items ADD more int DEFAULT 7");
  mt_client_run(&f.c, &a, 0, f.a, "SELECT * FROM items");
  assert_string_equal(mt_answer_text(&a), "1");
  assert_int_equal(mt_result_columns(mt_req_result(a.req)), 3);
  assert_int_equal(a.req->resent, 1);
  mt_answer_free(&a);
  expect_names(&f, "");
  expect_resent(&f, f.a, "SELECT * FROM items", "1", 0);
  expect_names(&f, "mt_2");
  end(&f);
}

/* Those behind it in the pipeline fail and are run again too, in order. */
static void stale_plan_in_a_full_pipeline(void **state) {
  mt_answer answers[8];
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 3; i++)
    mt_client_expect(&f.c, f.a, "SELECT * FROM items", "1");
  mt_observer_sql(&eye, "ALTER TABLE t_a.items ADD more int");
  for (i = 0; i < 8; i++)
    mt_client_send(&f.c, &answers[i], 0, f.a,
                   i % 4 ? "SELECT * FROM items" : "SELECT 5");
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  for (i = 0; i < 8; i++) {
    assert_string_equal(mt_answer_text(&answers[i]), i % 4 ? "1" : "5");
    mt_answer_free(&answers[i]);
  }
  end(&f);
}

/* What a statement did before its unit was refused is never done twice. */
static void rerun_is_not_done_twice(void **state) {
  mt_answer a;
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 2; i < 5; i++) {
    char number[2] = {(char)('0' + i), '\0'};
    const char *param = number;
    mt_client_send_with(&f.c, &a, 0, f.a,
                        "INSERT INTO items(id) VALUES ($1) RETURNING *", 1,
                        &param);
    MT_RUN_UNTIL(f.r, a.done);
    assert_string_equal(mt_answer_text(&a), number);
    mt_answer_free(&a);
    if (i == 3)
      mt_observer_sql(&eye, "ALTER TABLE t_a.items ADD more int DEFAULT 7");
  }
  mt_client_expect(&f.c, f.a, "SELECT count(*) FROM items", "4");
  end(&f);
}

static void vanished_statement_is_run_again(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 2; i++)
    mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  mt_client_expect(&f.c, NULL, "DEALLOCATE mt_1", "");
  expect_resent(&f, f.a, "SELECT name FROM items", "t_a", 1);
  expect_resent(&f, f.a, "SELECT name FROM items", "t_a", 0);
  expect_names(&f, "mt_2");
  end(&f);
}

static void deallocate_all_retires_the_connection(void **state) {
  mt_answer a;
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 2; i++)
    mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  mt_client_run(&f.c, &a, MT_REQ_SIMPLE, NULL, "DEALLOCATE ALL");
  mt_answer_free(&a);
  mt_client_run(&f.c, &a, 0, f.a, "SELECT name FROM items");
  assert_true(a.req->not_run && a.req->dirty && f.c.conn->retire);
  assert_string_equal(a.req->err->sqlstate, "26000");
  mt_answer_free(&a);
  end(&f);
}

/* In a transaction nothing can be run again: the name goes, retrying helps. */
static void stale_plan_in_a_transaction_is_retryable(void **state) {
  mt_answer a;
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 2; i++)
    mt_client_expect(&f.c, f.a, "SELECT * FROM items", "1");
  mt_observer_sql(&eye, "ALTER TABLE t_a.items ADD more int");
  mt_client_run(&f.c, &a, MT_REQ_IN_TX, f.a, "SELECT * FROM items");
  mt_answer_failed(&a, MT_E_QUERY, "0A000");
  assert_true(a.req->err->retryable);
  assert_int_equal(a.req->resent, 0);
  mt_answer_free(&a);
  expect_names(&f, "");
  end(&f);
}

static void dropped_table_costs_the_name_only(void **state) {
  mt_answer a;
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 2; i++)
    mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  mt_observer_sql(&eye, "ALTER TABLE t_a.items RENAME TO things");
  mt_client_run(&f.c, &a, 0, f.a, "SELECT name FROM items");
  mt_answer_failed(&a, MT_E_QUERY, "42P01");
  assert_int_equal(a.req->resent, 0);
  mt_answer_free(&a);
  expect_names(&f, "");
  end(&f);
}

/* A prepare that fails, or whose unit was refused, leaves no name behind. */
static void failed_prepare_is_forgotten(void **state) {
  mt_answer a;
  mt_scope *absent = mt_client_scope(3, "t_c");
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  for (i = 0; i < 3; i++) {
    mt_client_run(&f.c, &a, 0, f.a, "SELECT * FROM absent");
    mt_answer_failed(&a, MT_E_QUERY, "42P01");
    mt_answer_free(&a);
    mt_client_run(&f.c, &a, 0, absent, "SELECT name FROM items");
    mt_answer_failed(&a, MT_E_TENANT_NOT_FOUND, "");
    mt_answer_free(&a);
  }
  expect_names(&f, "");
  mt_observer_schema(&eye, "t_c");
  expect_resent(&f, absent, "SELECT name FROM items", "t_c", 0);
  mt_observer_sql(&eye, "DROP SCHEMA t_c CASCADE");
  mt_scope_unref(absent);
  end(&f);
}

/* Two in one flush: the second one relies on a name that never came to be. */
static void use_behind_a_failed_prepare_is_run_again(void **state) {
  mt_answer answers[4];
  mt_scope *absent = mt_client_scope(3, "t_c");
  fixture f;
  int i;
  (void)state;
  begin(&f, 16);
  mt_client_run(&f.c, &answers[0], 0, absent, "SELECT name FROM items");
  mt_answer_free(&answers[0]);
  for (i = 0; i < 4; i++)
    mt_client_send(&f.c, &answers[i], 0, absent, "SELECT name FROM items");
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  for (i = 0; i < 4; i++) {
    mt_answer_failed(&answers[i], MT_E_TENANT_NOT_FOUND, "");
    mt_answer_free(&answers[i]);
  }
  mt_scope_unref(absent);
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
      cmocka_unit_test(second_use_prepares),
      cmocka_unit_test(without_cap_nothing_is_prepared),
      cmocka_unit_test(evicted_one_is_deallocated),
      cmocka_unit_test(eviction_under_load_breaks_nothing),
      cmocka_unit_test(changed_result_type_is_run_again),
      cmocka_unit_test(stale_plan_in_a_full_pipeline),
      cmocka_unit_test(rerun_is_not_done_twice),
      cmocka_unit_test(vanished_statement_is_run_again),
      cmocka_unit_test(deallocate_all_retires_the_connection),
      cmocka_unit_test(stale_plan_in_a_transaction_is_retryable),
      cmocka_unit_test(dropped_table_costs_the_name_only),
      cmocka_unit_test(failed_prepare_is_forgotten),
      cmocka_unit_test(use_behind_a_failed_prepare_is_run_again),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
