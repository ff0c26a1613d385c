/*
 * One client, its connection to the server, and the two streams of bytes
 * between them. See proxy.h. A link goes when both sides have ended, when one
 * fails, and when a rule says so.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy.h"

enum {
  READ_SIZE = 16384,
  QUEUE_LIMIT = 1 << 20, /* of bytes that wait in one stream */
};

/* With a rate, this much time's worth of bytes goes at once. */
static const double SLICE = 0.01;

struct chunk {
  struct chunk *next;
  double due;
  size_t len, sent;
  char data[];
};

/* d is the direction: it reads ends[d] and writes ends[!d]. */
struct stream {
  struct link *link;
  proxy_dir dir;
  struct chunk *head, **tail;
  size_t queued;
  uint64_t seen; /* bytes that were read and count */
  struct cut cut;
  bool cut_due; /* nothing is read any more */
  bool eof, shut;
  double not_before; /* the rate's next slice */
  ev_timer timer;
};

struct end {
  int fd;
  ev_io reader, writer;
};

struct link {
  proxy *proxy;
  struct link *prev, *next;
  struct end ends[2]; /* the client's, the server's */
  struct stream streams[2];
  bool silenced; /* by a cut */
  bool hung_up;  /* by a cut: waits for the client's end */
  uint32_t random;
};

static void pump(struct stream *s);

static void end_stop(proxy *p, struct end *e) {
  ev_io_stop(p->loop, &e->reader);
  ev_io_stop(p->loop, &e->writer);
}

static void link_stop(struct link *l) {
  int d;
  for (d = 0; d < 2; d++) {
    end_stop(l->proxy, &l->ends[d]);
    ev_timer_stop(l->proxy->loop, &l->streams[d].timer);
  }
}

static void end_close(proxy *p, struct end *e, bool reset) {
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  if (e->fd < 0) return;
  end_stop(p, e);
  if (reset)
    (void)setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(e->fd);
  e->fd = -1;
}

static void stream_clear(struct stream *s) {
  struct chunk *c;
  while ((c = s->head)) {
    s->head = c->next;
    free(c);
  }
  s->tail = &s->head;
  s->queued = 0;
}

static void link_end(struct link *l, bool reset) {
  int d;
  link_stop(l);
  for (d = 0; d < 2; d++) {
    end_close(l->proxy, &l->ends[d], reset);
    stream_clear(&l->streams[d]);
  }
  if (l->next) l->next->prev = l->prev;
  if (l->prev)
    l->prev->next = l->next;
  else
    l->proxy->links = l->next;
  free(l);
}

/* A close with bytes unread would be a reset: the client is heard out. */
static void hang_up(struct link *l) {
  link_stop(l);
  l->hung_up = true;
  end_close(l->proxy, &l->ends[PROXY_DOWN], false);
  (void)shutdown(l->ends[PROXY_UP].fd, SHUT_WR);
  ev_io_start(l->proxy->loop, &l->ends[PROXY_UP].reader);
}

static void cut_now(struct link *l, cut_kind how) {
  if (how == CUT_RST) {
    link_end(l, true);
  } else if (how == CUT_FIN) {
    hang_up(l);
  } else {
    l->silenced = true;
    link_stop(l);
  }
}

/* ---- bytes come -------------------------------------------------------- */

static void garble(struct stream *s, char *data, size_t len) {
  struct link *l = s->link;
  size_t i;
  if (s->dir != PROXY_DOWN || !l->proxy->garbage) return;
  for (i = 0; i < len; i++) {
    l->random = l->random * 1664525u + 1013904223u;
    if (s->seen + i >= l->proxy->garbage_at) data[i] = (char)(l->random >> 24);
  }
}

static void enqueue(struct stream *s, const char *data, size_t len) {
  proxy *p = s->link->proxy;
  struct chunk *c = malloc(sizeof *c + len);
  assert(c);
  c->next = NULL;
  c->due = ev_now(p->loop) + p->rules[s->dir].delay;
  c->len = len;
  c->sent = 0;
  memcpy(c->data, data, len);
  *s->tail = c;
  s->tail = &c->next;
  s->queued += len;
}

