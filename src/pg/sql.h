/*
 * Interned SQL texts: each is copied and classified once, and its id is half
 * of a statement cache key. Texts are counted; the table keeps the most
 * recently used ones alive within its bounds.
 */
#ifndef MT_PG_SQL_H
#define MT_PG_SQL_H

#include <stdint.h>

#include "base/hash.h"
#include "base/list.h"
#include "pg/classify.h"

typedef struct mt_sql_table mt_sql_table;

typedef struct mt_sql {
  UT_hash_handle hh;
  mt_node lru;
  mt_sql_table *table; /* NULL once it has left the table */
  int refs;            /* the table's own included */
  uint32_t id;         /* never reused within a table */
  mt_sql_info info;
  uint32_t runs;  /* times it was answered */
  double cost_ms; /* what it takes a server: moving average over its runs */
  size_t len;
  char text[]; /* NUL-ended */
} mt_sql;

/* Keeps at most max_texts and max_bytes. NULL when memory is short. */
mt_sql_table *mt_sql_table_new(size_t max_texts, size_t max_bytes);
/* Texts still referenced live on until their last unref. */
void mt_sql_table_free(mt_sql_table *t);
/* The text, which must have no NUL; the caller owns a reference. NULL when
 * memory is short. */
mt_sql *mt_sql_intern(mt_sql_table *t, const char *sql, size_t len);
/* It was answered, and took the server about so long. */
void mt_sql_observe(mt_sql *s, double ms);
mt_sql *mt_sql_ref(mt_sql *s);
void mt_sql_unref(mt_sql *s); /* NULL allowed */

#endif
