/* Routes: where the host says that a tenant lives, and what is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "pg/quote.h"
#include "support/street.h"

static void answer_at_once(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(h.asked, 0); /* not before it is used */
  assert_null(mt_tenant_schema(t));
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  assert_string_equal(mt_tenant_schema(t), "t_a");
  mt_house_expect(&h, t, "SELECT current_schema()", "t_a");
  assert_int_equal(h.asked, 1);
  assert_string_equal(h.events, "pool_created a;");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void answer_later(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a[3];
  mt_caller c;
  int i;
  (void)state;
  mt_street_begin(&h);
  h.later = true;
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < 3; i++) mt_ask(&a[i], &h, t, "SELECT name FROM items");
  mt_caller_start(&c, &h, t);
  mt_test_run_for(h.r, 30);
  assert_int_equal(h.asked, 1); /* one question for all */
  assert_int_equal(a[0].done + c.done, 0);
  mt_house_answer(&h, 0);
  MT_RUN_UNTIL(h.r, a[0].done && a[1].done && a[2].done && c.done);
  for (i = 0; i < 3; i++) assert_string_equal(a[i].text, "t_a");
  assert_int_equal(c.code, MT_OK);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void no_route(mt_house *h, const char *id, mt_route *route) {
  (void)h;
  (void)id;
  route->schema = NULL;
}

static void tenant_without_a_route(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  mt_caller c;
  (void)state;
  mt_street_begin(&h);
  h.route = no_route;
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_TENANT_NOT_FOUND);
  assert_non_null(strstr(a.message, "\"a\""));
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_TENANT_NOT_FOUND);
  assert_int_equal(c.attempts, 1); /* trying again would not help */
  h.route = NULL;                  /* it is asked afresh, and found */
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  assert_int_equal(h.asked, 3);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void error_of_the_host_is_passed_on(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  h.refusal = mt_error_new(MT_E_POLICY, "the policy says no");
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_POLICY);
  assert_string_equal(a.message, "the policy says no");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static mt_route given; /* what route_given answers */

static void route_given(mt_house *h, const char *id, mt_route *route) {
  (void)h;
  (void)id;
  *route = given;
}

static void hostile_routes_are_refused(void **state) {
  static const struct {
    mt_route route;
    int code;
  } cases[] = {
      {{.schema = ""}, MT_E_INVALID_TENANT_ID},
      {{.schema = "public"}, MT_E_INVALID_TENANT_ID},
      {{.schema = "pg_catalog"}, MT_E_INVALID_TENANT_ID},
      {{.schema = "pg_x"}, MT_E_INVALID_TENANT_ID},
      {{.schema = "information_schema"}, MT_E_INVALID_TENANT_ID},
      {{.schema = "$user"}, MT_E_INVALID_TENANT_ID},
      {{.schema = "\xff"}, MT_E_INVALID_TENANT_ID},
      {{.schema = "0123456789012345678901234567890123456789"
                  "012345678901234567890123"},
       MT_E_INVALID_TENANT_ID},
      {{.schema = "t_a", .role = ""}, MT_E_POLICY},
      {{.schema = "t_a", .role = "none"}, MT_E_POLICY},
      {{.schema = "t_a", .role = "\xff"}, MT_E_POLICY},
      {{.schema = "t_a", .url = "postgresql://u:s3cret@h:x/d"}, MT_E_POLICY},
      {{.schema = "t_a", .url = "postgresql://u:s3cret%zz@h/d"}, MT_E_POLICY},
  };
  mt_house h;
  mt_tenant *t;
  size_t i;
  (void)state;
  mt_street_begin(&h);
  h.route = route_given;
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < MT_COUNT(cases); i++) {
    mt_asked a;
    given = cases[i].route;
    mt_ask(&a, &h, t, "SELECT 1");
    MT_RUN_UNTIL(h.r, a.done);
    assert_string_equal(mt_code_name(a.code), mt_code_name(cases[i].code));
    assert_null(strstr(a.message, "s3cret"));
    assert_null(mt_tenant_schema(t));
  }
  given = (mt_route){.schema = "t_a"};
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void odd_names_are_just_names(void **state) {
  static const char *const schemas[] = {
      "t \"; DROP SCHEMA t_a; --", "T\xc3\xa4glich", "select", "a,b", "'\\"};
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(schemas); i++) {
    mt_house h;
    mt_tenant *t;
    char *quoted = mt_quote_ident(schemas[i], strlen(schemas[i]));
    mt_observer_schema(&mt_street_eye, "t_odd");
    mt_observer_sql(&mt_street_eye, "ALTER SCHEMA t_odd RENAME TO %s", quoted);
    mt_street_begin(&h);
    h.route = route_given;
    given = (mt_route){.schema = schemas[i]};
    t = mt_house_tenant(&h, "a");
    mt_house_expect(&h, t, "SELECT current_schema()", schemas[i]);
    mt_house_expect(&h, t, "SELECT name FROM items", "t_odd");
    mt_observer_sql(&mt_street_eye, "DROP SCHEMA %s CASCADE", quoted);
    mt_free(quoted);
    mt_tenant_unref(t);
    mt_street_end(&h);
  }
}

static void role_of_the_route_is_taken(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  mt_street_begin(&h);
  h.route = route_given;
  given = (mt_route){.schema = "t_a", .role = "t_reader"};
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT current_user", "t_reader");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void url_of_the_route_is_another_pool(void **state) {
  mt_house h;
  mt_tenant *a, *b;
  (void)state;
  mt_street_begin(&h);
  a = mt_house_tenant(&h, "a");
  mt_house_expect(&h, a, "SELECT current_user", "mtenant");
  h.route = route_given;
  given = (mt_route){.schema = "t_b", .url = mt_street_server.admin_url};
  b = mt_house_tenant(&h, "b");
  mt_house_expect(&h, b, "SELECT current_user", "postgres");
  mt_house_expect(&h, a, "SELECT current_user", "mtenant");
  mt_tenant_unref(a);
  mt_tenant_unref(b);
  mt_street_end(&h);
}

