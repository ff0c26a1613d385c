/*
 * What a connection asks for: libpq's parameters, for one address. See conn.h.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "pg/conn_priv.h"

typedef struct params {
  const char *keys[64], *values[64];
  int n;
} params;

static void add(params *p, const char *key, const char *value) {
  if (!value || p->n >= 63) return;
  p->keys[p->n] = key;
  p->values[p->n++] = value;
}

/* A peer that has gone without a word is noticed: an idle connection's after
 * 10 + 3 * 5 seconds, one's that was sent something after 15. The system's own
 * values are hours. */
static void add_keepalives(params *p) {
  add(p, "keepalives_idle", "10");
  add(p, "keepalives_interval", "5");
  add(p, "keepalives_count", "3");
  add(p, "tcp_user_timeout", "15000");
}

/* Ours around those of the URL, which may say another time limit but not
 * another path. The caller frees it. NULL when memory is short. */
static char *session_options(const mt_conn *c) {
  double ms = c->opt.idle_transaction_timeout_ms;
  char limit[64] = "";
  if (ms > 0)
    snprintf(limit, sizeof limit,
             "-c idle_in_transaction_session_timeout=%.0f ", ms < 1 ? 1 : ms);
  return mt_asprintf("%s%s -c standard_conforming_strings=on -c search_path=",
                     limit, c->endpoint->options ? c->endpoint->options : "");
}

/* Later keywords win: the user's come first, what isolation needs last. A
 * pooler takes no options: what they would set is checked instead. */
void mt__conn_start(mt_conn *c) {
  const mt_host *h = &c->endpoint->hosts[c->host];
  char password[8192] = ""; /* tokens of cloud providers are long */
  char *options = NULL;
  params p = {.n = 0};
  char **k;
  if (!c->opt.pooled) {
    options = session_options(c);
    if (!options) return;
  }
  add(&p, "gssencmode", "disable"); /* costs a failed attempt per connect */
  add_keepalives(&p);
  add(&p, "fallback_application_name", c->opt.application_name);
  for (k = c->endpoint->keywords; *k; k++)
    add(&p, *k, c->endpoint->values[k - c->endpoint->keywords]);
  if (c->cbs->password && c->cbs->password(c, password, sizeof password))
    add(&p, "password", password);
  add(&p, "host", h->host);
  if (!h->is_unix) add(&p, "hostaddr", c->addrs[c->addr]);
  add(&p, "port", h->port);
  add(&p, "client_encoding", "UTF8");
  add(&p, "target_session_attrs", "any"); /* ours: see session_attrs.h */
  add(&p, "options", options ? options : c->endpoint->options);
  c->pg = PQconnectStartParams(p.keys, p.values, 0);
  explicit_bzero(password, sizeof password);
  mt_free(options);
}

/* A tenant whose database is not there is no tenant; the url's own database
 * would be a mistake of the configuration. */
void mt__conn_explain(const mt_conn *c, mt_error *e) {
  if (!c->endpoint->tenant_database || e->refs == 0) return;
  if (strcmp(e->sqlstate, "3D000") != 0) return;
  e->code = MT_E_TENANT_NOT_FOUND;
  e->retryable = false;
}
