/*
 * observer: a superuser's connection of the tests' own, outside of what is
 * tested. It prepares the database and sees what the server sees. Calls block;
 * a statement that fails ends the test.
 */
#ifndef MT_TEST_SUPPORT_OBSERVER_H
#define MT_TEST_SUPPORT_OBSERVER_H

#include <stdbool.h>
#include <stddef.h>

#include "support/pg.h"

typedef struct mt_observer {
  void *pg; /* PGconn */
  char text[512];
} mt_observer;

void mt_observer_open(mt_observer *o, const mt_test_pg *pg);
void mt_observer_close(mt_observer *o);
/* Again, once the server has recovered from a crash. */
void mt_observer_reopen(mt_observer *o, const mt_test_pg *pg);

/* Runs printf'd SQL; returns the first cell of the last result, "" for none,
 * valid until the next call. */
const char *mt_observer_sql(mt_observer *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The same as a number. */
long mt_observer_number(mt_observer *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Client backends other than its own. */
int mt_observer_backends(mt_observer *o);
/* Those that run a statement with this part in it. */
int mt_observer_running(mt_observer *o, const char *part);
/* Makes an empty schema with a table items(id int primary key, name text)
 * that belongs to the ordinary user, with one row (1, '<schema>'). */
void mt_observer_schema(mt_observer *o, const char *schema);

#endif
