/* A server for managers. See street.h. */
#include "support/street.h"

mt_test_pg mt_street_server;
mt_observer mt_street_eye;

static int start(bool tcp) {
  mt_test_pg_start(&mt_street_server, tcp, NULL);
  mt_observer_open(&mt_street_eye, &mt_street_server);
  mt_observer_schema(&mt_street_eye, "t_a");
  mt_observer_schema(&mt_street_eye, "t_b");
  return 0;
}

int mt_street_start(void **state) {
  (void)state;
  return start(false);
}

int mt_street_start_tcp(void **state) {
  (void)state;
  return start(true);
}

int mt_street_stop(void **state) {
  (void)state;
  mt_observer_close(&mt_street_eye);
  mt_test_pg_close(&mt_street_server);
  return 0;
}

void mt_street_prepare(mt_house *h) {
  mt_house_init(h, mt_test_reactor(), mt_street_server.url);
}

void mt_street_begin(mt_house *h) {
  mt_street_prepare(h);
  mt_house_open(h);
}

void mt_street_end(mt_house *h) {
  mt_reactor *r = h->r;
  if (!h->disposed) mt_house_dispose(h);
  MT_RUN_UNTIL(r, mt_observer_backends(&mt_street_eye) == 0);
  mt_house_end(h);
}
