/*
 * Makes a throwaway cluster: an ordinary user to run as, a private directory,
 * initdb, an ordinary login role and its database. See cluster.h.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/private_dir.h"
#include "run/cluster_priv.h"
#include "run/pgbin.h"
#include "run/proc.h"

#define INITDB_MS 60000
#define POLL_MS 5

static const char settings[] =
    "listen_addresses = ''\n"
    "max_connections = 100\n"
    "fsync = off\n"
    "full_page_writes = off\n"
    "dynamic_shared_memory_type = mmap\n"
    "unix_socket_directories = '%s'\n";

/* An ordinary user first, its database second; one statement a line. */
static const char statements[] =
    "CREATE ROLE mtenant LOGIN NOSUPERUSER\n"
    "CREATE DATABASE mtenant OWNER mtenant\n";

static bool fail_errno(mt_run_cluster *c, const char *what) {
  char text[300];
  snprintf(text, sizeof text, "%.200s: %s", what, strerror(errno));
  return mt_run__cluster_fail(c, text);
}

/* PostgreSQL refuses to run as root. */
static bool drop_root(mt_run_cluster *c) {
  if (geteuid() != 0) return true;
  const struct passwd *user = getpwnam("postgres");
  if (!user) user = getpwnam("nobody");
  if (!user || user->pw_uid == 0)
    return mt_run__cluster_fail(
        c,
        "PostgreSQL does not run as root, and there is neither a user "
        "postgres nor a user nobody");
  if (initgroups(user->pw_name, user->pw_gid) != 0 ||
      setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)
    return fail_errno(c, "cannot run as an ordinary user");
  return true;
}

/* A socket's path has 107 bytes at most: c->dir is short enough for that. */
static bool make_private_dir(mt_run_cluster *c) {
  umask(077);
  return mt_private_dir(c->dir, sizeof c->dir, "mtenant-pg") ||
         fail_errno(c, "cannot make a directory");
}

/* Runs a program to its end; false when it fails or the runner is gone. */
static bool run_program(mt_run_cluster *c, const char *const argv[],
                        const char *in, const char *log) {
  int status = -1;
  pid_t pid = mt_run_proc_start(argv, in, log);
  if (pid < 0) return false;
  for (int waited = 0; waited < INITDB_MS; waited += POLL_MS) {
    if (mt_run_proc_ended(pid, &status)) return status == 0;
    if (!c->wanted()) break;
    mt_run_proc_sleep(POLL_MS);
  }
  kill(pid, SIGKILL);
  mt_run_proc_kill_all();
  return false;
}

static bool write_file(mt_run_cluster *c, const char *path, const char *mode,
                       const char *format, const char *value) {
  FILE *f = fopen(path, mode);
  if (!f) return fail_errno(c, path);
  fprintf(f, format, value);
  return fclose(f) == 0 || fail_errno(c, path);
}

static bool init_data(mt_run_cluster *c) {
  char program[1040], data[100], log[100], conf[120];
  snprintf(program, sizeof program, "%s/initdb", c->bindir);
  snprintf(data, sizeof data, "%s/data", c->dir);
  snprintf(log, sizeof log, "%s/initdb.log", c->dir);
  snprintf(conf, sizeof conf, "%s/postgresql.conf", data);
  const char *const argv[] = {program,      "-D",        data,       "-A",
                              "trust",      "--no-sync", "-E",       "UTF8",
                              "--locale=C", "-U",        "postgres", NULL};
  if (!run_program(c, argv, NULL, log))
    return mt_run__cluster_fail_log(c, "initdb failed", "initdb.log");
  return write_file(c, conf, "ae", settings, c->dir);
}

/*
 * In single-user mode, so that the server is never up without its role and
 * no client program is needed. That mode exits with 0 after an error too.
 */
static bool make_database(mt_run_cluster *c) {
  char program[1040], data[100], log[100], sql[100];
  snprintf(program, sizeof program, "%s/postgres", c->bindir);
  snprintf(data, sizeof data, "%s/data", c->dir);
  snprintf(log, sizeof log, "%s/single.log", c->dir);
  snprintf(sql, sizeof sql, "%s/init.sql", c->dir);
  const char *const argv[] = {program, "--single", "-D",
                              data,    "postgres", NULL};
  bool ran = write_file(c, sql, "we", "%s", statements) &&
             run_program(c, argv, sql, log);
  mt_run__cluster_fail_log(c, "", "single.log");
  if (ran && c->error[0] == '\0') return true;
  return mt_run__cluster_fail_log(c, "cannot create the database",
                                  "single.log");
}

bool mt_run_cluster_make(mt_run_cluster *c) {
  if (!drop_root(c)) return false;
  if (!mt_run_pgbin_find(c->bindir, sizeof c->bindir, c->error,
                         sizeof c->error))
    return false;
  if (!make_private_dir(c)) return false;
  if (chdir(c->dir) != 0) return fail_errno(c, c->dir);
  return init_data(c) && make_database(c) && mt_run_cluster_start(c);
}
