/*
 * The lexer and the classifier of SQL texts. Tokens lie in the text and in
 * order; blanks and comments around a text change nothing; what follows a
 * text cannot hide behind it; a text is classified once, when it is interned.
 */
#include "fuzz/fuzz.h"
#include "pg/lexer.h"
#include "pg/sql.h"

static void check_tokens(const char *sql, size_t len) {
  const char *last = sql;
  size_t n = 0;
  mt_token t;
  mt_lexer lx;
  mt_lexer_init(&lx, sql, len);
  while ((t = mt_lexer_next(&lx)).kind != MT_TOK_END) {
    FUZZ_CHECK(++n <= len);
    FUZZ_CHECK(t.text >= last && t.text + t.len <= sql + len);
    last = t.text + t.len;
    FUZZ_CHECK(t.kind != MT_TOK_WORD || t.len > 0);
    FUZZ_CHECK(t.kind != MT_TOK_CHAR || t.len == 1);
  }
  FUZZ_CHECK(mt_lexer_next(&lx).kind == MT_TOK_END);
}

static mt_sql_info classify(const char *before, const char *sql, size_t len,
                            const char *after) {
  size_t b = strlen(before), a = strlen(after);
  char *text = malloc(b + len + a + 1);
  mt_sql_info info;
  FUZZ_CHECK(text);
  memcpy(text, before, b);
  memcpy(text + b, sql, len);
  memcpy(text + b + len, after, a + 1);
  mt_sql_classify(text, b + len + a, &info);
  free(text);
  return info;
}

static void check_same(const mt_sql_info *a, const mt_sql_info *b) {
  FUZZ_CHECK(a->cls == b->cls && a->statements == b->statements);
  FUZZ_CHECK(a->lasting == b->lasting && a->unprovable == b->unprovable);
  FUZZ_CHECK(a->set_transaction == b->set_transaction);
  FUZZ_CHECK(strcmp(a->control, b->control) == 0);
}

static void check_interned(const char *sql, const mt_sql_info *info) {
  mt_sql_table *t = mt_sql_table_new(2, 1000);
  mt_sql *first, *again;
  FUZZ_CHECK(t);
  first = mt_sql_intern(t, sql, strlen(sql));
  again = mt_sql_intern(t, sql, strlen(sql));
  FUZZ_CHECK(first && again && strcmp(first->text, sql) == 0);
  FUZZ_CHECK(strlen(sql) > 1000 || first == again);
  check_same(&first->info, info);
  mt_sql_table_free(t);
  mt_sql_unref(again);
  mt_sql_unref(first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  size_t len;
  char *sql = fuzz_rest(&in, &len);
  mt_sql_info info, other;

  check_tokens(sql, len);
  mt_sql_classify(sql, len, &info);
  FUZZ_CHECK(info.cls <= MT_SQL_CONTROL && info.statements >= 0);
  FUZZ_CHECK(memchr(info.control, '\0', sizeof info.control));
  FUZZ_CHECK((info.cls == MT_SQL_CONTROL) == (info.control[0] != '\0'));
  FUZZ_CHECK(info.cls != MT_SQL_PLAIN || !info.lasting);
  other = classify("", sql, len, "");
  check_same(&info, &other);
  other = classify(" \f/* /* ; */ ' */ -- \"\n", sql, len, "");
  check_same(&info, &other);
  /* nothing may hide a statement that comes after it */
  other = classify("", sql, len, "\n;set a.b = 1");
  FUZZ_CHECK(other.cls >= MT_SQL_SESSION && other.lasting);
  other = classify("set a.b = 1;", sql, len, "");
  FUZZ_CHECK(other.cls >= MT_SQL_SESSION && other.lasting);
  if (strlen(sql) == len) check_interned(sql, &info);
  free(sql);
  return 0;
}
