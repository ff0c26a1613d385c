/* The reactor of tests: see manual_reactor.h. run_once jumps to the next
 * timer if it may block. */
#include "support/manual_reactor.h"

#include <string.h>

#include "base/alloc.h"

typedef struct manual {
  mt_reactor base;
  double now;
  uint64_t next_seq;
  mt_list timers; /* by due time, then in the order in which they were set */
} manual;

typedef struct entry {
  mt_node node;
  mt_timer *timer;
  double due;
  uint64_t seq; /* counts timer_set */
} entry;

_Static_assert(sizeof(entry) <= sizeof(mt_watcher_priv), "entry is larger");

static manual *from_base(mt_reactor *r) {
  return mt_container(r, manual, base);
}

static entry *timer_entry(mt_timer *t) { return (entry *)(void *)&t->priv; }

static entry *node_entry(mt_node *n) { return mt_container(n, entry, node); }

static void io_set(mt_io *io, int fd, unsigned want) {
  (void)io;
  (void)fd;
  (void)want;
}

static void io_del(mt_io *io, bool fd_closed) {
  (void)io;
  (void)fd_closed;
}

static void timer_del(mt_timer *t) {
  mt_list_remove(&from_base(t->reactor)->timers, &timer_entry(t)->node);
}

static void insert(manual *m, entry *e) {
  mt_list later = {0};
  mt_node *n;

  while ((n = m->timers.tail) && node_entry(n)->due > e->due) {
    mt_list_remove(&m->timers, n);
    mt_list_push_front(&later, n);
  }
  mt_list_push(&m->timers, &e->node);
  while ((n = mt_list_pop(&later))) mt_list_push(&m->timers, n);
}

static void timer_set(mt_timer *t, double delay_ms) {
  manual *m = from_base(t->reactor);
  entry *e = timer_entry(t);

  if (t->active) timer_del(t);
  memset(e, 0, sizeof *e);
  e->timer = t;
  e->due = m->now + delay_ms;
  e->seq = m->next_seq++;
  insert(m, e);
}

static double now(mt_reactor *r) { return from_base(r)->now; }

static void wake(mt_reactor *r) { (void)r; }

void mt_manual_settle(mt_reactor *r) {
  while (mt_reactor_end_turn(r)) continue;
}

double mt_manual_next_timer(mt_reactor *r) {
  manual *m = from_base(r);
  double left;
  if (!m->timers.head) return -1;
  left = node_entry(m->timers.head)->due - m->now;
  return left > 0 ? left : 0;
}

/* The first one that is due and was set before `limit`. */
static entry *next_due(const manual *m, uint64_t limit) {
  mt_node *n;
  for (n = m->timers.head; n && node_entry(n)->due <= m->now; n = n->next) {
    if (node_entry(n)->seq < limit) return node_entry(n);
  }
  return NULL;
}

/* One that a callback sets to 0 ms waits for the next call, as in a loop. */
static void run_due(manual *m) {
  uint64_t limit = m->next_seq;
  entry *e;

  while ((e = next_due(m, limit))) {
    mt_list_remove(&m->timers, &e->node);
    mt_timer_fired(e->timer);
    mt_manual_settle(&m->base);
  }
}

void mt_manual_advance(mt_reactor *r, double ms) {
  manual *m = from_base(r);
  double end = m->now + ms;
  int rounds = 0;

  mt_manual_settle(r);
  run_due(m);
  while (m->timers.head && node_entry(m->timers.head)->due <= end &&
         m->now < end) {
    assert(rounds++ < 1000000); /* timers that are set to 0 ms for ever */
    if (node_entry(m->timers.head)->due > m->now)
      m->now = node_entry(m->timers.head)->due;
    run_due(m);
  }
  m->now = end;
}

static void run_once(mt_reactor *r, bool block) {
  manual *m = from_base(r);
  double next = mt_manual_next_timer(r);

  if (block && next > 0) m->now += next;
  run_due(m);
  mt_manual_settle(r);
}

bool mt_manual_io_ready(mt_io *io, unsigned ready) {
  mt_reactor *r = io->reactor;
  ready &= io->want;
  if (!ready) return false;
  io->cb(io, ready);
  mt_manual_settle(r);
  return true;
}

static void destroy(mt_reactor *r) { mt_free(from_base(r)); }

static const mt_reactor_ops ops = {io_set, io_del,   timer_set, timer_del,
                                   now,    run_once, wake,      destroy};

mt_reactor *mt_manual_new(void) {
  manual *m = mt_calloc(sizeof *m);
  assert(m);
  mt_reactor_init(&m->base, &ops);
  m->now = 1000;
  return &m->base;
}
