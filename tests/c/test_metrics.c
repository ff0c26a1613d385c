/* base/metrics.c. */
#include "base/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rand.h"
#include "support/test.h"

static uint64_t at_most(const mt_hist *h, int k) {
  uint64_t n;
  mt_hist_upto(h, k, k, &n);
  return n;
}

static int in_bucket(double ms) {
  mt_hist *h = calloc(1, sizeof *h);
  int i, found = -1;
  mt_hist_add(h, ms);
  assert_int_equal(mt_hist_count(h), 1);
  for (i = 0; i < MT_HIST_BUCKETS; i++)
    if (h->buckets[i]) found = i;
  free(h);
  return found;
}

/* `le` says "at most": what is just there is in, what is beyond is not. */
static void bounds_are_exact(void **state) {
  mt_hist *h = calloc(1, sizeof *h);
  int k;
  (void)state;
  for (k = 0; k <= 34; k++) {
    double bound = ldexp(1, k);
    memset(h, 0, sizeof *h);
    mt_hist_add(h, bound / 1000);
    assert_int_equal(at_most(h, k), 1);
    mt_hist_add(h, (bound + 0.25) / 1000);
    assert_int_equal(at_most(h, k), 1);
    assert_int_equal(at_most(h, k + 1), 2);
  }
  free(h);
}

