/* Interning of SQL texts in pg/sql.c: ids, counts, bounds. */
#include <stdio.h>
#include <string.h>

#include "pg/sql.h"
#include "support/test.h"

static mt_sql *intern(mt_sql_table *t, const char *sql) {
  mt_sql *s = mt_sql_intern(t, sql, strlen(sql));
  assert_non_null(s);
  return s;
}

/* Interns and lets go at once; the id tells a new text from a kept one. */
static uint32_t id_of(mt_sql_table *t, const char *sql) {
  mt_sql *s = intern(t, sql);
  uint32_t id = s->id;
  mt_sql_unref(s);
  return id;
}

static void equal_texts_are_one(void **state) {
  mt_sql_table *t = mt_sql_table_new(10, 1000);
  char again[] = "SELECT 1";
  mt_sql *a = intern(t, "SELECT 1"), *b = intern(t, again);
  (void)state;
  assert_ptr_equal(a, b);
  assert_int_equal(a->refs, 3); /* two of ours, the table's */
  assert_string_equal(a->text, "SELECT 1");
  assert_int_equal(a->len, 8);
  assert_ptr_not_equal(a->text, again);
  mt_sql_unref(a);
  mt_sql_unref(b);
  mt_sql_table_free(t);
}

static void texts_differ_by_every_byte(void **state) {
  mt_sql_table *t = mt_sql_table_new(10, 1000);
  uint32_t lower = id_of(t, "select 1"), upper = id_of(t, "SELECT 1"),
           blank = id_of(t, "select 1 ");
  (void)state;
  assert_int_not_equal(lower, upper);
  assert_int_not_equal(lower, blank);
  assert_int_equal(id_of(t, "select 1"), lower);
  mt_sql_table_free(t);
}

static void only_the_given_length_counts(void **state) {
  mt_sql_table *t = mt_sql_table_new(10, 1000);
  mt_sql *s = mt_sql_intern(t, "SELECT 12", 8);
  (void)state;
  assert_string_equal(s->text, "SELECT 1");
  assert_int_equal(id_of(t, "SELECT 1"), s->id);
  mt_sql_unref(s);
  mt_sql_table_free(t);
}

static void text_is_classified_once_and_for_all(void **state) {
  mt_sql_table *t = mt_sql_table_new(10, 1000);
  mt_sql *s = intern(t, "BEGIN");
  (void)state;
  assert_int_equal(s->info.cls, MT_SQL_CONTROL);
  assert_string_equal(s->info.control, "BEGIN");
  mt_sql_unref(s);
  s = intern(t, "");
  assert_int_equal(s->info.cls, MT_SQL_EMPTY);
  assert_int_equal(s->len, 0);
  mt_sql_unref(s);
  mt_sql_table_free(t);
}

static void ids_start_at_one_and_are_never_reused(void **state) {
  mt_sql_table *t = mt_sql_table_new(1, 1000);
  (void)state;
  assert_int_equal(id_of(t, "a"), 1);
  assert_int_equal(id_of(t, "b"), 2); /* pushes "a" out */
  assert_int_equal(id_of(t, "a"), 3); /* another text under another id */
  assert_int_equal(id_of(t, "a"), 3);
  mt_sql_table_free(t);
}

static void least_recently_used_text_leaves_first(void **state) {
  mt_sql_table *t = mt_sql_table_new(3, 1000);
  uint32_t a = id_of(t, "a"), b = id_of(t, "b"), c = id_of(t, "c");
  (void)state;
  assert_int_equal(id_of(t, "a"), a); /* "b" is the oldest now */
  id_of(t, "d");
  assert_int_equal(id_of(t, "a"), a);
  assert_int_equal(id_of(t, "c"), c);
  assert_int_not_equal(id_of(t, "b"), b);
  mt_sql_table_free(t);
}

static void bytes_are_bounded(void **state) {
  mt_sql_table *t = mt_sql_table_new(100, 20);
  uint32_t a = id_of(t, "0123456789"), b = id_of(t, "9876543210");
  (void)state;
  assert_int_equal(id_of(t, "0123456789"), a); /* both fit exactly */
  assert_int_equal(id_of(t, "9876543210"), b);
  id_of(t, "x");
  assert_int_not_equal(id_of(t, "0123456789"), a);
  mt_sql_table_free(t);
}

static void text_larger_than_the_bound_is_served(void **state) {
  mt_sql_table *t = mt_sql_table_new(100, 10);
  uint32_t small = id_of(t, "a"), large;
  (void)state;
  large = id_of(t, "0123456789 0123456789");
  /* it pushed out all others, and stays until the next one comes */
  assert_int_equal(id_of(t, "0123456789 0123456789"), large);
  assert_int_not_equal(id_of(t, "a"), small);
  assert_int_not_equal(id_of(t, "0123456789 0123456789"), large);
  mt_sql_table_free(t);
}

static void evicted_text_lives_while_it_is_held(void **state) {
  mt_sql_table *t = mt_sql_table_new(1, 1000);
  mt_sql *a = intern(t, "a");
  (void)state;
  assert_ptr_equal(a->table, t);
  id_of(t, "b");
  assert_null(a->table);
  assert_int_equal(a->refs, 1);
  assert_string_equal(a->text, "a");
  mt_sql_unref(a);
  mt_sql_table_free(t);
}

static void text_outlives_its_table(void **state) {
  mt_sql_table *t = mt_sql_table_new(10, 1000);
  mt_sql *a = intern(t, "a"), *same = mt_sql_ref(a);
  (void)state;
  mt_sql_table_free(t);
  assert_null(a->table);
  assert_string_equal(same->text, "a");
  mt_sql_unref(a);
  mt_sql_unref(same);
  mt_sql_unref(NULL);
  mt_sql_table_free(NULL);
}

static void thousands_of_texts_stay_within_bounds(void **state) {
  mt_sql_table *t = mt_sql_table_new(64, 100000);
  char text[64];
  uint32_t ids[5000];
  int i;
  (void)state;
  for (i = 0; i < 5000; i++) {
    snprintf(text, sizeof text, "SELECT %d", i);
    ids[i] = id_of(t, text);
    assert_int_equal(ids[i], i + 1);
  }
  for (i = 4999; i >= 4936; i--) { /* the 64 youngest, which stay in order */
    snprintf(text, sizeof text, "SELECT %d", i);
    assert_int_equal(id_of(t, text), ids[i]);
  }
  assert_int_not_equal(id_of(t, "SELECT 4935"), ids[4935]);
  mt_sql_table_free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equal_texts_are_one),
      cmocka_unit_test(texts_differ_by_every_byte),
      cmocka_unit_test(only_the_given_length_counts),
      cmocka_unit_test(text_is_classified_once_and_for_all),
      cmocka_unit_test(ids_start_at_one_and_are_never_reused),
      cmocka_unit_test(least_recently_used_text_leaves_first),
      cmocka_unit_test(bytes_are_bounded),
      cmocka_unit_test(text_larger_than_the_bound_is_served),
      cmocka_unit_test(evicted_text_lives_while_it_is_held),
      cmocka_unit_test(text_outlives_its_table),
      cmocka_unit_test(thousands_of_texts_stay_within_bounds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
