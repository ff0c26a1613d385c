/*
 * A request: what travels as one unit (everything up to one Sync) over a
 * connection, or one simple-protocol query. Made by the layers on the right,
 * queued by the pool, sent and answered by the connection. Its maker owns it:
 * on_done runs exactly once after a successful submit, from the loop, and
 * from then on the maker may free it.
 */
#ifndef MT_PG_REQUEST_H
#define MT_PG_REQUEST_H

#include "base/err.h"
#include "base/list.h"
#include "pg/scope.h"
#include "pg/sql.h"

typedef enum mt_req_state {
  MT_REQ_NEW,
  MT_REQ_WAITING, /* in a pool's queue or a connection's outbox: unsent */
  MT_REQ_SENT,
  MT_REQ_DONE
} mt_req_state;

enum {
  MT_REQ_SCOPE = 1,         /* LOCAL scope in the same implicit transaction */
  MT_REQ_SESSION_SCOPE = 2, /* scope set on the session first */
  MT_REQ_FENCE = 4,         /* fence step before the user's statement */
  MT_REQ_IN_TX = 8,         /* inside BEGIN: losing it is not ambiguous */
  MT_REQ_SIMPLE = 16,       /* simple protocol; needs the connection alone */
  MT_REQ_STREAM = 32,       /* single-row mode; needs the connection alone */
  MT_REQ_UNNAMED = 64,      /* never prepare */
  MT_REQ_COMMIT = 128,      /* losing it is ambiguous; tag ROLLBACK fails */
  MT_REQ_PING = 256,        /* scope alone, no user statement */
  MT_REQ_PIPELINED = 512,   /* may wait behind its tenant's own, however slow */
  MT_REQ_SAME = 1024        /* fenced before: is it still the same schema? */
};

typedef enum mt_step {
  MT_STEP_BEGIN,
  MT_STEP_PATH,
  MT_STEP_ROLE,
  MT_STEP_SETTING,  /* strategy row */
  MT_STEP_SETTINGS, /* the route's */
  MT_STEP_GUARD,
  MT_STEP_SCOPE,
  MT_STEP_FENCE,
  MT_STEP_PREPARE,
  MT_STEP_USER
} mt_step;

typedef struct mt_req {
  mt_node node;
  mt_req_state state;
  unsigned flags;
  uint8_t steps[16 + MT_SETTINGS_MAX]; /* what was sent ... */
  uint8_t nsteps, step;                /* ... and where the answer is */
  uint8_t resent;                      /* times it was put back unrun */
  bool not_run;   /* failed, and certainly neither run nor sent in part */
  bool dirty;     /* refused because the connection is dirty: not_run too */
  bool named;     /* the user step used a prepared statement */
  bool rerun;     /* not run, or its plan was stale: send again, unnamed */
  bool detached;  /* nobody waits for it any more */
  bool answered;  /* the user step's CommandComplete has come */
  bool cancelled; /* a cancel was sent for it */
  char *begin;    /* BEGIN text sent first, owned; the scope has its texts */
  mt_scope *scope;
  mt_sql *sql;
  char *text;      /* instead of sql: internal text, owned */
  char *commented; /* sql with a comment behind it, which is what is sent, by no
                      name: such texts are all different. Owned; NULL: none */
  int nparams;
  const char **params; /* one block, owned; of MT_REQ_SIMPLE: the data of its
                          COPY FROM STDIN statements, in their order */
  int copied;          /* of MT_REQ_SIMPLE: COPYs that got their data */
  int completed;       /* of MT_REQ_SIMPLE: statements that were done */
  double timeout_ms;   /* server-side bound for this statement; 0 none */
  double deadline;     /* absolute; 0 none */
  double queued_at, sent_at;
  double asked_at; /* queued_at on the reactor's clock */
  double wait_ms;  /* in the pool's queue, the last time; set when it is sent
                      from there (`waited`) */
  double took_ms;  /* from there to its answer; set with `timed` */
  bool waited, timed;
  size_t param_bytes, bytes_sent, bytes_received; /* texts and values */
  double behind_ms; /* how long it was held up by others before it on its
                       connection; set when it is answered */
  uint64_t stmt_key;
  struct pg_result *result; /* the user's; the last one for MT_REQ_SIMPLE */
  struct pg_result **rows;  /* streamed, not taken yet */
  int nrows, caprows;
  mt_error *err; /* owned reference, set before on_done when it failed */
  void (*on_done)(struct mt_req *req);   /* set by who submits it */
  void (*on_rows)(struct mt_req *req);   /* streamed rows are there */
  void (*on_finish)(struct mt_req *req); /* the maker's; the pool calls it */
  uint64_t seq;                          /* the pool's: place in its share */
  void *owner;                           /* the pool's: its share or lease */
  void *place;                           /* the pool's: the slot it went to */
  double cost_ms;                        /* the pool's: what it may take */
  bool alone;                            /* the pool's: nothing goes behind */
  void *data;                            /* the maker's */
} mt_req;

/* NULL when memory is short. */
mt_req *mt_req_new(unsigned flags, mt_scope *scope, mt_sql *sql);
/* One with internal text instead of interned SQL. */
mt_req *mt_req_new_text(unsigned flags, mt_scope *scope, const char *text);
/* Copies n texts (NULL is SQL NULL); lens in bytes without the NUL. */
int mt_req_set_params(mt_req *req, int n, const char *const *values,
                      const size_t *lens);
/* BEGIN ... goes first, with the scope for the transaction. False when memory
 * is short. */
bool mt_req_set_begin(mt_req *req, const char *text);
/* Puts a comment behind its SQL, unless that has one of its own. The text that
 * the statement is known by stays what it is. */
int mt_req_set_comment(mt_req *req, const char *comment);
void mt_req_free(mt_req *req); /* not while WAITING or SENT; NULL allowed */
/* Replaces what it has by err (takes the reference). */
void mt_req_set_error(mt_req *req, mt_error *err);
/* Back to NEW with no result, to be sent again. */
void mt_req_reset(mt_req *req);
/* The user's result or NULL; stays the request's. */
mt_result *mt_req_result(const mt_req *req);
/* Moves the streamed results (one row each) to out, at most max; the caller
 * clears them with mt_result_clear. Returns how many. */
int mt_req_take_rows(mt_req *req, mt_result **out, int max);
/* The SQL, whichever way it is held, without the comment. */
const char *mt_req_sql(const mt_req *req);

#endif
