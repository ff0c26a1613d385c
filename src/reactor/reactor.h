/*
 * The event loop as the core sees it: watch a descriptor, set a timer, read a
 * clock, and run work at the end of a turn. One implementation per loop (see
 * reactor_ev.c); the core never names a loop. Single-threaded.
 *
 * Watchers live inside their owner's struct, zeroed before first use, and are
 * identified by address. All calls are idempotent. A callback may set, change
 * or delete any watcher, its own included; a deleted watcher is not called.
 */
#ifndef MT_REACTOR_REACTOR_H
#define MT_REACTOR_REACTOR_H

#include "base/list.h"
#include "mtenant.h"

enum { MT_READ = 1, MT_WRITE = 2 };

/* Room for an implementation's own watcher (libev's take 48 bytes, and a node
 * of the list that they are moved by). */
typedef struct mt_watcher_priv {
  _Alignas(8) unsigned char bytes[80];
} mt_watcher_priv;

typedef struct mt_io {
  mt_reactor *reactor;
  int fd;          /* meaningful while want != 0 */
  unsigned want;   /* MT_READ | MT_WRITE; 0: not watched */
  bool background; /* by mt_io_set_background */
  void (*cb)(struct mt_io *io, unsigned ready);
  mt_watcher_priv priv;
} mt_io;

typedef struct mt_timer {
  mt_reactor *reactor;
  bool active;
  bool background; /* nobody waits for it: does not keep a host's loop running.
                      Set before the timer is, and not changed meanwhile */
  void (*cb)(struct mt_timer *t);
  mt_watcher_priv priv;
} mt_timer;

/* Work for the end of the turn, in this order. Queued from within a phase it
 * runs in the next round, before the loop may block. */
typedef enum mt_defer_phase {
  MT_DEFER_DELIVER, /* completions to the layer on the right */
  MT_DEFER_FLUSH,   /* what the turn has queued goes to the sockets */
  MT_DEFER_FREE,    /* memory, when no callback is on the stack any more */
  MT_DEFER_PHASES
} mt_defer_phase;

typedef struct mt_defer {
  mt_node node;
  void (*cb)(struct mt_defer *d);
} mt_defer;

typedef struct mt_reactor_ops {
  void (*io_set)(mt_io *io, int fd, unsigned want);
  /* fd_closed: the descriptor is gone or now names another file. */
  void (*io_del)(mt_io *io, bool fd_closed);
  void (*timer_set)(mt_timer *t, double delay_ms);
  void (*timer_del)(mt_timer *t);
  double (*now)(mt_reactor *r); /* monotonic, ms, read afresh */
  void (*run_once)(mt_reactor *r, bool block);
  /* Makes sure that the loop takes another turn without blocking. */
  void (*wake)(mt_reactor *r);
  void (*destroy)(mt_reactor *r);
} mt_reactor_ops;

struct mt_reactor {
  const mt_reactor_ops *ops;
  mt_list deferred[MT_DEFER_PHASES];
  size_t live_ios, live_timers; /* for leak checks */
  size_t background;            /* ... and those of them that are */
  uint64_t turn;                /* counts the turns of the loop */
  uint64_t ticks;               /* see mt_reactor_tick */
  uint64_t heavy_turn;          /* the last that had something heavy */
  double looks_at, looked_at;   /* when it last looked at its sockets, and the
                                   time before that; 0 when not told */
  void *resolver;               /* pg/resolver.c: one per reactor */
  void (*resolver_free)(void *resolver);
  /* Optional, set by the implementation: one watcher more (or less) that does
   * not keep the loop running. */
  void (*on_background)(mt_reactor *r, bool more);
};

/* want 0 is io_del(io, false). Watching another fd than before is allowed: the
 * old one must still be open or have been removed with fd_closed. */
void mt_io_set(mt_reactor *r, mt_io *io, int fd, unsigned want);
void mt_io_del(mt_io *io, bool fd_closed);
/* Nobody waits for what may come: a connection that is idle, say. Holds for as
 * long as it is not told otherwise, watched or not. */
void mt_io_set_background(mt_io *io, bool background);
/* Fires once after delay_ms; set again it starts afresh. */
void mt_timer_set(mt_reactor *r, mt_timer *t, double delay_ms);
void mt_timer_del(mt_timer *t);
/* Queues d unless it is queued already. mt_defer_del takes it back. */
void mt_defer_add(mt_reactor *r, mt_defer *d, mt_defer_phase phase);
void mt_defer_del(mt_defer *d);

/* Work of which there may be much: calls one(data) until it returns false, for
 * there is nothing left, or 2 ms are over; then d runs again in the next turn,
 * after the sockets. */
void mt_reactor_slice(mt_reactor *r, mt_defer *d, bool (*one)(void *data),
                      void *data);

/* True for one caller in a turn of the loop: who has milliseconds of work that
 * can't be cut up. The others are as ready in the next. */
bool mt_reactor_take_heavy(mt_reactor *r);

/* A number greater than all before: tells which of two things was first, even
 * within a turn. */
static inline uint64_t mt_reactor_tick(mt_reactor *r) { return ++r->ticks; }

/* Sends what was queued since the last turn, now: for a caller that is about to
 * leave the loop to others. Not within a turn. */
void mt_reactor_flush(mt_reactor *r);

/* For implementations: runs the queued phases once, in order; true if more
 * was queued meanwhile, so the loop must not block. */
bool mt_reactor_end_turn(mt_reactor *r);
/* For implementations: the loop is about to ask which sockets are ready. */
void mt_reactor_looks(mt_reactor *r);
/* The earliest time at which what is read now can have come: now, unless the
 * loop was busy elsewhere and found it waiting. */
double mt_reactor_arrival(mt_reactor *r, double now);
/* For implementations: t is due, and out of the loop. Calls its callback. */
void mt_timer_fired(mt_timer *t);
/* Watchers and timers in use. */
size_t mt_reactor_live(const mt_reactor *r);
/* For implementations: the system's monotonic clock, in milliseconds. */
double mt_reactor_clock(mt_reactor *r);
/* For implementations: what every reactor starts with. */
void mt_reactor_init(mt_reactor *r, const mt_reactor_ops *ops);

#endif
