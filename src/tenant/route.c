/*
 * Routes: asking the host's resolver, checking what it answers, and turning
 * it into a scope, a pool and a share. A schema has one live owner.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "pg/quote.h"
#include "tenant/tenant_priv.h"

/* ---- asking ------------------------------------------------------------------ */

static void apply(mt_tenant *t, const mt_route *route,
                  const mt_route_options *options);

static void ask(mt_tenant *t) {
  mt_manager *m = t->manager;
  mt_route shared = {.schema = "public"};
  t->state = MT_TENANT_ROUTING;
  if (t->shared)
    apply(t, &shared, NULL);
  else
    m->cbs.resolve(m, t->id, (uint64_t)(uintptr_t)t->resolution, m->data);
}

int mt__route_start(mt_tenant *t, mt_error **err) {
  if (t->state != MT_TENANT_NEW) return MT_OK;
  if (!t->shared) {
    t->resolution = mt_calloc(sizeof *t->resolution);
    if (!t->resolution) return mt_fail(err, mt_error_oom());
    t->resolution->tenant = t;
  }
  ask(t);
  return MT_OK;
}

void mt__route_forget_question(mt_tenant *t) {
  if (!t->resolution) return;
  t->resolution->tenant = NULL; /* freed when the answer comes */
  t->resolution = NULL;
  if (t->state == MT_TENANT_ROUTING) t->state = MT_TENANT_NEW;
}

bool mt_manager_answer(mt_manager *m, uint64_t token, const mt_route *route,
                       const mt_route_options *options, const mt_error *err) {
  mt_resolution *q = (mt_resolution *)(uintptr_t)token;
  mt_tenant *t = q->tenant;
  mt_error *none;
  (void)m;
  mt_free(q);
  if (!t) return false;
  t->resolution = NULL;
  if (route) {
    apply(t, route, options);
    return t->state == MT_TENANT_READY;
  }
  mt__route_forget_former(t, "error");
  t->state = MT_TENANT_NEW;
  none = err ? mt_error_ref(err)
             : mt_error_new(MT_E_TENANT_NOT_FOUND, "no route for tenant \"%s\"",
                            t->id);
  mt__tenant_routed(t, none);
  mt_error_unref(none);
  return false;
}

void mt_manager_resolved_with(mt_manager *m, uint64_t token,
                              const mt_route *route,
                              const mt_route_options *options,
                              const mt_error *err) {
  mt_route_options all = {0};
  if (options) {
    size_t size = options->size;
    memcpy(&all, options, size < sizeof all ? size : sizeof all);
  }
  mt_manager_answer(m, token, route, options ? &all : NULL, err);
}

void mt_manager_resolved(mt_manager *m, uint64_t token, const mt_route *route,
                         const mt_error *err) {
  mt_manager_answer(m, token, route, NULL, err);
}

/* ---- checking ------------------------------------------------------------------ */

static mt_error *check_schema(const char *id, bool shared,
                              const mt_route *route) {
  const char *schema = route->schema, *why;
  bool public_too = shared || route->database || route->setting;
  if (!schema)
    return mt_error_new(MT_E_POLICY, "route of tenant \"%s\" has no schema",
                        id);
  why = mt_schema_name_problem(schema, strlen(schema));
  if (!why && !public_too && strcmp(schema, "public") == 0)
    why = "public is no tenant's schema";
  if (!why) return NULL;
  return mt_error_new(MT_E_INVALID_TENANT_ID,
                      "tenant \"%s\" can't have the schema \"%.80s\": %s", id,
                      schema, why);
}

static mt_error *check_database(const char *id, const char *name) {
  const char *why = name ? mt_database_name_problem(name, strlen(name)) : NULL;
  if (!why) return NULL;
  return mt_error_new(MT_E_INVALID_TENANT_ID,
                      "tenant \"%s\" can't have the database \"%.80s\": it %s",
                      id, name, why);
}

static mt_error *check_setting(const char *id, const mt_route *route) {
  static const char *const allowed = "abcdefghijklmnopqrstuvwxyz0123456789_.";
  const char *name = route->setting, *value = route->setting_value;
  if (!name) return NULL;
  if (strspn(name, allowed) == strlen(name) && strchr(name, '.') && value &&
      *value && mt_utf8_valid(value, strlen(value)))
    return NULL;
  return mt_error_new(
      MT_E_POLICY, "route of tenant \"%s\": \"%.80s\" can't be set", id, name);
}

static mt_error *check_role(const char *id, const char *role) {
  if (!role) return NULL;
  if (!mt_name_problem(role, strlen(role)) && strcmp(role, "none") != 0)
    return NULL;
  return mt_error_new(MT_E_POLICY,
                      "route of tenant \"%s\": \"%.80s\" is no role name", id,
                      role);
}

static mt_error *setting_error(const char *id, const char *name,
                               const char *why) {
  return mt_error_new(MT_E_POLICY,
                      "route.settings.%.63s of tenant \"%s\": it %s", name, id,
                      why);
}

