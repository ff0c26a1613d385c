/*
 * What the admin endpoint listens on, and what the system says of this process.
 * No Lua in here. See admin.c.
 */
#ifndef MT_LUA_ADMIN_SOCKET_H
#define MT_LUA_ADMIN_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct mt_admin_socket {
  int fd;
  int port;   /* that was chosen; 0 of a path */
  char *path; /* owned; NULL: none */
  dev_t dev;  /* of the path: another's socket is not removed */
  ino_t ino;
} mt_admin_socket;

/* Listens on a numeric address and a port (0: any), or on a path that only this
 * user may open. 0, or -1 and why. A path that nobody listens on any more is
 * taken over. */
int mt_admin_listen(mt_admin_socket *s, const char *host, int port,
                    const char *path, char *why, size_t size);
/* Removes the path. The descriptor is whoever's it was given to. */
void mt_admin_unlisten(mt_admin_socket *s);

/* 1: only this machine reaches a numeric address; 0: others may; -1: it is
 * none. */
int mt_admin_is_loopback(const char *host);

struct sockaddr;
/* A peer's address as text: "127.0.0.1", or "unix". */
void mt_admin_name(const struct sockaddr *sa, char *name, size_t size);

typedef struct mt_admin_process {
  long pid;
  double now_ms; /* since 1970 */
  double uptime_ms;
  double rss_bytes;
} mt_admin_process;

/* What could not be found out is 0. */
void mt_admin_look(mt_admin_process *p);

#endif
