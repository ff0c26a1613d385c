/* Route options of the C API, and readers: entries beside a tenant's own. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "support/street.h"

static const char *const pairs[] = {"work_mem", "5MB", "app.x", "y", NULL};
static mt_route_options options;

/* Answers with the options above, as a host would. */
static void resolve(mt_manager *m, const char *id, uint64_t token, void *data) {
  char schema[80];
  mt_route route = {.schema = schema};
  ((mt_house *)data)->asked++;
  snprintf(schema, sizeof schema, "t_%s", id);
  mt_manager_resolved_with(m, token, &route, &options, NULL);
}

static void start(mt_house *h) {
  mt_street_prepare(h);
  options = (mt_route_options){.size = sizeof options, .settings = pairs};
  h->cbs.resolve = resolve;
  mt_house_open(h);
}

static mt_tenant *reader_of(mt_tenant *t) {
  mt_tenant *r = NULL;
  mt_error *err = NULL;
  if (mt_tenant_reader(t, NULL, &r, &err) != MT_OK)
    fail_msg("%s", err->message);
  return r;
}

static int failure(mt_house *h, mt_tenant *t, const char *sql, mt_asked *a) {
  mt_ask(a, h, t, sql);
  MT_RUN_UNTIL(h->r, a->done);
  return a->code;
}

