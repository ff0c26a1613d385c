/*
 * A sandbox: a lua_State of its own for one policy file, with a cap on its
 * memory and on the time that its code may take without waiting. Nothing but
 * plain data crosses between it and the host's state, by way of a buffer
 * (mt_wire), so that an error of one state never unwinds through the other.
 *
 * sandbox.c is the userdata, sandbox_limits.c memory and time,
 * sandbox_wire.c the data, sandbox_lib.c what the code inside is given,
 * sandbox_match.c Lua's patterns with a limit.
 */
#ifndef MT_LUA_SANDBOX_H
#define MT_LUA_SANDBOX_H

#include "lua/mt_lua.h"

/* No string in a sandbox is longer: what one instruction does with it takes
 * its time, too. */
enum { MT_SANDBOX_STRING = 256 << 10 };

typedef struct mt_wire {
  char *data;
  size_t len, cap;
  unsigned nodes;
  const char *problem; /* why the value can't cross; static */
  const char *kind;    /* of what can't; static */
  char path[96];       /* where it is, in the value */
} mt_wire;

typedef struct mt_sandbox {
  lua_State *L; /* NULL: closed */
  int worker;   /* registry reference there: what coroutines run */
  int calls;    /* coroutines that are under way */
  int idle[8];  /* references of coroutines that wait for a call */
  int nidle;
  lua_State *running; /* the coroutine of the slice that runs */

  size_t used, peak, soft, limit; /* bytes */
  size_t single;                  /* the largest block */
  size_t churn;                   /* copied since the clock was looked at */
  bool limited;                   /* past booting */
  char reason[160];               /* where it was stopped, and why */
  bool full, late;                /* what stops the code; full: for good */
  int period;                     /* instructions between two looks */

  uint64_t budget_ns; /* a whole one */
  uint64_t left_ns;   /* of the slice, at `mark_ns` */
  uint64_t mark_ns, check_ns;
  bool by_cpu; /* left_ns is counted in processor time, mark_ns too */

  mt_wire wire;
} mt_sandbox;

/* ---- sandbox_limits.c ---- */

/* The sandbox that a state belongs to. */
mt_sandbox *mt__sandbox_of(lua_State *L);
void *mt__sandbox_alloc(void *ud, void *p, size_t old_size, size_t size);
void mt__sandbox_begin(mt_sandbox *s, lua_State *co, uint64_t budget_ns);
void mt__sandbox_end(mt_sandbox *s);
/* Raises in L if what runs has used up its time or memory. */
void mt__sandbox_check(lua_State *L, mt_sandbox *s);
/* The same, after work that takes as long as going over so many bytes. */
void mt__sandbox_charge(lua_State *L, mt_sandbox *s, size_t bytes);
/* Sees to it that the next instruction looks. */
void mt__sandbox_watch(mt_sandbox *s, lua_State *L);

/* ---- sandbox_wire.c ---- */

/* Appends a value of L's stack, without running anything of Lua or taking
 * memory of L's. False: see w->problem. */
bool mt__wire_put(lua_State *L, int index, mt_wire *w);
/* Pushes the next value; may raise, for lack of memory. `*at` moves on. */
void mt__wire_get(lua_State *L, const mt_wire *w, size_t *at);
void mt__wire_reset(mt_wire *w);
void mt__wire_fini(mt_wire *w);

/* ---- sandbox_lib.c ---- */

/* Pushes the table of functions that the code which boots is given. */
void mt__sandbox_push_lib(lua_State *L);

/* ---- sandbox_match.c ---- */

int mt__sandbox_find(lua_State *L);
int mt__sandbox_match(lua_State *L);
int mt__sandbox_step(lua_State *L);

#endif
