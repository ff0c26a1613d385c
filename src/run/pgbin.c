/* See pgbin.h. */
#include "run/pgbin.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run/proc.h"

typedef struct search {
  char *dir; /* the result */
  size_t size;
  int too_old; /* newest version seen that is too old; 0: none */
} search;

static bool has_program(const char *dir, const char *program) {
  char path[1024];
  int len = snprintf(path, sizeof path, "%s/%s", dir, program);
  return len > 0 && (size_t)len < sizeof path && access(path, X_OK) == 0;
}

/* The major version of dir/postgres; 0 when it cannot tell. */
static int version_in(const char *dir) {
  char path[1024], line[256];
  snprintf(path, sizeof path, "%s/postgres", dir);
  const char *const argv[] = {path, "-V", NULL};
  if (!mt_run_proc_line(argv, line, sizeof line)) return 0;
  const char *number = strpbrk(line, "0123456789");
  return number ? atoi(number) : 0;
}

static bool try_dir(search *s, const char *dir) {
  if (dir[0] != '/' || strlen(dir) >= s->size) return false;
  if (!has_program(dir, "initdb") || !has_program(dir, "postgres"))
    return false;
  int version = version_in(dir);
  if (version < MT_RUN_PG_OLDEST) {
    if (version > s->too_old) s->too_old = version;
    return false;
  }
  memcpy(s->dir, dir, strlen(dir) + 1);
  return true;
}

static bool try_pg_config(search *s) {
  static const char *const argv[] = {"pg_config", "--bindir", NULL};
  char line[1024];
  return mt_run_proc_line(argv, line, sizeof line) && try_dir(s, line);
}

static int major_of(const char *path) {
  return atoi(path + strlen("/usr/lib/postgresql/"));
}

static bool try_installed(search *s) {
  glob_t found;
  bool ok = false;
  if (glob("/usr/lib/postgresql/*/bin", 0, NULL, &found) != 0) return false;
  /* glob sorts by name, which puts 9 behind 15: take the newest each time */
  for (size_t left = found.gl_pathc; left > 0 && !ok; left--) {
    size_t best = 0;
    for (size_t i = 1; i < left; i++)
      if (major_of(found.gl_pathv[i]) > major_of(found.gl_pathv[best]))
        best = i;
    char *path = found.gl_pathv[best];
    ok = try_dir(s, path);
    found.gl_pathv[best] = found.gl_pathv[left - 1];
    found.gl_pathv[left - 1] = path;
  }
  globfree(&found);
  return ok;
}

static bool try_path(search *s) {
  const char *path = getenv("PATH");
  char dir[1024];
  while (path && *path) {
    size_t len = strcspn(path, ":");
    if (len < sizeof dir) {
      memcpy(dir, path, len);
      dir[len] = '\0';
      if (try_dir(s, dir)) return true;
    }
    path += len + (path[len] == ':');
  }
  return false;
}

bool mt_run_pgbin_find(char *dir, size_t size, char *why, size_t why_size) {
  search s = {dir, size, 0};
  const char *given = getenv("PG_BINDIR");
  bool told = given && *given;
  if (told ? try_dir(&s, given)
           : try_pg_config(&s) || try_installed(&s) || try_path(&s))
    return true;
  if (s.too_old)
    snprintf(why, why_size, "PostgreSQL %d is too old, %d or newer is needed",
             s.too_old, MT_RUN_PG_OLDEST);
  else if (told)
    snprintf(why, why_size, "PG_BINDIR (%.200s) has no initdb and postgres",
             given);
  else
    snprintf(why, why_size,
             "no PostgreSQL server is installed (looked in PG_BINDIR, "
             "pg_config --bindir, /usr/lib/postgresql and PATH)");
  return false;
}
