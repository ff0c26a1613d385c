/*
 * The limits of a sandbox. Memory is counted by its allocator. Time is looked
 * at by a hook every few instructions, by the allocator when much was copied,
 * and by our own functions that take long; once it has passed, every later
 * look raises again, so that no pcall helps.
 *
 * Time is the thread's processor time: what the machine gives to others is
 * none of the policy's. Asking for it costs a system call; so the first
 * quarter of a slice goes by the monotonic clock, and most end within it.
 */
#include <stdio.h>
#include <time.h>

#include "base/alloc.h"
#include "lua/sandbox.h"

enum {
  CHURN_BYTES = 64 << 10, /* copied in some 10 us */
  BIG_BYTES = 64 << 10,   /* one instruction on these takes its time */
  FINE_PERIOD = 8
};

static uint64_t clock_ns(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

mt_sandbox *mt__sandbox_of(lua_State *L) {
  void *ud;
  lua_getallocf(L, &ud);
  return ud;
}

/* ---- time ------------------------------------------------------------------- */

static bool look(mt_sandbox *s) {
  uint64_t now = clock_ns(CLOCK_MONOTONIC), used;
  if (now < s->check_ns) return false;
  if (!s->by_cpu) {
    /* however long it took: another program may have had the processor */
    s->left_ns -= s->left_ns / 4;
    s->by_cpu = true;
    s->mark_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    s->check_ns = now + s->left_ns;
    return false;
  }
  used = clock_ns(CLOCK_THREAD_CPUTIME_ID) - s->mark_ns;
  if (used < s->left_ns) {
    s->check_ns = now + (s->left_ns - used);
    return false;
  }
  return true;
}

static bool is_over(mt_sandbox *s) {
  if (!s->limited || !s->running) return false;
  if (!s->late && !s->full) s->late = look(s);
  return s->late || s->full;
}

void mt__sandbox_begin(mt_sandbox *s, lua_State *co, uint64_t budget_ns) {
  s->running = co;
  s->late = false;
  s->reason[0] = 0;
  s->churn = 0;
  s->by_cpu = false;
  s->left_ns = budget_ns;
  s->mark_ns = clock_ns(CLOCK_MONOTONIC);
  s->check_ns = s->mark_ns + budget_ns / 4;
  mt__sandbox_watch(s, co);
}

void mt__sandbox_end(mt_sandbox *s) {
  uint64_t used =
      clock_ns(s->by_cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC) -
      s->mark_ns;
  s->left_ns = used < s->left_ns ? s->left_ns - used : 0;
  s->running = NULL;
}

/* Where the policy's own code is: behind what it calls of ours. */
static bool place(lua_State *L, lua_Debug *ar) {
  int level;
  for (level = 0; level < 32 && lua_getstack(L, level, ar); level++)
    if (lua_getinfo(L, "Sl", ar) && ar->currentline > 0 && ar->source[0] == '@')
      return true;
  return false;
}

/* Found once: a thousand pcalls may be on their way out. */
static void raise(lua_State *L, mt_sandbox *s) {
  lua_Debug ar;
  const char *what = s->full ? "it takes more memory than it may"
                             : "it takes longer than it may";
  if (!s->reason[0] && place(L, &ar))
    snprintf(s->reason, sizeof s->reason, "%s:%d: %s", ar.short_src,
             ar.currentline, what);
  else if (!s->reason[0])
    snprintf(s->reason, sizeof s->reason, "%s", what);
  lua_pushstring(L, s->reason);
  lua_error(L);
}

/* Garbage counts until it is collected; so it is, before code has to stop for
 * its memory: here, where an error does no harm. */
static void make_room(lua_State *L, mt_sandbox *s) {
  if (!s->full || s->late) return;
  mt_lua_gc(L, LUA_GCCOLLECT);
  if (s->used < s->soft - s->soft / 8) s->full = false;
}

static void on_count(lua_State *L, lua_Debug *ar) {
  mt_sandbox *s = mt__sandbox_of(L);
  (void)ar;
  if (!is_over(s)) {
    mt__sandbox_watch(s, L);
    return;
  }
  make_room(L, s);
  if (is_over(s)) raise(L, s);
}

void mt__sandbox_check(lua_State *L, mt_sandbox *s) {
  if (!is_over(s)) return;
  make_room(L, s);
  if (is_over(s)) raise(L, s);
}

void mt__sandbox_charge(lua_State *L, mt_sandbox *s, size_t bytes) {
  s->churn += bytes;
  if (s->churn < CHURN_BYTES) return;
  s->churn = 0;
  mt__sandbox_check(L, s);
}

/* In Lua 5.4 a hook is a thread's, in LuaJIT the state's. */
void mt__sandbox_watch(mt_sandbox *s, lua_State *L) {
  if (lua_gethook(L) == on_count && lua_gethookcount(L) == s->period) return;
  lua_sethook(L, on_count, LUA_MASKCOUNT, s->period);
}

/* ---- memory ----------------------------------------------------------------- */

/* Called within an instruction, where nothing may be raised. */
static void hurry(mt_sandbox *s) {
  if (s->running) lua_sethook(s->running, on_count, LUA_MASKCOUNT, 1);
}

static void count_copy(mt_sandbox *s, size_t size) {
  if (size >= BIG_BYTES) s->period = FINE_PERIOD;
  s->churn += size;
  if (s->churn < CHURN_BYTES) return;
  s->churn = 0;
  if (is_over(s)) hurry(s);
}

/* In Lua 5.4 a new block says what it is for. */
static bool is_long_string(void *p, size_t old_size, size_t size) {
  return !p && old_size == LUA_TSTRING && size > MT_SANDBOX_STRING + 64;
}

/* Between the two limits a block is still had, and the next instruction tells
 * the code: with none, Lua 5.4 would collect all its garbage at once. */
static bool may_grow(mt_sandbox *s, size_t size, size_t more) {
  if (!s->limited) return true;
  count_copy(s, size);
  if (size > s->single || s->used + more > s->limit) return false;
  if (s->used + more > s->soft && s->running) {
    s->full = true;
    hurry(s);
  }
  return true;
}

void *mt__sandbox_alloc(void *ud, void *p, size_t old_size, size_t size) {
  mt_sandbox *s = ud;
  size_t had = p ? old_size : 0; /* else it says what the block is for */
  void *q;
  if (size == 0) {
    s->used -= had;
    mt_free(p);
    return NULL;
  }
  if (s->limited && is_long_string(p, old_size, size)) return NULL;
  if (size > had && !may_grow(s, size, size - had)) return NULL;
  q = mt_realloc(p, size);
  if (!q && size > had) return NULL;
  s->used = s->used - had + size;
  if (s->used > s->peak) s->peak = s->used;
  return q ? q : p; /* Lua takes it for granted that shrinking works */
}
