/* Connecting in pg/conn.c: the ways in, and every way to be turned away. */
#include <libpq-fe.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/client.h"
#include "support/observer.h"
#include "support/peer.h"
#include "support/pg.h"

static mt_test_pg server; /* TCP and unix, a user `locked` with a password */
static mt_observer eye;
static char url[1024];

/* Every test ends here. */
static void end(mt_client *c) {
  mt_reactor *r = c->reactor;
  mt_client_end(c);
  MT_RUN_UNTIL(r, mt_observer_backends(&eye) == 0);
  mt_test_reactor_end(r);
}

static const char *tcp(int port, const char *more) {
  snprintf(url, sizeof url,
           "host=127.0.0.1 port=%d dbname=mtenant user=mtenant %s", port, more);
  return url;
}

static const char *unix_url(const char *more) {
  snprintf(url, sizeof url, "host=%s port=%d dbname=mtenant user=mtenant %s",
           server.dir, server.port, more);
  return url;
}

static void expect_why(const mt_client *c, int code, const char *sqlstate,
                       bool retryable) {
  assert_string_equal(mt_code_name(c->why->code), mt_code_name(code));
  assert_string_equal(c->why->sqlstate, sqlstate);
  assert_int_equal(c->why->retryable, retryable);
  assert_false(c->why->ambiguous);
  assert_null(strchr(c->why->message, '\n'));
}

static void opens_over_tcp(void **state) {
  mt_client c;
  char pid[16];
  (void)state;
  mt_client_open(&c, mt_test_reactor(), server.url);
  assert_int_equal(c.conn->state, MT_CONN_OPEN);
  snprintf(pid, sizeof pid, "%d", mt_conn_backend_pid(c.conn));
  mt_client_expect(&c, NULL, "SELECT pg_backend_pid()", pid);
  mt_client_expect(&c, NULL, "SELECT host(inet_server_addr())", "127.0.0.1");
  assert_true(c.conn->rtt_ms > 0);
  end(&c);
  assert_null(c.why);
}

static int tcp_option(const mt_client *c, int name) {
  int value = -1;
  socklen_t len = sizeof value;
  assert_int_equal(
      getsockopt(PQsocket(c->conn->pg), IPPROTO_TCP, name, &value, &len), 0);
  return value;
}

/* Of a peer that is gone nothing else would tell for hours. */
static void looks_whether_the_peer_is_there(void **state) {
  mt_client c;
  (void)state;
  mt_client_open(&c, mt_test_reactor(), server.url);
  assert_int_equal(tcp_option(&c, TCP_KEEPIDLE), 10);
  assert_int_equal(tcp_option(&c, TCP_KEEPINTVL), 5);
  assert_int_equal(tcp_option(&c, TCP_KEEPCNT), 3);
  assert_int_equal(tcp_option(&c, TCP_USER_TIMEOUT), 15000);
  end(&c);
  mt_client_open(&c, mt_test_reactor(),
                 tcp(server.port, "keepalives_idle=77 tcp_user_timeout=0"));
  assert_int_equal(tcp_option(&c, TCP_KEEPIDLE), 77);
  assert_int_equal(tcp_option(&c, TCP_USER_TIMEOUT), 0);
  end(&c);
}

static void opens_over_a_unix_socket(void **state) {
  mt_client c;
  (void)state;
  mt_client_open(&c, mt_test_reactor(), unix_url(""));
  mt_client_expect(&c, NULL, "SELECT inet_server_addr() IS NULL", "t");
  end(&c);
}

static void opens_by_name(void **state) {
  mt_client c;
  (void)state;
  snprintf(url, sizeof url, "postgresql://mtenant@localhost:%d/mtenant",
           server.port);
  mt_client_open(&c, mt_test_reactor(), url);
  mt_client_expect(&c, NULL, "SELECT 1", "1");
  end(&c);
}

