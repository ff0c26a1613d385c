/*
 * Routes from Lua: a checked table as the core wants it, and the answers of
 * resolvers. What the fields mean is checked in lua/mtenant/routing.lua; the
 * core checks names and texts again.
 */
#include <string.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"
#include "pg/endpoint.h"

static const char *field(lua_State *L, int table, const char *key) {
  const char *s;
  lua_getfield(L, table, key);
  s = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  lua_pop(L, 1);
  return s;
}

/* An error object of Lua's as one of ours. */
static mt_error *error_from(lua_State *L, int index) {
  const char *text, *code = NULL;
  mt_error *e;
  int c;
  if (lua_istable(L, index)) {
    code = field(L, index, "code");
    text = field(L, index, "message");
  } else {
    text = lua_tostring(L, index);
  }
  c = code ? mt_code_from_name(code) : 0;
  e = mt_error_new(c ? c : MT_E_POLICY, "%s", text ? text : "no route");
  if (e->refs && lua_istable(L, index)) {
    lua_getfield(L, index, "retryable");
    e->retryable = lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  return e;
}

/* Valid while the table at that index is. */
static mt_route route_at(lua_State *L, int index) {
  return (mt_route){.url = field(L, index, "url"),
                    .schema = field(L, index, "schema"),
                    .role = field(L, index, "role"),
                    .database = field(L, index, "database"),
                    .setting = field(L, index, "setting"),
                    .setting_value = field(L, index, "setting_value")};
}

typedef struct lua_route {
  mt_route route;
  mt_route_options options;
  const char *pairs[2 * MT_SETTINGS_MAX + 3];
} lua_route;

/* One more than there may be, so that the core refuses it. */
static void read_settings(lua_State *L, int index, lua_route *r) {
  int n = 0;
  lua_getfield(L, index, "settings");
  if (lua_istable(L, -1)) {
    lua_pushnil(L);
    while (lua_next(L, -2)) {
      if (n <= MT_SETTINGS_MAX && lua_type(L, -1) == LUA_TSTRING &&
          lua_type(L, -2) == LUA_TSTRING) {
        r->pairs[2 * n] = lua_tostring(L, -2);
        r->pairs[2 * n + 1] = lua_tostring(L, -1);
        n++;
      }
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  r->pairs[2 * n] = NULL;
  r->options.settings = r->pairs;
}

static void read_pool(lua_State *L, int index, mt_route_options *o) {
  const char *mode;
  lua_getfield(L, index, "pool");
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "max");
    o->pool_max = (int)lua_tointeger(L, -1);
    lua_getfield(L, -2, "max_waiting");
    o->max_waiting = (int)lua_tointeger(L, -1);
    lua_pop(L, 2);
    mode = field(L, lua_gettop(L), "mode");
    if (mode)
      o->mode =
          strcmp(mode, "dedicated") == 0 ? MT_POOL_DEDICATED : MT_POOL_SHARED;
  }
  lua_pop(L, 1);
}

static void read_route(lua_State *L, int index, lua_route *r) {
  memset(&r->options, 0, sizeof r->options);
  r->options.size = sizeof r->options;
  r->route = route_at(L, index);
  read_settings(L, index, r);
  read_pool(L, index, &r->options);
}

/* check_route(id, route, url of the configuration) -> name of the server, or
 * nil and what a manager would say of that route */
int mt_lua_check_route(lua_State *L) {
  const char *id = luaL_checkstring(L, 1);
  const char *url = luaL_checkstring(L, 3);
  mt_endpoint *ep = NULL;
  mt_error *err;
  lua_route r;
  luaL_checktype(L, 2, LUA_TTABLE);
  read_route(L, 2, &r);
  err = mt_route_problem(id, false, &r.route, &r.options);
  if (!err &&
      mt_endpoint_parse(r.route.url ? r.route.url : url, &ep, &err) != MT_OK)
    err = mt_route_url_error(id, err);
  if (err) return mt_lua_fail(L, err, id);
  lua_pushstring(L, ep->server);
  mt_endpoint_unref(ep);
  return 1;
}

/* ... -> was it asked for still, and taken? */
int mt_lua_resolved(lua_State *L) {
  mt_manager_ud *u = mt_lua_check_manager(L);
  uint64_t token = (uint64_t)(uintptr_t)lua_touserdata(L, 2);
  mt_error *err = NULL;
  luaL_argcheck(L, token != 0, 2, "token expected");
  if (lua_istable(L, 3)) {
    lua_route r;
    read_route(L, 3, &r);
    lua_pushboolean(L,
                    mt_manager_answer(u->m, token, &r.route, &r.options, NULL));
    return 1;
  }
  if (!lua_isnoneornil(L, 4)) err = error_from(L, 4);
  mt_manager_answer(u->m, token, NULL, NULL, err);
  mt_error_unref(err);
  lua_pushboolean(L, 0);
  return 1;
}

/* server_url(url, url of the configuration or nil) -> name of its server, the
 * url with what the other one has and it has not; or nil and an error */
int mt_lua_server_url(lua_State *L) {
  const char *url = luaL_checkstring(L, 1), *base = luaL_optstring(L, 2, NULL);
  mt_endpoint *ep = NULL;
  mt_error *err = NULL;
  char *full = NULL;
  if (mt_endpoint_inherit(url, base, &full, &err) != MT_OK ||
      mt_endpoint_parse(full, &ep, &err) != MT_OK) {
    mt_free(full);
    return mt_lua_fail(L, err, NULL);
  }
  lua_pushstring(L, ep->server);
  lua_pushstring(L, full);
  mt_endpoint_unref(ep);
  mt_free(full);
  return 2;
}
