/*
 * A tenant's session scope: search_path, role, schema, with the texts that
 * set it. Immutable and counted; requests and leases hold references. Built by
 * the tenant layer, read by connections.
 */
#ifndef MT_PG_SCOPE_H
#define MT_PG_SCOPE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct mt_scope {
  int refs;
  uint32_t id;      /* never reused: statement names hang on it */
  bool fence;       /* check that the schema is there and usable */
  char *schema;     /* bare name */
  char *path;       /* quoted search_path, ends in pg_temp */
  char *role;       /* bare name, or "none" for the login's own */
  char *set_local;  /* SET LOCAL search_path ... (one statement) */
  char *local_role; /* SET LOCAL ROLE ..., NONE for the login's own */
} mt_scope;

/* `path` NULL-ended list of bare names, "$tenant" stands for the schema;
 * role may be NULL. NULL when memory is short. The caller owns a reference. */
mt_scope *mt_scope_new(uint32_t id, const char *schema, const char *const *path,
                       const char *role, bool fence);
mt_scope *mt_scope_ref(mt_scope *s);
void mt_scope_unref(mt_scope *s); /* NULL allowed */

/*
 * The scope statement, prepared on every connection: sets path ($1) and role
 * ($2) for the transaction, refuses a connection that is not on its guard
 * path (42602: not run, retire it) and a schema ($3) that is missing or not
 * usable (22012), before the user's statement runs. CASE fixes the order of
 * evaluation. docs/design.md, "The scope statement". The empty guard path shows
 * as '' when a startup option has set it, as "" when ALTER ROLE has (behind a
 * pooler).
 */
#define MT_SCOPE_SQL                                                      \
  "select case when pg_catalog.set_config(case "                          \
  "pg_catalog.current_setting('search_path') when '' then 'search_path' " \
  "when '\"\"' then 'search_path' "                                       \
  "else 'mtenant.dirty!' end,$1,true) is not null and "                   \
  "pg_catalog.set_config('role',$2,true) is not null then "               \
  "1/(pg_catalog.current_schema() is not distinct from $3 or $3 is "      \
  "null)::int end"
/* The same with a statement_timeout ($4). */
#define MT_SCOPE_TIMEOUT_SQL                                              \
  "select case when pg_catalog.set_config(case "                          \
  "pg_catalog.current_setting('search_path') when '' then 'search_path' " \
  "when '\"\"' then 'search_path' "                                       \
  "else 'mtenant.dirty!' end,$1,true) is not null and "                   \
  "pg_catalog.set_config('role',$2,true) is not null and "                \
  "pg_catalog.set_config('statement_timeout',$4,true) is not null then "  \
  "1/(pg_catalog.current_schema() is not distinct from $3 or $3 is "      \
  "null)::int end"
/* For a session lease: stays until the connection is closed. */
#define MT_SCOPE_SESSION_SQL                                              \
  "select case when pg_catalog.set_config(case "                          \
  "pg_catalog.current_setting('search_path') when '' then 'search_path' " \
  "when '\"\"' then 'search_path' "                                       \
  "else 'mtenant.dirty!' end,$1,false) is not null and "                  \
  "pg_catalog.set_config('role',$2,false) is not null then "              \
  "1/(pg_catalog.current_schema() is not distinct from $3 or $3 is "      \
  "null)::int end"
/* In a transaction, where the scope was set by text. */
#define MT_FENCE_SQL                                                        \
  "select 1/(pg_catalog.current_schema() is not distinct from $1 or $1 is " \
  "null)::int"

/* At the start of a connection: 22012 unless it is on its guard path, which
 * comes from our startup option, or behind a pooler from ALTER ROLE. */
#define MT_GUARD_SQL \
  "select 1/(pg_catalog.current_setting('search_path') = '')::int"
#define MT_GUARD_POOLED_SQL                                             \
  "select 1/(pg_catalog.current_setting('search_path') in ('', '\"\"')" \
  ")::int"

#endif
