/*
 * The reactor behind one descriptor, for loops that this library does not
 * know: an epoll set with a timerfd in it, which is readable whenever there is
 * something to do. The host watches it and calls mt_reactor_step. Work that
 * is queued between two steps makes the timerfd due at once.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "reactor/timers.h"

enum { EVENTS = 64 };

/* What is watched on a descriptor: as a rule one watcher, but a new one may
 * come before the old one has learnt that its file is closed. */
typedef struct slot {
  mt_list watchers;
  unsigned mask; /* what the kernel was told; 0: nothing */
  uint32_t gen;  /* of what it was told: events of a file that was closed here,
                    but is open in a child, are none of ours */
} slot;

typedef struct poll_reactor {
  mt_reactor base;
  int epoll, timer;
  mt_timers timers;
  double armed; /* when the timerfd is due; NEVER: it is not */
  bool stepping;
  slot *slots; /* by descriptor */
  int nslots;
  mt_list pending; /* watchers to be called in this step */
} poll_reactor;

typedef struct watched {
  mt_node by_fd;   /* slot->watchers */
  mt_node pending; /* reactor->pending */
  unsigned ready;
} watched;

_Static_assert(sizeof(watched) <= sizeof(mt_watcher_priv), "watched is larger");

static poll_reactor *from_base(mt_reactor *r) {
  return mt_container(r, poll_reactor, base);
}

static watched *watched_of(mt_io *io) { return (watched *)(void *)&io->priv; }

static mt_io *io_of(watched *w) { return mt_container(w, mt_io, priv); }

/* ---- the timerfd --------------------------------------------------------------- */

#define NEVER 1e300

static void arm(poll_reactor *p, double at) {
  struct itimerspec it = {{0, 0}, {0, 0}};
  if (at < NEVER) {
    double ms = at > 0.000001 ? at : 0.000001; /* 0 would disarm it */
    it.it_value.tv_sec = (time_t)(ms / 1e3);
    it.it_value.tv_nsec = (long)((ms - (double)it.it_value.tv_sec * 1e3) * 1e6);
    if (it.it_value.tv_nsec > 999999999) it.it_value.tv_nsec = 999999999;
  }
  timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &it, NULL);
  p->armed = at;
}

/* A timer that has become later may leave it as it is: it comes for nothing
 * then, once. */
static void arm_for(poll_reactor *p, double at) {
  if (at < p->armed) arm(p, at);
}

static void wake(mt_reactor *r) {
  poll_reactor *p = from_base(r);
  if (!p->stepping) arm_for(p, 0);
}

/* ---- watchers -------------------------------------------------------------------- */

static void call_later(poll_reactor *p, watched *w, unsigned ready) {
  w->ready |= ready;
  if (!mt_node_linked(&w->pending)) mt_list_push(&p->pending, &w->pending);
}

static bool make_slots(poll_reactor *p, int fd) {
  int n = p->nslots ? p->nslots : 32;
  slot *slots;
  if (fd < p->nslots) return true;
  while (n <= fd) n *= 2;
  slots = mt_calloc((size_t)n * sizeof *slots);
  if (!slots) return false;
  for (int i = 0; i < p->nslots; i++) {
    mt_list_take(&slots[i].watchers, &p->slots[i].watchers);
    slots[i].mask = p->slots[i].mask;
    slots[i].gen = p->slots[i].gen;
  }
  mt_free(p->slots);
  p->slots = slots;
  p->nslots = n;
  return true;
}

static int control(poll_reactor *p, int op, int fd, const slot *s) {
  struct epoll_event ev = {.events = (s->mask & MT_READ ? EPOLLIN : 0u) |
                                     (s->mask & MT_WRITE ? EPOLLOUT : 0u),
                           .data.u64 = (uint64_t)s->gen << 32 | (uint32_t)fd};
  return epoll_ctl(p->epoll, op, fd, &ev);
}

static unsigned wanted(const slot *s, const mt_io *io, unsigned want) {
  unsigned mask = 0;
  const mt_node *n;
  for (n = s->watchers.head; n; n = n->next) {
    mt_io *other = io_of(mt_container((mt_node *)n, watched, by_fd));
    mask |= other == io ? want : other->want;
  }
  return mask;
}

/* Tells the kernel. False: it can't watch this. */
static bool tell(poll_reactor *p, int fd, slot *s, unsigned mask, bool add) {
  int rc;
  s->mask = mask;
  if (add) s->gen++;
  rc = control(p, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, s);
  if (rc != 0 && errno == ENOENT) { /* another file has the number now */
    s->gen++;
    rc = control(p, EPOLL_CTL_ADD, fd, s);
  } else if (rc != 0 && errno == EEXIST) {
    rc = control(p, EPOLL_CTL_MOD, fd, s);
  }
  return rc == 0;
}

static void forget(poll_reactor *p, mt_io *io, bool fd_closed) {
  watched *w = watched_of(io);
  slot *s = w->by_fd.list ? &p->slots[io->fd] : NULL;
  unsigned mask;
  if (!s) return;
  mt_list_remove(&s->watchers, &w->by_fd);
  mask = wanted(s, NULL, 0);
  if (mask == s->mask) return;
  if (mask)
    tell(p, io->fd, s, mask, false);
  else if (!fd_closed)
    epoll_ctl(p->epoll, EPOLL_CTL_DEL, io->fd, NULL);
  s->mask = mask;
}

