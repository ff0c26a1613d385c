/* reactor/reactor_poll.c as a foreign loop sees it: one descriptor to watch,
 * and steps. What all reactors do is in test_reactor.c and test_reactor_io.c.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reactor/reactor.h"
#include "support/test.h"

typedef struct fixture {
  mt_reactor *r;
  int fds[2];
  mt_io io;
  mt_timer timer, later;
  mt_defer defer;
  int ios, timers, deferred, steps;
  mt_reactor *again; /* stepped from within a callback */
} fixture;

static void on_io(mt_io *io, unsigned ready) {
  fixture *f = mt_container(io, fixture, io);
  char c;
  assert_int_equal(ready, MT_READ);
  assert_int_equal(read(io->fd, &c, 1), 1);
  f->ios++;
  if (f->again) mt_reactor_step(f->again);
}

static void on_timer(mt_timer *t) { mt_container(t, fixture, timer)->timers++; }

static void on_defer(mt_defer *d) {
  mt_container(d, fixture, defer)->deferred++;
}

static int setup(void **state) {
  static fixture f;
  memset(&f, 0, sizeof f);
  f.io.cb = on_io;
  f.timer.cb = f.later.cb = on_timer;
  f.defer.cb = on_defer;
  assert_int_equal(mt_reactor_poll_new(&f.r), MT_OK);
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, f.fds), 0);
  *state = &f;
  return 0;
}

static int teardown(void **state) {
  fixture *f = *state;
  mt_io_del(&f->io, false);
  assert_int_equal(mt_reactor_live(f->r), 0);
  mt_reactor_free(f->r);
  close(f->fds[0]);
  close(f->fds[1]);
  return 0;
}

static bool readable(const fixture *f, int ms) {
  struct pollfd p = {mt_reactor_fd(f->r), POLLIN, 0};
  return poll(&p, 1, ms) == 1;
}

/* As a host does it. False: nothing to do within that time. */
static bool wait_and_step(fixture *f, int ms) {
  if (!readable(f, ms)) return false;
  f->steps++;
  mt_reactor_step(f->r);
  return true;
}

static void settle(fixture *f) {
  int n = 0;
  while (wait_and_step(f, 0)) assert_true(n++ < 5);
}

static void nothing_to_do_is_no_event(void **state) {
  fixture *f = *state;
  assert_true(mt_reactor_fd(f->r) >= 0);
  assert_false(wait_and_step(f, 20));
  assert_true(mt_reactor_timeout_ms(f->r) < 0);
  mt_io_set(f->r, &f->io, f->fds[0], MT_READ);
  assert_false(wait_and_step(f, 20));
}

static void a_ready_socket_makes_it_readable(void **state) {
  fixture *f = *state;
  mt_io_set(f->r, &f->io, f->fds[0], MT_READ);
  assert_int_equal(write(f->fds[1], "xy", 2), 2);
  assert_true(wait_and_step(f, 1000));
  assert_int_equal(f->ios, 1);
  assert_true(wait_and_step(f, 1000));
  assert_int_equal(f->ios, 2);
  settle(f);
  assert_int_equal(f->ios, 2);
}

static void a_timer_makes_it_readable(void **state) {
  fixture *f = *state;
  double start = mt_reactor_now(f->r);
  mt_timer_set(f->r, &f->timer, 30);
  assert_true(mt_reactor_timeout_ms(f->r) > 10);
  assert_true(mt_reactor_timeout_ms(f->r) <= 30);
  while (f->timers == 0) assert_true(wait_and_step(f, 1000));
  assert_true(mt_reactor_now(f->r) - start >= 29.9);
  assert_true(f->steps <= 2);
  settle(f);
}

static void an_earlier_timer_counts(void **state) {
  fixture *f = *state;
  double start = mt_reactor_now(f->r);
  mt_timer_set(f->r, &f->later, 60000);
  mt_timer_set(f->r, &f->timer, 10);
  while (f->timers == 0) assert_true(wait_and_step(f, 1000));
  assert_true(mt_reactor_now(f->r) - start < 10000);
  assert_true(mt_reactor_timeout_ms(f->r) > 50000);
  mt_timer_del(&f->later);
  settle(f);
  assert_true(mt_reactor_timeout_ms(f->r) < 0);
}

