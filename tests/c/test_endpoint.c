/* Connection URLs: hosts, ports, identity, and what a refusal may say. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "pg/endpoint.h"
#include "support/test.h"

static void clear_environment(void) {
  static const char *const names[] = {
      "PGHOST",     "PGHOSTADDR", "PGPORT",    "PGUSER",
      "PGDATABASE", "PGPASSWORD", "PGOPTIONS", "PGSERVICE",
      "PGSSLMODE",  "PGPASSFILE", "PGAPPNAME", "PGTARGETSESSIONATTRS"};
  size_t i;
  for (i = 0; i < MT_COUNT(names); i++) unsetenv(names[i]);
}

static int before_each(void **state) {
  (void)state;
  clear_environment();
  return 0;
}

static mt_endpoint *parse(const char *url) {
  mt_endpoint *ep = NULL;
  mt_error *err = NULL;
  if (mt_endpoint_parse(url, &ep, &err) != MT_OK)
    fail_msg("%s: %s", url, err->message);
  return ep;
}

static const char *param(const mt_endpoint *ep, const char *key) {
  char **k;
  for (k = ep->keywords; *k; k++)
    if (strcmp(*k, key) == 0) return ep->values[k - ep->keywords];
  return NULL;
}

static void expect_host(const mt_endpoint *ep, int i, const char *host,
                        const char *addr, const char *port) {
  const mt_host *h = &ep->hosts[i];
  assert_true(i < ep->nhosts);
  if (host)
    assert_string_equal(h->host, host);
  else
    assert_null(h->host);
  if (addr)
    assert_string_equal(h->hostaddr, addr);
  else
    assert_null(h->hostaddr);
  assert_string_equal(h->port, port);
}

static void url_is_taken_apart(void **state) {
  mt_endpoint *ep =
      parse("postgresql://bob:pw@db.example:6000/shop?sslmode=disable");
  (void)state;
  assert_int_equal(ep->nhosts, 1);
  expect_host(ep, 0, "db.example", NULL, "6000");
  assert_false(ep->hosts[0].is_unix);
  assert_string_equal(param(ep, "user"), "bob");
  assert_string_equal(param(ep, "password"), "pw");
  assert_string_equal(param(ep, "dbname"), "shop");
  assert_string_equal(param(ep, "sslmode"), "disable");
  assert_null(param(ep, "host"));
  assert_null(param(ep, "port"));
  assert_string_equal(ep->dbname, "shop");
  assert_string_equal(ep->server, "db.example:6000");
  assert_null(ep->options);
  mt_endpoint_unref(ep);
}

static void session_attrs_are_ours(void **state) {
  mt_endpoint *ep =
      parse("postgresql://a,b:6000/d?target_session_attrs=standby");
  mt_endpoint *other = NULL;
  (void)state;
  assert_int_equal(ep->target, MT_TARGET_STANDBY);
  assert_null(param(ep, "target_session_attrs"));
  assert_string_equal(ep->server, "a:5432,b:6000 standby");
  assert_int_equal(mt_endpoint_with_database(ep, "e", &other, NULL), MT_OK);
  assert_int_equal(other->target, MT_TARGET_STANDBY);
  assert_string_equal(other->server, ep->server);
  mt_endpoint_unref(other);
  mt_endpoint_unref(ep);
}

static void session_attrs_come_from_the_environment_too(void **state) {
  mt_endpoint *ep;
  (void)state;
  setenv("PGTARGETSESSIONATTRS", "primary", 1);
  ep = parse("postgresql://h/d");
  assert_int_equal(ep->target, MT_TARGET_PRIMARY);
  mt_endpoint_unref(ep);
  ep = parse("postgresql://h/d?target_session_attrs=any");
  assert_int_equal(ep->target, MT_TARGET_ANY);
  assert_string_equal(ep->server, "h:5432");
  mt_endpoint_unref(ep);
}

static void unknown_session_attrs_are_refused(void **state) {
  mt_endpoint *ep = NULL;
  mt_error *err = NULL;
  (void)state;
  assert_int_equal(
      mt_endpoint_parse("postgresql://h/d?target_session_attrs=rw", &ep, &err),
      MT_E_MISUSE);
  assert_non_null(strstr(err->message, "target_session_attrs must be any"));
  mt_error_unref(err);
}

static void port_defaults_to_5432(void **state) {
  mt_endpoint *ep = parse("postgres://h/d");
  (void)state;
  expect_host(ep, 0, "h", NULL, "5432");
  mt_endpoint_unref(ep);
}

static void conninfo_words_work_too(void **state) {
  mt_endpoint *ep = parse("host=h port=7 dbname='a b' user=u");
  (void)state;
  expect_host(ep, 0, "h", NULL, "7");
  assert_string_equal(ep->dbname, "a b");
  mt_endpoint_unref(ep);
}

static void numeric_hosts_need_no_resolver(void **state) {
  mt_endpoint *ep = parse("postgresql://[::1]:5433,127.0.0.1:5434,h:5435/d");
  (void)state;
  assert_int_equal(ep->nhosts, 3);
  expect_host(ep, 0, "::1", "::1", "5433");
  expect_host(ep, 1, "127.0.0.1", "127.0.0.1", "5434");
  expect_host(ep, 2, "h", NULL, "5435");
  assert_string_equal(ep->server, "::1:5433,127.0.0.1:5434,h:5435");
  mt_endpoint_unref(ep);
}

static void many_hosts_share_one_port_or_have_their_own(void **state) {
  mt_endpoint *ep = parse("host=a,b,c port=6000");
  (void)state;
  expect_host(ep, 0, "a", NULL, "6000");
  expect_host(ep, 2, "c", NULL, "6000");
  mt_endpoint_unref(ep);
  ep = parse("host=a,b,c port=1,,3");
  expect_host(ep, 0, "a", NULL, "1");
  expect_host(ep, 1, "b", NULL, "5432");
  expect_host(ep, 2, "c", NULL, "3");
  mt_endpoint_unref(ep);
}

static void addresses_of_the_user_come_first(void **state) {
  mt_endpoint *ep = parse("host=a,b hostaddr=10.0.0.1,10.0.0.2 port=5");
  (void)state;
  assert_int_equal(ep->nhosts, 2);
  expect_host(ep, 0, "a", "10.0.0.1", "5");
  expect_host(ep, 1, "b", "10.0.0.2", "5");
  mt_endpoint_unref(ep);
  ep = parse("hostaddr=10.0.0.1");
  expect_host(ep, 0, NULL, "10.0.0.1", "5432");
  assert_false(ep->hosts[0].is_unix);
  assert_string_equal(ep->server, "10.0.0.1:5432");
  mt_endpoint_unref(ep);
}

static void unix_sockets_are_recognized(void **state) {
  static const struct {
    const char *url, *host, *port;
  } cases[] = {
      {"postgresql:///d?host=/run/pg&port=5433", "/run/pg", "5433"},
      {"postgresql://%2Frun%2Fpg:5433/d", "/run/pg", "5433"},
      {"host=/run/pg", "/run/pg", "5432"},
      {"host=@abstract", "@abstract", "5432"},
      {"postgresql:///d", NULL, "5432"},
      {"", NULL, "5432"},
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(cases); i++) {
    mt_endpoint *ep = parse(cases[i].url);
    assert_int_equal(ep->nhosts, 1);
    expect_host(ep, 0, cases[i].host, NULL, cases[i].port);
    assert_true(ep->hosts[0].is_unix);
    mt_endpoint_unref(ep);
  }
}

static void unix_and_tcp_hosts_may_be_mixed(void **state) {
  mt_endpoint *ep = parse("host=@abstract,b,/run/pg");
  (void)state;
  assert_true(ep->hosts[0].is_unix);
  assert_false(ep->hosts[1].is_unix);
  assert_true(ep->hosts[2].is_unix);
  mt_endpoint_unref(ep);
}

static void environment_fills_in_host_and_port(void **state) {
  mt_endpoint *ep;
  (void)state;
  setenv("PGHOST", "envhost", 1);
  setenv("PGPORT", "6543", 1);
  ep = parse("postgresql:///d");
  expect_host(ep, 0, "envhost", NULL, "6543");
  mt_endpoint_unref(ep);
  ep = parse("postgresql://h/d");
  expect_host(ep, 0, "h", NULL, "6543");
  mt_endpoint_unref(ep);
  ep = parse("postgresql://h:1/d");
  expect_host(ep, 0, "h", NULL, "1");
  mt_endpoint_unref(ep);
  setenv("PGHOST", "/run/env", 1);
  ep = parse("");
  assert_true(ep->hosts[0].is_unix);
  expect_host(ep, 0, "/run/env", NULL, "6543");
  mt_endpoint_unref(ep);
}

/* An address of the environment belongs to its host, not to the URL's. */
static void address_of_the_environment_stays_with_its_host(void **state) {
  mt_endpoint *ep;
  (void)state;
  setenv("PGHOSTADDR", "10.9.9.9", 1);
  ep = parse("postgresql://h/d");
  expect_host(ep, 0, "h", NULL, "5432");
  mt_endpoint_unref(ep);
  ep = parse("postgresql:///d");
  expect_host(ep, 0, NULL, "10.9.9.9", "5432");
  mt_endpoint_unref(ep);
}

