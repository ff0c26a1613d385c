/* See admin_http.h. No threads, nothing blocks; nothing that goes wrong in Lua
 * passes through libmicrohttpd. */
#include "lua/admin_http.h"

#include <errno.h>
#include <math.h>
#include <microhttpd.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"

enum { TARGET_MAX = 256, ADDRESS_MAX = 64 };

/* A connection. A request of it must have come by `deadline`, and then its
 * answer be gone: who sends or reads a byte now and then holds it no longer. */
typedef struct peer {
  mt_node node;
  struct MHD_Connection *connection;
  int fd;
  double deadline;
  lua_Integer id; /* of the request that is answered later; 0: none */
  bool seen;      /* the handler knows of the request */
  bool too_long;  /* its target was */
  char target[TARGET_MAX];
  char address[ADDRESS_MAX];
  unsigned status;
  struct MHD_Response *response; /* to be sent, owned */
} peer;

double mt_admin_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1000 + (double)t.tv_nsec / 1e6;
}

/* ---- connections ----------------------------------------------------------------- */

static peer *peer_of(struct MHD_Connection *c) {
  const union MHD_ConnectionInfo *i =
      MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  return i ? i->socket_context : NULL;
}

static void forget_response(peer *p) {
  if (p->response) MHD_destroy_response(p->response);
  p->response = NULL;
}

static peer *peer_new(mt_admin *a, struct MHD_Connection *c) {
  const union MHD_ConnectionInfo *i;
  peer *p = mt_calloc(sizeof *p);
  if (!p) return NULL;
  p->connection = c;
  i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
  p->fd = i ? i->connect_fd : -1;
  p->deadline = mt_admin_now() + a->request_ms;
  i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
  mt_admin_name(i ? i->client_addr : NULL, p->address, sizeof p->address);
  mt_list_push(&a->peers, &p->node);
  return p;
}

static void on_connection(void *cls, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode code) {
  peer *p = *context;
  if (code == MHD_CONNECTION_NOTIFY_STARTED) {
    *context = peer_new(cls, c);
  } else if (p) {
    forget_response(p);
    mt_node_unlink(&p->node);
    mt_free(p);
    *context = NULL;
  }
}

/* The target as it was sent: nothing of it is decoded. */
static void *on_target(void *cls, const char *uri, struct MHD_Connection *c) {
  peer *p = peer_of(c);
  size_t n = strlen(uri);
  (void)cls;
  if (!p) return NULL;
  p->too_long = n >= sizeof p->target;
  if (p->too_long) n = sizeof p->target - 1;
  memcpy(p->target, uri, n);
  p->target[n] = 0;
  return NULL;
}

static void on_completed(void *cls, struct MHD_Connection *c, void **context,
                         enum MHD_RequestTerminationCode code) {
  const mt_admin *a = cls;
  peer *p = peer_of(c);
  (void)context;
  (void)code;
  if (!p) return;
  forget_response(p);
  p->seen = p->too_long = false;
  p->id = 0;
  p->deadline = mt_admin_now() + a->request_ms;
}

static void cut_off(mt_admin *a, double now) {
  mt_node *n;
  for (n = a->peers.head; n; n = n->next) {
    peer *p = mt_container(n, peer, node);
    if (p->id || now < p->deadline) continue;
    p->deadline = INFINITY;
    a->late++;
    shutdown(p->fd, SHUT_RDWR); /* which its reader finds */
  }
}

/* ---- requests -------------------------------------------------------------------- */

static const char *header(struct MHD_Connection *c, const char *name) {
  return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static bool has_body(struct MHD_Connection *c) {
  const char *length = header(c, MHD_HTTP_HEADER_CONTENT_LENGTH);
  if (header(c, MHD_HTTP_HEADER_TRANSFER_ENCODING)) return true;
  return length && strcmp(length, "0") != 0;
}

static void set_text(lua_State *L, const char *key, const char *value) {
  if (!value) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, key);
}

typedef struct asked {
  mt_admin *a;
  peer *p;
  const char *method, *version;
  bool body;
} asked;