static void a_deleted_timer_costs_one_step_at_most(void **state) {
  fixture *f = *state;
  mt_timer_set(f->r, &f->timer, 10);
  mt_timer_del(&f->timer);
  usleep(20000);
  settle(f);
  assert_true(f->steps <= 1);
  assert_int_equal(f->timers, 0);
}

static void work_queued_between_steps_makes_it_readable(void **state) {
  fixture *f = *state;
  mt_defer_add(f->r, &f->defer, MT_DEFER_DELIVER);
  assert_true(mt_reactor_timeout_ms(f->r) == 0);
  assert_int_equal(f->deferred, 0);
  assert_true(wait_and_step(f, 1000));
  assert_int_equal(f->deferred, 1);
  settle(f);
}

static void a_flush_sends_and_does_nothing_else(void **state) {
  fixture *f = *state;
  mt_defer_add(f->r, &f->defer, MT_DEFER_DELIVER);
  mt_reactor_flush(f->r);
  assert_int_equal(f->deferred, 0);
  mt_defer_del(&f->defer);
  mt_defer_add(f->r, &f->defer, MT_DEFER_FLUSH);
  mt_reactor_flush(f->r);
  assert_int_equal(f->deferred, 1);
  settle(f);
}

static void a_step_within_a_step_does_nothing(void **state) {
  fixture *f = *state;
  mt_io_set(f->r, &f->io, f->fds[0], MT_READ);
  f->again = f->r;
  assert_int_equal(write(f->fds[1], "xy", 2), 2);
  assert_true(wait_and_step(f, 1000));
  assert_int_equal(f->ios, 1);
  f->again = NULL;
  settle(f);
  assert_int_equal(f->ios, 2);
}

static void many_descriptors(void **state) {
  enum { PAIRS = 100 };
  static fixture more[PAIRS];
  fixture *f = *state;
  int i, n = 0;
  for (i = 0; i < PAIRS; i++) {
    more[i] = (fixture){.io.cb = on_io};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, more[i].fds), 0);
    mt_io_set(f->r, &more[i].io, more[i].fds[0], MT_READ);
    assert_int_equal(write(more[i].fds[1], "x", 1), 1);
  }
  settle(f);
  for (i = 0; i < PAIRS; i++) {
    n += more[i].ios;
    mt_io_del(&more[i].io, false);
    close(more[i].fds[0]);
    close(more[i].fds[1]);
  }
  assert_int_equal(n, PAIRS);
  assert_true(f->steps <= 3);
}

/* The kernel refuses to watch an ordinary file: its owner is called. */
static void what_cannot_be_watched_is_called(void **state) {
  fixture *f = *state;
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(fputc('x', file), 'x');
  rewind(file);
  mt_io_set(f->r, &f->io, fileno(file), MT_READ);
  assert_true(wait_and_step(f, 1000));
  assert_int_equal(f->ios, 1);
  mt_io_del(&f->io, true);
  fclose(file);
  settle(f);
}

static void others_have_no_descriptor(void **state) {
  mt_reactor *ev = NULL;
  (void)state;
  assert_int_equal(mt_reactor_ev_new(NULL, &ev), MT_OK);
  assert_int_equal(mt_reactor_fd(ev), -1);
  assert_true(mt_reactor_timeout_ms(ev) < 0);
  mt_reactor_step(ev);
  mt_reactor_free(ev);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(nothing_to_do_is_no_event),
      TEST(a_ready_socket_makes_it_readable),
      TEST(a_timer_makes_it_readable),
      TEST(an_earlier_timer_counts),
      TEST(a_deleted_timer_costs_one_step_at_most),
      TEST(work_queued_between_steps_makes_it_readable),
      TEST(a_flush_sends_and_does_nothing_else),
      TEST(a_step_within_a_step_does_nothing),
      TEST(many_descriptors),
      TEST(what_cannot_be_watched_is_called),
      cmocka_unit_test(others_have_no_descriptor),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
