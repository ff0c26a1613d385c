/*
 * A reactor for tests of state machines: its clock moves only by hand, timers
 * run in the order in which they are due, and a descriptor is ready when the
 * test says so. No system call is made, so descriptors may be invented.
 */
#ifndef MT_TESTS_MANUAL_REACTOR_H
#define MT_TESTS_MANUAL_REACTOR_H

#include "reactor/reactor.h"

/* Starts at 1000 ms. Freed with mt_reactor_free. */
mt_reactor *mt_manual_new(void);
/* Runs the deferred work until there is none, no timers. */
void mt_manual_settle(mt_reactor *r);
/* Moves the clock by ms, running each timer at its own time and the deferred
 * work after each. Timers that are due already run with ms = 0. */
void mt_manual_advance(mt_reactor *r, double ms);
/* Milliseconds until the next timer, or -1. */
double mt_manual_next_timer(mt_reactor *r);
/* Calls io as a loop would, if it watches any of `ready`; then settles. True
 * if it was called. */
bool mt_manual_io_ready(mt_io *io, unsigned ready);

#endif
