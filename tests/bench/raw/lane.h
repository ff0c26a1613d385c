/*
 * A lane: one pipelined connection and the units in flight on it. A unit is
 * what a shared pool sends for one statement of one tenant: the scope of that
 * tenant for this transaction only, the statement, one Sync, in one write.
 * Used by w1 (--scope), w2 and w4.
 */
#ifndef LANE_H
#define LANE_H

#include "bench.h"

#define LANE_SELECT "select id,name,balance from accounts where id=$1"

/* Options of a connection whose own search_path finds nothing. */
#define LANE_GUARD "-c search_path="

/*
 * The scope statement, prepared once per connection. It sets search_path and
 * role until the Sync, and fails (so that the statement behind it does not
 * run) if the session's path was touched or the schema is not usable.
 */
#define LANE_SCOPE                                                        \
  "select case when pg_catalog.set_config(case "                          \
  "pg_catalog.current_setting('search_path') when '' then 'search_path' " \
  "else 'mtenant.dirty!' end,$1,true) is not null and "                   \
  "pg_catalog.set_config('role',$2,true) is not null then "               \
  "1/(pg_catalog.current_schema() is not distinct from $3)::int end"

typedef enum lane_form {
  LANE_NAMED,    /* scope, statement named per tenant, prepared when first
                    met on this connection */
  LANE_UNNAMED,  /* scope, statement parsed each time */
  LANE_QUALIFIED /* no scope: the schema is in the statement's text */
} lane_form;

typedef struct unit {
  int tenant; /* from 1; 0 is the preparation of the scope statement */
  int worker;
  long id;
  double since;   /* when its worker wanted it, in seconds */
  bool scope_due; /* the scope statement's row comes first */
} unit;

enum { LANE_UNITS = 256 }; /* a power of two, more than there are workers */

typedef struct lane {
  PGconn *pg;
  unit queue[LANE_UNITS]; /* in flight, oldest at head */
  unsigned head, tail;
  bool blocked; /* the socket takes no more: flush when it is writable */
  bool *named;  /* by tenant: has its statement here */
} lane;

/* Rows read so far, added up over their ids; --verify looks at each row. */
extern double lane_check;
extern bool lane_verify;

/* Makes a connected pg a lane for tenants 1..tenants. The scope statement is
 * prepared in the pipeline, not waited for. */
void lane_init(lane *l, PGconn *pg, int tenants, lane_form form);

void lane_send(lane *l, unit u, lane_form form);
unsigned lane_in_flight(const lane *l);

/* What poll should wait for, and what to do with its answer. */
short lane_events(const lane *l);
void lane_handle(lane *l, short revents);

/* Takes the oldest unit if its Sync was answered; false: not yet, or none. */
bool lane_take(lane *l, unit *done);

#endif
