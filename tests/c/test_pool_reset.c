/* What happens to a connection after a lease that touched its session. */
#include <stdio.h>
#include <string.h>

#include "support/pooled.h"

static mt_test_pg server;
static mt_observer eye;

typedef struct fixture {
  mt_reactor *r;
  mt_pooled p;
  mt_lodger a, b;
} fixture;

static void begin_with(fixture *f, mt_reset_mode mode) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->p, f->r);
  f->p.opt.reset = mode;
  mt_pooled_open(&f->p, server.url, 1);
  mt_lodger_init(&f->a, &f->p, 1, "t_a");
  mt_lodger_init(&f->b, &f->p, 2, "t_b");
}

static void begin(fixture *f) { begin_with(f, MT_RESET_AUTO); }

/* Every test ends here. */
static void end(fixture *f) {
  MT_RUN_UNTIL(f->r, f->a.share.inflight + f->b.share.inflight == 0);
  mt_lodger_fini(&f->a);
  mt_lodger_fini(&f->b);
  mt_pooled_close(&f->p);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(f->r);
}

static void do_sql(mt_held *h, const char *sql) {
  mt_job j;
  mt_held_run(h, &j, sql);
  mt_job_text(&j);
  mt_job_free(&j);
}

/* The connection that served one session serves the next: reset, not closed. */
static void touched_connection_is_reset(void **state) {
  mt_held h;
  fixture f;
  int pid;
  (void)state;
  begin(&f);
  mt_held_get(&h, &f.p, &f.a);
  pid = mt_lease_backend_pid(h.lease);
  do_sql(&h, "SET work_mem = '1MB'");
  h.lease->tainted = true;
  mt_held_release(&h);
  mt_held_get(&h, &f.p, &f.b);
  assert_int_equal(mt_lease_backend_pid(h.lease), pid);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->resets, 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->tainted, 0);
  mt_held_release(&h);
  end(&f);
}

static void unprovable_connection_is_closed(void **state) {
  mt_held h;
  fixture f;
  int pid;
  (void)state;
  begin(&f);
  mt_held_get(&h, &f.p, &f.a);
  pid = mt_lease_backend_pid(h.lease);
  h.lease->unprovable = true;
  mt_held_release(&h);
  mt_held_get(&h, &f.p, &f.b);
  assert_int_not_equal(mt_lease_backend_pid(h.lease), pid);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->tainted, 1);
  mt_held_release(&h);
  end(&f);
}

/* A temporary table that cannot be dropped: somebody else has locked it. */
static void reset_that_hangs_closes(void **state) {
  mt_held h;
  fixture f;
  int pid;
  (void)state;
  begin(&f);
  mt_held_get(&h, &f.p, &f.a);
  pid = mt_lease_backend_pid(h.lease);
  do_sql(&h, "CREATE TEMP TABLE held(id int)");
  mt_observer_sql(&eye, "BEGIN");
  mt_observer_sql(&eye,
                  "DO $$BEGIN EXECUTE (SELECT 'LOCK TABLE ' || oid::regclass "
                  "FROM pg_class WHERE relname = 'held'); END$$");
  h.lease->tainted = true;
  mt_held_release(&h);
  mt_held_get(&h, &f.p, &f.b);
  mt_observer_sql(&eye, "ROLLBACK");
  assert_int_not_equal(mt_lease_backend_pid(h.lease), pid);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->resets, 0);
  mt_held_release(&h);
  end(&f);
}

/* The connection dies in the middle of its reset. */
static void killed_reset_is_a_lost_connection(void **state) {
  mt_held h;
  fixture f;
  int pid;
  (void)state;
  begin(&f);
  mt_held_get(&h, &f.p, &f.a);
  pid = mt_lease_backend_pid(h.lease);
  do_sql(&h, "SET work_mem = '1MB'");
  h.lease->tainted = true;
  mt_held_release(&h);
  mt_observer_sql(&eye, "SELECT pg_terminate_backend(%d)", pid);
  mt_held_get(&h, &f.p, &f.b);
  assert_int_not_equal(mt_lease_backend_pid(h.lease), pid);
  mt_held_release(&h);
  end(&f);
}

/* Each leaves something; the next one finds nothing of it, on the same
 * connection. */
static const char *const leave[] = {
    "SET work_mem = '1MB'",
    "SET search_path = t_a",
    "SET default_transaction_read_only = on",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET client_encoding = 'LATIN1'",
    "SET ROLE pg_read_all_data",
    "SET app.secret = 'of a'",
    "SELECT set_config('statement_timeout', '77s', false)",
    "CREATE TEMP TABLE items(name text)",
    "CREATE TEMP SEQUENCE s",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "LISTEN news",
    "PREPARE mine AS SELECT 1",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "SELECT pg_advisory_lock(5)",
    "SELECT pg_try_advisory_lock_shared(5, 6)",
    "SELECT setseed(0.5)",
    "SELECT nextval('public.numbers')",
    "DISCARD ALL",
};

