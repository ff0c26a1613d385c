/* Listeners: what is told and in which order; a connection that is lost; a
 * manager that goes in every state of theirs. */
#include <stdio.h>
#include <string.h>

#include "support/street.h"

typedef struct ear {
  mt_listener *l;
  char heard[512]; /* "open;", "ok;", "SQLSTATE;", "channel=payload;" */
  int opened, answered, closed, code;
} ear;

static void note(ear *e, const char *fmt, const char *a, const char *b) {
  size_t n = strlen(e->heard);
  snprintf(e->heard + n, sizeof e->heard - n, fmt, a, b);
}

static void on_open(void *data) {
  ear *e = data;
  e->opened++;
  note(e, "%s%s", "open;", "");
}

static void on_answer(void *data, const mt_error *err) {
  ear *e = data;
  e->answered++;
  note(e, "%s%s", err ? err->sqlstate : "ok", ";");
}

static void on_notify(void *data, const char *channel, const char *payload) {
  note(data, "%s=%s;", channel, payload);
}

static void on_close(void *data, const mt_error *err) {
  ear *e = data;
  e->closed++;
  e->code = err ? err->code : 0;
}

static const mt_listener_callbacks callbacks = {on_open, on_answer, on_notify,
                                                on_close};

/* One of a tenant that has a route; connecting. */
static void begin(ear *e, mt_house *h) {
  mt_tenant *t = mt_house_tenant(h, "a");
  mt_error *err = NULL;
  memset(e, 0, sizeof *e);
  mt_house_expect(h, t, "SELECT name FROM items", "t_a");
  assert_int_equal(mt_listener_new(t, &callbacks, e, &e->l, &err), MT_OK);
  assert_int_equal(mt_listener_open(e->l, &err), MT_OK);
  mt_tenant_unref(t);
}

static void open_up(ear *e, mt_house *h) {
  begin(e, h);
  MT_RUN_UNTIL(h->r, e->opened);
  assert_true(mt_listener_send(e->l, "LISTEN news"));
  MT_RUN_UNTIL(h->r, e->answered);
}

static void it_hears_in_order(void **state) {
  mt_house h;
  ear e;
  (void)state;
  mt_street_begin(&h);
  open_up(&e, &h);
  mt_observer_sql(&mt_street_eye, "NOTIFY news, 'one'; NOTIFY other, 'no'");
  mt_observer_sql(&mt_street_eye, "NOTIFY news");
  MT_RUN_UNTIL(h.r, strstr(e.heard, "news=;"));
  assert_true(mt_listener_send(e.l, "SELECT 1/0"));
  assert_true(mt_listener_send(e.l, "UNLISTEN news"));
  MT_RUN_UNTIL(h.r, e.answered == 3);
  mt_observer_sql(&mt_street_eye, "NOTIFY news, 'too late'");
  mt_test_run_for(h.r, 50);
  assert_string_equal(e.heard, "open;ok;news=one;news=;22012;ok;");
  mt_listener_free(e.l);
  mt_street_end(&h);
  assert_int_equal(e.closed, 0); /* its owner had let go */
}

static void it_may_be_opened_again(void **state) {
  mt_house h;
  mt_error *err = NULL;
  ear e;
  (void)state;
  mt_street_begin(&h);
  open_up(&e, &h);
  assert_int_equal(mt_listener_open(e.l, &err), MT_E_MISUSE);
  mt_error_unref(err);
  err = NULL;
  mt_observer_sql(&mt_street_eye,
                  "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                  "WHERE query = 'LISTEN news'");
  MT_RUN_UNTIL(h.r, e.closed);
  assert_int_equal(e.code, MT_E_CONNECTION_LOST);
  assert_false(mt_listener_send(e.l, "LISTEN news"));
  assert_int_equal(mt_listener_open(e.l, &err), MT_OK);
  MT_RUN_UNTIL(h.r, e.opened == 2);
  assert_true(mt_listener_send(e.l, "LISTEN news"));
  mt_listener_close(e.l);
  MT_RUN_UNTIL(h.r, e.closed == 2);
  assert_int_equal(e.answered, 2); /* the LISTEN was told of its end */
  mt_listener_free(e.l);
  mt_street_end(&h);
}

static void a_tenant_without_a_route_has_no_place(void **state) {
  mt_house h;
  mt_tenant *t;
  mt_error *err = NULL;
  mt_listener *l = NULL;
  (void)state;
  mt_street_begin(&h);
  t = mt_house_tenant(&h, "a");
  assert_null(mt_tenant_place(t));
  assert_int_equal(mt_listener_new(t, &callbacks, NULL, &l, &err),
                   MT_E_UNREACHABLE);
  mt_error_unref(err);
  mt_house_expect(&h, t, "SELECT name FROM items", "t_a");
  assert_non_null(mt_tenant_place(t));
  mt_tenant_unref(t);
  mt_street_end(&h);
}

/* Its connection is closed before the manager says that all are. */
static void it_ends_with_its_manager(void **state) {
  mt_house h;
  mt_error *err = NULL;
  ear e;
  int turns;
  (void)state;
  for (turns = 0; turns < 60; turns++) {
    mt_street_begin(&h);
    begin(&e, &h);
    mt_test_run_for(h.r, turns / 4.0);
    mt_house_dispose(&h);
    assert_int_equal(e.closed, 1);
    assert_int_equal(e.code, MT_E_DISPOSED);
    assert_int_equal(mt_listener_open(e.l, &err), MT_E_DISPOSED);
    mt_error_unref(err);
    err = NULL;
    mt_listener_free(e.l);
    mt_street_end(&h);
  }
}

static void it_outlives_the_manager_of_its_maker(void **state) {
  mt_house h;
  ear e;
  (void)state;
  mt_street_begin(&h);
  open_up(&e, &h);
  mt_house_dispose(&h);
  mt_manager_free(h.m);
  mt_test_run_for(h.r, 5);
  assert_false(mt_listener_send(e.l, "LISTEN news"));
  mt_listener_free(e.l);
  mt_test_run_for(h.r, 1);
  mt_test_reactor_end(h.r);
}

static void connections_beyond_it_are_not_its_business(void **state) {
  mt_house h;
  ear e;
  mt_tenant *t;
  (void)state;
  mt_street_prepare(&h);
  h.config.max_connections = 1;
  mt_house_open(&h);
  open_up(&e, &h);
  t = mt_house_tenant(&h, "b");
  mt_house_expect(&h, t, "SELECT name FROM items", "t_b");
  mt_tenant_unref(t);
  assert_int_equal(mt_observer_backends(&mt_street_eye), 2);
  mt_listener_free(e.l);
  mt_street_end(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(it_hears_in_order),
      cmocka_unit_test(it_may_be_opened_again),
      cmocka_unit_test(a_tenant_without_a_route_has_no_place),
      cmocka_unit_test(it_ends_with_its_manager),
      cmocka_unit_test(it_outlives_the_manager_of_its_maker),
      cmocka_unit_test(connections_beyond_it_are_not_its_business),
  };
  return cmocka_run_group_tests(tests, mt_street_start, mt_street_stop);
}
