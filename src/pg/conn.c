/*
 * Life of a connection: resolve, connect to one address after the other,
 * close, cancel. See conn.h. What is sent and received once it is open lives
 * in conn_io.c.
 */
#include "pg/conn.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "pg/conn_priv.h"

static void try_host(mt_conn *c);
static void try_addr(mt_conn *c);

static const char *const state_names[] = {"resolving", "connecting", "open",
                                          "closed"};

static void set_state(mt_conn *c, mt_conn_state to) {
  static const bool legal[4][4] = {
      /* to: RESOLVING CONNECTING OPEN CLOSED */
      {true, true, false, true},   /* RESOLVING */
      {true, true, true, true},    /* CONNECTING: the next host is resolved */
      {false, false, false, true}, /* OPEN */
      {false, false, false, false}};
  assert(legal[c->state][to] && state_names[to]);
  c->state = to;
}

/* ---- close --------------------------------------------------------------- */

static void on_free(mt_defer *d) {
  mt_conn *c = mt_container(d, mt_conn, freeing);
  mt_free(c);
}

static void drop_connecting(mt_conn *c) {
  if (c->lookup) mt_lookup_cancel(c->lookup);
  c->lookup = NULL;
  mt_free(c->addrs);
  c->addrs = NULL;
  mt_error_unref(c->last_error);
  c->last_error = NULL;
  mt_free(c->tried);
  c->tried = NULL;
  mt__attrs_stop(c);
}

static void on_closing(mt_defer *d) {
  mt_conn *c = mt_container(d, mt_conn, closing);
  mt_error *why = c->why;
  if (c->cancel) mt_cancel_forget(c->cancel);
  c->cancel = NULL;
  mt__conn_fail_requests(c);
  c->reported = true;
  c->cbs->on_close(c, why);
  if (c->pg) PQfinish(c->pg);
  c->pg = NULL;
  mt_stmt_cache_fini(&c->stmts);
  mt_endpoint_unref(c->endpoint);
  mt_error_unref(why);
  mt_defer_add(c->reactor, &c->freeing, MT_DEFER_FREE);
}

static void forget_socket(mt_conn *c) {
  mt_io_del(&c->io, !c->pg || PQsocket(c->pg) != c->io.fd);
  mt_io_set_background(&c->io, false);
}

void mt_conn_close(mt_conn *c, mt_error *err) {
  if (c->state == MT_CONN_CLOSED) {
    mt_error_unref(err);
    return;
  }
  set_state(c, MT_CONN_CLOSED);
  c->why = err;
  forget_socket(c);
  mt_timer_del(&c->timer);
  mt_defer_del(&c->processing);
  mt_defer_del(&c->turn_end);
  drop_connecting(c);
  mt_defer_add(c->reactor, &c->closing, MT_DEFER_DELIVER);
}

/* ---- why a connect failed -------------------------------------------------- */

/* Verbose messages read "SEVERITY:  SQLSTATE: text"; the severity may be in
 * any language, the two blanks and five characters never change. */
static const char *find_sqlstate(const char *text) {
  const char *p = text;
  while ((p = strstr(p, ":  "))) {
    p += 3;
    if (strspn(p, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && p[5] == ':')
      return p;
  }
  return NULL;
}

mt_error *mt__connect_error(int code, bool retryable, const char *text) {
  const char *state = find_sqlstate(text);
  const char *msg = state ? state + 6 : text;
  mt_error *e;
  if (state) {
    char five[6] = {0};
    memcpy(five, state, 5);
    code = mt_code_from_sqlstate(five, MT_PHASE_CONNECT, &retryable);
  }
  msg += strspn(msg, " \n");
  e = mt_error_new(code, "%.*s", (int)strcspn(msg, "\n"), msg);
  if (e->refs == 0) return e;
  if (state) memcpy(e->sqlstate, state, 5);
  e->retryable = retryable;
  mt__pooler_explain(e);
  return e;
}

/* libpq hides errno of a failed unix connect: ask once more ourselves. */
static int unix_errno(mt_conn *c) {
  struct sockaddr_un sa = {.sun_family = AF_UNIX};
  const mt_host *h = &c->endpoint->hosts[c->host];
  const char *dir = h->host ? h->host : PQhost(c->pg);
  socklen_t len;
  int fd, n, err = 0;
  n = snprintf(sa.sun_path, sizeof sa.sun_path, "%s/.s.PGSQL.%s",
               dir ? dir : "", h->port);
  if (n < 0 || (size_t)n >= sizeof sa.sun_path) return ENAMETOOLONG;
  len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);
  if (sa.sun_path[0] == '@') { /* abstract: no closing NUL in the name */
    sa.sun_path[0] = '\0';
    len--;
  }
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  if (connect(fd, (struct sockaddr *)&sa, len) < 0) err = errno;
  close(fd);
  return err;
}

