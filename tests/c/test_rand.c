/* base/rand.c. */
#include "base/rand.h"

#include <string.h>

#include "support/test.h"

/* Reference output of Vigna's splitmix64.c for seed 1234567. */
static void matches_the_reference(void **state) {
  mt_rand r;
  (void)state;
  mt_rand_seed(&r, 1234567);
  assert_true(mt_rand_next(&r) == UINT64_C(6457827717110365317));
  assert_true(mt_rand_next(&r) == UINT64_C(3203168211198807973));
  assert_true(mt_rand_next(&r) == UINT64_C(9817491932198370423));
}

static void one_seed_one_sequence(void **state) {
  mt_rand a, b, c;
  (void)state;
  mt_rand_seed(&a, 7);
  mt_rand_seed(&b, 7);
  mt_rand_seed(&c, 8);
  assert_true(mt_rand_next(&a) == mt_rand_next(&b));
  assert_true(mt_rand_next(&a) != mt_rand_next(&c));
}

static void unit_stays_in_range_and_fills_it(void **state) {
  mt_rand r;
  double sum = 0, low = 1, high = 0;
  int i;
  (void)state;
  mt_rand_seed(&r, 0);
  for (i = 0; i < 100000; i++) {
    double u = mt_rand_unit(&r);
    assert_true(u >= 0 && u < 1);
    sum += u;
    if (u < low) low = u;
    if (u > high) high = u;
  }
  assert_true(sum > 49000 && sum < 51000);
  assert_true(low < 0.001 && high > 0.999);
}

static void the_hash_depends_on_bytes_and_seed(void **state) {
  (void)state;
  assert_true(mt_hash64("abc", 3, 1) == mt_hash64("abc", 3, 1));
  assert_true(mt_hash64("abc", 3, 1) != mt_hash64("abc", 3, 2));
  assert_true(mt_hash64("abc", 3, 1) != mt_hash64("abd", 3, 1));
  assert_true(mt_hash64("", 0, 1) != mt_hash64("\0", 1, 1));
}

/* Placement takes the highest bits or a remainder: both must spread. */
static void the_hash_spreads(void **state) {
  int by_low[8] = {0}, by_high[8] = {0}, i;
  (void)state;
  for (i = 0; i < 8000; i++) {
    uint64_t h = mt_hash64(&i, sizeof i, 0);
    by_low[h % 8]++;
    by_high[h >> 61]++;
  }
  for (i = 0; i < 8; i++) {
    assert_in_range(by_low[i], 850, 1150);
    assert_in_range(by_high[i], 850, 1150);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matches_the_reference),
      cmocka_unit_test(one_seed_one_sequence),
      cmocka_unit_test(unit_stays_in_range_and_fills_it),
      cmocka_unit_test(the_hash_depends_on_bytes_and_seed),
      cmocka_unit_test(the_hash_spreads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
