/* mt_tenant_query: one plain statement for a tenant, as a C host sees it. */
#include <stdio.h>
#include <string.h>

#include "support/street.h"

static int calls;

static void look_at_rows(void *data, const mt_result *res,
                         const mt_error *err) {
  (void)data;
  calls++;
  assert_null(err);
  assert_int_equal(mt_result_rows(res), 2);
  assert_int_equal(mt_result_columns(res), 3);
  assert_string_equal(mt_result_name(res, 0), "id");
  assert_string_equal(mt_result_name(res, 1), "name");
  assert_string_equal(mt_result_name(res, 2), "nothing");
  assert_string_equal(mt_result_value(res, 0, 0), "1");
  assert_string_equal(mt_result_value(res, 1, 1), "");
  assert_null(mt_result_value(res, 0, 2));
  assert_int_equal(mt_result_affected(res), 2);
}

static void look_at_insert(void *data, const mt_result *res,
                           const mt_error *err) {
  (void)data;
  calls++;
  assert_null(err);
  assert_int_equal(mt_result_rows(res), 0);
  assert_int_equal(mt_result_columns(res), 0);
  assert_int_equal(mt_result_affected(res), 2);
}

static void results_can_be_read(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  mt_street_begin(&h);
  calls = 0;
  t = mt_house_tenant(&h, "a");
  assert_int_equal(
      mt_tenant_query(t,
                      "SELECT id, name, NULL AS nothing FROM (VALUES (1, 'x'), "
                      "(2, '')) AS v(id, name)",
                      0, NULL, 0, look_at_rows, NULL, NULL),
      MT_OK);
  assert_int_equal(mt_tenant_query(t, "INSERT INTO items VALUES (8), (9)", 0,
                                   NULL, 0, look_at_insert, NULL, NULL),
                   MT_OK);
  MT_RUN_UNTIL(h.r, calls == 2);
  mt_house_expect(&h, t, "DELETE FROM items WHERE id > 7 RETURNING id", "8");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void parameters_are_copied(void **state) {
  char text[] = "it's";
  const char *params[] = {text, NULL, "42"};
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask_with(&a, &h, t,
              "SELECT $1::text || ' ' || ($2::text IS NULL) || ' ' || "
              "($3::int + 1)",
              3, params, 0);
  memset(text, 'X', sizeof text - 1);
  MT_RUN_UNTIL(h.r, a.done);
  assert_string_equal(a.text, "it's true 43");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void too_few_parameters_are_an_error(void **state) {
  const char *params[] = {"1"};
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask_with(&a, &h, t, "SELECT $1::int + $2::int", 1, params, 0);
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_QUERY);
  assert_false(a.retryable);
  mt_ask_with(&a, &h, t, "SELECT 1", 1, params, 0); /* and too many */
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_QUERY);
  mt_house_expect(&h, t, "SELECT 1", "1");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void only_plain_statements_are_taken(void **state) {
  static const char *const sqls[] = {
      "BEGIN",
      "COMMIT",
      "SET search_path = t_b",
      "CREATE TABLE x(id int)",
      "DO $$BEGIN END$$",
      "COPY items TO STDOUT",
      "LISTEN x",
      "SELECT 1; BEGIN",
      "SELECT 1 INTO TEMP x",
      "SELECT pg_advisory_lock(1)",
  };
  mt_house h;
  mt_tenant *t;
  size_t i;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < MT_COUNT(sqls); i++) {
    mt_error *err = NULL;
    assert_int_equal(mt_tenant_query(t, sqls[i], 0, NULL, 0, NULL, NULL, &err),
                     MT_E_MISUSE);
    assert_non_null(strstr(err->message, "mt_tenant_query"));
    mt_error_unref(err);
    assert_int_equal(mt_tenant_query(t, sqls[i], 0, NULL, 0, NULL, NULL, NULL),
                     MT_E_MISUSE);
  }
  assert_int_equal(h.asked, 0);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void several_statements_are_the_servers_error(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1; SELECT 2");
  MT_RUN_UNTIL(h.r, a.done);
  assert_string_equal(a.sqlstate, "42601");
  mt_ask(&a, &h, t, "");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_OK);
  assert_int_equal(a.rows, 0);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* The server keeps the time; nobody else could have cancelled it. */
static void timeout_is_a_timeout(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  double before;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT 1", "1");
  before = mt_reactor_now(h.r);
  mt_ask_with(&a, &h, t, "SELECT pg_sleep(60)", 0, NULL, 60);
  MT_RUN_UNTIL(h.r, a.done);
  assert_string_equal(mt_code_name(a.code), mt_code_name(MT_E_TIMEOUT));
  assert_string_equal(a.sqlstate, "57014");
  assert_false(a.ambiguous || a.retryable);
  assert_true(mt_reactor_now(h.r) - before < 5000);
  mt_ask_with(&a, &h, t, "SELECT 'quick'", 0, NULL, 5000);
  MT_RUN_UNTIL(h.r, a.done);
  assert_string_equal(a.text, "quick");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void cancelled_by_somebody_else_is_cancelled(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(h.r, mt_observer_running(&mt_street_eye, "pg_sleep") == 1);
  mt_observer_sql(&mt_street_eye,
                  "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                  "WHERE usename = 'mtenant'");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_CANCELLED);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void many_tenants_share_few_connections(void **state) {
  enum { N = 600, TENANTS = 12 };
  static mt_asked a[N];
  mt_tenant *t[TENANTS];
  mt_house h;
  mt_pool_stats stats;
  char id[16], schema[24];
  int i, done = 0, open;
  (void)state;
  mt_street_begin(&h);
  for (i = 0; i < TENANTS; i++) {
    snprintf(id, sizeof id, "many%d", i);
    snprintf(schema, sizeof schema, "t_%s", id);
    mt_observer_schema(&mt_street_eye, schema);
    t[i] = mt_house_tenant(&h, id);
  }
  for (i = 0; i < N; i++)
    mt_ask(&a[i], &h, t[i % TENANTS], "SELECT name FROM items");
  while (done < N) {
    mt_test_turn(h.r);
    for (i = done = 0; i < N; i++) done += a[i].done;
  }
  for (i = 0; i < N; i++) {
    snprintf(schema, sizeof schema, "t_many%d", i % TENANTS);
    assert_int_equal(a[i].done, 1);
    assert_string_equal(a[i].text, schema);
  }
  mt_manager_stats(h.m, &stats, &open);
  assert_in_range(stats.peak, 1, 4);
  assert_int_equal(h.asked, TENANTS);
  for (i = 0; i < TENANTS; i++) {
    mt_observer_sql(&mt_street_eye, "DROP SCHEMA t_many%d CASCADE", i);
    mt_tenant_unref(t[i]);
  }
  mt_street_end(&h);
}

static void handle_may_go_before_the_answer(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT name FROM items");
  mt_tenant_unref(t);
  MT_RUN_UNTIL(h.r, a.done);
  assert_string_equal(a.text, "t_a");
  mt_street_end(&h);
}

static mt_asked second;

static void ask_again(mt_asked *a) {
  mt_tenant *t = mt_house_tenant(a->h, "a");
  mt_ask(&second, a->h, t, "SELECT 'second'");
  mt_tenant_unref(t);
}

static void answers_may_ask_again(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 'first'");
  a.then = ask_again;
  MT_RUN_UNTIL(h.r, h.finished == 2);
  assert_string_equal(second.text, "second");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void missing_schema_runs_nothing(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "absent");
  mt_ask(&a, &h, t, "INSERT INTO log VALUES (1)");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_TENANT_NOT_FOUND);
  assert_false(a.ambiguous);
  assert_int_equal(
      mt_observer_number(&mt_street_eye, "SELECT count(*) FROM log"), 0);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void unreachable_server_is_an_error(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  char url[300];
  (void)state;
  snprintf(url, sizeof url, "host=%s/absent user=u", mt_street_server.dir);
  mt_house_start(&h, mt_test_reactor(), url);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_REFUSED);
  assert_true(a.retryable);
  assert_int_equal(h.retries, 0); /* a query alone does not retry */
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static int start_server(void **state) {
  mt_street_start(state);
  mt_observer_sql(&mt_street_eye,
                  "CREATE TABLE log(id int); GRANT ALL ON log TO "
                  "public");
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(results_can_be_read),
      cmocka_unit_test(parameters_are_copied),
      cmocka_unit_test(too_few_parameters_are_an_error),
      cmocka_unit_test(only_plain_statements_are_taken),
      cmocka_unit_test(several_statements_are_the_servers_error),
      cmocka_unit_test(timeout_is_a_timeout),
      cmocka_unit_test(cancelled_by_somebody_else_is_cancelled),
      cmocka_unit_test(many_tenants_share_few_connections),
      cmocka_unit_test(handle_may_go_before_the_answer),
      cmocka_unit_test(answers_may_ask_again),
      cmocka_unit_test(missing_schema_runs_nothing),
      cmocka_unit_test(unreachable_server_is_an_error),
  };
  return cmocka_run_group_tests(tests, start_server, mt_street_stop);
}
