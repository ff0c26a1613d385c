/*
 * Errors: making mt_error objects and mapping SQLSTATE and errno to codes.
 * The type itself is public (mtenant.h). Objects are immutable once handed
 * out, counted, and shared between all waiters of one failure. When memory is
 * short a static out-of-memory error is returned, so making an error never
 * fails.
 */
#ifndef MT_BASE_ERR_H
#define MT_BASE_ERR_H

#include <stdarg.h>

#include "mtenant.h"

/* What was going on: decides if a SQLSTATE is worth another try. */
typedef enum mt_phase { MT_PHASE_CONNECT, MT_PHASE_STATEMENT } mt_phase;

/* New error; newlines in the message become blanks. `retryable` starts as the
 * code's own value. The caller owns one reference. */
mt_error *mt_error_new(int code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
mt_error *mt_error_vnew(int code, const char *fmt, va_list ap);
/* The shared out-of-memory error; needs no unref but allows it. */
mt_error *mt_error_oom(void);
/* A fresh, changeable copy of err with its own code, message and marks. */
mt_error *mt_error_dup(const mt_error *err);

/* Setters for a fresh error (refs == 1); they copy, and lose the text quietly
 * when memory is short. NULL is ignored. No-ops on the static error. */
void mt_error_set_detail(mt_error *err, const char *text);
void mt_error_set_hint(mt_error *err, const char *text);
void mt_error_set_server(mt_error *err, const char *text);
/* Shortened to 200 bytes on a UTF-8 boundary, white space folded. */
void mt_error_set_statement(mt_error *err, const char *sql);

/* Stores err in *out (which may be NULL: then unref) and returns its code. */
int mt_fail(mt_error **out, mt_error *err);

/* Code for a five-letter SQLSTATE; *retryable is set for that phase. Source:
 * PostgreSQL's appendix A; DESIGN of retry in docs/retry.md. */
int mt_code_from_sqlstate(const char *sqlstate, mt_phase phase,
                          bool *retryable);
/* Code for a socket errno while connecting. */
int mt_code_from_errno(int errnum, bool is_unix, bool *retryable);
/* MT_E_* for a name ("refused"), or 0. */
int mt_code_from_name(const char *name);

#endif
