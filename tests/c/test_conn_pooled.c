/*
 * A connection as behind a pooler in transaction mode: its guard path is
 * checked and not set, nothing is named, one unit is under way at a time, a
 * cancel is repeated. Before a server without a pooler, where each of these
 * can be seen from outside; tests/lua/integration/bouncer_spec.lua has the
 * real one.
 */
#include <string.h>

#include "support/client.h"
#include "support/observer.h"

static mt_test_pg server;
static mt_observer eye;

static void sql(const char *text) {
  char out[64];
  assert_true(mt_test_pg_psql(&server, text, out, sizeof out));
}

static void guard(void) {
  sql("ALTER ROLE mtenant IN DATABASE mtenant SET search_path = ''");
}

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *a;
} fixture;

static void begin(fixture *f) {
  mt_observer_schema(&eye, "t_a");
  f->r = mt_test_reactor();
  mt_client_init(&f->c, f->r);
  f->c.options.pooled = true;
  f->a = mt_client_scope(1, "t_a");
}

static void end(fixture *f) {
  mt_client_end(&f->c);
  mt_scope_unref(f->a);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void start(fixture *f) {
  mt_client_start(&f->c, server.url);
  MT_RUN_UNTIL(f->r, f->c.opened);
}

static void refused(fixture *f, const char *part) {
  mt_client_start(&f->c, server.url);
  MT_RUN_UNTIL(f->r, f->c.closed);
  assert_int_equal(f->c.opened, 0);
  assert_int_equal(f->c.why->code, MT_E_POLICY);
  assert_false(f->c.why->retryable);
  assert_non_null(strstr(f->c.why->message, part));
  assert_non_null(strstr(f->c.why->hint, "docs/pgbouncer.md"));
}

static void wrong_path_is_refused(void **state) {
  fixture f;
  (void)state;
  sql("ALTER ROLE mtenant IN DATABASE mtenant RESET ALL");
  begin(&f);
  refused(&f, "search_path");
  end(&f);
  guard();
}

static void wrong_strings_are_refused(void **state) {
  fixture f;
  (void)state;
  sql("ALTER ROLE mtenant SET standard_conforming_strings = off");
  begin(&f);
  refused(&f, "standard_conforming_strings");
  end(&f);
  sql("ALTER ROLE mtenant RESET ALL");
}

static void nothing_is_named_or_set(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f);
  start(&f);
  for (i = 0; i < 4; i++)
    mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  mt_client_expect(&f.c, NULL, "SELECT count(*) FROM pg_prepared_statements",
                   "0");
  mt_client_expect(&f.c, NULL,
                   "SELECT current_setting('search_path') || ' ' || "
                   "current_setting('client_connection_check_interval')",
                   "\"\" 0");
  end(&f);
}

static void one_unit_at_a_time(void **state) {
  fixture f;
  mt_answer a[5];
  int i;
  (void)state;
  begin(&f);
  start(&f);
  for (i = 0; i < 5; i++) {
    mt_client_send(&f.c, &a[i], 0, f.a, "SELECT name FROM items");
    assert_int_equal(f.c.conn->inflight.len, 1);
  }
  while (!a[4].done) {
    mt_reactor_run_once(f.r, true);
    assert_true(f.c.conn->inflight.len <= 1);
  }
  for (i = 0; i < 5; i++) {
    assert_string_equal(mt_answer_text(&a[i]), "t_a");
    assert_int_equal(a[i].order, i + 1);
    mt_answer_free(&a[i]);
  }
  end(&f);
}

/* The last words of a pooler do not tell what the server has done. */
static void a_fatal_error_is_ambiguous(void **state) {
  fixture f;
  mt_answer a;
  (void)state;
  begin(&f);
  start(&f);
  mt_client_run(&f.c, &a, MT_REQ_UNNAMED, f.a,
                "SELECT pg_terminate_backend(pg_backend_pid())");
  assert_string_equal(a.req->err->sqlstate, "57P01");
  assert_true(a.req->err->ambiguous);
  assert_false(a.req->not_run);
  mt_answer_free(&a);
  end(&f);
}

/* One that is lost, as by a statement that still waits at the pooler, or here
 * by one that goes on after it. */
static void a_cancel_is_repeated(void **state) {
  fixture f;
  mt_answer a;
  (void)state;
  begin(&f);
  start(&f);
  mt_client_send(&f.c, &a, 0, f.a,
                 "DO $$BEGIN BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN "
                 "query_canceled THEN END; PERFORM pg_sleep(60); END$$");
  MT_RUN_UNTIL(f.r, mt_observer_running(&eye, "pg_sleep") == 1);
  assert_true(mt_conn_cancel(f.c.conn, false));
  MT_RUN_UNTIL(f.r, a.done);
  mt_answer_failed(&a, MT_E_CANCELLED, "57014");
  mt_answer_free(&a);
  MT_RUN_UNTIL(f.r, mt_conn_quiet(f.c.conn));
  mt_client_expect(&f.c, f.a, "SELECT name FROM items", "t_a");
  end(&f);
}

static int set_up(void **state) {
  (void)state;
  mt_test_pg_start(&server, false, NULL);
  mt_observer_open(&eye, &server);
  guard();
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  mt_observer_close(&eye);
  mt_test_pg_close(&server);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wrong_path_is_refused),
      cmocka_unit_test(wrong_strings_are_refused),
      cmocka_unit_test(nothing_is_named_or_set),
      cmocka_unit_test(one_unit_at_a_time),
      cmocka_unit_test(a_fatal_error_is_ambiguous),
      cmocka_unit_test(a_cancel_is_repeated),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
