/*
 * Builds a scope once per tenant: quoted path, and the SET LOCAL texts that a
 * transaction sends, when one does. See scope.h.
 */
#include "pg/scope.h"

#include <string.h>

#include "base/alloc.h"
#include "pg/quote.h"

/* "a","b",pg_temp: temporary tables last, so that none shadows a tenant's. */
static char *build_path(const char *schema, const char *const *path) {
  char *out = mt_strdup(""), *next;
  for (; out && *path; path++) {
    const char *name = strcmp(*path, "$tenant") == 0 ? schema : *path;
    char *quoted = mt_quote_ident(name, strlen(name));
    next = quoted ? mt_asprintf("%s%s,", out, quoted) : NULL;
    mt_free(quoted);
    mt_free(out);
    out = next;
  }
  next = out ? mt_asprintf("%spg_temp", out) : NULL;
  mt_free(out);
  return next;
}

mt_scope *mt_scope_new(uint32_t id, const char *schema, const char *const *path,
                       const char *role, bool fence) {
  mt_scope *s = mt_calloc(sizeof *s);
  if (!s) return NULL;
  s->refs = 1;
  s->id = id;
  s->fence = fence;
  s->schema = mt_strdup(schema);
  s->path = build_path(schema, path);
  if (role) s->role = mt_strdup(role);
  if (s->schema && s->path && (s->role || !role)) return s;
  mt_scope_unref(s);
  return NULL;
}

bool mt_scope_set_setting(mt_scope *s, const char *name, const char *value) {
  s->setting = mt_strdup(name);
  s->setting_value = mt_strdup(value);
  return s->setting && s->setting_value;
}

bool mt_scope_set_settings(mt_scope *s, const char *const *pairs,
                           bool read_only) {
  s->read_only = read_only;
  return mt_settings_new(pairs, read_only, &s->settings);
}

mt_scope *mt_scope_reader(uint32_t id, const mt_scope *of) {
  static const char *const none[] = {NULL};
  mt_scope *s = mt_scope_new(id, of->schema, none, of->role, of->fence);
  const char *const *pairs =
      of->settings ? (const char *const *)of->settings->pairs : NULL;
  if (!s) return NULL;
  s->any_oid = of->any_oid;
  s->oid = of->oid;
  mt_free(s->path);
  s->path = mt_strdup(of->path);
  if (s->path && mt_scope_set_settings(s, pairs, true) &&
      (!of->setting || mt_scope_set_setting(s, of->setting, of->setting_value)))
    return s;
  mt_scope_unref(s);
  return NULL;
}

const char *mt_scope_role(const mt_scope *s) {
  return s->role ? s->role : "none";
}

static char *local_role(const mt_scope *s) {
  char *quoted, *text;
  /* said aloud: a function may have left a role behind */
  if (!s->role) return mt_strdup("SET LOCAL ROLE NONE");
  quoted = mt_quote_ident(s->role, strlen(s->role));
  text = quoted ? mt_asprintf("SET LOCAL ROLE %s", quoted) : NULL;
  mt_free(quoted);
  return text;
}

static char *local_setting(const mt_scope *s) {
  char *quoted = mt_quote_literal(s->setting_value, strlen(s->setting_value));
  char *text =
      quoted ? mt_asprintf("SET LOCAL %s = %s", s->setting, quoted) : NULL;
  mt_free(quoted);
  return text;
}

bool mt_scope_make_local(mt_scope *s) {
  if (!s->local_path)
    s->local_path = mt_asprintf("SET LOCAL search_path = %s", s->path);
  if (!s->local_role) s->local_role = local_role(s);
  if (s->setting && !s->local_setting) s->local_setting = local_setting(s);
  return s->local_path && s->local_role && (!s->setting || s->local_setting);
}

mt_scope *mt_scope_ref(mt_scope *s) {
  s->refs++;
  return s;
}

void mt_scope_unref(mt_scope *s) {
  if (!s || --s->refs > 0) return;
  mt_free(s->schema);
  mt_free(s->path);
  mt_free(s->role);
  mt_free(s->local_path);
  mt_free(s->local_role);
  mt_free(s->setting);
  mt_free(s->setting_value);
  mt_free(s->local_setting);
  mt_settings_free(s->settings);
  mt_free(s);
}
