/*
 * Errors: the counted mt_error, and what SQLSTATEs and errno values mean.
 * When memory is short, all that is left is one static error.
 */
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { STATEMENT_MAX = 200 };

/* Writable, because who makes an error may set marks on it; one per thread,
 * and reset whenever it is handed out. */
static _Thread_local mt_error oom = {.code = MT_E_OUT_OF_MEMORY,
                                     .message = "out of memory"};

static const struct {
  const char *name;
  bool retryable;
} codes[MT__ORD_COUNT] = {{"ok", false},
#define ROW(suffix, text, retry) {text, retry},
                          MT_CODE_MAP(ROW)
#undef ROW
};

static int ordinal(int code) {
  return code <= 0 && code > -MT__ORD_COUNT ? -code : -1;
}

const char *mt_code_name(int code) {
  int i = ordinal(code);
  return i < 0 ? "unknown" : codes[i].name;
}

int mt_code_from_name(const char *name) {
  int i;
  for (i = 1; i < MT__ORD_COUNT; i++) {
    if (strcmp(codes[i].name, name) == 0) return -i;
  }
  return 0;
}

mt_error *mt_error_oom(void) {
  oom.position = oom.statement_number = 0;
  oom.retryable = oom.ambiguous = false;
  oom.sqlstate[0] = oom.severity[0] = '\0';
  return &oom;
}

static void one_line(char *s) {
  size_t len;
  char *p;
  for (p = s; *p; p++) {
    if (*p == '\n' || *p == '\r') *p = ' ';
  }
  for (len = (size_t)(p - s); len > 0 && s[len - 1] == ' '; len--)
    s[len - 1] = '\0';
}

mt_error *mt_error_vnew(int code, const char *fmt, va_list ap) {
  va_list again;
  mt_error *e;
  int len;

  assert(ordinal(code) > 0);
  va_copy(again, ap);
  len = vsnprintf(NULL, 0, fmt, again);
  va_end(again);
  if (len < 0) return mt_error_oom();
  e = mt_calloc(sizeof *e + (size_t)len + 1);
  if (!e) return mt_error_oom();
  e->code = code;
  e->refs = 1;
  e->retryable = codes[ordinal(code)].retryable;
  vsnprintf(e->message, (size_t)len + 1, fmt, ap);
  one_line(e->message);
  return e;
}

mt_error *mt_error_new(int code, const char *fmt, ...) {
  mt_error *e;
  va_list ap;
  va_start(ap, fmt);
  e = mt_error_vnew(code, fmt, ap);
  va_end(ap);
  return e;
}

mt_error *mt_error_dup(const mt_error *err) {
  mt_error *e = mt_error_new(err->code, "%s", err->message);
  if (e->refs == 0) return e;
  e->position = err->position;
  e->statement_number = err->statement_number;
  e->retryable = err->retryable;
  e->ambiguous = err->ambiguous;
  memcpy(e->sqlstate, err->sqlstate, sizeof e->sqlstate);
  memcpy(e->severity, err->severity, sizeof e->severity);
  e->detail = mt_strdup(err->detail);
  e->hint = mt_strdup(err->hint);
  e->statement = mt_strdup(err->statement);
  e->server = mt_strdup(err->server);
  return e;
}

/* Counting is the one change that an immutable error allows, hence the casts
 * from const. */
mt_error *mt_error_ref(const mt_error *err) {
  mt_error *e = (mt_error *)err;
  if (e->refs > 0) e->refs++;
  return e;
}

void mt_error_unref(const mt_error *err) {
  mt_error *e = (mt_error *)err;
  if (!e || e->refs == 0 || --e->refs > 0) return;
  mt_free(e->detail);
  mt_free(e->hint);
  mt_free(e->statement);
  mt_free(e->server);
  mt_free(e);
}

static void set_text(const mt_error *err, char **field, const char *text) {
  char *copy;
  if (!text || err->refs == 0) return;
  assert(err->refs == 1);
  copy = mt_strdup(text);
  if (!copy) return;
  mt_free(*field);
  *field = copy;
}

void mt_error_set_detail(mt_error *err, const char *text) {
  set_text(err, &err->detail, text);
}

void mt_error_set_hint(mt_error *err, const char *text) {
  set_text(err, &err->hint, text);
}

void mt_error_set_server(mt_error *err, const char *text) {
  set_text(err, &err->server, text);
}

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

void mt_error_set_statement(mt_error *err, const char *sql) {
  char text[STATEMENT_MAX + 1];
  size_t n = 0;

  if (!sql) return;
  while (is_blank(*sql)) sql++;
  for (; *sql && n < STATEMENT_MAX; sql++) {
    if (!is_blank(*sql))
      text[n++] = *sql;
    else if (sql[1] && !is_blank(sql[1]))
      text[n++] = ' ';
  }
  /* cut in the middle of a character: drop its first bytes */
  if (((unsigned char)*sql & 0xC0) == 0x80) {
    while (n > 0 && ((unsigned char)text[n - 1] & 0xC0) == 0x80) n--;
    if (n > 0) n--;
  }
  text[n] = '\0';
  set_text(err, &err->statement, text);
}

int mt_fail(mt_error **out, mt_error *err) {
  int code = err->code;
  if (out)
    *out = err;
  else
    mt_error_unref(err);
  return code;
}

static int connect_sqlstate(const char *s, bool *retryable) {
  *retryable = true;
  if (strcmp(s, "57P03") == 0) return MT_E_STARTING_UP;
  if (strcmp(s, "53300") == 0 || strcmp(s, "53400") == 0)
    return MT_E_TOO_MANY_CONNECTIONS;
  if (strncmp(s, "08", 2) == 0 || strcmp(s, "57P01") == 0 ||
      strcmp(s, "57P02") == 0)
    return MT_E_CONNECTION_LOST;
  *retryable = false;
  if (strncmp(s, "28", 2) == 0) return MT_E_AUTH;
  if (strcmp(s, "57014") == 0) return MT_E_TIMEOUT;
  return MT_E_QUERY;
}

/* Nothing that was sent is repeated by itself, so only what the server has
 * rolled back for the sake of another transaction is worth a try. */
static int statement_sqlstate(const char *s, bool *retryable) {
  *retryable = strcmp(s, "40001") == 0 || strcmp(s, "40P01") == 0;
  if (strcmp(s, "57014") == 0) return MT_E_CANCELLED;
  if (strncmp(s, "08", 2) == 0 || strcmp(s, "57P01") == 0 ||
      strcmp(s, "57P02") == 0)
    return MT_E_CONNECTION_LOST;
  return MT_E_QUERY;
}

int mt_code_from_sqlstate(const char *sqlstate, mt_phase phase,
                          bool *retryable) {
  return phase == MT_PHASE_CONNECT ? connect_sqlstate(sqlstate, retryable)
                                   : statement_sqlstate(sqlstate, retryable);
}

int mt_code_from_errno(int errnum, bool is_unix, bool *retryable) {
  *retryable = true;
  switch (errnum) {
    case ECONNREFUSED:
      return MT_E_REFUSED;
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
      return MT_E_UNREACHABLE;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
      return MT_E_CONNECTION_LOST;
    default:
      break;
  }
  /* no socket file yet; its backlog is full */
  if (is_unix && (errnum == ENOENT || errnum == EAGAIN)) return MT_E_REFUSED;
  *retryable = false;
  return MT_E_UNREACHABLE;
}
