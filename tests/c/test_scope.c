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
      cmocka_unit_test(it_keeps_its_id_and_copies_its_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