static void every_value_has_a_bucket(void **state) {
  double ms;
  int last = 0, i;
  (void)state;
  assert_int_equal(in_bucket(0), 0);
  assert_int_equal(in_bucket(-5), 0);
  assert_int_equal(in_bucket(NAN), 0);
  assert_int_equal(in_bucket(1e300), MT_HIST_BUCKETS - 1);
  assert_int_equal(in_bucket(INFINITY), MT_HIST_BUCKETS - 1);
  for (ms = 0.0001; ms < 1e8; ms *= 1.03) {
    i = in_bucket(ms);
    assert_true(i == last || i == last + 1 || ms < 0.01);
    last = i;
  }
  assert_int_equal(last, MT_HIST_BUCKETS - 1);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Counts to the unit, the sum to the nanosecond, quantiles to an eighth. */
static void agrees_with_the_values(void **state) {
  enum { N = 20000 };
  static const double qs[] = {0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
  double *ms = malloc(N * sizeof *ms), sum = 0;
  mt_hist *h = calloc(1, sizeof *h);
  mt_rand r;
  size_t i;
  int k;
  (void)state;
  mt_rand_seed(&r, 20260801);
  for (i = 0; i < N; i++) { /* microseconds to minutes */
    ms[i] = exp(mt_rand_unit(&r) * 18 - 7);
    sum += ms[i];
    mt_hist_add(h, ms[i]);
  }
  assert_int_equal(mt_hist_count(h), N);
  assert_true(fabs((double)h->sum_ns / 1e6 - sum) <= N * 1e-6);
  qsort(ms, N, sizeof *ms, by_size);
  for (k = 0; k <= 30; k++) {
    uint64_t n = 0;
    while (n < N && ms[n] * 1000 <= ldexp(1, k)) n++;
    assert_int_equal(at_most(h, k), n);
  }
  for (i = 0; i < sizeof qs / sizeof *qs; i++) {
    double is = ms[(size_t)(qs[i] * N + 0.5) - 1];
    double said = mt_hist_quantile_ms(h, qs[i]);
    assert_true(said >= is);
    assert_true(said <= is * 1.125 + 0.001);
  }
  free(h);
  free(ms);
}

static void an_empty_one_says_nothing(void **state) {
  mt_hist *h = calloc(1, sizeof *h);
  (void)state;
  assert_int_equal(mt_hist_count(h), 0);
  assert_true(mt_hist_quantile_ms(h, 0.5) == 0);
  assert_int_equal(at_most(h, 30), 0);
  free(h);
}

/* Of parts in any order the same as of the whole, bit by bit. */
static void merging_is_exact(void **state) {
  mt_hist *h = calloc(4, sizeof *h);
  mt_rand r;
  int i;
  (void)state;
  mt_rand_seed(&r, 7);
  for (i = 0; i < 5000; i++) {
    double ms = exp(mt_rand_unit(&r) * 12 - 6);
    mt_hist_add(&h[0], ms);
    mt_hist_add(&h[1 + i % 2], ms);
  }
  mt_hist_merge(&h[3], &h[2]);
  mt_hist_merge(&h[3], &h[1]);
  assert_memory_equal(&h[0], &h[3], sizeof *h);
  free(h);
}

static void tallies_add_up(void **state) {
  mt_tally *t = calloc(2, sizeof *t);
  (void)state;
  t[0].statements = 3;
  t[0].errors[-MT_E_QUERY] = 2;
  t[0].bytes_sent = 10;
  mt_hist_add(&t[0].query, 4);
  t[1] = t[0];
  t[1].leases = t[1].ambiguous = 1;
  t[1].bytes_received = 5;
  mt_hist_add(&t[1].wait, 1);
  mt_tally_merge(&t[0], &t[1]);
  assert_int_equal(t[0].statements, 6);
  assert_int_equal(t[0].errors[-MT_E_QUERY], 4);
  assert_int_equal(t[0].errors[-MT_E_TIMEOUT], 0);
  assert_int_equal(t[0].bytes_sent, 20);
  assert_int_equal(t[0].bytes_received, 5);
  assert_int_equal(t[0].leases, 1);
  assert_int_equal(t[0].ambiguous, 1);
  assert_int_equal(mt_hist_count(&t[0].query), 2);
  assert_int_equal(mt_hist_count(&t[0].wait), 1);
  free(t);
}

static void examples_stand_where_their_bucket_is(void **state) {
  mt_traffic *t = calloc(1, sizeof *t);
  char longest[MT_EXEMPLAR_LEN + 1];
  int i;
  (void)state;
  mt_traffic_exemplify(t, mt_span_of(0.064), 1, "acme"); /* le 64 us */
  assert_string_equal(t->slow[0].tenant, "acme");
  mt_traffic_exemplify(t, mt_span_of(0.065), 1, "globex");
  assert_string_equal(t->slow[1].tenant, "globex");
  mt_traffic_exemplify(t, mt_span_of(16777.216), 1,
                       "initech"); /* the last bound */
  assert_string_equal(t->slow[MT_LES - 1].tenant, "initech");
  mt_traffic_exemplify(t, mt_span_of(16777.3), 1, "umbrella");
  assert_string_equal(t->slow[MT_LES].tenant, "umbrella");
  assert_true(fabs(t->slow[MT_LES].ms - 16777.3) < 1e-6);
  /* once a second */
  mt_traffic_exemplify(t, mt_span_of(0.01), 900, "hooli");
  assert_string_equal(t->slow[0].tenant, "acme");
  mt_traffic_exemplify(t, mt_span_of(0.01), 1001, "hooli");
  assert_string_equal(t->slow[0].tenant, "hooli");
  /* what no label may be */
  memset(longest, 'x', sizeof longest - 1);
  longest[MT_EXEMPLAR_LEN] = '\0';
  mt_traffic_exemplify(t, mt_span_of(0.01), 5000, longest);
  assert_string_equal(t->slow[0].tenant, "hooli");
  longest[MT_EXEMPLAR_LEN - 1] = '\0';
  mt_traffic_exemplify(t, mt_span_of(0.01), 5000, longest);
  assert_string_equal(t->slow[0].tenant, longest);
  for (i = 2; i < MT_LES - 1; i++) assert_true(t->slow[i].at == 0);
  free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bounds_are_exact),
      cmocka_unit_test(every_value_has_a_bucket),
      cmocka_unit_test(agrees_with_the_values),
      cmocka_unit_test(an_empty_one_says_nothing),
      cmocka_unit_test(merging_is_exact),
      cmocka_unit_test(tallies_add_up),
      cmocka_unit_test(examples_stand_where_their_bucket_is),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
