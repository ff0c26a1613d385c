/* See throwaway.h; supervisor.h has the other side and the protocol. */
#include "run/throwaway.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run/proc.h"
#include "run/signals.h"
#include "run/supervisor.h"

#define MAX_SLOTS 16
#define END_MS 9000

typedef struct slot {
  pid_t pid; /* 0: free */
  int fd;
  char dir[128], url[512];
} slot;

static slot slots[MAX_SLOTS];

/* In the child; only calls that are safe after fork with threads. */
static void become_supervisor(int sock) {
  setsid();
  sock = fcntl(sock, F_DUPFD, MT_RUN_SUPERVISOR_FD + 1);
  int null = open("/dev/null", O_RDWR);
  if (sock < 0 || null < 0) _exit(126);
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  dup2(null, STDERR_FILENO);
  dup2(sock, MT_RUN_SUPERVISOR_FD);
  execl("/proc/self/exe", "mtenant-run", MT_RUN_SUPERVISOR_ARG, (char *)NULL);
  _exit(127);
}

static int fail_open(const char *what, char *why, size_t size) {
  snprintf(why, size, "%s: %s", what, strerror(errno));
  return -1;
}

static int free_slot(void) {
  for (int i = 0; i < MAX_SLOTS; i++)
    if (slots[i].pid == 0) return i;
  errno = EMFILE;
  return -1;
}

int mt_run_throwaway_open(char *why, size_t size) {
  int fds[2], i = free_slot();
  if (i < 0) return fail_open("too many throwaway servers", why, size);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
    return fail_open("no socket pair", why, size);
  pid_t pid = fork();
  if (pid == 0) become_supervisor(fds[1]);
  close(fds[1]);
  if (pid < 0) {
    close(fds[0]);
    return fail_open("no process", why, size);
  }
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  slots[i] = (slot){.pid = pid, .fd = fds[0]};
  return i;
}

static slot *slot_at(int i) {
  return i >= 0 && i < MAX_SLOTS && slots[i].pid > 0 ? &slots[i] : NULL;
}

int mt_run_throwaway_fd(int i) {
  const slot *s = slot_at(i);
  return s ? s->fd : -1;
}

/* A line fits into the socket's buffer, or the other side is stuck. */
bool mt_run_throwaway_send(int i, const char *line, size_t len) {
  const slot *s = slot_at(i);
  return s && send(s->fd, line, len, MSG_NOSIGNAL) == (ssize_t)len;
}

ssize_t mt_run_throwaway_read(int i, char *buf, size_t size) {
  const slot *s = slot_at(i);
  return s ? read(s->fd, buf, size) : 0;
}

/* Reads one line; false at the end of file and after a signal. */
static bool await_line(slot *s, char *line, size_t size) {
  size_t len = 0;
  while (len + 1 < size) {
    struct pollfd p = {s->fd, POLLIN, 0};
    if (mt_run_signals_first() || (poll(&p, 1, -1) < 0 && errno != EINTR))
      return false;
    ssize_t n = read(s->fd, line + len, 1);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return false;
    if (line[len] == '\n') break;
    len++;
  }
  line[len] = '\0';
  return true;
}

bool mt_run_throwaway_await(int i, const char **url, char *why, size_t size) {
  slot *s = slot_at(i);
  char line[700];
  if (!s || !await_line(s, line, sizeof line)) {
    bool told = mt_run_signals_first() != 0;
    snprintf(why, size, "%s", told ? "" : "its supervisor ended");
    return false;
  }
  if (sscanf(line, "ok %127s %511s", s->dir, s->url) != 2) {
    snprintf(why, size, "%s", line + strcspn(line, " ") + 1);
    return false;
  }
  *url = s->url;
  return true;
}

void mt_run_throwaway_set_dir(int i, const char *dir) {
  slot *s = slot_at(i);
  if (s) snprintf(s->dir, sizeof s->dir, "%s", dir);
}

void mt_run_throwaway_end(int i) {
  const slot *s = slot_at(i);
  if (s) shutdown(s->fd, SHUT_WR);
}

void mt_run_throwaway_finish(int i) {
  slot *s = slot_at(i);
  int status = 0;
  if (!s) return;
  bool ended = mt_run_proc_await(s->pid, END_MS, &status);
  /* Killed itself, it could not clean up; its server died with it. */
  if (ended && WIFSIGNALED(status) && s->dir[0] != '\0')
    mt_run_proc_remove_tree(s->dir);
  close(s->fd);
  s->pid = 0;
}

void mt_run_throwaway_close_all(void) {
  for (int i = 0; i < MAX_SLOTS; i++) mt_run_throwaway_end(i);
  for (int i = 0; i < MAX_SLOTS; i++) mt_run_throwaway_finish(i);
}
