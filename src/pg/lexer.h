/*
 * PostgreSQL's lexical rules, as far as the classifier needs them: where
 * comments, strings and quoted names begin and end. For UTF-8 text and
 * standard_conforming_strings = on. Pure; tokens point into the text.
 */
#ifndef MT_PG_LEXER_H
#define MT_PG_LEXER_H

#include <stdbool.h>
#include <stddef.h>

typedef enum mt_tok {
  MT_TOK_END,
  MT_TOK_WORD,    /* unquoted name or keyword */
  MT_TOK_QUOTED,  /* "name": the text is what is between the quotes */
  MT_TOK_UNICODE, /* U&"name" */
  MT_TOK_LITERAL, /* string of any kind, number, $1 */
  MT_TOK_CHAR     /* one other character */
} mt_tok;

typedef struct mt_token {
  mt_tok kind;
  const char *text;
  size_t len;
} mt_token;

typedef struct mt_lexer {
  const char *p, *end;
  bool broken;  /* something is not terminated, or there is a NUL */
  bool comment; /* there was a comment */
} mt_lexer;

void mt_lexer_init(mt_lexer *lx, const char *sql, size_t len);
/* Comments and blanks are skipped; MT_TOK_END for ever at the end. */
mt_token mt_lexer_next(mt_lexer *lx);
bool mt__token_same(const mt_token *t, const char *word);
/* A name or keyword in any case; `word` is in lower case. Inline, as each token
 * is asked for many words: most differ in their first letter. */
static inline bool mt_token_is(const mt_token *t, const char *word) {
  return t->kind == MT_TOK_WORD &&
         (*t->text == *word || (*t->text | 0x20) == *word) &&
         mt__token_same(t, word);
}
bool mt_token_is_char(const mt_token *t, char c);

#endif
