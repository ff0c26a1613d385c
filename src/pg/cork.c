/*
 * Units that go out together. libpq 15 sends at every Sync, and a send over
 * TCP costs more than all the rest of a small unit, for client and server
 * alike. So the kernel is asked to hold back (TCP_CORK) what a turn of the
 * loop sends on a connection after its first unit, until the turn ends or
 * there are a few: the first keeps the server busy meanwhile. See conn_priv.h.
 */
#include <libpq-fe.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "pg/conn_priv.h"

enum { CORK_UNITS = 8 };

static void set_cork(const mt_conn *c, int on) {
#ifdef TCP_CORK
  /* fails on what is no TCP socket, and on one that has gone: no harm */
  setsockopt(PQsocket(c->pg), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
#else
  (void)c, (void)on;
#endif
}

/* What was held back leaves only now. */
static void uncork(mt_conn *c) {
  double now = mt_reactor_now(c->reactor);
  mt_node *n = c->inflight.tail;
  set_cork(c, 0);
  for (; c->corked > 0 && n; c->corked--, n = n->prev)
    mt_container(n, mt_req, node)->sent_at = now;
  c->corked = 0;
}

static void on_turn_end(mt_defer *d) {
  mt_conn *c = mt_container(d, mt_conn, turn_end);
  c->turn_units = 0;
  if (c->corked > 0) uncork(c);
}

void mt__cork_init(mt_conn *c) { c->turn_end.cb = on_turn_end; }

void mt__cork_open(mt_conn *c) {
  struct sockaddr_storage at;
  socklen_t len = sizeof at;
  c->is_tcp = getsockname(PQsocket(c->pg), (struct sockaddr *)&at, &len) == 0 &&
              (at.ss_family == AF_INET || at.ss_family == AF_INET6);
}

void mt__cork_before(mt_conn *c) {
  if (!c->is_tcp) return;
  if (c->turn_units++ == 0)
    mt_defer_add(c->reactor, &c->turn_end, MT_DEFER_FLUSH);
  else if (c->corked++ == 0)
    set_cork(c, 1);
}

void mt__cork_after(mt_conn *c) {
  if (c->corked >= CORK_UNITS) uncork(c);
}
