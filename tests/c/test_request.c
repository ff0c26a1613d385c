/* Requests: what they hold, and what is left of them after a reset. */
#include <libpq-fe.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/request.h"
#include "pg/result.h"
#include "support/test.h"

static PGresult *result(void) {
  PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
  assert_non_null(res);
  return res;
}

/* Streamed rows, as a connection would add them. */
static void give_rows(mt_req *req, int n) {
  req->rows = mt_realloc(req->rows, (size_t)n * sizeof *req->rows);
  req->caprows = n;
  for (req->nrows = 0; req->nrows < n; req->nrows++)
    req->rows[req->nrows] = result();
}

static void new_one_is_empty(void **state) {
  mt_req *req = mt_req_new(MT_REQ_SCOPE | MT_REQ_IN_TX, NULL, NULL);
  (void)state;
  assert_int_equal(req->state, MT_REQ_NEW);
  assert_int_equal(req->flags, MT_REQ_SCOPE | MT_REQ_IN_TX);
  assert_int_equal(req->nparams, 0);
  assert_null(mt_req_sql(req));
  assert_null(mt_req_result(req));
  mt_req_free(req);
  mt_req_free(NULL);
}

static void holds_scope_and_sql(void **state) {
  static const char *const path[] = {"$tenant", NULL};
  mt_scope *scope = mt_scope_new(1, "a", path, NULL, true);
  mt_sql_table *t = mt_sql_table_new(10, 100);
  mt_sql *sql = mt_sql_intern(t, "SELECT 1", 8);
  mt_req *req = mt_req_new(0, scope, sql);
  (void)state;
  mt_scope_unref(scope);
  mt_sql_unref(sql);
  mt_sql_table_free(t);
  assert_string_equal(mt_req_sql(req), "SELECT 1");
  assert_string_equal(req->scope->schema, "a");
  mt_req_free(req);
}

/* The text after `comment` was put behind it, or NULL when none was. */
static char *commented(const char *text, const char *comment) {
  mt_sql_table *t = mt_sql_table_new(10, 1000);
  mt_sql *sql = mt_sql_intern(t, text, strlen(text));
  mt_req *req = mt_req_new(0, NULL, sql);
  char *out = NULL;
  assert_int_equal(mt_req_set_comment(req, comment), MT_OK);
  assert_string_equal(mt_req_sql(req), text);
  if (req->commented) out = mt_strdup(req->commented);
  mt_req_free(req);
  mt_sql_unref(sql);
  mt_sql_table_free(t);
  return out;
}

static void comment_goes_behind_the_text(void **state) {
  static const char *const none[] = {"SELECT 1 -- x", "SELECT 1 -- x\n + 1",
                                     "/* x */ SELECT 1", "SELECT 1 /*",
                                     "SELECT 'a' -- x\n 'b'"};
  static const char *const some[] = {"SELECT 1", "SELECT '-- no comment'",
                                     "SELECT $$/* none */$$", "SELECT \"--\"",
                                     "SELECT 1;"};
  size_t i;
  (void)state;
  for (i = 0; i < sizeof none / sizeof *none; i++)
    assert_null(commented(none[i], "/*a='b'*/"));
  for (i = 0; i < sizeof some / sizeof *some; i++) {
    char *text = commented(some[i], "/*a='b'*/");
    size_t len = strlen(some[i]);
    assert_memory_equal(text, some[i], len);
    assert_string_equal(text + len, " /*a='b'*/");
    mt_free(text);
  }
  assert_null(commented("SELECT 1", NULL));
}

static void text_is_copied_and_never_prepared(void **state) {
  char text[] = "ROLLBACK";
  mt_req *req = mt_req_new_text(MT_REQ_IN_TX, NULL, text);
  (void)state;
  text[0] = 'X';
  assert_string_equal(mt_req_sql(req), "ROLLBACK");
  assert_int_equal(req->flags, MT_REQ_IN_TX | MT_REQ_UNNAMED);
  mt_req_free(req);
}

static void params_are_copied_with_nulls_and_lengths(void **state) {
  char first[] = "abc";
  const char *values[] = {first, NULL, "", "12345"};
  const size_t lens[] = {3, 0, 0, 2};
  mt_req *req = mt_req_new(0, NULL, NULL);
  (void)state;
  assert_int_equal(mt_req_set_params(req, 4, values, lens), MT_OK);
  first[0] = 'X';
  assert_int_equal(req->nparams, 4);
  assert_string_equal(req->params[0], "abc");
  assert_null(req->params[1]);
  assert_string_equal(req->params[2], "");
  assert_string_equal(req->params[3], "12");
  mt_req_free(req);
}

