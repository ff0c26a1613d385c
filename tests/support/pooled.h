/*
 * pooled: a pool in a test, with tenants, jobs and held leases whose ends can
 * be looked at. Several pools may share one server's budget.
 */
#ifndef MT_TEST_SUPPORT_POOLED_H
#define MT_TEST_SUPPORT_POOLED_H

#include "pg/result.h"
#include "pool/pool_priv.h"
#include "support/loop.h"
#include "support/observer.h"

typedef struct mt_pooled {
  mt_reactor *r;
  mt_server *server;
  bool owns_server;
  mt_pool_options opt;
  mt_pool *pool;
  mt_sql_table *sqls;
  int closed;   /* times that the pool said so */
  int finished; /* jobs */
} mt_pooled;

/* One tenant: its share, and the scope of its schema. */
typedef struct mt_lodger {
  mt_share share;
  mt_scope *scope;
  int idle; /* times that the share said so */
} mt_lodger;

typedef struct mt_job {
  mt_pooled *p;
  mt_req *req;
  int done, order;
  double at; /* when it was done */
} mt_job;

typedef struct mt_held {
  mt_pooled *p;
  mt_lease *lease; /* NULL: failed or released */
  int granted, failed;
  double at;
  mt_error *err;
  void (*then)(struct mt_held *h); /* optional: within the callback */
  struct mt_held *other;
} mt_held;

/* Sets defaults; a test may change p->opt before it opens. */
void mt_pooled_init(mt_pooled *p, mt_reactor *r);
/* A pool with a server of its own; budget 0 is "auto". */
void mt_pooled_open(mt_pooled *p, const char *url, int budget);
/* A pool on the server of another one. */
void mt_pooled_open_beside(mt_pooled *p, const char *url, mt_pooled *other);
/* Closes, waits and frees the pool; and the server if it is its own. */
void mt_pooled_close(mt_pooled *p);

void mt_lodger_init(mt_lodger *t, mt_pooled *p, uint32_t id,
                    const char *schema);
void mt_lodger_fini(mt_lodger *t);

/* Submits to the share; the result of mt_share_submit. */
int mt_job_try(mt_job *j, mt_pooled *p, mt_lodger *t, const char *sql,
               mt_error **err);
/* The same, and it must work. */
void mt_job_send(mt_job *j, mt_pooled *p, mt_lodger *t, const char *sql);
void mt_job_run(mt_job *j, mt_pooled *p, mt_lodger *t, const char *sql);
/* How many of them are done. */
int mt_jobs_done(const mt_job *j, int n);
/* The first cell; the job must have ended well. */
const char *mt_job_text(const mt_job *j);
void mt_job_failed(const mt_job *j, int code, const char *sqlstate);
void mt_job_free(mt_job *j);
void mt_jobs_free(mt_job *j, int n);
/* Runs SQL for the lodger and asserts its first cell. */
void mt_lodger_expect(mt_lodger *t, mt_pooled *p, const char *sql,
                      const char *text);

void mt_held_acquire(mt_held *h, mt_pooled *p, mt_lodger *t);
/* Acquires and waits until it is held. */
void mt_held_get(mt_held *h, mt_pooled *p, mt_lodger *t);
/* Submits SQL on the held connection, without scope. */
void mt_held_send(mt_held *h, mt_job *j, const char *sql);
void mt_held_run(mt_held *h, mt_job *j, const char *sql);
void mt_held_release(mt_held *h);

/* Slots that are open, by their place in the pool; NULL beyond the last. */
mt_slot *mt_pooled_slot(mt_pooled *p, int i);

#endif
