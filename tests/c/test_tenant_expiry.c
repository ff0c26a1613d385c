/* How long routes hold: fresh, stale, outdated; and what is kept. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "support/street.h"

/* ---- the counting allocator (linked with --wrap=mt_realloc) ---------------- */

static long allocations;

void *__real_mt_realloc(void *p, size_t size);
void *__wrap_mt_realloc(void *p, size_t size);

void *__wrap_mt_realloc(void *p, size_t size) {
  allocations++;
  return __real_mt_realloc(p, size);
}

/* ---- the host ------------------------------------------------------------- */

/* What the resolver answers with next; the house's own has no limits. */
static struct {
  uint64_t tag;
  const char *schema;
  double fresh_ms, stale_ms;
  int asked;
} next;

static void resolve(mt_manager *m, const char *id, uint64_t token, void *data) {
  mt_route route = {.schema = next.schema};
  mt_route_options o = {.size = sizeof o,
                        .tag = next.tag,
                        .fresh_ms = next.fresh_ms,
                        .stale_ms = next.stale_ms};
  (void)id;
  (void)data;
  next.asked++;
  mt_manager_resolved_with(m, token, next.schema ? &route : NULL, &o, NULL);
}

static void start(mt_house *h) {
  mt_street_prepare(h);
  h->cbs.resolve = resolve;
  mt_house_open(h);
  next.tag = 1;
  next.schema = "t_a";
  next.fresh_ms = HUGE_VAL;
  next.stale_ms = 0;
  next.asked = 0;
}

/* As the binding does: the live entry first. */
static mt_tenant *live(mt_tenant *t) {
  mt_tenant *now = mt_tenant_live(t, NULL);
  assert_non_null(now);
  return now;
}

static void expect(mt_house *h, mt_tenant *t, const char *schema) {
  mt_house_expect(h, live(t), "SELECT current_schema()", schema);
}

static void stale_is_told_once(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  start(&h);
  next.fresh_ms = 30;
  next.stale_ms = 60000;
  t = mt_house_tenant(&h, "a");
  expect(&h, t, "t_a");
  assert_string_equal(h.events, "pool_created a;");
  mt_test_run_for(h.r, 40);
  expect(&h, t, "t_a");
  expect(&h, t, "t_a");
  assert_string_equal(h.events, "pool_created a;route_stale a;");
  assert_int_equal(next.asked, 1); /* it goes on */
  assert_ptr_equal(live(t), t);
  assert_true(mt_manager_renew(h.m, "a", 1, 30, 60000));
  expect(&h, t, "t_a");
  mt_test_run_for(h.r, 40);
  expect(&h, t, "t_a");
  assert_string_equal(h.events, "pool_created a;route_stale a;route_stale a;");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void another_tag_is_another_route(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  expect(&h, t, "t_a");
  assert_false(mt_manager_renew(h.m, "nobody", 1, 1, 1));
  mt_manager_outdate(h.m); /* mt_tenant_query looks, too */
  mt_house_expect(&h, t, "SELECT current_schema()", "t_a");
  assert_int_equal(next.asked, 2);
  next.tag = 2;
  next.schema = "t_b";
  assert_false(mt_manager_renew(h.m, "a", 2, HUGE_VAL, 0));
  expect(&h, t, "t_b");
  assert_string_equal(
      h.events, "pool_created a;pool_evicted a route_changed;pool_created a;");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void outdated_and_the_same(void **state) {
  mt_house h;
  mt_tenant *t, *now;
  mt_scope *scope;
  uint64_t verified;
  mt_caller c;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_OK);
  scope = t->scope;
  verified = t->verified;
  mt_manager_outdate(h.m);
  expect(&h, t, "t_a");
  assert_int_equal(next.asked, 2);
  now = live(t);
  assert_ptr_not_equal(now, t);
  assert_ptr_equal(now->scope, scope);
  assert_int_equal(now->verified, verified);
  assert_string_equal(h.events, "pool_created a;"); /* nobody hears of it */
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void outdated_and_gone(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  expect(&h, t, "t_a");
  next.schema = NULL;
  mt_manager_outdate(h.m);
  mt_ask(&a, &h, live(t), "SELECT 1");
  MT_RUN_UNTIL(h.r, a.done);
  assert_int_equal(a.code, MT_E_TENANT_NOT_FOUND);
  assert_string_equal(h.events, "pool_created a;pool_evicted a error;");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void what_is_under_way_drains(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked slow;
  (void)state;
  start(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&slow, &h, live(t), "SELECT current_schema() FROM pg_sleep(0.2)");
  mt_test_run_for(h.r, 50);
  next.tag = 2;
  next.schema = "t_b";
  mt_manager_outdate(h.m);
  expect(&h, t, "t_b");
  assert_int_equal(slow.done, 0);
  MT_RUN_UNTIL(h.r, slow.done);
  assert_string_equal(slow.text, "t_a");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void the_shared_handle_is_never_outdated(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  start(&h);
  assert_int_equal(mt_manager_shared(h.m, &t, NULL), MT_OK);
  mt_house_expect(&h, live(t), "SELECT 1", "1");
  mt_manager_outdate(h.m);
  assert_ptr_equal(live(t), t);
  mt_house_expect(&h, live(t), "SELECT 1", "1");
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void dedicated_pool_goes_on(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_pool *pool;
  (void)state;
  mt_street_prepare(&h);
  h.cbs.resolve = resolve;
  h.config.dedicated = true;
  mt_house_open(&h);
  next.tag = 1;
  next.schema = "t_a";
  next.fresh_ms = 30;
  t = mt_house_tenant(&h, "a");
  expect(&h, t, "t_a");
  pool = t->entry->pool;
  mt_test_run_for(h.r, 40);
  expect(&h, t, "t_a");
  assert_ptr_equal(live(t)->entry->pool, pool);
  assert_int_equal(mt_pool_get_stats(pool)->opened, 1);
  /* disposed while the next question is open */
  mt_test_run_for(h.r, 40);
  assert_int_equal(live(t)->state, MT_TENANT_NEW);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* The path of every statement: no allocation, and a few compares. */
static void warm_look_allocates_nothing(void **state) {
  enum { TIMES = 1000000 };
  mt_house h;
  mt_tenant *t;
  double from, took;
  long before;
  int i;
  (void)state;
  start(&h);
  next.fresh_ms = 60000;
  t = mt_house_tenant(&h, "a");
  expect(&h, t, "t_a");
  before = allocations;
  from = mt_reactor_now(h.r);
  for (i = 0; i < TIMES; i++) {
    mt_tenant *now = mt_tenant_live(t, NULL);
    if (now != t) fail_msg("another entry");
  }
  took = mt_reactor_now(h.r) - from;
  assert_int_equal(allocations, before);
  from = mt_reactor_now(h.r);
  for (i = 0; i < TIMES; i++) (void)mt_reactor_now(h.r);
  print_message("a warm look takes %.1f ns, %.1f of them for the clock\n",
                took * 1e6 / TIMES, (mt_reactor_now(h.r) - from) * 1e6 / TIMES);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stale_is_told_once),
      cmocka_unit_test(another_tag_is_another_route),
      cmocka_unit_test(outdated_and_the_same),
      cmocka_unit_test(outdated_and_gone),
      cmocka_unit_test(what_is_under_way_drains),
      cmocka_unit_test(the_shared_handle_is_never_outdated),
      cmocka_unit_test(dedicated_pool_goes_on),
      cmocka_unit_test(warm_look_allocates_nothing),
  };
  return cmocka_run_group_tests(tests, mt_street_start, mt_street_stop);
}
