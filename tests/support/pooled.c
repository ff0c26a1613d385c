/* A pool in a test. See pooled.h. */
#include "support/pooled.h"

#include <string.h>

void mt_pooled_init(mt_pooled *p, mt_reactor *r) {
  memset(p, 0, sizeof *p);
  p->r = r;
  p->opt = (mt_pool_options){.conn = {.application_name = "mtenant-test",
                                      .connect_timeout_ms = 10000,
                                      .cancel_timeout_ms = 5000,
                                      .cache_statements = 16},
                             .max = 100,
                             .max_waiting = 1000,
                             .idle_timeout_ms = 60000,
                             .acquire_timeout_ms = 15000,
                             .max_lifetime_ms = 60000,
                             .max_tenants_touched = 500};
  p->sqls = mt_sql_table_new(100, 100000);
  assert_non_null(p->sqls);
}

static void make_pool(mt_pooled *p, const char *url) {
  mt_endpoint *ep = NULL;
  assert_int_equal(mt_endpoint_parse(url, &ep, NULL), MT_OK);
  p->pool = mt_pool_new(p->r, p->server, ep, &p->opt, NULL, p);
  assert_non_null(p->pool);
  mt_endpoint_unref(ep);
}

void mt_pooled_open(mt_pooled *p, const char *url, int budget) {
  mt_endpoint *ep = NULL;
  assert_int_equal(mt_endpoint_parse(url, &ep, NULL), MT_OK);
  p->server = mt_server_new(ep->server, budget, 1);
  assert_non_null(p->server);
  p->owns_server = true;
  mt_endpoint_unref(ep);
  make_pool(p, url);
}

void mt_pooled_open_beside(mt_pooled *p, const char *url, mt_pooled *other) {
  p->server = other->server;
  make_pool(p, url);
}

static void on_closed(void *data) { ((mt_pooled *)data)->closed++; }

void mt_pooled_close(mt_pooled *p) {
  if (!p->closed) {
    mt_pool_close(p->pool, 5000, on_closed, p);
    assert_int_equal(p->closed, 0);
    MT_RUN_UNTIL(p->r, p->closed);
  }
  assert_int_equal(p->closed, 1);
  mt_pool_free(p->pool);
  p->pool = NULL;
  mt_sql_table_free(p->sqls);
  if (!p->owns_server) return;
  assert_int_equal(mt_server_open(p->server), 0);
  assert_int_equal(p->server->connecting, 0);
  mt_server_free(p->server);
}

/* ---- lodgers ------------------------------------------------------------------ */

static void on_idle(mt_share *s) { mt_container(s, mt_lodger, share)->idle++; }

void mt_lodger_init(mt_lodger *t, mt_pooled *p, uint32_t id,
                    const char *schema) {
  static const char *const path[] = {"$tenant", "public", NULL};
  memset(t, 0, sizeof *t);
  t->scope = mt_scope_new(id, schema, path, NULL, true);
  assert_non_null(t->scope);
  mt_share_init(&t->share, p->pool, mt_hash64(schema, strlen(schema), 7),
                on_idle);
}

void mt_lodger_fini(mt_lodger *t) {
  assert_int_equal(t->share.inflight, 0);
  mt_share_fini(&t->share);
  mt_scope_unref(t->scope);
}

/* ---- jobs --------------------------------------------------------------------- */

static void on_finish(mt_req *req) {
  mt_job *j = req->data;
  j->done++;
  j->order = ++j->p->finished;
  j->at = mt_reactor_now(j->p->r);
}

static mt_req *make_req(mt_job *j, mt_pooled *p, mt_scope *scope,
                        const char *sql) {
  mt_sql *text = mt_sql_intern(p->sqls, sql, strlen(sql));
  mt_req *req = mt_req_new(scope ? MT_REQ_SCOPE : 0, scope, text);
  mt_sql_unref(text);
  assert_non_null(req);
  *j = (mt_job){.p = p, .req = req};
  req->on_finish = on_finish;
  req->data = j;
  return req;
}

