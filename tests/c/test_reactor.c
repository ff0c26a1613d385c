/* reactor/reactor.c with reactor_ev.c and reactor_poll.c: timers, the end of a
 * turn, a host's loop; and the tests' own manual reactor. Descriptors are in
 * test_reactor_io.c. */
#include "reactor/reactor.h"

#include <ev.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor/reactor_manual.h"
#include "support/loop.h"

typedef struct alarm_clock {
  mt_timer timer;
  double fired_at;
  int calls, *order;
  void (*then)(struct alarm_clock *a);
  struct alarm_clock *other;
} alarm_clock;

static void on_timer(mt_timer *t) {
  alarm_clock *a = mt_container(t, alarm_clock, timer);
  assert_false(t->active);
  a->fired_at = mt_reactor_now(t->reactor);
  a->calls++;
  if (a->order) *a->order = *a->order * 10 + (int)(intptr_t)a->other;
  if (a->then) a->then(a);
}

static alarm_clock new_alarm(void) {
  return (alarm_clock){.timer.cb = on_timer};
}

static void run_until_quiet(mt_reactor *r) {
  while (mt_reactor_live(r) > 0) mt_reactor_run_once(r, true);
}

static void timers_fire_in_due_order(mt_reactor *r) {
  static const double delays[] = {300, 100, 200, 0}; /* a slow machine's */
  alarm_clock alarms[4];
  int order = 0, i;

  for (i = 0; i < 4; i++) {
    alarms[i] = new_alarm();
    alarms[i].order = &order;
    alarms[i].other = (alarm_clock *)(intptr_t)(i + 1);
    mt_timer_set(r, &alarms[i].timer, delays[i]);
  }
  assert_int_equal(mt_reactor_live(r), 4);
  run_until_quiet(r);
  assert_int_equal(order, 4231);
  mt_test_reactor_end(r);
}

static void ev_timers_fire_in_due_order(void **state) {
  (void)state;
  timers_fire_in_due_order(mt_test_reactor());
}

static void manual_timers_fire_in_due_order(void **state) {
  (void)state;
  timers_fire_in_due_order(mt_manual_new());
}

static void spin(mt_reactor *r, double ms) {
  double until = mt_reactor_now(r) + ms;
  while (mt_reactor_now(r) < until) continue;
}

static void a_delay_counts_from_now_not_from_the_turns_start(void **state) {
  mt_reactor *r = mt_test_reactor();
  alarm_clock a = new_alarm();
  double start;
  (void)state;
  mt_test_turns(r, 1);
  spin(r, 20);
  start = mt_reactor_now(r);
  mt_timer_set(r, &a.timer, 15);
  run_until_quiet(r);
  assert_true(a.fired_at - start >= 14.9);
  mt_test_reactor_end(r);
}

static void setting_again_starts_afresh(void **state) {
  mt_reactor *r = mt_test_reactor();
  alarm_clock a = new_alarm();
  double start = mt_reactor_now(r);
  (void)state;
  mt_timer_set(r, &a.timer, 1);
  mt_timer_set(r, &a.timer, 20);
  assert_int_equal(mt_reactor_live(r), 1);
  run_until_quiet(r);
  assert_int_equal(a.calls, 1);
  assert_true(a.fired_at - start >= 19.9);
  mt_timer_set(r, &a.timer, 5000);
  mt_timer_set(r, &a.timer, 0);
  run_until_quiet(r);
  assert_int_equal(a.calls, 2);
  mt_test_reactor_end(r);
}

static void rearm(alarm_clock *a) {
  if (a->calls < 4) mt_timer_set(a->timer.reactor, &a->timer, 1);
}

static void a_callback_may_set_its_own_timer(void **state) {
  mt_reactor *r = mt_test_reactor();
  alarm_clock a = new_alarm();
  (void)state;
  a.then = rearm;
  mt_timer_set(r, &a.timer, 1);
  run_until_quiet(r);
  assert_int_equal(a.calls, 4);
  mt_test_reactor_end(r);
}

static void delete_other_timer(alarm_clock *a) {
  mt_timer_del(&a->other->timer);
}

static void a_deleted_timer_that_was_due_is_not_called(mt_reactor *r) {
  alarm_clock a = new_alarm(), b = new_alarm();

  a.then = b.then = delete_other_timer;
  a.other = &b;
  b.other = &a;
  mt_timer_set(r, &a.timer, 0);
  mt_timer_set(r, &b.timer, 0);
  run_until_quiet(r);
  assert_int_equal(a.calls + b.calls, 1);
  mt_timer_del(&a.timer);
  mt_test_reactor_end(r);
}

static void ev_deleted_timers_are_not_called(void **state) {
  (void)state;
  a_deleted_timer_that_was_due_is_not_called(mt_test_reactor());
}

static void manual_deleted_timers_are_not_called(void **state) {
  (void)state;
  a_deleted_timer_that_was_due_is_not_called(mt_manual_new());
}

