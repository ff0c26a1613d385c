/* Descriptors in reactor/reactor_ev.c and reactor_poll.c, on sockets; and in
 * the tests' own manual reactor. Timers and turns are in test_reactor.c. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reactor/reactor.h"
#include "reactor/reactor_manual.h"
#include "support/loop.h"

typedef struct probe {
  mt_io io;
  unsigned ready;
  int calls;
  void (*then)(struct probe *p);
  struct probe *other;
} probe;

static void on_io(mt_io *io, unsigned ready) {
  probe *p = mt_container(io, probe, io);
  p->ready = ready;
  p->calls++;
  if (p->then) p->then(p);
}

static probe new_probe(void) { return (probe){.io.cb = on_io}; }

static void make_pair(int fds[2]) {
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
}

static void close_pair(const int fds[2]) {
  close(fds[0]);
  close(fds[1]);
}

static void put(int fd) { assert_int_equal(write(fd, "x", 1), 1); }

static void take(int fd) {
  char c;
  assert_int_equal(read(fd, &c, 1), 1);
}

static void readiness_is_level_triggered(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe();
  int fds[2];
  (void)state;
  make_pair(fds);
  mt_io_set(r, &p.io, fds[0], MT_READ);
  assert_int_equal(mt_reactor_live(r), 1);
  mt_test_turns(r, 2);
  assert_int_equal(p.calls, 0);
  put(fds[1]);
  mt_test_turns(r, 2);
  assert_int_equal(p.calls, 2);
  assert_int_equal(p.ready, MT_READ);
  take(fds[0]);
  mt_test_turns(r, 2);
  assert_int_equal(p.calls, 2);
  mt_io_del(&p.io, false);
  mt_io_del(&p.io, false);
  close_pair(fds);
  mt_test_reactor_end(r);
}

static void interest_changes(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe();
  int fds[2];
  (void)state;
  make_pair(fds);
  put(fds[1]);
  mt_io_set(r, &p.io, fds[0], MT_WRITE);
  mt_test_turns(r, 1);
  assert_int_equal(p.ready, MT_WRITE);
  mt_io_set(r, &p.io, fds[0], MT_READ | MT_WRITE);
  mt_io_set(r, &p.io, fds[0], MT_READ | MT_WRITE);
  assert_int_equal(mt_reactor_live(r), 1);
  mt_test_turns(r, 1);
  assert_int_equal(p.ready, MT_READ | MT_WRITE);
  mt_io_set(r, &p.io, fds[0], MT_READ);
  mt_test_turns(r, 1);
  assert_int_equal(p.ready, MT_READ);
  mt_io_set(r, &p.io, fds[0], 0);
  assert_int_equal(mt_reactor_live(r), 0);
  p.calls = 0;
  mt_test_turns(r, 2);
  assert_int_equal(p.calls, 0);
  close_pair(fds);
  mt_test_reactor_end(r);
}

static void a_watcher_moves_to_another_descriptor(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe();
  int a[2], b[2];
  (void)state;
  make_pair(a);
  make_pair(b);
  mt_io_set(r, &p.io, a[0], MT_READ);
  mt_test_turns(r, 1);
  mt_io_set(r, &p.io, b[0], MT_READ);
  put(a[1]);
  mt_test_turns(r, 2);
  assert_int_equal(p.calls, 0);
  put(b[1]);
  mt_test_turns(r, 1);
  assert_int_equal(p.calls, 1);
  mt_io_del(&p.io, false);
  close_pair(a);
  close_pair(b);
  mt_test_reactor_end(r);
}

static void two_watchers_share_a_descriptor(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe(), q = new_probe();
  int fds[2];
  (void)state;
  make_pair(fds);
  put(fds[1]);
  mt_io_set(r, &p.io, fds[0], MT_READ);
  mt_io_set(r, &q.io, fds[0], MT_WRITE);
  mt_test_turns(r, 1);
  assert_int_equal(p.ready, MT_READ);
  assert_int_equal(q.ready, MT_WRITE);
  mt_io_del(&p.io, false);
  mt_io_del(&q.io, false);
  close_pair(fds);
  mt_test_reactor_end(r);
}

/* As libpq does it: the socket is closed by itself, and the next one has its
 * number. `gap`: the loop takes turns in between. */
