/*
 * The fault proxy: a TCP proxy before a PostgreSQL server that does to the
 * bytes in between what networks do. main.c owns the listener and obeys the
 * commands that come on stdin (they are listed there); link.c owns one pair of
 * sockets. Specs drive it through tests/support/proxy.lua.
 */
#ifndef PROXY_H
#define PROXY_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* A direction is named by whose words go there. */
typedef enum { PROXY_UP /* client's */, PROXY_DOWN /* server's */ } proxy_dir;

typedef enum { CUT_NONE, CUT_RST, CUT_FIN, CUT_SILENCE } cut_kind;

/* What happens to one direction of every link. */
struct rules {
  double delay; /* seconds */
  double rate;  /* bytes a second; 0: as fast as it goes */
  bool drop;
};

struct cut {
  proxy_dir dir;
  uint64_t at; /* when so many bytes have passed */
  cut_kind how;
};

struct link;

typedef struct proxy {
  struct ev_loop *loop;
  bool silent; /* sockets stay, nobody is listened to */
  struct rules rules[2];
  struct cut next_cut; /* of the link that is accepted next */
  bool cut_every;      /* and of all after it */
  bool garbage;        /* in the place of the server's bytes, */
  uint64_t garbage_at; /* from this one on */
  uint32_t garbage_seed;
  struct sockaddr_storage target;
  socklen_t target_len;
  struct link *links; /* the newest first */
  unsigned accepted;
  uint64_t seen[2]; /* bytes of the newest link */
} proxy;

/* Takes over a client's socket. */
void link_open(proxy *p, int fd);
/* They concern all links. */
void links_reset(proxy *p);
void links_cut(proxy *p, struct cut cut); /* at so many bytes from now */
void links_freeze(proxy *p);
/* The kernel drops whatever comes to this socket, before TCP sees it: nothing
 * is acknowledged. Undone by false. */
void socket_deafen(int fd, bool deaf);
/* The same for all clients' sockets. */
void links_deafen(proxy *p, bool deaf);
/* Goes on with what is frozen; resets those that a cut has silenced; nobody is
 * to be cut any more. */
void links_thaw(proxy *p);
/* Without those that were hung up on. */
unsigned links_count(const proxy *p);

#endif
