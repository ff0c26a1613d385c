/* See admin_socket.h. */
#include "lua/admin_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"

enum { BACKLOG = 64 };

typedef union address {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
  struct sockaddr_un un;
} address;

/* ---- addresses ---------------------------------------------------------------- */

static socklen_t parse(address *a, const char *host, int port) {
  memset(a, 0, sizeof *a);
  if (inet_pton(AF_INET, host, &a->in.sin_addr) == 1) {
    a->in.sin_family = AF_INET;
    a->in.sin_port = htons((unsigned short)port);
    return sizeof a->in;
  }
  if (inet_pton(AF_INET6, host, &a->in6.sin6_addr) == 1) {
    a->in6.sin6_family = AF_INET6;
    a->in6.sin6_port = htons((unsigned short)port);
    return sizeof a->in6;
  }
  return 0;
}

int mt_admin_is_loopback(const char *host) {
  address a;
  const unsigned char *v6 = a.in6.sin6_addr.s6_addr;
  if (!parse(&a, host, 0)) return -1;
  if (a.any.sa_family == AF_INET)
    return (ntohl(a.in.sin_addr.s_addr) >> 24) == 127;
  if (IN6_IS_ADDR_V4MAPPED(&a.in6.sin6_addr)) return v6[12] == 127;
  return IN6_IS_ADDR_LOOPBACK(&a.in6.sin6_addr);
}

void mt_admin_name(const struct sockaddr *sa, char *name, size_t size) {
  const void *at = NULL;
  if (sa && sa->sa_family == AF_INET)
    at = &((const struct sockaddr_in *)(const void *)sa)->sin_addr;
  else if (sa && sa->sa_family == AF_INET6)
    at = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
  if (!at || !inet_ntop(sa->sa_family, at, name, (socklen_t)size))
    snprintf(name, size, "unix");
}

/* ---- listening ---------------------------------------------------------------- */

static int fail(int fd, const char *what, char *why, size_t size) {
  int saved = errno;
  snprintf(why, size, "%s: %s", what, strerror(saved));
  if (fd >= 0) close(fd);
  return -1;
}

static int port_of(int fd) {
  address a;
  socklen_t len = sizeof a;
  if (getsockname(fd, &a.any, &len) != 0) return 0;
  if (a.any.sa_family == AF_INET) return ntohs(a.in.sin_port);
  return a.any.sa_family == AF_INET6 ? ntohs(a.in6.sin6_port) : 0;
}

static int listen_at(const address *a, socklen_t len, char *why, size_t size) {
  int yes = 1;
  int fd =
      socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(fd, "socket", why, size);
  if (a->any.sa_family == AF_UNIX) {
    /* before there is a path that somebody else might open */
    if (fchmod(fd, 0600) != 0) return fail(fd, "fchmod", why, size);
  } else {
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  }
  if (bind(fd, &a->any, len) != 0) return fail(fd, "bind", why, size);
  if (listen(fd, BACKLOG) != 0) return fail(fd, "listen", why, size);
  return fd;
}

/* A socket that its process has left behind refuses connections. */
static bool is_abandoned(const address *a, socklen_t len) {
  bool refused;
  struct stat st;
  int fd;
  if (lstat(a->un.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  refused = connect(fd, &a->any, len) != 0 && errno == ECONNREFUSED;
  close(fd);
  return refused;
}

static int listen_path(mt_admin_socket *s, const char *path, char *why,
                       size_t size) {
  address a;
  struct stat st;
  size_t n = strlen(path);
  memset(&a, 0, sizeof a);
  if (n >= sizeof a.un.sun_path) {
    snprintf(why, size, "a path of %zu bytes is too long for a socket", n);
    return -1;
  }
  a.un.sun_family = AF_UNIX;
  memcpy(a.un.sun_path, path, n);
  if (is_abandoned(&a, sizeof a.un)) unlink(path);
  s->path = mt_strdup(path);
  if (!s->path) {
    snprintf(why, size, "out of memory");
    return -1;
  }
  s->fd = listen_at(&a, sizeof a.un, why, size);
  if (s->fd >= 0 && lstat(path, &st) == 0) {
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    return 0;
  }
  if (s->fd >= 0) fail(s->fd, "stat", why, size);
  mt_free(s->path);
  s->path = NULL;
  return -1;
}

int mt_admin_listen(mt_admin_socket *s, const char *host, int port,
                    const char *path, char *why, size_t size) {
  address a;
  socklen_t len;
  memset(s, 0, sizeof *s);
  if (path) return listen_path(s, path, why, size);
  len = parse(&a, host, port);
  if (!len) {
    snprintf(why, size, "%s is no numeric address", host);
    return -1;
  }
  s->fd = listen_at(&a, len, why, size);
  if (s->fd < 0) return -1;
  s->port = port_of(s->fd);
  return 0;
}

void mt_admin_unlisten(mt_admin_socket *s) {
  struct stat st;
  if (!s->path) return;
  if (lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
    unlink(s->path);
  mt_free(s->path);
  s->path = NULL;
}

/* ---- this process -------------------------------------------------------------- */

/* When it was started, in ticks since the machine was; 0: unknown. */
static unsigned long long start_ticks(void) {
  char buf[1024];
  unsigned long long ticks = 0;
  size_t n;
  char *at;
  FILE *f = fopen("/proc/self/stat", "re");
  if (!f) return 0;
  n = fread(buf, 1, sizeof buf - 1, f);
  fclose(f);
  buf[n] = 0;
  at = strrchr(buf, ')'); /* a name may have blanks and parentheses */
  if (!at || sscanf(at + 1,
                    " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d "
                    "%*d %*d %*d %*d %*d %llu",
                    &ticks) != 1)
    return 0;
  return ticks;
}

static double resident_bytes(void) {
  unsigned long pages = 0;
  FILE *f = fopen("/proc/self/statm", "re");
  if (!f) return 0;
  if (fscanf(f, "%*u %lu", &pages) != 1) pages = 0;
  fclose(f);
  return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

void mt_admin_look(mt_admin_process *p) {
  unsigned long long ticks = start_ticks();
  struct timespec now;
  *p = (mt_admin_process){.pid = (long)getpid(), .rss_bytes = resident_bytes()};
  if (clock_gettime(CLOCK_REALTIME, &now) == 0)
    p->now_ms = (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6;
  if (ticks && clock_gettime(CLOCK_BOOTTIME, &now) == 0)
    p->uptime_ms = (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6 -
                   (double)ticks * 1000 / (double)sysconf(_SC_CLK_TCK);
}
