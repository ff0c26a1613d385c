/*
 * luaopen_mtenant_admin_core: HTTP for the admin endpoint. A module of its own,
 * so that only who serves one loads libmicrohttpd. It runs on somebody else's
 * loop: `fd` is readable when `run` has something to do, also when only time
 * has passed. A request is handed to one Lua function, which answers at once or
 * later by `respond`. What is served is in lua/mtenant/admin.lua.
 */
#include <math.h>
#include <string.h>

#include "lua/admin_http.h"
#include "mtenant.h"

__attribute__((visibility("default"))) int luaopen_mtenant_admin_core(
    lua_State *L);

#define CLASS "mtenant.admin " MT_VERSION

static mt_admin *check_admin(lua_State *L) {
  return luaL_checkudata(L, 1, CLASS);
}

static mt_admin *check_open(lua_State *L) {
  mt_admin *a = check_admin(L);
  if (!a->daemon) luaL_error(L, "the admin endpoint is closed");
  return a;
}

/* close(): at once; connections are cut. Idempotent. */
static int admin_close(lua_State *L) {
  mt_admin *a = check_admin(L);
  if (a->L) {
    a->close_after = true;
    return 0;
  }
  mt_admin_stop(a);
  luaL_unref(L, LUA_REGISTRYINDEX, a->handler);
  a->handler = LUA_NOREF;
  return 0;
}

/* run(): what there is to do, without blocking */
static int admin_run(lua_State *L) {
  mt_admin *a = check_admin(L);
  if (!a->daemon || a->L) return 0;
  mt_admin_run(a, L);
  if (a->close_after) return admin_close(L);
  mt_admin_set_timer(a);
  return 0;
}

/* wake_in(ms): the descriptor is readable by then; nil: no need */
static int admin_wake_in(lua_State *L) {
  mt_admin *a = check_open(L);
  a->wake_at = lua_isnoneornil(L, 2) ? INFINITY
                                     : mt_admin_now() + luaL_checknumber(L, 2);
  if (!a->L) mt_admin_set_timer(a);
  return 0;
}

static int admin_fd(lua_State *L) {
  lua_pushinteger(L, check_open(L)->epoll);
  return 1;
}

static int admin_port(lua_State *L) {
  lua_pushinteger(L, check_admin(L)->socket.port);
  return 1;
}

/* respond(id, status, headers, body) -> false: the request is gone */
static int admin_respond(lua_State *L) {
  mt_admin *a = check_admin(L);
  lua_Integer id = luaL_checkinteger(L, 2);
  lua_pushboolean(L, mt_admin_answer(a, L, id, 3));
  return 1;
}

/* stats() -> { connections, requests, late }: how many are open, how many were
 * asked, how many connections were cut for being slow */
static int admin_stats(lua_State *L) {
  const mt_admin *a = check_admin(L);
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, (lua_Integer)a->peers.len);
  lua_setfield(L, -2, "connections");
  lua_pushnumber(L, a->requests);
  lua_setfield(L, -2, "requests");
  lua_pushnumber(L, a->late);
  lua_setfield(L, -2, "late");
  return 1;
}

static lua_Integer field(lua_State *L, const char *key) {
  lua_Integer n;
  lua_getfield(L, 1, key);
  n = luaL_checkinteger(L, -1);
  lua_pop(L, 1);
  return n;
}

/* start(options, handler) -> endpoint | nil, message. options: host and port,
 * or path; connections, connections_per_address, header_bytes, request_ms
 * (until a request must have come), answer_ms (until its answer must be gone).
 * handler(request) -> status, headers, body; nothing: later, by respond. */
static int start(lua_State *L) {
  char why[256];
  mt_admin *a;
  int port;
  mt_admin_limits l;
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  port = (int)field(L, "port");
  l.connections = (unsigned)field(L, "connections");
  l.per_address = (unsigned)field(L, "connections_per_address");
  l.header_bytes = (size_t)field(L, "header_bytes");
  a = lua_newuserdatauv(L, sizeof *a, 0);
  memset(a, 0, sizeof *a);
  a->epoll = a->timer = -1;
  a->handler = LUA_NOREF;
  a->wake_at = INFINITY;
  a->request_ms = (double)field(L, "request_ms");
  a->answer_ms = (double)field(L, "answer_ms");
  luaL_setmetatable(L, CLASS);
  lua_pushvalue(L, 2);
  a->handler = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_getfield(L, 1, "host");
  lua_getfield(L, 1, "path");
  if (mt_admin_listen(&a->socket, luaL_optstring(L, -2, ""), port,
                      lua_tostring(L, -1), why, sizeof why) != 0) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  if (!mt_admin_open(a, &l)) {
    lua_pushnil(L);
    lua_pushliteral(L, "no descriptors or no memory for it");
    return 2;
  }
  lua_pop(L, 2);
  return 1;
}

/* is_loopback(host) -> boolean; nil: no numeric address */
static int is_loopback(lua_State *L) {
  int answer = mt_admin_is_loopback(luaL_checkstring(L, 1));
  if (answer < 0) return 0;
  lua_pushboolean(L, answer);
  return 1;
}

/* process() -> { pid, now_ms (since 1970), uptime_ms, rss_bytes } */
static int process(lua_State *L) {
  mt_admin_process p;
  mt_admin_look(&p);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, p.pid);
  lua_setfield(L, -2, "pid");
  lua_pushnumber(L, p.now_ms);
  lua_setfield(L, -2, "now_ms");
  lua_pushnumber(L, p.uptime_ms);
  lua_setfield(L, -2, "uptime_ms");
  lua_pushnumber(L, p.rss_bytes);
  lua_setfield(L, -2, "rss_bytes");
  return 1;
}

int luaopen_mtenant_admin_core(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"close", admin_close}, {"run", admin_run},
      {"fd", admin_fd},       {"wake_in", admin_wake_in},
      {"port", admin_port},   {"respond", admin_respond},
      {"stats", admin_stats}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"start", start},
                                       {"is_loopback", is_loopback},
                                       {"process", process},
                                       {NULL, NULL}};
  luaL_newmetatable(L, CLASS);
  lua_pushcfunction(L, admin_close);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
