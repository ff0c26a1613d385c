/*
 * A pool: the connections to one endpoint (server, database, login), shared by
 * many tenants or kept for one. It opens connections when waiting calls for
 * them, within its server's budget; decides which connection a request goes
 * to (a tenant's home first); and lends whole connections as leases.
 *
 *   share:  one tenant's place in a pool: its queue and its part in flight
 *   slot:   one connection of the pool (private)
 *   lease:  one connection pinned to a share, for a transaction or session
 *
 * Shares are served by deficit round robin over what their statements cost,
 * FIFO within a share. What is slow by its own history, or has none, is the
 * last on its connection until it is answered: nobody queues behind it.
 */
#ifndef MT_POOL_POOL_H
#define MT_POOL_POOL_H

#include "pg/conn.h"

typedef struct mt_pool mt_pool;
typedef struct mt_server mt_server;
typedef struct mt_slot mt_slot;

/* What a share is to know of its own refusals. */
typedef enum mt_exhausted {
  MT_QUEUE_FULL,   /* refused at once */
  MT_QUEUE_TIMEOUT /* after it had waited */
} mt_exhausted;

typedef struct mt_pool_options {
  mt_conn_options conn;
  int max;         /* one share's requests and leases at a time */
  int min;         /* connections kept open once used */
  int max_waiting; /* queued requests per share */
  double idle_timeout_ms, acquire_timeout_ms, max_lifetime_ms;
  int max_tenants_touched; /* then the connection is recycled */
  mt_reset_mode reset;
  mt_queue_policy queue_policy;
  mt_rate_limit rate; /* of each share */
  uint64_t seed;      /* 0: from the clock and the pool's address */
} mt_pool_options;

typedef struct mt_pool_stats {
  uint64_t opened, lost, connect_failures, retired, leases, requests;
  uint64_t resets;  /* sessions that were reset, and proven clean */
  uint64_t tainted; /* connections closed because they could not be, or
                       because something unexpected had touched them */
  uint64_t queue_full, queue_timeouts, rate_limited;
  uint64_t retries, retries_refused; /* by the budget */
  uint64_t behind;      /* requests that others on their connection held up */
  double behind_ms;     /* ... for so long in sum */
  double behind_max_ms; /* ... and at most */
  int open, peak;
} mt_pool_stats;

/* What was taken of a budget and has not come back. */
typedef struct mt_bucket {
  double taken, at;
} mt_bucket;

typedef struct mt_share {
  mt_node ready;   /* in one of pool->ready, or in pool->throttled */
  mt_node waiting; /* in pool->waiting: has queued requests or leases */
  mt_pool *pool;
  mt_list reqs; /* queued requests */
  uint64_t next_seq;
  mt_list leases; /* queued leases beyond pool max */
  int inflight;   /* requests sent and leases held */
  int failing;    /* in pool->failing and failing_leases */
  uint64_t hash;  /* for its home */
  mt_slot *home;
  uint64_t home_epoch;
  double deficit;      /* ms of its turn that are left */
  uint64_t rate_epoch; /* of the pool's rate that rate_at belongs to */
  double rate_at;      /* when its next statement would be on time */
  mt_bucket retries;
  double throttled_at;  /* pool clock when its rate last held it back */
  int max, max_waiting; /* its own; 0: the pool's */
  uint64_t answered;    /* tick at which something of it was last answered */
  void (*on_idle)(struct mt_share *s); /* optional: nothing left of it */
  /* optional; must not call back into the pool */
  void (*on_exhausted)(struct mt_share *s, mt_exhausted what, double waited_ms);
} mt_share;

typedef enum mt_lease_state {
  MT_LEASE_WAITING,
  MT_LEASE_HELD,
  MT_LEASE_RELEASING
} mt_lease_state;

typedef struct mt_lease {
  mt_node node;
  mt_lease_state state;
  mt_share *share;
  mt_slot *slot; /* NULL while waiting, and after the connection was lost */
  int inflight;
  bool counted;    /* in share->inflight */
  bool paid;       /* its first statement is within the rate already */
  bool tainted;    /* something was left on the session: reset it at the end */
  bool unprovable; /* ... that no reset is known to take away: close it */
  bool resetting;
  bool rolled_back;
  mt_error *failed; /* in pool->failing_leases: what it will be told */
  double queued_at;
  /* Runs once, later: err NULL when it is held. With an error the lease is
   * gone when this returns. */
  void (*on_grant)(struct mt_lease *l, const mt_error *err);
  void *data;
} mt_lease;

/* server.c ----------------------------------------------------------------- */

/* The budget of one server; max 0 is "auto", of which each of so many
 * processes takes its part. NULL when memory is short. */
mt_server *mt_server_new(const char *name, int max, int processes);
void mt_server_free(mt_server *s); /* no pool may be left */
void mt_server_set_breaker(mt_server *s, const mt_breaker_options *o);
mt_breaker_state mt_server_breaker_state(const mt_server *s);
/* No connection to it until it is closed again; waiters fail with
 * MT_E_BREAKER_OPEN, connections go when they are free. */
void mt_server_isolate(mt_server *s);
/* Ends that, and forgets failures: it is tried at once. */
void mt_server_close_breaker(mt_server *s);
/* What comes waits until it is resumed, and so does what is queued; what runs
 * goes on. True: it was paused. */
