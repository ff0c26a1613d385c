/*
 * uthash as the core uses it: with our allocator, and failing to add instead
 * of ending the process when memory is short. Who adds defines
 * uthash_nonfatal_oom to learn of it.
 */
#ifndef MT_BASE_HASH_H
#define MT_BASE_HASH_H

#include "base/alloc.h"

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(sz) mt_malloc(sz)
#define uthash_free(ptr, sz) mt_free(ptr)

#include <uthash.h>

#endif
