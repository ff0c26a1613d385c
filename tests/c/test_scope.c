/* A tenant's scope: the path, the role and the texts that set them. */
#include <string.h>

#include "pg/scope.h"
#include "support/test.h"

static const char *const usual[] = {"$tenant", "public", NULL};

static mt_scope *scope(const char *schema, const char *const *path,
                       const char *role) {
  mt_scope *s = mt_scope_new(1, schema, path, role, true);
  assert_non_null(s);
  return s;
}

static void path_has_the_tenant_first_and_pg_temp_last(void **state) {
  mt_scope *s = scope("t_a", usual, NULL);
  (void)state;
  assert_string_equal(s->path, "\"t_a\",\"public\",pg_temp");
  assert_string_equal(s->set_local,
                      "SET LOCAL search_path = \"t_a\",\"public\",pg_temp");
  assert_string_equal(s->schema, "t_a");
  mt_scope_unref(s);
}

static void names_are_quoted(void **state) {
  mt_scope *s = scope("a\"; drop schema b; --", usual, "r\"x");
  (void)state;
  assert_string_equal(s->path,
                      "\"a\"\"; drop schema b; --\",\"public\",pg_temp");
  assert_string_equal(s->schema, "a\"; drop schema b; --");
  assert_string_equal(s->role, "r\"x"); /* a parameter: bare */
  assert_string_equal(s->local_role, "SET LOCAL ROLE \"r\"\"x\"");
  mt_scope_unref(s);
}

static void case_and_bytes_are_kept(void **state) {
  mt_scope *s = scope("Tenant \xc3\xa9,$x", usual, NULL);
  (void)state;
  assert_string_equal(s->path, "\"Tenant \xc3\xa9,$x\",\"public\",pg_temp");
  mt_scope_unref(s);
}

static void tenant_may_stand_anywhere_and_often(void **state) {
  static const char *const path[] = {"ext", "$tenant", "$tenant", NULL};
  mt_scope *s = scope("a", path, NULL);
  (void)state;
  assert_string_equal(s->path, "\"ext\",\"a\",\"a\",pg_temp");
  mt_scope_unref(s);
}

static void only_the_exact_word_is_the_placeholder(void **state) {
  static const char *const path[] = {"$tenantx", "x$tenant", NULL};
  mt_scope *s = scope("a", path, NULL);
  (void)state;
  assert_string_equal(s->path, "\"$tenantx\",\"x$tenant\",pg_temp");
  mt_scope_unref(s);
}

static void empty_path_is_pg_temp_alone(void **state) {
  static const char *const path[] = {NULL};
  mt_scope *s = scope("a", path, NULL);
  (void)state;
  assert_string_equal(s->path, "pg_temp");
  mt_scope_unref(s);
}

static void without_a_role_it_says_none(void **state) {
  mt_scope *s = scope("a", usual, NULL);
  (void)state;
  assert_string_equal(s->role, "none");
  assert_string_equal(s->local_role, "SET LOCAL ROLE NONE");
  mt_scope_unref(s);
}

static void with_a_role_it_says_the_role(void **state) {
  mt_scope *s = scope("a", usual, "t_reader");
  (void)state;
  assert_string_equal(s->role, "t_reader");
  assert_string_equal(s->local_role, "SET LOCAL ROLE \"t_reader\"");
  mt_scope_unref(s);
}

static void it_keeps_its_id_and_copies_its_names(void **state) {
  char schema[] = "a";
  mt_scope *s = mt_scope_new(77, schema, usual, NULL, false);
  (void)state;
  schema[0] = 'b';
  assert_int_equal(s->id, 77);
  assert_false(s->fence);
  assert_string_equal(s->schema, "a");
  assert_ptr_equal(mt_scope_ref(s), s);
  mt_scope_unref(s);
  assert_string_equal(s->schema, "a");
  mt_scope_unref(s);
  mt_scope_unref(NULL);
}

static void a_setting_is_quoted(void **state) {
  static const struct {
    const char *value, *text;
  } cases[] = {
      {"acme", "SET LOCAL app.tenant_id = 'acme'"},
      {"o'brien", "SET LOCAL app.tenant_id = 'o''brien'"},
      {"a\\'b", "SET LOCAL app.tenant_id = E'a\\\\''b'"},
  };
  size_t i;
  (void)state;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    mt_scope *s = scope("a", usual, NULL);
    assert_null(s->setting);
    assert_true(mt_scope_set_setting(s, "app.tenant_id", cases[i].value));
    assert_string_equal(s->setting, "app.tenant_id");
    assert_string_equal(s->setting_value, cases[i].value);
    assert_string_equal(s->local_setting, cases[i].text);
    mt_scope_unref(s);
  }
}

static mt_settings *settings_of(const char *const *pairs, bool read_only) {
  mt_settings *s = NULL;
  assert_true(mt_settings_new(pairs, read_only, &s));
  return s;
}