static void odd_delays(void **state) {
  mt_reactor *r = mt_test_reactor();
  alarm_clock now = new_alarm(), nan = new_alarm(), never = new_alarm();
  (void)state;
  mt_timer_set(r, &now.timer, -5);
  mt_timer_set(r, &nan.timer, NAN);
  mt_timer_set(r, &never.timer, INFINITY);
  mt_test_turns(r, 3);
  assert_int_equal(now.calls, 1);
  assert_int_equal(nan.calls, 1);
  assert_int_equal(never.calls, 0);
  mt_timer_del(&never.timer);
  mt_test_reactor_end(r);
}

static void the_clock_is_monotonic(void **state) {
  mt_reactor *r = mt_test_reactor();
  double before = mt_reactor_now(r);
  (void)state;
  usleep(3000);
  assert_true(mt_reactor_now(r) - before >= 2.9);
  mt_test_reactor_end(r);
}

typedef struct chore {
  mt_defer defer;
  mt_reactor *reactor;
  int digit, calls, again, *order;
  mt_defer_phase phase;
  struct chore *drop;
} chore;

static void on_chore(mt_defer *d) {
  chore *c = mt_container(d, chore, defer);
  c->calls++;
  *c->order = *c->order * 10 + c->digit;
  if (c->drop) mt_defer_del(&c->drop->defer);
  if (c->again-- > 0) mt_defer_add(c->reactor, d, c->phase);
}

static void add_chore(mt_reactor *r, chore *c, int digit, mt_defer_phase phase,
                      int *order) {
  *c = (chore){.defer.cb = on_chore,
               .reactor = r,
               .digit = digit,
               .order = order,
               .phase = phase};
  mt_defer_add(r, &c->defer, phase);
  mt_defer_add(r, &c->defer, phase);
}

static void phases_run_in_order(void **state) {
  mt_reactor *r = mt_test_reactor();
  chore c[4];
  int order = 0;
  (void)state;
  add_chore(r, &c[0], 1, MT_DEFER_FREE, &order);
  add_chore(r, &c[1], 2, MT_DEFER_FLUSH, &order);
  add_chore(r, &c[2], 3, MT_DEFER_DELIVER, &order);
  add_chore(r, &c[3], 4, MT_DEFER_DELIVER, &order);
  mt_reactor_run_once(r, true); /* doesn't block */
  assert_int_equal(order, 3421);
  assert_false(mt_reactor_end_turn(r));
  mt_test_reactor_end(r);
}

static void what_queues_itself_runs_in_the_next_round(void **state) {
  mt_reactor *r = mt_test_reactor();
  chore c[2];
  int order = 0;
  (void)state;
  add_chore(r, &c[0], 1, MT_DEFER_DELIVER, &order);
  add_chore(r, &c[1], 2, MT_DEFER_FREE, &order);
  c[0].again = 2;
  assert_true(mt_reactor_end_turn(r));
  assert_int_equal(order, 12);
  assert_true(mt_reactor_end_turn(r));
  assert_false(mt_reactor_end_turn(r));
  assert_int_equal(order, 1211);
  mt_test_reactor_end(r);
}

static void work_taken_back_is_not_run(void **state) {
  mt_reactor *r = mt_test_reactor();
  chore c[4];
  int order = 0;
  (void)state;
  add_chore(r, &c[0], 1, MT_DEFER_DELIVER, &order);
  add_chore(r, &c[1], 2, MT_DEFER_DELIVER, &order);
  add_chore(r, &c[2], 3, MT_DEFER_DELIVER, &order);
  add_chore(r, &c[3], 4, MT_DEFER_FLUSH, &order);
  mt_defer_del(&c[3].defer);
  mt_defer_del(&c[3].defer);
  c[0].drop = &c[1]; /* already in the running round */
  mt_test_turns(r, 1);
  assert_int_equal(order, 13);
  mt_test_reactor_end(r);
}

static void free_chore(mt_defer *d) { free(mt_container(d, chore, defer)); }

static void work_may_free_itself(void **state) {
  mt_reactor *r = mt_test_reactor();
  int i;
  (void)state;
  for (i = 0; i < 3; i++) {
    chore *c = calloc(1, sizeof *c);
    c->defer.cb = free_chore;
    mt_defer_add(r, &c->defer, MT_DEFER_FREE);
  }
  mt_test_turns(r, 1);
  mt_test_reactor_end(r);
}

static void work_left_is_done_before_the_reactor_goes(void **state) {
  mt_reactor *r = mt_test_reactor();
  chore c;
  int order = 0;
  (void)state;
  add_chore(r, &c, 1, MT_DEFER_FREE, &order);
  c.again = 1;
  mt_reactor_free(r);
  assert_int_equal(order, 11);
}

typedef struct ring {
  alarm_clock alarm;
  chore chore;
} ring;

static void queue_chore(alarm_clock *a) {
  ring *g = mt_container(a, ring, alarm);
  mt_defer_add(a->timer.reactor, &g->chore.defer, MT_DEFER_DELIVER);
}

