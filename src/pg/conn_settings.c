/*
 * A route's run-time parameters on a connection: sent ahead of the scope, so
 * that the scope has the last word, and as the login, not as the tenant's role.
 * See settings.h; the units they are part of are made in conn_send.c.
 */
#include <string.h>

#include "pg/conn_priv.h"

#define NAME "mt_settings"

bool mt__settings_prepare(mt_conn *c, mt_req *req) {
  if (!req->scope->settings || c->settings_named || c->opt.pooled) return true;
  c->settings_named =
      mt__add_step(req, MT_STEP_PREPARE,
                   PQsendPrepare(c->pg, NAME, MT_SETTINGS_SQL, 3, NULL));
  return c->settings_named;
}

bool mt__settings_send(mt_conn *c, mt_req *req, bool session) {
  const mt_settings *s = req->scope->settings;
  const char *v[3];
  if (!s) return true;
  v[0] = s->name_array;
  v[1] = s->value_array;
  v[2] = session ? "false" : "true";
  return mt__add_step(
      req, MT_STEP_SETTINGS,
      c->settings_named && !session
          ? PQsendQueryPrepared(c->pg, NAME, 3, v, NULL, NULL, 0)
          : PQsendQueryParams(c->pg, MT_SETTINGS_SQL, 3, NULL, v, NULL, NULL,
                              0));
}

bool mt__settings_begin(mt_conn *c, mt_req *req) {
  const mt_settings *s = req->scope->settings;
  int i;
  for (i = 0; s && i < s->n; i++)
    if (!mt__add_step(req, MT_STEP_SETTINGS, mt__send_text(c, s->local[i])))
      return false;
  return true;
}

/* The server's messages quote the name, in whatever language; a name may be a
 * part of a longer one. In a transaction each has a step of its own. */
static const char *which(const mt_req *req, const mt_error *e) {
  const mt_settings *s = req->scope->settings;
  const char *found = NULL;
  int i, nth = 0;
  if (req->begin) {
    for (i = 0; i < req->step; i++) nth += req->steps[i] == MT_STEP_SETTINGS;
    return nth < s->n ? s->names[nth] : "?";
  }
  for (i = 0; i < s->n; i++)
    if (strcasestr(e->message, s->names[i]) &&
        (!found || strlen(s->names[i]) > strlen(found)))
      found = s->names[i];
  if (found) return found;
  return s->n == 1 ? s->names[0] : "one of them";
}

/* About the parameter, not about the connection or a cancel? */
static bool is_about_it(const mt_error *e) {
  static const char *const classes[] = {"22", "42", "55", "0A", "25", "0L"};
  size_t i;
  for (i = 0; i < sizeof classes / sizeof *classes; i++)
    if (strncmp(e->sqlstate, classes[i], 2) == 0) return true;
  return false;
}

mt_error *mt__settings_failed(mt_conn *c, mt_req *req, mt_error *e) {
  mt_error *out;
  req->not_run = true;
  if (strcmp(e->sqlstate, "26000") == 0) { /* as of the scope statement */
    req->dirty = true;
    c->retire = true;
    return e;
  }
  if (e->refs == 0 || e->severity[0] == 'F' || !is_about_it(e)) return e;
  out =
      mt_error_new(MT_E_POLICY, "route.settings.%s: the server refuses it: %s",
                   which(req, e), e->message);
  if (out->refs) memcpy(out->sqlstate, e->sqlstate, sizeof out->sqlstate);
  mt_error_set_hint(out, e->hint);
  mt_error_set_server(out, c->endpoint->server);
  mt_error_unref(e);
  return out;
}