static void settings_are_sorted_and_quoted(void **state) {
  static const char *const pairs[] = {
      "work_mem", "5MB", "App.Who", "o'brien \"\\ {},", "jit", "off", NULL};
  mt_settings *s = settings_of(pairs, false);
  (void)state;
  assert_int_equal(s->n, 3);
  assert_string_equal(s->name_array, "{\"App.Who\",\"jit\",\"work_mem\"}");
  assert_string_equal(s->value_array,
                      "{\"o'brien \\\"\\\\ {},\",\"off\",\"5MB\"}");
  assert_string_equal(s->local[0],
                      "SET LOCAL \"app\".\"who\" = E'o''brien \"\\\\ {},'");
  assert_string_equal(s->local[1], "SET LOCAL \"jit\" = 'off'");
  assert_string_equal(s->local[2], "SET LOCAL \"work_mem\" = '5MB'");
  assert_string_equal(s->names[0], "app.who");
  assert_true(s->timeout_ms == 0);
  mt_settings_free(s);
}

static void no_settings_are_none(void **state) {
  static const char *const none[] = {NULL};
  (void)state;
  assert_null(settings_of(NULL, false));
  assert_null(settings_of(none, false));
  mt_settings_free(NULL);
}

static void a_reader_says_read_only_last(void **state) {
  static const char *const pairs[] = {"work_mem", "5MB", NULL};
  mt_settings *s = settings_of(pairs, true);
  (void)state;
  assert_int_equal(s->n, 2);
  assert_string_equal(s->names[1], "transaction_read_only");
  assert_string_equal(s->local[1],
                      "SET LOCAL \"transaction_read_only\" = 'on'");
  assert_string_equal(s->value_array, "{\"5MB\",\"on\"}");
  mt_settings_free(s);
}

static void a_time_limit_is_read_as_the_server_does(void **state) {
  static const struct {
    const char *text;
    double ms;
  } cases[] = {{"1500", 1500},  {"2s", 2000},    {"1.5 s", 1500},
               {"1min", 60000}, {"1h", 3600000}, {"1d", 86400000},
               {"5ms", 5},      {"0", 0}};
  static const char *const wrong[] = {"", "soon", "-1", "5 weeks", "1e99", "s"};
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(cases); i++) {
    const char *const pairs[] = {"Statement_Timeout", cases[i].text, NULL};
    mt_settings *s = settings_of(pairs, false);
    assert_null(mt_setting_problem(pairs[0], pairs[1]));
    assert_true(s->timeout_ms == cases[i].ms);
    mt_settings_free(s);
  }
  for (i = 0; i < MT_COUNT(wrong); i++)
    assert_non_null(mt_setting_problem("statement_timeout", wrong[i]));
}

static void what_the_scope_needs_is_refused(void **state) {
  static const char *const refused[] = {"search_path",
                                        "ROLE",
                                        "Session_Authorization",
                                        "client_encoding",
                                        "row_security",
                                        "seed",
                                        "transaction_read_only",
                                        "",
                                        "a b",
                                        "1a",
                                        "a.",
                                        ".a",
                                        "a..b",
                                        "a-b",
                                        "a\"b",
                                        "\xc3\xa9"};
  static const char *const taken[] = {"work_mem", "a.b", "A.b.c", "_x", "x$1"};
  char longest[65];
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(refused); i++)
    assert_non_null(mt_setting_problem(refused[i], "x"));
  for (i = 0; i < MT_COUNT(taken); i++)
    assert_null(mt_setting_problem(taken[i], ""));
  memset(longest, 'x', 64);
  longest[64] = '\0';
  assert_non_null(mt_setting_problem(longest, "x"));
  longest[63] = '\0';
  assert_null(mt_setting_problem(longest, "x"));
  assert_non_null(mt_setting_problem("a.b", "\xff"));
}

static void a_readers_scope_is_its_tenants(void **state) {
  static const char *const pairs[] = {"work_mem", "5MB", NULL};
  mt_scope *s = scope("t_a", usual, "r"), *r;
  (void)state;
  assert_true(mt_scope_set_settings(s, pairs, false));
  assert_true(mt_scope_set_setting(s, "app.tenant_id", "a"));
  s->oid = 77;
  r = mt_scope_reader(2, s);
  mt_scope_unref(s);
  assert_non_null(r);
  assert_int_equal(r->id, 2);
  assert_int_equal(r->oid, 77);
  assert_true(r->read_only && r->fence);
  assert_string_equal(r->path, "\"t_a\",\"public\",pg_temp");
  assert_string_equal(r->set_local,
                      "SET LOCAL search_path = \"t_a\",\"public\",pg_temp");
  assert_string_equal(r->local_role, "SET LOCAL ROLE \"r\"");
  assert_string_equal(r->setting_value, "a");
  assert_int_equal(r->settings->n, 2);
  mt_scope_unref(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(path_has_the_tenant_first_and_pg_temp_last),
      cmocka_unit_test(names_are_quoted),
      cmocka_unit_test(case_and_bytes_are_kept),
      cmocka_unit_test(tenant_may_stand_anywhere_and_often),
      cmocka_unit_test(only_the_exact_word_is_the_placeholder),
      cmocka_unit_test(empty_path_is_pg_temp_alone),
      cmocka_unit_test(without_a_role_it_says_none),
      cmocka_unit_test(with_a_role_it_says_the_role),
      cmocka_unit_test(a_setting_is_quoted),
      cmocka_unit_test(settings_are_sorted_and_quoted),
      cmocka_unit_test(no_settings_are_none),
      cmocka_unit_test(a_reader_says_read_only_last),
      cmocka_unit_test(a_time_limit_is_read_as_the_server_does),
      cmocka_unit_test(what_the_scope_needs_is_refused),
      cmocka_unit_test(a_readers_scope_is_its_tenants),
      cmocka_unit_test(it_keeps_its_id_and_copies_its_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