/* Two ids with one schema would read each other's rows. */
static void schema_has_one_owner(void **state) {
  mt_house h;
  mt_tenant *a, *b;
  mt_asked asked;
  (void)state;
  mt_street_begin(&h);
  h.route = route_given;
  given = (mt_route){.schema = "t_a"};
  a = mt_house_tenant(&h, "a");
  b = mt_house_tenant(&h, "b");
  mt_house_expect(&h, a, "SELECT name FROM items", "t_a");
  mt_ask(&asked, &h, b, "SELECT name FROM items");
  MT_RUN_UNTIL(h.r, asked.done);
  assert_int_equal(asked.code, MT_E_INVALID_TENANT_ID);
  assert_non_null(strstr(asked.message, "\"a\""));
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  mt_test_run_for(h.r, 1);
  mt_house_expect(&h, b, "SELECT name FROM items", "t_a");
  mt_tenant_unref(a);
  mt_tenant_unref(b);
  mt_street_end(&h);
}

/* As whom or how one connects makes no other schema of it. */
static void owner_is_known_across_logins(void **state) {
  mt_house h;
  mt_tenant *a, *b;
  mt_asked asked;
  (void)state;
  mt_street_begin(&h);
  a = mt_house_tenant(&h, "a");
  mt_house_expect(&h, a, "SELECT name FROM items", "t_a");
  h.route = route_given;
  given = (mt_route){.schema = "t_a", .url = mt_street_server.admin_url};
  b = mt_house_tenant(&h, "b");
  mt_ask(&asked, &h, b, "SELECT name FROM items");
  MT_RUN_UNTIL(h.r, asked.done);
  assert_int_equal(asked.code, MT_E_INVALID_TENANT_ID);
  mt_tenant_unref(a);
  mt_tenant_unref(b);
  mt_street_end(&h);
}

static void evicted_owner_that_still_drains_does_not_block(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked slow;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&slow, &h, t, "SELECT pg_sleep(0.2)");
  MT_RUN_UNTIL(h.r, mt_observer_running(&mt_street_eye, "pg_sleep") == 1);
  mt_test_run_for(h.r, 30); /* nothing queues behind it any more */
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  assert_int_equal(slow.done, 0);
  MT_RUN_UNTIL(h.r, slow.done);
  assert_int_equal(slow.code, MT_OK);
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* The host may answer a question that nobody is interested in any more. */
static void answer_after_all_have_gone(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  mt_caller c;
  (void)state;
  mt_street_begin(&h);
  h.later = true;
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1");
  t = (mt_tenant_unref(t), mt_house_tenant(&h, "b"));
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(h.r, h.ntokens == 2);
  mt_flight_cancel(c.flight);
  MT_RUN_UNTIL(h.r, c.done);
  assert_int_equal(c.code, MT_E_CANCELLED);
  mt_manager_evict(h.m, "b", "manual");
  mt_tenant_unref(t);
  mt_test_run_for(h.r, 5);
  mt_house_answer(&h, 1);
  mt_house_dispose(&h);
  assert_int_equal(a.code, MT_E_DISPOSED);
  mt_house_answer(&h, 0);
  mt_street_end(&h);
}

static void shared_handle_sees_public_only(void **state) {
  mt_house h;
  mt_tenant *s, *again;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  assert_int_equal(mt_manager_shared(h.m, &s, NULL), MT_OK);
  assert_int_equal(mt_manager_shared(h.m, &again, NULL), MT_OK);
  assert_ptr_equal(s, again);
  mt_house_expect(&h, s, "SELECT current_setting('search_path')",
                  "\"public\",pg_temp");
  mt_ask(&a, &h, s, "SELECT * FROM items");
  MT_RUN_UNTIL(h.r, a.done);
  assert_string_equal(a.sqlstate, "42P01");
  assert_int_equal(h.asked, 0);
  assert_int_equal(mt_manager_count(h.m), 0);
  assert_string_equal(h.events, "pool_created shared;");
  mt_tenant_unref(s);
  mt_tenant_unref(again);
  mt_street_end(&h);
}

static int start_server(void **state) {
  mt_street_start(state);
  mt_observer_sql(&mt_street_eye,
                  "CREATE ROLE t_reader; GRANT t_reader TO mtenant;"
                  "GRANT USAGE ON SCHEMA t_a TO t_reader");
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(answer_at_once),
      cmocka_unit_test(answer_later),
      cmocka_unit_test(tenant_without_a_route),
      cmocka_unit_test(error_of_the_host_is_passed_on),
      cmocka_unit_test(hostile_routes_are_refused),
      cmocka_unit_test(odd_names_are_just_names),
      cmocka_unit_test(role_of_the_route_is_taken),
      cmocka_unit_test(url_of_the_route_is_another_pool),
      cmocka_unit_test(schema_has_one_owner),
      cmocka_unit_test(owner_is_known_across_logins),
      cmocka_unit_test(evicted_owner_that_still_drains_does_not_block),
      cmocka_unit_test(answer_after_all_have_gone),
      cmocka_unit_test(shared_handle_sees_public_only),
  };
  return cmocka_run_group_tests(tests, start_server, mt_street_stop);
}
