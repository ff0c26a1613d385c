/* reactor/reactor_manual.c: the order of many timers, jumping from one to the
 * next, and real descriptors. What it has in common with other reactors is in
 * test_reactor.c and test_reactor_io.c. */
#include "reactor/reactor_manual.h"

#include <math.h>
#include <unistd.h>

#include "base/rand.h"
#include "support/test.h"

static void end(mt_reactor *r) {
  assert_int_equal(mt_reactor_live(r), 0);
  mt_reactor_free(r);
}

/* ---- timers ------------------------------------------------------------------ */

enum { MANY = 2000 };

typedef struct one {
  mt_timer timer;
  double due;
  int set; /* counts settings, over all of them */
} one;

static struct {
  double due;
  int set, fired;
} last;

/* In the order of time, then of setting; each at its own time. */
static void on_timer(mt_timer *t) {
  one *o = mt_container(t, one, timer);
  assert_true(mt_reactor_now(t->reactor) == o->due);
  assert_true(o->due > last.due || (o->due == last.due && o->set > last.set));
  last.due = o->due;
  last.set = o->set;
  last.fired++;
}

static void set(mt_reactor *r, one *o, double delay_ms) {
  static int settings;
  o->due = mt_reactor_now(r) + delay_ms;
  o->set = ++settings;
  mt_timer_set(r, &o->timer, delay_ms);
}

static void many_timers_fire_in_order(void **state) {
  static one all[MANY];
  mt_reactor *r = mt_manual_new();
  mt_rand rand;
  int i, deleted = 0;
  (void)state;
  mt_rand_seed(&rand, 11);
  for (i = 0; i < MANY; i++) {
    all[i] = (one){.timer.cb = on_timer};
    set(r, &all[i], floor(mt_rand_unit(&rand) * 500));
  }
  for (i = 0; i < MANY; i++) { /* some are set again, some deleted */
    double u = mt_rand_unit(&rand);
    if (u < 0.3)
      set(r, &all[i], floor(mt_rand_unit(&rand) * 500));
    else if (u < 0.5)
      mt_timer_del(&all[i].timer);
    deleted += u >= 0.3 && u < 0.5;
  }
  assert_true(deleted > 0 && mt_reactor_live(r) == (size_t)(MANY - deleted));
  last.due = -1;
  while (mt_manual_jump(r, INFINITY)) mt_manual_run_due(r);
  assert_int_equal(last.fired, MANY - deleted);
  assert_true(mt_manual_next_timer(r) == -1);
  end(r);
}

static void a_jump_goes_no_further_than_it_may(void **state) {
  mt_reactor *r = mt_manual_new();
  one o = {.timer.cb = on_timer};
  (void)state;
  last.due = -1;
  last.fired = 0;
  assert_false(mt_manual_jump(r, INFINITY));
  set(r, &o, 100);
  assert_false(mt_manual_jump(r, 99));
  assert_false(mt_manual_run_due(r));
  assert_true(mt_reactor_now(r) == 1000);
  assert_true(mt_manual_jump(r, 100));
  assert_true(mt_reactor_now(r) == 1100);
  assert_true(mt_manual_jump(r, -0.0)); /* it is due: there is no way to go */
  assert_true(mt_manual_run_due(r));
  assert_int_equal(last.fired, 1);
  mt_manual_restart(r, 0);
  assert_true(mt_reactor_now(r) == 0);
  end(r);
}

/* ---- descriptors -------------------------------------------------------------- */

typedef struct pipe_end {
  mt_io io, *other;
  int calls;
  unsigned ready;
} pipe_end;

static void on_ready(mt_io *io, unsigned ready) {
  pipe_end *p = mt_container(io, pipe_end, io);
  p->calls++;
  p->ready = ready;
  if (p->other) mt_io_del(p->other, false);
}

static void descriptors_are_asked_for(void **state) {
  mt_reactor *r = mt_manual_new();
  pipe_end in = {.io.cb = on_ready}, out = {.io.cb = on_ready};
  uint64_t before = mt_manual_changes(r);
  int fds[2];
  (void)state;
  assert_int_equal(pipe(fds), 0);
  assert_false(mt_manual_poll(r, 1000)); /* it watches nothing */
  mt_io_set(r, &in.io, fds[0], MT_READ);
  assert_true(mt_manual_changes(r) > before);
  assert_false(mt_manual_poll(r, 0));
  assert_int_equal(write(fds[1], "x", 1), 1);
  before = mt_manual_changes(r);
  assert_true(mt_manual_poll(r, 1000));
  assert_true(mt_manual_changes(r) > before);
  assert_int_equal(in.ready, MT_READ);

  mt_io_set(r, &out.io, fds[1], MT_WRITE);
  assert_true(mt_manual_poll(r, 0));
  assert_int_equal(in.calls, 2);
  assert_int_equal(out.calls, 1);

  in.other = &out.io; /* both are ready, one takes the other out */
  assert_true(mt_manual_poll(r, 0));
  assert_int_equal(in.calls, 3);
  assert_int_equal(out.calls, 1);

  close(fds[1]);
  assert_true(mt_manual_poll(r, 0)); /* the end is something to read */
  mt_io_del(&in.io, false);
  close(fds[0]);
  end(r);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(many_timers_fire_in_order),
      cmocka_unit_test(a_jump_goes_no_further_than_it_may),
      cmocka_unit_test(descriptors_are_asked_for),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
