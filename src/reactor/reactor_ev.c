/*
 * The reactor on libev, on its own loop or on the host's. A host's loop is
 * never run, broken or destroyed here, and keeps no reference for what only
 * serves the end of a turn or waits in the background. A host that destroys
 * its loop first leaves the reactor on one of its own, so that what is open
 * can still be closed.
 */
#include <ev.h>

#include "base/alloc.h"
#include "base/err.h"
#include "reactor/reactor.h"

typedef struct ev_reactor {
  mt_reactor base;
  struct ev_loop *loop;
  bool own_loop;
  ev_prepare turn; /* runs before the loop blocks */
  ev_idle awake;   /* while it is started the loop doesn't block */
  ev_cleanup gone; /* the host destroys its loop */
  mt_list ios, timers;
} ev_reactor;

typedef struct io_priv {
  ev_io w;
  mt_node node; /* in ios while it is watched */
} io_priv;

typedef struct timer_priv {
  ev_timer w;
  mt_node node; /* in timers while it is set */
} timer_priv;

_Static_assert(sizeof(io_priv) <= sizeof(mt_watcher_priv), "ev_io is larger");
_Static_assert(sizeof(timer_priv) <= sizeof(mt_watcher_priv),
               "ev_timer is larger");
_Static_assert(_Alignof(io_priv) <= _Alignof(mt_watcher_priv) &&
                   _Alignof(timer_priv) <= _Alignof(mt_watcher_priv),
               "alignment of libev's watchers");

static ev_reactor *from_base(mt_reactor *r) {
  return mt_container(r, ev_reactor, base);
}

static io_priv *io_of(mt_io *io) { return (io_priv *)(void *)&io->priv; }

static ev_io *io_watcher(mt_io *io) { return &io_of(io)->w; }

static timer_priv *timer_of(mt_timer *t) {
  return (timer_priv *)(void *)&t->priv;
}

static ev_timer *timer_watcher(mt_timer *t) { return &timer_of(t)->w; }

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
    mt_list_push(&er->ios, &io_of(io)->node);
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
  mt_node_unlink(&io_of(io)->node);
  ev_io_stop(from_base(io->reactor)->loop, io_watcher(io));
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents) {
  (void)loop;
  (void)revents;
  mt_node_unlink(&timer_of(w->data)->node);
  mt_timer_fired(w->data);
}

static void timer_set(mt_timer *t, double delay_ms) {
  ev_reactor *er = from_base(t->reactor);
  ev_timer *w = timer_watcher(t);

  /* libev counts from its cached time: the turn's start, or, on a host's loop
   * that is not running, long ago. */
  ev_now_update(er->loop);
  if (t->active)
    ev_timer_stop(er->loop, w);
  else
    mt_list_push(&er->timers, &timer_of(t)->node);
  ev_timer_init(w, on_timer, delay_ms / 1000, 0.);
  w->data = t;
  ev_timer_start(er->loop, w);
}