static void session_starts_on_the_guard_path(void **state) {
  mt_client c;
  (void)state;
  mt_client_open(&c, mt_test_reactor(),
                 tcp(server.port,
                     "options='-c search_path=public -c "
                     "standard_conforming_strings=off -c "
                     "work_mem=2MB'"));
  mt_client_expect(&c, NULL, "SELECT current_setting('search_path')", "");
  mt_client_expect(
      &c, NULL, "SELECT current_setting('standard_conforming_strings')", "on");
  mt_client_expect(&c, NULL, "SELECT current_setting('work_mem')", "2MB");
  mt_client_expect(&c, NULL, "SELECT current_setting('application_name')",
                   "mtenant-test");
  mt_client_expect(&c, NULL, "SELECT current_setting('client_encoding')",
                   "UTF8");
  end(&c);
}

static void refused_port_is_refused(void **state) {
  mt_client c;
  int port, fd = mt_peer_reserve_port(&port);
  char named[32];
  (void)state;
  mt_client_refused(&c, mt_test_reactor(), tcp(port, ""));
  expect_why(&c, MT_E_REFUSED, "", true);
  snprintf(named, sizeof named, "127.0.0.1:%d", port);
  assert_string_equal(c.why->server, named);
  close(fd);
  end(&c);
}

static void absent_socket_is_refused(void **state) {
  mt_client c;
  (void)state;
  snprintf(url, sizeof url, "host=%s/absent user=mtenant", server.dir);
  mt_client_refused(&c, mt_test_reactor(), url);
  expect_why(&c, MT_E_REFUSED, "", true);
  end(&c);
}

static void unroutable_address_is_unreachable(void **state) {
  mt_client c;
  (void)state;
  mt_client_init(&c, mt_test_reactor());
  c.options.connect_timeout_ms = 200;
  mt_client_start(&c, "host=fe80::1 port=1 user=mtenant"); /* no scope id */
  MT_RUN_UNTIL(c.reactor, c.closed);
  assert_string_equal(mt_code_name(c.why->code),
                      mt_code_name(MT_E_UNREACHABLE));
  end(&c);
}

static void unknown_name_is_dns(void **state) {
  mt_client c;
  (void)state;
  mt_client_refused(&c, mt_test_reactor(), "host=no-such-host.invalid user=u");
  expect_why(&c, MT_E_DNS, "", true);
  assert_non_null(strstr(c.why->message, "no-such-host.invalid"));
  end(&c);
}

static void wrong_password_is_auth_and_final(void **state) {
  mt_client c;
  mt_peer other;
  mt_reactor *r = mt_test_reactor();
  (void)state;
  mt_peer_open(&other, r, MT_PEER_CLOSES);
  snprintf(url, sizeof url,
           "postgresql://locked:s3cret@127.0.0.1:%d,127.0.0.1:%d/mtenant",
           server.port, other.port);
  mt_client_refused(&c, r, url);
  expect_why(&c, MT_E_AUTH, "28P01", false);
  assert_null(strstr(c.why->message, "s3cret"));
  assert_int_equal(other.accepted, 0); /* the next host is not asked */
  mt_peer_close(&other);
  end(&c);
}

static void missing_password_is_auth(void **state) {
  mt_client c;
  (void)state;
  snprintf(url, sizeof url,
           "postgresql://locked@127.0.0.1:%d/mtenant?passfile=/absent",
           server.port);
  mt_client_refused(&c, mt_test_reactor(), url);
  expect_why(&c, MT_E_AUTH, "", false);
  end(&c);
}

static void password_callback_wins(void **state) {
  mt_client c;
  (void)state;
  snprintf(url, sizeof url, "postgresql://locked:wrong@127.0.0.1:%d/mtenant",
           server.port);
  mt_client_init(&c, mt_test_reactor());
  c.password = "right";
  mt_client_start(&c, url);
  MT_RUN_UNTIL(c.reactor, c.opened || c.closed);
  assert_int_equal(c.opened, 1);
  mt_client_expect(&c, NULL, "SELECT current_user", "locked");
  end(&c);
}

static void unknown_role_is_auth(void **state) {
  mt_client c;
  (void)state;
  snprintf(url, sizeof url, "postgresql://nobody_here@127.0.0.1:%d/mtenant",
           server.port);
  mt_client_refused(&c, mt_test_reactor(), url);
  expect_why(&c, MT_E_AUTH, "28000", false);
  end(&c);
}

