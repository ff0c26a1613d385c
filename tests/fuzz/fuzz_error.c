/*
 * Errors made of foreign text: libpq's words on a failed connect, SQLSTATEs,
 * statements. Messages are one line, what is cut stays valid UTF-8.
 */
#include "base/err.h"
#include "fuzz/fuzz.h"
#include "pg/conn_priv.h"
#include "pg/quote.h"

static void check_error(const mt_error *e) {
  size_t n;
  FUZZ_CHECK(strcmp(mt_code_name(e->code), "unknown") != 0);
  FUZZ_CHECK(mt_code_from_name(mt_code_name(e->code)) == e->code);
  FUZZ_CHECK(!strpbrk(e->message, "\r\n"));
  n = strlen(e->sqlstate);
  FUZZ_CHECK(n == 0 || n == 5);
}

static void check_connect(const char *text, bool retryable) {
  mt_error *e = mt__connect_error(MT_E_PROTOCOL, retryable, text), *copy;
  check_error(e);
  FUZZ_CHECK(e->sqlstate[0] || e->code == MT_E_PROTOCOL);
  FUZZ_CHECK(e->sqlstate[0] || e->retryable == retryable);
  FUZZ_CHECK(strlen(e->message) <= strlen(text));
  copy = mt_error_dup(e);
  FUZZ_CHECK(strcmp(copy->message, e->message) == 0 && copy->code == e->code);
  mt_error_unref(copy);
  mt_error_unref(e);
}

static void check_texts(const char *text) {
  mt_error *e = mt_error_new(MT_E_QUERY, "%s", text);
  check_error(e);
  mt_error_set_detail(e, text);
  mt_error_set_detail(e, "again");
  mt_error_set_statement(e, text);
  FUZZ_CHECK(strlen(e->statement) <= 200);
  FUZZ_CHECK(!mt_utf8_valid(text, strlen(text)) ||
             mt_utf8_valid(e->statement, strlen(e->statement)));
  mt_error_unref(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  uint8_t flags = fuzz_byte(&in);
  size_t len;
  char *text = fuzz_rest(&in, &len);
  bool retryable = flags & 2;
  int code;

  check_connect(text, flags & 1);
  check_texts(text);
  code = mt_code_from_sqlstate(
      text, flags & 4 ? MT_PHASE_CONNECT : MT_PHASE_STATEMENT, &retryable);
  FUZZ_CHECK(strcmp(mt_code_name(code), "unknown") != 0);
  mt_code_from_name(text);
  free(text);
  return 0;
}