static void timer_del(mt_timer *t) {
  mt_node_unlink(&timer_of(t)->node);
  ev_timer_stop(from_base(t->reactor)->loop, timer_watcher(t));
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

/* A loop of ours is asked for one turn at a time; with no reference left it
 * would not wait in it. */
static void background(mt_reactor *r, bool more) {
  ev_reactor *er = from_base(r);
  if (er->own_loop) return;
  if (more)
    ev_unref(er->loop);
  else
    ev_ref(er->loop);
}

/* ---- beginning and end ------------------------------------------------------- */

static void enter(ev_reactor *er) {
  ev_prepare_start(er->loop, &er->turn);
  ev_unref(er->loop);
  if (!er->own_loop) ev_cleanup_start(er->loop, &er->gone);
}

static void leave(ev_reactor *er) {
  ev_idle_stop(er->loop, &er->awake);
  ev_ref(er->loop);
  ev_prepare_stop(er->loop, &er->turn);
  ev_cleanup_stop(er->loop, &er->gone); /* had no reference of its own */
}

static void destroy(mt_reactor *r) {
  ev_reactor *er = from_base(r);
  leave(er);
  if (er->own_loop) ev_loop_destroy(er->loop);
  mt_free(er);
}

static struct ev_loop *new_loop(void) {
  return ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
}

static void move_io(ev_reactor *er, struct ev_loop *to, ev_io *w) {
  mt_io *io = w->data;
  ev_io_stop(er->loop, w);
  ev_io_set(w, io->fd, w->events & (EV_READ | EV_WRITE));
  ev_io_start(to, w);
}

static void move_timer(ev_reactor *er, struct ev_loop *to, ev_timer *w) {
  double left = ev_timer_remaining(er->loop, w);
  ev_timer_stop(er->loop, w);
  ev_timer_set(w, left > 0 ? left : 0, 0.);
  ev_timer_start(to, w);
}

/* The host destroys its loop: everything moves to a loop of our own, which
 * mt_reactor_run_once turns. select needs no descriptor, should they be out. */
static void on_gone(struct ev_loop *loop, ev_cleanup *w, int revents) {
  ev_reactor *er = w->data;
  struct ev_loop *to = new_loop();
  bool awake = ev_is_active(&er->awake);
  mt_node *n;
  (void)loop;
  (void)revents;
  if (!to) to = ev_loop_new(EVBACKEND_SELECT | EVFLAG_NOENV);
  assert(to);
  for (n = er->ios.head; n; n = n->next)
    move_io(er, to, &mt_container(n, io_priv, node)->w);
  for (n = er->timers.head; n; n = n->next)
    move_timer(er, to, &mt_container(n, timer_priv, node)->w);
  leave(er);
  er->loop = to;
  er->own_loop = true;
  enter(er);
  if (awake) ev_idle_start(to, &er->awake);
}

static const mt_reactor_ops ops = {io_set,    io_del,           timer_set,
                                   timer_del, mt_reactor_clock, run_once,
                                   wake,      destroy};

int mt_reactor_ev_new(struct ev_loop *loop, mt_reactor **out) {
  ev_reactor *er = mt_calloc(sizeof *er);
  if (!er) return MT_E_OUT_OF_MEMORY;
  er->own_loop = !loop;
  er->loop = loop ? loop : new_loop();
  if (!er->loop) {
    mt_free(er);
    return MT_E_OUT_OF_MEMORY;
  }
  mt_reactor_init(&er->base, &ops);
  er->base.on_background = background;

  ev_prepare_init(&er->turn, on_turn);
  er->turn.data = er;
  ev_set_priority(&er->turn, EV_MINPRI); /* after the host's own */
  ev_idle_init(&er->awake, on_awake);
  ev_cleanup_init(&er->gone, on_gone);
  er->gone.data = er;
  enter(er);
  *out = &er->base;
  return MT_OK;
}

/* ---- the host's libev -------------------------------------------------------- */

typedef void (*any_fn)(void);

/* What differs between the host's ev.h and this library's, or NULL. */
static const char *mismatch(const mt_ev_abi *abi) {
  if (abi->version_major != ev_version_major() ||
      abi->version_major != EV_VERSION_MAJOR)
    return "another version of libev";
  if (!abi->multiplicity) return "EV_MULTIPLICITY is 0";
  if (abi->io_size != sizeof(ev_io) || abi->timer_size != sizeof(ev_timer))
    return "watchers of another size (EV_COMMON)";
  if (abi->minpri != EV_MINPRI || abi->maxpri != EV_MAXPRI)
    return "other priorities (EV_MINPRI, EV_MAXPRI)";
  if (abi->io_start != (any_fn)ev_io_start)
    return "a second copy of libev in the process";
  return NULL;
}

int mt_reactor_ev_attach_abi(struct ev_loop *loop, const mt_ev_abi *abi,
                             mt_reactor **out, mt_error **err) {
  const char *why =
      abi->size < sizeof *abi ? "an older mtenant.h" : mismatch(abi);
  int rc;
  if (why)
    return mt_fail(err, mt_error_new(MT_E_MISUSE,
                                     "the host's libev does not fit: %s", why));
  if (!loop) return mt_fail(err, mt_error_new(MT_E_MISUSE, "loop: it is NULL"));
  rc = mt_reactor_ev_new(loop, out);
  return rc == MT_OK ? rc : mt_fail(err, mt_error_oom());
}
