/*
 * A tenant's session scope: search_path, role, schema, with the texts that
 * set it. Counted; requests and leases hold references. Built by the tenant
 * layer and read by connections, which note what they find out of the schema;
 * nothing else in it ever changes.
 */
#ifndef MT_PG_SCOPE_H
#define MT_PG_SCOPE_H

#include <stdbool.h>
#include <stdint.h>

#include "pg/settings.h"

typedef struct mt_scope {
  int refs;
  uint32_t id;      /* never reused: statement names hang on it */
  bool fence;       /* check that the schema is there and usable */
  bool any_oid;     /* whichever schema has the name will do */
  bool stale;       /* the schema has gone, or another has its name */
  uint32_t oid;     /* the schema's, once the first check has found it */
  char *schema;     /* bare name */
  char *path;       /* quoted search_path, ends in pg_temp */
  char *role;       /* bare name, or "none" for the login's own */
  char *set_local;  /* SET LOCAL search_path ... (one statement) */
  char *local_role; /* SET LOCAL ROLE ..., NONE for the login's own */
  /* Strategy row: a setting that row security policies read. NULL: none. */
  char *setting, *setting_value;
  char *local_setting;   /* SET LOCAL ... */
  mt_settings *settings; /* of the route; NULL: none, nothing is sent */
  bool read_only; /* a reader's: settings say so, too. It never makes a scope
                     stale: a standby may lag behind */
} mt_scope;

/* `path` NULL-ended list of bare names, "$tenant" stands for the schema;
 * role may be NULL. NULL when memory is short. The caller owns a reference. */
mt_scope *mt_scope_new(uint32_t id, const char *schema, const char *const *path,
                       const char *role, bool fence);
/* Adds the setting, before anybody uses the scope; the name must be one of
 * lower-case letters, digits, "_" and ".". False when memory is short. */
bool mt_scope_set_setting(mt_scope *s, const char *name, const char *value);
/* Adds the route's settings (see mt_settings_new), before anybody uses it. */
bool mt_scope_set_settings(mt_scope *s, const char *const *pairs,
                           bool read_only);
/* A scope that is the same but for its id, and only reads. */
mt_scope *mt_scope_reader(uint32_t id, const mt_scope *of);
mt_scope *mt_scope_ref(mt_scope *s);
void mt_scope_unref(mt_scope *s); /* NULL allowed */

/*
 * The scope statement, prepared on every connection: sets path ($1) and role
 * ($2) for the transaction, refuses a connection that is not on its guard
 * path (42602: not run, retire it) and a schema ($3) that is missing, not
 * usable, or not the one with the OID $4 (22012, 3F000), before the user's
 * statement runs. No OID, no check. CASE fixes the order of evaluation.
 * docs/design.md, "The scope statement". The empty guard path shows as '' when
 * a startup option has set it, as "" when ALTER ROLE has (behind a pooler).
 */
#define MT_SCOPE_SQL    \
  MT__SCOPE_SET("true") \
  "then " MT__FENCE("$3", "$4") " end"
/* The same with a statement_timeout ($5). */
#define MT_SCOPE_TIMEOUT_SQL \
  MT__SCOPE_SET("true")      \
  MT__TIMEOUT("$5") "then " MT__FENCE("$3", "$4") " end"
/* For a session lease: stays until the connection is closed. */
#define MT_SCOPE_SESSION_SQL \
  MT__SCOPE_SET("false")     \
  "then " MT__FENCE("$3", "$4") " end"
/* In a transaction, where the scope was set by text. */
#define MT_FENCE_SQL "select " MT__FENCE("$1", "$2")

/* Later in a transaction or session, whose path may be the user's by now: the
 * schema has its name ($1) still, and under that OID ($2). */
#define MT_SAME_SQL \
  "select 1/coalesce((" MT__LOCKED("$1") ").objid=$2::pg_catalog.oid,true)" \
  "::int"

/* The same while the OID is not known, or any will do: it is the answer. A
 * statement_timeout is $4. */
#define MT_LOOK_SQL     \
  MT__SCOPE_SET("true") \
  "then " MT__LOOK("$3") " end"
