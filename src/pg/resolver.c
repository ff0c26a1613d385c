/*
 * c-ares on the reactor. See resolver.h. c-ares may answer inside the call
 * that asks (hosts file), so answers are handed out at the end of the turn.
 */
#include "pg/resolver.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <string.h>
#include <sys/select.h>

#include "base/alloc.h"
#include "base/err.h"
#include "reactor/reactor.h"

enum { MAX_SOCKETS = 32, QUERY_TIMEOUT_MS = 1500, TRIES = 2 };

struct rsock {
  mt_io io;
  struct resolver *owner;
};

typedef struct resolver {
  mt_reactor *reactor;
  ares_channel channel;
  mt_timer timer;
  int waiting; /* lookups that somebody waits for */
  struct rsock sockets[MAX_SOCKETS];
} resolver;

struct mt_lookup {
  mt_defer defer;
  mt_reactor *reactor;
  mt_lookup_fn fn; /* NULL: cancelled */
  void *data;
  char *host;
  mt_error *err;
  bool answered;
  int n;
  char addrs[MT_MAX_ADDRS][MT_ADDR_LEN];
};

static void arm(resolver *rs) {
  struct timeval tv, *left = ares_timeout(rs->channel, NULL, &tv);
  if (left)
    mt_timer_set(rs->reactor, &rs->timer,
                 (double)left->tv_sec * 1e3 + (double)left->tv_usec / 1e3);
  else
    mt_timer_del(&rs->timer);
}

static void on_timer(mt_timer *t) {
  resolver *rs = mt_container(t, resolver, timer);
  ares_process_fd(rs->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
  arm(rs);
}

static void on_socket(mt_io *io, unsigned ready) {
  resolver *rs = mt_container(io, struct rsock, io)->owner;
  ares_process_fd(rs->channel, ready & MT_READ ? io->fd : ARES_SOCKET_BAD,
                  ready & MT_WRITE ? io->fd : ARES_SOCKET_BAD);
  arm(rs);
}

/* c-ares' way to say what to watch; both 0: the socket is about to close. */
static void on_state(void *data, ares_socket_t fd, int readable, int writable) {
  resolver *rs = data;
  unsigned want = (readable ? MT_READ : 0u) | (writable ? MT_WRITE : 0u);
  int i, slot = -1;
  for (i = 0; i < MAX_SOCKETS; i++) {
    if (rs->sockets[i].io.want && rs->sockets[i].io.fd == fd) break;
    if (!rs->sockets[i].io.want && slot < 0) slot = i;
  }
  if (i == MAX_SOCKETS) i = slot;
  if (i < 0) return; /* its query will time out */
  rs->sockets[i].io.cb = on_socket;
  rs->sockets[i].owner = rs;
  mt_io_set(rs->reactor, &rs->sockets[i].io, fd, want);
}

static void resolver_free(void *data) {
  resolver *rs = data;
  int i;
  ares_destroy(rs->channel);
  mt_timer_del(&rs->timer);
  for (i = 0; i < MAX_SOCKETS; i++) mt_io_del(&rs->sockets[i].io, false);
  mt_free(rs);
}

static resolver *resolver_get(mt_reactor *r) {
  struct ares_options o;
  resolver *rs = r->resolver;
  if (rs) return rs;
  rs = mt_calloc(sizeof *rs);
  if (!rs) return NULL;
  memset(&o, 0, sizeof o);
  o.timeout = QUERY_TIMEOUT_MS;
  o.tries = TRIES;
  o.sock_state_cb = on_state;
  o.sock_state_cb_data = rs;
  rs->reactor = r;
  rs->timer.cb = on_timer;
  if (ares_init_options(&rs->channel, &o,
                        ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES |
                            ARES_OPT_SOCK_STATE_CB) != ARES_SUCCESS) {
    mt_free(rs);
    return NULL;
  }
  r->resolver = rs;
  r->resolver_free = resolver_free;
  return rs;
}

int mt_resolver_set_servers(mt_reactor *r, const char *servers) {
  resolver *rs = resolver_get(r);
  int rc = rs ? ares_set_servers_ports_csv(rs->channel, servers) : ARES_ENOMEM;
  if (rc == ARES_SUCCESS) return MT_OK;
  return rc == ARES_ENOMEM ? MT_E_OUT_OF_MEMORY : MT_E_MISUSE;
}

static void lookup_free(mt_lookup *l) {
  mt_defer_del(&l->defer);
  mt_error_unref(l->err);
  mt_free(l->host);
  mt_free(l);
}

static void deliver(mt_defer *d) {
  mt_lookup *l = mt_container(d, mt_lookup, defer);
  if (l->fn) l->fn(l->data, l->err, l->addrs, l->n);
  lookup_free(l);
}

static void fill(mt_lookup *l, struct ares_addrinfo *info) {
  struct ares_addrinfo_node *a;
  for (a = info->nodes; a && l->n < MT_MAX_ADDRS; a = a->ai_next) {
    const void *src;
    if (a->ai_family == AF_INET)
      src = &((struct sockaddr_in *)(void *)a->ai_addr)->sin_addr;
    else if (a->ai_family == AF_INET6)
      src = &((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_addr;
    else
      continue;
    if (inet_ntop(a->ai_family, src, l->addrs[l->n], MT_ADDR_LEN)) l->n++;
  }
}

static void on_answer(void *data, int status, int timeouts,
                      struct ares_addrinfo *info) {
  mt_lookup *l = data;
  (void)timeouts;
  if (info && status == ARES_SUCCESS) fill(l, info);
  if (info) ares_freeaddrinfo(info);
  l->answered = true;
  if (l->fn) ((resolver *)l->reactor->resolver)->waiting--;
  if (!l->fn) { /* cancelled, or the channel is going away */
    if (!mt_node_linked(&l->defer.node)) lookup_free(l);
    return;
  }
  if (l->n == 0)
    l->err = mt_error_new(
        MT_E_DNS, "could not resolve host \"%s\": %s", l->host,
        ares_strerror(status == ARES_SUCCESS ? ARES_ENODATA : status));
  mt_defer_add(l->reactor, &l->defer, MT_DEFER_DELIVER);
}

int mt_resolve(mt_reactor *r, const char *host, mt_lookup_fn fn, void *data,
               mt_lookup **out, mt_error **err) {
  struct ares_addrinfo_hints hints = {0};
  resolver *rs = resolver_get(r);
  mt_lookup *l = rs ? mt_calloc(sizeof *l) : NULL;
  if (!l) return mt_fail(err, mt_error_oom());
  l->reactor = r;
  l->fn = fn;
  l->data = data;
  l->defer.cb = deliver;
  l->host = mt_strdup(host);
  if (!l->host) {
    mt_free(l);
    return mt_fail(err, mt_error_oom());
  }
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  *out = l;
  rs->waiting++;
  ares_getaddrinfo(rs->channel, host, NULL, &hints, on_answer, l);
  arm(rs);
  return MT_OK;
}

/* c-ares can only forget all questions at once; it does as soon as nobody
 * waits, so that none keeps a host's loop running for seconds. */
void mt_lookup_cancel(mt_lookup *l) {
  resolver *rs = l->reactor->resolver;
  l->fn = NULL;
  if (l->answered) {
    lookup_free(l);
  } else if (--rs->waiting == 0) {
    ares_cancel(rs->channel);
    arm(rs);
  }
}