static void options_are_kept_apart(void **state) {
  mt_endpoint *ep = parse("host=h options='-c work_mem=1MB'");
  (void)state;
  assert_string_equal(ep->options, "-c work_mem=1MB");
  assert_null(param(ep, "options"));
  mt_endpoint_unref(ep);
  setenv("PGOPTIONS", "-c geqo=off", 1);
  ep = parse("host=h");
  assert_string_equal(ep->options, "-c geqo=off");
  mt_endpoint_unref(ep);
}

static bool same_key(const char *a, const char *b) {
  mt_endpoint *x = parse(a), *y = parse(b);
  bool same = strcmp(x->key, y->key) == 0;
  mt_endpoint_unref(x);
  mt_endpoint_unref(y);
  return same;
}

static void key_is_the_identity_without_the_password(void **state) {
  mt_endpoint *ep = parse("postgresql://u:s3cret@h/d");
  (void)state;
  assert_null(strstr(ep->key, "s3cret"));
  assert_null(strstr(ep->server, "s3cret"));
  mt_endpoint_unref(ep);
  assert_true(same_key("postgresql://u:a@h/d", "postgresql://u:b@h/d"));
  assert_true(same_key("postgresql://u@h/d", "user=u host=h dbname=d"));
  assert_true(same_key("postgresql://h/d", "postgresql://h:5432/d"));
  assert_false(same_key("postgresql://u@h/d", "postgresql://v@h/d"));
  assert_false(same_key("postgresql://h/d", "postgresql://h/e"));
  assert_false(same_key("postgresql://h/d", "postgresql://h:1/d"));
  assert_false(same_key("postgresql://h/d", "postgresql://i/d"));
  assert_false(
      same_key("postgresql://h/d", "postgresql://h/d?sslmode=require"));
  assert_false(same_key("host=h", "host=h options='-c geqo=off'"));
}

