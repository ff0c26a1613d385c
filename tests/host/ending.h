/* What must come to an end by itself: no watcher of the host keeps the loop. */
#ifndef MT_TESTS_HOST_ENDING_H
#define MT_TESTS_HOST_ENDING_H

#include <ev.h>

#include "check.h"

static void mt_host_too_late(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)loop;
  (void)w;
  (void)revents;
  CHECK(!"ended in time");
}

/* Runs the loop to its end, or fails after so long. */
static inline void mt_host_run(struct ev_loop *loop, double seconds) {
  ev_timer limit;
  ev_timer_init(&limit, mt_host_too_late, seconds, 0.);
  ev_now_update(loop);
  ev_timer_start(loop, &limit);
  ev_unref(loop);
  ev_run(loop, 0);
  ev_ref(loop);
  ev_timer_stop(loop, &limit);
}

#endif
