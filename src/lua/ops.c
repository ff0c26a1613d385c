/*
 * Operations: slots, completion, delivery to the scheduler, cancel. See
 * mt_lua.h. A slot is free again as soon as next_done() has handed it out.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

/* Of its own, since most operations have none, and it is a third of one. */
typedef struct mt_op_timer {
  mt_timer timer;
  mt_op *op;
  void (*cb)(mt_op *op);
} mt_op_timer;

/* ---- slots ---------------------------------------------------------------------- */

static int grow(mt_rt *rt) {
  int cap = rt->capops ? rt->capops * 2 : 64;
  mt_op **ops = mt_realloc(rt->ops, (size_t)cap * sizeof *ops);
  int *slots;
  if (!ops) return MT_E_OUT_OF_MEMORY;
  rt->ops = ops;
  slots = mt_realloc(rt->free_slots, (size_t)cap * sizeof *slots);
  if (!slots) return MT_E_OUT_OF_MEMORY;
  rt->free_slots = slots;
  rt->capops = cap;
  return MT_OK;
}

static int take_slot(mt_rt *rt) {
  if (rt->nfree > 0) return rt->free_slots[--rt->nfree];
  if (rt->nops == rt->capops && grow(rt) != MT_OK) return 0;
  return ++rt->nops;
}

mt_op *mt_op_new(lua_State *L, mt_op_kind kind) {
  mt_rt *rt = mt_lua_rt(L);
  mt_op *op = mt_calloc(sizeof *op);
  if (op) op->slot = take_slot(rt);
  if (!op || op->slot == 0) {
    mt_free(op);
    luaL_error(L, "not enough memory");
    return NULL;
  }
  op->kind = kind;
  op->rt = rt;
  op->loop = rt->loop;
  op->loop->started += kind != MT_OP_SLEEP; /* what makes sockets busy */
  op->lease_ref = LUA_NOREF;
  rt->ops[op->slot - 1] = op;
  return op;
}

static void drop_timer(mt_op *op) {
  if (!op->timer) return;
  mt_timer_del(&op->timer->timer);
  mt_free(op->timer);
  op->timer = NULL;
}

static void on_timer(mt_timer *t) {
  mt_op_timer *timer = mt_container(t, mt_op_timer, timer);
  timer->cb(timer->op);
}

bool mt_op_after(mt_op *op, double ms, void (*cb)(mt_op *op)) {
  if (!op->timer) op->timer = mt_calloc(sizeof *op->timer);
  if (!op->timer) return false;
  op->timer->timer.cb = on_timer;
  op->timer->op = op;
  op->timer->cb = cb;
  mt_timer_set(op->loop->reactor, &op->timer->timer, ms);
  return true;
}

static void op_free(mt_op *op) {
  mt_rt *rt = op->rt;
  drop_timer(op);
  rt->ops[op->slot - 1] = NULL;
  rt->free_slots[rt->nfree++] = op->slot;
  if (op->tenant) mt_tenant_unref(op->tenant);
  if (op->lease_ref != LUA_NOREF)
    luaL_unref(rt->L, LUA_REGISTRYINDEX, op->lease_ref);
  if (op->req) {
    if (op->req->state == MT_REQ_DONE || op->req->state == MT_REQ_NEW)
      mt_req_free(op->req);
    else
      op->req->data = NULL; /* its answer frees it */
  }
  mt_error_unref(op->err);
  mt_free(op);
}

void mt_op_drop(mt_op *op) { op_free(op); }

int mt_op_push_slot(lua_State *L, mt_op *op) {
  lua_pushinteger(L, op->slot);
  return 1;
}

void mt_op_finish(mt_op *op, mt_error *err) {
  if (op->finished) {
    mt_error_unref(err);
    return;
  }
  op->finished = true;
  op->err = err;
  if (op->timer) mt_timer_del(&op->timer->timer);
  if (op->kind == MT_OP_SLEEP) /* timers are not late behind a crowd */
    mt_list_push_front(&op->loop->done, &op->node);
  else
    mt_list_push(&op->loop->done, &op->node);
  mt_defer_add(op->loop->reactor, &op->loop->deliver, MT_DEFER_DELIVER);
}

/* ---- sleep ------------------------------------------------------------------------ */

static void on_wake(mt_op *op) { mt_op_finish(op, NULL); }

static int l_sleep(lua_State *L) {
  double ms = luaL_checknumber(L, 1);
  mt_op *op = mt_op_new(L, MT_OP_SLEEP);
  if (mt_op_after(op, ms > 0 ? ms : 0, on_wake)) return mt_op_push_slot(L, op);
  mt_op_drop(op);
  return luaL_error(L, "not enough memory");
}

/* ---- delivery -------------------------------------------------------------------------- */

static const char *tenant_of(const mt_op *op) {
  if (!op->tenant) return NULL;
  return op->tenant->shared ? "shared" : op->tenant->id;
}

