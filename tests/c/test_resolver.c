/* Names to addresses: pg/resolver.c, with the system's answers and with those
 * of a name server in the test. */
#include <ares.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pg/resolver.h"
#include "support/client.h"

typedef struct lookup {
  mt_lookup *handle;
  int calls, code, n;
  char addrs[MT_MAX_ADDRS][MT_ADDR_LEN];
  char message[256];
  struct lookup *cancels; /* from within the callback */
} lookup;

static void on_found(void *data, const mt_error *err,
                     char (*addrs)[MT_ADDR_LEN], int n) {
  lookup *l = data;
  l->calls++;
  l->code = err ? err->code : MT_OK;
  if (err) snprintf(l->message, sizeof l->message, "%s", err->message);
  l->n = n;
  if (!err) memcpy(l->addrs, addrs, (size_t)n * MT_ADDR_LEN);
  if (l->cancels) mt_lookup_cancel(l->cancels->handle);
}

static void ask(mt_reactor *r, lookup *l, const char *host) {
  memset(l, 0, sizeof *l);
  assert_int_equal(mt_resolve(r, host, on_found, l, &l->handle, NULL), MT_OK);
  assert_non_null(l->handle);
  assert_int_equal(l->calls, 0); /* never from inside */
}

static bool has(const lookup *l, const char *addr) {
  int i;
  for (i = 0; i < l->n; i++)
    if (strcmp(l->addrs[i], addr) == 0) return true;
  return false;
}

/* ---- a name server ------------------------------------------------------------ */

typedef struct name_server {
  mt_io io;
  int queries;
  bool silent;
  int rcode;        /* 0: NOERROR */
  const char *ipv4; /* NULL: no such record */
} name_server;

static void put16(unsigned char *p, unsigned v) {
  p[0] = (unsigned char)(v >> 8);
  p[1] = (unsigned char)v;
}

/* Header and question are sent back, then the record if it was asked for. */
static void on_query(mt_io *io, unsigned ready) {
  name_server *s = mt_container(io, name_server, io);
  unsigned char buf[600];
  struct sockaddr_in from;
  socklen_t from_len = sizeof from;
  size_t end = 12;
  bool wants_ipv4;
  ssize_t n =
      recvfrom(io->fd, buf, 512, 0, (struct sockaddr *)&from, &from_len);
  (void)ready;
  assert_true(n > 16);
  s->queries++;
  if (s->silent) return;
  while (buf[end]) end += buf[end] + 1u;
  wants_ipv4 = buf[end + 1] == 0 && buf[end + 2] == 1;
  end += 5;
  put16(buf + 2, 0x8180u | (unsigned)s->rcode);
  put16(buf + 6, s->ipv4 && wants_ipv4);
  put16(buf + 8, 0);
  put16(buf + 10, 0);
  if (s->ipv4 && wants_ipv4) {
    static const unsigned char record[] = {0xC0, 12, 0, 1,  0, 1,
                                           0,    0,  0, 60, 0, 4};
    memcpy(buf + end, record, sizeof record);
    end += sizeof record;
    assert_int_equal(inet_pton(AF_INET, s->ipv4, buf + end), 1);
    end += 4;
  }
  assert_int_equal(
      sendto(io->fd, buf, end, 0, (struct sockaddr *)&from, from_len), end);
}

/* How resolver.c's struct begins: the channel has no other way in. */
typedef struct resolver_head {
  mt_reactor *reactor;
  ares_channel channel;
} resolver_head;

static void serve(mt_reactor *r, name_server *s) {
  struct sockaddr_in sa = {.sin_family = AF_INET};
  socklen_t len = sizeof sa;
  char csv[32];
  lookup first;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
  ask(r, &first, "localhost"); /* makes the channel */
  MT_RUN_UNTIL(r, first.calls);
  assert_ptr_equal(((resolver_head *)r->resolver)->reactor, r);
  snprintf(csv, sizeof csv, "127.0.0.1:%d", ntohs(sa.sin_port));
  assert_int_equal(
      ares_set_servers_ports_csv(((resolver_head *)r->resolver)->channel, csv),
      ARES_SUCCESS);
  s->io.cb = on_query;
  mt_io_set(r, &s->io, fd, MT_READ);
}