/* Else who waits for a completion would sleep over it. */
static void a_turns_work_is_done_when_run_once_returns(void **state) {
  mt_reactor *r = mt_test_reactor();
  ring g;
  int order = 0;
  (void)state;
  g.alarm = new_alarm();
  g.alarm.then = queue_chore;
  add_chore(r, &g.chore, 1, MT_DEFER_DELIVER, &order);
  mt_defer_del(&g.chore.defer);
  mt_timer_set(r, &g.alarm.timer, 1);
  while (g.alarm.calls == 0) mt_reactor_run_once(r, true);
  assert_int_equal(order, 1);
  mt_test_reactor_end(r);
}

static void a_hosts_loop_ends_and_stays(void **state) {
  struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
  mt_reactor *r = NULL;
  ring g;
  int order = 0;
  (void)state;
  assert_int_equal(mt_reactor_ev_new(loop, &r), MT_OK);
  ev_run(loop, 0); /* nothing of ours keeps it */

  g.alarm = new_alarm();
  g.alarm.then = queue_chore;
  add_chore(r, &g.chore, 1, MT_DEFER_DELIVER, &order);
  ev_run(loop, 0);
  assert_int_equal(order, 1);

  /* what its last event queues, and queues again, is done before it ends */
  g.chore.again = 2;
  mt_timer_set(r, &g.alarm.timer, 5);
  ev_run(loop, 0);
  assert_int_equal(g.alarm.calls, 1);
  assert_int_equal(order, 1111);

  mt_reactor_run_once(r, true); /* not ours to run */
  mt_test_reactor_end(r);
  ev_run(loop, 0);
  ev_loop_destroy(loop);
}

static void count_and_stop(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)revents;
  ++*(int *)w->data;
  ev_timer_stop(loop, w);
}

static void two_reactors_share_a_hosts_loop(void **state) {
  struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
  mt_reactor *a = NULL, *b = NULL;
  alarm_clock x = new_alarm(), y = new_alarm();
  ev_timer own;
  int calls = 0;
  (void)state;
  assert_int_equal(mt_reactor_ev_new(loop, &a), MT_OK);
  assert_int_equal(mt_reactor_ev_new(loop, &b), MT_OK);
  mt_timer_set(a, &x.timer, 1);
  mt_timer_set(b, &y.timer, 2);
  memset(&own, 0, sizeof own);
  ev_timer_init(&own, count_and_stop, 0.003, 0.);
  own.data = &calls;
  ev_timer_start(loop, &own);
  ev_run(loop, 0);
  assert_int_equal(x.calls + y.calls + calls, 3);
  mt_test_reactor_end(a);
  ev_run(loop, 0);
  mt_test_reactor_end(b);
  ev_loop_destroy(loop);
}

static void time_passes_by_hand(void **state) {
  mt_reactor *r = mt_manual_new();
  alarm_clock a = new_alarm();
  (void)state;
  assert_true(mt_reactor_now(r) == 1000);
  a.then = rearm;
  mt_timer_set(r, &a.timer, 10);
  assert_true(mt_manual_next_timer(r) == 10);
  mt_manual_advance(r, 9);
  assert_int_equal(a.calls, 0);
  mt_manual_advance(r, 1);
  assert_int_equal(a.calls, 1);
  assert_true(a.fired_at == 1010);
  mt_manual_advance(r, 100);
  assert_int_equal(a.calls, 4);
  assert_true(a.fired_at == 1013);
  assert_true(mt_reactor_now(r) == 1110);
  assert_true(mt_manual_next_timer(r) == -1);
  mt_test_reactor_end(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ev_timers_fire_in_due_order),
      cmocka_unit_test(manual_timers_fire_in_due_order),
      cmocka_unit_test(a_delay_counts_from_now_not_from_the_turns_start),
      cmocka_unit_test(setting_again_starts_afresh),
      cmocka_unit_test(a_callback_may_set_its_own_timer),
      cmocka_unit_test(ev_deleted_timers_are_not_called),
      cmocka_unit_test(manual_deleted_timers_are_not_called),
      cmocka_unit_test(odd_delays),
      cmocka_unit_test(the_clock_is_monotonic),
      cmocka_unit_test(phases_run_in_order),
      cmocka_unit_test(what_queues_itself_runs_in_the_next_round),
      cmocka_unit_test(work_taken_back_is_not_run),
      cmocka_unit_test(work_may_free_itself),
      cmocka_unit_test(work_left_is_done_before_the_reactor_goes),
      cmocka_unit_test(a_turns_work_is_done_when_run_once_returns),
      cmocka_unit_test(a_hosts_loop_ends_and_stays),
      cmocka_unit_test(two_reactors_share_a_hosts_loop),
      cmocka_unit_test(time_passes_by_hand),
  };
  return cmocka_run_group_tests_name("libev", tests, mt_test_on_ev, NULL) +
         cmocka_run_group_tests_name("poll", tests, mt_test_on_poll, NULL);
}
