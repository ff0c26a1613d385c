/*
 * core.sandbox{...} -> sandbox: the userdata of a policy's own Lua state.
 *
 * Work in it is done by coroutines. Each runs the worker that the booting code
 * returned; it is resumed with plain data, and suspends itself with `false`
 * and results, when it waits for the next call, or with the name of what the
 * host is to do, and arguments. Nothing of the other state is called without
 * protection, and its errors come back as results.
 */
#include "lua/sandbox.h"

#include "base/alloc.h"

enum { MIN_MEMORY = 256 << 10, MAX_FUNCTIONS = 16 };

/* One look into the state: what the protected function is to do. */
typedef struct job {
  mt_sandbox *s;
  const char *text[2]; /* boot */
  size_t len[2];
  const luaL_Reg *more;
  uint64_t budget_ns;
  int handle; /* a coroutine's reference; 0: any */
  lua_State *co;
  int status, results;
} job;

enum { NEVER_RAN = -1 };

static mt_sandbox *to_sandbox(lua_State *L) {
  return luaL_checkudata(L, 1, MT_LUA_SANDBOX);
}

static mt_sandbox *check_open(lua_State *L) {
  mt_sandbox *s = to_sandbox(L);
  if (s->running) luaL_error(L, "the sandbox is running");
  return s;
}

/* ---- booting ------------------------------------------------------------------- */

static void open_libs(lua_State *L) {
  static const luaL_Reg libs[] = {MT_LUA_SANDBOX_LIBS};
  size_t i;
  for (i = 0; i < sizeof libs / sizeof *libs; i++) {
    lua_pushcfunction(L, libs[i].func);
    lua_pushstring(L, i > 0 ? libs[i].name : "");
    lua_call(L, 1, 1);
    lua_setglobal(L, libs[i].name);
  }
}

/* Runs the trusted code: the first text returns the policy's globals, the
 * second one gets them and returns the worker. They keep what they need of the
 * libraries; nothing else of these stays. */
static int boot_job(lua_State *L) {
  job *j = lua_touserdata(L, 1);
  int i;
  open_libs(L);
  mt_lua_jit_off(L);
  mt__sandbox_push_lib(L);
  lua_newtable(L);
  luaL_setfuncs(L, j->more, 0);
  lua_setfield(L, -2, "crypto");
  for (i = 0; i < 2; i++) {
    if (luaL_loadbufferx(L, j->text[i], j->len[i], "=(sandbox)", "t") != LUA_OK)
      return lua_error(L);
    lua_pushvalue(L, 2);
    if (i > 0) lua_pushvalue(L, 3);
    lua_call(L, 1 + i, 1);
  }
  luaL_checktype(L, -1, LUA_TFUNCTION);
  j->s->worker = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
  return 0;
}

static void shut(mt_sandbox *s) {
  lua_State *L = s->L;
  s->L = NULL;
  s->limited = false;
  s->calls = s->nidle = 0;
  if (L) lua_close(L);
  mt__wire_fini(&s->wire);
}

static lua_Integer field(lua_State *L, const char *name, lua_Number min) {
  lua_Number n;
  lua_getfield(L, 1, name);
  n = lua_tonumber(L, -1);
  lua_pop(L, 1);
  if (!(n >= min && n <= 1e12))
    luaL_error(L, "sandbox: %s must be a number from %f on", name, min);
  return (lua_Integer)n;
}

static int not_booted(lua_State *L, mt_sandbox *s) {
  const char *why = s->L ? lua_tostring(s->L, -1) : NULL;
  lua_pushnil(L);
  lua_pushstring(L, why ? why : "not enough memory");
  shut(s);
  return 2;
}

/* Functions of C without upvalues, of a module of the host's: they are code,
 * and no state's. `out` has room for n and an end. */
static void take_functions(lua_State *L, luaL_Reg *out, int n) {
  lua_getfield(L, 1, "functions");
  luaL_checktype(L, -1, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    if (n-- == 0 || lua_type(L, -2) != LUA_TSTRING || !lua_iscfunction(L, -1) ||
        lua_getupvalue(L, -1, 1))
      luaL_error(L, "sandbox: functions must be plain functions of C");
    out->name = lua_tostring(L, -2); /* a key there */
    out->func = lua_tocfunction(L, -1);
    out++;
    lua_pop(L, 1);
  }
}

/* sandbox{ memory_bytes =, time_ms =, libraries = text, worker = text,
 * functions = {} } -> sandbox | nil, text */
