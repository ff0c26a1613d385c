/*
 * Five files of migrations on many empty schemas, as fast as libpq goes: one
 * transaction and one round trip for a schema, its tracking table and records
 * included, no look at what is there, no lock, no checksum.
 *   --tenants=200 --conns=2 [--kept] [--think_us=0] DIR
 * The schemas are m_0001 and so on. --kept keeps what the migrator promises, by
 * the same statements: a lock per schema, a look whether nothing has changed, a
 * path for each file and checksums; mtenant.checksums has to be there.
 * --think_us: so much CPU time goes by between an answer and the next text, as
 * in a program that has to decide what comes next.
 */
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

enum { MAX_CONNS = 64, MAX_FILES = 64, MAX_BYTES = 65536 };

typedef struct file {
  char name[NAME_MAX + 1], text[MAX_BYTES];
} file;

static file files[MAX_FILES];
static int count;

static int is_sql(const struct dirent *entry) {
  const char *dot = strrchr(entry->d_name, '.');
  return dot && strcmp(dot, ".sql") == 0;
}

static void read_files(const char *dir) {
  struct dirent **list;
  int n = scandir(dir, &list, is_sql, alphasort);
  if (n < 1 || n > MAX_FILES) bench_fail(dir, NULL);
  for (count = 0; count < n; count++) {
    char path[4096];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", dir, list[count]->d_name);
    if (!(f = fopen(path, "r"))) bench_fail(path, NULL);
    files[count].text[fread(files[count].text, 1, MAX_BYTES - 1, f)] = '\0';
    fclose(f);
    strcpy(files[count].name, list[count]->d_name);
    *strrchr(files[count].name, '.') = '\0';
  }
}

static char text[MAX_FILES * (MAX_BYTES + 1024)];

static char *add_look(char *at, int tenant) {
  return at + sprintf(at,
                      "SELECT 1 / ((pg_catalog.pg_get_object_address('schema', "
                      "ARRAY['m_%04d'], '{}')).objid > 0)::int4;",
                      tenant);
}

static char *add_guard(char *at, int tenant) {
  at += sprintf(at, "SELECT 1 / (pg_try_advisory_lock(7, %d))::int4;", tenant);
  at = add_look(at, tenant);
  return at + sprintf(at,
                      "SELECT 1 / (to_regclass('m_%04d.__drizzle_migrations') "
                      "IS NULL)::int4;",
                      tenant);
}

static char *add_checksums(char *at, int tenant) {
  at += sprintf(at,
                "WITH mtenant AS (INSERT INTO mtenant.checksums (schema_name, "
                "table_name, name, checksum) VALUES ");
  for (int i = 0; i < count; i++)
    at += sprintf(at, "%s('m_%04d', '__drizzle_migrations', '%s', '%064d')",
                  i ? ", " : "", tenant, files[i].name, i);
  return at + sprintf(at,
                      " ON CONFLICT (schema_name, table_name, name) DO UPDATE "
                      "SET checksum = excluded.checksum, applied_at = "
                      "excluded.applied_at) ");
}

static double think_us;

static double cpu_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void think(void) {
  double until = cpu_us() + think_us;
  while (think_us > 0 && cpu_us() < until) continue;
}

static void start(PGconn *pg, int tenant, bool kept) {
  char *at = text + sprintf(text, "BEGIN;");
  think();
  if (kept) at = add_guard(at, tenant);
  at += sprintf(at,
                "CREATE TABLE m_%04d.__drizzle_migrations (id SERIAL PRIMARY "
                "KEY, name VARCHAR(255) NOT NULL UNIQUE, applied_at TIMESTAMP "
                "WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP);",
                tenant);
  for (int i = 0; i < count; i++) {
    if (kept || i == 0)
      at += sprintf(at, "SET LOCAL search_path = m_%04d, public;", tenant);
    at += sprintf(at, "%s;", files[i].text);
  }
  if (kept) at = add_checksums(at, tenant);
  at += sprintf(at, "INSERT INTO m_%04d.__drizzle_migrations (name) VALUES ",
                tenant);
  for (int i = 0; i < count; i++)
    at += sprintf(at, "%s('%s')", i ? ", " : "", files[i].name);
  at += sprintf(at, ";");
  if (kept) at = add_look(at, tenant);
  at += sprintf(at, "COMMIT");
  if (kept) sprintf(at, ";SELECT pg_advisory_unlock(7, %d)", tenant);
  if (!PQsendQuery(pg, text)) bench_fail("send", pg);
}

/* All that has come; true when the schema is done. */
static bool receive(PGconn *pg) {
  PGresult *result;
  if (!PQconsumeInput(pg)) bench_fail("receive", pg);
  while (!PQisBusy(pg)) {
    if (!(result = PQgetResult(pg))) return true;
    if (PQresultStatus(result) == PGRES_FATAL_ERROR) bench_fail("migrate", pg);
    PQclear(result);
  }
  return false;
}

int main(int argc, char **argv) {
  int tenants = (int)bench_option(argc, argv, "tenants", 200);
  int conns = (int)bench_option(argc, argv, "conns", 2);
  bool kept = bench_option(argc, argv, "kept", 0);
  PGconn *pg[MAX_CONNS];
  struct pollfd fds[MAX_CONNS];
  int asked = 0, done = 0;

  if (conns > MAX_CONNS || conns > tenants) bench_fail("--conns", NULL);
  think_us = bench_option(argc, argv, "think_us", 0);
  read_files(argv[argc - 1]);
  bench_begin();
  for (int i = 0; i < conns; i++) {
    pg[i] = bench_connect("");
    fds[i] = (struct pollfd){.fd = PQsocket(pg[i]), .events = POLLIN};
    start(pg[i], ++asked, kept);
  }
  while (done < tenants) {
    if (poll(fds, (nfds_t)conns, -1) < 0) bench_fail("poll", NULL);
    for (int i = 0; i < conns; i++) {
      if (!fds[i].revents || !receive(pg[i])) continue;
      done++;
      if (asked < tenants)
        start(pg[i], ++asked, kept);
      else
        fds[i].fd = -1;
    }
  }
  bench_end();
  bench_report("raw", tenants, NULL, tenants, conns, "");
  return 0;
}
