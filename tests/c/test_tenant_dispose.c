/* Disposing of a manager in every state: all is answered, once; then nothing
 * is left, here or on the server. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/street.h"

static void count(void *data) { (*(int *)data)++; }

static void never_used(void **state) {
  mt_house h;
  (void)state;
  mt_street_begin(&h);
  mt_house_dispose(&h);
  mt_street_end(&h);
  mt_street_begin(&h);
  mt_manager_free(h.m); /* before any use: dispose is not needed */
  mt_test_reactor_end(h.r);
}

static void entries_without_routes(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_tenant_unref(mt_house_tenant(&h, "b"));
  mt_house_dispose(&h);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void idle_connections(void **state) {
  mt_house h;
  mt_tenant *t;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_house_dispose(&h);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void everybody_is_told_once(void **state) {
  mt_house h;
  int first = 0, second = 0, late = 0;
  (void)state;
  mt_street_begin(&h);
  mt_tenant_unref(mt_house_tenant(&h, "a"));
  mt_manager_dispose(h.m, 0, count, &first);
  mt_manager_dispose(h.m, 0, count, &second);
  mt_manager_dispose(h.m, 0, NULL, NULL);
  assert_int_equal(first + second, 0);
  MT_RUN_UNTIL(h.r, first && second);
  mt_manager_dispose(h.m, 0, count, &late); /* it has happened already */
  assert_int_equal(late, 0);
  MT_RUN_UNTIL(h.r, late);
  mt_test_run_for(h.r, 10);
  assert_int_equal(first, 1);
  assert_int_equal(second, 1);
  assert_int_equal(late, 1);
  mt_street_end(&h);
}

static void nothing_starts_afterwards(void **state) {
  mt_house h;
  mt_tenant *t, *other = NULL;
  mt_error *err = NULL;
  mt_flight *flight = NULL;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_manager_dispose(h.m, 0, NULL, NULL);
  assert_int_equal(mt_manager_tenant(h.m, "a", &other, &err), MT_E_DISPOSED);
  mt_error_unref(err);
  assert_int_equal(mt_manager_shared(h.m, &other, NULL), MT_E_DISPOSED);
  assert_int_equal(mt_tenant_connect(t, NULL, NULL, &flight, NULL),
                   MT_E_DISPOSED);
  assert_int_equal(mt_tenant_query(t, "SELECT 1", 0, NULL, 0, NULL, NULL, &err),
                   MT_E_DISPOSED);
  mt_error_unref(err);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void expect_disposed(const mt_asked *a) {
  assert_int_equal(a->done, 1);
  assert_string_equal(mt_code_name(a->code), mt_code_name(MT_E_DISPOSED));
  assert_false(a->ambiguous);
}

static void while_the_route_is_asked_for(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  mt_asked a[2];
  (void)state;
  mt_street_begin(&h);
  h.later = true;
  t = mt_house_tenant(&h, "a");
  mt_ask(&a[0], &h, t, "SELECT 1");
  mt_ask(&a[1], &h, t, "SELECT 1");
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(h.r, h.asked == 1);
  mt_tenant_unref(t);
  mt_house_dispose(&h);
  expect_disposed(&a[0]);
  expect_disposed(&a[1]);
  assert_int_equal(c.code, MT_E_DISPOSED);
  mt_house_answer(&h, 0); /* the host comes late */
  mt_street_end(&h);
}

static void right_after_the_route_came(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1"); /* answered inside, delivered later */
  mt_house_dispose(&h);
  expect_disposed(&a);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void while_it_connects(void **state) {
  mt_reactor *r = mt_test_reactor();
  mt_house h;
  mt_tenant *t;
  mt_peer peer;
  mt_asked a;
  mt_caller c;
  char url[64];
  (void)state;
  mt_peer_open(&peer, r, MT_PEER_SILENT);
  snprintf(url, sizeof url, "postgresql://u@127.0.0.1:%d/d", peer.port);
  mt_house_start(&h, r, url);
  t = mt_house_tenant(&h, "a");
  mt_ask(&a, &h, t, "SELECT 1");
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(r, peer.accepted == 1);
  mt_house_dispose(&h);
  expect_disposed(&a);
  assert_int_equal(c.code, MT_E_DISPOSED);
  mt_tenant_unref(t);
  mt_peer_close(&peer);
  mt_street_end(&h);
}

static void while_it_waits_for_the_next_try(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  char url[64];
  int port, fd = mt_peer_reserve_port(&port);
  (void)state;
  snprintf(url, sizeof url, "postgresql://u@127.0.0.1:%d/d", port);
  mt_house_init(&h, mt_test_reactor(), url);
  h.config.retry.initial_delay_ms = h.config.retry.max_delay_ms = 60000;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(h.r, h.retries == 1);
  mt_house_dispose(&h);
  assert_int_equal(c.code, MT_E_DISPOSED);
  assert_int_equal(c.done, 1);
  mt_tenant_unref(t);
  close(fd);
  mt_street_end(&h);
}

static void while_statements_run(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a[4];
  double before;
  int i;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_connections = 1; /* the others wait, however long one looks */
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < 4; i++) mt_ask(&a[i], &h, t, "SELECT pg_sleep(60)");
  MT_RUN_UNTIL(h.r, mt_observer_running(&mt_street_eye, "pg_sleep") == 1);
  mt_tenant_unref(t);
  before = mt_reactor_now(h.r);
  mt_house_dispose(&h);
  assert_true(mt_reactor_now(h.r) - before < 3000);
  for (i = 0; i < 4; i++) expect_disposed(&a[i]);
  mt_street_end(&h);
}

typedef struct holder {
  mt_lease *lease;
  int granted, failed;
} holder;

static void on_acquired(mt_acquire *a, mt_lease *l, const mt_error *err) {
  holder *h = a->data;
  h->lease = l;
  h->granted += !err;
  h->failed += err != NULL;
}

static void while_leases_are_held(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_acquire *acquire = NULL;
  holder held = {0}, waiting = {0};
  (void)state;
  mt_street_prepare(&h);
  h.config.max_connections = 1;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_tenant_acquire(t, on_acquired, &held, &acquire, NULL),
                   MT_OK);
  MT_RUN_UNTIL(h.r, held.granted);
  assert_int_equal(mt_tenant_acquire(t, on_acquired, &waiting, &acquire, NULL),
                   MT_OK);
  mt_house_dispose(&h);
  assert_int_equal(waiting.failed, 1);
  assert_int_equal(held.failed, 0);
  mt_lease_release(held.lease);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void dispose_again(mt_asked *a) {
  mt_manager_dispose(a->h->m, 0, NULL, NULL);
}

static void from_within_an_answer(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_asked a[3];
  int i;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  for (i = 0; i < 3; i++) mt_ask(&a[i], &h, t, "SELECT 1");
  a[0].then = dispose_again;
  MT_RUN_UNTIL(h.r, a[0].done && a[1].done && a[2].done);
  assert_int_equal(a[0].code, MT_OK);
  for (i = 1; i < 3; i++)
    assert_true(a[i].code == MT_OK || a[i].code == MT_E_DISPOSED);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void disposing_caller(mt_caller *c) {
  mt_manager_dispose(c->h->m, 0, NULL, NULL);
}

static void from_within_a_connect(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c[3];
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c[0], &h, t);
  mt_caller_start(&c[1], &h, t);
  mt_caller_start(&c[2], &h, t);
  c[0].then = disposing_caller;
  MT_RUN_UNTIL(h.r, c[0].done && c[1].done && c[2].done);
  assert_int_equal(c[0].code, MT_OK);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* From the first step of a connect to the last answer, with two databases. */
static void at_every_step(void **state) {
  int turns;
  (void)state;
  for (turns = 0; turns < 30; turns++) {
    mt_house h;
    mt_tenant *a, *b, *s;
    mt_asked asked[3];
    mt_caller c;
    int i;
    mt_street_prepare(&h);
    h.config.dedicated = turns % 2;
    mt_house_open(&h);
    a = mt_house_tenant(&h, "a");
    b = mt_house_tenant(&h, "b");
    assert_int_equal(mt_manager_shared(h.m, &s, NULL), MT_OK);
    mt_ask(&asked[0], &h, a, "SELECT pg_sleep(0.001)");
    mt_ask(&asked[1], &h, s, "SELECT 1");
    mt_caller_start(&c, &h, b);
    mt_ask(&asked[2], &h, b, "SELECT 1");
    if (turns % 3 == 0) mt_tenant_unref(a);
    for (i = 0; i < turns; i++) mt_reactor_run_once(h.r, i % 4 == 3);
    if (turns % 5 == 0) mt_manager_evict(h.m, "b", "manual");
    mt_house_dispose(&h);
    for (i = 0; i < 3; i++) {
      assert_int_equal(asked[i].done, 1);
      if (asked[i].code != MT_OK && asked[i].code != MT_E_DISPOSED)
        fail_msg("%d turns, statement %d: %s", turns, i, asked[i].message);
    }
    assert_int_equal(c.done, 1);
    if (turns % 3) mt_tenant_unref(a);
    mt_tenant_unref(b);
    mt_tenant_unref(s);
    mt_street_end(&h);
  }
}

static void handles_outlive_their_manager(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_error *err = NULL;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  mt_house_dispose(&h);
  MT_RUN_UNTIL(h.r, mt_observer_backends(&mt_street_eye) == 0);
  mt_manager_free(h.m);
  mt_test_run_for(h.r, 5);
  assert_int_equal(mt_tenant_query(t, "SELECT 1", 0, NULL, 0, NULL, NULL, &err),
                   MT_E_DISPOSED);
  mt_error_unref(err);
  mt_tenant_unref(t);
  mt_test_run_for(h.r, 1);
  mt_test_reactor_end(h.r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(never_used),
      cmocka_unit_test(entries_without_routes),
      cmocka_unit_test(idle_connections),
      cmocka_unit_test(everybody_is_told_once),
      cmocka_unit_test(nothing_starts_afterwards),
      cmocka_unit_test(while_the_route_is_asked_for),
      cmocka_unit_test(right_after_the_route_came),
      cmocka_unit_test(while_it_connects),
      cmocka_unit_test(while_it_waits_for_the_next_try),
      cmocka_unit_test(while_statements_run),
      cmocka_unit_test(while_leases_are_held),
      cmocka_unit_test(from_within_an_answer),
      cmocka_unit_test(from_within_a_connect),
      cmocka_unit_test(at_every_step),
      cmocka_unit_test(handles_outlive_their_manager),
  };
  return cmocka_run_group_tests(tests, mt_street_start, mt_street_stop);
}
