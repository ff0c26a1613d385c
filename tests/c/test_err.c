/* base/err.c: codes, error objects, SQLSTATE and errno. */
#include "base/err.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "support/test.h"

static void names_and_codes_agree(void **state) {
  int code;
  (void)state;
  for (code = -1; code > -MT__ORD_COUNT; code--)
    assert_int_equal(mt_code_from_name(mt_code_name(code)), code);
  assert_string_equal(mt_code_name(MT_E_BREAKER_OPEN), "breaker_open");
  assert_string_equal(mt_code_name(MT_OK), "ok");
  assert_string_equal(mt_code_name(1), "unknown");
  assert_string_equal(mt_code_name(-MT__ORD_COUNT), "unknown");
  assert_string_equal(mt_code_name(INT32_MIN), "unknown");
  assert_int_equal(mt_code_from_name("ok"), 0);
  assert_int_equal(mt_code_from_name("nonsense"), 0);
  assert_int_equal(MT_E_REFUSED, -1);
}

static void a_new_error_is_one_line(void **state) {
  mt_error *e = mt_error_new(MT_E_QUERY, "a %s\nb\r\n%d\n\n", "x", 7);
  (void)state;
  assert_string_equal(e->message, "a x b  7");
  assert_int_equal(e->code, MT_E_QUERY);
  assert_int_equal(e->refs, 1);
  assert_false(e->retryable);
  assert_false(e->ambiguous);
  assert_string_equal(e->sqlstate, "");
  assert_null(e->detail);
  mt_error_unref(e);
  mt_error_unref(NULL);
}

static void retryable_starts_as_the_codes_own(void **state) {
  mt_error *e = mt_error_new(MT_E_REFUSED, "x");
  (void)state;
  assert_true(e->retryable);
  mt_error_unref(e);
}

static void references_are_counted(void **state) {
  mt_error *e = mt_error_new(MT_E_DNS, "x");
  (void)state;
  assert_ptr_equal(mt_error_ref(e), e);
  mt_error_unref(e);
  assert_string_equal(e->message, "x");
  mt_error_unref(e);
}

static void a_copy_has_its_own_texts(void **state) {
  mt_error *e = mt_error_new(MT_E_QUERY, "100%%"), *copy;
  (void)state;
  mt_error_set_detail(e, "d");
  mt_error_set_hint(e, "h");
  mt_error_set_server(e, "s:1");
  mt_error_set_statement(e, "select 1");
  strcpy(e->sqlstate, "42P01");
  strcpy(e->severity, "ERROR");
  e->position = 3;
  e->ambiguous = e->retryable = true;
  mt_error_ref(e);
  copy = mt_error_dup(e);
  mt_error_unref(e);
  mt_error_unref(e);
  assert_int_equal(copy->refs, 1);
  assert_string_equal(copy->message, "100%");
  assert_string_equal(copy->detail, "d");
  assert_string_equal(copy->hint, "h");
  assert_string_equal(copy->server, "s:1");
  assert_string_equal(copy->statement, "select 1");
  assert_string_equal(copy->sqlstate, "42P01");
  assert_string_equal(copy->severity, "ERROR");
  assert_int_equal(copy->position, 3);
  assert_true(copy->ambiguous && copy->retryable);
  mt_error_set_detail(copy, "other");
  mt_error_set_detail(copy, NULL);
  assert_string_equal(copy->detail, "other");
  mt_error_unref(copy);
}

static void the_oom_error_is_static(void **state) {
  mt_error *e = mt_error_oom();
  (void)state;
  assert_int_equal(e->code, MT_E_OUT_OF_MEMORY);
  assert_string_equal(e->message, "out of memory");
  mt_error_set_detail(e, "x");
  assert_null(e->detail);
  e->ambiguous = true;
  mt_error_unref(mt_error_ref(e));
  mt_error_unref(e);
  mt_error_unref(e);
  assert_false(mt_error_oom()->ambiguous);
  assert_string_equal(mt_error_oom()->message, "out of memory");
}

static void fail_stores_or_drops(void **state) {
  mt_error *e = NULL;
  (void)state;
  assert_int_equal(mt_fail(&e, mt_error_new(MT_E_TLS, "x")), MT_E_TLS);
  assert_string_equal(e->message, "x");
  mt_error_unref(e);
  assert_int_equal(mt_fail(NULL, mt_error_new(MT_E_TLS, "x")), MT_E_TLS);
}

static void check_statement(const char *sql, const char *expected) {
  mt_error *e = mt_error_new(MT_E_QUERY, "x");
  mt_error_set_statement(e, sql);
  assert_string_equal(e->statement, expected);
  mt_error_unref(e);
}

