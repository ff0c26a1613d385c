/* The per-connection statement cache. See stmt_cache.h. */
#include "pg/stmt_cache.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rand.h"

enum { SEEN = 1024 };

void mt_stmt_cache_init(mt_stmt_cache *c, int cap) {
  memset(c, 0, sizeof *c);
  c->cap = cap;
}

static uint32_t remove_stmt(mt_stmt_cache *c, mt_stmt *s) {
  uint32_t number = s->number;
  HASH_DEL(c->table, s);
  mt_list_remove(&c->lru, &s->lru);
  mt_free(s);
  return number;
}

void mt_stmt_cache_clear(mt_stmt_cache *c) {
  while (c->lru.head) remove_stmt(c, mt_container(c->lru.head, mt_stmt, lru));
}

void mt_stmt_cache_fini(mt_stmt_cache *c) {
  mt_stmt_cache_clear(c);
  mt_free(c->seen);
  c->seen = NULL;
}

uint64_t mt_stmt_key(uint32_t scope, uint32_t sql) {
  return (uint64_t)scope << 32 | sql;
}

/* True from the second use on, within the memory of a small filter. */
static bool seen_before(mt_stmt_cache *c, uint64_t key) {
  uint64_t *slot;
  if (!c->seen) c->seen = mt_calloc(SEEN * sizeof *c->seen);
  if (!c->seen) return false;
  slot = &c->seen[mt_hash64(&key, sizeof key, 0) % SEEN];
  if (*slot == key) return true;
  *slot = key;
  return false;
}

static bool add(mt_stmt_cache *c, mt_stmt *s) {
  bool failed = false;
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(obj) failed = true
  HASH_ADD(hh, c->table, key, sizeof s->key, s);
  return !failed;
}

mt_stmt_use mt_stmt_cache_use(mt_stmt_cache *c, uint64_t key, const char **name,
                              uint32_t *evicted) {
  mt_stmt *s;
  *evicted = 0;
  if (c->cap <= 0) return MT_STMT_UNNAMED;
  HASH_FIND(hh, c->table, &key, sizeof key, s);
  if (s) {
    if (c->lru.tail != &s->lru) {
      mt_list_remove(&c->lru, &s->lru);
      mt_list_push(&c->lru, &s->lru);
    }
    *name = s->name;
    return MT_STMT_READY;
  }
  if (!seen_before(c, key)) return MT_STMT_UNNAMED;
  s = mt_calloc(sizeof *s);
  if (!s) return MT_STMT_UNNAMED;
  s->key = key;
  if (!add(c, s)) {
    mt_free(s);
    return MT_STMT_UNNAMED;
  }
  s->number = ++c->next_name;
  snprintf(s->name, sizeof s->name, "mt_%u", s->number);
  mt_list_push(&c->lru, &s->lru);
  if (c->lru.len > (size_t)c->cap)
    *evicted = remove_stmt(c, mt_container(c->lru.head, mt_stmt, lru));
  *name = s->name;
  return MT_STMT_PREPARE;
}

uint32_t mt_stmt_cache_drop(mt_stmt_cache *c, uint64_t key) {
  mt_stmt *s;
  HASH_FIND(hh, c->table, &key, sizeof key, s);
  return s ? remove_stmt(c, s) : 0;
}
