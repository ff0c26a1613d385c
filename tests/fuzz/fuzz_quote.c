/*
 * Names and literals. What passes as a schema's name is quoted so that
 * PostgreSQL's lexical rules read one token and the same name back.
 */
#include "base/alloc.h"
#include "fuzz/fuzz.h"
#include "pg/lexer.h"
#include "pg/quote.h"
#include "pg/scope.h"

/* Undoes the doubling of `quote`, and of backslashes, in s..end. */
static void check_undoubled(const char *s, const char *end, char quote,
                            bool backslashes, const char *text, size_t len) {
  size_t n = 0;
  for (; s < end; s++) {
    if (*s == quote || (backslashes && *s == '\\')) {
      FUZZ_CHECK(s + 1 < end && s[1] == *s);
      s++;
    }
    FUZZ_CHECK(n < len && text[n] == *s);
    n++;
  }
  FUZZ_CHECK(n == len);
}

static mt_token only_token(const char *sql) {
  mt_lexer lx;
  mt_token t;
  mt_lexer_init(&lx, sql, strlen(sql));
  t = mt_lexer_next(&lx);
  FUZZ_CHECK(mt_lexer_next(&lx).kind == MT_TOK_END && !lx.broken);
  return t;
}

static void check_ident(const char *s, size_t len) {
  char *q = mt_quote_ident(s, len);
  size_t n;
  FUZZ_CHECK(q);
  n = strlen(q);
  FUZZ_CHECK(n >= 2 && q[0] == '"' && q[n - 1] == '"');
  check_undoubled(q + 1, q + n - 1, '"', false, s, len);
  FUZZ_CHECK(only_token(q).kind == MT_TOK_QUOTED);
  mt_free(q);
}

static void check_literal(const char *s, size_t len) {
  char *q = mt_quote_literal(s, len);
  size_t n, start;
  FUZZ_CHECK(q);
  n = strlen(q);
  start = q[0] == 'E';
  FUZZ_CHECK(n >= start + 2 && q[start] == '\'' && q[n - 1] == '\'');
  FUZZ_CHECK(start || !memchr(s, '\\', len));
  check_undoubled(q + start + 1, q + n - 1, '\'', start, s, len);
  FUZZ_CHECK(only_token(q).kind == MT_TOK_LITERAL);
  mt_free(q);
}

/* The texts that set a tenant's path hold its name only in quotes. */
static void check_scope(const char *schema) {
  static const char *const path[] = {"$tenant", "public", NULL};
  mt_scope *s = mt_scope_new(1, schema, path, schema, true);
  char *q = mt_quote_ident(schema, strlen(schema));
  FUZZ_CHECK(s && q && strcmp(s->schema, schema) == 0);
  FUZZ_CHECK(strncmp(s->path, q, strlen(q)) == 0);
  FUZZ_CHECK(mt_scope_make_local(s));
  FUZZ_CHECK(strstr(s->local_path, q) && strstr(s->local_role, q));
  mt_free(q);
  mt_scope_unref(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  size_t len;
  char *s = fuzz_rest(&in, &len);
  bool valid = mt_utf8_valid(s, len);

  FUZZ_CHECK(!valid || !memchr(s, '\0', len));
  if (valid && len > 0) check_ident(s, len);
  if (valid) check_literal(s, len);
  if (!mt_schema_name_problem(s, len)) {
    FUZZ_CHECK(valid && len >= 1 && len <= 63);
    FUZZ_CHECK(strncmp(s, "pg_", 3) != 0);
    check_scope(s);
  }
  free(s);
  return 0;
}