static void statements_are_folded_and_cut(void **state) {
  char sql[512], cut[512];
  (void)state;
  check_statement("", "");
  check_statement(" \n ", "");
  check_statement("\n select\t\n 1 \n", "select 1");
  memset(sql, 'x', 300);
  sql[300] = '\0';
  memset(cut, 'x', 200);
  cut[200] = '\0';
  check_statement(sql, cut);
  /* the character at 199 to 201 doesn't fit */
  memcpy(sql + 199, "\xE2\x82\xAC", 3);
  cut[199] = '\0';
  check_statement(sql, cut);
  /* one that ends at 200 does */
  memset(sql, 'x', 300);
  memcpy(sql + 197, "\xE2\x82\xAC", 3);
  memcpy(cut, sql, 200);
  cut[200] = '\0';
  check_statement(sql, cut);
  /* never valid, never out of bounds */
  memset(sql, 0x80, 300);
  check_statement(sql, "");
}

static void sqlstates(void **state) {
  static const struct {
    const char *sqlstate;
    int connect;
    bool connect_retry;
    int statement;
    bool statement_retry;
  } rows[] = {
      {"08000", MT_E_CONNECTION_LOST, true, MT_E_CONNECTION_LOST, false},
      {"08006", MT_E_CONNECTION_LOST, true, MT_E_CONNECTION_LOST, false},
      {"57P01", MT_E_CONNECTION_LOST, true, MT_E_CONNECTION_LOST, false},
      {"57P02", MT_E_CONNECTION_LOST, true, MT_E_CONNECTION_LOST, false},
      {"57P03", MT_E_STARTING_UP, true, MT_E_QUERY, false},
      {"57P04", MT_E_QUERY, false, MT_E_QUERY, false},
      {"53300", MT_E_TOO_MANY_CONNECTIONS, true, MT_E_QUERY, false},
      {"53400", MT_E_TOO_MANY_CONNECTIONS, true, MT_E_QUERY, false},
      {"53100", MT_E_QUERY, false, MT_E_QUERY, false},
      {"28000", MT_E_AUTH, false, MT_E_QUERY, false},
      {"28P01", MT_E_AUTH, false, MT_E_QUERY, false},
      {"3D000", MT_E_QUERY, false, MT_E_QUERY, false},
      {"42501", MT_E_QUERY, false, MT_E_QUERY, false},
      {"57014", MT_E_TIMEOUT, false, MT_E_CANCELLED, false},
      {"40001", MT_E_QUERY, false, MT_E_QUERY, true},
      {"40P01", MT_E_QUERY, false, MT_E_QUERY, true},
      {"55P03", MT_E_QUERY, false, MT_E_QUERY, false},
      {"23505", MT_E_QUERY, false, MT_E_QUERY, false},
      {"", MT_E_QUERY, false, MT_E_QUERY, false},
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(rows); i++) {
    const char *s = rows[i].sqlstate;
    bool retry = !rows[i].connect_retry;
    assert_int_equal(mt_code_from_sqlstate(s, MT_PHASE_CONNECT, &retry),
                     rows[i].connect);
    assert_int_equal(retry, rows[i].connect_retry);
    retry = !rows[i].statement_retry;
    assert_int_equal(mt_code_from_sqlstate(s, MT_PHASE_STATEMENT, &retry),
                     rows[i].statement);
    assert_int_equal(retry, rows[i].statement_retry);
  }
}

static void socket_errors(void **state) {
  static const struct {
    int errnum;
    bool is_unix;
    int code;
    bool retry;
  } rows[] = {
      {ECONNREFUSED, false, MT_E_REFUSED, true},
      {ECONNREFUSED, true, MT_E_REFUSED, true},
      {ENOENT, true, MT_E_REFUSED, true},
      {ENOENT, false, MT_E_UNREACHABLE, false},
      {EAGAIN, true, MT_E_REFUSED, true},
      {EAGAIN, false, MT_E_UNREACHABLE, false},
      {ETIMEDOUT, false, MT_E_UNREACHABLE, true},
      {EHOSTUNREACH, false, MT_E_UNREACHABLE, true},
      {ENETUNREACH, false, MT_E_UNREACHABLE, true},
      {ENETDOWN, false, MT_E_UNREACHABLE, true},
      {ECONNRESET, false, MT_E_CONNECTION_LOST, true},
      {ECONNABORTED, false, MT_E_CONNECTION_LOST, true},
      {EPIPE, true, MT_E_CONNECTION_LOST, true},
      {EACCES, true, MT_E_UNREACHABLE, false},
      {0, false, MT_E_UNREACHABLE, false},
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(rows); i++) {
    bool retry = !rows[i].retry;
    assert_int_equal(
        mt_code_from_errno(rows[i].errnum, rows[i].is_unix, &retry),
        rows[i].code);
    assert_int_equal(retry, rows[i].retry);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_and_codes_agree),
      cmocka_unit_test(a_new_error_is_one_line),
      cmocka_unit_test(retryable_starts_as_the_codes_own),
      cmocka_unit_test(references_are_counted),
      cmocka_unit_test(a_copy_has_its_own_texts),
      cmocka_unit_test(the_oom_error_is_static),
      cmocka_unit_test(fail_stores_or_drops),
      cmocka_unit_test(statements_are_folded_and_cut),
      cmocka_unit_test(sqlstates),
      cmocka_unit_test(socket_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
