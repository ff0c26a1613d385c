/* Connecting a tenant: single flight, retry and what steers it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "support/peer.h"
#include "support/street.h"

static char nowhere[128]; /* a URL where nothing listens */
static int reserved;

static void init(mt_house *h, const char *url) {
  mt_house_init(h, mt_test_reactor(), url);
}

static int times(const char *events, const char *what) {
  int n = 0;
  while ((events = strstr(events, what))) {
    n++;
    events++;
  }
  return n;
}

static void connecting_routes_checks_and_pings(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, mt_street_server.url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_OK);
  assert_int_equal(c.attempts, 1);
  assert_true(c.total_ms >= 0);
  assert_string_equal(h.events, "pool_created a;");
  assert_int_equal(h.asked, 1);
  assert_int_equal(mt_caller_run(&c, &h, t), MT_OK); /* known to be well */
  assert_int_equal(h.retries, 0);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void known_to_be_well_until_a_connection_is_lost(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  mt_pool_stats before, after;
  int open;
  (void)state;
  init(&h, mt_street_server.url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_run(&c, &h, t);
  mt_manager_stats(h.m, &before, &open);
  mt_caller_run(&c, &h, t);
  mt_manager_stats(h.m, &after, &open);
  assert_int_equal(after.requests, before.requests); /* no ping */
  mt_observer_sql(&mt_street_eye,
                  "SELECT pg_terminate_backend(pid) FROM "
                  "pg_stat_activity WHERE usename = 'mtenant'");
  MT_RUN_UNTIL(h.r, (mt_manager_stats(h.m, &after, &open), open == 0));
  assert_int_equal(mt_caller_run(&c, &h, t), MT_OK);
  mt_manager_stats(h.m, &after, &open);
  assert_int_equal(after.requests, before.requests + 1);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void callers_share_a_flight(void **state) {
  mt_house h;
  mt_tenant *t, *b;
  mt_caller c[10], other;
  mt_pool_stats stats;
  int i, open;
  (void)state;
  init(&h, mt_street_server.url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  b = mt_house_tenant(&h, "b");
  for (i = 0; i < 10; i++) mt_caller_start(&c[i], &h, t);
  mt_caller_start(&other, &h, b);
  MT_RUN_UNTIL(h.r, c[9].done && other.done);
  for (i = 0; i < 10; i++) {
    assert_int_equal(c[i].code, MT_OK);
    assert_int_equal(c[i].done, 1);
    if (i) assert_true(c[i].order > c[i - 1].order);
  }
  assert_int_equal(h.asked, 2);
  mt_manager_stats(h.m, &stats, &open);
  assert_int_equal(stats.requests, 2);
  mt_tenant_unref(t);
  mt_tenant_unref(b);
  mt_street_end(&h);
}

static void cancelled_caller_leaves_the_flight(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c[3];
  (void)state;
  init(&h, mt_street_server.url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c[0], &h, t);
  mt_caller_start(&c[1], &h, t);
  mt_caller_start(&c[2], &h, t);
  mt_flight_cancel(c[1].flight);
  assert_int_equal(c[1].done, 0); /* in the next turn */
  MT_RUN_UNTIL(h.r, c[0].done && c[1].done && c[2].done);
  assert_int_equal(c[0].code, MT_OK);
  assert_int_equal(c[1].code, MT_E_CANCELLED);
  assert_int_equal(c[2].code, MT_OK);
  mt_caller_start(&c[0], &h, t); /* answered without a flight */
  mt_flight_cancel(c[0].flight);
  MT_RUN_UNTIL(h.r, c[0].done);
  assert_int_equal(c[0].code, MT_E_CANCELLED);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void flight_that_nobody_waits_for_ends(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.config.retry.initial_delay_ms = 60000;
  h.config.retry.max_delay_ms = 60000;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(h.r, h.retries == 1);
  mt_flight_cancel(c.flight);
  MT_RUN_UNTIL(h.r, c.done);
  assert_int_equal(c.code, MT_E_CANCELLED);
  assert_false(mt_tenant_busy(t));
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void cancel_other(mt_caller *c) { mt_flight_cancel(c->other->flight); }

static void caller_may_cancel_the_next_one(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c[3];
  (void)state;
  init(&h, mt_street_server.url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c[0], &h, t);
  mt_caller_start(&c[1], &h, t);
  mt_caller_start(&c[2], &h, t);
  c[0].then = cancel_other;
  c[0].other = &c[1];
  MT_RUN_UNTIL(h.r, c[0].done && c[1].done && c[2].done);
  assert_int_equal(c[1].code, MT_E_CANCELLED);
  assert_int_equal(c[2].code, MT_OK);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* ---- retry ------------------------------------------------------------------------ */

static void retry_gives_up_after_its_attempts(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.config.retry.max_attempts = 4;
  h.config.retry.initial_delay_ms = 20;
  h.config.retry.multiplier = 2;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_REFUSED);
  assert_int_equal(c.attempts, 4);
  assert_int_equal(h.retries, 3);
  assert_int_equal(h.retry_attempt, 3);
  assert_int_equal(h.retry_code, MT_E_REFUSED);
  assert_true(h.retry_delay == 80);
  assert_true(c.total_ms >= 139 && c.total_ms < 5000); /* 20 + 40 + 80 */
  assert_int_equal(times(h.events, "connection_retry a;"), 3);
  assert_int_equal(times(h.events, "pool_error a;"), 1);
  assert_non_null(strstr(h.events, "pool_evicted a error;"));
  assert_int_equal(mt_manager_count(h.m), 0); /* it never worked */
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void joiners_inherit_the_attempts(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller first, late;
  (void)state;
  init(&h, nowhere);
  h.config.retry.max_attempts = 3;
  h.config.retry.initial_delay_ms = 40;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&first, &h, t);
  MT_RUN_UNTIL(h.r, h.retries == 2);
  mt_caller_start(&late, &h, t);
  MT_RUN_UNTIL(h.r, first.done && late.done);
  assert_int_equal(late.attempts, 3);
  assert_int_equal(h.retries, 2);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void on_retry_steers_the_delay(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.config.retry.initial_delay_ms = 60000;
  h.config.retry.max_delay_ms = 60000;
  h.steer = 5;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_REFUSED);
  assert_int_equal(c.attempts, 3);
  assert_true(h.retry_delay == 60000);
  assert_true(c.total_ms >= 9 && c.total_ms < 5000);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void on_retry_can_stop_it(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.config.retry.max_attempts = 50;
  h.steer = -1;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_REFUSED);
  assert_int_equal(c.attempts, 1);
  assert_int_equal(h.retries, 1);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void deadline_ends_it(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.config.retry.max_attempts = 1000;
  h.config.retry.initial_delay_ms = 20;
  h.config.retry.multiplier = 1;
  h.config.retry.deadline_ms = 110;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_REFUSED);
  assert_in_range(c.attempts, 2, 6);
  assert_true(c.total_ms < 2000);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static bool never(mt_manager *m, const mt_error *err, void *data) {
  (void)m;
  (void)err;
  (void)data;
  return false;
}

static bool always(mt_manager *m, const mt_error *err, void *data) {
  (void)m;
  (void)err;
  (void)data;
  return true;
}

static void host_decides_what_is_worth_another_try(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.cbs.is_retryable = never;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_REFUSED);
  assert_int_equal(c.attempts, 1);
  mt_tenant_unref(t);
  mt_street_end(&h);
  init(&h, mt_street_server.url);
  h.cbs.is_retryable = always;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "absent");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_TENANT_NOT_FOUND);
  assert_int_equal(c.attempts, 3);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void hopeless_failures_are_not_tried_again(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  char url[600];
  (void)state;
  init(&h, mt_street_server.url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "absent");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_TENANT_NOT_FOUND);
  assert_int_equal(c.attempts, 1);
  assert_int_equal(h.retries, 0);
  mt_tenant_unref(t);
  mt_street_end(&h);
  snprintf(url, sizeof url, "postgresql://mtenant@127.0.0.1:%d/absent",
           mt_street_server.port);
  init(&h, url);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  assert_int_equal(mt_caller_run(&c, &h, t), MT_E_QUERY);
  assert_int_equal(c.attempts, 1);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* Down at first, up later: over TCP and over a unix socket. */
static void server_that_comes_up_is_found(void **state) {
  char unix_url[400];
  const char *urls[2] = {mt_street_server.url, unix_url};
  int i;
  (void)state;
  snprintf(unix_url, sizeof unix_url,
           "host=%s port=%d user=mtenant dbname=mtenant", mt_street_server.dir,
           mt_street_server.port);
  for (i = 0; i < 2; i++) {
    mt_house h;
    mt_tenant *t;
    mt_caller c;
    mt_observer_close(&mt_street_eye);
    mt_test_pg_stop(&mt_street_server, "fast");
    init(&h, urls[i]);
    h.config.retry.max_attempts = 200;
    h.config.retry.max_delay_ms = 25;
    mt_house_open(&h);
    t = mt_house_tenant(&h, "a");
    mt_caller_start(&c, &h, t);
    MT_RUN_UNTIL(h.r, h.retries >= 3);
    mt_test_pg_start_later(&mt_street_server, 20);
    MT_RUN_UNTIL(h.r, c.done);
    assert_int_equal(c.code, MT_OK);
    assert_int_equal(c.attempts, h.retries + 1);
    assert_int_equal(times(h.events, "connection_success a;"), 1);
    mt_observer_reopen(&mt_street_eye, &mt_street_server);
    mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
    mt_tenant_unref(t);
    mt_street_end(&h);
  }
}

/* ---- hosts that act within events --------------------------------------------------- */

static void dispose_now(mt_house *h, const mt_event *ev) {
  (void)ev;
  h->on_event = NULL;
  mt_manager_dispose(h->m, 0, NULL, NULL);
}

static void disposing_within_an_event(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(h.r, strstr(h.events, "pool_created"));
  h.on_event = dispose_now; /* at the first connection_retry */
  MT_RUN_UNTIL(h.r, c.done);
  assert_int_equal(c.code, MT_E_DISPOSED);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static void disposing_when_it_gives_up(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_caller c;
  (void)state;
  init(&h, nowhere);
  h.config.retry.max_attempts = 1;
  mt_house_open(&h);
  t = mt_house_tenant(&h, "a");
  mt_caller_start(&c, &h, t);
  MT_RUN_UNTIL(h.r, strstr(h.events, "pool_created"));
  h.on_event = dispose_now; /* at the pool_error */
  MT_RUN_UNTIL(h.r, c.done);
  assert_int_equal(c.code, MT_E_DISPOSED);
  mt_tenant_unref(t);
  mt_street_end(&h);
}

static int start_server(void **state) {
  int port;
  mt_street_start_tcp(state);
  reserved = mt_peer_reserve_port(&port);
  snprintf(nowhere, sizeof nowhere, "postgresql://u@127.0.0.1:%d/d", port);
  return 0;
}

static int stop_server(void **state) {
  close(reserved);
  return mt_street_stop(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(connecting_routes_checks_and_pings),
      cmocka_unit_test(known_to_be_well_until_a_connection_is_lost),
      cmocka_unit_test(callers_share_a_flight),
      cmocka_unit_test(cancelled_caller_leaves_the_flight),
      cmocka_unit_test(flight_that_nobody_waits_for_ends),
      cmocka_unit_test(caller_may_cancel_the_next_one),
      cmocka_unit_test(retry_gives_up_after_its_attempts),
      cmocka_unit_test(joiners_inherit_the_attempts),
      cmocka_unit_test(on_retry_steers_the_delay),
      cmocka_unit_test(on_retry_can_stop_it),
      cmocka_unit_test(deadline_ends_it),
      cmocka_unit_test(host_decides_what_is_worth_another_try),
      cmocka_unit_test(hopeless_failures_are_not_tried_again),
      cmocka_unit_test(server_that_comes_up_is_found),
      cmocka_unit_test(disposing_within_an_event),
      cmocka_unit_test(disposing_when_it_gives_up),
  };
  return cmocka_run_group_tests(tests, start_server, stop_server);
}