/* Pushes one value for a success. */
static void push_result(lua_State *L, mt_op *op) {
  switch (op->kind) {
    case MT_OP_QUERY:
      if (op->as == MT_AS_LAZY)
        mt_lua_push_lazy(L, op->rt, op->req, op->json);
      else
        mt_lua_push_rows(L, op->rt, op->req, op->as, op->json);
      return;
    case MT_OP_ACQUIRE:
      mt_lua_push_lease(L, op->rt, op);
      return;
    case MT_OP_CONNECT:
      lua_pushinteger(L, op->attempts);
      return;
    case MT_OP_PING:
      lua_pushstring(L, op->busy ? "busy" : "ok");
      return;
    case MT_OP_LISTEN:
      mt_lua_push_events(L, op);
      return;
    case MT_OP_FETCH: {
      mt_result *rows[512];
      mt_lease_ud *l = op->lease_ud;
      int n = l->stream ? mt_req_take_rows(l->stream, rows, 512) : 0;
      if (n > 0 && l->lease) mt_lease_resume(l->lease);
      if (n > 0)
        mt_lua_push_batch(L, op->rt, l->stream, rows, n, op->as, op->json);
      else
        lua_pushboolean(L, 0); /* the end */
      return;
    }
    default:
      lua_pushboolean(L, 1);
  }
}

/* next_done() -> slot, result | slot, nil, err | nothing */
static int next_done(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  mt_node *n = mt_list_pop(&rt->loop->done);
  mt_op *op;
  int results = 2;
  if (!n) return 0;
  op = mt_container(n, mt_op, node);
  lua_settop(L, 0);
  luaL_checkstack(L, 8, NULL);
  lua_pushinteger(L, op->slot);
  if (op->err) {
    lua_pushnil(L);
    mt_lua_push_error(L, rt, op->err, tenant_of(op), op->attempts);
    results = 3;
  } else {
    push_result(L, op);
  }
  op_free(op);
  return results;
}

/* may_wait(thread) -> does this run in that coroutine, and may it yield here?
 */
static int may_wait(lua_State *L) {
  lua_pushboolean(L, lua_tothread(L, 1) == L && lua_isyieldable(L));
  return 1;
}

/* ---- cancel ------------------------------------------------------------------------------ */

static void cancel_acquire(mt_op *op) {
  if (op->acquire) mt_acquire_cancel(op->acquire);
  op->acquire = NULL;
  if (op->lease) mt_lease_release(op->lease);
  op->lease = NULL;
}

/* cancel(slot, "timeout" | "cancelled"): the operation ends with that code,
 * at the latest when the server has answered a cancel. */
static int l_cancel(lua_State *L) {
  static const char *const names[] = {"timeout", "cancelled", NULL};
  static const int codes[] = {MT_E_TIMEOUT, MT_E_CANCELLED};
  mt_rt *rt = mt_lua_rt(L);
  lua_Integer slot = luaL_checkinteger(L, 1);
  int code = codes[luaL_checkoption(L, 2, "cancelled", names)];
  const char *text = code == MT_E_TIMEOUT ? "timed out" : "cancelled";
  mt_op *op = slot > 0 && slot <= rt->nops ? rt->ops[slot - 1] : NULL;
  if (!op || op->finished) return 0;
  switch (op->kind) {
    case MT_OP_QUERY:
      mt_query_cancel(op, code);
      return 0;
    case MT_OP_CONNECT:
      if (op->flight) {
        op->stop = code;
        mt_flight_cancel(op->flight);
        op->flight = NULL;
      }
      return 0;
    case MT_OP_ACQUIRE:
      cancel_acquire(op);
      mt_tenant_note_failed(op->tenant, code);
      break;
    case MT_OP_ROUTE: /* is no lease */
      cancel_acquire(op);
      break;
    case MT_OP_FETCH:
      op->lease_ud->fetch = NULL;
      mt_tenant_note_failed(op->tenant, code);
      break;
    case MT_OP_PING:
      if (op->ping) mt_ping_cancel(op->ping);
      op->ping = NULL;
      break;
    case MT_OP_LISTEN:
      mt_lua_listen_cancel(op);
      break;
    case MT_OP_SLEEP:
    case MT_OP_DISPOSE:
      break;
  }
  mt_op_finish(op, mt_error_new(code, "%s", text));
  return 0;
}

const luaL_Reg mt_lua_ops_functions[] = {{"sleep", l_sleep},
                                         {"next_done", next_done},
                                         {"may_wait", may_wait},
                                         {"cancel", l_cancel},
                                         {NULL, NULL}};

/* Nobody on the simulated loop waits any more. What a manager will still tell
 * its operation is thrown away by the real one. */
void mt_ops_forget_simulated(mt_rt *rt) {
  int i;
  for (i = 0; i < rt->nops; i++) {
    mt_op *op = rt->ops[i];
    if (!op || op->loop != &rt->simulated) continue;
    if (op->flight || (op->kind == MT_OP_DISPOSE && !op->finished)) {
      op->loop = &rt->real;
      continue;
    }
    if (op->acquire || op->lease) cancel_acquire(op);
    if (op->ping) mt_ping_cancel(op->ping);
    if (op->kind == MT_OP_FETCH) op->lease_ud->fetch = NULL;
    if (op->kind == MT_OP_LISTEN) mt_lua_listen_cancel(op);
    mt_node_unlink(&op->node);
    op_free(op);
  }
}

/* The VM goes away: nobody waits any more. */
void mt_ops_close(mt_rt *rt) {
  int i;
  for (i = 0; i < rt->nops; i++) {
    mt_op *op = rt->ops[i];
    if (!op) continue;
    if (op->acquire || op->lease) cancel_acquire(op);
    if (op->ping) mt_ping_cancel(op->ping);
    if (op->kind == MT_OP_CONNECT && op->flight) continue; /* ends by itself */
    if (op->kind == MT_OP_LISTEN) mt_lua_listen_cancel(op);
    mt_node_unlink(&op->node);
    op->lease_ref = LUA_NOREF; /* the registry goes too */
    op_free(op);
  }
}
