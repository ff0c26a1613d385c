/*
 * PQcancel without blocking the loop: libpq 15 only has the blocking call, so
 * it runs on a detached helper thread with all signals blocked, which tells
 * the loop by an eventfd. The thread shares nothing with the core but one
 * small counted job, so the core may forget it at any time.
 */
#ifndef MT_PG_CANCEL_H
#define MT_PG_CANCEL_H

#include "reactor/reactor.h"

typedef struct mt_cancel mt_cancel;
struct pg_conn;

/* Cancels what runs on pg. `done` runs once, later, when the server has
 * closed the cancel connection (or refused it). */
int mt_cancel_start(mt_reactor *r, struct pg_conn *pg, void (*done)(void *data),
                    void *data, mt_cancel **out);
/* `done` will not run; the thread finishes by itself. */
void mt_cancel_forget(mt_cancel *c);

#endif
