/*
 * Builds a scope once per tenant: quoted path, and the SET LOCAL texts that a
 * transaction sends. See scope.h.
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
  char *quoted = NULL;
  mt_scope *s = mt_calloc(sizeof *s);
  if (!s) return NULL;
  s->refs = 1;
  s->id = id;
  s->fence = fence;
  s->schema = mt_strdup(schema);
  s->path = build_path(schema, path);
  s->role = mt_strdup(role ? role : "none");
  if (!s->schema || !s->path || !s->role) goto fail;
  s->set_local = mt_asprintf("SET LOCAL search_path = %s", s->path);
  if (!s->set_local) goto fail;
  if (!role) { /* said aloud: a function may have left a role behind */
    s->local_role = mt_strdup("SET LOCAL ROLE NONE");
    if (!s->local_role) goto fail;
  } else {
    quoted = mt_quote_ident(role, strlen(role));
    s->local_role = quoted ? mt_asprintf("SET LOCAL ROLE %s", quoted) : NULL;
    mt_free(quoted);
    if (!s->local_role) goto fail;
  }
  return s;
fail:
  mt_scope_unref(s);
  return NULL;
}

bool mt_scope_set_setting(mt_scope *s, const char *name, const char *value) {
  char *quoted = mt_quote_literal(value, strlen(value));
  s->setting = mt_strdup(name);
  s->setting_value = mt_strdup(value);
  if (quoted) s->local_setting = mt_asprintf("SET LOCAL %s = %s", name, quoted);
  mt_free(quoted);
  return s->setting && s->setting_value && s->local_setting;
}

bool mt_scope_set_settings(mt_scope *s, const char *const *pairs,
                           bool read_only) {
  s->read_only = read_only;
  return mt_settings_new(pairs, read_only, &s->settings);
}

mt_scope *mt_scope_reader(uint32_t id, const mt_scope *of) {
  static const char *const none[] = {NULL};
  bool own = strcmp(of->role, "none") == 0;
  mt_scope *s =
      mt_scope_new(id, of->schema, none, own ? NULL : of->role, of->fence);
  const char *const *pairs =
      of->settings ? (const char *const *)of->settings->pairs : NULL;
  if (!s) return NULL;
  s->any_oid = of->any_oid;
  s->oid = of->oid;
  mt_free(s->path);
  mt_free(s->set_local);
  s->path = mt_strdup(of->path);
  s->set_local = mt_strdup(of->set_local);
  if (s->path && s->set_local && mt_scope_set_settings(s, pairs, true) &&
      (!of->setting || mt_scope_set_setting(s, of->setting, of->setting_value)))
    return s;
  mt_scope_unref(s);
  return NULL;
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
  mt_free(s->set_local);
  mt_free(s->local_role);
  mt_free(s->setting);
  mt_free(s->setting_value);
  mt_free(s->local_setting);
  mt_settings_free(s->settings);
  mt_free(s);
}
