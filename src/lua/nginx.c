/*
 * luaopen_mtenant_nginx: the pollable descriptor of the core's loop in one
 * connection of nginx, and the end of requests. Built against the headers of
 * one nginx (whose version and signature are compared when it is loaded) into
 * a module of its own; nothing else here knows nginx.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include "lua/compat.h"

#define ATTACHED "mtenant.nginx.attached"

/* The core's step, called as C: no Lua is between nginx and it. */
typedef void (*step_fn)(void *reactor);

typedef struct attached {
  ngx_connection_t *c; /* NULL: detached */
  step_fn step;
  void *reactor;
  lua_State *L; /* anchored: callbacks run there */
  int thread_ref, on_end_ref;
} attached;

/* ---- the descriptor --------------------------------------------------------------- */

static void on_readable(ngx_event_t *ev) {
  const ngx_connection_t *c = ev->data;
  const attached *a = c->data;
  a->step(a->reactor);
}

static void on_writable(ngx_event_t *ev) { (void)ev; }

static void detach(attached *a) {
  ngx_connection_t *c = a->c;
  if (!c) return;
  a->c = NULL;
  if (c->read->active) ngx_del_event(c->read, NGX_READ_EVENT, 0);
  if (c->read->posted) {
    ngx_delete_posted_event(c->read);
  }
  ngx_free_connection(c);
  c->fd = (ngx_socket_t)-1; /* the core closes it */
}

static bool may_attach(void) {
  return ngx_process == NGX_PROCESS_WORKER || ngx_process == NGX_PROCESS_SINGLE;
}

/* attach(fd, step, reactor, on_end) -> what keeps it attached. on_end(key) is
 * called when a request that was watched ends. */
static int attach(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  attached *a;
  ngx_connection_t *c;
  luaL_checktype(L, 2, LUA_TLIGHTUSERDATA);
  luaL_checktype(L, 3, LUA_TLIGHTUSERDATA);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  lua_settop(L, 4);
  if (!may_attach())
    return luaL_error(L,
                      "mtenant: only workers of nginx can use it, not the "
                      "master process (init_by_lua)");
  a = lua_newuserdata(L, sizeof *a);
  memset(a, 0, sizeof *a);
  luaL_getmetatable(L, ATTACHED);
  lua_setmetatable(L, -2);
  a->step = (step_fn)(uintptr_t)lua_touserdata(L, 2);
  a->reactor = lua_touserdata(L, 3);
  lua_pushvalue(L, 4);
  a->on_end_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  a->L = lua_newthread(L);
  mt_lua_disown_thread(a->L);
  a->thread_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  c = ngx_get_connection(fd, ngx_cycle->log);
  if (!c) return luaL_error(L, "mtenant: no worker_connections left");
  c->data = a;
  c->read->log = c->write->log = ngx_cycle->log;
  c->read->handler = on_readable;
  c->write->handler = on_writable;
  /* nothing that keeps the worker from its end: what is open then is closed
   * with the Lua state */
  c->read->channel = 1;
  if (ngx_add_event(c->read, NGX_READ_EVENT, NGX_LEVEL_EVENT) != NGX_OK) {
    ngx_free_connection(c);
    c->fd = (ngx_socket_t)-1;
    return luaL_error(L, "mtenant: nginx can't watch the descriptor");
  }
  a->c = c;
  return 1;
}

static int detached(lua_State *L) {
  detach(luaL_checkudata(L, 1, ATTACHED));
  return 0;
}

/* ---- the end of a request ------------------------------------------------------------ */

typedef struct watch {
  lua_State *L; /* NULL: nobody is told */
  int on_end_ref, key_ref;
} watch;

static void on_cleanup(void *data) {
  watch *w = data;
  lua_State *L = w->L;
  if (!L) return;
  w->L = NULL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, w->on_end_ref);
  lua_rawgeti(L, LUA_REGISTRYINDEX, w->key_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, w->key_ref);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return;
  ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "mtenant: %s",
                lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* watch(attached, request, key): on_end(key) is called when the request, an
 * address, has ended, however it did. */
static int watch_request(lua_State *L) {
  const attached *a = luaL_checkudata(L, 1, ATTACHED);
  ngx_http_request_t *r =
      (ngx_http_request_t *)(uintptr_t)luaL_checknumber(L, 2);
  ngx_http_cleanup_t *cln = ngx_http_cleanup_add(r, sizeof(watch));
  watch *w;
  if (!cln) return luaL_error(L, "not enough memory");
  w = cln->data;
  cln->handler = on_cleanup;
  lua_settop(L, 3);
  w->L = a->L;
  w->on_end_ref = a->on_end_ref;
  w->key_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* ---- module ----------------------------------------------------------------------------- */

/* Another nginx than the one whose headers these are has other structures. */
static void check_version(lua_State *L) {
  if (ngx_core_module.version != nginx_version)
    luaL_error(L, "mtenant was built for nginx %d, and this is %d",
               (int)nginx_version, (int)ngx_core_module.version);
  if (strcmp(ngx_core_module.signature, NGX_MODULE_SIGNATURE) != 0)
    luaL_error(L, "mtenant was built for an nginx with other options");
}

__attribute__((visibility("default"))) int luaopen_mtenant_nginx(lua_State *L);

int luaopen_mtenant_nginx(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"attach", attach}, {"watch", watch_request}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", detached}, {NULL, NULL}};
  check_version(L);
  luaL_newmetatable(L, ATTACHED);
  luaL_setfuncs(L, meta, 0);
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  return 1;
}
