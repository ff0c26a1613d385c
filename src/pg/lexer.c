/* PostgreSQL's lexical rules (its scan.l), without values: see lexer.h. */
#include "pg/lexer.h"

#include <string.h>

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool is_newline(char c) { return c == '\n' || c == '\r'; }

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         (unsigned char)c >= 0x80;
}

static bool is_name(char c) {
  return is_name_start(c) || is_digit(c) || c == '$';
}

static char lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool at(const mt_lexer *lx, size_t i, char c) {
  return (size_t)(lx->end - lx->p) > i && lx->p[i] == c;
}

void mt_lexer_init(mt_lexer *lx, const char *sql, size_t len) {
  lx->p = sql;
  lx->end = sql + len;
  lx->comment = false;
  lx->broken = len > 0 && memchr(sql, '\0', len) != NULL;
}

bool mt__token_same(const mt_token *t, const char *word) {
  size_t i;
  for (i = 0; i < t->len; i++) {
    /* stops at the word's NUL, though the text may have one too */
    if (word[i] == '\0' || lower(t->text[i]) != word[i]) return false;
  }
  return word[i] == '\0';
}

bool mt_token_is_char(const mt_token *t, char c) {
  return t->kind == MT_TOK_CHAR && *t->text == c;
}

static void skip_line_comment(mt_lexer *lx) {
  lx->comment = true;
  while (lx->p < lx->end && !is_newline(*lx->p)) lx->p++;
}

static void skip_block_comment(mt_lexer *lx) {
  int depth = 0;
  lx->comment = true;
  while (lx->p < lx->end) {
    if (at(lx, 0, '/') && at(lx, 1, '*')) {
      depth++;
      lx->p += 2;
    } else if (at(lx, 0, '*') && at(lx, 1, '/')) {
      lx->p += 2;
      if (--depth == 0) return;
    } else {
      lx->p++;
    }
  }
  lx->broken = true;
}

static void skip_blanks(mt_lexer *lx) {
  while (lx->p < lx->end) {
    if (is_blank(*lx->p))
      lx->p++;
    else if (at(lx, 0, '-') && at(lx, 1, '-'))
      skip_line_comment(lx);
    else if (at(lx, 0, '/') && at(lx, 1, '*'))
      skip_block_comment(lx);
    else
      return;
  }
}

/* From the opening quote to behind the closing one. */
static void skip_quoted(mt_lexer *lx, bool backslashes) {
  char quote = *lx->p++;
  while (lx->p < lx->end) {
    char c = *lx->p++;
    if (c == '\\' && backslashes) {
      if (lx->p < lx->end) lx->p++;
    } else if (c == quote) {
      if (!at(lx, 0, quote)) return;
      lx->p++;
    }
  }
  lx->broken = true;
}

/* SQL's 'a' <newline> 'b' is one string: is its next part there? */
static bool continues(mt_lexer *lx) {
  mt_lexer ahead = *lx;
  bool newline = false;
  while (ahead.p < ahead.end) {
    if (is_blank(*ahead.p)) {
      newline |= is_newline(*ahead.p++);
    } else if (at(&ahead, 0, '-') && at(&ahead, 1, '-')) {
      skip_line_comment(&ahead);
    } else {
      break;
    }
  }
  if (!newline || !at(&ahead, 0, '\'')) return false;
  lx->p = ahead.p;
  lx->comment = ahead.comment;
  return true;
}

/* The parts of E'...' all know backslashes, though only the first has an E. */
static void skip_string(mt_lexer *lx, bool backslashes) {
  do {
    skip_quoted(lx, backslashes);
  } while (!lx->broken && continues(lx));
}

/* $tag$ ... $tag$; false if there is no such opening here. */
static bool skip_dollar_quoted(mt_lexer *lx) {
  const char *tag = lx->p, *p = tag + 1;
  size_t len;

  if (p < lx->end && is_name_start(*p)) {
    while (p < lx->end && *p != '$' && is_name(*p)) p++;
  }
  if (p >= lx->end || *p != '$') return false;
  len = (size_t)(++p - tag);
  for (; (size_t)(lx->end - p) >= len; p++) {
    if (memcmp(p, tag, len) == 0) {
      lx->p = p + len;
      return true;
    }
  }
  lx->p = lx->end;
  lx->broken = true;
  return true;
}

/* A name, or a string with a letter before its quote. */
static mt_tok word_or_string(mt_lexer *lx) {
  char first = lower(*lx->p);

  if (at(lx, 1, '\'') && strchr("ebxn", first)) {
    lx->p++;
    skip_string(lx, first == 'e');
    return MT_TOK_LITERAL;
  }
  if (first == 'u' && at(lx, 1, '&') && (at(lx, 2, '\'') || at(lx, 2, '"'))) {
    mt_tok kind = lx->p[2] == '"' ? MT_TOK_UNICODE : MT_TOK_LITERAL;
    lx->p += 2;
    if (kind == MT_TOK_UNICODE)
      skip_quoted(lx, false);
    else
      skip_string(lx, false);
    return kind;
  }
  while (lx->p < lx->end && is_name(*lx->p)) lx->p++;
  return MT_TOK_WORD;
}

static mt_tok scan(mt_lexer *lx) {
  char c = *lx->p;

  if (is_name_start(c)) return word_or_string(lx);
  if (c == '\'') {
    skip_string(lx, false);
    return MT_TOK_LITERAL;
  }
  if (c == '"') {
    skip_quoted(lx, false);
    return MT_TOK_QUOTED;
  }
  if (c == '$' && skip_dollar_quoted(lx)) return MT_TOK_LITERAL;
  lx->p++;
  if (!is_digit(c) && c != '$') return MT_TOK_CHAR;
  while (lx->p < lx->end && is_digit(*lx->p)) lx->p++;
  return MT_TOK_LITERAL;
}

mt_token mt_lexer_next(mt_lexer *lx) {
  mt_token t = {MT_TOK_END, NULL, 0};

  skip_blanks(lx);
  t.text = lx->p;
  if (lx->p >= lx->end) return t;
  t.kind = scan(lx);
  t.len = (size_t)(lx->p - t.text);
  if (t.kind == MT_TOK_QUOTED) {
    t.text++;
    t.len -= t.len >= 2 ? 2 : 1;
  }
  return t;
}
