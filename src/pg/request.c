/* Making, filling and freeing requests. See request.h. */
#include "pg/request.h"

#include <assert.h>
#include <libpq-fe.h>
#include <string.h>

#include "base/alloc.h"

mt_req *mt_req_new(unsigned flags, mt_scope *scope, mt_sql *sql) {
  mt_req *req = mt_calloc(sizeof *req);
  if (!req) return NULL;
  req->flags = flags;
  if (scope) req->scope = mt_scope_ref(scope);
  if (sql) req->sql = mt_sql_ref(sql);
  return req;
}

mt_req *mt_req_new_text(unsigned flags, mt_scope *scope, const char *text) {
  mt_req *req = mt_req_new(flags | MT_REQ_UNNAMED, scope, NULL);
  if (!req) return NULL;
  req->text = mt_strdup(text);
  if (req->text) return req;
  mt_req_free(req);
  return NULL;
}

int mt_req_set_params(mt_req *req, int n, const char *const *values,
                      const size_t *lens) {
  size_t size = (size_t)n * sizeof(char *);
  char *at;
  int i;
  if (n == 0) return MT_OK;
  for (i = 0; i < n; i++) {
    if (!values[i]) continue;
    size += lens[i] + 1;
    req->param_bytes += lens[i];
  }
  req->params = mt_malloc(size);
  if (!req->params) return MT_E_OUT_OF_MEMORY;
  req->nparams = n;
  at = (char *)(req->params + n);
  for (i = 0; i < n; i++) {
    req->params[i] = values[i] ? at : NULL;
    if (!values[i]) continue;
    memcpy(at, values[i], lens[i]);
    at[lens[i]] = '\0';
    at += lens[i] + 1;
  }
  return MT_OK;
}

int mt_req_set_comment(mt_req *req, const char *comment) {
  size_t len, more;
  char *text;
  if (!comment || !req->sql || req->sql->info.comment) return MT_OK;
  len = req->sql->len;
  more = strlen(comment);
  text = mt_malloc(len + more + 2);
  if (!text) return MT_E_OUT_OF_MEMORY;
  memcpy(text, req->sql->text, len);
  text[len] = ' ';
  memcpy(text + len + 1, comment, more + 1);
  mt_free(req->commented);
  req->commented = text;
  return MT_OK;
}

static void drop_results(mt_req *req) {
  int i;
  if (req->result) PQclear(req->result);
  req->result = NULL;
  for (i = 0; i < req->nrows; i++) PQclear(req->rows[i]);
  req->nrows = 0;
}

bool mt_req_set_begin(mt_req *req, const char *text) {
  req->begin = mt_strdup(text);
  return req->begin && mt_scope_make_local(req->scope);
}

void mt_req_free(mt_req *req) {
  if (!req) return;
  assert(!mt_node_linked(&req->node));
  drop_results(req);
  mt_free(req->rows);
  mt_error_unref(req->err);
  mt_scope_unref(req->scope);
  mt_sql_unref(req->sql);
  mt_free(req->begin);
  mt_free(req->text);
  mt_free(req->commented);
  mt_free(req->params);
  mt_free(req);
}

void mt_req_set_error(mt_req *req, mt_error *err) {
  drop_results(req);
  mt_error_unref(req->err);
  req->err = err;
}

void mt_req_reset(mt_req *req) {
  assert(!mt_node_linked(&req->node));
  mt_req_set_error(req, NULL);
  req->state = MT_REQ_NEW;
  req->step = req->nsteps = 0;
  req->copied = req->completed = 0;
  req->timed = false;
  req->not_run = req->dirty = req->rerun = req->named = req->answered = false;
  req->resent++;
}

const char *mt_req_sql(const mt_req *req) {
  return req->sql ? req->sql->text : req->text;
}

mt_result *mt_req_result(const mt_req *req) {
  return (mt_result *)(void *)req->result;
}

int mt_req_take_rows(mt_req *req, mt_result **out, int max) {
  int i, n = req->nrows < max ? req->nrows : max;
  for (i = 0; i < n; i++) out[i] = (mt_result *)(void *)req->rows[i];
  for (i = n; i < req->nrows; i++) req->rows[i - n] = req->rows[i];
  req->nrows -= n;
  return n;
}
