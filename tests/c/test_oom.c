/*
 * Short of memory: a whole life of a manager, with its 1st, 2nd, 3rd ...
 * allocation failing (once, or from there on) until a life needs no failure.
 * Whatever fails says so, exactly once, and nothing is left behind; the leak
 * checkers of the other builds have the last word.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "support/street.h"

/* ---- the failing allocator (linked with --wrap=mt_realloc) ----------------------- */

static long left;    /* allocations until one fails; 0: none does */
static bool forever; /* and all after it */
static long failures;

void *__real_mt_realloc(void *p, size_t size);
void *__wrap_mt_realloc(void *p, size_t size);

void *__wrap_mt_realloc(void *p, size_t size) {
  if (left > 0 && --left == 0) {
    failures++;
    if (forever) left = 1;
    return NULL;
  }
  return __real_mt_realloc(p, size);
}

/* ---- one life --------------------------------------------------------------------- */

enum { QUERIES = 4 };

typedef struct life {
  mt_house h;
  mt_tenant *t;
  mt_asked asked[QUERIES], again;
  mt_caller caller;
  mt_lease *lease;
  int acquired, refused; /* leases */
  int sent, answered;    /* requests of the lease */
} life;

/* What a callback may say; one statement is wrong on purpose. */
static void expect_proper(const mt_error *err) {
  if (!err || err->code == MT_E_OUT_OF_MEMORY ||
      strcmp(err->sqlstate, "42703") == 0)
    return;
  fail_msg("no consequence of short memory: %s: %s", mt_code_name(err->code),
           err->message);
}

static void expect_refused(int rc, mt_error *err) {
  assert_int_equal(rc, MT_E_OUT_OF_MEMORY);
  assert_non_null(err);
  assert_int_equal(err->code, rc);
  mt_error_unref(err);
}

static void on_connected(void *data, const mt_error *err, int attempts,
                         double total_ms) {
  life *w = data;
  (void)attempts;
  (void)total_ms;
  w->caller.done++;
  expect_proper(err);
}

static void connect_it(life *w) {
  mt_error *err = NULL;
  int rc = mt_tenant_connect(w->t, on_connected, w, NULL, &err);
  assert_int_equal(w->caller.done, 0);
  if (rc != MT_OK) {
    expect_refused(rc, err);
    return;
  }
  MT_RUN_UNTIL(w->h.r, w->caller.done);
}

static void on_answer(void *data, const mt_result *res, const mt_error *err) {
  mt_asked *a = data;
  a->done++;
  assert_true(!res == !!err);
  expect_proper(err);
}

static void ask(life *w) {
  static const char *const sqls[QUERIES] = {
      "SELECT name FROM items WHERE id = $1::int",
      "SELECT name FROM items WHERE id = $1::int",
      "SELECT name FROM items WHERE id = $1::int", "SELECT $1 || absent"};
  const char *params[] = {"1"};
  int i, started[QUERIES];
  for (i = 0; i < QUERIES; i++) {
    mt_error *err = NULL;
    int rc = mt_tenant_query(w->t, sqls[i], 1, params, 5000, on_answer,
                             &w->asked[i], &err);
    assert_int_equal(w->asked[i].done, 0);
    started[i] = rc == MT_OK;
    if (rc != MT_OK) expect_refused(rc, err);
  }
  for (i = 0; i < QUERIES; i++)
    MT_RUN_UNTIL(w->h.r, w->asked[i].done == started[i]);
}

static void on_acquired(mt_acquire *a, mt_lease *l, const mt_error *err) {
  life *w = a->data;
  w->lease = l;
  w->acquired += !err;
  w->refused += err != NULL;
  expect_proper(err);
}

static void on_finish(mt_req *req) {
  life *w = req->data;
  w->answered++;
  expect_proper(req->err);
  mt_req_free(req);
}

static void run_on_lease(life *w, unsigned flags, const char *first,
                         const char *sql) {
  mt_req *req = mt_req_new_text(flags | MT_REQ_IN_TX, w->t->scope, sql);
  mt_error *err = NULL;
  int rc;
  if (!req) return;
  if (first && !mt_req_set_begin(req, first)) {
    mt_req_free(req);
    return;
  }
  req->on_finish = on_finish;
  req->data = w;
  rc = mt_lease_submit(w->lease, req, &err);
  if (rc != MT_OK) {
    mt_error_unref(err); /* lost since: the lease says so itself */
    mt_req_free(req);
    return;
  }
  w->sent++;
  MT_RUN_UNTIL(w->h.r, w->answered == w->sent);
}

