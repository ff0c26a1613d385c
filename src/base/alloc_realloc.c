/*
 * mt_realloc alone: the linker's --wrap replaces only references from other
 * files, and tests/c/test_oom.c must catch every one.
 */
#include <assert.h>
#include <stdlib.h>

#include "base/alloc.h"

void *mt_realloc(void *p, size_t size) {
  assert(size > 0);
  return realloc(p, size);
}