void mt_server_pause(mt_server *s);
bool mt_server_resume(mt_server *s);
/* Nothing runs there and nobody has a lease. */
bool mt_server_quiet(const mt_server *s);
/* Another budget; 0 is "auto", from what it is now. What is open beyond it
 * goes when it is idle. */
void mt_server_set_max(mt_server *s, int max);
/* What is there now. Texts are the server's. */
void mt_server_look(const mt_server *s, mt_server_view *v);
int mt_server_open(const mt_server *s);
int mt_server_cap(const mt_server *s);

/* Somebody who would wait for a while before he tries again. Thousands may be
 * woken at once: they only queue what they have to do. */
typedef struct mt_sleeper {
  mt_node node;
  void (*wake)(struct mt_sleeper *sl);
} mt_sleeper;

void mt_retry_budget_init(mt_retry_budget *o);
void mt_server_set_retry_budget(mt_server *s, const mt_retry_budget *o);
void mt_breaker_options_init(mt_breaker_options *o);
/* While the pool's server does not answer: wake runs once when it does again,
 * or not at all. False: it answers, nobody would be woken. */
bool mt_pool_sleep(mt_pool *p, mt_sleeper *sl);
void mt_sleeper_forget(mt_sleeper *sl);

/* pool.c ----------------------------------------------------------------------
 */

typedef bool (*mt_password_fn)(void *data, char *buf, size_t size);

/* Borrows server and opt's strings for its life. No I/O. */
mt_pool *mt_pool_new(mt_reactor *r, mt_server *server, mt_endpoint *ep,
                     const mt_pool_options *opt, mt_password_fn password,
                     void *data);
/* Fails waiters with MT_E_DISPOSED, cancels what runs, closes connections;
 * done runs once, later; after timeout_ms what is left is cut off. */
void mt_pool_close(mt_pool *p, double timeout_ms, void (*done)(void *data),
                   void *data);
/* After done, or never used. No share or lease may be left in use. */
void mt_pool_free(mt_pool *p);
/* Holds from now on; connections that are open keep what is theirs. */
void mt_pool_set_options(mt_pool *p, const mt_pool_options *opt);
const mt_pool_stats *mt_pool_get_stats(const mt_pool *p);
const mt_endpoint *mt_pool_endpoint(const mt_pool *p);
/* Counts up whenever a connection is lost: what was verified before may no
 * longer hold. */
uint64_t mt_pool_generation(const mt_pool *p);
bool mt_pool_has_open(const mt_pool *p);
/* Its connections that are open, and those of them that do nothing. */
void mt_pool_count(const mt_pool *p, int *total, int *idle);
/* Its idle connections go; what is in use is closed when it is free. */
void mt_pool_retire_all(mt_pool *p);

void mt_share_init(mt_share *s, mt_pool *p, uint64_t hash,
                   void (*on_idle)(mt_share *s));
/* Limits of its own, before it is used; 0: those of the pool. */
void mt_share_limit(mt_share *s, int max, int max_waiting);
/* Nothing of the share may be queued or in flight. */
void mt_share_fini(mt_share *s);
bool mt_share_busy(const mt_share *s);
/* May something of it run again, that was refused or rolled back? Takes a
 * token of the server's retry budget and of the share's part of it. */
bool mt_share_take_retry(mt_share *s);

/* Queues or sends a plain request; its on_finish runs once, later. Fails with
 * MT_E_DISPOSED or MT_E_POOL_EXHAUSTED (then never). */
int mt_share_submit(mt_share *s, mt_req *req, mt_error **err);

typedef enum mt_cancelled {
  MT_CANCEL_TAKEN, /* was unsent, taken back: on_finish won't run */
  MT_CANCEL_SENT,  /* a cancel is on its way: on_finish tells the outcome */
  MT_CANCEL_NONE   /* it runs on, others share its connection */
} mt_cancelled;

mt_cancelled mt_share_cancel(mt_share *s, mt_req *req);
/* Only the part that is certain: takes it back if it is unsent. */
bool mt_share_take_back(mt_share *s, mt_req *req);

/* lease.c
 * ----------------------------------------------------------------------- */

/* A new waiting lease. */
int mt_lease_acquire(mt_share *s,
                     void (*on_grant)(mt_lease *l, const mt_error *err),
                     void *data, mt_lease **out, mt_error **err);
/* Runs a request on the held connection; fails with MT_E_CONNECTION_LOST or
 * MT_E_DISPOSED (then on_finish never runs). */
int mt_lease_submit(mt_lease *l, mt_req *req, mt_error **err);
/* A statement of this class is sent on it: what it may leave on the session is
 * taken away when the lease is given back. */
void mt_lease_note(mt_lease *l, const mt_sql_info *info);
/* Cancels the running request; false: none runs, or not possible now. */
bool mt_lease_cancel(mt_lease *l);
/* Gives it back, in any state: what runs is cancelled, an open transaction is
 * rolled back, a tainted connection reset or closed. Not to be used any
 * more. */
void mt_lease_release(mt_lease *l);
/* Process id of the backend, 0 when lost. */
int mt_lease_backend_pid(const mt_lease *l);
/* The stream's consumer has room again. */
void mt_lease_resume(mt_lease *l);

#endif