int mt_lua_sandbox_new(lua_State *L) {
  mt_sandbox *s;
  luaL_Reg more[MAX_FUNCTIONS + 1] = {{NULL, NULL}};
  job j = {0};
  size_t memory, time_ms;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  memory = (size_t)field(L, "memory_bytes", MIN_MEMORY);
  time_ms = (size_t)field(L, "time_ms", 1);
  lua_getfield(L, 1, "libraries");
  lua_getfield(L, 1, "worker");
  j.text[0] = luaL_checklstring(L, 2, &j.len[0]);
  j.text[1] = luaL_checklstring(L, 3, &j.len[1]);
  take_functions(L, more, MAX_FUNCTIONS);
  j.more = more;
  s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  luaL_setmetatable(L, MT_LUA_SANDBOX);
  s->limit = memory;
  s->soft = memory - memory / 8;
  s->single = memory / 4;
  s->budget_ns = time_ms * 1000000U;
  s->period = 100;
  s->L = lua_newstate(mt__sandbox_alloc, s);
  j.s = s;
  if (!s->L || mt_lua_cpcall(s->L, boot_job, &j) != LUA_OK)
    return not_booted(L, s);
  s->limited = true;
  return 1;
}

/* ---- running --------------------------------------------------------------------- */

static void find_coroutine(lua_State *L, job *j) {
  mt_sandbox *s = j->s;
  if (!j->handle && s->nidle > 0) j->handle = s->idle[--s->nidle];
  if (j->handle) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, j->handle);
    j->co = lua_tothread(L, -1);
    return;
  }
  j->co = lua_newthread(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->worker);
  lua_xmove(L, j->co, 1);
  lua_pushvalue(L, -1);
  j->handle = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Everything that is in the wire. */
static int push_all(lua_State *L, const mt_wire *w, const char *what) {
  size_t at = 0;
  int n = 0;
  while (at < w->len) {
    luaL_checkstack(L, 4, what);
    mt__wire_get(L, w, &at);
    n++;
  }
  return n;
}

static int push_arguments(lua_State *L, job *j) {
  int n = push_all(L, &j->s->wire, "arguments");
  if (!lua_checkstack(j->co, n + 8)) luaL_error(L, "not enough memory");
  lua_xmove(L, j->co, n);
  return n;
}

/* An error of the coroutine is raised here as well: LuaJIT turns its hooks on
 * again where an error is caught. It stays on the coroutine's stack. */
static int run_job(lua_State *L) {
  job *j = lua_touserdata(L, 1);
  int n;
  find_coroutine(L, j);
  if (!j->co) return luaL_error(L, "no such coroutine");
  n = push_arguments(L, j);
  mt__sandbox_begin(j->s, j->co, j->budget_ns);
  j->status = mt_lua_resume(j->co, L, n, &j->results);
  if (j->status != LUA_YIELD) {
    lua_pushnil(L);
    return lua_error(L);
  }
  return 0;
}

/* Ends a coroutine: whatever it is in the middle of is garbage. */
static int drop_job(lua_State *L) {
  job *j = lua_touserdata(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, j->handle);
  return 0;
}

static void drop(mt_sandbox *s, int handle) {
  job j = {.s = s, .handle = handle};
  bool limited = s->limited;
  if (!s->L || handle <= 0) return;
  s->limited = false;
  if (mt_lua_cpcall(s->L, drop_job, &j) != LUA_OK) lua_settop(s->L, 0);
  s->limited = limited;
}

/* What a failed coroutine has raised: text, and the value if it is a table of
 * plain data. No metamethod is asked. */
static int push_raised(lua_State *L, mt_sandbox *s, lua_State *co) {
  size_t at = 0, len = 0;
  const char *text = NULL;
  int top = lua_gettop(co);
  if (top > 0 && lua_type(co, top) == LUA_TSTRING)
    text = lua_tolstring(co, top, &len);
  lua_pushlstring(L, text ? text : "", len < 1000 ? len : 1000);
  if (text || top == 0) return 1;
  if (lua_type(co, top) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_pushfstring(L, "it raised a %s", luaL_typename(co, top));
    return 1;
  }
  mt__wire_reset(&s->wire);
  if (!mt__wire_put(co, top, &s->wire)) return 1;
  mt__wire_get(L, &s->wire, &at);
  return 2;
}

/* -> "failed", why ("time", "memory", "error", "data"), text, value */
static int push_failed(lua_State *L, mt_sandbox *s, job *j) {
  const char *why = "error";
  int n;
  if (s->late) why = "time";
  if (s->full || j->status == LUA_ERRMEM || j->status == NEVER_RAN)
    why = "memory";
  s->full = s->full || why[0] == 'm'; /* not to be used any more */
  lua_pushliteral(L, "failed");
  lua_pushstring(L, why);
  n = 2;
  if (j->co && j->status != NEVER_RAN) n += push_raised(L, s, j->co);
  lua_settop(s->L, 0);
  drop(s, j->handle);
  s->calls--;
  return n;
}

/* -> "failed", "data", text */
static int push_problem(lua_State *L, mt_wire *w) {
  lua_pushliteral(L, "failed");
  lua_pushliteral(L, "data");
  if (w->kind)
    lua_pushfstring(L, "%s%s%s is a %s", w->problem, w->path[0] ? ": " : ", it",
                    w->path, w->kind);
  else
    lua_pushfstring(L, "%s%s%s", w->problem, w->path[0] ? ": " : "", w->path);
  return 3;
}