static void transact(life *w) {
  mt_acquire *a = NULL;
  mt_error *err = NULL;
  int rc = mt_tenant_acquire(w->t, on_acquired, w, &a, &err);
  assert_int_equal(w->acquired + w->refused, 0);
  if (rc != MT_OK) {
    expect_refused(rc, err);
    return;
  }
  MT_RUN_UNTIL(w->h.r, w->acquired + w->refused == 1);
  if (!w->lease) return;
  if (w->t->scope)
    run_on_lease(w, MT_REQ_FENCE, "BEGIN", "UPDATE items SET name = name");
  run_on_lease(w, MT_REQ_COMMIT, NULL, "COMMIT");
  mt_lease_release(w->lease);
}

/* A route with settings, which readers have too. */
static void resolve(mt_manager *m, const char *id, uint64_t token, void *data) {
  static const char *const pairs[] = {"work_mem", "5MB", "app.x", "y", NULL};
  const mt_route_options options = {.size = sizeof options, .settings = pairs};
  const mt_route route = {.schema = "t_a"};
  (void)data;
  (void)id;
  mt_manager_resolved_with(m, token, &route, &options, NULL);
}

static void read_it(life *w) {
  mt_tenant *r = NULL, *t = w->t;
  mt_error *err = NULL;
  int rc = mt_tenant_reader(t, NULL, &r, &err);
  if (rc != MT_OK) {
    expect_refused(rc, err);
    return;
  }
  memset(w->asked, 0, sizeof w->asked);
  w->t = r;
  ask(w);
  w->t = t;
  mt_tenant_unref(r);
}

/* Another entry takes its place. */
static void route_again(life *w) {
  mt_error *err = NULL;
  mt_tenant *now;
  int rc;
  mt_manager_outdate(w->h.m);
  now = mt_tenant_live(w->t, &err);
  if (!now) {
    expect_refused(MT_E_OUT_OF_MEMORY, err);
    return;
  }
  rc = mt_tenant_query(now, "SELECT name FROM items", 0, NULL, 5000, on_answer,
                       &w->again, &err);
  if (rc != MT_OK)
    expect_refused(rc, err);
  else
    MT_RUN_UNTIL(w->h.r, w->again.done);
}

static void use(life *w) {
  mt_error *err = NULL;
  int rc = mt_manager_tenant(w->h.m, "a", &w->t, &err);
  if (rc != MT_OK) {
    expect_refused(rc, err);
    return;
  }
  connect_it(w);
  ask(w);
  read_it(w);
  transact(w);
  route_again(w);
  mt_tenant_unref(w->t);
}

/* The n-th allocation fails. Returns how many were asked for in vain. */
static long live(const char *url, long n, bool for_ever) {
  life w = {.lease = NULL};
  mt_error *err = NULL;
  mt_reactor *r = mt_test_reactor();
  int rc;
  mt_house_init(&w.h, r, url);
  w.h.cbs.resolve = resolve;
  failures = 0;
  forever = for_ever;
  left = n;
  rc = mt_manager_new(r, &w.h.config, &w.h.cbs, &w.h, &w.h.m, &err);
  if (rc == MT_OK) {
    use(&w);
    mt_house_dispose(&w.h);
    left = 0;
    MT_RUN_UNTIL(r, mt_observer_backends(&mt_street_eye) == 0);
    mt_house_end(&w.h);
  } else {
    left = 0;
    expect_refused(rc, err);
    mt_test_reactor_end(r);
  }
  assert_in_range(w.caller.done, 0, 1);
  assert_int_equal(w.h.disposed, rc == MT_OK);
  return failures;
}

static void sweep(const char *url, bool for_ever) {
  long n = 1;
  while (live(url, n, for_ever) > 0) n++;
  assert_true(n > 60);
  print_message("%ld allocations\n", n - 1);
}

static void each_allocation_fails_once(void **state) {
  (void)state;
  sweep(mt_street_server.url, false);
}

static void memory_stays_short(void **state) {
  (void)state;
  sweep(mt_street_server.url, true);
}

static void each_allocation_fails_on_a_named_host(void **state) {
  char url[128];
  (void)state;
  snprintf(url, sizeof url, "postgresql://mtenant@localhost:%d/mtenant",
           mt_street_server.port);
  sweep(url, false);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_allocation_fails_once),
      cmocka_unit_test(memory_stays_short),
      cmocka_unit_test(each_allocation_fails_on_a_named_host),
  };
  return cmocka_run_group_tests(tests, mt_street_start_tcp, mt_street_stop);
}
