/*
 * The timers of a reactor that has no loop below it to keep them: in the order
 * in which they are due, and then in that in which they were set.
 */
#ifndef MT_REACTOR_TIMERS_H
#define MT_REACTOR_TIMERS_H

#include "reactor/reactor.h"

typedef struct mt_timers {     /* zeroed before first use */
  struct mt_timer_entry *root; /* the one that is due next */
  uint64_t next_seq;
} mt_timers;

/* Sets t, anew if it is active. */
void mt_timers_set(mt_timers *h, mt_timer *t, double due_ms);
void mt_timers_del(mt_timers *h, mt_timer *t); /* t is active */
/* Milliseconds until the next one is due, or -1. */
double mt_timers_left(const mt_timers *h, double now_ms);
/* Takes one out that is due, if it was set before next_seq was `limit`: those
 * that are set while others run wait for the next round. Else NULL. */
mt_timer *mt_timers_take(mt_timers *h, double now_ms, uint64_t limit);

#endif