static bool is_repeated(const char *const *pairs, const char *name) {
  const char *const *p;
  int n = 0;
  for (p = pairs; *p; p += 2) n += strcasecmp(*p, name) == 0;
  return n > 1;
}

static mt_error *check_settings(const char *id, const mt_route *route,
                                const char *const *pairs) {
  const char *const *p;
  for (p = pairs; p && *p; p += 2) {
    const char *why = mt_setting_problem(p[0], p[1]);
    if (!why && route->setting && strcasecmp(p[0], route->setting) == 0)
      why = "belongs to the tenant's scope";
    if (!why && is_repeated(pairs, p[0])) why = "is there twice";
    if (!why && p - pairs >= 2 * MT_SETTINGS_MAX)
      why = "is one of more than 16";
    if (why) return setting_error(id, p[0], why);
  }
  return NULL;
}

static mt_error *check_options(const char *id, const mt_route *route,
                               const mt_route_options *o) {
  const char *what = NULL;
  if (!o) return NULL;
  if (o->pool_max < 0)
    what = "max";
  else if (o->max_waiting < 0)
    what = "max_waiting";
  else if ((unsigned)o->mode > MT_POOL_DEDICATED)
    what = "mode";
  if (!what) return check_settings(id, route, o->settings);
  return mt_error_new(MT_E_POLICY, "route.pool.%s of tenant \"%s\": not valid",
                      what, id);
}

mt_error *mt_route_problem(const char *id, bool shared, const mt_route *route,
                           const mt_route_options *options) {
  mt_error *err = check_schema(id, shared, route);
  if (!err) err = check_role(id, route->role);
  if (!err) err = check_database(id, route->database);
  if (!err) err = check_setting(id, route);
  if (!err) err = check_options(id, route, options);
  return err;
}

/* Two live ids on one schema would share their data: refuse the second. Where
 * they are meant to, policies keep their rows apart. */
mt_error *mt__route_own(mt_tenant *t, const mt_endpoint *ep,
                        const mt_scope *scope) {
  const char *schema = scope->schema;
  mt_manager *m = t->manager;
  mt_tenant *other;
  bool failed = false;
  if (t->shared || scope->setting) return NULL;
  /* how one connects, and as whom, makes no other database of it */
  t->owner_key = mt_asprintf("%s/%s/%s", ep->server,
                             ep->dbname ? ep->dbname : ep->key, schema);
  if (!t->owner_key) return mt_error_oom();
  HASH_FIND(owner_hh, m->owners, t->owner_key, strlen(t->owner_key), other);
  if (other && strcmp(other->id, t->id) != 0) {
    mt_free(t->owner_key);
    t->owner_key = NULL;
    return mt_error_new(
        MT_E_INVALID_TENANT_ID,
        "tenant \"%s\" maps to schema \"%s\", which is tenant \"%s\"'s", t->id,
        schema, other->id);
  }
  if (other && t->of && other->registered) { /* itself, or another reader */
    mt_free(t->owner_key);
    t->owner_key = NULL;
    return NULL;
  }
  if (other) { /* an evicted entry of the same id still drains */
    HASH_DELETE(owner_hh, m->owners, other);
    mt_free(other->owner_key);
    other->owner_key = NULL;
  }
#undef uthash_nonfatal_oom
#define uthash_nonfatal_oom(obj) failed = true
  HASH_ADD_KEYPTR(owner_hh, m->owners, t->owner_key, strlen(t->owner_key), t);
  if (!failed) return NULL;
  mt_free(t->owner_key);
  t->owner_key = NULL;
  return mt_error_oom();
}

static void disown(mt_tenant *t) {
  if (!t->owner_key) return;
  HASH_DELETE(owner_hh, t->manager->owners, t);
  mt_free(t->owner_key);
  t->owner_key = NULL;
}

void mt__route_undo(mt_tenant *t) {
  disown(t);
  mt_scope_unref(t->scope);
  t->scope = NULL;
}

/* ---- applying -------------------------------------------------------------------- */

/* A route is the policy's, who made it has to know which part is wrong. */
mt_error *mt_route_url_error(const char *id, mt_error *err) {
  mt_error *e;
  if (err->code != MT_E_MISUSE) return err;
  e = mt_error_new(MT_E_POLICY, "route.url of tenant \"%s\": %s", id,
                   err->message);
  mt_error_unref(err);
  return e;
}

static mt_error *endpoint_for(mt_tenant *t, const mt_route *route,
                              mt_endpoint **out) {
  mt_manager *m = t->manager;
  mt_error *err = NULL;
  mt_endpoint *base = NULL;
  if (!route->url)
    base = mt_endpoint_ref(m->endpoint);
  else if (mt_endpoint_parse(route->url, &base, &err) != MT_OK)
    return mt_route_url_error(t->id, err);
  if (!route->database) {
    *out = base;
    return NULL;
  }
  mt_endpoint_with_database(base, route->database, out, &err);
  mt_endpoint_unref(base);
  return err;
}

