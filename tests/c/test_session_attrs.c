/* What target_session_attrs asks for, against what servers say. */
#include <string.h>

#include "pg/endpoint.h"
#include "support/test.h"

static void names_are_libpqs(void **state) {
  static const char *const names[] = {
      "any", "read-write", "read-only", "primary", "standby", "prefer-standby"};
  mt_target t;
  size_t i;
  (void)state;
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    assert_true(mt_target_parse(names[i], &t));
    assert_int_equal(t, i);
    assert_string_equal(mt_target_name(t), names[i]);
  }
  assert_true(mt_target_parse(NULL, &t) && t == MT_TARGET_ANY);
  assert_true(mt_target_parse("", &t) && t == MT_TARGET_ANY);
  assert_false(mt_target_parse("master", &t));
  assert_false(mt_target_parse("Primary", &t));
}

/* A primary, one with default_transaction_read_only, a standby. */
static void servers_are_told_apart(void **state) {
  static const struct {
    mt_target target;
    bool primary, read_only, standby;
  } rows[] = {{MT_TARGET_ANY, true, true, true},
              {MT_TARGET_READ_WRITE, true, false, false},
              {MT_TARGET_READ_ONLY, false, true, true},
              {MT_TARGET_PRIMARY, true, true, false},
              {MT_TARGET_STANDBY, false, false, true},
              {MT_TARGET_PREFER_STANDBY, false, false, true}};
  size_t i;
  (void)state;
  for (i = 0; i < sizeof rows / sizeof *rows; i++) {
    mt_target t = rows[i].target;
    assert_int_equal(!mt_target_problem(t, "off", "off"), rows[i].primary);
    assert_int_equal(!mt_target_problem(t, "off", "on"), rows[i].read_only);
    assert_int_equal(!mt_target_problem(t, "on", "off"), rows[i].standby);
    assert_int_equal(!mt_target_problem(t, NULL, NULL), t == MT_TARGET_ANY);
  }
}

static void endpoints_know_it(void **state) {
  mt_endpoint *ep = NULL, *other = NULL;
  mt_error *err = NULL;
  (void)state;
  assert_int_equal(
      mt_endpoint_parse("postgresql://u@a:1,b:2/d?target_session_attrs=standby",
                        &ep, NULL),
      MT_OK);
  assert_int_equal(ep->target, MT_TARGET_STANDBY);
  assert_string_equal(ep->server, "a:1,b:2 standby");
  assert_int_equal(mt_endpoint_with_database(ep, "e", &other, NULL), MT_OK);
  assert_int_equal(other->target, MT_TARGET_STANDBY);
  assert_string_equal(other->server, ep->server);
  mt_endpoint_unref(ep);
  mt_endpoint_unref(other);
  assert_int_equal(
      mt_endpoint_parse("host=a target_session_attrs=master", &ep, &err),
      MT_E_MISUSE);
  assert_non_null(strstr(err->message, "target_session_attrs must be"));
  mt_error_unref(err);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_are_libpqs),
      cmocka_unit_test(servers_are_told_apart),
      cmocka_unit_test(endpoints_know_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
