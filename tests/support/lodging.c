/* A pool with eight tenants. See lodging.h. */
#include "support/lodging.h"

#include <stdio.h>
#include <string.h>

mt_test_pg mt_lodging_server;
mt_observer mt_lodging_eye;

static void name_of(char *buf, size_t size, int i) {
  snprintf(buf, size, "t_%d", i);
}

int mt_lodging_start(void **state) {
  char schema[16];
  int i;
  (void)state;
  mt_test_pg_start(&mt_lodging_server, false, NULL);
  mt_observer_open(&mt_lodging_eye, &mt_lodging_server);
  for (i = 0; i < MT_LODGERS; i++) {
    name_of(schema, sizeof schema, i);
    mt_observer_schema(&mt_lodging_eye, schema);
  }
  return 0;
}

int mt_lodging_stop(void **state) {
  (void)state;
  mt_observer_close(&mt_lodging_eye);
  mt_test_pg_close(&mt_lodging_server);
  return 0;
}

void mt_lodging_prepare(mt_lodging *f) {
  memset(f, 0, sizeof *f);
  f->r = mt_test_reactor();
  mt_pooled_init(&f->p, f->r);
}

void mt_lodging_open(mt_lodging *f, int budget) {
  char schema[16];
  int i;
  mt_pooled_open(&f->p, mt_lodging_server.url, budget);
  for (i = 0; i < MT_LODGERS; i++) {
    name_of(schema, sizeof schema, i);
    mt_lodger_init(&f->t[i], &f->p, (uint32_t)i + 1, schema);
  }
}

void mt_lodging_begin(mt_lodging *f, int budget) {
  mt_lodging_prepare(f);
  mt_lodging_open(f, budget);
}

void mt_lodging_end(mt_lodging *f) {
  int i;
  for (i = 0; i < MT_LODGERS; i++) mt_lodger_fini(&f->t[i]);
  mt_pooled_close(&f->p);
  MT_RUN_UNTIL(f->r, mt_observer_backends(&mt_lodging_eye) == 0);
  mt_test_reactor_end(f->r);
}