#define MT_LOOK_TIMEOUT_SQL \
  MT__SCOPE_SET("true")     \
  MT__TIMEOUT("$4") "then " MT__LOOK("$3") " end"
#define MT_LOOK_SESSION_SQL \
  MT__SCOPE_SET("false")    \
  "then " MT__LOOK("$3") " end"
#define MT_LOOK_FENCE_SQL "select " MT__LOOK("$1")

/*
 * The same for a scope with a setting ($4 its value, $5 its name), and with a
 * statement_timeout as $6. A role that row security does not hold, a superuser
 * or one with BYPASSRLS, is refused (22P02) before the user's statement runs.
 */
#define MT_ROW_SQL      \
  MT__SCOPE_SET("true") \
  MT__ROW_SET("true") "then " MT__ROW_LOOK("$3") " end"
#define MT_ROW_TIMEOUT_SQL \
  MT__SCOPE_SET("true")    \
  MT__ROW_SET("true") MT__TIMEOUT("$6") "then " MT__ROW_LOOK("$3") " end"
#define MT_ROW_SESSION_SQL \
  MT__SCOPE_SET("false")   \
  MT__ROW_SET("false") "then " MT__ROW_LOOK("$3") " end"
#define MT_ROW_FENCE_SQL "select " MT__ROW_LOOK("$1")

#define MT__SCOPE_SET(local)                                              \
  "select case when pg_catalog.set_config(case "                          \
  "pg_catalog.current_setting('search_path') when '' then 'search_path' " \
  "when '\"\"' then 'search_path' "                                       \
  "else 'mtenant.dirty!' end,$1," local                                   \
  ") is not null and "                                                    \
  "pg_catalog.set_config('role',$2," local ") is not null "
#define MT__TIMEOUT(ms) \
  "and pg_catalog.set_config('statement_timeout'," ms ",true) is not null "
#define MT__ROW_SET(local) \
  "and pg_catalog.set_config($5,$4," local ") is not null "
/* current_user is the role that the statement before has set. */
#define MT__ROW_LOOK(schema)                                                 \
  "case when (select case when rolsuper or rolbypassrls then "               \
  "'row security does not hold role ' || rolname else '1' end from "         \
  "pg_catalog.pg_roles where rolname = current_user)::int=1 then " MT__LOOK( \
      schema) " end"

/* The schema is locked before the look, against a DROP SCHEMA that commits
 * after it and before the user's statement, which would then be in `public`;
 * pg_get_object_address is the function that takes that lock (ACCESS SHARE,
 * to the end of the transaction). It fails when there is no such schema, the
 * look when the role may not use it. */
#define MT__FENCE(schema, oid)                                 \
  "case when " oid                                             \
  "::pg_catalog.oid is null then 1 else 1/(case (" MT__LOCKED( \
      schema) ").objid when " oid                              \
              " then " MT__IS_CURRENT(schema) " else false end)::int end"
/* DISTINCT FROM NULL asks for the row as a whole, which costs less than to
 * look into it. */
#define MT__LOOK(schema) \
  "case when " schema "::pg_catalog.name is null then 1 when " MT__LOCKED(    \
      schema) " is distinct from null then "                                  \
              "pg_catalog.to_regnamespace(pg_catalog.quote_ident(" schema     \
              "))::pg_catalog.oid::pg_catalog.int8/(" MT__IS_CURRENT(schema) \
  ")::int end"
#define MT__LOCKED(schema)                                  \
  "pg_catalog.pg_get_object_address('schema',array[" schema \
  "::pg_catalog.text],'{}')"
#define MT__IS_CURRENT(schema)                               \
  "pg_catalog.current_schema() is not distinct from " schema \
  "::pg_catalog."                                            \
  "name"

/* At the start of a connection: 22012 unless it is on its guard path, which
 * comes from our startup option, or behind a pooler from ALTER ROLE. */
#define MT_GUARD_SQL \
  "select 1/(pg_catalog.current_setting('search_path') = '')::int"
#define MT_GUARD_POOLED_SQL                                             \
  "select 1/(pg_catalog.current_setting('search_path') in ('', '\"\"')" \
  ")::int"

#endif
