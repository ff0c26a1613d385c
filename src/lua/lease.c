/*
 * A lease's C side: statements on a pinned connection, for transactions,
 * sessions and streams, which lua/mtenant/ composes of them. The first
 * statement carries what has to come before it (BEGIN and scope, or the
 * session's scope), in the same round trip.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

void mt_lua_push_lease(lua_State *L, mt_rt *rt, mt_op *op) {
  mt_lease_ud *u = lua_newuserdatauv(L, sizeof *u, 0);
  memset(u, 0, sizeof *u);
  u->rt = rt;
  luaL_setmetatable(L, MT_LUA_LEASE);
  u->lease = op->lease;
  u->tenant = mt_tenant_ref(op->tenant);
  u->scope = mt_scope_ref(op->tenant->scope);
  op->lease = NULL;
  rt->leases++;
}

static mt_lease_ud *check_lease(lua_State *L) {
  mt_lease_ud *u = luaL_checkudata(L, 1, MT_LUA_LEASE);
  if (!u->lease) mt_lua_misuse(L, "this lease has been released");
  return u;
}

static const char *name_of(const mt_lease_ud *u) {
  return u->tenant->shared ? "shared" : u->tenant->id;
}

/* Is it to be seen first that the schema is still the same? A query would
 * forbid SET TRANSACTION, and does nothing for the user's ROLLBACK. */
static bool looks(const mt_sql_info *info) {
  return info && !info->set_transaction && info->cls != MT_SQL_CONTROL;
}

/* On a session: what wants to be alone in its implicit transaction. */
static bool stands_alone(const mt_lease_ud *u, const mt_sql_info *info) {
  return u->session && looks(info) && info->cls > MT_SQL_DDL;
}

/* What has to come before the statement goes into the same unit. A query
 * (the fence) would forbid SET TRANSACTION, so that goes without. */
static unsigned prelude(mt_lease_ud *u, mt_req *req, const mt_sql_info *info) {
  unsigned flags = u->in_tx ? MT_REQ_IN_TX : 0;
  if (u->begin) {
    req->begin = u->begin;
    u->begin = NULL;
    u->fence = true;
  }
  if (u->fence && !(info && info->set_transaction)) {
    flags |= MT_REQ_FENCE;
    u->fence = false;
  } else if (u->session && !u->scoped) {
    flags |= MT_REQ_SESSION_SCOPE;
    u->scoped = true;
  } else if (looks(info)) {
    flags |= MT_REQ_SAME;
  }
  return flags;
}

static mt_op *submit(lua_State *L, mt_lease_ud *u, mt_req *req,
                     mt_error **err) {
  mt_op *op = mt_op_new(L, MT_OP_QUERY);
  op->tenant = mt_tenant_ref(u->tenant);
  op->lease_ud = u;
  lua_pushvalue(L, 1);
  op->lease_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  if (!mt_query_wire(op, req))
    mt_fail(err, mt_error_oom());
  else if (mt_lease_submit(u->lease, req, err) == MT_OK)
    return op;
  mt_tenant_note_refused(u->tenant, req, (*err)->code);
  mt_op_drop(op);
  return NULL;
}

/* ---- statements ------------------------------------------------------------------------- */

static bool is_pooled(const mt_lease_ud *u) {
  return mt_manager_get_config(u->tenant->manager)->pooled;
}

/* Refuses what would end the scope, hang the protocol, or stay on a session
 * that a pooler gives to others. */
static bool refused(lua_State *L, const mt_lease_ud *u, const mt_sql *sql,
                    bool in_tx) {
  if (sql->info.cls == MT_SQL_COPY)
    lua_pushliteral(L, "copy");
  else if (sql->info.cls == MT_SQL_CONTROL && in_tx)
    lua_pushliteral(L, "control");
  else if (sql->info.lasting && is_pooled(u))
    lua_pushliteral(L, "pooled");
  else
    return false;
  return true;
}

