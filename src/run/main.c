/*
 * mtenant-run: runs a Lua script as a task, any call of it may wait. main only
 * sorts out the process: options, signals, the server of --pg, the order of
 * the end. What a run does is in lua/mtenant/runner.lua.
 */
#include <errno.h>
#include <fcntl.h>
#include <lua.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mtenant.h"
#include "run/host.h"
#include "run/options.h"
#include "run/signals.h"
#include "run/state.h"
#include "run/supervisor.h"
#include "run/throwaway.h"

/* A socket must never get the number of a standard stream. */
static void open_standard_streams(void) {
  for (int fd = 0; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR) != fd) abort();
  }
}

static int bad_usage(const mt_run_options *o) {
  fprintf(stderr, "%s: %s\nTry '%s --help'.\n", o->name, o->error, o->name);
  return 2;
}

/* False: *status is the exit status. */
static bool start_pg(const mt_run_options *o, int *status) {
  char why[512];
  const char *url;
  int slot = mt_run_throwaway_open(why, sizeof why);
  if (slot >= 0 && mt_run_throwaway_await(slot, &url, why, sizeof why)) {
    mt_run_host_set_pg(slot, url);
    if (setenv("DATABASE_URL", url, 1) == 0) return true;
    snprintf(why, sizeof why, "%s", strerror(errno));
  }
  int sig = mt_run_signals_first();
  if (sig == 0) fprintf(stderr, "%s: --pg: %s\n", o->name, why);
  *status = sig ? 128 + sig : 1;
  return false;
}

/* `mtenant-run ... | head` is no reason to complain. */
static bool reader_is_gone(void) {
  struct pollfd p = {STDOUT_FILENO, POLLOUT, 0};
  return poll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0;
}

/* What a script printed and could not be written is a failure. */
static int flush_output(const mt_run_options *o, int status) {
  bool failed = ferror(stdout) != 0;
  int error = fflush(stdout) == 0 ? 0 : errno;
  if (!failed && error == 0) return status;
  if (!reader_is_gone())
    fprintf(stderr, "%s: cannot write the output%s%s\n", o->name,
            error ? ": " : "", error ? strerror(error) : "");
  return status ? status : 1;
}

static int run(const mt_run_options *o) {
  int status = 1;
  if (mt_run_signals_init() != 0) {
    fprintf(stderr, "%s: %s\n", o->name, strerror(errno));
    return status;
  }
  if (!o->pg || start_pg(o, &status)) status = mt_run_state_run(o);
  status = flush_output(o, status);
  mt_run_throwaway_close_all();
  return status;
}

static int obey(const mt_run_options *o) {
  if (o->version) {
    printf("%s %s, %s\n", o->name, MT_VERSION, LUA_RELEASE);
  } else if (o->help && !o->command) {
    mt_run_options_help(o, stdout);
  } else {
    return run(o);
  }
  return flush_output(o, 0);
}

int main(int argc, char **argv) {
  mt_run_options o;
  if (argc == 2 && strcmp(argv[1], MT_RUN_SUPERVISOR_ARG) == 0)
    return mt_run_supervisor_main();
  open_standard_streams();
  int status = mt_run_options_init(&o, argc, argv) ? obey(&o) : bad_usage(&o);
  mt_run_options_fini(&o);
  return status;
}
