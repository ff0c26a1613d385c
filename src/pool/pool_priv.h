/* The inside of a pool, shared by its files. */
#ifndef MT_POOL_POOL_PRIV_H
#define MT_POOL_POOL_PRIV_H

#include "base/rand.h"
#include "pool/pool.h"

enum {
  MT_DEPTH_MAX = 32, /* requests on one connection, plain ones */
  MT_DEPTH_GROW = 8, /* all at this depth: open another */
  MT_HOME_SLACK = 8, /* how much busier home may be than the idlest */
  MT_SOFT_MAX = 4,   /* beyond it only waiting leases or stuck heads count */
  MT_CONNECTING_MAX = 2,
  MT_TOUCHED_BITS = 4096
};

#define MT_STALLED_MS                                                      \
  5.0                   /* beyond the round trip: nothing queues behind it \
                         */
#define MT_SLOW_MS 20.0 /* ... and it may open connections beyond SOFT_MAX */
#define MT_LEASE_WAIT_MS 100.0 /* a lease that waits longer opens another */
#define MT_TICK_MS 20.0
#define MT_MAINT_MS 1000.0
#define MT_RECONNECT_PAUSE_MS 100.0

struct mt_server {
  char *name;
  int max;        /* 0: auto */
  int cap;        /* connections allowed now */
  int open;       /* slots of all pools, connecting ones included */
  int connecting; /* handshakes cost CPU on the loop: few at a time */
  bool asked;     /* auto: the server was asked for its limits */
  mt_list pools;  /* all */
};

struct mt_slot {
  mt_node node; /* pool->slots */
  mt_pool *pool;
  mt_conn *conn;
  bool open;
  bool retiring; /* takes nothing new, closes when quiet */
  mt_lease *lease;
  mt_lease *reserved; /* drains for this lease */
  uint64_t salt;
  double expires_at, idle_since;
  int touched;
  unsigned char bits[MT_TOUCHED_BITS / 8];
};

struct mt_pool {
  mt_node node; /* server->pools */
  mt_reactor *reactor;
  mt_server *server;
  mt_endpoint *endpoint;
  mt_pool_options opt;
  mt_password_fn password;
  void *data;
  mt_list slots;
  mt_list ready;         /* shares that may be served, round robin */
  mt_list waiting;       /* shares with something queued */
  mt_list lease_waiters; /* leases, FIFO */
  int connecting;
  uint64_t epoch;      /* changes with the set of open slots */
  uint64_t generation; /* changes when a connection is lost */
  double next_connect_at;
  mt_defer kick;  /* dispatch at the end of the turn */
  bool no_memory; /* fail the waiters then */
  mt_timer tick;  /* while something waits */
  mt_timer maint; /* while there are connections */
  mt_timer closer;
  bool dispatching;
  bool closing;
  mt_defer closed;
  void (*on_closed)(void *data);
  void *on_closed_data;
  mt_pool_stats stats;
  mt_rand rand;
};

/* Serves what can be served, then opens connections if that is called for. */
void mt__pool_dispatch(mt_pool *p);
/* Opens connections if waiting calls for it and the budget allows. */
void mt__pool_grow(mt_pool *p);
/* Fails everything queued with copies of err. */
void mt__pool_fail_waiters(mt_pool *p, const mt_error *err);
/* A share has something to serve (again). */
void mt__share_wake(mt_share *s);
/* What a closing pool has cancelled was disposed of, not cancelled. */
void mt__req_disposed(const mt_pool *p, mt_req *req);
/* Tells its owner when nothing is left of it. */
void mt__share_settle(mt_share *s);
/* Is the slot idle: open, unleased, nothing queued, not retiring? */
bool mt__slot_idle(const mt_slot *s);
/* What runs there now has been running for longer than the round trip and
 * `ms`: whoever queues behind it waits for it. */
bool mt__slot_stalled(const mt_slot *s, double now, double ms);
void mt__slot_close(mt_slot *s);
/* Takes no more work; goes when it is quiet. */
void mt__slot_retire(mt_slot *s);
/* A tenant was served here: counted, since each one leaves something in the
 * backend's caches. */
void mt__slot_touch(mt_slot *s, uint64_t hash);
/* The lease's connection has gone. */
void mt__lease_lost(mt_lease *l);
/* Goes on with a release once its connection is quiet. */
void mt__lease_continue(mt_lease *l);
/* Its connection's session is as new, or is not. */
void mt__lease_reset_done(mt_lease *l, bool clean);
/* Hands idle slots to waiting leases and reserves others. */
void mt__lease_grant_all(mt_pool *p);
/* Fails a waiting lease that is in no list any more. */
void mt__lease_fail(mt_lease *l, const mt_error *err);
/* Links or unlinks share->waiting as its queues want it. */
void mt__share_mark(mt_share *s);

void mt__maint_init(mt_pool *p);
void mt__maint_start(mt_pool *p); /* timers as the state wants them */
void mt__pool_kick(mt_pool *p);   /* dispatch later in this turn */
void mt__maint_stop(mt_pool *p);

/* May one more connection be opened on the server? Closes an idle one of
 * another pool to make room. */
bool mt__server_take(mt_server *s, mt_pool *p);
void mt__server_give(mt_server *s);
/* A handshake of one of its pools has ended, well or badly. */
void mt__server_connected(mt_server *s);
/* The server has refused a connection with 53300. */
void mt__server_too_many(mt_server *s);
/* Sends the question for its limits over a fresh connection. */
void mt__server_ask(mt_server *s, mt_conn *c);

#endif
