/* base/backoff.c. */
#include <limits.h>
#include <math.h>

#include "mtenant.h"
#include "support/test.h"

static const double almost_one = 0.999999;

static mt_retry_policy policy(mt_jitter jitter) {
  mt_retry_policy p = MT_RETRY_POLICY_DEFAULT;
  p.jitter = jitter;
  return p;
}

static void check(mt_jitter jitter, int attempt, double u, double previous,
                  double expected) {
  mt_retry_policy p = policy(jitter);
  assert_true(mt_backoff_delay(&p, attempt, u, previous) == expected);
}

static void doubles_up_to_the_cap(void **state) {
  static const double expected[] = {100, 200, 400, 800, 1600, 3200, 5000, 5000};
  int i;
  (void)state;
  for (i = 0; i < 8; i++) check(MT_JITTER_NONE, i, 0.5, 0, expected[i]);
  check(MT_JITTER_NONE, -1, 0.5, 0, 100);
}

static void seed_jitter_adds_up_to_a_quarter(void **state) {
  (void)state;
  check(MT_JITTER_SEED, 0, 0, 0, 100);
  check(MT_JITTER_SEED, 0, 0.5, 0, 112);
  check(MT_JITTER_SEED, 0, almost_one, 0, 124);
  check(MT_JITTER_SEED, 20, 0, 0, 5000);
  check(MT_JITTER_SEED, 20, almost_one, 0, 6249);
}

static void full_and_equal_stay_below_the_delay(void **state) {
  (void)state;
  check(MT_JITTER_FULL, 1, 0, 0, 0);
  check(MT_JITTER_FULL, 1, 0.5, 0, 100);
  check(MT_JITTER_FULL, 1, almost_one, 0, 199);
  check(MT_JITTER_EQUAL, 1, 0, 0, 100);
  check(MT_JITTER_EQUAL, 1, 0.5, 0, 150);
  check(MT_JITTER_EQUAL, 1, almost_one, 0, 199);
}

static void decorrelated_grows_from_the_last_delay(void **state) {
  (void)state;
  check(MT_JITTER_DECORRELATED, 0, 0, 0, 100);
  check(MT_JITTER_DECORRELATED, 0, 0.9, 0, 100);
  check(MT_JITTER_DECORRELATED, 1, 0, 100, 100);
  check(MT_JITTER_DECORRELATED, 1, 0.5, 100, 200);
  check(MT_JITTER_DECORRELATED, 9, almost_one, 4000, 5000);
  check(MT_JITTER_DECORRELATED, 9, 0.5, INFINITY, 5000);
  check(MT_JITTER_DECORRELATED, 9, 0.5, NAN, 100);
}

static void overflow_gives_the_cap(void **state) {
  mt_retry_policy p = policy(MT_JITTER_NONE);
  (void)state;
  assert_true(mt_backoff_delay(&p, INT_MAX, 0, 0) == 5000);
  p.multiplier = 1e300;
  assert_true(mt_backoff_delay(&p, 2, 0, 0) == 5000);
  p.initial_delay_ms = 0; /* 0 * inf */
  assert_true(mt_backoff_delay(&p, 2, 0, 0) == 5000);
  p.multiplier = NAN;
  assert_true(mt_backoff_delay(&p, 1, 0, 0) == 5000);
}

static void nothing_is_negative_or_endless(void **state) {
  mt_retry_policy p = policy(MT_JITTER_SEED);
  int jitter;
  (void)state;
  p.max_delay_ms = INFINITY;
  assert_true(mt_backoff_delay(&p, INT_MAX, 0.5, 0) == 9007199254740991.0);
  for (jitter = MT_JITTER_NONE; jitter <= MT_JITTER_DECORRELATED; jitter++) {
    p = policy((mt_jitter)jitter);
    p.initial_delay_ms = -100;
    assert_true(mt_backoff_delay(&p, 3, 0.5, -5) == 0);
    p = policy((mt_jitter)jitter);
    p.max_delay_ms = -1;
    assert_true(mt_backoff_delay(&p, 3, 0.5, 0) == 0);
    p.max_delay_ms = NAN;
    assert_true(mt_backoff_delay(&p, 3, 0.5, 0) == 0);
  }
}

static void the_result_is_whole_and_bounded(void **state) {
  int jitter, attempt, i;
  (void)state;
  for (jitter = MT_JITTER_NONE; jitter <= MT_JITTER_DECORRELATED; jitter++) {
    mt_retry_policy p = policy((mt_jitter)jitter);
    double top = p.max_delay_ms * (jitter == MT_JITTER_SEED ? 1.25 : 1);
    double previous = 0;
    p.initial_delay_ms = 33.3;
    p.multiplier = 1.7;
    for (attempt = 0; attempt < 40; attempt++) {
      for (i = 0; i < 16; i++) {
        double d = mt_backoff_delay(&p, attempt, i / 16.0, previous);
        assert_true(d >= 0 && d <= top && d == floor(d));
        previous = d;
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(doubles_up_to_the_cap),
      cmocka_unit_test(seed_jitter_adds_up_to_a_quarter),
      cmocka_unit_test(full_and_equal_stay_below_the_delay),
      cmocka_unit_test(decorrelated_grows_from_the_last_delay),
      cmocka_unit_test(overflow_gives_the_cap),
      cmocka_unit_test(nothing_is_negative_or_endless),
      cmocka_unit_test(the_result_is_whole_and_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
