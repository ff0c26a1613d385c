/* See signals.h. Handlers do only what is safe in a handler. */
#include "run/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define STOP_SECONDS 10u

static int pipe_fds[2] = {-1, -1};
static volatile sig_atomic_t first;

static void put(int fd, const char *text, size_t len) {
  ssize_t ignored = write(fd, text, len);
  (void)ignored;
}

static void on_stop(int sig) {
  int saved = errno;
  if (first) {
    signal(sig, SIG_DFL);
    raise(sig); /* delivered when this handler returns */
  } else {
    first = sig;
    char byte = (char)sig;
    put(pipe_fds[1], &byte, 1);
    alarm(STOP_SECONDS);
  }
  errno = saved;
}

static void on_hangup(int sig) {
  int saved = errno;
  char byte = (char)sig;
  put(pipe_fds[1], &byte, 1);
  errno = saved;
}

static void on_alarm(int sig) {
  static const char text[] =
      "mtenant-run: the graceful stop took too long, ending at once\n";
  (void)sig;
  put(STDERR_FILENO, text, sizeof text - 1);
  _exit(128 + (int)first);
}

static void on_pipe(int sig) { (void)sig; }

static int install(int sig, void (*handler)(int), int flags) {
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = handler;
  sa.sa_flags = flags;
  sigemptyset(&sa.sa_mask);
  return sigaction(sig, &sa, NULL);
}

int mt_run_signals_init(void) {
  if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  /*
   * No SA_RESTART for the two: a blocking read of the script from a terminal
   * must end. SIGPIPE is caught rather than ignored because programs that a
   * script starts would inherit "ignored", but not a handler.
   */
  if (install(SIGINT, on_stop, 0) != 0 || install(SIGTERM, on_stop, 0) != 0 ||
      install(SIGALRM, on_alarm, 0) != 0)
    return -1;
  return install(SIGPIPE, on_pipe, SA_RESTART);
}

int mt_run_signals_catch_hangup(void) {
  return install(SIGHUP, on_hangup, SA_RESTART);
}

int mt_run_signals_fd(void) { return pipe_fds[0]; }

int mt_run_signals_read(void) {
  char byte;
  return read(pipe_fds[0], &byte, 1) == 1 ? byte : 0;
}

int mt_run_signals_first(void) { return (int)first; }