static void push_request(lua_State *L, const asked *q) {
  struct MHD_Connection *c = q->p->connection;
  lua_createtable(L, 0, 10);
  lua_pushinteger(L, q->p->id);
  lua_setfield(L, -2, "id");
  set_text(L, "method", q->method);
  set_text(L, "target", q->p->target);
  set_text(L, "version", q->version);
  set_text(L, "address", q->p->address);
  set_text(L, "accept", header(c, MHD_HTTP_HEADER_ACCEPT));
  set_text(L, "authorization", header(c, MHD_HTTP_HEADER_AUTHORIZATION));
  set_text(L, "host", header(c, MHD_HTTP_HEADER_HOST));
  lua_pushboolean(L, q->body);
  lua_setfield(L, -2, "body");
  lua_pushboolean(L, q->p->too_long);
  lua_setfield(L, -2, "too_long");
}

static void add_headers(lua_State *L, int i, struct MHD_Response *r) {
  if (!lua_istable(L, i)) return;
  lua_pushnil(L);
  while (lua_next(L, i)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TSTRING)
      MHD_add_response_header(r, lua_tostring(L, -2), lua_tostring(L, -1));
    lua_pop(L, 1);
  }
}

/* From (status, headers, body) at `first`. Raises nothing once it is made. */
static bool take_answer(lua_State *L, int first, peer *p) {
  size_t len;
  const char *body = luaL_optlstring(L, first + 2, "", &len);
  p->status = (unsigned)luaL_checkinteger(L, first);
  p->response = MHD_create_response_from_buffer(len, (void *)(uintptr_t)body,
                                                MHD_RESPMEM_MUST_COPY);
  if (p->response) add_headers(L, first + 1, p->response);
  return p->response != NULL;
}

/* Protected: (asked) -> was it answered? */
static int call_handler(lua_State *L) {
  asked *q = lua_touserdata(L, 1);
  lua_settop(L, 0);
  lua_rawgeti(L, LUA_REGISTRYINDEX, q->a->handler);
  push_request(L, q);
  lua_call(L, 1, 3);
  if (!lua_isnil(L, 1) && !take_answer(L, 1, q->p))
    luaL_error(L, "not enough memory");
  return 0;
}

static enum MHD_Result send_answer(peer *p) {
  enum MHD_Result rc =
      MHD_queue_response(p->connection, p->status, p->response);
  forget_response(p);
  return rc;
}

/* Nothing that goes wrong in Lua passes through libmicrohttpd. */
static enum MHD_Result ask(asked *q) {
  lua_State *L = q->a->L;
  q->p->id = ++q->a->last_id;
  q->p->deadline = mt_admin_now() + q->a->answer_ms;
  q->a->requests++;
  if (!lua_checkstack(L, 8)) return MHD_NO;
  lua_pushcfunction(L, call_handler);
  lua_pushlightuserdata(L, q);
  if (lua_pcall(L, 1, 0, 0) != 0) {
    fprintf(stderr, "[mtenant] error in the admin endpoint: %s\n",
            lua_tostring(L, -1));
    lua_pop(L, 1);
    return MHD_NO;
  }
  if (!q->p->response) {
    MHD_suspend_connection(q->p->connection);
    return MHD_YES;
  }
  q->p->id = 0;
  return send_answer(q->p);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c,
                                  const char *url, const char *method,
                                  const char *version, const char *data,
                                  size_t *size, void **context) {
  peer *p = peer_of(c);
  asked q = {cls, p, method, version, false};
  (void)url;
  (void)data;
  (void)context;
  *size = 0;
  if (!p) return MHD_NO;
  if (p->response) return send_answer(p);
  if (p->seen) return ask(&q);
  p->seen = true;
  q.body = has_body(c);
  /* with a body it is answered before that is read, else when all is there */
  return q.body ? ask(&q) : MHD_YES;
}

/* ---- the loop -------------------------------------------------------------------- */

