/*
 * The public one-statement query of the C API: a request whose answer goes to
 * a plain callback. See mtenant.h.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "pg/result.h"
#include "tenant/tenant_priv.h"

typedef struct query {
  mt_tenant *tenant; /* the live entry */
  mt_query_fn done;
  void *data;
} query;

/* 57014 says "cancelled" even where the server kept the statement's time. */
static void explain(mt_req *req) {
  mt_error *e;
  if (!req->err || req->err->code != MT_E_CANCELLED || req->timeout_ms <= 0 ||
      req->cancelled)
    return;
  e = mt_error_dup(req->err);
  if (e->refs) e->code = MT_E_TIMEOUT;
  mt_req_set_error(req, e);
}

static void on_finish(mt_req *req) {
  query *q = req->data;
  explain(req);
  mt_tenant_note_end(q->tenant, req, req->err);
  mt_tenant_unref(q->tenant);
  q->done(q->data, req->err ? NULL : mt_req_result(req), req->err);
  mt_free(q);
  mt_req_free(req);
}

int mt__req_params(mt_req *req, int n, const char *const *params) {
  size_t *lens;
  int i, rc;
  if (n == 0) return MT_OK;
  lens = mt_calloc((size_t)n * sizeof *lens);
  if (!lens) return MT_E_OUT_OF_MEMORY;
  for (i = 0; i < n; i++) lens[i] = params[i] ? strlen(params[i]) : 0;
  rc = mt_req_set_params(req, n, params, lens);
  mt_free(lens);
  return rc;
}

static mt_req *make(mt_manager *m, const char *sql, mt_error **err) {
  mt_sql *text = mt_manager_sql(m, sql, strlen(sql));
  mt_req *req;
  if (text && text->info.cls > MT_SQL_PLAIN) {
    mt_sql_unref(text);
    mt_fail(err, mt_error_new(MT_E_MISUSE,
                              "only SELECT, INSERT, UPDATE, DELETE, MERGE and "
                              "VALUES run through mt_tenant_query"));
    return NULL;
  }
  req = text ? mt_req_new(MT_REQ_SCOPE, NULL, text) : NULL;
  mt_sql_unref(text);
  if (!req) mt_fail(err, mt_error_oom());
  return req;
}

int mt_tenant_query(mt_tenant *t, const char *sql, int nparams,
                    const char *const *params, double timeout_ms,
                    mt_query_fn done, void *data, mt_error **err) {
  mt_error *why = NULL;
  mt_req *req = NULL;
  query *q = NULL;
  int rc;
  t = mt_tenant_live(t, &why);
  if (!t) return mt_fail(err, why);
  req = make(t->manager, sql, &why);
  if (req) q = mt_malloc(sizeof *q);
  if (!q || mt__req_params(req, nparams, params) != MT_OK) {
    if (!why) why = mt_error_oom();
    rc = mt_fail(err, why);
    goto fail;
  }
  *q = (query){mt_tenant_ref(t), done, data};
  req->timeout_ms =
      timeout_ms > 0 ? timeout_ms : t->manager->cfg.statement_timeout_ms;
  req->on_finish = on_finish;
  req->data = q;
  rc = mt_tenant_submit(t, req, err);
  if (rc == MT_OK) return MT_OK;
  mt_tenant_note_refused(t, req, rc);
  mt_tenant_unref(t);
fail:
  mt_free(q);
  mt_req_free(req);
  return rc;
}