static mt_error *errno_error(mt_conn *c, int errnum) {
  const mt_host *h = &c->endpoint->hosts[c->host];
  bool retryable = false;
  int code = mt_code_from_errno(errnum, h->is_unix, &retryable);
  const char *name = h->host ? h->host : h->hostaddr;
  mt_error *e =
      mt_error_new(code, "could not connect to %s, port %s: %s",
                   name ? name : "the local server", h->port, strerror(errnum));
  if (e->refs) e->retryable = retryable;
  return e;
}

typedef enum hint { HINT_NONE, HINT_EOF, HINT_TLS } hint;

/* What libpq is about to read tells what its failure will mean. */
static hint peek(mt_conn *c) {
  char byte;
  ssize_t n = recv(PQsocket(c->pg), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  bool tls = PQstatus(c->pg) == CONNECTION_SSL_STARTUP;
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK))
    return HINT_EOF;
  return tls ? HINT_TLS : HINT_NONE;
}

static mt_error *connect_failure(mt_conn *c, hint seen) {
  const char *text = PQerrorMessage(c->pg);
  int errnum;
  if (find_sqlstate(text)) return mt__connect_error(MT_E_PROTOCOL, false, text);
  if (PQconnectionNeedsPassword(c->pg))
    return mt__connect_error(MT_E_AUTH, false, text);
  if (seen == HINT_NONE && c->endpoint->hosts[c->host].is_unix &&
      (errnum = unix_errno(c)) != 0)
    return errno_error(c, errnum);
  if (seen == HINT_TLS) return mt__connect_error(MT_E_TLS, false, text);
  if (seen == HINT_EOF || c->endpoint->hosts[c->host].is_unix)
    return mt__connect_error(MT_E_CONNECTION_LOST, true, text);
  return mt__connect_error(MT_E_PROTOCOL, false, text);
}

/* The same for TCP, where the kernel refuses at once: no route, say. */
static int tcp_errno(mt_conn *c) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                           .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
  struct addrinfo *ai;
  const char *port = c->endpoint->hosts[c->host].port;
  int fd, err = 0;
  if (getaddrinfo(c->addrs[c->addr], port, &hints, &ai) != 0) return 0;
  fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) err = errno;
  if (fd >= 0) close(fd);
  freeaddrinfo(ai);
  return err == EINPROGRESS ? 0 : err;
}

static mt_error *start_failure(mt_conn *c) {
  bool is_unix = c->endpoint->hosts[c->host].is_unix;
  int errnum = is_unix ? 0 : tcp_errno(c);
  return errnum ? errno_error(c, errnum) : connect_failure(c, HINT_NONE);
}

/* ---- connect ----------------------------------------------------------------- */

static bool is_final(const mt_error *e) {
  return e->code == MT_E_AUTH || e->code == MT_E_QUERY ||
         e->code == MT_E_POLICY || e->code == MT_E_TENANT_NOT_FOUND;
}

/* This address failed (takes err): try the next one, or give up. */
void mt__conn_address_failed(mt_conn *c, mt_error *err) {
  mt__attrs_stop(c);
  mt_error_set_server(err, c->endpoint->server);
  mt__conn_explain(c, err);
  mt__attrs_note(c, err);
  mt_error_unref(c->last_error);
  c->last_error = err;
  forget_socket(c);
  if (c->pg) PQfinish(c->pg);
  c->pg = NULL;
  if (is_final(err)) {
    mt_conn_close(c, mt_error_ref(err));
    return;
  }
  c->addr++;
  try_addr(c);
}

/* Notices are for people at a terminal, but libpq takes the last words to an
 * idle connection for one. Without SQLSTATE it is libpq's own: it has thrown a
 * message away, which came when its queue was gone (with the socket). */
static void on_notice(void *data, const PGresult *res) {
  const char *sev = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
  mt_conn *c = data;
  if (!PQresultErrorField(res, PG_DIAG_SQLSTATE)) c->unheard = true;
  if (sev && (*sev == 'F' || *sev == 'P')) c->fatal = !c->opt.pooled;
}

/* For one address; 0 is no limit. */
static void start_clock(mt_conn *c) {
  if (c->opt.connect_timeout_ms > 0)
    mt_timer_set(c->reactor, &c->timer, c->opt.connect_timeout_ms);
}

