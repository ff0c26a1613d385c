/* The registry of tenants: who stays, who goes, and handles that outlive
 * their entries. */
#include <stdio.h>
#include <string.h>

#include "support/street.h"

/* Makes an entry (and uses it: it gets a route), keeps no handle. */
static void use(mt_house *h, const char *id) {
  mt_tenant *t = mt_house_tenant(h, id);
  mt_house_expect(h, t, "SELECT 1", "1");
  mt_tenant_unref(t);
}

/* The ids, oldest first. */
static const char *ids(mt_house *h) {
  static char text[256];
  const mt_tenant *t = NULL;
  size_t len = 0;
  text[0] = '\0';
  while ((t = mt_manager_next(h->m, t)))
    len += (size_t)snprintf(text + len, sizeof text - len, "%s ", t->id);
  return text;
}

static void id_has_one_entry(void **state) {
  mt_house h;
  mt_tenant *a, *same;
  (void)state;
  mt_street_prepare(&h);
  mt_house_open(&h);
  a = mt_house_tenant(&h, "a");
  same = mt_house_tenant(&h, "a");
  assert_ptr_equal(a, same);
  assert_ptr_equal(mt_manager_find(h.m, "a"), a);
  assert_null(mt_manager_find(h.m, "b"));
  assert_int_equal(mt_manager_count(h.m), 1);
  mt_tenant_unref(a);
  mt_tenant_unref(same);
  assert_int_equal(mt_manager_count(h.m), 1); /* the registry keeps it */
  mt_street_end(&h);
}

static void least_recently_used_entry_goes_first(void **state) {
  mt_house h;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_pools = 3;
  h.config.verify_schema = false;
  mt_house_open(&h);
  use(&h, "a");
  use(&h, "b");
  use(&h, "c");
  assert_string_equal(ids(&h), "a b c ");
  use(&h, "a");
  assert_string_equal(ids(&h), "b c a ");
  use(&h, "d");
  assert_string_equal(ids(&h), "c a d ");
  assert_non_null(strstr(h.events, "pool_evicted b lru_eviction;"));
  mt_street_end(&h);
}

static void entry_in_use_is_not_evicted(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked slow;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_pools = 2;
  h.config.verify_schema = false;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&slow, &h, t, "SELECT pg_sleep(0.2)");
  MT_RUN_UNTIL(h.r, mt_observer_running(&mt_street_eye, "pg_sleep") == 1);
  mt_test_run_for(h.r, 30);
  use(&h, "b");
  use(&h, "c");
  assert_string_equal(ids(&h), "a c "); /* b was older than nobody but idle */
  MT_RUN_UNTIL(h.r, slow.done);
  assert_int_equal(slow.code, MT_OK);
  use(&h, "d");
  assert_string_equal(ids(&h), "c d ");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void all_in_use_grows_beyond_the_limit(void **state) {
  mt_house h;
  mt_tenant *t[3];
  mt_asked a[3];
  int i;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_pools = 1;
  h.config.verify_schema = false;
  h.later = true;
  mt_house_open(&h);
  for (i = 0; i < 3; i++) {
    char id[2] = {(char)('a' + i), '\0'};
    t[i] = mt_house_tenant(&h, id);
    mt_ask(&a[i], &h, t[i], "SELECT 1");
  }
  assert_int_equal(mt_manager_count(h.m), 3);
  for (i = 0; i < 3; i++) mt_house_answer(&h, i);
  MT_RUN_UNTIL(h.r, a[0].done && a[1].done && a[2].done);
  for (i = 0; i < 3; i++) {
    assert_int_equal(a[i].code, MT_OK);
    mt_tenant_unref(t[i]);
  }
  mt_street_end(&h);
}

