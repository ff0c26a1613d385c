/*
 * What stands in a file of SQL without being SQL: the data of COPY ... FROM
 * STDIN, psql's \restrict lines, a byte order mark. Blanked out, so that a
 * parser takes the rest, with every statement where it was. Pure.
 */
#ifndef MT_PG_SQLFILE_H
#define MT_PG_SQLFILE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct mt_copy_data {
  size_t semicolon;   /* offset of the statement's end */
  size_t first, last; /* offsets of the data; last is behind it */
} mt_copy_data;

typedef struct mt_sqlfile {
  char *text; /* the file's, changed in place; the caller's, NUL-terminated */
  size_t len;
  mt_copy_data *copies; /* in order; owned */
  size_t ncopies, capcopies;
  const char *problem; /* what is wrong, or NULL */
  size_t problem_at;   /* offset */
} mt_sqlfile;

/* Fills in copies, and problem if there is one. False: no memory. */
bool mt_sqlfile_blank(mt_sqlfile *f);
void mt_sqlfile_fini(mt_sqlfile *f);

#endif
