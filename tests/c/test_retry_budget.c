/* The retry budget of a server, and a tenant's share of it. */
#include "pool/pool_priv.h"
#include "reactor/reactor_manual.h"
#include "support/test.h"

typedef struct fixture {
  mt_reactor *r;
  mt_server *server;
  mt_endpoint *ep;
  mt_pool *pool;
  mt_share a, b, c;
} fixture;

static void begin(fixture *f) {
  mt_pool_options o = {.max = 1, .max_waiting = 1};
  f->r = mt_manual_new();
  f->server = mt_server_new("s", 1, 1);
  assert_non_null(f->server);
  assert_int_equal(mt_endpoint_parse("host=/nowhere dbname=x", &f->ep, NULL),
                   0);
  f->pool = mt_pool_new(f->r, f->server, f->ep, &o, NULL, NULL);
  assert_non_null(f->pool);
  mt_share_init(&f->a, f->pool, 1, NULL);
  mt_share_init(&f->b, f->pool, 2, NULL);
  mt_share_init(&f->c, f->pool, 3, NULL);
}

static void end(fixture *f) {
  mt_share_fini(&f->a);
  mt_share_fini(&f->b);
  mt_share_fini(&f->c);
  mt_pool_free(f->pool);
  mt_endpoint_unref(f->ep);
  mt_server_free(f->server);
  mt_reactor_free(f->r);
}

static int take_all(mt_share *s) {
  int n = 0;
  while (n < 1000 && mt_share_take_retry(s)) n++;
  return n;
}

static void a_tenant_has_a_share_of_it(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  assert_int_equal(take_all(&f.a), 50); /* half of a hundred */
  assert_int_equal(take_all(&f.b), 50);
  assert_int_equal(take_all(&f.c), 0); /* the server's is empty */
  assert_int_equal(mt_pool_get_stats(f.pool)->retries, 100);
  assert_int_equal(mt_pool_get_stats(f.pool)->retries_refused, 3);
  end(&f);
}

static void time_fills_it(void **state) {
  fixture f;
  (void)state;
  begin(&f);
  take_all(&f.a);
  take_all(&f.b);
  mt_manual_advance(f.r, 1000); /* ten for the server, five for a tenant */
  assert_int_equal(take_all(&f.a), 5);
  assert_int_equal(take_all(&f.c), 5);
  mt_manual_advance(f.r, 3600000); /* full, and no more */
  assert_int_equal(take_all(&f.a), 50);
  end(&f);
}

static void statements_fill_it(void **state) {
  fixture f;
  int i;
  (void)state;
  begin(&f);
  take_all(&f.a);
  for (i = 0; i < 20; i++) mt__retry_earn(&f.a); /* a fifth each */
  assert_int_equal(take_all(&f.a), 4);
  for (i = 0; i < 100000; i++) mt__retry_earn(&f.a);
  assert_int_equal(take_all(&f.a), 50);
  end(&f);
}

static void switched_off_it_refuses_nothing(void **state) {
  mt_retry_budget o;
  fixture f;
  (void)state;
  begin(&f);
  mt_retry_budget_init(&o);
  o.enabled = false;
  mt_server_set_retry_budget(f.server, &o);
  assert_int_equal(take_all(&f.a), 1000);
  end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_tenant_has_a_share_of_it),
      cmocka_unit_test(time_fills_it),
      cmocka_unit_test(statements_fill_it),
      cmocka_unit_test(switched_off_it_refuses_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