int mt_job_try(mt_job *j, mt_pooled *p, mt_lodger *t, const char *sql,
               mt_error **err) {
  int rc = mt_share_submit(&t->share, make_req(j, p, t->scope, sql), err);
  assert_int_equal(j->done, 0);
  if (rc != MT_OK) {
    mt_req_free(j->req);
    j->req = NULL;
  }
  return rc;
}

void mt_job_send(mt_job *j, mt_pooled *p, mt_lodger *t, const char *sql) {
  assert_int_equal(mt_job_try(j, p, t, sql, NULL), MT_OK);
}

void mt_job_run(mt_job *j, mt_pooled *p, mt_lodger *t, const char *sql) {
  mt_job_send(j, p, t, sql);
  MT_RUN_UNTIL(p->r, j->done);
}

int mt_jobs_done(const mt_job *j, int n) {
  int i, done = 0;
  for (i = 0; i < n; i++) {
    assert_in_range(j[i].done, 0, 1);
    done += j[i].done;
  }
  return done;
}

const char *mt_job_text(const mt_job *j) {
  mt_result *r;
  assert_int_equal(j->done, 1);
  if (j->req->err) fail_msg("%s", j->req->err->message);
  r = mt_req_result(j->req);
  return r && mt_result_rows(r) > 0 ? mt_result_value(r, 0, 0) : "";
}

void mt_job_failed(const mt_job *j, int code, const char *sqlstate) {
  assert_int_equal(j->done, 1);
  assert_non_null(j->req->err);
  assert_string_equal(mt_code_name(j->req->err->code), mt_code_name(code));
  assert_string_equal(j->req->err->sqlstate, sqlstate);
}

void mt_job_free(mt_job *j) {
  assert_int_equal(j->done, 1);
  mt_req_free(j->req);
  j->req = NULL;
}

void mt_lodger_expect(mt_lodger *t, mt_pooled *p, const char *sql,
                      const char *text) {
  mt_job j;
  mt_job_run(&j, p, t, sql);
  assert_string_equal(mt_job_text(&j), text);
  mt_job_free(&j);
}

void mt_jobs_free(mt_job *j, int n) {
  while (n-- > 0) mt_job_free(j++);
}

/* ---- leases ------------------------------------------------------------------- */

static void on_grant(mt_lease *l, const mt_error *err) {
  mt_held *h = l->data;
  assert_ptr_equal(h->lease, l);
  h->at = mt_reactor_now(h->p->r);
  if (err) {
    h->failed++;
    h->err = mt_error_ref(err);
    h->lease = NULL;
  } else {
    h->granted++;
  }
  if (h->then) h->then(h);
}

void mt_held_acquire(mt_held *h, mt_pooled *p, mt_lodger *t) {
  mt_lease *l = NULL;
  memset(h, 0, sizeof *h);
  h->p = p;
  assert_int_equal(mt_lease_acquire(&t->share, on_grant, h, &l, NULL), MT_OK);
  assert_int_equal(h->granted + h->failed, 0);
  h->lease = l;
}

void mt_held_get(mt_held *h, mt_pooled *p, mt_lodger *t) {
  mt_held_acquire(h, p, t);
  MT_RUN_UNTIL(p->r, h->granted || h->failed);
  if (h->failed) fail_msg("%s", h->err->message);
}

void mt_held_send(mt_held *h, mt_job *j, const char *sql) {
  mt_req *req = make_req(j, h->p, NULL, sql);
  req->flags |= MT_REQ_UNNAMED;
  assert_int_equal(mt_lease_submit(h->lease, req, NULL), MT_OK);
  assert_int_equal(j->done, 0);
}

void mt_held_run(mt_held *h, mt_job *j, const char *sql) {
  mt_held_send(h, j, sql);
  MT_RUN_UNTIL(h->p->r, j->done);
}

void mt_held_release(mt_held *h) {
  mt_lease *l = h->lease;
  h->lease = NULL;
  mt_lease_release(l);
}

mt_slot *mt_pooled_slot(mt_pooled *p, int i) {
  mt_node *n;
  for (n = p->pool->slots.head; n; n = n->next) {
    mt_slot *s = mt_container(n, mt_slot, node);
    if (s->open && i-- == 0) return s;
  }
  return NULL;
}