static void idle_entries_expire(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked slow;
  (void)state;
  mt_street_prepare(&h);
  h.config.pool_ttl_ms = 80;
  h.config.verify_schema = false;
  mt_house_open(&h);
  use(&h, "a");
  t = mt_house_tenant(&h, "b");
  mt_ask(&slow, &h, t, "SELECT pg_sleep(0.3)");
  MT_RUN_UNTIL(h.r, mt_manager_count(h.m) == 1);
  assert_string_equal(ids(&h), "b ");
  assert_non_null(strstr(h.events, "pool_evicted a ttl_expired;"));
  MT_RUN_UNTIL(h.r, slow.done);
  assert_int_equal(slow.code, MT_OK);
  MT_RUN_UNTIL(h.r, mt_manager_count(h.m) == 0);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void without_ttl_nothing_expires(void **state) {
  mt_house h;
  (void)state;
  mt_street_prepare(&h);
  h.config.pool_ttl_ms = 0;
  mt_house_open(&h);
  mt_tenant_unref(mt_house_tenant(&h, "a"));
  assert_int_equal(mt_reactor_live(h.r), 0);
  mt_test_run_for(h.r, 30);
  assert_int_equal(mt_manager_count(h.m), 1);
  mt_street_end(&h);
}

static void evicting_by_hand(void **state) {
  mt_house h;
  (void)state;
  mt_street_prepare(&h);
  mt_house_open(&h);
  use(&h, "a");
  assert_false(mt_manager_evict(h.m, "b", "manual"));
  assert_true(mt_manager_evict(h.m, "a", "manual"));
  assert_false(mt_manager_evict(h.m, "a", "manual"));
  assert_string_equal(h.events, "pool_created a;pool_evicted a manual;");
  assert_int_equal(mt_manager_count(h.m), 0);
  mt_street_end(&h);
}

static void stale_handle_finds_the_new_entry(void **state) {
  mt_house h;
  mt_tenant *old, *now;
  mt_caller c;
  (void)state;
  mt_street_prepare(&h);
  mt_house_open(&h);
  old = mt_house_tenant(&h, "a");
  mt_house_expect(&h, old, "SELECT name FROM items", "t_a");
  mt_manager_evict(h.m, "a", "manual");
  mt_house_expect(&h, old, "SELECT name FROM items", "t_a");
  assert_int_equal(h.asked, 2); /* routed afresh */
  now = mt_house_tenant(&h, "a");
  assert_ptr_not_equal(now, old);
  assert_int_equal(mt_caller_run(&c, &h, old), MT_OK);
  assert_int_equal(mt_manager_count(h.m), 1);
  mt_tenant_unref(old);
  mt_tenant_unref(now);
  mt_street_end(&h);
}

static void work_of_an_evicted_entry_is_finished(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a[3];
  int i;
  (void)state;
  mt_street_prepare(&h);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < 3; i++) mt_ask(&a[i], &h, t, "SELECT pg_sleep(0.02)");
  MT_RUN_UNTIL(h.r, mt_observer_running(&mt_street_eye, "pg_sleep") == 1);
  mt_manager_evict(h.m, "a", "manual");
  mt_tenant_unref(t);
  MT_RUN_UNTIL(h.r, a[0].done && a[1].done && a[2].done);
  for (i = 0; i < 3; i++) assert_int_equal(a[i].code, MT_OK);
  mt_street_end(&h);
}

/* Its last statement may end in the queue: nothing of it may be left. */
static void evicted_entry_that_times_out_is_freed(void **state) {
  mt_house h;
  mt_tenant *a, *b;
  mt_asked slow, waiting;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_connections = 1;
  h.config.acquire_timeout_ms = 80;
  h.config.verify_schema = false;
  mt_house_open(&h);
  a = mt_house_tenant(&h, "a");
  b = mt_house_tenant(&h, "b");
  mt_ask(&slow, &h, a, "SELECT pg_sleep(0.4)");
  MT_RUN_UNTIL(h.r, mt_observer_running(&mt_street_eye, "pg_sleep") == 1);
  mt_test_run_for(h.r, 30);
  mt_ask(&waiting, &h, b, "SELECT 1");
  mt_tenant_unref(b);
  mt_manager_evict(h.m, "b", "manual");
  MT_RUN_UNTIL(h.r, waiting.done);
  assert_int_equal(waiting.code, MT_E_POOL_EXHAUSTED);
  MT_RUN_UNTIL(h.r, slow.done);
  mt_tenant_unref(a);
  mt_street_end(&h); /* the leak checker has the last word */
}