static const char look[] =
    "SELECT concat_ws(' ', current_user = session_user,"
    "current_setting('search_path'), current_setting('work_mem') = "
    "(SELECT reset_val || 'kB' FROM pg_settings WHERE name = 'work_mem') OR "
    "current_setting('work_mem') = '4MB', current_setting('TimeZone') <> "
    "'Asia/Tokyo', current_setting('statement_timeout'),"
    "current_setting('client_encoding'),"
    "current_setting('default_transaction_read_only'),"
    "nullif(current_setting('app.secret', true), ''),"
    "(SELECT count(*) FROM pg_prepared_statements WHERE from_sql),"
    "(SELECT count(*) FROM pg_cursors WHERE name <> ''),"
    "(SELECT count(*) FROM pg_listening_channels()),"
    "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
    "(SELECT count(*) FROM pg_class WHERE relnamespace = "
    "pg_my_temp_schema()), (SELECT count(*) FROM pg_proc WHERE pronamespace "
    "= pg_my_temp_schema()))";

static void look_again(fixture *f, char *out, size_t size) {
  mt_held h;
  mt_job j;
  mt_held_get(&h, &f->p, &f->b);
  mt_held_run(&h, &j, look);
  snprintf(out, size, "%s", mt_job_text(&j));
  mt_job_free(&j);
  mt_held_release(&h);
}

static void nothing_is_left_with(mt_reset_mode mode) {
  char before[512], after[512];
  fixture f;
  size_t i;
  begin_with(&f, mode);
  look_again(&f, before, sizeof before);
  for (i = 0; i < MT_COUNT(leave); i++) {
    mt_held h;
    mt_held_get(&h, &f.p, &f.a);
    do_sql(&h, leave[i]);
    h.lease->tainted = mode != MT_RESET_ALWAYS;
    mt_held_release(&h);
    look_again(&f, after, sizeof after);
    if (strcmp(before, after) != 0)
      fail_msg("after %s: %s instead of %s", leave[i], after, before);
    mt_lodger_expect(&f.b, &f.p, "SELECT name FROM items", "t_b");
  }
  assert_int_equal(mt_pool_get_stats(f.p.pool)->opened, 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->tainted, 0);
  assert_true(mt_pool_get_stats(f.p.pool)->resets >= MT_COUNT(leave));
  end(&f);
}

static void nothing_is_left(void **state) {
  (void)state;
  nothing_is_left_with(MT_RESET_AUTO);
}

static void nothing_is_left_by_discard(void **state) {
  (void)state;
  nothing_is_left_with(MT_RESET_DISCARD_ALL);
}

static void nothing_is_left_of_what_looked_harmless(void **state) {
  (void)state;
  nothing_is_left_with(MT_RESET_ALWAYS);
}

/* The test above can fail: without the reset the next one finds it. */
static void without_reset_it_stays(void **state) {
  char before[512], after[512];
  mt_held h;
  fixture f;
  (void)state;
  begin_with(&f, MT_RESET_NEVER);
  look_again(&f, before, sizeof before);
  mt_held_get(&h, &f.p, &f.a);
  do_sql(&h, "SELECT set_config('statement_timeout', '77s', false)");
  h.lease->tainted = true;
  mt_held_release(&h);
  look_again(&f, after, sizeof after);
  assert_string_not_equal(before, after);
  end(&f);
}

/* No class said so, but the server reports it, or its tag tells. */
static void witnesses_are_heard(void **state) {
  static const char *const sqls[] = {"SELECT public.change_zone()", "SELECT 1"};
  mt_held h;
  mt_job j;
  fixture f;
  (void)state;
  begin(&f);
  mt_held_get(&h, &f.p, &f.a);
  do_sql(&h, sqls[0]);
  mt_held_release(&h);
  mt_lodger_expect(&f.b, &f.p,
                   "SELECT current_setting('TimeZone') <> 'Asia/Tokyo'", "t");
  assert_int_equal(mt_pool_get_stats(f.p.pool)->resets, 1);
  mt_job_run(&j, &f.p, &f.a, sqls[0]); /* plain: retired */
  mt_job_text(&j);
  mt_job_free(&j);
  mt_lodger_expect(&f.b, &f.p,
                   "SELECT current_setting('TimeZone') <> 'Asia/Tokyo'", "t");
  assert_int_equal(mt_pool_get_stats(f.p.pool)->tainted, 1);
  assert_int_equal(mt_pool_get_stats(f.p.pool)->opened, 2);
  end(&f);
}

static int start(void **state) {
  (void)state;
  mt_test_pg_start(&server, false, NULL);
  mt_observer_open(&eye, &server);
  mt_observer_schema(&eye, "t_a");
  mt_observer_schema(&eye, "t_b");
  mt_observer_sql(&eye,
                  "GRANT pg_read_all_data TO mtenant;"
                  "CREATE SEQUENCE numbers; GRANT ALL ON numbers TO public;"
                  "CREATE FUNCTION change_zone() RETURNS text LANGUAGE sql AS "
                  "$$SELECT set_config('TimeZone', 'Asia/Tokyo', false)$$");
  return 0;
}

static int stop(void **state) {
  (void)state;
  mt_observer_close(&eye);
  mt_test_pg_close(&server);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(touched_connection_is_reset),
      cmocka_unit_test(unprovable_connection_is_closed),
      cmocka_unit_test(reset_that_hangs_closes),
      cmocka_unit_test(killed_reset_is_a_lost_connection),
      cmocka_unit_test(nothing_is_left),
      cmocka_unit_test(nothing_is_left_by_discard),
      cmocka_unit_test(nothing_is_left_of_what_looked_harmless),
      cmocka_unit_test(without_reset_it_stays),
      cmocka_unit_test(witnesses_are_heard),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
