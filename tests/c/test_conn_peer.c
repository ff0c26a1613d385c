/* Answers that break the protocol: what tests/fuzz found; and when what is
 * sent leaves. A fake server logs the client in and then says what a test
 * wants. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/peer_bytes.h"
#include "support/client.h"

typedef struct fixture {
  mt_reactor *r;
  mt_client c;
  mt_scope *scope;
  int listener, fd;
} fixture;

static void say(const fixture *f, const char *bytes, size_t len) {
  assert_int_equal(send(f->fd, bytes, len, MSG_NOSIGNAL), len);
}

static void say_bytes(const fixture *f, peer_bytes b) {
  say(f, b.bytes, b.len);
}

#define SAY(f, text) say(f, text, sizeof(text) - 1)

static int listen_on(const char *path) {
  struct sockaddr_un sa = {.sun_family = AF_UNIX};
  socklen_t len =
      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_true(fd >= 0);
  memcpy(sa.sun_path + 1, path, strlen(path)); /* abstract */
  assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
  assert_int_equal(listen(fd, 4), 0);
  return fd;
}

/* On a free port of 127.0.0.1. */
static int listen_on_tcp(int *port) {
  struct sockaddr_in sa = {.sin_family = AF_INET,
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof sa;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_true(fd >= 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
  assert_int_equal(listen(fd, 4), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
  *port = ntohs(sa.sin_port);
  return fd;
}

/* Connects to the listener, and is ready to send. */
static void begin_at(fixture *f, const char *url) {
  f->r = mt_test_reactor();
  f->scope = mt_client_scope(1, "t_a");
  f->scope->oid = 16384; /* as if a look had found it */
  mt_client_init(&f->c, f->r);
  mt_client_start(&f->c, url);
  MT_RUN_UNTIL(f->r,
               (f->fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0);
  say_bytes(f, peer_greeting);
  say_bytes(f, peer_version_13);
  say_bytes(f, peer_ready);
  MT_RUN_UNTIL(f->r, f->c.conn->state == MT_CONN_OPEN);
  say_bytes(f, peer_answer);
  say_bytes(f, peer_names);
  say_bytes(f, peer_ready);
  MT_RUN_UNTIL(f->r, f->c.opened);
}

static void begin(fixture *f) {
  char url[80], path[80];
  snprintf(path, sizeof path, "mt-test-%ld/.s.PGSQL.5432", (long)getpid());
  snprintf(url, sizeof url, "host=@mt-test-%ld port=5432 user=u dbname=d",
           (long)getpid());
  f->listener = listen_on(path);
  begin_at(f, url);
}

static void begin_tcp(fixture *f) {
  char url[96];
  int port;
  f->listener = listen_on_tcp(&port);
  snprintf(url, sizeof url,
           "host=127.0.0.1 port=%d user=u dbname=d sslmode=disable", port);
  begin_at(f, url);
}

static void end(fixture *f) {
  mt_client_end(&f->c);
  mt_scope_unref(f->scope);
  close(f->fd);
  close(f->listener);
  mt_test_reactor_end(f->r);
}

/* Nobody knows what the server has done: no success, and not again. */
static void expect_protocol_error(fixture *f, mt_answer *a) {
  MT_RUN_UNTIL(f->r, a->done && f->c.closed);
  mt_answer_failed(a, MT_E_PROTOCOL, "");
  assert_true(a->req->err->ambiguous);
  assert_false(a->req->err->retryable);
  mt_answer_free(a);
}

/* Else the answers of one request would go to the next one. */
static void an_early_ready_is_no_success(void **state) {
  fixture f;
  mt_answer a, b;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &a, 0, f.scope, "select 1");
  mt_client_send(&f.c, &b, 0, f.scope, "select 2");
  SAY(&f, ANSWER READY("I") PARSED ANSWER READY("I"));
  expect_protocol_error(&f, &a);
  expect_protocol_error(&f, &b);
  end(&f);
}

/* libpq drops what it has of it, as when it has no memory for the rows. */
static void an_answer_that_is_not_read_is_no_success(void **state) {
  fixture f;
  mt_answer a;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &a, 0, f.scope, "select 1");
  SAY(&f, ANSWER PARSED BOUND ONE_COLUMN "D\0\0\0\x6\0\5" SELECTED READY("I"));
  expect_protocol_error(&f, &a);
  end(&f);
}

static void a_simple_query_without_an_answer_is_no_success(void **state) {
  fixture f;
  mt_answer a;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &a, MT_REQ_SIMPLE, NULL, "select 1");
  SAY(&f, READY("I"));
  expect_protocol_error(&f, &a);
  end(&f);
}

static void a_position_without_measure_is_none(void **state) {
  fixture f;
  mt_answer a;
  (void)state;
  begin(&f);
  mt_client_send(&f.c, &a, 0, f.scope, "select 1");
  SAY(&f, ANSWER
      "E\0\0\0\x2dSERROR\0VERROR\0C42601\0Mx\0P99999999999999\0\0" READY("I"));
  MT_RUN_UNTIL(f.r, a.done);
  mt_answer_failed(&a, MT_E_QUERY, "42601");
  assert_int_equal(a.req->err->position, 0);
  mt_answer_free(&a);
  assert_int_equal(f.c.closed, 0);
  end(&f);
}

/* ---- when units leave --------------------------------------------------------- */

/* What has come by now. TCP on one machine delivers before send() returns; the
 * wait is for what should not come. */
static size_t hear(const fixture *f, char *buf, size_t size) {
  struct pollfd p = {.fd = f->fd, .events = POLLIN};
  size_t have = 0;
  while (poll(&p, 1, 20) > 0) {
    ssize_t n = recv(f->fd, buf + have, size - have, 0);
    assert_true(n > 0);
    have += (size_t)n;
  }
  return have;
}

static int count_syncs(const fixture *f) {
  char buf[16384];
  size_t have = hear(f, buf, sizeof buf), at = 0;
  int syncs = 0;
  while (at + 5 <= have) {
    uint32_t len;
    memcpy(&len, buf + at + 1, sizeof len);
    syncs += buf[at] == 'S';
    at += 1 + ntohl(len);
  }
  assert_int_equal(at, have); /* whole messages */
  return syncs;
}

/* Each a text of its own, which is not prepared at its first use. */
static void send_many(fixture *f, mt_answer *answers, int from, int to) {
  char sql[32];
  for (; from < to; from++) {
    snprintf(sql, sizeof sql, "select %d", from);
    mt_client_send(&f->c, &answers[from], 0, f->scope, sql);
  }
}

static void answer_all(fixture *f, mt_answer *answers, int n) {
  int i;
  for (i = 0; i < n; i++) SAY(f, ANSWER PARSED ANSWER READY("I"));
  for (i = 0; i < n; i++) {
    MT_RUN_UNTIL(f->r, answers[i].done);
    assert_string_equal(mt_answer_text(&answers[i]), "1");
    mt_answer_free(&answers[i]);
  }
}

static void units_of_a_turn_leave_together_over_tcp(void **state) {
  mt_answer answers[14];
  char setup[16384];
  fixture f;
  (void)state;
  begin_tcp(&f);
  hear(&f, setup, sizeof setup);
  send_many(&f, answers, 0, 5);
  assert_int_equal(count_syncs(&f), 1); /* the first, at once */
  mt_reactor_run_once(f.r, false);
  assert_int_equal(count_syncs(&f), 4); /* the rest, when the turn ends */
  send_many(&f, answers, 5, 14);
  assert_int_equal(count_syncs(&f), 9); /* not more than so many wait */
  answer_all(&f, answers, 14);
  end(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_early_ready_is_no_success),
      cmocka_unit_test(an_answer_that_is_not_read_is_no_success),
      cmocka_unit_test(a_simple_query_without_an_answer_is_no_success),
      cmocka_unit_test(a_position_without_measure_is_none),
      cmocka_unit_test(units_of_a_turn_leave_together_over_tcp),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
