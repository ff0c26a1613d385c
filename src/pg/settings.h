/*
 * The run-time parameters of a route: which ones may be set for a tenant, and
 * the texts that set them. Built with a scope, immutable afterwards. Pure.
 */
#ifndef MT_PG_SETTINGS_H
#define MT_PG_SETTINGS_H

#include <stdbool.h>

enum { MT_SETTINGS_MAX = 16, MT_SETTING_BYTES = 4096 };

typedef struct mt_settings {
  int n;
  char **names;     /* lower case, sorted */
  char **pairs;     /* as they were given; NULL-ended */
  char **local;     /* SET LOCAL "name" = 'value', each */
  char *name_array; /* both as texts of text[] */
  char *value_array;
  double timeout_ms; /* its statement_timeout; 0: none */
} mt_settings;

/*
 * Ahead of the scope statement, in the same implicit transaction ($3: true), or
 * on a session (false). The base path holds there, so that the plan of the
 * prepared one is every tenant's. "unnest" of two arrays is syntax, which has
 * no schema.
 */
#define MT_SETTINGS_SQL                                                      \
  "select pg_catalog.count(pg_catalog.set_config(n,v,$3::pg_catalog.bool)) " \
  "from unnest($1::pg_catalog.text[],$2::pg_catalog.text[]) as s(n,v)"

/* Why a route can't set that, as "it ..." goes on; NULL: it can, as far as one
 * knows without the server. */
const char *mt_setting_problem(const char *name, const char *value);
/* `pairs`: name, value, name, value, ..., NULL; checked before, no name twice.
 * NULL (no settings) or empty, and not read_only, gives *out = NULL. False
 * when memory is short. */
bool mt_settings_new(const char *const *pairs, bool read_only,
                     mt_settings **out);
void mt_settings_free(mt_settings *s); /* NULL allowed */

#endif
