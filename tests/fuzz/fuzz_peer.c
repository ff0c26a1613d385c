/*
 * A server that says anything: the real connection over a local socket whose
 * other end answers with fuzz bytes, raw or framed as messages, from the
 * start, in the set-up or behind both. Nothing may crash, leak or wait for
 * ever; each request is answered once, and with success only when its Sync
 * was answered by a ReadyForQuery and its result has come.
 *
 * Input: what to do (see `plan`), then raw bytes or records: a byte below 32
 * stands for one of `canned`, any other is a message's type, and a length and
 * that many bytes follow it.
 */
#include <libpq-fe.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "fuzz/peer_bytes.h"
#include "pg/conn.h"
#include "pg/reset.h"
#include "pg/result.h"

enum { REQUESTS = 4, MAX_BYTES = 65536, END_TURNS = 300 };

typedef struct plan {
  bool greeted; /* log-in is answered well, else the fuzz bytes begin there */
  bool set_up;  /* ... and the set-up too */
  bool pooled, framed, old_server, reset, detach;
  uint8_t kinds, chunk;
} plan;

typedef struct client {
  mt_reactor *reactor;
  mt_conn *conn; /* NULL: closed */
  mt_req *reqs[REQUESTS];
  int opened, closed, resets, resets_ended, done[REQUESTS], successes;
  bool submitted;
} client;

typedef struct peer {
  int listener, fd; /* fd -1: nobody is connected */
  peer_counter said;
  plan plan;
} peer;

static mt_reactor *reactor;
static mt_endpoint *endpoint;
static peer the_peer;
static client the_client;

/* ---- libpq's results --------------------------------------------------------- */

/* libpq loses the rows it has when ReadyForQuery comes in the middle of them,
 * so what it allocates does not count as leaked. What it hands out does: */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:PQisBusy\n"; }

static int results_held;

PGresult *__real_PQgetResult(PGconn *pg);
PGresult *__wrap_PQgetResult(PGconn *pg);
PGresult *__wrap_PQgetResult(PGconn *pg) {
  PGresult *res = __real_PQgetResult(pg);
  results_held += res != NULL;
  return res;
}

void __real_PQclear(PGresult *res);
void __wrap_PQclear(PGresult *res);
void __wrap_PQclear(PGresult *res) {
  results_held -= res != NULL;
  __real_PQclear(res);
}

/* A cancel connects from a thread of its own, when it likes: the peer would
 * take it for the next input's client. */
int __wrap_PQcancel(PGcancel *cancel, char *text, int size);
int __wrap_PQcancel(PGcancel *cancel, char *text, int size) {
  (void)cancel;
  if (size > 0) *text = '\0';
  return 1;
}

/* ---- the peer ---------------------------------------------------------------- */

static void listen_once(peer *p) {
  struct sockaddr_un sa = {.sun_family = AF_UNIX};
  char url[200];
  int n = snprintf(sa.sun_path + 1, sizeof sa.sun_path - 1,
                   "mt-fuzz-%ld/.s.PGSQL.5432", (long)getpid());
  socklen_t len =
      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
  p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  FUZZ_CHECK(bind(p->listener, (struct sockaddr *)&sa, len) == 0);
  FUZZ_CHECK(listen(p->listener, 16) == 0);
  snprintf(url, sizeof url,
           "host=@mt-fuzz-%ld port=5432 user=u password=p dbname=d",
           (long)getpid());
  FUZZ_CHECK(mt_endpoint_parse(url, &endpoint, NULL) == MT_OK);
  FUZZ_CHECK(mt_reactor_ev_new(NULL, &reactor) == MT_OK);
}

static void hang_up(peer *p) {
  if (p->fd >= 0) close(p->fd);
  p->fd = -1;
}

/* Reads what has come: it must not fill the socket. */
static void drain(peer *p) {
  char buf[4096];
  while (p->fd >= 0 && recv(p->fd, buf, sizeof buf, MSG_DONTWAIT) > 0) continue;
}

