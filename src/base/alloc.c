/*
 * Memory: the helpers over mt_realloc, which has a file of its own
 * (alloc_realloc.c). Keeps no state.
 */
#include "base/alloc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *mt_malloc(size_t size) { return mt_realloc(NULL, size); }

void *mt_calloc(size_t size) {
  void *p = mt_realloc(NULL, size);
  if (p) memset(p, 0, size);
  return p;
}

void mt_free(void *p) {
  int saved = errno;
  free(p);
  errno = saved;
}

char *mt_strndup(const char *s, size_t len) {
  char *p = mt_realloc(NULL, len + 1);
  if (!p) return NULL;
  memcpy(p, s, len);
  p[len] = '\0';
  return p;
}

char *mt_strdup(const char *s) { return s ? mt_strndup(s, strlen(s)) : NULL; }

char *mt_asprintf(const char *fmt, ...) {
  va_list ap;
  char *p;
  int len;

  va_start(ap, fmt);
  len = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  if (len < 0) return NULL;
  p = mt_realloc(NULL, (size_t)len + 1);
  if (!p) return NULL;
  va_start(ap, fmt);
  vsnprintf(p, (size_t)len + 1, fmt, ap);
  va_end(ap);
  return p;
}
