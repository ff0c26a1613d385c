/*
 * A listener's C side: what has happened on its connection, in order, for the
 * task that takes it. What is listened to is lua/mtenant/listen.lua's.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

typedef enum happening { OPENED, ANSWERED, NOTIFIED } happening;

typedef struct event {
  mt_node node;
  happening what;
  mt_error *err;       /* of ANSWERED; owned */
  const char *payload; /* of NOTIFIED: in the same block */
  char channel[];
} event;

struct mt_listener_ud {
  mt_rt *rt;
  mt_listener *listener; /* NULL: closed for good */
  mt_list events;
  mt_error *lost; /* why it is closed; told when the events are taken */
  mt_op *waiter;
};

static void wake(mt_listener_ud *u) {
  mt_op *op = u->waiter;
  u->waiter = NULL;
  if (op) mt_op_finish(op, NULL);
}

/* What can't be told is a gap, as a lost connection leaves one. */
static void add(mt_listener_ud *u, happening what, const mt_error *err,
                const char *channel, const char *payload) {
  size_t n = strlen(channel) + 1, m = strlen(payload) + 1;
  event *e = mt_malloc(sizeof *e + n + m);
  if (!e) {
    mt_listener_close(u->listener);
    return;
  }
  memset(e, 0, sizeof *e);
  e->what = what;
  e->err = err ? mt_error_ref(err) : NULL;
  memcpy(e->channel, channel, n);
  e->payload = memcpy(e->channel + n, payload, m);
  mt_list_push(&u->events, &e->node);
  wake(u);
}

static void on_open(void *data) { add(data, OPENED, NULL, "", ""); }

static void on_answer(void *data, const mt_error *err) {
  add(data, ANSWERED, err, "", "");
}

static void on_notify(void *data, const char *channel, const char *payload) {
  add(data, NOTIFIED, NULL, channel, payload);
}

static void on_close(void *data, const mt_error *err) {
  mt_listener_ud *u = data;
  mt_error_unref(u->lost);
  u->lost = err ? mt_error_ref(err)
                : mt_error_new(MT_E_CONNECTION_LOST, "the listener was closed");
  wake(u);
}

static const mt_listener_callbacks callbacks = {on_open, on_answer, on_notify,
                                                on_close};

static mt_listener_ud *check(lua_State *L) {
  mt_listener_ud *u = luaL_checkudata(L, 1, MT_LUA_LISTENER);
  if (!u->listener) mt_lua_misuse(L, "this listener has been closed");
  return u;
}

/* The tenant's, which has a route; not connected yet. */
int mt_lua_push_listener(lua_State *L, mt_tenant *t) {
  mt_error *err = NULL;
  mt_listener_ud *u = lua_newuserdatauv(L, sizeof *u, 0);
  memset(u, 0, sizeof *u);
  u->rt = mt_lua_rt(L);
  luaL_setmetatable(L, MT_LUA_LISTENER);
  if (mt_listener_new(t, &callbacks, u, &u->listener, &err) != MT_OK)
    return mt_lua_fail(L, err, t->shared ? "shared" : t->id);
  return 1;
}

static void forget_events(mt_listener_ud *u) {
  mt_node *n;
  while ((n = mt_list_pop(&u->events))) {
    event *e = mt_container(n, event, node);
    mt_error_unref(e->err);
    mt_free(e);
  }
  mt_error_unref(u->lost);
  u->lost = NULL;
}

/* open() -> true | nil, err: begins to connect */
static int l_open(lua_State *L) {
  mt_listener_ud *u = check(L);
  mt_error *err = NULL;
  forget_events(u);
  if (mt_listener_open(u->listener, &err) != MT_OK)
    return mt_lua_fail(L, err, NULL);
  lua_pushboolean(L, 1);
  return 1;
}

/* send(sql) -> false: it is not open */
static int l_send(lua_State *L) {
  mt_listener_ud *u = check(L);
  lua_pushboolean(L, mt_listener_send(u->listener, luaL_checkstring(L, 2)));
  return 1;
}

/* take() -> slot; the result is what has happened, see mt_lua_push_events, or
 * nil and why the connection is closed */
static int l_take(lua_State *L) {
  mt_listener_ud *u = check(L);
  mt_op *op;
  if (u->waiter) mt_lua_misuse(L, "somebody takes from this listener");
  op = mt_op_new(L, MT_OP_LISTEN);
  op->listener = u;
  lua_pushvalue(L, 1);
  op->lease_ref = luaL_ref(L, LUA_REGISTRYINDEX); /* u lives as long */
  if (u->events.len > 0)
    mt_op_finish(op, NULL);
  else if (u->lost)
    mt_op_finish(op, mt_error_ref(u->lost));
  else
    u->waiter = op;
  return mt_op_push_slot(L, op);
}

/* disconnect(): take() will say so */
static int l_disconnect(lua_State *L) {
  mt_listener_close(check(L)->listener);
  return 0;
}

void mt_lua_listen_cancel(mt_op *op) {
  if (op->listener->waiter == op) op->listener->waiter = NULL;
}

static void push_event(lua_State *L, mt_rt *rt, const event *e) {
  if (e->what == OPENED) {
    lua_pushliteral(L, "open");
  } else if (e->what == NOTIFIED) {
    lua_createtable(L, 2, 0);
    lua_pushstring(L, e->channel);
    lua_rawseti(L, -2, 1);
    lua_pushstring(L, e->payload);
    lua_rawseti(L, -2, 2);
  } else if (e->err) {
    mt_lua_push_error(L, rt, e->err, NULL, 0);
  } else {
    lua_pushboolean(L, 1);
  }
}

/* An array: "open"; true or an error object, the answer to a send; { channel,
 * payload }. Empty: it is lost. */
void mt_lua_push_events(lua_State *L, mt_op *op) {
  mt_listener_ud *u = op->listener;
  int i = 0;
  mt_node *n;
  lua_createtable(L, (int)u->events.len, 0);
  while ((n = mt_list_pop(&u->events))) {
    event *e = mt_container(n, event, node);
    push_event(L, op->rt, e);
    lua_rawseti(L, -2, ++i);
    mt_error_unref(e->err);
    mt_free(e);
  }
}

/* close(): idempotent; also __gc */
static int l_close(lua_State *L) {
  mt_listener_ud *u = luaL_checkudata(L, 1, MT_LUA_LISTENER);
  mt_listener *l = u->listener;
  if (!l) return 0;
  u->listener = NULL;
  forget_events(u);
  if (u->waiter && !u->rt->closing) {
    mt_op *op = u->waiter;
    u->waiter = NULL;
    mt_op_finish(op, mt_error_new(MT_E_CANCELLED, "the listener was closed"));
  }
  mt_listener_free(l);
  return 0;
}

void mt_lua_listen_register(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"open", l_open},   {"send", l_send},
      {"take", l_take},   {"disconnect", l_disconnect},
      {"close", l_close}, {NULL, NULL}};
  static const luaL_Reg meta[] = {
      {"__gc", l_close}, {"__close", l_close}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_LISTENER, methods, meta);
}
