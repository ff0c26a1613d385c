/* See supervisor.h. */
#include "run/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/cluster.h"

extern char **environ;

static volatile sig_atomic_t told_to_end;

static void on_end(int sig) {
  (void)sig;
  told_to_end = 1;
}

/* False once the runner is gone or somebody asks this process to end. */
static bool runner_is_there(void) {
  struct pollfd p = {MT_RUN_SUPERVISOR_FD, POLLRDHUP, 0};
  return !told_to_end && poll(&p, 1, 0) == 0;
}

/* A runner that is gone is no reason to fail: the next read tells. */
static void answer(const char *text) {
  size_t len = strlen(text);
  while (len > 0) {
    ssize_t n = send(MT_RUN_SUPERVISOR_FD, text, len, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text += n;
    len -= (size_t)n;
  }
}

static void answer_result(const mt_run_cluster *c, bool ok) {
  char text[600];
  snprintf(text, sizeof text, "error %s\n", c->error);
  answer(ok ? "ok\n" : text);
}

/* The port stands in the URL because PGPORT may be set. */
static void answer_url(const mt_run_cluster *c) {
  char host[3 * sizeof c->dir + 1], text[600];
  size_t len = 0;
  for (const char *p = c->dir; *p; p++) {
    if (*p == '/')
      len += (size_t)snprintf(host + len, sizeof host - len, "%%2F");
    else
      host[len++] = *p;
  }
  host[len] = '\0';
  snprintf(text, sizeof text,
           "ok %s postgresql://mtenant@/mtenant?host=%s&port=5432\n", c->dir,
           host);
  answer(text);
}

static void obey(mt_run_cluster *c, const char *command) {
  c->error[0] = '\0';
  if (strcmp(command, "start") == 0) {
    answer_result(c, mt_run_cluster_start(c));
  } else if (strcmp(command, "stop") == 0) {
    answer_result(c, mt_run_cluster_stop(c));
  } else if (strcmp(command, "restart") == 0) {
    answer_result(c, mt_run_cluster_stop(c) && mt_run_cluster_start(c));
  } else if (strcmp(command, "kill") == 0) {
    answer_result(c, mt_run_cluster_kill(c));
  } else {
    answer("error unknown command\n");
  }
}

/* Commands are short: one byte at a time needs no buffer handling. */
static bool read_command(char *line, size_t size) {
  size_t len = 0;
  for (;;) {
    char byte;
    ssize_t n = told_to_end ? 0 : read(MT_RUN_SUPERVISOR_FD, &byte, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    if (byte == '\n') break;
    if (len + 1 < size) line[len++] = byte;
  }
  line[len] = '\0';
  return true;
}

static void serve(mt_run_cluster *c) {
  char line[64];
  answer_url(c);
  while (read_command(line, sizeof line)) obey(c, line);
}

/* Commands arrive over the socket; signals only ever mean the end. */
static void catch_signals(void) {
  static const int sigs[] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = on_end;
  sigemptyset(&sa.sa_mask);
  for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++)
    sigaction(sigs[i], &sa, NULL);
  signal(SIGALRM, SIG_DFL);
}

/* The server must not take the client's settings (PGPORT, PGDATA) for its. */
static void clean_environment(void) {
  size_t i = 0;
  while (environ && environ[i]) {
    char name[64];
    size_t len = strcspn(environ[i], "=");
    bool drop = strncmp(environ[i], "PG", 2) == 0 &&
                strncmp(environ[i], "PG_BINDIR=", 10) != 0 && len < sizeof name;
    if (drop) {
      memcpy(name, environ[i], len);
      name[len] = '\0';
      unsetenv(name); /* moves the rest down */
    } else {
      i++;
    }
  }
  unsetenv("LANGUAGE");
  setenv("LC_ALL", "C", 1); /* messages in the language we look for */
}

static void close_inherited(void) {
  if (close_range(MT_RUN_SUPERVISOR_FD + 1, ~0U, 0) == 0) return;
  for (int fd = MT_RUN_SUPERVISOR_FD + 1; fd < 1024; fd++) close(fd);
}

int mt_run_supervisor_main(void) {
  struct stat st;
  if (fstat(MT_RUN_SUPERVISOR_FD, &st) != 0 || !S_ISSOCK(st.st_mode)) {
    fprintf(stderr, "mtenant-run: %s is not for users\n",
            MT_RUN_SUPERVISOR_ARG);
    return 2;
  }
  mt_run_cluster c = {.wanted = runner_is_there};
  fcntl(MT_RUN_SUPERVISOR_FD, F_SETFD, FD_CLOEXEC);
  close_inherited();
  catch_signals();
  clean_environment();
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (mt_run_cluster_make(&c)) {
    serve(&c);
  } else {
    /* Clean up first: the runner exits as soon as it has the answer. */
    mt_run_cluster_remove(&c);
    answer_result(&c, false);
    return 1;
  }
  return mt_run_cluster_remove(&c) ? 0 : 1;
}