static void io_set(mt_io *io, int fd, unsigned want) {
  poll_reactor *p = from_base(io->reactor);
  watched *w = watched_of(io);
  unsigned mask;
  bool joins = !io->want || io->fd != fd, add;
  slot *s;
  if (!joins && io->want == want) return;
  if (!io->want)
    memset(w, 0, sizeof *w);
  else if (joins)
    forget(p, io, false);
  if (!make_slots(p, fd)) { /* its owner finds nothing, and is called again */
    call_later(p, w, want);
    wake(&p->base);
    return;
  }
  s = &p->slots[fd];
  add = s->mask == 0;
  if (joins) mt_list_push(&s->watchers, &w->by_fd);
  mask = wanted(s, io, want);
  if (!joins && mask == s->mask) return;
  if (tell(p, fd, s, mask, add)) return;
  s->mask = 0;
  call_later(p, w, want); /* its owner learns why from its next read */
  wake(&p->base);
}

static void io_del(mt_io *io, bool fd_closed) {
  mt_node_unlink(&watched_of(io)->pending);
  forget(from_base(io->reactor), io, fd_closed);
}

static void timer_set(mt_timer *t, double delay_ms) {
  poll_reactor *p = from_base(t->reactor);
  double due = mt_reactor_clock(t->reactor) + delay_ms;
  mt_timers_set(&p->timers, t, due);
  if (!p->stepping) arm_for(p, due);
}

static void timer_del(mt_timer *t) {
  mt_timers_del(&from_base(t->reactor)->timers, t);
}

/* ---- a step ------------------------------------------------------------------------ */

static void note_event(poll_reactor *p, const struct epoll_event *ev) {
  int fd = (int)(uint32_t)ev->data.u64;
  slot *s = fd < p->nslots ? &p->slots[fd] : NULL;
  unsigned ready = 0;
  mt_node *n;
  if (fd == p->timer || !s || s->gen != ev->data.u64 >> 32) return;
  if (ev->events & (EPOLLIN | EPOLLERR | EPOLLHUP)) ready |= MT_READ;
  if (ev->events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) ready |= MT_WRITE;
  for (n = s->watchers.head; n; n = n->next)
    call_later(p, mt_container(n, watched, by_fd), ready);
}

static void call_ready(poll_reactor *p) {
  mt_list due = {0};
  mt_node *n;
  mt_list_take(&due, &p->pending);
  while ((n = mt_list_pop(&due))) {
    watched *w = mt_container(n, watched, pending);
    mt_io *io = io_of(w);
    unsigned ready = w->ready & io->want;
    w->ready = 0;
    if (ready) io->cb(io, ready);
  }
}

static void call_due(poll_reactor *p) {
  uint64_t limit = p->timers.next_seq;
  double until = mt_reactor_clock(&p->base);
  mt_timer *t;
  while ((t = mt_timers_take(&p->timers, until, limit))) mt_timer_fired(t);
}

static void arm_next(poll_reactor *p, bool at_once) {
  double left = mt_timers_left(&p->timers, 0), at = left < 0 ? NEVER : left;
  if (at_once || p->pending.head) at = 0;
  /* one that has come stays readable until it is set again */
  if (at < p->armed || p->armed <= mt_reactor_clock(&p->base)) arm(p, at);
}

static void step(poll_reactor *p, int timeout_ms) {
  struct epoll_event events[EVENTS];
  int n, i;
  p->stepping = true;
  n = epoll_wait(p->epoll, events, EVENTS, timeout_ms);
  for (i = 0; i < n; i++) note_event(p, &events[i]);
  call_ready(p);
  call_due(p);
  arm_next(p, mt_reactor_end_turn(&p->base));
  p->stepping = false;
  mt_reactor_looks(&p->base);
}

static void run_once(mt_reactor *r, bool block) {
  poll_reactor *p = from_base(r);
  assert(!p->stepping);
  step(p, block ? -1 : 0);
}

/* ---- life ---------------------------------------------------------------------------- */

static void destroy(mt_reactor *r) {
  poll_reactor *p = from_base(r);
  close(p->timer);
  close(p->epoll);
  mt_free(p->slots);
  mt_free(p);
}

static const mt_reactor_ops ops = {io_set,    io_del,           timer_set,
                                   timer_del, mt_reactor_clock, run_once,
                                   wake,      destroy};

int mt_reactor_poll_new(mt_reactor **out) {
  poll_reactor *p = mt_calloc(sizeof *p);
  struct epoll_event ev = {.events = EPOLLIN};
  if (!p) return MT_E_OUT_OF_MEMORY;
  mt_reactor_init(&p->base, &ops);
  p->armed = NEVER;
  p->epoll = epoll_create1(EPOLL_CLOEXEC);
  p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  ev.data.u64 = (uint32_t)p->timer;
  if (p->epoll >= 0 && p->timer >= 0 &&
      epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->timer, &ev) == 0) {
    *out = &p->base;
    return MT_OK;
  }
  if (p->epoll >= 0) close(p->epoll);
  if (p->timer >= 0) close(p->timer);
  mt_free(p);
  return MT_E_OUT_OF_MEMORY;
}

static bool is_ours(const mt_reactor *r) { return r->ops == &ops; }

void mt_reactor_step(mt_reactor *r) {
  if (is_ours(r) && !from_base(r)->stepping) step(from_base(r), 0);
}

int mt_reactor_fd(const mt_reactor *r) {
  return is_ours(r) ? mt_container(r, poll_reactor, base)->epoll : -1;
}

double mt_reactor_timeout_ms(mt_reactor *r) {
  const poll_reactor *p = from_base(r);
  if (!is_ours(r)) return -1;
  if (p->armed <= 0) return 0;
  return mt_timers_left(&p->timers, mt_reactor_clock(r));
}
