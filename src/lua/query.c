/*
 * Queries: parameters from Lua values, answers, deadlines and cancel; the
 * same for a tenant's plain statements and for those on a lease.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

/* ---- parameters -------------------------------------------------------------------- */

/* The commonest parameter; snprintf takes longer than the whole rest. */
static const char *integer_text(lua_Integer n, char *buf, size_t size) {
  uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
  char *at = buf + size;
  *--at = '\0';
  do *--at = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  if (n < 0) *--at = '-';
  return at;
}

static const char *number_text(lua_State *L, const mt_rt *rt, int arg,
                               char *buf, size_t size) {
  locale_t before;
  lua_Number x;
  x = lua_tonumber(L, arg);
  if (lua_isinteger(L, arg) && (x != 0 || !signbit(x)))
    return integer_text(lua_tointeger(L, arg), buf, size);
  if (isnan(x)) return "NaN";
  if (isinf(x)) return x > 0 ? "Infinity" : "-Infinity";
  before = uselocale(rt->c_locale);
  snprintf(buf, size, "%.17g", x);
  uselocale(before);
  return buf;
}

/* A marker made by mtenant.json, .array or .bytea carries its text. */
static const char *marker_text(lua_State *L, mt_rt *rt, int arg, int n,
                               size_t *len) {
  const char *s;
  bool ok = false;
  if (lua_getmetatable(L, arg)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, rt->marker_mt_ref);
    ok = lua_rawequal(L, -1, -2) != 0;
    lua_pop(L, 2);
  }
  if (!ok)
    mt_lua_misuse(L,
                  "parameter %d is a table: wrap it with mtenant.json(), "
                  "mtenant.array() or mtenant.bytea()",
                  n);
  lua_rawgeti(L, arg, 1);
  s = lua_tolstring(L, -1, len);
  lua_pop(L, 1); /* the marker keeps it */
  if (s && memchr(s, '\0', *len))
    mt_lua_misuse(L, "parameter %d has a NUL byte: text can't hold it", n);
  return s;
}

static const char *param_text(lua_State *L, mt_rt *rt, int arg, int n,
                              char *buf, size_t size, size_t *len) {
  const char *s;
  switch (lua_type(L, arg)) {
    case LUA_TNIL:
      return NULL;
    case LUA_TLIGHTUSERDATA:
      if (lua_touserdata(L, arg) == NULL) return NULL;
      break;
    case LUA_TBOOLEAN:
      s = lua_toboolean(L, arg) ? "true" : "false";
      *len = strlen(s);
      return s;
    case LUA_TNUMBER:
      s = number_text(L, rt, arg, buf, size);
      *len = strlen(s);
      return s;
    case LUA_TSTRING:
      s = lua_tolstring(L, arg, len);
      if (memchr(s, '\0', *len))
        mt_lua_misuse(L,
                      "parameter %d has a NUL byte: text can't hold it, use "
                      "mtenant.bytea()",
                      n);
      return s;
    case LUA_TTABLE:
      return marker_text(L, rt, arg, n, len);
    default:
      s = mt_lua_int64_text(L, arg, buf, size);
      if (!s) break;
      *len = strlen(s);
      return s;
  }
  mt_lua_misuse(L, "parameter %d is a %s, which has no SQL form", n,
                luaL_typename(L, arg));
}

/* core.list: the parameters follow as a table and their number, because they
 * are more than a call can have arguments. */
static const char list_key;

void mt_lua_push_list_key(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&list_key);
}

/* The texts stay valid: the list holds the strings. */
static void listed(lua_State *L, mt_rt *rt, int list, mt_params *p,
                   char (*bufs)[40]) {
  int i;
  for (i = 0; i < p->n; i++) {
    lua_rawgeti(L, list, i + 1);
    p->values[i] = param_text(L, rt, lua_gettop(L), i + 1, bufs[i],
                              sizeof bufs[i], &p->lens[i]);
    lua_pop(L, 1);
  }
}

