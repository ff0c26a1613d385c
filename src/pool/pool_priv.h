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

/* A statement that takes longer, by its history, is the last one on its
 * connection. The noise of measuring is a few tenths. */
#define MT_ALONE_MS 2.0
/* What may be ahead of a statement on its connection, as far as one knows. */
#define MT_AHEAD_MS 5.0
/* What runs for longer than that beyond the round trip gets nothing behind
 * it, whatever its history says. */
#define MT_STALLED_MS 5.0
#define MT_SLOW_MS 20.0   /* ... and it may open connections beyond SOFT_MAX */
#define MT_BLOCKED_MS 5.0 /* waiting for so long may open them up to it */
/* While quick statements come, slow ones leave them a connection. */
#define MT_EXPRESS_MS 1000.0
#define MT_LEASE_WAIT_MS 100.0 /* a lease that waits longer opens another */
#define MT_TICK_MS 20.0
#define MT_MAINT_MS 1000.0
#define MT_RECONNECT_PAUSE_MS 100.0

/* Of a share: what its next request is. */
typedef enum mt_pace { MT_QUICK, MT_SLOW } mt_pace;

/* Connection attempts of the breaker's sampling time, in tenths of it. */
enum { MT_SAMPLES = 10 };
typedef struct mt_samples {
  int64_t tenth; /* the newest, since the clock's zero */
  unsigned all[MT_SAMPLES], failed[MT_SAMPLES];
} mt_samples;

struct mt_server {
  char *name;
  int max;        /* 0: auto */
  int processes;  /* that divide what is free among them */
  int cap;        /* connections allowed now */
  int open;       /* slots of all pools, connecting ones included */
  int connecting; /* handshakes cost CPU on the loop: few at a time */
  bool asked;     /* auto: the server was asked for its limits */
  int live;       /* connections that are open */
  int ramp;       /* after an outage: so many at most, doubled by each; 0 */
  mt_breaker_options breaker;
  bool tripped; /* by the ratio of failures */
  mt_samples samples;
  mt_retry_budget retry_budget;
  mt_bucket retries;
  int failures;    /* connection attempts in a row */
  mt_error *cause; /* of the last one */
  bool isolated;
  bool paused;
  double probe_at; /* not before, while the breaker is open */
  mt_timer probe_timer;
  mt_list sleepers;
  mt_list pools; /* all */
};

struct mt_slot {
  mt_node node; /* pool->slots */
  mt_pool *pool;
  mt_conn *conn;
  bool open;
  bool retiring; /* takes nothing new, closes when quiet */
  mt_lease *lease;
  mt_lease *reserved; /* drains for this lease */
  int alone;          /* requests there that others may not queue behind */
  const mt_share *alone_for; /* its share: its own pipeline may */
  double ahead_ms;           /* what those there may take, in sum */
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
  mt_list ready[2];      /* shares that may be served, by mt_pace */
  mt_pace served;        /* last */
  mt_list throttled;     /* shares that their rate limit holds back */
  mt_list waiting;       /* shares with something queued */
  mt_list lease_waiters; /* leases, FIFO */
  int connecting;
  uint64_t epoch;      /* changes with the set of open slots */
  uint64_t generation; /* changes when a connection is lost */
  double next_connect_at;
  mt_defer kick;                   /* dispatch at the end of the turn */
  bool no_memory;                  /* fail the waiters then */
  mt_list failing, failing_leases; /* they are told in slices */
  mt_defer failer;
  double blocked_since;      /* something is ready and finds no place; 0 */
  double quick_at;           /* when a quick statement was last sent */
  double clock_ms, clock_at; /* the queues' time: it stands in an outage */
  double expire_at;          /* by it: nothing queued times out before */
  mt_timer rate_timer;       /* the first of the throttled */
  double rate_due;
  uint64_t rate_epoch; /* changes with the rate */
  mt_timer tick;       /* while something waits */
  mt_timer maint;      /* while there are connections */
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
/* Fails everything queued with err, now. */
void mt__pool_fail_waiters(mt_pool *p, const mt_error *err);
void mt__failing_init(mt_pool *p);
/* The same in slices, one in a turn of the loop. */
void mt__pool_fail_slowly(mt_pool *p, const mt_error *err);
/* A share has something to serve (again). */
void mt__share_wake(mt_share *s);
/* Fails with MT_E_POOL_EXHAUSTED, counts it and tells the share. */
int mt__share_refuse(mt_share *s, mt_error **err, const char *why);

/* fair.c: whose turn it is */

/* Is it slow by its history, or has none? */
bool mt__req_alone(const mt_req *req);
/* Milliseconds that it may take, within limits that keep a turn finite. */
double mt__req_cost(const mt_req *req);
/* In its list of the ready ones, or of those that its rate holds back. */
void mt__share_line_up(mt_share *s);
/* Whose turn it is among the quick or the slow; NULL when none is ready. */
mt_share *mt__fair_next(mt_pool *p, mt_pace pace);
/* The one that is next was served a request of that cost. */
void mt__fair_charge(mt_share *s, double cost_ms);
bool mt__pool_has_ready(const mt_pool *p);
/* Are there quick statements, or were there just now? */
bool mt__pool_express(const mt_pool *p, double now);
/* May it send something now, as far as its rate goes? */
bool mt__rate_allows(const mt_share *s, double now);
/* One statement more, whether that is within its rate or not. */
void mt__rate_take(mt_share *s, double now);
/* The same for one that is let go now, unless it was counted when it came. */
void mt__rate_send(mt_share *s, double now);
/* Under on_exceeded = reject: takes one if that is within the rate. */
int mt__rate_admit(mt_share *s, mt_error **err);
void mt__rate_init(mt_pool *p);
/* Who was held back by the rate that was is held back by the new one. */
void mt__rate_changed(mt_pool *p);
/* A statement is sent: it brings part of a retry. */
void mt__retry_earn(mt_share *s);
/* Now, on the clock that acquire_timeout_ms counts by. */
double mt__pool_clock(mt_pool *p);
/* What a closing pool has cancelled was disposed of, not cancelled. */
void mt__req_disposed(const mt_pool *p, mt_req *req);
/* Tells its owner when nothing is left of it. */
void mt__share_settle(mt_share *s);
/* Is the slot idle: open, unleased, nothing queued, not retiring? */
bool mt__slot_idle(const mt_slot *s);
/* Takes plain requests now, so far as leases and its end go. */
bool mt__slot_is_plain(const mt_slot *s);
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
/* Is all of the budget open, and nothing on its way? */
bool mt__server_full(const mt_server *s);
/* Its pools look again whether they can have a connection. */
void mt__server_wake(mt_server *s);
/* A handshake of one of its pools has ended, well or badly. */
void mt__server_connected(mt_server *s);
/* The server has refused a connection with 53300. */
void mt__server_too_many(mt_server *s);
/* Sends the question for its limits over a fresh connection. */
void mt__server_ask(mt_server *s, mt_conn *c);

/* breaker.c: who may connect to a server that does not answer */

/* Is it isolated, or known not to answer? */
bool mt__breaker_waits(const mt_server *s);
/* May the pool try to connect? If not yet, it is woken when it may. */
bool mt__breaker_allows(mt_server *s, mt_pool *p);
/* What a statement is told that may not even wait; NULL: it may. */
mt_error *mt__breaker_refusal(const mt_server *s);
void mt__breaker_failed(mt_server *s, mt_pool *p, const mt_error *err);
void mt__breaker_answered(mt_server *s, double now);
void mt__breaker_free(mt_server *s);

#endif
