/* See cluster.h. The user switch and initdb are in cluster_make.c. */
#include "run/cluster.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run/cluster_priv.h"
#include "run/proc.h"

#define START_MS 60000
#define POLL_MS 5
/* How long each signal may take before the next, harder one. */
#define FAST_MS 3000
#define QUIT_MS 2000
#define KILL_MS 1000
/* At the end nothing is worth waiting for: the data goes away as well. */
#define END_MS 1000

bool mt_run__cluster_fail(mt_run_cluster *c, const char *what) {
  snprintf(c->error, sizeof c->error, "%.500s", what);
  return false;
}

/* From where the reason starts in a line of a log; NULL: it has none. */
static char *reason_in(char *line) {
  static const char *const marks[] = {
      "PANIC: ", "FATAL: ", "ERROR: ", "error: ", "could not "};
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
    char *at = strstr(line, marks[i]);
    if (at) return at;
  }
  return NULL;
}

bool mt_run__cluster_fail_log(mt_run_cluster *c, const char *what,
                              const char *log) {
  char path[128], line[300], reason[300] = "";
  snprintf(path, sizeof path, "%s/%s", c->dir, log);
  FILE *f = fopen(path, "re");
  while (f && fgets(line, sizeof line, f)) {
    char *at = reason_in(line);
    line[strcspn(line, "\r\n")] = '\0';
    if (at) memmove(reason, at, strlen(at) + 1);
  }
  if (f) fclose(f);
  snprintf(c->error, sizeof c->error, "%s%s%s", what, *reason ? ": " : "",
           reason);
  return false;
}

/* One line of postmaster.pid, from 1, without its newline. */
static bool pid_file_line(const mt_run_cluster *c, int number, char *buf,
                          int size) {
  char path[128];
  snprintf(path, sizeof path, "%s/data/postmaster.pid", c->dir);
  FILE *f = fopen(path, "re");
  if (!f) return false;
  bool ok = true;
  while (ok && number-- > 0) ok = fgets(buf, size, f) != NULL;
  fclose(f);
  return ok;
}

/* A killed server leaves its file behind: the pid must be the new one's. */
static bool is_ready(const mt_run_cluster *c) {
  char line[256];
  return pid_file_line(c, 1, line, sizeof line) &&
         strtol(line, NULL, 10) == (long)c->server &&
         pid_file_line(c, 8, line, sizeof line) &&
         strncmp(line, "ready", 5) == 0;
}

static void forget_if_ended(mt_run_cluster *c) {
  int status;
  if (c->server > 0 && mt_run_proc_ended(c->server, &status)) c->server = 0;
}

static bool await_ready(mt_run_cluster *c) {
  for (int waited = 0; waited < START_MS; waited += POLL_MS) {
    if (is_ready(c)) return true;
    forget_if_ended(c);
    if (c->server == 0)
      return mt_run__cluster_fail_log(c, "the server ended while starting",
                                      "postgres.log");
    if (!c->wanted()) return mt_run__cluster_fail(c, "interrupted");
    mt_run_proc_sleep(POLL_MS);
  }
  return mt_run__cluster_fail(c, "the server did not get ready in time");
}

bool mt_run_cluster_start(mt_run_cluster *c) {
  char program[1040], data[100], log[100];
  forget_if_ended(c);
  if (c->server > 0) return true;
  mt_run_proc_kill_all(); /* a crash may have left backends behind */
  snprintf(program, sizeof program, "%s/postgres", c->bindir);
  snprintf(data, sizeof data, "%s/data", c->dir);
  snprintf(log, sizeof log, "%s/postgres.log", c->dir);
  const char *const argv[] = {program, "-D", data, NULL};
  pid_t pid = mt_run_proc_start(argv, NULL, log);
  if (pid < 0) return mt_run__cluster_fail(c, strerror(errno));
  c->server = pid;
  return await_ready(c);
}

/* A server that dies by SIGKILL leaves a small System V segment. */
static int shared_memory_id(const mt_run_cluster *c) {
  char line[256];
  unsigned long key;
  int id;
  if (!pid_file_line(c, 7, line, sizeof line)) return -1;
  return sscanf(line, "%lu %d", &key, &id) == 2 ? id : -1;
}

static bool end_by(mt_run_cluster *c, int sig, int ms) {
  int status;
  kill(c->server, sig);
  if (!mt_run_proc_await(c->server, ms, &status)) return false;
  c->server = 0;
  return true;
}

static bool end_hard(mt_run_cluster *c) {
  int id = shared_memory_id(c);
  bool ended = end_by(c, SIGKILL, KILL_MS);
  mt_run_proc_kill_all();
  if (id >= 0) shmctl(id, IPC_RMID, NULL);
  c->server = 0;
  return ended;
}

/* fast_ms == 0: not even asked to end in good order. */
static bool end_within(mt_run_cluster *c, int fast_ms, int quit_ms) {
  forget_if_ended(c);
  if (c->server == 0) return true;
  if (fast_ms > 0 && end_by(c, SIGINT, fast_ms)) return true;
  return end_by(c, SIGQUIT, quit_ms) || end_hard(c) ||
         mt_run__cluster_fail(c, "the server does not end");
}

bool mt_run_cluster_stop(mt_run_cluster *c) {
  return end_within(c, FAST_MS, QUIT_MS);
}

bool mt_run_cluster_kill(mt_run_cluster *c) {
  return end_within(c, 0, QUIT_MS);
}

bool mt_run_cluster_remove(mt_run_cluster *c) {
  bool ended = end_within(c, END_MS, END_MS);
  mt_run_proc_kill_all();
  return (c->dir[0] == '\0' || mt_run_proc_remove_tree(c->dir)) && ended;
}