static void no_params_are_none(void **state) {
  mt_req *req = mt_req_new(0, NULL, NULL);
  (void)state;
  assert_int_equal(mt_req_set_params(req, 0, NULL, NULL), MT_OK);
  assert_int_equal(req->nparams, 0);
  assert_null(req->params);
  mt_req_free(req);
}

static void as_many_params_as_the_protocol_allows(void **state) {
  enum { N = 65535 };
  static const char *values[N];
  static size_t lens[N];
  mt_req *req = mt_req_new(0, NULL, NULL);
  int i;
  (void)state;
  for (i = 0; i < N; i++) {
    values[i] = i % 3 ? "xyz" : NULL;
    lens[i] = 3;
  }
  assert_int_equal(mt_req_set_params(req, N, values, lens), MT_OK);
  for (i = 0; i < N; i++) {
    if (i % 3)
      assert_string_equal(req->params[i], "xyz");
    else
      assert_null(req->params[i]);
  }
  mt_req_free(req);
}

static void error_replaces_result_and_rows(void **state) {
  mt_req *req = mt_req_new(0, NULL, NULL);
  (void)state;
  req->result = result();
  give_rows(req, 3);
  mt_req_set_error(req, mt_error_new(MT_E_QUERY, "first"));
  assert_null(req->result);
  assert_int_equal(req->nrows, 0);
  mt_req_set_error(req, mt_error_new(MT_E_QUERY, "second"));
  assert_string_equal(req->err->message, "second");
  mt_req_free(req);
}

static void reset_keeps_what_to_send(void **state) {
  const char *values[] = {"v"};
  const size_t lens[] = {1};
  mt_req *req = mt_req_new_text(MT_REQ_SCOPE, NULL, "SELECT $1");
  (void)state;
  mt_req_set_params(req, 1, values, lens);
  req->timeout_ms = 50;
  req->result = result();
  req->state = MT_REQ_DONE;
  req->nsteps = req->step = 2;
  req->not_run = req->dirty = req->named = req->rerun = req->answered = true;
  mt_req_set_error(req, mt_error_new(MT_E_QUERY, "lost"));
  mt_req_reset(req);
  assert_int_equal(req->state, MT_REQ_NEW);
  assert_null(req->err);
  assert_null(mt_req_result(req));
  assert_int_equal(req->step + req->nsteps, 0);
  assert_false(req->not_run || req->dirty || req->named || req->rerun ||
               req->answered);
  assert_int_equal(req->resent, 1);
  assert_string_equal(mt_req_sql(req), "SELECT $1");
  assert_string_equal(req->params[0], "v");
  assert_true(req->timeout_ms == 50);
  assert_int_equal(req->flags, MT_REQ_SCOPE | MT_REQ_UNNAMED);
  mt_req_reset(req);
  assert_int_equal(req->resent, 2);
  mt_req_free(req);
}

static void rows_are_taken_in_order(void **state) {
  mt_result *out[8];
  PGresult *all[5];
  mt_req *req = mt_req_new(MT_REQ_STREAM, NULL, NULL);
  int i;
  (void)state;
  give_rows(req, 5);
  memcpy(all, req->rows, sizeof all);
  assert_int_equal(mt_req_take_rows(req, out, 2), 2);
  assert_int_equal(req->nrows, 3);
  assert_int_equal(mt_req_take_rows(req, out + 2, 6), 3);
  assert_int_equal(mt_req_take_rows(req, out, 0), 0);
  assert_int_equal(req->nrows, 0);
  for (i = 0; i < 5; i++) {
    assert_ptr_equal(out[i], all[i]);
    mt_result_clear(out[i]);
  }
  mt_req_free(req);
}

static void free_clears_what_nobody_took(void **state) {
  mt_req *req = mt_req_new(MT_REQ_STREAM, NULL, NULL);
  (void)state;
  give_rows(req, 4);
  req->result = result();
  mt_req_free(req); /* the leak checker has the last word */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(new_one_is_empty),
      cmocka_unit_test(holds_scope_and_sql),
      cmocka_unit_test(comment_goes_behind_the_text),
      cmocka_unit_test(text_is_copied_and_never_prepared),
      cmocka_unit_test(params_are_copied_with_nulls_and_lengths),
      cmocka_unit_test(no_params_are_none),
      cmocka_unit_test(as_many_params_as_the_protocol_allows),
      cmocka_unit_test(error_replaces_result_and_rows),
      cmocka_unit_test(reset_keeps_what_to_send),
      cmocka_unit_test(rows_are_taken_in_order),
      cmocka_unit_test(free_clears_what_nobody_took),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
