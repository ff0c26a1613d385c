/*
 * What stands between us and the server, and whether it does as the isolation
 * needs. A pooler drops or refuses the startup option that makes the base
 * search_path empty; then unscoped statements would read `public`, so such a
 * connection is refused with the way out. See docs/pgbouncer.md.
 */
#include <string.h>

#include "pg/conn_priv.h"

#define SEE "; see docs/pgbouncer.md"

/* PgBouncer's messages are never translated, and all have this SQLSTATE. */
void mt__pooler_explain(mt_error *e) {
  if (e->refs == 0 || strcmp(e->sqlstate, "08P01") != 0) return;
  if (!strstr(e->message, "unsupported") || !strstr(e->message, "options"))
    return;
  e->code = MT_E_POLICY;
  e->retryable = false;
  mt_error_set_hint(
      e,
      "a pooler refuses the startup parameter: set connection.pooler = "
      "\"transaction\", and give no options in the url or PGOPTIONS" SEE);
}

static mt_error *wrong_path(const mt_conn *c) {
  mt_error *e;
  if (c->opt.pooled) {
    e = mt_error_new(MT_E_POLICY,
                     "the search_path behind the pooler is not empty: "
                     "statements could fall into public");
    mt_error_set_hint(e,
                      "run ALTER ROLE \"<login>\" IN DATABASE \"<database>\" "
                      "SET search_path = '' and RECONNECT in the pooler; or "
                      "another client has changed its session there" SEE);
    return e;
  }
  e = mt_error_new(MT_E_POLICY,
                   "the startup option search_path did not reach the server: "
                   "is there a pooler in between?");
  mt_error_set_hint(e, "set connection.pooler = \"transaction\"" SEE);
  return e;
}

static mt_error *name_taken(void) {
  mt_error *e = mt_error_new(MT_E_POLICY,
                             "another client's prepared statements are on this "
                             "connection: is there a pooler in between?");
  mt_error_set_hint(e, "set connection.pooler = \"transaction\"" SEE);
  return e;
}

/* Quoting by backslash would change what every literal means. */
static mt_error *wrong_strings(void) {
  mt_error *e = mt_error_new(MT_E_POLICY, "standard_conforming_strings is off");
  mt_error_set_hint(
      e, "switch it on for this role: it can't be set through a pooler" SEE);
  return e;
}

static mt_error *refuse(const mt_conn *c, mt_error *e) {
  if (e->refs == 0) return e;
  e->retryable = false;
  mt_error_set_server(e, c->endpoint->server);
  return e;
}

mt_error *mt__setup_error(const mt_conn *c, const mt_req *setup) {
  const char *strings = PQparameterStatus(c->pg, "standard_conforming_strings");
  if (setup->err && strcmp(setup->err->sqlstate, "22012") == 0)
    return refuse(c, wrong_path(c));
  if (setup->err && strcmp(setup->err->sqlstate, "42P05") == 0)
    return refuse(c, name_taken());
  if (setup->err) return mt_error_ref(setup->err);
  if (strings && strcmp(strings, "off") == 0) return refuse(c, wrong_strings());
  return NULL;
}
