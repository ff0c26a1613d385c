/*
 * The reactor whose clock is moved by hand: see reactor_manual.h. run_once
 * jumps to the next timer if it may block.
 */
#include "reactor/reactor_manual.h"

#include <math.h>
#include <poll.h>
#include <string.h>

#include "base/alloc.h"
#include "reactor/timers.h"

typedef struct watched {
  mt_node node;
  mt_io *io;
  unsigned ready; /* found by poll, not called yet */
} watched;

typedef struct manual {
  mt_reactor base;
  double now;
  mt_timers timers;
  mt_list ios;
  struct pollfd *fds; /* room for poll */
  size_t nfds;
  uint64_t changes; /* of the descriptors and what is wanted, or found */
} manual;

_Static_assert(sizeof(watched) <= sizeof(mt_watcher_priv), "watched is larger");

static manual *from_base(mt_reactor *r) {
  return mt_container(r, manual, base);
}

static watched *io_entry(mt_io *io) { return (watched *)(void *)&io->priv; }

static watched *node_entry(mt_node *n) {
  return mt_container(n, watched, node);
}

/* ---- watchers ---------------------------------------------------------------- */

static void io_set(mt_io *io, int fd, unsigned want) {
  watched *w = io_entry(io);
  from_base(io->reactor)->changes +=
      !io->want || io->fd != fd || (want & ~io->want);
  if (io->want) return;
  memset(w, 0, sizeof *w);
  w->io = io;
  mt_list_push(&from_base(io->reactor)->ios, &w->node);
}

static void io_del(mt_io *io, bool fd_closed) {
  (void)fd_closed;
  mt_list_remove(&from_base(io->reactor)->ios, &io_entry(io)->node);
}

static void timer_del(mt_timer *t) {
  mt_timers_del(&from_base(t->reactor)->timers, t);
}

static void timer_set(mt_timer *t, double delay_ms) {
  manual *m = from_base(t->reactor);
  mt_timers_set(&m->timers, t, m->now + delay_ms);
}

static double now(mt_reactor *r) { return from_base(r)->now; }

static void wake(mt_reactor *r) { (void)r; }

/* ---- moving on --------------------------------------------------------------- */

void mt_manual_settle(mt_reactor *r) {
  while (mt_reactor_end_turn(r)) continue;
}

double mt_manual_next_timer(mt_reactor *r) {
  manual *m = from_base(r);
  return mt_timers_left(&m->timers, m->now);
}

bool mt_manual_run_due(mt_reactor *r) {
  manual *m = from_base(r);
  uint64_t limit = m->timers.next_seq;
  mt_timer *t;
  bool any = false;

  while ((t = mt_timers_take(&m->timers, m->now, limit))) {
    any = true;
    mt_timer_fired(t);
    mt_manual_settle(r);
  }
  return any;
}

bool mt_manual_jump(mt_reactor *r, double ms) {
  manual *m = from_base(r);
  double left = mt_timers_left(&m->timers, m->now);
  if (left < 0 || left > ms) return false;
  m->now += left;
  return true;
}

void mt_manual_advance(mt_reactor *r, double ms) {
  manual *m = from_base(r);
  double end = m->now + ms;
  int rounds = 0;

  mt_manual_settle(r);
  mt_manual_run_due(r);
  while (m->now < end && mt_manual_jump(r, end - m->now)) {
    assert(rounds++ < 1000000); /* timers that are set to 0 ms for ever */
    mt_manual_run_due(r);
  }
  m->now = end;
}

static void run_once(mt_reactor *r, bool block) {
  if (block) mt_manual_jump(r, INFINITY);
  mt_manual_run_due(r);
  mt_manual_settle(r);
}

/* ---- descriptors --------------------------------------------------------------- */

bool mt_manual_io_ready(mt_io *io, unsigned ready) {
  mt_reactor *r = io->reactor;
  ready &= io->want;
  if (!ready) return false;
  io->cb(io, ready);
  mt_manual_settle(r);
  return true;
}

static bool make_room(manual *m) {
  struct pollfd *fds;
  if (m->nfds >= m->ios.len) return true;
  fds = mt_realloc(m->fds, 2 * m->ios.len * sizeof *fds);
  if (!fds) return false;
  m->fds = fds;
  m->nfds = 2 * m->ios.len;
  return true;
}

static short events_of(unsigned want) {
  return (short)((want & MT_READ ? POLLIN : 0) |
                 (want & MT_WRITE ? POLLOUT : 0));
}

static unsigned ready_of(short events) {
  unsigned trouble =
      events & (POLLERR | POLLHUP | POLLNVAL) ? MT_READ | MT_WRITE : 0;
  return trouble | (events & POLLIN ? MT_READ : 0) |
         (events & POLLOUT ? MT_WRITE : 0);
}

/* Any of them may go when another one is called: so look from the start. */
static mt_io *next_ready(manual *m) {
  mt_node *n;
  for (n = m->ios.head; n; n = n->next) {
    if (node_entry(n)->ready) return node_entry(n)->io;
  }
  return NULL;
}

bool mt_manual_poll(mt_reactor *r, int wait_ms) {
  manual *m = from_base(r);
  mt_node *n;
  nfds_t count = 0;
  bool any = false;
  mt_io *io;

  if (!m->ios.head || !make_room(m)) return false;
  for (n = m->ios.head; n; n = n->next, count++) {
    io = node_entry(n)->io;
    m->fds[count] = (struct pollfd){io->fd, events_of(io->want), 0};
  }
  mt_reactor_looks(r);
  if (poll(m->fds, count, wait_ms) <= 0) return false;
  for (n = m->ios.head, count = 0; n; n = n->next, count++)
    node_entry(n)->ready = ready_of(m->fds[count].revents);
  while ((io = next_ready(m))) {
    unsigned ready = io_entry(io)->ready & io->want;
    io_entry(io)->ready = 0;
    if (!ready) continue;
    any = true;
    m->changes++;
    io->cb(io, ready);
  }
  mt_manual_settle(r);
  return any;
}

uint64_t mt_manual_changes(const mt_reactor *r) {
  return mt_container(r, manual, base)->changes;
}

/* ---- life ----------------------------------------------------------------------- */

void mt_manual_restart(mt_reactor *r, double now_ms) {
  assert(mt_reactor_live(r) == 0);
  from_base(r)->now = now_ms;
  r->looks_at = r->looked_at = 0;
}

static void destroy(mt_reactor *r) {
  mt_free(from_base(r)->fds);
  mt_free(from_base(r));
}

static const mt_reactor_ops ops = {io_set, io_del,   timer_set, timer_del,
                                   now,    run_once, wake,      destroy};

mt_reactor *mt_manual_new(void) {
  manual *m = mt_calloc(sizeof *m);
  if (!m) return NULL;
  mt_reactor_init(&m->base, &ops);
  m->now = 1000;
  return &m->base;
}