static void say(peer *p, const void *data, size_t len) {
  drain(p);
  if (p->fd < 0 || len == 0) return;
  peer_count(&p->said, data, len);
  if (send(p->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len)
    hang_up(p);
}

static void say_bytes(peer *p, const peer_bytes *b) {
  say(p, b->bytes, b->len);
}

/* The first connection is the client's; others ask why it failed. */
static void take_clients(peer *p) {
  int fd;
  while ((fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
    if (p->fd < 0)
      p->fd = fd;
    else
      close(fd);
  }
}

/* ---- the client -------------------------------------------------------------- */

static void on_open(mt_conn *c) {
  client *me = c->data;
  me->opened++;
}

static void on_close(mt_conn *c, const mt_error *err) {
  client *me = c->data;
  (void)err;
  me->closed++;
  me->conn = NULL;
}

static void on_progress(mt_conn *c) { (void)c; }

static void on_reset(mt_conn *c, bool clean) {
  client *me = c->data;
  (void)clean;
  me->resets_ended++;
}

static const mt_conn_callbacks callbacks = {on_open, on_close, on_progress,
                                            NULL,    on_reset, NULL};

/* The log-in and the set-up have had one ReadyForQuery each before it. */
static void on_done(mt_req *req) {
  client *me = req->data;
  int i = 0;
  while (me->reqs[i] != req) i++;
  FUZZ_CHECK(++me->done[i] == 1 && req->state == MT_REQ_DONE);
  if (req->err) return;
  me->successes++;
  FUZZ_CHECK(the_peer.said.ready >= 2 + me->successes);
  FUZZ_CHECK(req->flags & MT_REQ_PING || mt_req_result(req));
}

static void on_rows(mt_req *req) {
  mt_result *rows[64];
  client *me = req->data;
  int i, n;
  while ((n = mt_req_take_rows(req, rows, 64)) > 0)
    for (i = 0; i < n; i++) mt_result_clear(rows[i]);
  mt_conn_resume(me->conn);
}

static void submit(client *me, int i, unsigned flags, mt_scope *scope,
                   mt_sql *sql) {
  mt_req *req = mt_req_new(flags, scope, sql);
  FUZZ_CHECK(req);
  req->on_done = on_done;
  req->on_rows = on_rows;
  req->data = me;
  me->reqs[i] = req;
  mt_conn_submit(me->conn, req);
}

static void submit_all(client *me, const plan *p) {
  static const unsigned kinds[] = {MT_REQ_SCOPE, MT_REQ_SCOPE | MT_REQ_STREAM,
                                   MT_REQ_SIMPLE, MT_REQ_SCOPE | MT_REQ_PING};
  static const char *const path[] = {"$tenant", NULL};
  mt_sql_table *table = mt_sql_table_new(4, 1000);
  mt_sql *sql = table ? mt_sql_intern(table, "select 1", 8) : NULL;
  mt_scope *scope = mt_scope_new(1, "a", path, NULL, true);
  int i;
  FUZZ_CHECK(scope && sql);
  me->submitted = true;
  for (i = 0; i < REQUESTS && me->conn; i++) {
    unsigned flags = kinds[p->kinds >> 2 * i & 3];
    submit(me, i, flags, flags & MT_REQ_SIMPLE ? NULL : scope,
           flags & MT_REQ_PING ? NULL : sql);
    if (p->detach && i == 1) me->reqs[i]->detached = true;
  }
  mt_scope_unref(scope);
  mt_sql_unref(sql);
  mt_sql_table_free(table);
}

static void try_reset(client *me, const plan *p) {
  if (!p->reset || me->resets || !me->conn || !me->submitted) return;
  if (me->conn->state != MT_CONN_OPEN || !mt_conn_quiet(me->conn) ||
      !mt_conn_idle_status(me->conn))
    return;
  me->resets +=
      mt_conn_reset(me->conn, p->kinds & 1 ? MT_RESET_DISCARD : MT_RESET_PARTS);
}

/* ---- both -------------------------------------------------------------------- */

static void turn(peer *p, client *me) {
  mt_reactor_run_once(reactor, false);
  take_clients(p);
  drain(p);
  if (me->opened && !me->submitted && me->conn) submit_all(me, &p->plan);
  try_reset(me, &p->plan);
}

static void turns(peer *p, client *me, int n) {
  while (n-- > 0) turn(p, me);
}

/* Until the client has read what was said: a loop needs a turn or two. */
static void turns_until(peer *p, client *me, const int *count) {
  int n = 0;
  while (*count == 0 && n++ < END_TURNS) turn(p, me);
}

static plan read_plan(fuzz_input *in) {
  uint8_t a = fuzz_byte(in);
  plan p = {.greeted = !(a & 1),
            .set_up = !(a & 2),
            .pooled = a & 4,
            .framed = !(a & 8),
            .old_server = !(a & 16),
            .reset = a & 32,
            .detach = a & 64};
  p.kinds = fuzz_byte(in);
  p.chunk = fuzz_byte(in);
  return p;
}

static void greet(peer *p, client *me) {
  turns(p, me, 4);
  if (!p->plan.greeted) return;
  say_bytes(p, &peer_greeting);
  say_bytes(p, p->plan.old_server ? &peer_version_13 : &peer_version_15);
  say_bytes(p, &peer_ready);
  turns(p, me, 3);
  if (!p->plan.set_up) return;
  say_bytes(p, &peer_answer);
  if (!p->plan.pooled) say_bytes(p, &peer_names);
  say_bytes(p, &peer_ready);
  turns_until(p, me, &me->opened);
  FUZZ_CHECK(me->opened == 1);
  if (p->plan.old_server || p->plan.pooled) return;
  say_bytes(p, &peer_answer);
  say_bytes(p, &peer_ready);
}

static void say_record(peer *p, client *me, fuzz_input *in) {
  uint8_t type = fuzz_byte(in), n;
  unsigned char head[5] = {type, 0, 0, 0, 0};
  if (type < 32) {
    size_t i = type % (PEER_CANNED + 2);
    if (i == PEER_CANNED)
      hang_up(p);
    else if (i > PEER_CANNED)
      turns(p, me, 2);
    else
      say_bytes(p, &peer_canned[i]);
    return;
  }
  n = fuzz_byte(in);
  if (n > in->left) n = (uint8_t)in->left;
  head[4] = (unsigned char)(n + 4);
  head[3] = (unsigned char)((n + 4) >> 8);
  say(p, head, sizeof head);
  say(p, in->at, n);
  in->at += n;
  in->left -= n;
}

static void say_input(peer *p, client *me, fuzz_input *in) {
  int since = 0;
  while (in->left > 0 && p->fd >= 0 && me->conn) {
    if (p->plan.framed) {
      say_record(p, me, in);
    } else {
      size_t n = 1u + p->plan.chunk / 4u;
      if (n > in->left) n = in->left;
      say(p, in->at, n);
      in->at += n;
      in->left -= n;
    }
    if (p->plan.chunk % 4 == 0 || since++ % 8 == p->plan.chunk % 4)
      turns(p, me, 1);
  }
}

/* The peer goes, or the connection is closed from here; then all must end. */
static void end(peer *p, client *me) {
  int n = 0, i;
  turns(p, me, 4);
  if (p->plan.chunk & 128 && me->conn)
    mt_conn_close(me->conn, NULL);
  else
    hang_up(p);
  while (me->conn) {
    FUZZ_CHECK(n++ < END_TURNS);
    turn(p, me);
    if (n > 10) hang_up(p);
  }
  turns(p, me, 2);
  hang_up(p);
  take_clients(p);
  hang_up(p);
  FUZZ_CHECK(me->closed == 1 && me->opened <= 1);
  FUZZ_CHECK(me->resets_ended <= me->resets);
  FUZZ_CHECK(mt_reactor_live(reactor) == 0);
  for (i = 0; i < REQUESTS; i++) {
    FUZZ_CHECK(me->done[i] == (me->reqs[i] != NULL));
    mt_req_free(me->reqs[i]);
  }
  FUZZ_CHECK(results_held == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  peer *p = &the_peer;
  client *me = &the_client;
  mt_conn_options opt = {.application_name = "fuzz",
                         .cancel_timeout_ms = 1000,
                         .cache_statements = 2};

  if (size > MAX_BYTES) return 0;
  if (!reactor) listen_once(p);
  p->fd = -1;
  p->said = (peer_counter){0};
  p->plan = read_plan(&in);
  opt.pooled = p->plan.pooled;
  *me = (client){.reactor = reactor};
  me->conn = mt_conn_new(reactor, endpoint, &opt, &callbacks, me);
  FUZZ_CHECK(me->conn);
  greet(p, me);
  say_input(p, me, &in);
  end(p, me);
  return 0;
}
