/* One connection in a test. See client.h. */
#include "support/client.h"

#include <string.h>

static void on_open(mt_conn *conn) {
  mt_client *c = conn->data;
  c->opened++;
}

static void on_close(mt_conn *conn, const mt_error *err) {
  mt_client *c = conn->data;
  c->closed++;
  c->conn = NULL;
  c->why = err ? mt_error_ref(err) : NULL;
}

static void on_progress(mt_conn *conn) {
  mt_client *c = conn->data;
  c->progress++;
}

static bool password(mt_conn *conn, char *buf, size_t size) {
  mt_client *c = conn->data;
  size_t len = c->password ? strlen(c->password) : 0;
  if (!c->password) return false;
  assert_true(len < size);
  memcpy(buf, c->password, len + 1);
  return true;
}

static const mt_conn_callbacks callbacks = {on_open,  on_close, on_progress,
                                            password, NULL,     NULL};

void mt_client_init(mt_client *c, mt_reactor *r) {
  memset(c, 0, sizeof *c);
  c->reactor = r;
  c->options = (mt_conn_options){.application_name = "mtenant-test",
                                 .connect_timeout_ms = 10000,
                                 .cancel_timeout_ms = 5000,
                                 .cache_statements = 16};
  c->sqls = mt_sql_table_new(100, 100000);
  assert_non_null(c->sqls);
}

void mt_client_start(mt_client *c, const char *url) {
  mt_endpoint *ep = NULL;
  assert_int_equal(mt_endpoint_parse(url, &ep, NULL), MT_OK);
  c->conn = mt_conn_new(c->reactor, ep, &c->options, &callbacks, c);
  assert_non_null(c->conn);
  mt_endpoint_unref(ep);
  assert_int_equal(c->opened + c->closed, 0);
}

void mt_client_open(mt_client *c, mt_reactor *r, const char *url) {
  mt_client_init(c, r);
  mt_client_start(c, url);
  MT_RUN_UNTIL(r, c->opened || c->closed);
  if (!c->opened) fail_msg("%s", c->why->message);
  MT_RUN_UNTIL(r, c->closed || mt_conn_quiet(c->conn));
}

void mt_client_refused(mt_client *c, mt_reactor *r, const char *url) {
  mt_client_init(c, r);
  mt_client_start(c, url);
  MT_RUN_UNTIL(r, c->opened || c->closed);
  assert_int_equal(c->opened, 0);
  assert_non_null(c->why);
}

void mt_client_end(mt_client *c) {
  if (c->conn) mt_conn_close(c->conn, NULL);
  MT_RUN_UNTIL(c->reactor, c->closed);
  assert_int_equal(c->closed, 1);
  mt_error_unref(c->why);
  mt_sql_table_free(c->sqls);
}

mt_scope *mt_client_scope(uint32_t id, const char *schema) {
  static const char *const path[] = {"$tenant", "public", NULL};
  mt_scope *s = mt_scope_new(id, schema, path, NULL, true);
  assert_non_null(s);
  return s;
}

static void on_done(mt_req *req) {
  mt_answer *a = req->data;
  a->done++;
  a->order = ++a->client->answers;
}

void mt_client_submit(mt_client *c, mt_answer *a, mt_req *req) {
  assert_non_null(req);
  *a = (mt_answer){.req = req, .client = c};
  req->on_done = on_done;
  req->data = a;
  mt_conn_submit(c->conn, req);
  assert_int_equal(a->done, 0);
}

void mt_client_send_with(mt_client *c, mt_answer *a, unsigned flags,
                         mt_scope *scope, const char *sql, int n,
                         const char *const *params) {
  mt_sql *text = sql ? mt_sql_intern(c->sqls, sql, strlen(sql)) : NULL;
  mt_req *req = mt_req_new(scope ? flags | MT_REQ_SCOPE : flags, scope, text);
  size_t lens[8];
  int i;
  assert_true(req && n <= 8);
  for (i = 0; i < n; i++) lens[i] = params[i] ? strlen(params[i]) : 0;
  assert_int_equal(mt_req_set_params(req, n, params, lens), MT_OK);
  mt_sql_unref(text);
  mt_client_submit(c, a, req);
}

void mt_client_send(mt_client *c, mt_answer *a, unsigned flags, mt_scope *scope,
                    const char *sql) {
  mt_client_send_with(c, a, flags, scope, sql, 0, NULL);
}

void mt_client_run(mt_client *c, mt_answer *a, unsigned flags, mt_scope *scope,
                   const char *sql) {
  mt_client_send(c, a, flags, scope, sql);
  MT_RUN_UNTIL(c->reactor, a->done);
}

const char *mt_answer_text(const mt_answer *a) {
  mt_result *r;
  assert_int_equal(a->done, 1);
  if (a->req->err) fail_msg("%s", a->req->err->message);
  r = mt_req_result(a->req);
  return r && mt_result_rows(r) > 0 ? mt_result_value(r, 0, 0) : "";
}

void mt_answer_failed(const mt_answer *a, int code, const char *sqlstate) {
  assert_int_equal(a->done, 1);
  assert_non_null(a->req->err);
  assert_null(mt_req_result(a->req));
  assert_string_equal(mt_code_name(a->req->err->code), mt_code_name(code));
  assert_string_equal(a->req->err->sqlstate, sqlstate);
}

void mt_answer_free(mt_answer *a) {
  assert_int_equal(a->done, 1);
  mt_req_free(a->req);
  a->req = NULL;
}

void mt_client_expect(mt_client *c, mt_scope *scope, const char *sql,
                      const char *text) {
  mt_answer a;
  mt_client_run(c, &a, 0, scope, sql);
  assert_string_equal(mt_answer_text(&a), text);
  mt_answer_free(&a);
}
