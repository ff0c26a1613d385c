/*
 * What all reactors share: counting what is in use, and the work queued for
 * the end of a turn. The loops themselves are in reactor_*.c.
 */
#include "reactor/reactor.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* About 30 years: keeps inf out of the loops' arithmetic. */
#define LONGEST_DELAY_MS 1e12

void mt_reactor_init(mt_reactor *r, const mt_reactor_ops *ops) {
  memset(r, 0, sizeof *r);
  r->ops = ops;
}

static void count_background(mt_reactor *r, bool more) {
  if (more)
    r->background++;
  else
    r->background--;
  if (r->on_background) r->on_background(r, more);
}

void mt_io_set(mt_reactor *r, mt_io *io, int fd, unsigned want) {
  if (!want) {
    mt_io_del(io, false);
    return;
  }
  assert(fd >= 0 && (!io->want || io->reactor == r));
  if (!io->want) r->live_ios++;
  io->reactor = r;
  r->ops->io_set(io, fd, want);
  if (!io->want && io->background) count_background(r, true);
  io->fd = fd;
  io->want = want;
}

void mt_io_del(mt_io *io, bool fd_closed) {
  if (!io->want) return;
  io->reactor->ops->io_del(io, fd_closed);
  if (io->background) count_background(io->reactor, false);
  io->want = 0;
  io->reactor->live_ios--;
}

void mt_io_set_background(mt_io *io, bool background) {
  if (io->background == background) return;
  io->background = background;
  if (io->want) count_background(io->reactor, background);
}

void mt_timer_set(mt_reactor *r, mt_timer *t, double delay_ms) {
  assert(!t->active || t->reactor == r);
  if (!(delay_ms > 0)) delay_ms = 0;
  if (!t->active) r->live_timers++;
  t->reactor = r;
  r->ops->timer_set(t, fmin(delay_ms, LONGEST_DELAY_MS));
  if (!t->active && t->background) count_background(r, true);
  t->active = true;
}

void mt_timer_del(mt_timer *t) {
  if (!t->active) return;
  t->reactor->ops->timer_del(t);
  if (t->background) count_background(t->reactor, false);
  t->active = false;
  t->reactor->live_timers--;
}

void mt_timer_fired(mt_timer *t) {
  assert(t->active);
  if (t->background) count_background(t->reactor, false);
  t->active = false;
  t->reactor->live_timers--;
  t->cb(t);
}

void mt_defer_add(mt_reactor *r, mt_defer *d, mt_defer_phase phase) {
  if (mt_node_linked(&d->node)) return;
  mt_list_push(&r->deferred[phase], &d->node);
  if (r->deferred[phase].len == 1) r->ops->wake(r);
}

void mt_defer_del(mt_defer *d) { mt_node_unlink(&d->node); }

#define SLICE_MS 2.0

void mt_reactor_slice(mt_reactor *r, mt_defer *d, bool (*one)(void *data),
                      void *data) {
  double until = mt_reactor_now(r) + SLICE_MS;
  while (one(data)) {
    if (mt_reactor_now(r) < until) continue;
    mt_defer_add(r, d, MT_DEFER_DELIVER);
    return;
  }
}

/* What its callbacks queue in the same phase waits for the next round, else
 * two of them could keep the loop from its sockets for ever. */
static void run_phase(mt_reactor *r, mt_defer_phase phase) {
  mt_list due = {0};
  mt_node *n;

  mt_list_take(&due, &r->deferred[phase]);
  while ((n = mt_list_pop(&due))) {
    mt_defer *d = mt_container(n, mt_defer, node);
    d->cb(d); /* may free d */
  }
}

static bool has_deferred(const mt_reactor *r) {
  int i;
  for (i = 0; i < MT_DEFER_PHASES; i++) {
    if (r->deferred[i].len > 0) return true;
  }
  return false;
}

bool mt_reactor_take_heavy(mt_reactor *r) {
  if (r->heavy_turn == r->turn) return false;
  r->heavy_turn = r->turn;
  return true;
}

void mt_reactor_flush(mt_reactor *r) { run_phase(r, MT_DEFER_FLUSH); }

bool mt_reactor_end_turn(mt_reactor *r) {
  r->turn++;
  if (!has_deferred(r)) return false;
  run_phase(r, MT_DEFER_DELIVER);
  run_phase(r, MT_DEFER_FLUSH);
  run_phase(r, MT_DEFER_FREE);
  return has_deferred(r);
}

double mt_reactor_clock(mt_reactor *r) {
  struct timespec ts;
  (void)r;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

void mt_reactor_looks(mt_reactor *r) {
  r->looked_at = r->looks_at;
  r->looks_at = r->ops->now(r);
}

/* Longer than that, and the loop has slept until it came. */
#define SLEPT_MS 0.1

double mt_reactor_arrival(mt_reactor *r, double now) {
  return now - r->looks_at > SLEPT_MS ? now : r->looked_at;
}

size_t mt_reactor_live(const mt_reactor *r) {
  return r->live_ios + r->live_timers;
}

void mt_reactor_run_once(mt_reactor *r, bool block) {
  r->ops->run_once(r, block && !has_deferred(r));
}

double mt_reactor_now(mt_reactor *r) { return r->ops->now(r); }

void mt_reactor_free(mt_reactor *r) {
  if (!r) return;
  if (r->resolver) r->resolver_free(r->resolver);
  while (mt_reactor_end_turn(r)) continue;
  assert(mt_reactor_live(r) == 0);
  r->ops->destroy(r);
}
