/* See sqlfile.h. */
#include "pg/sqlfile.h"

#include <string.h>

#include "base/alloc.h"
#include "pg/lexer.h"
#include "pg/quote.h"

static void blank(mt_sqlfile *f, size_t from, size_t to) {
  for (; from < to; from++)
    if (f->text[from] != '\n') f->text[from] = ' ';
}

/* Behind the end of the line that this is in. */
static size_t next_line(const mt_sqlfile *f, size_t at) {
  const char *nl = memchr(f->text + at, '\n', f->len - at);
  return nl ? (size_t)(nl - f->text) + 1 : f->len;
}

static bool ends_data(const mt_sqlfile *f, size_t at, size_t next) {
  size_t n = next - at;
  const char *s = f->text + at;
  if (n > 0 && s[n - 1] == '\n') n--;
  if (n > 0 && s[n - 1] == '\r') n--;
  return n == 2 && s[0] == '\\' && s[1] == '.';
}

/* The data below a COPY that ends with the semicolon there; returns where SQL
 * goes on, or 0 when memory is short. */
static size_t take_data(mt_sqlfile *f, size_t semicolon) {
  mt_copy_data *c;
  size_t at = next_line(f, semicolon), next = at;
  if (f->ncopies == f->capcopies) {
    size_t cap = f->capcopies ? f->capcopies * 2 : 8;
    mt_copy_data *more = mt_realloc(f->copies, cap * sizeof *more);
    if (!more) return 0;
    f->copies = more;
    f->capcopies = cap;
  }
  c = &f->copies[f->ncopies++];
  c->semicolon = semicolon;
  c->first = at;
  while (at < f->len) {
    next = next_line(f, at);
    if (ends_data(f, at, next)) break;
    at = next;
  }
  c->last = at;
  return at < f->len ? next : f->len;
}

/* What has been seen of the statement that the lexer is in. */
typedef struct seen {
  bool started, copy, from, from_stdin;
  int depth;
} seen;

static void see(seen *s, const mt_token *t) {
  bool from = s->depth == 0 && mt_token_is(t, "from");
  if (!s->started) s->copy = mt_token_is(t, "copy");
  s->started = true;
  if (mt_token_is_char(t, '(')) s->depth++;
  if (mt_token_is_char(t, ')')) s->depth--;
  if (s->copy && s->from && mt_token_is(t, "stdin")) s->from_stdin = true;
  s->from = from;
}

static bool starts(const mt_sqlfile *f, size_t at, const char *word) {
  size_t n = strlen(word);
  return f->len - at >= n && memcmp(f->text + at, word, n) == 0;
}

/* A line of psql's where a statement could begin; where SQL goes on. */
static size_t psql_line(mt_sqlfile *f, size_t at) {
  size_t next = next_line(f, at);
  if (starts(f, at, "\\restrict ") || starts(f, at, "\\unrestrict "))
    blank(f, at, next);
  else if (!f->problem) {
    f->problem = "a command of psql is not SQL";
    f->problem_at = at;
  }
  return next;
}

static bool is_sound(mt_sqlfile *f) {
  const char *nul = memchr(f->text, '\0', f->len);
  size_t at = 0, next;
  if (nul) {
    f->problem = "there is a NUL byte";
    f->problem_at = (size_t)(nul - f->text);
    return false;
  }
  if (mt_utf8_valid(f->text, f->len)) return true;
  for (; at < f->len; at = next) {
    next = next_line(f, at);
    if (!mt_utf8_valid(f->text + at, next - at)) break;
  }
  f->problem = "it is not valid UTF-8";
  f->problem_at = at;
  return false;
}

bool mt_sqlfile_blank(mt_sqlfile *f) {
  mt_lexer lx;
  seen s = {0};
  if (!is_sound(f)) return true;
  if (starts(f, 0, "\xEF\xBB\xBF")) blank(f, 0, 3);
  mt_lexer_init(&lx, f->text, f->len);
  for (;;) {
    mt_token t = mt_lexer_next(&lx);
    size_t at = t.kind == MT_TOK_END ? f->len : (size_t)(t.text - f->text);
    if (t.kind == MT_TOK_END) return true;
    if (!s.started && mt_token_is_char(&t, '\\')) {
      at = psql_line(f, at);
    } else if (mt_token_is_char(&t, ';')) {
      bool data = s.from_stdin;
      size_t first = next_line(f, at);
      memset(&s, 0, sizeof s);
      if (!data) continue;
      at = take_data(f, at);
      if (at == 0) return false;
      blank(f, first, at);
    } else {
      see(&s, &t);
      continue;
    }
    mt_lexer_init(&lx, f->text + at, f->len - at);
  }
}

void mt_sqlfile_fini(mt_sqlfile *f) { mt_free(f->copies); }
