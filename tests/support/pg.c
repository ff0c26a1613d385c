/* See pg.h; the work is done by pg.sh, beside this file. */
#include "support/pg.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMAND_SIZE 8192

static char root[128]; /* "" until the first server */
static pid_t root_owner;

static _Noreturn void die(const char *what) {
  fprintf(stderr, "test server: %s\n", what);
  exit(1);
}

/* `bash '<path of pg.sh>' `, from this file's path as it was compiled. */
static size_t script_prefix(char *command, size_t size) {
  static const char here[] = __FILE__;
  const char *slash = strrchr(here, '/');
  int len = snprintf(command, size, "bash '%.*s/pg.sh' ",
                     slash ? (int)(slash - here) : 1, slash ? here : ".");
  if (len < 0 || (size_t)len >= size) die("the path of pg.sh is too long");
  return (size_t)len;
}

/* Runs `command`, keeps what it prints; false when it fails. */
static bool run(const char *command, char *out, size_t size) {
  FILE *pipe = popen(command, "r");
  if (!pipe) die("no process");
  size_t len = fread(out, 1, size - 1, pipe);
  char rest[256];
  while (fread(rest, 1, sizeof rest, pipe) > 0) continue;
  while (len > 0 && out[len - 1] == '\n') len--;
  out[len] = '\0';
  return pclose(pipe) == 0;
}

/* Calls pg.sh with arguments that are quoted for the shell already. */
static void script(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void script(char *out, size_t size, const char *format, ...) {
  char command[COMMAND_SIZE];
  size_t len = script_prefix(command, sizeof command);
  va_list args;
  va_start(args, format);
  int more = vsnprintf(command + len, sizeof command - len, format, args);
  va_end(args);
  if (more < 0 || (size_t)more >= sizeof command - len)
    die("the command is too long");
  if (!run(command, out, size)) die(command);
}

/* Children of a test that fork and exit must leave the servers alone. */
static void destroy_root(void) {
  char out[16];
  if (getpid() == root_owner) script(out, sizeof out, "destroy '%s'", root);
}

static void make_root(void) {
  if (root[0] != '\0' && getpid() == root_owner) return;
  script(root, sizeof root, "root %ld", (long)getpid());
  root_owner = getpid();
  atexit(destroy_root);
}

static void quote_settings(const char *const *conf, char *out, size_t size) {
  size_t len = 0;
  out[0] = '\0';
  for (; conf && *conf; conf++) {
    if (strchr(*conf, '\'')) die("a setting with a quote");
    int n = snprintf(out + len, size - len, " '%s'", *conf);
    if (n < 0 || (size_t)n >= size - len) die("too many settings");
    len += (size_t)n;
  }
}

/* The directory is plain but for its slashes. */
static void set_url(const mt_test_pg *pg, bool tcp, const char *user, char *url,
                    size_t size) {
  char host[3 * sizeof pg->dir] = "";
  size_t len = 0;
  for (const char *p = pg->dir; *p; p++)
    len += (size_t)snprintf(host + len, sizeof host - len,
                            *p == '/' ? "%%2F" : "%c", *p);
  if (tcp)
    snprintf(url, size, "postgresql://%s@127.0.0.1:%d/mtenant", user, pg->port);
  else
    snprintf(url, size, "postgresql://%s@/mtenant?host=%s&port=%d", user, host,
             pg->port);
}

void mt_test_pg_start(mt_test_pg *pg, bool tcp, const char *const *conf) {
  char settings[4096], out[256];
  memset(pg, 0, sizeof *pg);
  make_root();
  quote_settings(conf, settings, sizeof settings);
  script(out, sizeof out, "create '%s'%s%s", root, tcp ? " tcp=true" : "",
         settings);
  if (sscanf(out, "%127s %d", pg->dir, &pg->port) != 2) die(out);
  set_url(pg, tcp, "mtenant", pg->url, sizeof pg->url);
  set_url(pg, tcp, "postgres", pg->admin_url, sizeof pg->admin_url);
}

void mt_test_pg_close(mt_test_pg *pg) {
  char out[16];
  if (pg->dir[0] == '\0') return;
  script(out, sizeof out, "remove '%s'", pg->dir);
  pg->dir[0] = '\0';
}

void mt_test_pg_stop(mt_test_pg *pg, const char *mode) {
  char out[16];
  script(out, sizeof out, "stop '%s' %s", pg->dir, mode);
}

void mt_test_pg_restart(mt_test_pg *pg, const char *mode) {
  char out[16];
  script(out, sizeof out, "restart '%s' %s", pg->dir, mode);
}

void mt_test_pg_start_again(mt_test_pg *pg) {
  char out[16];
  script(out, sizeof out, "start '%s'", pg->dir);
}

static void later(const mt_test_pg *pg, int delay_ms, const char *action,
                  const char *mode) {
  char command[COMMAND_SIZE], prefix[1024];
  script_prefix(prefix, sizeof prefix);
  snprintf(command, sizeof command,
           "(sleep %d.%03d; %s %s '%s' %s) </dev/null >/dev/null 2>&1 &",
           delay_ms / 1000, delay_ms % 1000, prefix, action, pg->dir, mode);
  if (system(command) != 0) die(command);
}

void mt_test_pg_start_later(mt_test_pg *pg, int delay_ms) {
  later(pg, delay_ms, "start", "");
}

void mt_test_pg_stop_later(mt_test_pg *pg, int delay_ms, const char *mode) {
  later(pg, delay_ms, "stop", mode);
}

void mt_test_pg_restart_later(mt_test_pg *pg, int delay_ms, const char *mode) {
  later(pg, delay_ms, "restart", mode);
}

bool mt_test_pg_psql(mt_test_pg *pg, const char *sql, char *out, size_t size) {
  static const char end[] = "MT_END_OF_SQL";
  size_t need = strlen(sql) + sizeof pg->dir + 1200;
  char *command = malloc(need);
  if (!command) die("out of memory");
  size_t len = script_prefix(command, need);
  snprintf(command + len, need - len, "psql '%s' <<'%s'\n%s\n%s\n", pg->dir,
           end, sql, end);
  bool ok = run(command, out, size);
  free(command);
  return ok;
}
