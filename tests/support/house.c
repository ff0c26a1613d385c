/* A manager in a test. See house.h. */
#include "support/house.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"

/* ---- what the manager asks and tells -------------------------------------------- */

static void answer(mt_house *h, const char *id, uint64_t token) {
  char schema[80];
  mt_route route = {.schema = schema};
  snprintf(schema, sizeof schema, "t_%s", id);
  if (h->refusal) {
    mt_manager_resolved(h->m, token, NULL, h->refusal);
    return;
  }
  if (h->route) h->route(h, id, &route);
  mt_manager_resolved(h->m, token, route.schema ? &route : NULL, NULL);
}

static void resolve(mt_manager *m, const char *id, uint64_t token, void *data) {
  mt_house *h = data;
  assert_true(!h->m || h->m == m);
  h->asked++;
  if (!h->later) {
    answer(h, id, token);
    return;
  }
  assert_true(h->ntokens < MT_HOUSE_TOKENS);
  h->tokens[h->ntokens] = token;
  snprintf(h->ids[h->ntokens++], sizeof h->ids[0], "%s", id);
}

void mt_house_answer(mt_house *h, int i) {
  uint64_t token = h->tokens[i];
  assert_true(token);
  h->tokens[i] = 0;
  answer(h, h->ids[i], token);
}

static void on_retry(mt_manager *m, const char *id, int attempt,
                     const mt_error *err, double elapsed_ms, double *delay_ms,
                     void *data) {
  mt_house *h = data;
  assert_ptr_equal(m, h->m);
  assert_non_null(id);
  h->retries++;
  h->retry_attempt = attempt;
  h->retry_code = err->code;
  h->retry_delay = *delay_ms;
  h->retry_elapsed = elapsed_ms;
  if (h->steer != 0) *delay_ms = h->steer;
}

static void on_event(mt_manager *m, const mt_event *ev, void *data) {
  mt_house *h = data;
  size_t len = strlen(h->events);
  assert_ptr_equal(m, h->m);
  snprintf(h->events + len, sizeof h->events - len, "%s %s%s%s;", ev->kind,
           ev->tenant_id ? ev->tenant_id : "-", ev->reason ? " " : "",
           ev->reason ? ev->reason : "");
  if (h->on_event) h->on_event(h, ev);
}

/* ---- life ------------------------------------------------------------------------ */

void mt_house_init(mt_house *h, mt_reactor *r, const char *url) {
  memset(h, 0, sizeof *h);
  h->r = r;
  mt_manager_config_init(&h->config);
  h->config.url = url;
  h->config.application_name = "mtenant-test";
  h->config.max_connections = 8;
  h->config.seed = 1;
  h->config.retry.initial_delay_ms = 10;
  h->config.retry.jitter = MT_JITTER_NONE;
  h->cbs = (mt_manager_callbacks){
      .resolve = resolve, .on_retry = on_retry, .on_event = on_event};
}

void mt_house_open(mt_house *h) {
  mt_error *err = NULL;
  if (mt_manager_new(h->r, &h->config, &h->cbs, h, &h->m, &err) != MT_OK)
    fail_msg("%s", err->message);
}

void mt_house_start(mt_house *h, mt_reactor *r, const char *url) {
  mt_house_init(h, r, url);
  mt_house_open(h);
}

static void on_disposed(void *data) { ((mt_house *)data)->disposed++; }

void mt_house_dispose(mt_house *h) {
  int before = h->disposed;
  mt_manager_dispose(h->m, 0, on_disposed, h);
  assert_int_equal(h->disposed, before);
  MT_RUN_UNTIL(h->r, h->disposed > before);
}

void mt_house_end(mt_house *h) {
  mt_pool_stats stats;
  int open;
  if (!h->disposed) mt_house_dispose(h);
  mt_manager_stats(h->m, &stats, &open);
  assert_int_equal(open, 0);
  assert_int_equal(mt_manager_count(h->m), 0);
  mt_manager_free(h->m);
  mt_test_run_for(h->r, 1); /* the last entries go at the end of a turn */
  mt_error_unref(h->refusal);
  mt_test_reactor_end(h->r);
}

mt_tenant *mt_house_tenant(mt_house *h, const char *id) {
  mt_tenant *t = NULL;
  mt_error *err = NULL;
  if (mt_manager_tenant(h->m, id, &t, &err) != MT_OK)
    fail_msg("%s", err->message);
  return t;
}

/* ---- callers --------------------------------------------------------------------- */

static void on_connected(void *data, const mt_error *err, int attempts,
                         double total_ms) {
  mt_caller *c = data;
  c->done++;
  c->order = ++c->h->finished;
  c->code = err ? err->code : MT_OK;
  c->retryable = err && err->retryable;
  c->attempts = attempts;
  c->total_ms = total_ms;
  if (err) snprintf(c->message, sizeof c->message, "%s", err->message);
  if (c->then) c->then(c);
}

void mt_caller_start(mt_caller *c, mt_house *h, mt_tenant *t) {
  mt_error *err = NULL;
  memset(c, 0, sizeof *c);
  c->h = h;
  if (mt_tenant_connect(t, on_connected, c, &c->flight, &err) != MT_OK)
    fail_msg("%s", err->message);
  assert_int_equal(c->done, 0);
}

int mt_caller_run(mt_caller *c, mt_house *h, mt_tenant *t) {
  mt_caller_start(c, h, t);
  MT_RUN_UNTIL(h->r, c->done);
  assert_int_equal(c->done, 1);
  return c->code;
}

static void on_answer(void *data, const mt_result *res, const mt_error *err) {
  mt_asked *a = data;
  a->done++;
  a->order = ++a->h->finished;
  a->code = err ? err->code : MT_OK;
  if (err) {
    assert_null(res);
    a->ambiguous = err->ambiguous;
    a->retryable = err->retryable;
    memcpy(a->sqlstate, err->sqlstate, sizeof a->sqlstate);
    snprintf(a->message, sizeof a->message, "%s", err->message);
  } else {
    a->rows = mt_result_rows(res);
    if (a->rows > 0 && mt_result_value(res, 0, 0))
      snprintf(a->text, sizeof a->text, "%s", mt_result_value(res, 0, 0));
  }
  if (a->then) a->then(a);
}

void mt_ask_with(mt_asked *a, mt_house *h, mt_tenant *t, const char *sql, int n,
                 const char *const *params, double timeout_ms) {
  mt_error *err = NULL;
  memset(a, 0, sizeof *a);
  a->h = h;
  if (mt_tenant_query(t, sql, n, params, timeout_ms, on_answer, a, &err) !=
      MT_OK)
    fail_msg("%s", err->message);
  assert_int_equal(a->done, 0);
}

void mt_ask(mt_asked *a, mt_house *h, mt_tenant *t, const char *sql) {
  mt_ask_with(a, h, t, sql, 0, NULL, 0);
}

void mt_house_expect(mt_house *h, mt_tenant *t, const char *sql,
                     const char *text) {
  mt_asked a;
  mt_ask(&a, h, t, sql);
  MT_RUN_UNTIL(h->r, a.done);
  if (a.code != MT_OK) fail_msg("%s", a.message);
  assert_string_equal(a.text, text);
}