/* The values that a coroutine has suspended itself with, from the second on,
 * into the wire. */
static bool take_results(mt_sandbox *s, job *j) {
  int first = lua_gettop(j->co) - j->results + 1, i;
  bool ok = true;
  mt__wire_reset(&s->wire);
  for (i = first + 1; ok && i < first + j->results; i++)
    ok = mt__wire_put(j->co, i, &s->wire);
  return ok;
}

static void make_idle(mt_sandbox *s, int handle) {
  s->calls--;
  if (s->nidle < (int)(sizeof s->idle / sizeof *s->idle))
    s->idle[s->nidle++] = handle;
  else
    drop(s, handle);
}

/* -> "done", results... | "wait", handle, what, arguments... | "failed", ... */
static int push_outcome(lua_State *L, mt_sandbox *s, job *j) {
  int first = lua_gettop(j->co) - j->results + 1;
  bool done = lua_type(j->co, first) == LUA_TBOOLEAN, ok;
  int n = 1;
  lua_pushstring(L, done ? "done" : "wait");
  if (!done) {
    lua_pushinteger(L, j->handle);
    lua_pushstring(L, lua_tostring(j->co, first));
    n = 3;
  }
  ok = take_results(s, j);
  lua_pop(j->co, j->results);
  if (done) make_idle(s, j->handle);
  if (ok) return n + push_all(L, &s->wire, "results");
  if (!done) {
    s->calls--;
    drop(s, j->handle);
  }
  return push_problem(L, &s->wire);
}

/* Arguments from the third on are the coroutine's. */
static int run(lua_State *L, mt_sandbox *s, int handle, lua_Number left_ms,
               int first) {
  job j = {.s = s, .handle = handle, .status = NEVER_RAN};
  int i, top = lua_gettop(L);
  j.budget_ns = left_ms > 0 ? (uint64_t)(left_ms * 1e6) : 1;
  if (j.budget_ns > s->budget_ns) j.budget_ns = s->budget_ns;
  mt__wire_reset(&s->wire);
  for (i = first; i <= top; i++)
    if (!mt__wire_put(L, i, &s->wire)) {
      if (handle) s->calls--;
      drop(s, handle);
      return push_problem(L, &s->wire);
    }
  if (!handle) s->calls++;
  i = mt_lua_cpcall(s->L, run_job, &j);
  if (s->running) mt__sandbox_end(s);
  if (i != LUA_OK) return push_failed(L, s, &j);
  return push_outcome(L, s, &j);
}

static int push_closed(lua_State *L) {
  lua_pushliteral(L, "failed");
  lua_pushliteral(L, "closed");
  return 2;
}

/* start(left_ms, ...) */
static int start(lua_State *L) {
  mt_sandbox *s = check_open(L);
  lua_Number left_ms = luaL_checknumber(L, 2);
  if (!s->L || s->full) return push_closed(L);
  return run(L, s, 0, left_ms, 3);
}

/* resume(handle, left_ms, ...): once for each "wait" */
static int resume(lua_State *L) {
  mt_sandbox *s = check_open(L);
  int handle = (int)luaL_checkinteger(L, 2);
  lua_Number left_ms = luaL_checknumber(L, 3);
  if (!s->L || s->full) return push_closed(L);
  luaL_argcheck(L, handle > 0, 2, "a handle");
  return run(L, s, handle, left_ms, 4);
}

/* drop(handle): instead of resume */
static int drop_call(lua_State *L) {
  mt_sandbox *s = check_open(L);
  int handle = (int)luaL_checkinteger(L, 2);
  if (!s->L) return 0;
  s->calls--;
  drop(s, handle);
  return 0;
}

/* left_ms() -> of the slice that was run last */
static int left_ms(lua_State *L) {
  lua_pushnumber(L, (lua_Number)to_sandbox(L)->left_ns / 1e6);
  return 1;
}

static int stats(lua_State *L) {
  mt_sandbox *s = to_sandbox(L);
  lua_createtable(L, 0, 4);
  mt_lua_set_integer(L, "memory_bytes", (lua_Integer)s->used);
  mt_lua_set_integer(L, "peak_bytes", (lua_Integer)s->peak);
  mt_lua_set_integer(L, "limit_bytes", (lua_Integer)s->limit);
  mt_lua_set_integer(L, "calls", s->calls);
  return 1;
}

static int shut_call(lua_State *L) {
  mt_sandbox *s = to_sandbox(L);
  if (!s->running) shut(s);
  return 0;
}

void mt_lua_sandbox_register(lua_State *L) {
  static const luaL_Reg methods[] = {{"start", start},    {"resume", resume},
                                     {"drop", drop_call}, {"left_ms", left_ms},
                                     {"stats", stats},    {"close", shut_call},
                                     {NULL, NULL}};
  static const luaL_Reg meta[] = {
      {"__gc", shut_call}, {"__close", shut_call}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_SANDBOX, methods, meta);
}
