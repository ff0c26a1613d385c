/* A fake server. See peer.h. */
#include "support/peer.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/test.h"

static int bind_any(int *port) {
  struct sockaddr_in sa = {.sin_family = AF_INET};
  socklen_t len = sizeof sa;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_true(fd >= 0);
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
  *port = ntohs(sa.sin_port);
  return fd;
}

int mt_peer_reserve_port(int *port) { return bind_any(port); }

static void hang_up(struct mt_peer_client *c) {
  int fd = c->io.fd;
  if (!c->io.want) return;
  mt_io_del(&c->io, false);
  close(fd);
}

static bool is_ssl_request(const unsigned char *b, ssize_t n) {
  static const unsigned char request[] = {0, 0, 0, 8, 4, 210, 22, 47};
  return n == 8 && memcmp(b, request, 8) == 0;
}

/* One read is one message here: clients wait for each answer. */
static void on_client(mt_io *io, unsigned ready) {
  struct mt_peer_client *c = mt_container(io, struct mt_peer_client, io);
  mt_peer *p = c->peer;
  unsigned char buf[4096];
  ssize_t n = read(io->fd, buf, sizeof buf);
  (void)ready;
  if (n <= 0) {
    hang_up(c);
    return;
  }
  if (p->kind == MT_PEER_SILENT) return;
  if (is_ssl_request(buf, n)) {
    assert_int_equal(write(io->fd, "N", 1), 1);
    return;
  }
  p->startups++;
  if (p->kind == MT_PEER_ANSWERS)
    assert_int_equal(write(io->fd, p->reply, p->reply_len), p->reply_len);
  hang_up(c);
}

static void on_listener(mt_io *io, unsigned ready) {
  mt_peer *p = mt_container(io, mt_peer, listener);
  int i, fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  (void)ready;
  if (fd < 0) return;
  for (i = 0; i < MT_PEER_CLIENTS && p->clients[i].io.want; i++) continue;
  assert_true(i < MT_PEER_CLIENTS);
  p->accepted++;
  p->clients[i].peer = p;
  p->clients[i].io.cb = on_client;
  mt_io_set(p->reactor, &p->clients[i].io, fd, MT_READ);
}

void mt_peer_open(mt_peer *p, mt_reactor *r, mt_peer_kind kind) {
  int fd;
  memset(p, 0, sizeof *p);
  p->reactor = r;
  p->kind = kind;
  fd = bind_any(&p->port);
  assert_int_equal(listen(fd, 16), 0);
  p->listener.cb = on_listener;
  mt_io_set(r, &p->listener, fd, MT_READ);
}

static void put(mt_peer *p, const void *data, size_t len) {
  assert_true(p->reply_len + len <= sizeof p->reply);
  memcpy(p->reply + p->reply_len, data, len);
  p->reply_len += len;
}

static void put_field(mt_peer *p, char type, const char *text) {
  put(p, &type, 1);
  put(p, text, strlen(text) + 1);
}

void mt_peer_error(mt_peer *p, const char *severity, const char *plain_severity,
                   const char *sqlstate, const char *message) {
  uint32_t len = 0;
  p->reply_len = 0;
  put(p, "E", 1);
  put(p, &len, 4);
  put_field(p, 'S', severity);
  put_field(p, 'V', plain_severity);
  put_field(p, 'C', sqlstate);
  put_field(p, 'M', message);
  put(p, "", 1);
  len = htonl((uint32_t)(p->reply_len - 1));
  memcpy(p->reply + 1, &len, 4);
}

void mt_peer_close(mt_peer *p) {
  int i, fd = p->listener.fd;
  for (i = 0; i < MT_PEER_CLIENTS; i++) hang_up(&p->clients[i]);
  mt_io_del(&p->listener, false);
  close(fd);
}
