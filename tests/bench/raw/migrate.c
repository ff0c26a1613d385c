/*
 * Five files of migrations on many empty schemas, as fast as libpq goes: one
 * transaction and one round trip for a schema, its tracking table and records
 * included, no look at what is there, no lock, no checksum.
 *   --tenants=200 --conns=2 DIR
 * The schemas are m_0001 and so on.
 */
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void start(PGconn *pg, int tenant) {
  static char text[MAX_FILES * (MAX_BYTES + 256)];
  char *at = text;
  at += sprintf(at,
                "BEGIN; SET LOCAL search_path = m_%04d, public;"
                "CREATE TABLE m_%04d.__drizzle_migrations (id SERIAL PRIMARY "
                "KEY, name VARCHAR(255) NOT NULL UNIQUE, applied_at TIMESTAMP "
                "WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP);",
                tenant, tenant);
  for (int i = 0; i < count; i++) at += sprintf(at, "%s;", files[i].text);
  for (int i = 0; i < count; i++)
    at += sprintf(at, "INSERT INTO __drizzle_migrations (name) VALUES ('%s');",
                  files[i].name);
  strcpy(at, "COMMIT");
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
  PGconn *pg[MAX_CONNS];
  struct pollfd fds[MAX_CONNS];
  int asked = 0, done = 0;

  if (conns > MAX_CONNS || conns > tenants) bench_fail("--conns", NULL);
  read_files(argv[argc - 1]);
  bench_begin();
  for (int i = 0; i < conns; i++) {
    pg[i] = bench_connect("");
    fds[i] = (struct pollfd){.fd = PQsocket(pg[i]), .events = POLLIN};
    start(pg[i], ++asked);
  }
  while (done < tenants) {
    if (poll(fds, (nfds_t)conns, -1) < 0) bench_fail("poll", NULL);
    for (int i = 0; i < conns; i++) {
      if (!fds[i].revents || !receive(pg[i])) continue;
      done++;
      if (asked < tenants)
        start(pg[i], ++asked);
      else
        fds[i].fd = -1;
    }
  }
  bench_end();
  bench_report("raw", tenants, NULL, tenants, conns, "");
  return 0;
}