static void take(struct stream *s, char *data, size_t len) {
  proxy *p = s->link->proxy;
  if (s->cut.how && s->seen + len >= s->cut.at) {
    len = (size_t)(s->cut.at - s->seen);
    s->cut_due = true;
  }
  garble(s, data, len);
  s->seen += len;
  if (s->link == p->links) p->seen[s->dir] = s->seen;
  if (len > 0 && !p->rules[s->dir].drop) enqueue(s, data, len);
  if (s->cut_due || s->queued > QUEUE_LIMIT)
    ev_io_stop(p->loop, &s->link->ends[s->dir].reader);
}

static void on_read(struct ev_loop *loop, ev_io *w, int events) {
  struct stream *s = w->data;
  char data[READ_SIZE];
  ssize_t n = read(w->fd, data, sizeof data);
  (void)events;
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) link_end(s->link, true);
  } else if (s->link->hung_up) {
    if (n == 0) link_end(s->link, false);
  } else {
    if (n == 0) {
      s->eof = true;
      ev_io_stop(loop, w);
    } else {
      take(s, data, (size_t)n);
    }
    pump(s);
  }
}

/* ---- bytes go ---------------------------------------------------------- */

static void wait_until(struct stream *s, double at) {
  struct ev_loop *loop = s->link->proxy->loop;
  double after = at - ev_now(loop);
  ev_timer_stop(loop, &s->timer);
  ev_timer_set(&s->timer, after > 0 ? after : 0, 0);
  ev_timer_start(loop, &s->timer);
}

static size_t slice_of(struct stream *s, size_t len) {
  double rate = s->link->proxy->rules[s->dir].rate;
  size_t slice;
  if (rate <= 0) return len;
  slice = (size_t)(rate * SLICE);
  if (slice < 1) slice = 1;
  if (slice > len) slice = len;
  s->not_before = ev_now(s->link->proxy->loop) + (double)slice / rate;
  return slice;
}

/* Sends a piece of the oldest chunk; returns false when it has to wait. */
static bool send_some(struct stream *s) {
  struct end *to = &s->link->ends[!s->dir];
  struct chunk *c = s->head;
  struct ev_loop *loop = s->link->proxy->loop;
  double due = c->due > s->not_before ? c->due : s->not_before;
  ssize_t n;
  if (due > ev_now(loop)) {
    wait_until(s, due);
    return false;
  }
  n = send(to->fd, c->data + c->sent, slice_of(s, c->len - c->sent),
           MSG_NOSIGNAL);
  if (n < 0) {
    /* Any other error shows at the read as well. */
    if (errno == EAGAIN) ev_io_start(loop, &to->writer);
    return false;
  }
  c->sent += (size_t)n;
  s->queued -= (size_t)n;
  if (c->sent == c->len) {
    s->head = c->next;
    if (!s->head) s->tail = &s->head;
    free(c);
  }
  return true;
}

static void drained(struct stream *s) {
  struct link *l = s->link;
  if (s->cut_due) {
    cut_now(l, s->cut.how);
  } else if (!s->eof) {
    ev_io_start(l->proxy->loop, &l->ends[s->dir].reader);
  } else if (!s->shut) {
    s->shut = true;
    (void)shutdown(l->ends[!s->dir].fd, SHUT_WR);
    if (l->streams[!s->dir].shut) link_end(l, false);
  }
}

static void pump(struct stream *s) {
  if (s->link->ends[!s->dir].fd < 0) return;
  ev_io_stop(s->link->proxy->loop, &s->link->ends[!s->dir].writer);
  while (s->head && send_some(s)) continue;
  if (!s->head) drained(s);
}

static void on_write(struct ev_loop *loop, ev_io *w, int events) {
  (void)loop;
  (void)events;
  pump(w->data);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int events) {
  (void)loop;
  (void)events;
  pump(w->data);
}

/* ---- a link's life ----------------------------------------------------- */

static void end_set(struct link *l, proxy_dir d, int fd) {
  struct end *e = &l->ends[d];
  e->fd = fd;
  ev_io_set(&e->reader, fd, EV_READ);
  ev_io_set(&e->writer, fd, EV_WRITE);
}

