/* Running a reactor in tests. See loop.h. */
#include "support/loop.h"

#define TURN_MS 5.0

static bool polled; /* on reactor_poll.c instead of reactor_ev.c */

int mt_test_on_ev(void **state) {
  (void)state;
  polled = false;
  return 0;
}

int mt_test_on_poll(void **state) {
  (void)state;
  polled = true;
  return 0;
}

mt_reactor *mt_test_reactor(void) {
  mt_reactor *r = NULL;
  assert_int_equal(
      polled ? mt_reactor_poll_new(&r) : mt_reactor_ev_new(NULL, &r), MT_OK);
  return r;
}

void mt_test_reactor_end(mt_reactor *r) {
  assert_int_equal(mt_reactor_live(r), 0);
  mt_reactor_free(r);
}

void mt_test_turns(mt_reactor *r, int n) {
  while (n-- > 0) mt_reactor_run_once(r, false);
}

static void on_guard(mt_timer *t) { (void)t; }

void mt_test_turn(mt_reactor *r) {
  mt_timer guard = {.cb = on_guard};
  mt_timer_set(r, &guard, TURN_MS);
  mt_reactor_run_once(r, true);
  mt_timer_del(&guard);
}

void mt_test_run_for(mt_reactor *r, double ms) {
  double end = mt_reactor_now(r) + ms;
  while (mt_reactor_now(r) < end) mt_test_turn(r);
}

#define BEAT_MS 10.0

static void on_beat(mt_timer *t) {
  mt_heartbeat *h = mt_container(t, mt_heartbeat, timer);
  double now = mt_reactor_now(h->r), late = now - h->last - BEAT_MS;
  if (late > h->gap) h->gap = late;
  h->last = now;
  h->beats++;
  mt_timer_set(h->r, t, BEAT_MS);
}

void mt_heartbeat_start(mt_heartbeat *h, mt_reactor *r) {
  *h = (mt_heartbeat){.r = r, .timer.cb = on_beat, .last = mt_reactor_now(r)};
  mt_timer_set(r, &h->timer, BEAT_MS);
}

double mt_heartbeat_gap(mt_heartbeat *h) {
  double gap = h->gap;
  h->gap = 0;
  return gap;
}

void mt_heartbeat_stop(mt_heartbeat *h) { mt_timer_del(&h->timer); }
