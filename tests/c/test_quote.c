/* pg/quote.c. */
#include "pg/quote.h"

#include <string.h>

#include "base/alloc.h"
#include "support/test.h"

static void check_ident(const char *s, const char *expected) {
  char *q = mt_quote_ident(s, strlen(s));
  assert_string_equal(q, expected);
  mt_free(q);
}

static void check_literal(const char *s, const char *expected) {
  char *q = mt_quote_literal(s, strlen(s));
  assert_string_equal(q, expected);
  mt_free(q);
}

static void identifiers(void **state) {
  (void)state;
  check_ident("acme", "\"acme\"");
  check_ident("", "\"\"");
  check_ident("A b", "\"A b\"");
  check_ident("a\"b", "\"a\"\"b\"");
  check_ident("\"\"", "\"\"\"\"\"\"");
  check_ident("a'b\\c", "\"a'b\\c\"");
  check_ident("a\"; drop schema x; --", "\"a\"\"; drop schema x; --\"");
  check_ident("\xC3\xA9", "\"\xC3\xA9\"");
}

static void literals(void **state) {
  (void)state;
  check_literal("acme", "'acme'");
  check_literal("", "''");
  check_literal("a'b", "'a''b'");
  check_literal("a\"b", "'a\"b'");
  check_literal("a\\b", "E'a\\\\b'");
  check_literal("\\'", "E'\\\\'''");
}

static void check_escaped(const char *s, char quote, const char *expected) {
  char *q = mt_quote_escaped(s, quote);
  assert_string_equal(q, expected);
  mt_free(q);
}

static void backslashes_escape(void **state) {
  (void)state;
  check_escaped("", '"', "\"\"");
  check_escaped("a'b", '"', "\"a'b\"");
  check_escaped("a\"b\\", '"', "\"a\\\"b\\\\\"");
  check_escaped("a\"b", '\'', "'a\"b'");
  check_escaped("it's \\", '\'', "'it\\'s \\\\'");
}

static void the_length_counts_not_the_nul(void **state) {
  char *q = mt_quote_ident("abcdef", 3);
  (void)state;
  assert_string_equal(q, "\"abc\"");
  mt_free(q);
}

static void utf8(void **state) {
  static const char *const good[] = {
      "",
      "plain",
      "\x7F",
      "\xC2\x80",
      "\xDF\xBF",
      "\xE0\xA0\x80",
      "\xED\x9F\xBF",
      "\xEE\x80\x80",
      "\xEF\xBF\xBF",
      "\xF0\x90\x80\x80",
      "\xF4\x8F\xBF\xBF",
      "a\xE2\x82\xAC_",
  };
  static const char *const bad[] = {
      "\x80",             /* stray continuation */
      "\xBF",             /**/
      "\xC0\x80",         /* overlong NUL */
      "\xC1\xBF",         /* overlong */
      "\xE0\x9F\xBF",     /* overlong */
      "\xF0\x8F\xBF\xBF", /* overlong */
      "\xED\xA0\x80",     /* surrogate */
      "\xED\xBF\xBF",     /* surrogate */
      "\xF4\x90\x80\x80", /* above U+10FFFF */
      "\xF5\x80\x80\x80", /**/
      "\xFF",             /**/
      "\xC3",             /* cut */
      "\xE2\x82",         /* cut */
      "\xF0\x90\x80",     /* cut */
      "\xC3(",            /* no continuation */
      "\xE2\x82(",        /**/
      "\xE2(\x82",        /**/
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(good); i++)
    assert_true(mt_utf8_valid(good[i], strlen(good[i])));
  for (i = 0; i < MT_COUNT(bad); i++)
    assert_false(mt_utf8_valid(bad[i], strlen(bad[i])));
  assert_false(mt_utf8_valid("a\0b", 3));
}

static void schema_names(void **state) {
  static const char *const good[] = {
      "t_acme", "public", "PG_x", "pgx", "a", "a b", "a\"b",
      "information_schemas", "\xC3\xA9",
      /* 63 bytes */
      "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
  static const char *const bad[] = {
      "", "pg_", "pg_temp", "pg_catalog", "information_schema", "\xFF",
      /* 64 bytes */
      "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(good); i++)
    assert_null(mt_schema_name_problem(good[i], strlen(good[i])));
  for (i = 0; i < MT_COUNT(bad); i++)
    assert_non_null(mt_schema_name_problem(bad[i], strlen(bad[i])));
  assert_non_null(mt_schema_name_problem("a\0b", 3));
}

static void databases_of_the_server_are_no_tenants(void **state) {
  static const char *const bad[] = {"", "postgres", "template0", "template1",
                                    "\xff"};
  static const char *const good[] = {"public", "pg_x", "Postgres", "template",
                                     "a b\"c"};
  size_t i;
  (void)state;
  for (i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_non_null(mt_database_name_problem(bad[i], strlen(bad[i])));
  for (i = 0; i < sizeof good / sizeof *good; i++)
    assert_null(mt_database_name_problem(good[i], strlen(good[i])));
  assert_non_null(mt_database_name_problem("postgres\0x", 10));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(identifiers),
      cmocka_unit_test(literals),
      cmocka_unit_test(backslashes_escape),
      cmocka_unit_test(the_length_counts_not_the_nul),
      cmocka_unit_test(utf8),
      cmocka_unit_test(schema_names),
      cmocka_unit_test(databases_of_the_server_are_no_tenants),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