/* A connect that is under way shows nothing to read and takes no bytes. */
static bool connect_to_server(struct link *l) {
  proxy *p = l->proxy;
  int fd = socket(p->target.ss_family,
                  SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert(fd >= 0);
  end_set(l, PROXY_DOWN, fd);
  return connect(fd, (struct sockaddr *)&p->target, p->target_len) == 0 ||
         errno == EINPROGRESS;
}

static void start(struct link *l) {
  proxy *p = l->proxy;
  int d;
  if (l->ends[PROXY_DOWN].fd < 0 && !connect_to_server(l)) {
    link_end(l, true);
    return;
  }
  for (d = 0; d < 2; d++) {
    if (!l->streams[d].eof && !l->streams[d].cut_due)
      ev_io_start(p->loop, &l->ends[d].reader);
    /* what waited while it was frozen, and a cut at byte 0 */
    if (l->streams[d].head || l->streams[d].cut_due)
      wait_until(&l->streams[d], 0);
  }
}

static void set_cut(struct link *l, struct cut cut) {
  struct stream *s = &l->streams[cut.dir];
  s->cut = cut;
  s->cut_due = cut.how && cut.at <= s->seen;
}

void link_open(proxy *p, int fd) {
  struct link *l = calloc(1, sizeof *l);
  int d;
  assert(l);
  l->proxy = p;
  l->random = p->garbage_seed;
  l->next = p->links;
  if (l->next) l->next->prev = l;
  p->links = l;
  p->seen[PROXY_UP] = p->seen[PROXY_DOWN] = 0;
  for (d = 0; d < 2; d++) {
    struct stream *s = &l->streams[d];
    s->link = l;
    s->dir = (proxy_dir)d;
    s->tail = &s->head;
    ev_init(&s->timer, on_timer);
    s->timer.data = s;
    ev_init(&l->ends[d].reader, on_read);
    l->ends[d].reader.data = s;
    ev_init(&l->ends[d].writer, on_write);
    l->ends[d].writer.data = &l->streams[!d];
    l->ends[d].fd = -1;
  }
  end_set(l, PROXY_UP, fd);
  set_cut(l, p->next_cut);
  if (!p->cut_every) p->next_cut.how = CUT_NONE;
  if (!p->silent) start(l);
}

/* ---- all of them ------------------------------------------------------- */

void links_reset(proxy *p) {
  while (p->links) link_end(p->links, true);
}

void links_cut(proxy *p, struct cut cut) {
  struct link *l, *next;
  for (l = p->links; l; l = next) {
    struct cut here = cut;
    next = l->next;
    here.at += l->streams[cut.dir].seen;
    if (cut.at == 0)
      cut_now(l, cut.how);
    else
      set_cut(l, here);
  }
}

void links_freeze(proxy *p) {
  struct link *l;
  for (l = p->links; l; l = l->next) link_stop(l);
}

void socket_deafen(int fd, bool deaf) {
  struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
  struct sock_fprog program = {.len = 1, .filter = &nothing};
  int none = 0;
  if (deaf) {
    int rc =
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    assert(rc == 0);
    (void)rc;
  } else { /* fails where there is none */
    (void)setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none);
  }
}

void links_deafen(proxy *p, bool deaf) {
  struct link *l;
  for (l = p->links; l; l = l->next)
    if (l->ends[PROXY_UP].fd >= 0) socket_deafen(l->ends[PROXY_UP].fd, deaf);
}

void links_thaw(proxy *p) {
  struct link *l, *next;
  int d;
  for (l = p->links; l; l = next) {
    next = l->next;
    for (d = 0; d < 2; d++)
      if (!l->streams[d].cut_due) l->streams[d].cut.how = CUT_NONE;
    if (l->silenced)
      link_end(l, true);
    else if (!l->hung_up)
      start(l);
    else
      ev_io_start(p->loop, &l->ends[PROXY_UP].reader);
  }
}

unsigned links_count(const proxy *p) {
  const struct link *l;
  unsigned n = 0;
  for (l = p->links; l; l = l->next) n += !l->hung_up;
  return n;
}
