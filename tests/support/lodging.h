/*
 * lodging: a pool with eight tenants, t_0 to t_7, on a server of the test
 * program's own, and an observer of that.
 */
#ifndef MT_TEST_SUPPORT_LODGING_H
#define MT_TEST_SUPPORT_LODGING_H

#include "support/pooled.h"

enum { MT_LODGERS = 8 };

typedef struct mt_lodging {
  mt_reactor *r;
  mt_pooled p;
  mt_lodger t[MT_LODGERS];
} mt_lodging;

extern mt_test_pg mt_lodging_server;
extern mt_observer mt_lodging_eye;

/* For cmocka_run_group_tests. */
int mt_lodging_start(void **state);
int mt_lodging_stop(void **state);

/* Sets defaults; a test may change f->p.opt before it opens. */
void mt_lodging_prepare(mt_lodging *f);
void mt_lodging_open(mt_lodging *f, int budget);
/* Both. */
void mt_lodging_begin(mt_lodging *f, int budget);
/* Every test ends here: nothing may be left. */
void mt_lodging_end(mt_lodging *f);

#endif
