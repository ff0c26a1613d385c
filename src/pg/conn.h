/*
 * One PostgreSQL connection: asynchronous connect (one address at a time), a
 * queue of requests in libpq's pipeline mode, a statement cache, cancel.
 * The pool decides what runs where; a connection only keeps order. Life:
 *
 *   RESOLVING -> CONNECTING -> OPEN -> CLOSED      (each may go to CLOSED)
 *
 * on_close runs exactly once for every connection that mt_conn_new returned,
 * never inside a call from the right, after every request it held has been
 * answered; the memory goes at the end of that turn.
 */
#ifndef MT_PG_CONN_H
#define MT_PG_CONN_H

#include "base/metrics.h"
#include "pg/cancel.h"
#include "pg/endpoint.h"
#include "pg/request.h"
#include "pg/resolver.h"
#include "pg/stmt_cache.h"
#include "reactor/reactor.h"

typedef enum mt_conn_state {
  MT_CONN_RESOLVING,
  MT_CONN_CONNECTING,
  MT_CONN_OPEN,
  MT_CONN_CLOSED
} mt_conn_state;

typedef struct mt_conn mt_conn;

typedef struct mt_conn_callbacks {
  void (*on_open)(mt_conn *c);
  /* err NULL: closed on request. */
  void (*on_close)(mt_conn *c, const mt_error *err);
  /* A request was answered, or the connection can take more again. */
  void (*on_progress)(mt_conn *c);
  /* Optional: asked at each attempt; false: none. */
  bool (*password)(mt_conn *c, char *buf, size_t size);
  /* Optional: a reset (reset.h) has ended; clean: nothing is left. */
  void (*on_reset)(mt_conn *c, bool clean);
  /* Optional: a notification; the texts are valid during the call. Without it
   * libpq keeps them, unread, to the end of the connection. */
  void (*on_notify)(mt_conn *c, const char *channel, const char *payload);
} mt_conn_callbacks;

typedef struct mt_conn_options {
  const char *application_name; /* borrowed for the connection's life */
  double connect_timeout_ms;    /* per address, look-up included */
  double cancel_timeout_ms;
  double idle_transaction_timeout_ms; /* 0: the server's */
  int cache_statements;
  bool pooled; /* behind a pooler in transaction mode: nothing is set on the
                  session, nothing is prepared, one unit at a time */
  mt_traffic *traffic; /* counts there, if not NULL; outlives it */
} mt_conn_options;

struct mt_conn {
  mt_node node; /* the pool's lists */
  mt_reactor *reactor;
  mt_endpoint *endpoint;
  mt_conn_options opt;
  const mt_conn_callbacks *cbs;
  void *data; /* the pool's */
  mt_conn_state state;
  struct pg_conn *pg;
  mt_io io;
  mt_timer timer; /* connect timeout; later: of a cancel, of a reset */
  mt_defer closing, freeing, processing, turn_end;
  mt_list outbox;   /* unsent */
  mt_list inflight; /* sent, in order */
  mt_stmt_cache stmts;
  mt_cancel *cancel;   /* a cancel is on its way */
  bool cancelling;     /* until it has returned and its target was answered */
  bool ready;          /* on_open has run */
  double cancel_until; /* then the connection is closed */
  bool blocked;        /* the socket is full: nothing is sent */
  bool simple;         /* out of pipeline mode for a simple query */
  bool paused;         /* a stream's consumer is behind */
  bool is_tcp;
  int turn_units;          /* sent in this turn of the loop ... */
  int corked;              /* ... of them, held back in the kernel */
  bool retire;             /* take no more requests */
  bool resetting;          /* see reset.h */
  uint32_t last_scope;     /* id; that of the unit sent last */
  unsigned scope_families; /* forms of the scope statement that have names */
  bool same_named;         /* MT_SAME_SQL has one */
  bool settings_named;     /* MT_SETTINGS_SQL has one */
  bool progressed;         /* units have ended, the owner does not know yet */
  bool standby;            /* what its server was when it was opened */
  bool reads;              /* its last transaction began READ ONLY */
  bool touched;            /* the session may differ from how it was opened */
  int reset_kind;
  uint64_t reported_settings; /* hash of what the server reported at first */
  bool off_target; /* the server is no longer what target_session_attrs asks
                      for: promoted, or made read-only */
  bool fatal;      /* a FATAL result was read: what is behind did not run */
  bool unheard;    /* libpq threw answers away: nobody knows what has run */
  bool reported;   /* on_close has run */
  mt_error *why;   /* reason of the close, owned */
  /* connecting */
  int host, addr, naddrs;
  char (*addrs)[MT_ADDR_LEN];
  bool second_pass;       /* prefer-standby has found none: any will do */
  bool mismatched;        /* a host was not what is looked for */
  bool asking;            /* ... which it is being asked */
  struct pg_result *role; /* ... what it has answered so far */
  char *tried;            /* what was wrong with the hosts */
  mt_lookup *lookup;
  mt_error *last_error;
  /* statistics */
  double opened_at;
  double rtt_ms;      /* the shortest answer so far: the network's share */
  double progress_at; /* when the server was last heard */
  double heard_at;    /* ... or when that may have come in at the earliest */
  double answered_at; /* heard_at of the last answered unit */
  uint64_t requests;
};

/* Starts to connect. Never calls back from inside. NULL when memory is
 * short. */
mt_conn *mt_conn_new(mt_reactor *r, mt_endpoint *ep, const mt_conn_options *opt,
                     const mt_conn_callbacks *cbs, void *data);
/* Closes: requests are answered with err (NULL: MT_E_DISPOSED), marked
 * ambiguous where they were sent; idempotent. Takes err's reference. */
void mt_conn_close(mt_conn *c, mt_error *err);
/* Sends the request, or keeps it for when it can be sent. Only while OPEN.
 * Never fails: a broken connection answers it later. */
void mt_conn_submit(mt_conn *c, mt_req *req);
/* Takes back an unsent request; false if it was sent. on_done won't run. */
bool mt_conn_take_back(mt_conn *c, mt_req *req);
/* Cancels the head if it is alone (`force`: whatever runs, because nobody
 * waits for any of it); no answer within cancel_timeout_ms closes the
 * connection. False: not possible now; on_progress tells when to ask again. */
bool mt_conn_cancel(mt_conn *c, bool force);
/* The stream's consumer has room again. */
void mt_conn_resume(mt_conn *c);
/* Requests that are not answered yet. */
size_t mt_conn_depth(const mt_conn *c);
/* Nothing queued, nothing sent, no cancel: the transaction status can be
 * read. */
bool mt_conn_quiet(const mt_conn *c);
/* As PQtransactionStatus says: true if no transaction is open. Only when
 * quiet. */
bool mt_conn_idle_status(const mt_conn *c);
int mt_conn_backend_pid(const mt_conn *c);
/* How long what runs now has been running, as far as one can see from here;
 * 0 when nothing does. */
double mt_conn_head_ms(const mt_conn *c, double now);

#endif
