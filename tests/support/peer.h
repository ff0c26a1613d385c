/*
 * peer: a fake server on the test's own reactor, for what a real one does
 * only when it is unwell. It says one thing to every client, or nothing.
 */
#ifndef MT_TEST_SUPPORT_PEER_H
#define MT_TEST_SUPPORT_PEER_H

#include "reactor/reactor.h"

typedef enum mt_peer_kind {
  MT_PEER_SILENT, /* reads, and never answers */
  MT_PEER_CLOSES, /* hangs up when it has read the startup message */
  MT_PEER_ANSWERS /* sends `reply` then, and hangs up */
} mt_peer_kind;

enum { MT_PEER_CLIENTS = 8 };

struct mt_peer_client {
  mt_io io;
  struct mt_peer *peer;
};

typedef struct mt_peer {
  mt_reactor *reactor;
  mt_io listener;
  mt_peer_kind kind;
  char reply[512];
  size_t reply_len;
  int port;
  int accepted, startups;
  struct mt_peer_client clients[MT_PEER_CLIENTS];
} mt_peer;

/* Listens on a free port of 127.0.0.1. */
void mt_peer_open(mt_peer *p, mt_reactor *r, mt_peer_kind kind);
/* Sets the reply to an ErrorResponse with these fields. */
void mt_peer_error(mt_peer *p, const char *severity, const char *plain_severity,
                   const char *sqlstate, const char *message);
void mt_peer_close(mt_peer *p);

/* A port of 127.0.0.1 where nothing listens, until the descriptor that is
 * returned is closed. */
int mt_peer_reserve_port(int *port);

#endif