static void dedicated_pools_are_closed_with_their_entry(void **state) {
  mt_house h;
  mt_pool_stats stats;
  int open;
  (void)state;
  mt_street_prepare(&h);
  h.config.dedicated = true;
  mt_house_open(&h);
  use(&h, "a");
  use(&h, "b");
  mt_manager_stats(h.m, &stats, &open);
  assert_int_equal(open, 2); /* nothing is shared */
  mt_manager_evict(h.m, "a", "manual");
  MT_RUN_UNTIL(h.r, mt_observer_backends(&mt_street_eye) == 1);
  use(&h, "b");
  mt_manager_evict(h.m, "b", "manual");
  mt_street_end(&h); /* in the middle of the close */
}

static void shared_pools_stay(void **state) {
  mt_house h;
  mt_pool_stats stats;
  int open;
  (void)state;
  mt_street_prepare(&h);
  mt_house_open(&h);
  use(&h, "a");
  use(&h, "b");
  mt_manager_evict(h.m, "a", "manual");
  mt_test_run_for(h.r, 20);
  mt_manager_stats(h.m, &stats, &open);
  assert_int_equal(open, 1);
  assert_int_equal(stats.requests, 2);
  mt_street_end(&h);
}

/* ---- hosts that act within events ------------------------------------------------- */

static void dispose_now(mt_house *h, const mt_event *ev) {
  if (strcmp(ev->kind, "pool_evicted") != 0) return;
  h->on_event = NULL;
  mt_manager_dispose(h->m, 0, NULL, NULL);
}

static void disposing_within_an_eviction(void **state) {
  mt_house h;
  mt_tenant *t = NULL;
  mt_error *err = NULL;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_pools = 2;
  h.config.verify_schema = false;
  mt_house_open(&h);
  use(&h, "a");
  use(&h, "b");
  h.on_event = dispose_now;
  assert_int_equal(mt_manager_tenant(h.m, "c", &t, &err), MT_E_DISPOSED);
  assert_null(t);
  mt_error_unref(err);
  assert_int_equal(mt_manager_count(h.m), 0);
  mt_street_end(&h);
}

static void evict_all_others(mt_house *h, const mt_event *ev) {
  if (strcmp(ev->kind, "pool_evicted") != 0) return;
  h->on_event = NULL;
  mt_manager_evict(h->m, "b", "manual");
  mt_manager_evict(h->m, "c", "manual");
}

static void evicting_within_an_eviction(void **state) {
  mt_house h;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_pools = 3;
  h.config.verify_schema = false;
  mt_house_open(&h);
  use(&h, "a");
  use(&h, "b");
  use(&h, "c");
  h.on_event = evict_all_others;
  use(&h, "d");
  assert_string_equal(ids(&h), "d ");
  mt_street_end(&h);
}

static void disposing_within_a_sweep(void **state) {
  mt_house h;
  (void)state;
  mt_street_prepare(&h);
  h.config.pool_ttl_ms = 40;
  h.config.verify_schema = false;
  mt_house_open(&h);
  use(&h, "a");
  use(&h, "b");
  use(&h, "c");
  h.on_event = dispose_now;
  MT_RUN_UNTIL(h.r, mt_manager_disposed(h.m));
  assert_int_equal(mt_manager_count(h.m), 0);
  mt_street_end(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(id_has_one_entry),
      cmocka_unit_test(least_recently_used_entry_goes_first),
      cmocka_unit_test(entry_in_use_is_not_evicted),
      cmocka_unit_test(all_in_use_grows_beyond_the_limit),
      cmocka_unit_test(idle_entries_expire),
      cmocka_unit_test(without_ttl_nothing_expires),
      cmocka_unit_test(evicting_by_hand),
      cmocka_unit_test(stale_handle_finds_the_new_entry),
      cmocka_unit_test(work_of_an_evicted_entry_is_finished),
      cmocka_unit_test(evicted_entry_that_times_out_is_freed),
      cmocka_unit_test(dedicated_pools_are_closed_with_their_entry),
      cmocka_unit_test(shared_pools_stay),
      cmocka_unit_test(disposing_within_an_eviction),
      cmocka_unit_test(evicting_within_an_eviction),
      cmocka_unit_test(disposing_within_a_sweep),
  };
  return cmocka_run_group_tests(tests, mt_street_start, mt_street_stop);
}