static void absent_database_is_final(void **state) {
  mt_client c;
  (void)state;
  snprintf(url, sizeof url, "postgresql://mtenant@127.0.0.1:%d/absent",
           server.port);
  mt_client_refused(&c, mt_test_reactor(), url);
  expect_why(&c, MT_E_QUERY, "3D000", false);
  assert_string_equal(c.why->message, "database \"absent\" does not exist");
  end(&c);
}

static void required_tls_that_is_not_there_is_tls(void **state) {
  mt_client c;
  (void)state;
  mt_client_refused(&c, mt_test_reactor(), tcp(server.port, "sslmode=require"));
  expect_why(&c, MT_E_TLS, "", false);
  end(&c);
}

/* The words are for people, in any language; the SQLSTATE decides. */
static void sqlstate_decides_not_the_words(void **state) {
  static const struct {
    const char *severity, *sqlstate, *message;
    int code;
    bool retryable;
  } cases[] = {
      {"FATAL", "57P03", "the database system is starting up", MT_E_STARTING_UP,
       true},
      {"V\xc3\x81\xc5\xbdN\xc3\x81", "57P03", "startuje", MT_E_STARTING_UP,
       true},
      {"FATAL", "53300", "sorry, too many clients already",
       MT_E_TOO_MANY_CONNECTIONS, true},
      {"FATAL", "57P01", "terminating connection", MT_E_CONNECTION_LOST, true},
      {"FATAL", "28000", "no pg_hba.conf entry: and  57P03: no", MT_E_AUTH,
       false},
  };
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(cases); i++) {
    mt_client c;
    mt_peer p;
    mt_reactor *r = mt_test_reactor();
    mt_peer_open(&p, r, MT_PEER_ANSWERS);
    mt_peer_error(&p, cases[i].severity, "FATAL", cases[i].sqlstate,
                  cases[i].message);
    mt_client_refused(&c, r, tcp(p.port, ""));
    expect_why(&c, cases[i].code, cases[i].sqlstate, cases[i].retryable);
    assert_string_equal(c.why->message, cases[i].message);
    mt_peer_close(&p);
    end(&c);
  }
}

static void peer_that_speaks_otherwise_is_protocol(void **state) {
  mt_client c;
  mt_peer p;
  mt_reactor *r = mt_test_reactor();
  (void)state;
  mt_peer_open(&p, r, MT_PEER_ANSWERS);
  p.reply_len = (size_t)snprintf(p.reply, sizeof p.reply,
                                 "HTTP/1.1 400 Bad Request\r\n\r\n");
  mt_client_refused(&c, r, tcp(p.port, "sslmode=disable"));
  expect_why(&c, MT_E_PROTOCOL, "", false);
  mt_peer_close(&p);
  end(&c);
}

static void hang_up_during_startup_is_connection_lost(void **state) {
  mt_client c;
  mt_peer p;
  mt_reactor *r = mt_test_reactor();
  (void)state;
  mt_peer_open(&p, r, MT_PEER_CLOSES);
  mt_client_refused(&c, r, tcp(p.port, "sslmode=disable"));
  expect_why(&c, MT_E_CONNECTION_LOST, "", true);
  assert_int_equal(p.startups, 1);
  mt_peer_close(&p);
  end(&c);
}

static void silence_times_out(void **state) {
  mt_client c;
  mt_peer p;
  mt_reactor *r = mt_test_reactor();
  double start;
  (void)state;
  mt_peer_open(&p, r, MT_PEER_SILENT);
  mt_client_init(&c, r);
  c.options.connect_timeout_ms = 60;
  start = mt_reactor_now(r);
  mt_client_start(&c, tcp(p.port, ""));
  MT_RUN_UNTIL(r, c.closed);
  assert_true(mt_reactor_now(r) - start >= 59);
  expect_why(&c, MT_E_TIMEOUT, "", true);
  assert_int_equal(p.accepted, 1);
  mt_peer_close(&p);
  end(&c);
}

