/* Quoting and checking of names and literals, without a connection. Pure. */
#ifndef MT_PG_QUOTE_H
#define MT_PG_QUOTE_H

#include <stdbool.h>
#include <stddef.h>

/* Valid UTF-8 without NUL? (rejects overlong forms, surrogates, > U+10FFFF) */
bool mt_utf8_valid(const char *s, size_t len);

/* "name" with quotes doubled / 'text' with quotes doubled (E'' with doubled
 * backslashes if there is one). New string, mt_free; NULL when memory is
 * short. The text must have passed mt_utf8_valid. */
char *mt_quote_ident(const char *s, size_t len);
char *mt_quote_literal(const char *s, size_t len);
/* The text in `quote`, a backslash before each of these and each backslash: an
 * element of an array, a value of a connection string. mt_free, NULL as
 * above. */
char *mt_quote_escaped(const char *s, char quote);

/* Why `s` is no name of anything, or NULL if it may be one: 1 to 63 bytes,
 * valid UTF-8, no NUL. */
const char *mt_name_problem(const char *s, size_t len);

/* Why `s` can't be a tenant's database, or NULL if it can: a name, and not
 * postgres, template0 or template1. */
const char *mt_database_name_problem(const char *s, size_t len);

/* Why `s` can't be a tenant's schema, or NULL if it can: 1 to 63 bytes, valid
 * UTF-8, no NUL, not pg_*, not information_schema. */
const char *mt_schema_name_problem(const char *s, size_t len);

#endif