static void try_addr(mt_conn *c) {
  if (c->addr >= c->naddrs) {
    c->host++;
    try_host(c);
    return;
  }
  if (c->state == MT_CONN_RESOLVING) set_state(c, MT_CONN_CONNECTING);
  start_clock(c);
  mt__conn_start(c);
  if (!c->pg) {
    mt_conn_close(c, mt_error_oom());
    return;
  }
  PQsetErrorVerbosity(c->pg, PQERRORS_VERBOSE);
  PQsetNoticeReceiver(c->pg, on_notice, c);
  if (PQstatus(c->pg) == CONNECTION_BAD)
    mt__conn_address_failed(c, start_failure(c));
  else
    mt_io_set(c->reactor, &c->io, PQsocket(c->pg), MT_WRITE);
}

static void on_resolved(void *data, const mt_error *err,
                        char (*addrs)[MT_ADDR_LEN], int n) {
  mt_conn *c = data;
  c->lookup = NULL;
  if (err) {
    mt_error_unref(c->last_error);
    c->last_error = mt_error_ref(err);
    mt__attrs_note(c, err);
    c->naddrs = 0;
  } else {
    c->naddrs = n;
    memcpy(c->addrs, addrs, (size_t)n * MT_ADDR_LEN);
  }
  c->addr = 0;
  try_addr(c);
}

static void try_host(mt_conn *c) {
  const mt_host *h;
  mt_error *err = NULL;
  if (c->host >= c->endpoint->nhosts && !mt__attrs_look_again(c)) {
    mt_conn_close(c, mt__attrs_failure(c));
    return;
  }
  h = &c->endpoint->hosts[c->host];
  c->addr = 0;
  c->naddrs = 1;
  if (h->is_unix || h->hostaddr) {
    if (h->hostaddr) snprintf(c->addrs[0], MT_ADDR_LEN, "%s", h->hostaddr);
    try_addr(c);
    return;
  }
  set_state(c, MT_CONN_RESOLVING);
  start_clock(c);
  if (mt_resolve(c->reactor, h->host, on_resolved, c, &c->lookup, &err) !=
      MT_OK)
    mt_conn_close(c, err);
}

void mt__conn_opened(mt_conn *c) {
  drop_connecting(c);
  set_state(c, MT_CONN_OPEN);
  c->opened_at = c->progress_at = mt_reactor_now(c->reactor);
  mt__conn_setup(c); /* its answer ends the connect timeout */
}

/* One step of the handshake. The socket leaves the loop first: libpq may
 * close it, or go on with another one of the same number. */
static void poll_connect(mt_conn *c) {
  PostgresPollingStatusType st;
  int errnum = 0;
  socklen_t len = sizeof errnum;
  hint seen;
  if (PQstatus(c->pg) == CONNECTION_STARTED &&
      getsockopt(PQsocket(c->pg), SOL_SOCKET, SO_ERROR, &errnum, &len) == 0 &&
      errnum != 0) {
    mt__conn_address_failed(c, errno_error(c, errnum));
    return;
  }
  seen = PQstatus(c->pg) == CONNECTION_STARTED ? HINT_NONE : peek(c);
  mt_io_del(&c->io, false);
  st = PQconnectPoll(c->pg);
  if (st == PGRES_POLLING_OK)
    mt__attrs_check(c);
  else if (st == PGRES_POLLING_FAILED)
    mt__conn_address_failed(c, connect_failure(c, seen));
  else
    mt_io_set(c->reactor, &c->io, PQsocket(c->pg),
              st == PGRES_POLLING_READING ? MT_READ : MT_WRITE);
}

/* ---- events -------------------------------------------------------------------- */

static void on_io(mt_io *io, unsigned ready) {
  mt_conn *c = mt_container(io, mt_conn, io);
  if (c->state == MT_CONN_OPEN)
    mt__conn_on_io(c, ready);
  else if (c->asking)
    mt__attrs_on_io(c);
  else if (c->state == MT_CONN_CONNECTING &&
           mt_reactor_take_heavy(c->reactor)) /* TLS, SCRAM: 2 to 6 ms a step */
    poll_connect(c);
}

static mt_error *connect_timeout(const mt_conn *c) {
  mt_error *e = mt_error_new(MT_E_TIMEOUT, "no connection to %s within %.0f ms",
                             c->endpoint->server, c->opt.connect_timeout_ms);
  if (e->refs) e->retryable = true;
  return e;
}

static void connect_timed_out(mt_conn *c) {
  mt_error *e = connect_timeout(c);
  if (c->lookup) {
    mt_lookup_cancel(c->lookup);
    c->lookup = NULL;
    c->naddrs = 0;
  }
  mt__conn_address_failed(c, e);
}

static void cancel_again(mt_conn *c);

static void on_timer(mt_timer *t) {
  mt_conn *c = mt_container(t, mt_conn, timer);
  if (c->state == MT_CONN_OPEN && c->cancelling && !c->cancel &&
      mt_reactor_now(c->reactor) < c->cancel_until)
    cancel_again(c);
  else if (c->state != MT_CONN_OPEN)
    connect_timed_out(c);
  else if (!c->ready) /* no answer to the set-up */
    mt_conn_close(c, connect_timeout(c));
  else
    mt_conn_close(
        c, mt_error_new(MT_E_CONNECTION_LOST,
                        c->resetting ? "the session's reset took too long"
                                     : "no answer to a cancel in time"));
}

