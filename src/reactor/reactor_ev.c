/*
 * The reactor on libev, on its own loop or on the host's. A host's loop is
 * never run, broken or destroyed here, and keeps no reference for what only
 * serves the end of a turn.
 */
#include <ev.h>
#include <time.h>

#include "base/alloc.h"
#include "reactor/reactor.h"

typedef struct ev_reactor {
  mt_reactor base;
  struct ev_loop *loop;
  bool own_loop;
  ev_prepare turn; /* runs before the loop blocks */
  ev_idle awake;   /* while it is started the loop doesn't block */
} ev_reactor;

_Static_assert(sizeof(ev_io) <= sizeof(mt_watcher_priv), "ev_io is larger");
_Static_assert(sizeof(ev_timer) <= sizeof(mt_watcher_priv),
               "ev_timer is larger");
_Static_assert(_Alignof(ev_io) <= _Alignof(mt_watcher_priv) &&
                   _Alignof(ev_timer) <= _Alignof(mt_watcher_priv),
               "alignment of libev's watchers");

static ev_reactor *from_base(mt_reactor *r) {
  return mt_container(r, ev_reactor, base);
}

static ev_io *io_watcher(mt_io *io) { return (ev_io *)(void *)&io->priv; }

static ev_timer *timer_watcher(mt_timer *t) {
  return (ev_timer *)(void *)&t->priv;
}

static void on_io(struct ev_loop *loop, ev_io *w, int revents) {
  mt_io *io = w->data;
  unsigned ready = 0;
  (void)loop;

  /* With EV_ERROR libev has stopped the watcher, because the descriptor was
   * closed: the owner learns it from its next read. */
  if (revents & (EV_READ | EV_ERROR)) ready |= MT_READ;
  if (revents & (EV_WRITE | EV_ERROR)) ready |= MT_WRITE;
  ready &= io->want;
  if (ready) io->cb(io, ready);
}

/*
 * ev_io_set marks the descriptor as possibly another file, so that the epoll
 * backend asks the kernel even if it knows the number with the same events;
 * ev_io_modify, for a descriptor that has stayed in the loop, does not.
 */
static void io_set(mt_io *io, int fd, unsigned want) {
  ev_reactor *er = from_base(io->reactor);
  ev_io *w = io_watcher(io);
  int events =
      (want & MT_READ ? EV_READ : 0) | (want & MT_WRITE ? EV_WRITE : 0);

  if (!io->want) {
    ev_io_init(w, on_io, fd, events);
    w->data = io;
  } else if (!ev_is_active(w) || io->fd != fd) {
    ev_io_stop(er->loop, w);
    ev_io_set(w, fd, events);
  } else if (io->want != want) {
    ev_io_stop(er->loop, w);
    ev_io_modify(w, events);
  }
  ev_io_start(er->loop, w);
}

/* Stopping makes no system call (epoll's registration goes with the file, or
 * is dropped at a spurious event), so a closed descriptor needs no care. */
static void io_del(mt_io *io, bool fd_closed) {
  (void)fd_closed;
  ev_io_stop(from_base(io->reactor)->loop, io_watcher(io));
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)loop;
  (void)revents;
  mt_timer_fired(w->data);
}

static void timer_set(mt_timer *t, double delay_ms) {
  ev_reactor *er = from_base(t->reactor);
  ev_timer *w = timer_watcher(t);

  /* libev counts from its cached time: the turn's start, or, on a host's loop
   * that is not running, long ago. */
  ev_now_update(er->loop);
  if (t->active) ev_timer_stop(er->loop, w);
  ev_timer_init(w, on_timer, delay_ms / 1000, 0.);
  w->data = t;
  ev_timer_start(er->loop, w);
}

static void timer_del(mt_timer *t) {
  ev_timer_stop(from_base(t->reactor)->loop, timer_watcher(t));
}

static double now(mt_reactor *r) {
  struct timespec ts;
  (void)r;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void end_turn(ev_reactor *er) {
  if (!mt_reactor_end_turn(&er->base)) ev_idle_stop(er->loop, &er->awake);
}

static void on_turn(struct ev_loop *loop, ev_prepare *w, int revents) {
  ev_reactor *er = w->data;
  (void)loop;
  (void)revents;
  end_turn(er);
  mt_reactor_looks(&er->base);
}

static void on_awake(struct ev_loop *loop, ev_idle *w, int revents) {
  (void)loop;
  (void)w;
  (void)revents;
}

static void wake(mt_reactor *r) {
  ev_reactor *er = from_base(r);
  ev_idle_start(er->loop, &er->awake);
}

/* The prepare watcher ends the turn before; what this one's events have
 * queued is done here, or a caller that waits for it would block. */
static void run_once(mt_reactor *r, bool block) {
  ev_reactor *er = from_base(r);
  if (!er->own_loop) return;
  ev_run(er->loop, block ? EVRUN_ONCE : EVRUN_NOWAIT);
  end_turn(er);
}

static void destroy(mt_reactor *r) {
  ev_reactor *er = from_base(r);
  ev_idle_stop(er->loop, &er->awake);
  ev_ref(er->loop);
  ev_prepare_stop(er->loop, &er->turn);
  if (er->own_loop) ev_loop_destroy(er->loop);
  mt_free(er);
}

static const mt_reactor_ops ops = {io_set, io_del,   timer_set, timer_del,
                                   now,    run_once, wake,      destroy};

int mt_reactor_ev_new(struct ev_loop *loop, mt_reactor **out) {
  ev_reactor *er = mt_calloc(sizeof *er);
  if (!er) return MT_E_OUT_OF_MEMORY;
  er->own_loop = !loop;
  er->loop = loop ? loop : ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
  if (!er->loop) {
    mt_free(er);
    return MT_E_OUT_OF_MEMORY;
  }
  mt_reactor_init(&er->base, &ops);

  ev_prepare_init(&er->turn, on_turn);
  er->turn.data = er;
  ev_set_priority(&er->turn, EV_MINPRI); /* after the host's own */
  ev_prepare_start(er->loop, &er->turn);
  ev_unref(er->loop);
  ev_idle_init(&er->awake, on_awake);
  *out = &er->base;
  return MT_OK;
}