void mt_admin_set_timer(const mt_admin *a) {
  struct itimerspec spec = {{0, 0}, {0, 1}};
  unsigned long long ms;
  double now = mt_admin_now(), at = a->wake_at;
  const mt_node *n;
  if (MHD_get_timeout(a->daemon, &ms) == MHD_YES && now + (double)ms < at)
    at = now + (double)ms;
  for (n = a->peers.head; n; n = n->next) {
    const peer *p = mt_container(n, peer, node);
    if (!p->id && p->deadline < at) at = p->deadline;
  }
  if (a->resumed) at = now;
  if (isinf(at)) {
    spec.it_value.tv_nsec = 0;
  } else if (at > now) {
    double s = floor((at - now) / 1000);
    spec.it_value.tv_sec = (time_t)s;
    spec.it_value.tv_nsec = 1 + (long)((at - now - s * 1000) * 999999);
  }
  timerfd_settime(a->timer, 0, &spec, NULL);
}

static int watch(int epoll, int fd) {
  struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);
}

static int open_fds(mt_admin *a) {
  const union MHD_DaemonInfo *i =
      MHD_get_daemon_info(a->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  a->epoll = epoll_create1(EPOLL_CLOEXEC);
  a->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (!i || a->epoll < 0 || a->timer < 0) return -1;
  if (watch(a->epoll, i->epoll_fd) != 0) return -1;
  return watch(a->epoll, a->timer);
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

void mt_admin_run(mt_admin *a, lua_State *L) {
  uint64_t expired;
  a->L = L;
  while (read(a->timer, &expired, sizeof expired) < 0 && errno == EINTR)
    continue;
  a->resumed = false;
  MHD_run(a->daemon);
  cut_off(a, mt_admin_now());
  a->L = NULL;
}

bool mt_admin_answer(mt_admin *a, lua_State *L, lua_Integer id, int first) {
  mt_node *n;
  for (n = a->daemon && id > 0 ? a->peers.head : NULL; n; n = n->next) {
    peer *p = mt_container(n, peer, node);
    if (p->id != id) continue;
    if (!take_answer(L, first, p)) luaL_error(L, "not enough memory");
    p->id = 0;
    MHD_resume_connection(p->connection);
    a->resumed = true; /* libmicrohttpd tells nobody */
    if (!a->L) mt_admin_set_timer(a);
    return true;
  }
  return false;
}

/* ---- begin and end ------------------------------------------------------------- */

void mt_admin_stop(mt_admin *a) {
  mt_node *n;
  struct MHD_Daemon *daemon = a->daemon;
  if (!daemon) return;
  a->daemon = NULL;
  close_fd(&a->epoll);
  close_fd(&a->timer);
  for (n = a->peers.head; n; n = n->next) {
    peer *p = mt_container(n, peer, node);
    if (p->id) MHD_resume_connection(p->connection);
  }
  mt_admin_unlisten(&a->socket); /* before somebody finds it refusing */
  MHD_stop_daemon(daemon);       /* closes the descriptor as well */
}

static void start_daemon(mt_admin *a, const mt_admin_limits *l) {
  unsigned request_s = (unsigned)ceil(a->request_ms / 1000);
  a->daemon = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, a,
      MHD_OPTION_LISTEN_SOCKET, a->socket.fd, MHD_OPTION_CONNECTION_LIMIT,
      l->connections, MHD_OPTION_PER_IP_CONNECTION_LIMIT, l->per_address,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, l->header_bytes,
      MHD_OPTION_CONNECTION_TIMEOUT, request_s, MHD_OPTION_STRICT_FOR_CLIENT, 1,
      MHD_OPTION_URI_LOG_CALLBACK, on_target, NULL, MHD_OPTION_NOTIFY_COMPLETED,
      on_completed, a, MHD_OPTION_NOTIFY_CONNECTION, on_connection, a,
      MHD_OPTION_END);
}

bool mt_admin_open(mt_admin *a, const mt_admin_limits *l) {
  start_daemon(a, l);
  if (!a->daemon) {
    close(a->socket.fd);
    mt_admin_unlisten(&a->socket);
    return false;
  }
  if (open_fds(a) != 0) {
    mt_admin_stop(a);
    return false;
  }
  mt_admin_set_timer(a);
  return true;
}