static void on_processing(mt_defer *d) {
  mt_conn *c = mt_container(d, mt_conn, processing);
  if (c->state == MT_CONN_RESOLVING)
    try_host(c);
  else
    mt__conn_process(c);
}

mt_conn *mt_conn_new(mt_reactor *r, mt_endpoint *ep, const mt_conn_options *opt,
                     const mt_conn_callbacks *cbs, void *data) {
  mt_conn *c = mt_calloc(sizeof *c);
  if (!c) return NULL;
  c->addrs = mt_malloc(MT_MAX_ADDRS * sizeof *c->addrs);
  if (!c->addrs) {
    mt_free(c);
    return NULL;
  }
  c->reactor = r;
  c->endpoint = mt_endpoint_ref(ep);
  c->opt = *opt;
  c->cbs = cbs;
  c->data = data;
  c->state = MT_CONN_RESOLVING;
  c->io.cb = on_io;
  c->timer.cb = on_timer;
  c->closing.cb = on_closing;
  c->freeing.cb = on_free;
  c->processing.cb = on_processing;
  mt__cork_init(c);
  mt_stmt_cache_init(&c->stmts, opt->cache_statements);
  mt_defer_add(r, &c->processing, MT_DEFER_FLUSH);
  return c;
}

/* ---- cancel ---------------------------------------------------------------------- */

#define CANCEL_AGAIN_MS 50.0

/* A pooler forgets a cancel whose statement still waits there for a server. */
static void on_cancel_done(void *data) {
  mt_conn *c = data;
  double left = c->cancel_until - mt_reactor_now(c->reactor);
  c->cancel = NULL;
  if (c->inflight.len == 0) {
    c->cancelling = false;
    mt_timer_del(&c->timer);
    mt__conn_note_quiet(c);
    mt__conn_flush(c);
  } else if (c->opt.pooled && left > 0) {
    mt_timer_set(c->reactor, &c->timer,
                 left < CANCEL_AGAIN_MS ? left : CANCEL_AGAIN_MS);
  }
  c->cbs->on_progress(c); /* of others in line the next may be cancelled */
}

static void cancel_again(mt_conn *c) {
  double left = c->cancel_until - mt_reactor_now(c->reactor);
  mt_timer_set(c->reactor, &c->timer, left);
  if (mt_cancel_start(c->reactor, c->pg, on_cancel_done, c, &c->cancel) !=
      MT_OK)
    c->cancel = NULL;
}

bool mt_conn_cancel(mt_conn *c, bool force) {
  mt_req *head;
  if (c->state != MT_CONN_OPEN || c->inflight.len == 0 || c->cancel)
    return false;
  if ((c->inflight.len > 1 || c->cancelling) && !force) return false;
  head = mt_container(c->inflight.head, mt_req, node);
  if (head->cancelled) return false;
  if (mt_cancel_start(c->reactor, c->pg, on_cancel_done, c, &c->cancel) !=
      MT_OK)
    return false;
  head->cancelled = true;
  c->cancelling = true;
  c->cancel_until = mt_reactor_now(c->reactor) + c->opt.cancel_timeout_ms;
  mt_timer_set(c->reactor, &c->timer, c->opt.cancel_timeout_ms);
  return true;
}

/* ---- state ------------------------------------------------------------------------ */

size_t mt_conn_depth(const mt_conn *c) {
  return c->inflight.len + c->outbox.len;
}

bool mt_conn_quiet(const mt_conn *c) {
  return mt_conn_depth(c) == 0 && !c->cancelling;
}

bool mt_conn_idle_status(const mt_conn *c) {
  return c->state == MT_CONN_OPEN && PQtransactionStatus(c->pg) == PQTRANS_IDLE;
}

int mt_conn_backend_pid(const mt_conn *c) {
  return c->pg ? PQbackendPID(c->pg) : 0;
}

double mt_conn_head_ms(const mt_conn *c, double now) {
  const mt_req *head;
  double since;
  if (!c->inflight.head) return 0;
  head = mt_container(c->inflight.head, mt_req, node);
  since = head->sent_at > c->progress_at ? head->sent_at : c->progress_at;
  return now - since;
}

bool mt_conn_take_back(mt_conn *c, mt_req *req) {
  if (req->state != MT_REQ_WAITING || req->node.list != &c->outbox)
    return false;
  mt_list_remove(&c->outbox, &req->node);
  req->state = MT_REQ_NEW;
  return true;
}
