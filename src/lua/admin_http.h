/*
 * The HTTP of an admin endpoint: connections, their limits, requests and their
 * answers, on libmicrohttpd. See admin.c, which is Lua's side of it.
 */
#ifndef MT_LUA_ADMIN_HTTP_H
#define MT_LUA_ADMIN_HTTP_H

#include "base/list.h"
#include "lua/admin_socket.h"
#include "lua/compat.h"

struct MHD_Daemon;

typedef struct mt_admin {
  struct MHD_Daemon *daemon; /* NULL: closed */
  mt_admin_socket socket;
  int epoll, timer; /* -1: none; epoll is readable when there is work */
  int handler;      /* registry: function(request) -> status, headers, body */
  lua_State *L;     /* where mt_admin_run was called, while it runs */
  bool close_after; /* it was closed by what it runs */
  bool resumed;     /* there is an answer to send */
  mt_list peers;
  double request_ms, answer_ms;
  double wake_at; /* readable by then, too; by mt_admin_now */
  lua_Integer last_id;
  double requests, late; /* counts */
} mt_admin;

typedef struct mt_admin_limits {
  unsigned connections, per_address;
  size_t header_bytes;
} mt_admin_limits;

double mt_admin_now(void);

/* Serves a->socket, whose descriptor is taken over. False: it was closed. */
bool mt_admin_open(mt_admin *a, const mt_admin_limits *l);
/* Does what there is to do; the handler is called on L. */
void mt_admin_run(mt_admin *a, lua_State *L);
/* When it is to be run next. After anything that changes that. */
void mt_admin_set_timer(const mt_admin *a);
/* Answers a request with (status, headers, body) at `first`; false: it is
 * gone. May raise. */
bool mt_admin_answer(mt_admin *a, lua_State *L, lua_Integer id, int first);
/* Closes everything at once. Idempotent; not while it runs. */
void mt_admin_stop(mt_admin *a);

#endif
