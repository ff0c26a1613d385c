/*
 * Memory. Every allocation of the core goes through mt_realloc, so that a
 * test can make the Nth one fail (tests/c/test_oom.c wraps it at link time);
 * the library itself keeps no state. Freed with mt_free, by the owner that
 * the allocating header names.
 */
#ifndef MT_BASE_ALLOC_H
#define MT_BASE_ALLOC_H

#include <stddef.h>

/* As realloc; size must not be 0. NULL when memory is short. */
void *mt_realloc(void *p, size_t size);
void mt_free(void *p); /* keeps errno */

void *mt_malloc(size_t size);
void *mt_calloc(size_t size);   /* zeroed */
char *mt_strdup(const char *s); /* NULL gives NULL */
char *mt_strndup(const char *s, size_t len);
/* printf into a new string. */
char *mt_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