/* Every test with a name server ends here. */
static void end(mt_reactor *r, name_server *s) {
  int fd = s->io.fd;
  mt_io_del(&s->io, false);
  close(fd);
  mt_test_reactor_end(r);
}

/* ---- tests -------------------------------------------------------------------- */

static void localhost_is_known_without_a_server(void **state) {
  mt_reactor *r = mt_test_reactor();
  lookup l;
  (void)state;
  ask(r, &l, "localhost");
  MT_RUN_UNTIL(r, l.calls);
  assert_int_equal(l.code, MT_OK);
  assert_true(has(&l, "127.0.0.1") || has(&l, "::1"));
  mt_test_reactor_end(r);
}

static void name_that_cannot_exist_is_dns(void **state) {
  mt_reactor *r = mt_test_reactor();
  lookup l;
  (void)state;
  ask(r, &l, "no-such-host.invalid");
  MT_RUN_UNTIL(r, l.calls);
  assert_int_equal(l.code, MT_E_DNS);
  assert_non_null(strstr(l.message, "no-such-host.invalid"));
  assert_int_equal(l.n, 0);
  mt_test_reactor_end(r);
}

static void hopeless_names_are_errors_too(void **state) {
  static const char *const names[] = {"", ".", "a..b", "a b"};
  mt_reactor *r = mt_test_reactor();
  name_server s = {.rcode = 3};
  char label[400];
  size_t i;
  lookup l;
  (void)state;
  serve(r, &s);
  memset(label, 'x', sizeof label - 1);
  label[sizeof label - 1] = '\0';
  for (i = 0; i <= MT_COUNT(names); i++) {
    ask(r, &l, i < MT_COUNT(names) ? names[i] : label);
    MT_RUN_UNTIL(r, l.calls);
    assert_int_equal(l.calls, 1);
    assert_int_equal(l.code, MT_E_DNS);
  }
  end(r, &s);
}

static void server_is_asked(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.ipv4 = "192.0.2.7"};
  lookup l;
  (void)state;
  serve(r, &s);
  ask(r, &l, "db.example");
  assert_true(mt_reactor_live(r) > 1);
  MT_RUN_UNTIL(r, l.calls);
  assert_int_equal(l.code, MT_OK);
  assert_int_equal(l.n, 1);
  assert_string_equal(l.addrs[0], "192.0.2.7");
  assert_true(s.queries >= 1);
  end(r, &s);
}

static void refusals_of_the_server_are_dns(void **state) {
  static const int rcodes[] = {3 /* NXDOMAIN */, 2 /* SERVFAIL */};
  size_t i;
  (void)state;
  for (i = 0; i < MT_COUNT(rcodes); i++) {
    mt_reactor *r = mt_test_reactor();
    name_server s = {.rcode = rcodes[i]};
    lookup l;
    serve(r, &s);
    ask(r, &l, "db.example");
    MT_RUN_UNTIL(r, l.calls);
    assert_int_equal(l.code, MT_E_DNS);
    end(r, &s);
  }
}

static int unanswered(const lookup *l, int n) {
  int left = 0;
  for (; n > 0; n--, l++) left += l->calls == 0;
  return left;
}

static void many_at_once_are_all_answered(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.ipv4 = "192.0.2.9"};
  lookup l[50];
  char name[32];
  int i;
  (void)state;
  serve(r, &s);
  for (i = 0; i < 50; i++) {
    snprintf(name, sizeof name, "db%d.example", i);
    ask(r, &l[i], i % 5 ? name : "localhost");
  }
  MT_RUN_UNTIL(r, unanswered(l, 50) == 0);
  for (i = 0; i < 50; i++) {
    assert_int_equal(l[i].calls, 1);
    assert_int_equal(l[i].code, MT_OK);
  }
  end(r, &s);
}

static void cancelled_lookup_never_calls_back(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.silent = true};
  lookup l;
  (void)state;
  serve(r, &s);
  ask(r, &l, "db.example");
  MT_RUN_UNTIL(r, s.queries > 0);
  mt_lookup_cancel(l.handle);
  assert_int_equal(mt_reactor_live(r), 1); /* our own socket */
  mt_test_run_for(r, 20);
  assert_int_equal(l.calls, 0);
  end(r, &s);
}

