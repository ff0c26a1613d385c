/*
 * The reactor with a clock that moves only by hand: for tests of state
 * machines, and for mtenant.testing. Timers run in the order in which they are
 * due, and then in that in which they were set; nothing here depends on real
 * time. A descriptor is ready when the caller says so, or asks the kernel by
 * mt_manual_poll; without that descriptors may be invented.
 */
#ifndef MT_REACTOR_REACTOR_MANUAL_H
#define MT_REACTOR_REACTOR_MANUAL_H

#include "reactor/reactor.h"

/* Starts at 1000 ms. Freed with mt_reactor_free. NULL: no memory. */
mt_reactor *mt_manual_new(void);
/* Sets the clock back; nothing may be live. */
void mt_manual_restart(mt_reactor *r, double now_ms);
/* Runs the deferred work until there is none, no timers. */
void mt_manual_settle(mt_reactor *r);
/* Runs the timers that are due, and the deferred work after each. Those that
 * a callback sets to 0 ms wait for the next call. False: none was due. */
bool mt_manual_run_due(mt_reactor *r);
/* Moves the clock to the next timer, if there is one within `ms`. */
bool mt_manual_jump(mt_reactor *r, double ms);
/* Moves the clock by ms, running each timer at its own time and the deferred
 * work after each. Timers that are due already run with ms = 0. */
void mt_manual_advance(mt_reactor *r, double ms);
/* Milliseconds until the next timer, or -1. */
double mt_manual_next_timer(mt_reactor *r);
/* Calls io as a loop would, if it watches any of `ready`; then settles. True
 * if it was called. */
bool mt_manual_io_ready(mt_io *io, unsigned ready);
/* Asks the kernel which of the watched descriptors are ready, waiting so many
 * real milliseconds for the first one, and calls those. False: none. */
bool mt_manual_poll(mt_reactor *r, int wait_ms);
/* Counts what was watched anew, and what mt_manual_poll has found. */
uint64_t mt_manual_changes(const mt_reactor *r);

#endif
