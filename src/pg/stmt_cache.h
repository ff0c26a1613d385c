/*
 * Which statements are prepared on one connection, by (scope, SQL). A key is
 * prepared at its second use; the least recently used one beyond the cap is
 * handed back to be deallocated. Names count up and are never reused.
 */
#ifndef MT_PG_STMT_CACHE_H
#define MT_PG_STMT_CACHE_H

#include <stdint.h>

#include "base/hash.h"
#include "base/list.h"

typedef struct mt_stmt {
  UT_hash_handle hh;
  mt_node lru;
  uint64_t key;
  uint32_t number;
  char name[16]; /* "mt_<number>" */
} mt_stmt;

typedef struct mt_stmt_cache {
  mt_stmt *table;
  mt_list lru;
  int cap; /* 0: nothing is prepared */
  uint32_t next_name;
  uint64_t *seen; /* keys used once, direct-mapped; NULL until needed */
} mt_stmt_cache;

typedef enum mt_stmt_use {
  MT_STMT_UNNAMED, /* first use, no cache, or no memory */
  MT_STMT_PREPARE, /* prepare under *name first */
  MT_STMT_READY
} mt_stmt_use;

void mt_stmt_cache_init(mt_stmt_cache *c, int cap);
void mt_stmt_cache_fini(mt_stmt_cache *c);
/* Forgets all; names still count up. */
void mt_stmt_cache_clear(mt_stmt_cache *c);
/* Key of a scope id and a SQL id. */
uint64_t mt_stmt_key(uint32_t scope, uint32_t sql);
/* How to run the key now; *name is valid until the next call. With
 * MT_STMT_PREPARE *evicted may be set to a number to deallocate (0: none). */
mt_stmt_use mt_stmt_cache_use(mt_stmt_cache *c, uint64_t key, const char **name,
                              uint32_t *evicted);
/* The name is gone or stale: forget the key. Returns the number to deallocate,
 * 0 if the key was unknown. */
uint32_t mt_stmt_cache_drop(mt_stmt_cache *c, uint64_t key);

#endif
