/* See proc.h. */
#include "run/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STEP_MS 2
#define KILL_ROUNDS 200

static void default_signals(void) {
  static const int sigs[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
  sigset_t none;
  for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++)
    signal(sigs[i], SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the child; fds of the supervisor are all O_CLOEXEC. */
static void redirect(const char *in, int out, int err) {
  int from = open(in ? in : "/dev/null", O_RDONLY);
  if (from < 0 || out < 0 || err < 0) _exit(126);
  dup2(from, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  if (from > STDERR_FILENO) close(from);
  if (out > STDERR_FILENO) close(out);
}

static int open_output(const char *out) {
  return open(out ? out : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0600);
}

pid_t mt_run_proc_start(const char *const argv[], const char *in,
                        const char *out) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  default_signals();
  prctl(PR_SET_PDEATHSIG, SIGQUIT);
  int log = open_output(out);
  redirect(in, log, log);
  execv(argv[0], (char *const *)argv);
  _exit(127);
}

static void keep_first_line(char *buf, size_t len) {
  buf[len] = '\0';
  buf[strcspn(buf, "\r\n")] = '\0';
}

/* Reads to the end, keeping what fits. */
static size_t read_all(int fd, char *buf, size_t size) {
  size_t len = 0;
  char rest[256];
  for (;;) {
    bool room = len + 1 < size;
    ssize_t n = room ? read(fd, buf + len, size - 1 - len)
                     : read(fd, rest, sizeof rest);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return len;
    if (room) len += (size_t)n;
  }
}

bool mt_run_proc_line(const char *const argv[], char *buf, size_t size) {
  int fds[2], status = -1;
  if (pipe2(fds, O_CLOEXEC) != 0) return false;
  pid_t pid = fork();
  if (pid == 0) {
    default_signals();
    redirect(NULL, fds[1], open_output(NULL));
    execvp(argv[0], (char *const *)argv);
    _exit(127);
  }
  close(fds[1]);
  keep_first_line(buf, pid > 0 ? read_all(fds[0], buf, size) : 0);
  close(fds[0]);
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return pid > 0 && status == 0 && buf[0] != '\0';
}

void mt_run_proc_sleep(int ms) {
  struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000L};
  nanosleep(&ts, NULL);
}

bool mt_run_proc_ended(pid_t pid, int *status) {
  pid_t got = waitpid(pid, status, WNOHANG);
  return got == pid || (got < 0 && errno == ECHILD);
}

bool mt_run_proc_await(pid_t pid, int ms, int *status) {
  for (int waited = 0;; waited += STEP_MS) {
    if (mt_run_proc_ended(pid, status)) return true;
    if (waited >= ms) return false;
    mt_run_proc_sleep(STEP_MS);
  }
}

static void kill_children(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
  FILE *f = fopen(path, "re");
  if (!f) return;
  long pid;
  while (fscanf(f, "%ld", &pid) == 1) kill((pid_t)pid, SIGKILL);
  fclose(f);
}

void mt_run_proc_kill_all(void) {
  for (int i = 0; i < KILL_ROUNDS; i++) {
    kill_children();
    pid_t got;
    do got = waitpid(-1, NULL, WNOHANG);
    while (got > 0);
    if (got < 0 && errno == ECHILD) return;
    mt_run_proc_sleep(STEP_MS);
  }
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *ftw) {
  (void)st, (void)type, (void)ftw;
  remove(path); /* a failure shows at the top directory */
  return 0;
}

bool mt_run_proc_remove_tree(const char *dir) {
  for (int i = 0; i < 3; i++) {
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (access(dir, F_OK) != 0) return true;
    mt_run_proc_sleep(50); /* a dying server may still have been writing */
  }
  return false;
}