/* As refused, for one statement with parameters; "look": ready(sql) first. */
static bool refused_as_query(lua_State *L, const mt_lease_ud *u,
                             const mt_sql *sql) {
  if (sql->info.cls > MT_SQL_PLAIN || sql->info.statements == 1) {
    if (refused(L, u, sql, true)) return true;
    if (u->looked || !stands_alone(u, &sql->info)) return false;
    lua_pushliteral(L, "look");
    return true;
  }
  lua_pushstring(L, sql->info.statements == 0 ? "empty" : "plain");
  return true;
}

/* Makes the request of a statement on this lease; NULL: no memory. */
static mt_req *make(mt_lease_ud *u, mt_sql *sql, unsigned flags,
                    const mt_params *p) {
  mt_req *req = mt_req_new(flags, u->scope, sql);
  bool alone;
  if (!req) return NULL;
  if ((p && mt_req_set_params(req, p->n, p->values, p->lens) != MT_OK) ||
      mt_req_set_comment(req, u->comment) != MT_OK) {
    mt_req_free(req);
    return NULL;
  }
  alone = flags & MT_REQ_SIMPLE || stands_alone(u, &sql->info);
  req->flags |= prelude(u, req, alone ? NULL : &sql->info);
  u->looked = false;
  if (u->session || sql->info.cls > MT_SQL_PLAIN) req->flags |= MT_REQ_UNNAMED;
  mt_lease_note(u->lease, &sql->info);
  return req;
}

/* query(sql, as, timeout_ms or nil, json, ...)
 *   -> slot | nil, err | false, class, keyword */
static int query(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  double timeout = luaL_optnumber(L, 4, 0);
  mt_error *err = NULL;
  mt_params params;
  mt_sql *sql;
  mt_req *req;
  mt_op *op;
  mt_lua_params(L, 6, &params);
  sql = mt_lua_check_sql(L, u->tenant->manager);
  if (refused_as_query(L, u, sql)) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    lua_pushstring(L, sql->info.control);
    mt_sql_unref(sql);
    return 3;
  }
  req = make(u, sql, 0, &params);
  mt_sql_unref(sql);
  if (!req) return mt_lua_fail(L, NULL, name_of(u));
  req->timeout_ms = timeout;
  op = submit(L, u, req, &err);
  if (!op) return mt_lua_fail(L, err, name_of(u));
  op->as = (mt_as)(luaL_checkinteger(L, 3) & MT_AS_KIND);
  op->json = lua_toboolean(L, 5);
  return mt_op_push_slot(L, op);
}

/* An empty statement that only carries the prelude, ahead of what can't. */
static bool send_prelude(mt_lease_ud *u, mt_error **err);

static void on_prelude(mt_req *req) { mt_req_free(req); }

static bool send_prelude(mt_lease_ud *u, mt_error **err) {
  mt_req *req;
  if (!u->begin && !u->fence && !(u->session && !u->scoped)) return true;
  req = mt_req_new(MT_REQ_PING, u->scope, NULL);
  if (!req) {
    mt_fail(err, mt_error_oom());
    return false;
  }
  req->flags |= prelude(u, req, NULL);
  req->on_finish = on_prelude;
  if (mt_lease_submit(u->lease, req, err) == MT_OK) return true;
  mt_req_free(req);
  return false;
}

/* exec(sql, timeout_ms or nil, data of its COPYs...): simple protocol. A failed
 * prelude leaves the transaction aborted (or, for a session, is checked by
 * ready() first). */
static int exec(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  double timeout = luaL_optnumber(L, 3, 0);
  mt_error *err = NULL;
  mt_params params;
  mt_sql *sql;
  mt_req *req;
  mt_op *op;
  if (lua_gettop(L) < 3) lua_settop(L, 3);
  mt_lua_params(L, 4, &params);
  sql = mt_lua_check_sql(L, u->tenant->manager);
  if (!(sql->info.cls == MT_SQL_COPY && params.n > 0) &&
      refused(L, u, sql, u->in_tx)) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    lua_pushstring(L, sql->info.control);
    mt_sql_unref(sql);
    return 3;
  }
  if (!send_prelude(u, &err)) {
    mt_sql_unref(sql);
    return mt_lua_fail(L, err, name_of(u));
  }
  req = make(u, sql, MT_REQ_SIMPLE, &params);
  mt_sql_unref(sql);
  if (!req) return mt_lua_fail(L, NULL, name_of(u));
  req->timeout_ms = timeout;
  op = submit(L, u, req, &err);
  return op ? mt_op_push_slot(L, op) : mt_lua_fail(L, err, name_of(u));
}