void mt_lua_params(lua_State *L, int first, mt_params *p) {
  mt_rt *rt = mt_lua_rt(L);
  char(*bufs)[40] = p->inline_bufs;
  bool list = lua_touserdata(L, first) == (const void *)&list_key;
  int i;
  p->n =
      list ? (int)luaL_checkinteger(L, first + 2) : lua_gettop(L) - first + 1;
  p->values = p->inline_values;
  p->lens = p->inline_lens;
  if (p->n > 65535)
    mt_lua_misuse(L, "%d parameters: the protocol allows 65535", p->n);
  if (p->n > MT_INLINE_PARAMS) {
    size_t each = sizeof *p->values + sizeof *p->lens + sizeof *bufs;
    char *block = lua_newuserdatauv(L, (size_t)p->n * each, 0);
    p->values = (const char **)(void *)block;
    p->lens = (size_t *)(void *)(p->values + p->n);
    bufs = (char(*)[40])(void *)(p->lens + p->n);
  }
  if (list) {
    luaL_checktype(L, first + 1, LUA_TTABLE);
    listed(L, rt, first + 1, p, bufs);
    return;
  }
  for (i = 0; i < p->n; i++)
    p->values[i] = param_text(L, rt, first + i, i + 1, bufs[i], sizeof bufs[i],
                              &p->lens[i]);
}

/* ---- answers -------------------------------------------------------------------------- */

/* 57014 says "cancelled" whoever asked: say who it was. */
static mt_error *explain(const mt_op *op, mt_error *err) {
  mt_error *e;
  int code = op->stop;
  if (strcmp(err->sqlstate, "57014") != 0 || err->code == MT_E_DISPOSED)
    return err;
  if (!code && op->timer_user) code = MT_E_TIMEOUT;
  if (!code && op->req->timeout_ms > 0 && !op->req->cancelled)
    code = MT_E_TIMEOUT;
  if (!code) return err;
  e = mt_error_dup(err);
  if (e->refs) {
    e->code = code;
    e->retryable = false;
  }
  mt_error_unref(err);
  return e;
}

static void on_finish(mt_req *req) {
  mt_op *op = req->data;
  mt_error *err = req->err;
  if (!op) {
    mt_req_free(req);
    return;
  }
  req->err = NULL;
  mt_op_finish(op, err ? explain(op, err) : NULL);
}

/* ---- deadlines and cancel ----------------------------------------------------------------- */

static mt_error *stopped(const mt_op *op, int code, bool ambiguous) {
  const char *what = code == MT_E_TIMEOUT ? "timed out" : "cancelled";
  mt_error *e = mt_error_new(
      code,
      ambiguous ? "%s while it ran: whether it took effect is unknown"
                : "%s before it was sent",
      what);
  if (e->refs) {
    e->ambiguous = ambiguous;
    mt_error_set_statement(e, mt_req_sql(op->req));
  }
  return e;
}

/* Nobody waits for the answer any more. */
static void let_go(mt_op *op, int code) {
  op->req->detached = true;
  op->req->data = NULL;
  mt_op_finish(op, stopped(op, code, true));
  op->req = NULL;
}

static void taken_back(mt_op *op, int code) {
  mt_op_finish(op, stopped(op, code, false));
}

void mt_query_cancel(mt_op *op, int code) {
  if (op->stop) return;
  if (op->lease_ud) {
    op->stop = code;
    if (op->lease_ud->lease && mt_lease_cancel(op->lease_ud->lease)) return;
    if (op->req->cancelled) return; /* its answer is on the way */
    let_go(op, code);
    return;
  }
  switch (mt_tenant_cancel(op->tenant, op->req)) {
    case MT_CANCEL_TAKEN:
      taken_back(op, code);
      return;
    case MT_CANCEL_SENT:
      op->stop = code;
      return;
    case MT_CANCEL_NONE:
      if (op->req->cancelled)
        op->stop = code;
      else
        let_go(op, code);
  }
}

/* A plain statement's own timeout: the server ends it by statement_timeout;
 * the client only waits a little longer for that answer. */
static void on_deadline(mt_op *op) {
  if (op->lease_ud) {
    mt_query_cancel(op, MT_E_TIMEOUT);
    return;
  }
  if (op->timer_user) {
    let_go(op, MT_E_TIMEOUT);
    return;
  }
  op->timer_user = true;
  if (mt_tenant_take_back(op->tenant, op->req))
    taken_back(op, MT_E_TIMEOUT);
  else
    mt_op_after(op,
                mt_manager_get_config(op->tenant->manager)->cancel_timeout_ms,
                on_deadline);
}

bool mt_query_wire(mt_op *op, mt_req *req) {
  op->req = req;
  req->data = op;
  req->on_finish = on_finish;
  if (req->timeout_ms <= 0) return true;
  req->deadline = mt_reactor_now(op->loop->reactor) + req->timeout_ms;
  return mt_op_after(op, req->timeout_ms, on_deadline);
}