static void reuse_number(bool gap) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe();
  int a[2], b[2], number;

  make_pair(a);
  mt_io_set(r, &p.io, a[0], MT_READ);
  put(a[1]);
  mt_test_turns(r, 1);
  assert_int_equal(p.calls, 1);
  number = a[0];
  close(a[0]);
  mt_io_del(&p.io, true);
  if (gap) mt_test_turns(r, 2);
  make_pair(b);
  if (b[0] != number) { /* else it has got the number already */
    assert_int_equal(dup2(b[0], number), number);
    close(b[0]);
  }
  mt_io_set(r, &p.io, number, MT_READ);
  mt_test_turns(r, 2);
  assert_int_equal(p.calls, 1);
  put(b[1]);
  mt_test_turns(r, 1);
  assert_int_equal(p.calls, 2);
  mt_io_del(&p.io, false);
  close(number);
  close(b[1]);
  close(a[1]);
  mt_test_reactor_end(r);
}

static void a_closed_descriptors_number_is_reused(void **state) {
  (void)state;
  reuse_number(false);
  reuse_number(true);
}

/* The file lives on under another number, so epoll still reports it. */
static void a_duplicate_keeps_the_file_open(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe();
  int fds[2], copy;
  (void)state;
  make_pair(fds);
  mt_io_set(r, &p.io, fds[0], MT_READ);
  mt_test_turns(r, 1);
  copy = dup(fds[0]);
  close(fds[0]);
  mt_io_del(&p.io, true);
  put(fds[1]);
  mt_test_turns(r, 3);
  assert_int_equal(p.calls, 0);
  close(copy);
  close(fds[1]);
  mt_test_reactor_end(r);
}

static void delete_self(probe *p) { mt_io_del(&p->io, false); }

static void delete_other(probe *p) { mt_io_del(&p->other->io, false); }

static void deletion_in_callbacks_holds_at_once(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe(), q = new_probe();
  int a[2], b[2];
  (void)state;
  make_pair(a);
  make_pair(b);
  put(a[1]);
  put(b[1]);
  p.then = q.then = delete_other;
  p.other = &q;
  q.other = &p;
  mt_io_set(r, &p.io, a[0], MT_READ);
  mt_io_set(r, &q.io, b[0], MT_READ);
  mt_test_turns(r, 1);
  assert_int_equal(p.calls + q.calls, 1); /* whichever came first */
  p.then = q.then = delete_self;
  mt_test_turns(r, 3);
  assert_int_equal(p.calls + q.calls, 2);
  close_pair(a);
  close_pair(b);
  mt_test_reactor_end(r);
}

static void move_other(probe *p) {
  mt_io_set(p->io.reactor, &p->other->io, p->other->io.fd, MT_WRITE);
  mt_io_del(&p->io, false);
}

static void changes_in_callbacks_hold_at_once(void **state) {
  mt_reactor *r = mt_test_reactor();
  probe p = new_probe(), q = new_probe();
  int a[2], b[2];
  (void)state;
  make_pair(a);
  make_pair(b);
  put(a[1]);
  put(b[1]);
  p.then = q.then = move_other;
  p.other = &q;
  q.other = &p;
  mt_io_set(r, &p.io, a[0], MT_READ);
  mt_io_set(r, &q.io, b[0], MT_READ);
  mt_test_turns(r, 1);
  p.then = q.then = NULL;
  mt_test_turns(r, 1);
  assert_int_equal((p.io.want ? &p : &q)->ready, MT_WRITE);
  mt_io_del(&p.io, false);
  mt_io_del(&q.io, false);
  close_pair(a);
  close_pair(b);
  mt_test_reactor_end(r);
}

static void descriptors_are_ready_by_hand(void **state) {
  mt_reactor *r = mt_manual_new();
  probe p = new_probe();
  (void)state;
  mt_io_set(r, &p.io, 99, MT_READ);
  assert_false(mt_manual_io_ready(&p.io, MT_WRITE));
  assert_true(mt_manual_io_ready(&p.io, MT_READ | MT_WRITE));
  assert_int_equal(p.ready, MT_READ);
  mt_io_del(&p.io, true);
  mt_test_reactor_end(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(readiness_is_level_triggered),
      cmocka_unit_test(interest_changes),
      cmocka_unit_test(a_watcher_moves_to_another_descriptor),
      cmocka_unit_test(two_watchers_share_a_descriptor),
      cmocka_unit_test(a_closed_descriptors_number_is_reused),
      cmocka_unit_test(a_duplicate_keeps_the_file_open),
      cmocka_unit_test(deletion_in_callbacks_holds_at_once),
      cmocka_unit_test(changes_in_callbacks_hold_at_once),
      cmocka_unit_test(descriptors_are_ready_by_hand),
  };
  return cmocka_run_group_tests_name("libev", tests, mt_test_on_ev, NULL) +
         cmocka_run_group_tests_name("poll", tests, mt_test_on_poll, NULL);
}