/* ready(sql or nil): runs the prelude alone and waits for it: the scope is
 * there, and the schema, for the statement that comes next; or the error says
 * why not. */
static int ready(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  mt_error *err = NULL;
  mt_sql *sql =
      lua_isnoneornil(L, 2) ? NULL : mt_lua_check_sql(L, u->tenant->manager);
  mt_req *req = mt_req_new(MT_REQ_PING, u->scope, NULL);
  mt_op *op;
  if (req) req->flags |= prelude(u, req, sql ? &sql->info : NULL);
  u->looked = sql != NULL;
  mt_sql_unref(sql);
  if (!req) return mt_lua_fail(L, NULL, name_of(u));
  op = submit(L, u, req, &err);
  return op ? mt_op_push_slot(L, op) : mt_lua_fail(L, err, name_of(u));
}

/* control(text, "commit" or nil): COMMIT, ROLLBACK, SAVEPOINT ... of ours */
static int control(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  const char *text = luaL_checkstring(L, 2);
  bool commit = lua_toboolean(L, 3);
  mt_error *err = NULL;
  mt_req *req = mt_req_new_text(MT_REQ_IN_TX | (commit ? MT_REQ_COMMIT : 0u),
                                u->scope, text);
  mt_op *op;
  if (!req) return mt_lua_fail(L, NULL, name_of(u));
  req->flags |= prelude(u, req, NULL);
  op = submit(L, u, req, &err);
  return op ? mt_op_push_slot(L, op) : mt_lua_fail(L, err, name_of(u));
}

/* begin(text): the transaction starts with the next statement. */
static int begin(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  luaL_checkstring(L, 2);
  mt_lua_take_text(L, 2, &u->begin);
  if (!mt_scope_make_local(u->scope)) return luaL_error(L, "not enough memory");
  u->in_tx = true;
  return 0;
}

/* comment(text or nil): goes behind each statement of the user's from now on */
static int comment(lua_State *L) {
  mt_lua_take_text(L, 2, &check_lease(L)->comment);
  return 0;
}

/* pending(): BEGIN has not been sent yet */
static int pending(lua_State *L) {
  lua_pushboolean(L, check_lease(L)->begin != NULL);
  return 1;
}

/* ended(): the transaction is over, the lease lives on */
static int ended(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  mt_free(u->begin);
  u->begin = NULL;
  u->in_tx = u->fence = false;
  return 0;
}

/* session(): the scope is set on the session with the next statement */
static int session(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  if (u->scope->read_only) /* only a transaction is read-only for sure */
    return mt_lua_misuse(L, "a reader has no sessions");
  u->session = true;
  u->lease->tainted = true;
  return 0;
}

/* ---- streams ----------------------------------------------------------------------------- */

static void wake_fetch(mt_lease_ud *u, mt_error *err) {
  mt_op *op = u->fetch;
  u->fetch = NULL;
  if (op)
    mt_op_finish(op, err);
  else
    mt_error_unref(err);
}

static void on_rows(mt_req *req) {
  mt_lease_ud *u = req->data;
  if (u) wake_fetch(u, NULL);
}

static void on_stream_end(mt_req *req) {
  mt_lease_ud *u = req->data;
  if (!u) {
    mt_req_free(req);
    return;
  }
  u->stream_done = true;
  mt_tenant_note_end(u->tenant, req, req->err);
  if (!u->fetch) return;
  wake_fetch(u, req->err ? mt_error_ref(req->err) : NULL);
}