static void next_host_is_tried(void **state) {
  mt_client c;
  mt_peer silent, closing;
  int port, fd = mt_peer_reserve_port(&port);
  mt_reactor *r = mt_test_reactor();
  (void)state;
  mt_peer_open(&silent, r, MT_PEER_SILENT);
  mt_peer_open(&closing, r, MT_PEER_CLOSES);
  snprintf(url, sizeof url,
           "postgresql://mtenant@127.0.0.1:%d,no-such-host.invalid:1,"
           "127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d/mtenant",
           port, silent.port, closing.port, server.port);
  mt_client_init(&c, r);
  c.options.connect_timeout_ms = 1000;
  mt_client_start(&c, url);
  MT_RUN_UNTIL(r, c.opened || c.closed);
  assert_int_equal(c.opened, 1);
  assert_int_equal(silent.accepted, 1);
  assert_true(closing.accepted >= 1);
  mt_client_expect(&c, NULL, "SELECT 1", "1");
  mt_peer_close(&silent);
  mt_peer_close(&closing);
  close(fd);
  end(&c);
}

static void last_host_decides_what_is_said(void **state) {
  mt_client c;
  mt_peer p;
  int port, fd = mt_peer_reserve_port(&port);
  mt_reactor *r = mt_test_reactor();
  char both[64];
  (void)state;
  mt_peer_open(&p, r, MT_PEER_CLOSES);
  snprintf(url, sizeof url, "postgresql://u@127.0.0.1:%d,127.0.0.1:%d/d",
           p.port, port);
  mt_client_refused(&c, r, url);
  expect_why(&c, MT_E_REFUSED, "", true);
  snprintf(both, sizeof both, "127.0.0.1:%d,127.0.0.1:%d", p.port, port);
  assert_string_equal(c.why->server, both);
  mt_peer_close(&p);
  close(fd);
  end(&c);
}

/* Closed at any moment of its way, it says so once and leaves nothing. */
static void close_is_allowed_at_every_step(void **state) {
  int turns;
  (void)state;
  for (turns = 0; turns < 25; turns++) {
    mt_reactor *r = mt_test_reactor();
    mt_client c;
    int i;
    snprintf(url, sizeof url, "postgresql://mtenant@localhost:%d/mtenant",
             server.port);
    mt_client_init(&c, r);
    mt_client_start(&c, url);
    for (i = 0; i < turns; i++) mt_reactor_run_once(r, false);
    mt_conn_close(c.conn, NULL);
    assert_int_equal(c.closed, 0); /* never inside the call */
    mt_conn_close(c.conn, mt_error_new(MT_E_MISUSE, "too late"));
    MT_RUN_UNTIL(r, c.closed);
    assert_null(c.why);
    end(&c);
  }
}

static int start(void **state) {
  (void)state;
  setenv("MT_PG_HBA",
         "local all locked scram-sha-256\n"
         "host all locked 127.0.0.1/32 scram-sha-256\n"
         "local all all trust\n"
         "host all all 127.0.0.1/32 trust",
         1);
  mt_test_pg_start(&server, true, NULL);
  mt_observer_open(&eye, &server);
  mt_observer_sql(&eye, "CREATE ROLE locked LOGIN PASSWORD 'right'");
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
      cmocka_unit_test(opens_over_tcp),
      cmocka_unit_test(looks_whether_the_peer_is_there),
      cmocka_unit_test(opens_over_a_unix_socket),
      cmocka_unit_test(opens_by_name),
      cmocka_unit_test(session_starts_on_the_guard_path),
      cmocka_unit_test(refused_port_is_refused),
      cmocka_unit_test(absent_socket_is_refused),
      cmocka_unit_test(unroutable_address_is_unreachable),
      cmocka_unit_test(unknown_name_is_dns),
      cmocka_unit_test(wrong_password_is_auth_and_final),
      cmocka_unit_test(missing_password_is_auth),
      cmocka_unit_test(password_callback_wins),
      cmocka_unit_test(unknown_role_is_auth),
      cmocka_unit_test(absent_database_is_final),
      cmocka_unit_test(required_tls_that_is_not_there_is_tls),
      cmocka_unit_test(sqlstate_decides_not_the_words),
      cmocka_unit_test(peer_that_speaks_otherwise_is_protocol),
      cmocka_unit_test(hang_up_during_startup_is_connection_lost),
      cmocka_unit_test(silence_times_out),
      cmocka_unit_test(next_host_is_tried),
      cmocka_unit_test(last_host_decides_what_is_said),
      cmocka_unit_test(close_is_allowed_at_every_step),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
