/* See private_dir.h. */
#include "base/private_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_plain(const char *path) {
  return path[0] == '/' && path[strspn(path,
                                       "abcdefghijklmnopqrstuvwxyz"
                                       "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                       "0123456789/._-")] == '\0';
}

static bool make_in(const char *parent, char *dir, size_t size,
                    const char *name) {
  int len;
  errno = ENAMETOOLONG;
  if (!is_plain(parent)) return false;
  len = snprintf(dir, size, "%s/%s-XXXXXX", parent, name);
  return len > 0 && (size_t)len < size && mkdtemp(dir);
}

bool mt_private_dir(char *dir, size_t size, const char *name) {
  const char *tmp = getenv("TMPDIR");
  if (tmp && *tmp && make_in(tmp, dir, size, name)) return true;
  if (make_in("/tmp", dir, size, name)) return true;
  dir[0] = '\0';
  return false;
}
