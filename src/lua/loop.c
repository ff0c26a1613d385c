/*
 * The loop of a host that is not libev: one descriptor to watch, and steps.
 * See reactor/reactor_poll.c, lua/mtenant/host.lua.
 */
#include "lua/mt_lua.h"
#include "mtenant_lua.h"
#include "pg/resolver.h"

static bool in_use(const mt_rt *rt) {
  return rt->managers > 0 || rt->nops > rt->nfree || rt->watchers > 0 ||
         mt_reactor_live(rt->real.reactor) > 0;
}

/* What was posted meanwhile goes along. */
static void move_to(mt_rt *rt, mt_reactor *r) {
  if (mt_node_linked(&rt->real.deliver.node)) {
    mt_defer_del(&rt->real.deliver);
    mt_defer_add(r, &rt->real.deliver, MT_DEFER_DELIVER);
  }
  if (!rt->real.borrowed) mt_reactor_free(rt->real.reactor);
  rt->real.reactor = r;
}

/* Opens the module as `require` would. */
static mt_rt *runtime(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  lua_getfield(L, -1, "mtenant.core");
  if (lua_isnil(L, -1)) {
    lua_pushcfunction(L, luaopen_mtenant_core);
    lua_pushliteral(L, "mtenant.core");
    lua_call(L, 1, 1);
    lua_setfield(L, -3, "mtenant.core");
  }
  lua_pop(L, 2);
  lua_getfield(L, LUA_REGISTRYINDEX, MT_LUA_RUNTIME);
  return lua_touserdata(L, -1);
}

int mt_lua_set_reactor(lua_State *L, mt_reactor *r) {
  int top = lua_gettop(L);
  mt_rt *rt = runtime(L);
  lua_settop(L, top); /* the registry keeps it */
  if (rt->real.reactor == r) return MT_OK;
  if (in_use(rt) || rt->loop != &rt->real) return MT_E_MISUSE;
  move_to(rt, r);
  rt->real.borrowed = true;
  return MT_OK;
}

/* borrowed() -> does the host turn the loop? */
static int borrowed(lua_State *L) {
  lua_pushboolean(L, mt_lua_rt(L)->loop->borrowed);
  return 1;
}

/* pollfd() -> the descriptor; from the first call on it is what tells that
 * there is something to do. Raises where the loop is in use already. */
static int pollfd(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  mt_reactor *r = NULL;
  if (mt_reactor_fd(rt->real.reactor) < 0) {
    if (in_use(rt) || rt->loop != &rt->real)
      mt_lua_misuse(L,
                    "the host's loop must be attached before anything is "
                    "started: something runs on a loop of its own already");
    if (mt_reactor_poll_new(&r) != MT_OK)
      return luaL_error(L, "mtenant: no descriptors for an event loop");
    move_to(rt, r);
    rt->real.borrowed = false;
  }
  lua_pushinteger(L, mt_reactor_fd(rt->real.reactor));
  return 1;
}

/* step(): does what there is to do, without blocking */
static int step(lua_State *L) {
  mt_reactor_step(mt_lua_rt(L)->real.reactor);
  return 0;
}

/* timeout_ms() -> until there is something to do, or nil */
static int timeout_ms(lua_State *L) {
  double ms = mt_reactor_timeout_ms(mt_lua_rt(L)->real.reactor);
  if (ms < 0) return 0;
  lua_pushnumber(L, ms);
  return 1;
}

/* flush(): what was asked for goes out now, not when the host steps */
static int flush(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  mt_reactor_flush(rt->loop->reactor);
  return 0;
}

/* engaged() -> does a task or a host wait for anything? */
static int engaged(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  lua_pushboolean(L, rt->nops > rt->nfree);
  return 1;
}

/* live() -> is anything watched at all? */
static int live(lua_State *L) {
  lua_pushboolean(L, mt_reactor_live(mt_lua_rt(L)->real.reactor) > 0);
  return 1;
}

static void step_reactor(void *reactor) { mt_reactor_step(reactor); }

/* step_pointer() -> a C function, and its argument: for a host in C, which
 * need not go through Lua to step */
static int step_pointer(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)step_reactor);
  lua_pushlightuserdata(L, mt_lua_rt(L)->real.reactor);
  return 2;
}

/* dns_servers(csv): the name servers to ask instead of the machine's */
static int dns_servers(lua_State *L) {
  const char *servers = luaL_checkstring(L, 1);
  int rc = mt_resolver_set_servers(mt_lua_rt(L)->real.reactor, servers);
  if (rc == MT_E_OUT_OF_MEMORY) return luaL_error(L, "not enough memory");
  lua_pushboolean(L, rc == MT_OK);
  return 1;
}

const luaL_Reg mt_lua_loop_functions[] = {
    {"pollfd", pollfd},           {"step", step},
    {"timeout_ms", timeout_ms},   {"flush", flush},
    {"engaged", engaged},         {"live", live},
    {"dns_servers", dns_servers}, {"step_pointer", step_pointer},
    {"borrowed", borrowed},       {NULL, NULL}};