/* What a message may not contain is always spelled "s3cret" here. */
static void refusals_never_show_a_password(void **state) {
  static const char *const urls[] = {
      "postgresql://u:s3cret%zz@h/d",
      "postgresql://u:%zzs3cret@h/d",
      "postgresql://u:x\"s3cret%zz@h/d",
      "postgresql://u:s3cret@[::1/d",
      "postgresql://u:s3cret@[]/d",
      "postgresql://u:s3cret@[::1]x/d",
      "postgresql://u:s3cret@h/d?nonsense=1",
      "postgresql://u:s3cret@h/d?sslmode=a=b",
      "postgresql://u:s3cret@h/d?password",
      "postgresql://h/d?password=s3cret%2",
      "postgresql://h/d?password=%00s3cret",
      "postgresql://u:s3cret@h:port/d",
      "postgresql://u:s3cret@h:99999/d",
      "postgresql://u:s3cret@h:0/d",
      "postgresql://u:s3cret@h:-1/d",
      "postgresql://u:s3cret@h1:1,h2:2,h3/d?port=1,2",
      "postgresql://u:s3cret/d",         /* the host was forgotten */
      "postgresql://u:s3cret@x@h/d",     /* a bare @ in the password */
      "postgresql://u:x@s3cret@h/d",     /* the rest would be a host */
      "postgresql://u:x/y?s3cret=1@h/d", /* a bare / and ? in it */
      "http://u:s3cret@h/d",
      "u:s3cret@h/d",
      "s3cret",
      "host=h password='s3cret",
      "host=h password=x s3cret",
      "host=h password=x s3cret=y",
      "host=h port=x password=s3cret",
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(urls); i++) {
    mt_endpoint *ep = NULL;
    mt_error *err = NULL;
    if (mt_endpoint_parse(urls[i], &ep, &err) != MT_E_MISUSE)
      fail_msg("%s was accepted", urls[i]);
    assert_null(ep);
    if (strstr(err->message, "s3cret")) fail_msg("%s", err->message);
    assert_null(strchr(err->message, '\n'));
    assert_ptr_equal(strstr(err->message, "connection url"), err->message);
    assert_false(err->retryable);
    mt_error_unref(err);
    assert_int_equal(mt_endpoint_parse(urls[i], &ep, NULL), MT_E_MISUSE);
  }
}

