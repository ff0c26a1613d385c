/*
 * fault-proxy TARGET: a TCP proxy on a free port of 127.0.0.1, with faults.
 *
 * TARGET is the path of a unix socket or a port of 127.0.0.1. It prints
 * `ready PORT`, then obeys commands, one a line on stdin, and answers each with
 * a line on stdout, `ok ...` or `error ...`. It ends with its stdin.
 *
 *   delay DIR MS       every byte that is read from now on comes so much later
 *   rate DIR BYTES     a second; 0 is no limit
 *   drop DIR           swallows everything
 *   garbage AT SEED    random bytes from the AT-th byte of the server on
 *   cut DIR AT HOW     the next connection, when AT bytes have passed
 *   cut-every DIR AT HOW  each one that comes
 *   cut-open DIR AT HOW  those that are open, when AT more bytes have passed
 *   reset              RST for all that are open
 *   silent             blackhole: sockets stay and are accepted, nothing moves
 *   deaf               silent, and nothing is acknowledged, no SYN either
 *   refuse             nobody listens any more; what is open goes on
 *   normal             ends all of this: what was held back moves again, what
 *                      a cut has silenced is reset, no cut is due any more
 *   target TARGET      for connections to come
 *   stats              accepted=, open=, and of the newest one up= down=
 * (bytes)
 *
 * DIR is up (the client's words), down (the server's) or both. HOW is rst, fin
 * or silence. Delay, rate, drop and garbage stay until `normal`.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy.h"

static proxy the_proxy;
static ev_io listener, commands;
static uint16_t port; /* 0: not chosen yet */

/* ---- listening --------------------------------------------------------- */

static void on_client(struct ev_loop *loop, ev_io *w, int events) {
  int one = 1;
  int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  (void)loop;
  (void)events;
  if (fd < 0) return;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  the_proxy.accepted++;
  link_open(&the_proxy, fd);
}

static bool listen_again(void) {
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
  socklen_t len = sizeof sa;
  int one = 1;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&sa, sizeof sa) != 0 ||
      listen(fd, 512) != 0 ||
      getsockname(fd, (struct sockaddr *)&sa, &len) != 0) {
    close(fd);
    return false;
  }
  port = ntohs(sa.sin_port);
  ev_io_init(&listener, on_client, fd, EV_READ);
  ev_io_start(the_proxy.loop, &listener);
  return true;
}

static void refuse(void) {
  if (listener.fd < 0) return;
  ev_io_stop(the_proxy.loop, &listener);
  close(listener.fd);
  ev_io_set(&listener, -1, EV_READ);
}

static bool set_target(const char *text) {
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  struct sockaddr_in in = {.sin_family = AF_INET};
  if (text[0] == '/') {
    if (strlen(text) >= sizeof un.sun_path) return false;
    memcpy(un.sun_path, text, strlen(text));
    memcpy(&the_proxy.target, &un, sizeof un);
    the_proxy.target_len = sizeof un;
    return true;
  }
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  in.sin_port = htons((uint16_t)atoi(text));
  memcpy(&the_proxy.target, &in, sizeof in);
  the_proxy.target_len = sizeof in;
  return in.sin_port != 0;
}

/* ---- commands ---------------------------------------------------------- */

/* A word of the command: nothing is "". */
static const char *word(char **rest) {
  char *start = *rest + strspn(*rest, " ");
  size_t len = strcspn(start, " ");
  *rest = start + len;
  if (**rest) *(*rest)++ = '\0';
  return start;
}

static bool parse_dir(const char *text, bool chosen[2]) {
  bool both = strcmp(text, "both") == 0;
  chosen[PROXY_UP] = both || strcmp(text, "up") == 0;
  chosen[PROXY_DOWN] = both || strcmp(text, "down") == 0;
  return chosen[PROXY_UP] || chosen[PROXY_DOWN];
}

static bool parse_cut(char **rest, struct cut *cut) {
  static const char *names[] = {
      [CUT_RST] = "rst", [CUT_FIN] = "fin", [CUT_SILENCE] = "silence"};
  bool chosen[2];
  const char *how;
  int i;
  if (!parse_dir(word(rest), chosen)) return false;
  cut->dir = chosen[PROXY_UP] ? PROXY_UP : PROXY_DOWN;
  cut->at = strtoull(word(rest), NULL, 10);
  how = word(rest);
  cut->how = CUT_NONE;
  for (i = CUT_RST; i <= CUT_SILENCE; i++)
    if (strcmp(how, names[i]) == 0) cut->how = (cut_kind)i;
  return cut->how != CUT_NONE;
}

