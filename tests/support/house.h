/*
 * house: a manager in a test, with a resolver that answers at once, later or
 * never, and callers whose answers can be looked at.
 */
#ifndef MT_TEST_SUPPORT_HOUSE_H
#define MT_TEST_SUPPORT_HOUSE_H

#include "support/loop.h"
#include "support/observer.h"
#include "tenant/tenant.h"

enum { MT_HOUSE_TOKENS = 32 };

typedef struct mt_house {
  mt_reactor *r;
  mt_manager *m;
  mt_manager_config config;
  mt_manager_callbacks cbs;
  /* resolver: the schema is "t_<id>" unless `route` says otherwise */
  bool later; /* keep tokens for mt_house_answer */
  void (*route)(struct mt_house *h, const char *id, mt_route *route);
  mt_error *refusal; /* answered instead of a route, ours */
  int asked;         /* times that the resolver was asked */
  uint64_t tokens[MT_HOUSE_TOKENS];
  char ids[MT_HOUSE_TOKENS][64];
  int ntokens;
  /* what was told */
  char events[4096]; /* "kind tenant[ reason];" each */
  void (*on_event)(struct mt_house *h, const mt_event *ev);
  int retries;
  int retry_code, retry_attempt; /* of the last one */
  double retry_delay, retry_elapsed;
  double steer; /* what on_retry writes; 0: leaves it */
  int disposed;
  int finished; /* callers */
} mt_house;

/* Who connects. */
typedef struct mt_caller {
  mt_house *h;
  mt_flight *flight;
  int done, order, code, attempts;
  double total_ms;
  bool retryable;
  char message[256];
  void (*then)(struct mt_caller *c); /* optional: within the callback */
  struct mt_caller *other;
} mt_caller;

/* Who asks one statement. */
typedef struct mt_asked {
  mt_house *h;
  int done, order, code, rows;
  bool ambiguous, retryable;
  char sqlstate[6], text[256], message[256];
  void (*then)(struct mt_asked *a); /* optional: within the callback */
} mt_asked;

/* Sets defaults: a test may change config and cbs before it opens. */
void mt_house_init(mt_house *h, mt_reactor *r, const char *url);
void mt_house_open(mt_house *h);
/* Both. */
void mt_house_start(mt_house *h, mt_reactor *r, const char *url);
/* Disposes of it (if that is still to do), waits, frees it. The reactor must
 * be empty then; frees it too. */
void mt_house_end(mt_house *h);
/* Disposes of it and waits. */
void mt_house_dispose(mt_house *h);
/* Answers the i-th kept token as the resolver would have. */
void mt_house_answer(mt_house *h, int i);

/* A handle, to be let go of with mt_tenant_unref. */
mt_tenant *mt_house_tenant(mt_house *h, const char *id);

void mt_caller_start(mt_caller *c, mt_house *h, mt_tenant *t);
/* Starts and waits; returns the code. */
int mt_caller_run(mt_caller *c, mt_house *h, mt_tenant *t);

void mt_ask(mt_asked *a, mt_house *h, mt_tenant *t, const char *sql);
/* With parameters and a timeout. */
void mt_ask_with(mt_asked *a, mt_house *h, mt_tenant *t, const char *sql, int n,
                 const char *const *params, double timeout_ms);
/* Asks, waits, and asserts the first cell. */
void mt_house_expect(mt_house *h, mt_tenant *t, const char *sql,
                     const char *text);

#endif