static mt_scope *scope_for(mt_tenant *t, const mt_route *route,
                           const mt_route_options *o) {
  static const char *const shared_path[] = {"public", NULL};
  mt_manager *m = t->manager;
  mt_scope *s =
      mt_scope_new(++m->next_scope, route->schema,
                   t->shared ? shared_path : (const char *const *)m->path,
                   route->role, m->cfg.verify_schema);
  if (!s) return NULL;
  s->any_oid = t->shared || route->setting; /* nobody's own */
  if ((!route->setting ||
       mt_scope_set_setting(s, route->setting, route->setting_value)) &&
      (!o || mt_scope_set_settings(s, o->settings, false)))
    return s;
  mt_scope_unref(s);
  return NULL;
}

static mt_error *build(mt_tenant *t, const mt_route *route,
                       const mt_route_options *o, mt_endpoint *ep) {
  mt_manager *m = t->manager;
  mt_error *err = NULL;
  t->scope = mt__route_keep(t, o ? o->tag : 0);
  if (!t->scope) t->scope = scope_for(t, route, o);
  if (t->scope) err = mt__route_own(t, ep, t->scope);
  if (t->scope && !err &&
      mt__pools_get(m, ep, t->shared ? NULL : t->id,
                    o ? o->mode : MT_POOL_AS_CONFIGURED, &t->entry,
                    &err) == MT_OK)
    return NULL;
  mt__route_undo(t);
  return err ? err : mt_error_oom();
}

static void created(mt_tenant *t) {
  mt_event ev = {.kind = "pool_created",
                 .tenant_id = t->shared ? "shared" : t->id,
                 .schema = t->scope->schema};
  mt__manager_event(t->manager, &ev);
}

static void on_idle(mt_share *s) {
  mt__tenant_check(mt_container(s, mt_tenant, share));
}

/* Told later: the pool must not be called back, and the host may do that. */
typedef struct exhausted {
  mt_defer defer;
  mt_tenant *tenant;
  mt_exhausted what;
  double waited_ms;
} exhausted;

static void tell_exhausted(mt_defer *d) {
  exhausted *x = mt_container(d, exhausted, defer);
  mt_tenant *t = x->tenant;
  mt_event ev = {
      .kind = x->what == MT_QUEUE_FULL ? "queue_full" : "queue_timeout",
      .tenant_id = t->shared ? "shared" : t->id,
      .schema = mt_tenant_schema(t),
      .total_time_ms = x->waited_ms};
  mt_free(x);
  mt__manager_event(t->manager, &ev);
  mt_tenant_unref(t);
}

static void on_exhausted(mt_share *s, mt_exhausted what, double waited_ms) {
  mt_tenant *t = mt_container(s, mt_tenant, share);
  exhausted *x = mt_calloc(sizeof *x);
  if (!x) return; /* the statement's own error says it too */
  x->defer.cb = tell_exhausted;
  x->tenant = mt_tenant_ref(t);
  x->what = what;
  x->waited_ms = waited_ms;
  mt_defer_add(t->manager->reactor, &x->defer, MT_DEFER_DELIVER);
}

void mt__route_share(mt_tenant *t, int max, int max_waiting) {
  mt_share_init(&t->share, t->entry->pool, mt_hash64(t->id, strlen(t->id), 7),
                on_idle);
  mt_share_limit(&t->share, max, max_waiting);
  t->share.on_exhausted = on_exhausted;
}

static void apply(mt_tenant *t, const mt_route *route,
                  const mt_route_options *o) {
  mt_endpoint *ep = NULL;
  mt_error *err = mt_route_problem(t->id, t->shared, route, o);
  if (!err) err = endpoint_for(t, route, &ep);
  if (!err) err = build(t, route, o, ep);
  mt_endpoint_unref(ep);
  if (err) {
    t->state = MT_TENANT_NEW;
    mt__route_forget_former(t, "error");
  } else {
    bool kept = t->former && t->scope == t->former->scope;
    t->state = MT_TENANT_READY;
    t->verified = kept ? t->former->verified : 0;
    t->written = mt_reactor_tick(t->manager->reactor);
    mt__route_share(t, o ? o->pool_max : 0, o ? o->max_waiting : 0);
    mt__route_limit(t, o);
    mt__route_forget_former(t, kept ? NULL : "route_changed");
    mt__tenant_count_at(t, t->entry->pool);
    if (!kept) created(t);
  }
  mt__tenant_routed(t, err);
  mt_error_unref(err);
}

void mt__route_drop(mt_tenant *t) {
  mt__route_forget_question(t);
  mt__route_forget_former(t, "error");
  if (t->state != MT_TENANT_READY) return;
  mt_share_fini(&t->share);
  disown(t);
  mt_scope_unref(t->scope);
  t->scope = NULL;
  if (t->entry->dedicated) mt__pools_close_dedicated(t->entry);
  t->entry = NULL;
  mt__tenant_count_at(t, NULL);
  t->state = MT_TENANT_NEW;
}
