/* Which statements are prepared on a connection: pg/stmt_cache.c. */
#include <stdlib.h>
#include <string.h>

#include "pg/stmt_cache.h"
#include "support/test.h"

typedef struct use {
  mt_stmt_use how;
  const char *name;
  uint32_t evicted;
} use;

static use once(mt_stmt_cache *c, uint64_t key) {
  use u = {.how = MT_STMT_UNNAMED, .name = NULL, .evicted = 99};
  u.how = mt_stmt_cache_use(c, key, &u.name, &u.evicted);
  return u;
}

/* Two uses: the second one prepares. */
static use twice(mt_stmt_cache *c, uint64_t key) {
  assert_int_equal(once(c, key).how, MT_STMT_UNNAMED);
  return once(c, key);
}

static void expect_ready(mt_stmt_cache *c, uint64_t key, const char *name) {
  use u = once(c, key);
  assert_int_equal(u.how, MT_STMT_READY);
  assert_string_equal(u.name, name);
  assert_int_equal(u.evicted, 0);
}

static void second_use_prepares(void **state) {
  mt_stmt_cache c;
  use u;
  (void)state;
  mt_stmt_cache_init(&c, 10);
  u = once(&c, 7);
  assert_int_equal(u.how, MT_STMT_UNNAMED);
  assert_int_equal(u.evicted, 0);
  u = once(&c, 7);
  assert_int_equal(u.how, MT_STMT_PREPARE);
  assert_string_equal(u.name, "mt_1");
  assert_int_equal(u.evicted, 0);
  expect_ready(&c, 7, "mt_1");
  expect_ready(&c, 7, "mt_1");
  mt_stmt_cache_fini(&c);
}

static void key_is_scope_and_sql(void **state) {
  (void)state;
  assert_true(mt_stmt_key(1, 2) != mt_stmt_key(2, 1));
  assert_true(mt_stmt_key(0, UINT32_MAX) != mt_stmt_key(UINT32_MAX, 0));
  assert_true(mt_stmt_key(UINT32_MAX, UINT32_MAX) == UINT64_MAX);
}

static void scopes_do_not_share_a_statement(void **state) {
  mt_stmt_cache c;
  (void)state;
  mt_stmt_cache_init(&c, 10);
  assert_int_equal(twice(&c, mt_stmt_key(1, 5)).how, MT_STMT_PREPARE);
  assert_int_equal(once(&c, mt_stmt_key(2, 5)).how, MT_STMT_UNNAMED);
  assert_string_equal(once(&c, mt_stmt_key(2, 5)).name, "mt_2");
  expect_ready(&c, mt_stmt_key(1, 5), "mt_1");
  mt_stmt_cache_fini(&c);
}

static void without_cap_nothing_is_prepared(void **state) {
  mt_stmt_cache c;
  int i;
  (void)state;
  mt_stmt_cache_init(&c, 0);
  for (i = 0; i < 5; i++) assert_int_equal(once(&c, 1).how, MT_STMT_UNNAMED);
  assert_int_equal(mt_stmt_cache_drop(&c, 1), 0);
  mt_stmt_cache_fini(&c);
}

static void least_recently_used_one_is_handed_back(void **state) {
  mt_stmt_cache c;
  use u;
  (void)state;
  mt_stmt_cache_init(&c, 2);
  twice(&c, 1);
  twice(&c, 2);
  expect_ready(&c, 1, "mt_1"); /* 2 is the oldest now */
  u = twice(&c, 3);
  assert_int_equal(u.how, MT_STMT_PREPARE);
  assert_string_equal(u.name, "mt_3");
  assert_int_equal(u.evicted, 2);
  expect_ready(&c, 1, "mt_1");
  expect_ready(&c, 3, "mt_3");
  mt_stmt_cache_fini(&c);
}

static void numbers_count_up_and_are_never_reused(void **state) {
  mt_stmt_cache c;
  use u;
  (void)state;
  mt_stmt_cache_init(&c, 1);
  twice(&c, 1);
  assert_int_equal(twice(&c, 2).evicted, 1);
  u = once(&c, 1); /* it was seen before: prepared at once, anew */
  assert_int_equal(u.how, MT_STMT_PREPARE);
  assert_string_equal(u.name, "mt_3");
  assert_int_equal(u.evicted, 2);
  mt_stmt_cache_fini(&c);
}

static void dropped_statement_gets_a_new_name(void **state) {
  mt_stmt_cache c;
  use u;
  (void)state;
  mt_stmt_cache_init(&c, 10);
  twice(&c, 1);
  assert_int_equal(mt_stmt_cache_drop(&c, 1), 1);
  assert_int_equal(mt_stmt_cache_drop(&c, 1), 0);
  assert_int_equal(mt_stmt_cache_drop(&c, 42), 0);
  u = once(&c, 1);
  assert_int_equal(u.how, MT_STMT_PREPARE);
  assert_string_equal(u.name, "mt_2");
  mt_stmt_cache_fini(&c);
}

static void cap_holds_under_random_use(void **state) {
  mt_stmt_cache c;
  char alive[5000] = {0}; /* by number: prepared and not handed back */
  int i, n = 0;
  (void)state;
  mt_stmt_cache_init(&c, 8);
  srand(1);
  for (i = 0; i < 4000; i++) {
    uint64_t key = (uint64_t)(rand() % 20);
    use u = once(&c, key);
    if (u.how == MT_STMT_UNNAMED) continue;
    if (u.how == MT_STMT_PREPARE) {
      n++;
      assert_int_equal(atoi(u.name + 3), n);
      alive[n] = 1;
    }
    assert_true(alive[atoi(u.name + 3)]);
    if (u.evicted) {
      assert_true(alive[u.evicted]);
      alive[u.evicted] = 0;
    }
    assert_in_range(c.lru.len, 1, 8);
    assert_int_equal(c.lru.len, HASH_COUNT(c.table));
  }
  for (i = 1; i < 5000; i++) n -= !alive[i] && i <= (int)c.next_name;
  assert_int_equal(n, 8);
  mt_stmt_cache_fini(&c);
}

/* A filter of a fixed size may forget a first use, never invent one. */
static void many_keys_used_once_prepare_nothing(void **state) {
  mt_stmt_cache c;
  uint64_t key;
  (void)state;
  mt_stmt_cache_init(&c, 8);
  for (key = 1; key <= 5000; key++)
    assert_int_equal(once(&c, key).how, MT_STMT_UNNAMED);
  assert_int_equal(c.lru.len, 0);
  mt_stmt_cache_fini(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(second_use_prepares),
      cmocka_unit_test(key_is_scope_and_sql),
      cmocka_unit_test(scopes_do_not_share_a_statement),
      cmocka_unit_test(without_cap_nothing_is_prepared),
      cmocka_unit_test(least_recently_used_one_is_handed_back),
      cmocka_unit_test(numbers_count_up_and_are_never_reused),
      cmocka_unit_test(dropped_statement_gets_a_new_name),
      cmocka_unit_test(cap_holds_under_random_use),
      cmocka_unit_test(many_keys_used_once_prepare_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