static void answered_lookup_can_still_be_cancelled(void **state) {
  mt_reactor *r = mt_test_reactor();
  lookup l;
  (void)state;
  ask(r, &l, "localhost"); /* answered inside, delivered later */
  mt_lookup_cancel(l.handle);
  mt_test_run_for(r, 20);
  assert_int_equal(l.calls, 0);
  mt_test_reactor_end(r);
}

static void cancelling_one_leaves_the_others(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.ipv4 = "192.0.2.7"};
  lookup a, b, c, d;
  (void)state;
  serve(r, &s);
  ask(r, &a, "a.example");
  ask(r, &b, "b.example");
  ask(r, &c, "localhost");
  ask(r, &d, "localhost"); /* answered already when c cancels it */
  c.cancels = &d;
  mt_lookup_cancel(a.handle);
  MT_RUN_UNTIL(r, b.calls);
  assert_int_equal(a.calls + d.calls, 0);
  assert_int_equal(b.code, MT_OK);
  assert_int_equal(c.calls, 1);
  MT_RUN_UNTIL(r, mt_reactor_live(r) == 1);
  end(r, &s);
}

static void reactor_may_go_with_a_question_open(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.silent = true};
  lookup l;
  int fd;
  (void)state;
  serve(r, &s);
  ask(r, &l, "db.example");
  MT_RUN_UNTIL(r, s.queries > 0);
  fd = s.io.fd;
  mt_io_del(&s.io, false);
  close(fd);
  mt_reactor_free(r);
  assert_int_equal(l.calls, 1);
  assert_int_equal(l.code, MT_E_DNS);
}

/* Connects to names that nobody answers for; returns by how much more than an
 * idle loop this one stood still. */
static double stall_of_a_lookup(mt_reactor *r) {
  mt_heartbeat heart;
  double idle_ms, gap_ms;
  mt_client c;
  mt_client_init(&c, r);
  c.options.connect_timeout_ms = 200;
  mt_heartbeat_start(&heart, r);
  mt_test_run_for(r, 200);
  idle_ms = mt_heartbeat_gap(&heart);
  mt_client_start(&c, "postgresql://u@db.example,db2.example/d");
  MT_RUN_UNTIL(r, c.closed);
  gap_ms = mt_heartbeat_gap(&heart);
  assert_true(heart.beats > 20);
  mt_heartbeat_stop(&heart);
  assert_int_equal(c.why->code, MT_E_TIMEOUT);
  assert_true(c.why->retryable);
  mt_client_end(&c);
  return gap_ms - idle_ms;
}

static void silent_server_is_a_connect_timeout(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.silent = true};
  double stall_ms;
  int tries = 0;
  (void)state;
  serve(r, &s);
  /* what else keeps this machine busy comes and goes; a look-up that blocks
   * does so for seconds, each time */
  do stall_ms = stall_of_a_lookup(r);
  while (stall_ms >= 50 && ++tries < 3);
  assert_true(stall_ms < 50);
  assert_true(s.queries >= 2);
  end(r, &s);
}

static void close_during_the_lookup_leaves_nothing(void **state) {
  mt_reactor *r = mt_test_reactor();
  name_server s = {.silent = true};
  mt_client c;
  (void)state;
  serve(r, &s);
  mt_client_init(&c, r);
  mt_client_start(&c, "postgresql://u@db.example/d");
  MT_RUN_UNTIL(r, s.queries > 0);
  mt_client_end(&c);
  assert_null(c.why);
  end(r, &s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(localhost_is_known_without_a_server),
      cmocka_unit_test(name_that_cannot_exist_is_dns),
      cmocka_unit_test(hopeless_names_are_errors_too),
      cmocka_unit_test(server_is_asked),
      cmocka_unit_test(refusals_of_the_server_are_dns),
      cmocka_unit_test(many_at_once_are_all_answered),
      cmocka_unit_test(cancelled_lookup_never_calls_back),
      cmocka_unit_test(answered_lookup_can_still_be_cancelled),
      cmocka_unit_test(cancelling_one_leaves_the_others),
      cmocka_unit_test(reactor_may_go_with_a_question_open),
      cmocka_unit_test(silent_server_is_a_connect_timeout),
      cmocka_unit_test(close_during_the_lookup_leaves_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
