/*
 * street: the server of a test program whose tests have a house on it each,
 * with the schemas t_a and t_b, and an observer of that.
 */
#ifndef MT_TEST_SUPPORT_STREET_H
#define MT_TEST_SUPPORT_STREET_H

#include "support/house.h"

extern mt_test_pg mt_street_server;
extern mt_observer mt_street_eye;

/* For cmocka_run_group_tests. */
int mt_street_start(void **state);
int mt_street_start_tcp(void **state); /* its URLs name an address */
int mt_street_stop(void **state);

/* Sets defaults: a test may change config and cbs before mt_house_open. */
void mt_street_prepare(mt_house *h);
/* Both. */
void mt_street_begin(mt_house *h);
/* Every test ends here: nothing may be left. */
void mt_street_end(mt_house *h);

#endif
