/*
 * mtenant_query.h: the part of mtenant.h that runs statements, alone and in
 * transactions. The rules are those in the head of mtenant.h, which includes
 * this file.
 */
#ifndef MTENANT_QUERY_H
#define MTENANT_QUERY_H

#include "mtenant.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- queries ------------------------------------------------------------- */

typedef struct mt_result mt_result;

/*
 * Runs one plain statement (SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES) in
 * the tenant's scope. Parameters are text, NULL is SQL NULL. Returns MT_OK
 * (then `done` is called exactly once, later) or an error (then never).
 * The result is valid until `done` returns.
 */
typedef void (*mt_query_fn)(void *data, const mt_result *result,
                            const mt_error *err);
MT_API int mt_tenant_query(mt_tenant *t, const char *sql, int nparams,
                           const char *const *params, double timeout_ms,
                           mt_query_fn done, void *data, mt_error **err);
MT_API int mt_result_rows(const mt_result *r);
MT_API int mt_result_columns(const mt_result *r);
MT_API const char *mt_result_name(const mt_result *r, int column);
/* NULL for SQL NULL. */
MT_API const char *mt_result_value(const mt_result *r, int row, int column);
MT_API long long mt_result_affected(const mt_result *r);

/* The cell's length in bytes; 0 for SQL NULL. */
MT_API size_t mt_result_length(const mt_result *r, int row, int column);
/* The OID of the column's type, as in pg_type. */
MT_API unsigned mt_result_type(const mt_result *r, int column);
/* The command tag: "SELECT 2", "INSERT 0 1". */
MT_API const char *mt_result_command(const mt_result *r);

/* ---- transactions -------------------------------------------------------- */

typedef struct mt_tx mt_tx;

typedef enum mt_isolation {
  MT_ISOLATION_DEFAULT, /* the server's */
  MT_READ_COMMITTED,
  MT_REPEATABLE_READ,
  MT_SERIALIZABLE
} mt_isolation;

typedef struct mt_tx_options {
  mt_isolation isolation;
  bool read_only, deferrable;
} mt_tx_options;

/*
 * A transaction of the tenant, on a connection of its own until it ends.
 * `ready` is called once, later: with the transaction, or with NULL and an
 * error (then there is nothing to end). BEGIN and the tenant's scope go with
 * the first statement. `options` may be NULL, `*out` (may be NULL) is the
 * transaction to be: mt_tx_rollback gives it up, and then `ready` is not
 * called. Every transaction must be ended, by mt_tx_commit or mt_tx_rollback,
 * also after dispose.
 */
typedef void (*mt_tx_fn)(void *data, mt_tx *tx, const mt_error *err);
MT_API int mt_tenant_begin(mt_tenant *t, const mt_tx_options *options,
                           mt_tx_fn ready, void *data, mt_tx **out,
                           mt_error **err);
/*
 * One statement in it, as mt_tenant_query; DDL, DO, CALL, SET and the like may
 * run too. COPY, BEGIN, COMMIT, SAVEPOINT and their kind, and texts of several
 * statements, are MT_E_MISUSE. Further statements may be sent before the first
 * is answered. After one has failed the others do, and so does the commit.
 * timeout_ms 0: the manager's statement_timeout_ms.
 */
MT_API int mt_tx_query(mt_tx *tx, const char *sql, int nparams,
                       const char *const *params, double timeout_ms,
                       mt_query_fn done, void *data, mt_error **err);
/*
 * Ends it: `tx` is not to be used any more. `done` is called exactly once,
 * later. With err->ambiguous it is not known whether it was committed; with any
 * other error nothing was. err->retryable (SQLSTATE 40001, 40P01): the whole
 * transaction may be tried again, see mt_tenant_take_retry.
 */
MT_API void mt_tx_commit(mt_tx *tx, void (*done)(void *data, const mt_error *),
                         void *data);
/* Ends it without effect: `tx` is not to be used any more. What runs is
 * cancelled; callbacks of its statements are still called. NULL is allowed. */
MT_API void mt_tx_rollback(mt_tx *tx);
/* May something run again that was refused or rolled back? Takes a token from
 * the server's retry budget, so ask once per try; then wait for
 * mt_backoff_delay. */
MT_API bool mt_tenant_take_retry(mt_tenant *t);

#ifdef __cplusplus
}
#endif

#endif
