/*
 * The table of interned SQL texts, least recently used first out. See sql.h.
 */
#include "pg/sql.h"

#include <string.h>

#include "base/alloc.h"

struct mt_sql_table {
  mt_sql *texts;
  mt_list lru; /* head: oldest */
  size_t max_texts, max_bytes, bytes;
  uint32_t next_id;
};

mt_sql_table *mt_sql_table_new(size_t max_texts, size_t max_bytes) {
  mt_sql_table *t = mt_calloc(sizeof *t);
  if (!t) return NULL;
  t->max_texts = max_texts;
  t->max_bytes = max_bytes;
  return t;
}

static void leave(mt_sql_table *t, mt_sql *s) {
  HASH_DEL(t->texts, s);
  mt_list_remove(&t->lru, &s->lru);
  t->bytes -= s->len;
  s->table = NULL;
  mt_sql_unref(s);
}

void mt_sql_table_free(mt_sql_table *t) {
  if (!t) return;
  while (t->lru.head) leave(t, mt_container(t->lru.head, mt_sql, lru));
  mt_free(t);
}

static mt_sql *text_new(const char *sql, size_t len) {
  mt_sql *s = mt_malloc(sizeof *s + len + 1);
  if (!s) return NULL;
  memset(s, 0, sizeof *s);
  s->refs = 1;
  s->len = len;
  memcpy(s->text, sql, len);
  s->text[len] = '\0';
  mt_sql_classify(s->text, len, &s->info);
  return s;
}

/* False when uthash could not grow: the text then lives outside the table. */
static bool enter(mt_sql_table *t, mt_sql *s, unsigned hash) {
  bool failed = false;
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(obj) failed = true
  HASH_ADD_KEYPTR_BYHASHVALUE(hh, t->texts, s->text, s->len, hash, s);
  if (failed) return false;
  s->table = t;
  s->refs++;
  mt_list_push(&t->lru, &s->lru);
  t->bytes += s->len;
  return true;
}

mt_sql *mt_sql_intern(mt_sql_table *t, const char *sql, size_t len) {
  /* the one before, often */
  mt_sql *s = t->lru.tail ? mt_container(t->lru.tail, mt_sql, lru) : NULL;
  unsigned hash;
  if (s && s->len == len && memcmp(s->text, sql, len) == 0)
    return mt_sql_ref(s);
  HASH_VALUE(sql, len, hash); /* once: a text may be long */
  HASH_FIND_BYHASHVALUE(hh, t->texts, sql, len, hash, s);
  if (s) {
    mt_list_remove(&t->lru, &s->lru);
    mt_list_push(&t->lru, &s->lru);
    return mt_sql_ref(s);
  }
  s = text_new(sql, len);
  if (!s) return NULL;
  s->id = ++t->next_id;
  if (!enter(t, s, hash)) return s;
  while (t->lru.len > t->max_texts ||
         (t->bytes > t->max_bytes && t->lru.len > 1))
    leave(t, mt_container(t->lru.head, mt_sql, lru));
  return s;
}

/* Exponentially weighted moving average. The newest eighth: a text that has
 * turned slow is known after a few runs, and one slow run makes none slow. */
#define NEWEST 0.125

void mt_sql_observe(mt_sql *s, double ms) {
  double share = s->runs == 0 ? 1 : NEWEST;
  s->cost_ms += (ms - s->cost_ms) * share;
  if (s->runs < UINT32_MAX) s->runs++;
}

mt_sql *mt_sql_ref(mt_sql *s) {
  s->refs++;
  return s;
}

void mt_sql_unref(mt_sql *s) {
  if (s && --s->refs == 0) mt_free(s);
}