static bool set_rule(const char *name, char **rest) {
  bool chosen[2];
  double value;
  int d;
  if (!parse_dir(word(rest), chosen)) return false;
  value = atof(word(rest));
  for (d = 0; d < 2; d++) {
    struct rules *rules = &the_proxy.rules[d];
    if (!chosen[d]) continue;
    if (strcmp(name, "delay") == 0) rules->delay = value / 1000;
    if (strcmp(name, "rate") == 0) rules->rate = value;
    if (strcmp(name, "drop") == 0) rules->drop = true;
  }
  return true;
}

static void deafen(bool deaf) {
  if (listener.fd >= 0) socket_deafen(listener.fd, deaf);
  links_deafen(&the_proxy, deaf);
}

static bool normal(void) {
  memset(the_proxy.rules, 0, sizeof the_proxy.rules);
  the_proxy.next_cut.how = CUT_NONE;
  the_proxy.garbage = false;
  the_proxy.silent = false;
  deafen(false);
  links_thaw(&the_proxy);
  return listener.fd >= 0 || listen_again();
}

static bool obey(const char *name, char **rest) {
  struct cut cut;
  if (strcmp(name, "delay") == 0 || strcmp(name, "rate") == 0 ||
      strcmp(name, "drop") == 0)
    return set_rule(name, rest);
  if (strcmp(name, "cut") == 0 || strcmp(name, "cut-every") == 0) {
    the_proxy.cut_every = strcmp(name, "cut") != 0;
    return parse_cut(rest, &the_proxy.next_cut);
  }
  if (strcmp(name, "target") == 0) return set_target(word(rest));
  if (strcmp(name, "normal") == 0) return normal();
  if (strcmp(name, "cut-open") == 0) {
    if (!parse_cut(rest, &cut)) return false;
    links_cut(&the_proxy, cut);
  } else if (strcmp(name, "garbage") == 0) {
    the_proxy.garbage = true;
    the_proxy.garbage_at = strtoull(word(rest), NULL, 10);
    the_proxy.garbage_seed = (uint32_t)strtoul(word(rest), NULL, 10);
  } else if (strcmp(name, "reset") == 0) {
    links_reset(&the_proxy);
  } else if (strcmp(name, "silent") == 0 || strcmp(name, "deaf") == 0) {
    if (*name == 'd') deafen(true);
    the_proxy.silent = true;
    links_freeze(&the_proxy);
  } else if (strcmp(name, "refuse") == 0) {
    refuse();
  } else {
    return strcmp(name, "stats") == 0;
  }
  return true;
}

static void command(char *line) {
  const char *name = word(&line);
  if (obey(name, &line))
    printf("ok accepted=%u open=%u up=%llu down=%llu\n", the_proxy.accepted,
           links_count(&the_proxy),
           (unsigned long long)the_proxy.seen[PROXY_UP],
           (unsigned long long)the_proxy.seen[PROXY_DOWN]);
  else
    printf("error in %s\n", name);
  fflush(stdout);
}

static void on_command(struct ev_loop *loop, ev_io *w, int events) {
  static char text[1024];
  static size_t len;
  char *end;
  ssize_t n = read(w->fd, text + len, sizeof text - 1 - len);
  (void)events;
  if (n <= 0) {
    ev_break(loop, EVBREAK_ALL);
    return;
  }
  len += (size_t)n;
  text[len] = '\0';
  while ((end = strchr(text, '\n'))) {
    *end = '\0';
    command(text);
    len -= (size_t)(end + 1 - text);
    memmove(text, end + 1, len + 1);
  }
}

int main(int argc, char **argv) {
  proxy *p = &the_proxy;
  p->loop = ev_default_loop(0);
  if (argc != 2 || !p->loop || !set_target(argv[1]) || !listen_again()) {
    fprintf(stderr, "usage: fault-proxy SOCKET-PATH|PORT\n");
    return 2;
  }
  printf("ready %u\n", port);
  fflush(stdout);
  ev_io_init(&commands, on_command, STDIN_FILENO, EV_READ);
  ev_io_start(p->loop, &commands);
  ev_run(p->loop, 0);
  links_reset(p);
  refuse();
  ev_loop_destroy(p->loop);
  return 0;
}