static void refusals_say_what_is_wrong(void **state) {
  static const struct {
    const char *url, *part;
  } cases[] = {
      {"postgresql://h:x/d", "port"},
      {"postgresql://h/d?sslmod=disable", "\"sslmod\""},
      {"host=h sslmod=disable", "\"sslmod\""},
      {"postgresql://h:1,i:2/d?port=1,2,3", "3 ports for 2 hosts"},
      {"postgresql://u:a@b@h/d", "%40"},
      {"postgresql://[::1]x/d", "unexpected character \"x\""},
      {"nonsense", "missing \"=\""},
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(cases); i++) {
    mt_endpoint *ep = NULL;
    mt_error *err = NULL;
    assert_int_equal(mt_endpoint_parse(cases[i].url, &ep, &err), MT_E_MISUSE);
    if (!strstr(err->message, cases[i].part))
      fail_msg("%s: %s", cases[i].url, err->message);
    mt_error_unref(err);
  }
}

static void database_may_be_another(void **state) {
  mt_endpoint *base = parse(
      "postgresql://u:secret@a:1,[::1]:2/main?sslmode=require&options=-cx%3Dy");
  mt_endpoint *bare = parse("host=/tmp"), *ep = NULL;
  (void)state;
  assert_int_equal(mt_endpoint_with_database(base, "host=evil", &ep, NULL),
                   MT_OK);
  assert_true(ep->tenant_database);
  assert_false(base->tenant_database);
  assert_string_equal(ep->dbname, "host=evil");
  assert_string_equal(param(ep, "dbname"), "host=evil");
  assert_string_equal(param(ep, "user"), "u");
  assert_string_equal(param(ep, "password"), "secret");
  assert_string_equal(param(ep, "sslmode"), "require");
  assert_string_equal(ep->options, base->options);
  assert_string_equal(ep->server, base->server); /* one budget */
  assert_string_not_equal(ep->key, base->key);
  assert_null(strstr(ep->key, "secret"));
  assert_int_equal(ep->nhosts, 2);
  assert_string_equal(ep->hosts[1].hostaddr, "::1");
  mt_endpoint_unref(base);
  mt_endpoint_unref(ep);
  assert_int_equal(mt_endpoint_with_database(bare, "one", &ep, NULL), MT_OK);
  assert_string_equal(param(ep, "dbname"), "one");
  assert_true(ep->hosts[0].is_unix);
  mt_endpoint_unref(bare);
  mt_endpoint_unref(ep);
}

static void references_are_counted(void **state) {
  mt_endpoint *ep = parse("host=h"), *same = mt_endpoint_ref(ep);
  (void)state;
  assert_ptr_equal(ep, same);
  mt_endpoint_unref(ep);
  assert_string_equal(same->server, "h:5432");
  mt_endpoint_unref(same);
  mt_endpoint_unref(NULL);
}

#define TEST(name) cmocka_unit_test_setup(name, before_each)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(url_is_taken_apart),
      TEST(session_attrs_are_ours),
      TEST(session_attrs_come_from_the_environment_too),
      TEST(unknown_session_attrs_are_refused),
      TEST(port_defaults_to_5432),
      TEST(conninfo_words_work_too),
      TEST(numeric_hosts_need_no_resolver),
      TEST(many_hosts_share_one_port_or_have_their_own),
      TEST(addresses_of_the_user_come_first),
      TEST(unix_sockets_are_recognized),
      TEST(unix_and_tcp_hosts_may_be_mixed),
      TEST(environment_fills_in_host_and_port),
      TEST(address_of_the_environment_stays_with_its_host),
      TEST(options_are_kept_apart),
      TEST(key_is_the_identity_without_the_password),
      TEST(refusals_never_show_a_password),
      TEST(refusals_say_what_is_wrong),
      TEST(database_may_be_another),
      TEST(references_are_counted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
