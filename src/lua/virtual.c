/*
 * The simulated loop of mtenant.testing: the same scheduler, operations and
 * core on a clock that moves only when everybody waits. While it runs, the
 * real loop stands still; lua/mtenant/testing.lua is its only user. Also what
 * that needs of the core's classification.
 */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "lua/mt_lua.h"
#include "reactor/reactor_manual.h"

/* virtual_begin(seed): from now on tasks run on the simulated loop */
static int begin(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  mt_loop *loop = &rt->simulated;
  lua_Integer seed = luaL_checkinteger(L, 1);
  if (rt->loop == loop) mt_lua_misuse(L, "a virtual clock runs already");
  if (!loop->reactor) loop->reactor = mt_manual_new();
  if (!loop->reactor) return luaL_error(L, "not enough memory");
  if (mt_reactor_live(loop->reactor) == 0) mt_manual_restart(loop->reactor, 0);
  mt_rand_seed(&loop->rand, (uint64_t)seed);
  rt->loop = loop;
  return 0;
}

/* virtual_end(): back to the real loop; what tasks still wait for on the
 * simulated one is forgotten */
static int end(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  if (rt->loop != &rt->simulated) return 0;
  mt_ops_forget_simulated(rt);
  rt->loop = &rt->real;
  return 0;
}

/* Connections that are idle for long must not cost a full wait whenever time
 * moves on. */
static bool poll_sockets(mt_loop *loop, int wait_ms) {
  uint64_t happened = loop->started + mt_manual_changes(loop->reactor);
  if (loop->quiet_at == happened) wait_ms = (wait_ms + 19) / 20;
  if (mt_manual_poll(loop->reactor, wait_ms)) return true;
  loop->quiet_at = happened;
  return false;
}

bool mt_virtual_turn(mt_rt *rt, double within_ms, int io_wait_ms) {
  mt_reactor *r = rt->simulated.reactor;
  if (mt_reactor_end_turn(r)) return true;
  if (mt_manual_poll(r, 0) || mt_manual_run_due(r)) return true;
  if (io_wait_ms > 0 && poll_sockets(&rt->simulated, io_wait_ms)) return true;
  return mt_manual_jump(r, within_ms);
}

/* virtual_turn(within_ms, io_wait_ms) -> false when nothing is left to do */
static int turn(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  double within = luaL_checknumber(L, 1);
  int io_wait = (int)luaL_checkinteger(L, 2);
  lua_pushboolean(L, mt_virtual_turn(rt, within, io_wait));
  return 1;
}

/* virtual_next() -> milliseconds until the next timer, or nil */
static int next_timer(lua_State *L) {
  mt_reactor *r = mt_lua_rt(L)->simulated.reactor;
  double ms = r ? mt_manual_next_timer(r) : -1;
  if (ms < 0) return 0;
  lua_pushnumber(L, ms);
  return 1;
}

/* ---- classification ---------------------------------------------------------- */

static int push_code(lua_State *L, int code, bool retryable) {
  lua_pushstring(L, mt_code_name(code));
  lua_pushboolean(L, retryable);
  return 2;
}

/* code_of_sqlstate(sqlstate, "connect" | "statement") -> code, retryable */
static int code_of_sqlstate(lua_State *L) {
  static const char *const phases[] = {"connect", "statement", NULL};
  static const mt_phase values[] = {MT_PHASE_CONNECT, MT_PHASE_STATEMENT};
  const char *sqlstate = luaL_checkstring(L, 1);
  bool retryable = false;
  int code = mt_code_from_sqlstate(
      sqlstate, values[luaL_checkoption(L, 2, NULL, phases)], &retryable);
  return push_code(L, code, retryable);
}

#define NAMED(name) \
  { #name, name }
static const struct {
  const char *name;
  int number;
} errnos[] = {NAMED(ECONNREFUSED), NAMED(ETIMEDOUT),    NAMED(EHOSTUNREACH),
              NAMED(ENETUNREACH),  NAMED(ENETDOWN),     NAMED(ECONNRESET),
              NAMED(ECONNABORTED), NAMED(EPIPE),        NAMED(ENOENT),
              NAMED(EAGAIN),       NAMED(EACCES),       NAMED(EMFILE),
              NAMED(ENFILE),       NAMED(EADDRNOTAVAIL)};

/* code_of_errno(name, is_unix) -> code, retryable, text; nothing for a name
 * that is not known */
static int code_of_errno(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  bool is_unix = lua_toboolean(L, 2), retryable = false;
  size_t i;
  int code;
  for (i = 0; i < sizeof errnos / sizeof *errnos; i++) {
    if (strcmp(errnos[i].name, name) != 0) continue;
    code = mt_code_from_errno(errnos[i].number, is_unix, &retryable);
    push_code(L, code, retryable);
    lua_pushstring(L, strerror(errnos[i].number));
    return 3;
  }
  return 0;
}

const luaL_Reg mt_lua_virtual_functions[] = {
    {"virtual_begin", begin},
    {"virtual_end", end},
    {"virtual_turn", turn},
    {"virtual_next", next_timer},
    {"code_of_sqlstate", code_of_sqlstate},
    {"code_of_errno", code_of_errno},
    {NULL, NULL}};
