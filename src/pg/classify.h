/*
 * What a SQL text may do to its session, found by a small scanner that knows
 * comments (nested), strings, E'', dollar quotes, quoted identifiers, blanks
 * (form feed included), parentheses and semicolons. No parser: what it does
 * not know is MT_SQL_SESSION, never refused and never plain. Pure.
 */
#ifndef MT_PG_CLASSIFY_H
#define MT_PG_CLASSIFY_H

#include <stdbool.h>
#include <stddef.h>

/* In order of severity: a text of several statements has the highest. */
typedef enum mt_sql_class {
  MT_SQL_EMPTY,   /* nothing but blanks and comments */
  MT_SQL_PLAIN,   /* may share a pipeline: SELECT, INSERT, UPDATE, DELETE,
                     MERGE, VALUES, TABLE, WITH, EXPLAIN; without INTO (as in
                     SELECT INTO), advisory locks, set_config, pg_notify is
                     fine */
  MT_SQL_DDL,     /* CREATE, ALTER, DROP of permanent objects, COMMENT, GRANT,
                     REVOKE, TRUNCATE, ANALYZE: transactional, leaves nothing
                     on the session */
  MT_SQL_BLOCK,   /* DO, CALL: needs a transaction around it, may change the
                     session */
  MT_SQL_SESSION, /* SET, LISTEN, PREPARE, temporary objects, VACUUM, CREATE
                     INDEX CONCURRENTLY, CREATE DATABASE, advisory locks, ...
                     and everything unknown */
  MT_SQL_COPY,    /* COPY FROM STDIN or TO STDOUT */
  MT_SQL_CONTROL  /* BEGIN, COMMIT, ROLLBACK, END, ABORT, START TRANSACTION,
                     SAVEPOINT, RELEASE, ROLLBACK TO, PREPARE TRANSACTION,
                     COMMIT PREPARED, ROLLBACK PREPARED */
} mt_sql_class;

typedef struct mt_sql_info {
  mt_sql_class cls;
  int statements;       /* statements that are not empty */
  bool set_transaction; /* the first one is SET TRANSACTION or SET LOCAL: must
                           not be preceded by a query in its transaction */
  bool lasting;         /* inside a transaction too it leaves something on the
                           session (SET but not SET LOCAL or SET TRANSACTION,
                           LISTEN, PREPARE, temp objects, advisory session
                           locks, unknown ...); false for CONTROL alone */
  bool unprovable;      /* what it leaves no reset is known to take away: LOAD,
                           named connections of dblink, replication slots,
                           what is not known: close the connection */
  bool comment;         /* there is one in it, as far as one can tell */
  char control[24];     /* the control keyword in capitals, for messages */
} mt_sql_info;

void mt_sql_classify(const char *sql, size_t len, mt_sql_info *out);
/* "plain", "ddl" and so on. */
const char *mt_sql_class_name(mt_sql_class cls);

#endif