/* stream(sql, ...) -> true | nil, err | false, class, keyword */
static int stream(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  mt_error *err = NULL;
  mt_params params;
  mt_sql *sql;
  mt_req *req;
  mt_lua_params(L, 3, &params);
  if (u->stream) mt_lua_misuse(L, "this lease streams already");
  sql = mt_lua_check_sql(L, u->tenant->manager);
  if (sql->info.cls > MT_SQL_PLAIN) {
    lua_pushboolean(L, 0);
    lua_pushliteral(L, "session");
    lua_pushstring(L, sql->info.control);
    mt_sql_unref(sql);
    return 3;
  }
  req = make(u, sql, MT_REQ_STREAM | MT_REQ_UNNAMED, &params);
  mt_sql_unref(sql);
  if (!req) return mt_lua_fail(L, NULL, name_of(u));
  req->on_finish = on_stream_end;
  req->on_rows = on_rows;
  req->data = u;
  if (mt_lease_submit(u->lease, req, &err) != MT_OK) {
    mt_tenant_note_refused(u->tenant, req, err->code);
    mt_req_free(req);
    return mt_lua_fail(L, err, name_of(u));
  }
  u->stream = req;
  u->stream_done = false;
  lua_pushboolean(L, 1);
  return 1;
}

static void let_stream_go(mt_lease_ud *u) {
  mt_req *req = u->stream;
  u->stream = NULL;
  if (!req) return;
  if (u->stream_done) {
    mt_req_free(req);
    return;
  }
  mt_tenant_note_end(u->tenant, req, NULL);
  req->detached = true;
  req->data = NULL;
}

/* stop_stream(): what the server still sends is read and dropped */
static int stop_stream(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  let_stream_go(u);
  mt_lease_resume(u->lease);
  return 0;
}

/* fetch(as, json) -> slot; the result is an array of rows, or false at the
 * end */
static int fetch(lua_State *L) {
  mt_lease_ud *u = check_lease(L);
  mt_op *op;
  if (!u->stream || u->fetch) mt_lua_misuse(L, "nothing to fetch");
  op = mt_op_new(L, MT_OP_FETCH);
  op->tenant = mt_tenant_ref(u->tenant);
  op->lease_ud = u;
  op->as = (mt_as)luaL_checkinteger(L, 2);
  op->json = lua_toboolean(L, 3);
  lua_pushvalue(L, 1);
  op->lease_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  if (u->stream->nrows > 0)
    mt_op_finish(op, NULL);
  else if (u->stream_done)
    mt_op_finish(op, u->stream->err ? mt_error_ref(u->stream->err) : NULL);
  else
    u->fetch = op;
  return mt_op_push_slot(L, op);
}

/* ---- end -------------------------------------------------------------------------------------- */

/* cancel(): what runs on it, if it can be told apart */
static int cancel(lua_State *L) {
  lua_pushboolean(L, mt_lease_cancel(check_lease(L)->lease));
  return 1;
}

static int taint(lua_State *L) {
  check_lease(L)->lease->tainted = true;
  return 0;
}

static int pid(lua_State *L) {
  lua_pushinteger(L, mt_lease_backend_pid(check_lease(L)->lease));
  return 1;
}

/* release(): idempotent; also __gc and __close */
static int release(lua_State *L) {
  mt_lease_ud *u = luaL_checkudata(L, 1, MT_LUA_LEASE);
  mt_lease *l = u->lease;
  if (!l) return 0;
  u->lease = NULL;
  let_stream_go(u);
  mt_free(u->begin);
  mt_free(u->comment);
  u->begin = u->comment = NULL;
  mt_lease_release(l);
  mt_scope_unref(u->scope);
  mt_tenant_unref(u->tenant);
  u->rt->leases--;
  return 0;
}

static int held(lua_State *L) {
  mt_lease_ud *u = luaL_checkudata(L, 1, MT_LUA_LEASE);
  lua_pushboolean(L, u->lease != NULL);
  return 1;
}

void mt_lua_lease_register(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"query", query},     {"exec", exec},   {"ready", ready},
      {"control", control}, {"begin", begin}, {"comment", comment},
      {"pending", pending}, {"ended", ended}, {"session", session},
      {"stream", stream},   {"fetch", fetch}, {"stop_stream", stop_stream},
      {"cancel", cancel},   {"taint", taint}, {"pid", pid},
      {"release", release}, {"held", held},   {NULL, NULL}};
  static const luaL_Reg meta[] = {
      {"__gc", release}, {"__close", release}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_LEASE, methods, meta);
}