static void settings_come_with_the_route(void **state) {
  mt_house h;
  mt_tenant *t;
  int i;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < 3; i++) {
    mt_house_expect(&h, t, "SELECT current_setting('work_mem')", "5MB");
    mt_house_expect(&h, t, "SELECT current_setting('app.x')", "y");
    mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  }
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void wrong_options_are_refused(void **state) {
  static const char *const path[] = {"Search_Path", "x", NULL};
  static const char *const twice[] = {"jit", "on", "JIT", "off", NULL};
  static const mt_route_options wrong[] = {
      {.settings = path},  {.settings = twice},       {.pool_max = -1},
      {.max_waiting = -1}, {.mode = (mt_pool_mode)9},
  };
  static const char *const field[] = {
      "route.settings.Search_Path", "route.settings.jit", "route.pool.max",
      "route.pool.max_waiting", "route.pool.mode"};
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  size_t i;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < MT_COUNT(wrong); i++) {
    options = wrong[i];
    options.size = sizeof options;
    assert_int_equal(failure(&h, t, "SELECT 1", &a), MT_E_POLICY);
    assert_non_null(strstr(a.message, field[i]));
    assert_null(mt_tenant_schema(t));
  }
  assert_int_equal(mt_observer_backends(&mt_street_eye), 0); /* no I/O yet */
  options.size = offsetof(mt_route_options, pool_max); /* an older host's */
  options.settings = NULL;
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void the_server_refuses_a_setting(void **state) {
  static const char *const bad[] = {"work_mem", "banana", NULL};
  static const char *const alike[] = {"jit", "on", "jit_above_cost", "x", NULL};
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  mt_pool_stats stats;
  int open, i;
  (void)state;
  start(&h);
  options.settings = bad;
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < 2; i++) {
    assert_int_equal(failure(&h, t, "DELETE FROM items", &a), MT_E_POLICY);
    assert_non_null(strstr(a.message, "route.settings.work_mem"));
    assert_string_equal(a.sqlstate, "22023");
    assert_false(a.ambiguous || a.retryable);
  }
  mt_manager_stats(h.m, &stats, &open);
  assert_int_equal(stats.opened, 1);
  assert_int_equal(stats.retired, 0);
  options.settings = alike;
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  assert_int_equal(failure(&h, t, "SELECT 1", &a), MT_E_POLICY);
  assert_non_null(strstr(a.message, "route.settings.jit_above_cost: "));
  options.settings = NULL;
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void a_reader_reads_and_does_not_write(void **state) {
  mt_house h;
  mt_tenant *t, *r;
  mt_asked a;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  r = reader_of(t);
  mt_house_expect(&h, r, "SELECT name FROM items", "t_a");
  mt_house_expect(&h, r, "SELECT current_setting('work_mem')", "5MB");
  assert_int_equal(failure(&h, r, "DELETE FROM items", &a), MT_E_QUERY);
  assert_string_equal(a.sqlstate, "25006");
  assert_int_equal(mt_manager_count(h.m), 1);
  assert_string_equal(h.events, "pool_created a;");
  mt_tenant_unref(r);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void a_reader_goes_with_its_tenant(void **state) {
  mt_house h;
  mt_tenant *t, *r, *again;
  mt_asked a, slow;
  mt_error *err = NULL;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_tenant_reader(t, NULL, &r, &err), MT_E_CONNECTION_LOST);
  mt_error_unref(err); /* its route is not known */
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  r = reader_of(t);
  again = reader_of(t);
  assert_ptr_equal(r, again);
  mt_tenant_unref(again);
  mt_ask(&slow, &h, r, "SELECT 'late' FROM pg_sleep(0.1)");
  assert_false(mt_manager_quiet(h.m, "a"));
  assert_true(mt_tenant_busy(t));
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  memset(&a, 0, sizeof a);
  err = NULL;
  assert_int_equal(mt_tenant_query(r, "SELECT 1", 0, NULL, 0, NULL, NULL, &err),
                   MT_E_CONNECTION_LOST);
  assert_true(err->retryable && !err->ambiguous);
  mt_error_unref(err);
  MT_RUN_UNTIL(h.r, slow.done);
  assert_string_equal(slow.text, "late");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_tenant_unref(r);
  r = reader_of(t);
  mt_house_expect(&h, r, "SELECT name FROM items", "t_a");
  assert_int_equal(mt_manager_pause(h.m, "a", NULL), MT_OK);
  err = NULL;
  assert_int_equal(mt_tenant_query(r, "SELECT 1", 0, NULL, 0, NULL, NULL, &err),
                   MT_E_CONNECTION_LOST);
  mt_error_unref(err);
  assert_true(mt_manager_resume(h.m, "a"));
  mt_house_expect(&h, r, "SELECT name FROM items", "t_a");
  mt_house_dispose(&h);
  err = NULL;
  assert_int_equal(mt_tenant_query(r, "SELECT 1", 0, NULL, 0, NULL, NULL, &err),
                   MT_E_DISPOSED);
  mt_error_unref(err);
  mt_tenant_unref(r);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void what_it_may_have_written_is_not_forgotten(void **state) {
  mt_house h;
  mt_tenant *t, *r, *now;
  mt_asked slow;
  uint64_t before, read, written;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  before = mt_tenant_written(t);
  r = reader_of(t);
  mt_house_expect(&h, r, "SELECT name FROM items", "t_a");
  read = mt_tenant_written(t);
  assert_true(read == before); /* reading is not writing */
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  assert_true(mt_tenant_written(t) > before);
  /* what an evicted entry still ends, counts for the new one */
  mt_ask(&slow, &h, t, "SELECT pg_sleep(0.1)");
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  now = mt_house_tenant(&h, "a");
  mt_house_expect(&h, now, "SELECT name FROM items", "t_a");
  before = mt_tenant_written(now);
  written = mt_reactor_tick(h.r);
  MT_RUN_UNTIL(h.r, slow.done);
  assert_true(mt_tenant_written(now) > written && written > before);
  mt_tenant_unref(r);
  mt_tenant_unref(t); /* the old entry goes */
  mt_test_run_for(h.r, 5);
  assert_true(mt_tenant_written(now) > written);
  mt_tenant_unref(now);
  mt_street_end(&h);
}

typedef struct told {
  int times;
  uint64_t statements;
} told;

static void note_tally(void *data, const char *id, const mt_tally *tally) {
  told *a = data;
  if (!id || strcmp(id, "a") != 0) return;
  a->times++;
  a->statements += tally->statements;
}

/* Whoever of the two is the first to be one of those that do most. */
static void a_reader_counts_where_its_tenant_does(void **state) {
  mt_house h;
  mt_tenant *t, *r, *others[2];
  told a = {0};
  int i;
  (void)state;
  mt_observer_schema(&mt_street_eye, "t_c");
  mt_street_prepare(&h);
  h.config.metrics_tenants = 2;
  mt_house_open(&h);
  others[0] = mt_house_tenant(&h, "b");
  others[1] = mt_house_tenant(&h, "c");
  for (i = 0; i < 2; i++) mt_house_expect(&h, others[i], "SELECT 1", "1");
  t = mt_house_tenant(&h, "a"); /* both places are taken */
  mt_house_expect(&h, t, "SELECT 1", "1");
  r = reader_of(t);
  for (i = 0; i < 40; i++) mt_house_expect(&h, t, "SELECT 1", "1");
  for (i = 0; i < 80; i++) mt_house_expect(&h, r, "SELECT 1", "1");
  mt_manager_each_tally(h.m, note_tally, &a);
  assert_int_equal(a.times, 1);
  assert_true(a.statements > 60); /* not from the first on */
  mt_tenant_unref(r);
  mt_tenant_unref(t);
  for (i = 0; i < 2; i++) mt_tenant_unref(others[i]);
  mt_street_end(&h);
}

static void limits_are_the_tenants_own(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a[3];
  mt_error *err = NULL;
  int i;
  (void)state;
  start(&h);
  options.pool_max = 1;
  options.max_waiting = 2;
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  for (i = 0; i < 3; i++) mt_ask(&a[i], &h, t, "SELECT pg_sleep(0.05)");
  assert_int_equal(mt_tenant_query(t, "SELECT 1", 0, NULL, 0, NULL, NULL, &err),
                   MT_E_POOL_EXHAUSTED);
  mt_error_unref(err);
  MT_RUN_UNTIL(h.r, a[0].done && a[1].done && a[2].done);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(settings_come_with_the_route),
      cmocka_unit_test(wrong_options_are_refused),
      cmocka_unit_test(the_server_refuses_a_setting),
      cmocka_unit_test(a_reader_reads_and_does_not_write),
      cmocka_unit_test(a_reader_goes_with_its_tenant),
      cmocka_unit_test(what_it_may_have_written_is_not_forgotten),
      cmocka_unit_test(a_reader_counts_where_its_tenant_does),
      cmocka_unit_test(limits_are_the_tenants_own),
  };
  return cmocka_run_group_tests(tests, mt_street_start, mt_street_stop);
}
