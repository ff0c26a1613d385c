/*
 * Running a reactor in tests: until something is true, with a bound, and the
 * check that every test ends with. Conditions may depend on the world outside
 * too: they are asked again every few milliseconds.
 */
#ifndef MT_TEST_SUPPORT_LOOP_H
#define MT_TEST_SUPPORT_LOOP_H

#include "reactor/reactor.h"
#include "support/test.h"

#define MT_TEST_LIMIT_MS 20000.0

/* A reactor on a loop of its own; fails the test when it can't be made. */
mt_reactor *mt_test_reactor(void);
/* For the set-up of a group: which reactor that is from then on; at first it is
 * that on libev. */
int mt_test_on_ev(void **state);
int mt_test_on_poll(void **state);
/* Nothing may be left in it; frees it. */
void mt_test_reactor_end(mt_reactor *r);
/* Turns that don't block. */
void mt_test_turns(mt_reactor *r, int n);
/* One turn, which blocks for 5 ms at most. */
void mt_test_turn(mt_reactor *r);
/* Turns for `ms`, to see that something does not happen. */
void mt_test_run_for(mt_reactor *r, double ms);

/* A timer that beats every 10 ms while the loop turns: what blocks it shows as
 * a gap. */
typedef struct mt_heartbeat {
  mt_reactor *r;
  mt_timer timer;
  double last, gap;
  int beats;
} mt_heartbeat;

void mt_heartbeat_start(mt_heartbeat *h, mt_reactor *r);
/* The longest time that a beat was late since the last call. */
double mt_heartbeat_gap(mt_heartbeat *h);
void mt_heartbeat_stop(mt_heartbeat *h);

#define MT_RUN_UNTIL_MS(r, limit_ms, cond)                           \
  do {                                                               \
    double end_ms_ = mt_reactor_now(r) + (limit_ms);                 \
    while (!(cond)) {                                                \
      if (mt_reactor_now(r) > end_ms_)                               \
        fail_msg("not within %.0f ms: %s", (limit_ms) + 0.0, #cond); \
      mt_test_turn(r);                                               \
    }                                                                \
  } while (0)

#define MT_RUN_UNTIL(r, cond) MT_RUN_UNTIL_MS(r, MT_TEST_LIMIT_MS, cond)

#endif
