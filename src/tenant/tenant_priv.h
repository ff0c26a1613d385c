/* The inside of the tenant layer, shared by its files. */
#ifndef MT_TENANT_TENANT_PRIV_H
#define MT_TENANT_TENANT_PRIV_H

#include "tenant/tenant.h"

typedef struct mt_server_entry {
  UT_hash_handle hh;
  mt_server *server;
  char name[];
} mt_server_entry;

typedef struct mt_disposal {
  struct mt_disposal *next;
  void (*done)(void *data);
  void *data;
} mt_disposal;

struct mt_resolution {
  mt_tenant *tenant; /* NULL: nobody waits for the answer any more */
};

struct mt_ranked {
  UT_hash_handle hh;
  mt_list tenants; /* entries of this id */
  uint64_t use;
  mt_tally tally;
  char id[];
};

struct mt_manager {
  mt_reactor *reactor;
  mt_manager_config cfg; /* strings are ours */
  char **path;           /* cfg.search_path */
  mt_manager_callbacks cbs;
  void *data;
  int refs; /* its maker's, and one per entry in memory */
  mt_endpoint *endpoint;
  mt_tenant *tenants; /* by id */
  mt_tenant *owners;  /* by owner_key */
  mt_list lru;        /* oldest first */
  mt_list draining;   /* evicted, not gone yet */
  mt_tenant *shared;
  mt_server_entry *servers;
  mt_pool_entry *pools;
  mt_sql_table *sqls;
  uint32_t next_scope;
  mt_rand rand;
  mt_list attempts; /* of flights, that are due */
  mt_defer starter;
  mt_timer sweep;
  uint32_t epoch;   /* routes of an earlier one are outdated */
  mt_list expiring; /* entries whose route is stale, the host is to be told */
  mt_defer teller;
  bool disposing, disposed;
  int pools_closing; /* and listeners */
  mt_list listeners;
  mt_disposal *disposals;
  mt_disposal first_disposal; /* needs no memory */
  uint64_t evictions[MT_EVICTIONS];
  struct mt_counts *counts; /* NULL: nothing is counted */
  mt_defer disposed_defer;
};

/* manager.c */
void mt__manager_unref(mt_manager *m);
void mt__manager_event(mt_manager *m, const mt_event *ev);
/* Removes t from the registry and lets go of its route when it is quiet. */
void mt__tenant_evict(mt_tenant *t, const char *reason);
/* Tells the host that the route it has given is not used any more. */
void mt__tenant_tell_evicted(mt_tenant *t, const char *schema,
                             const char *reason);
/* Out of the registry: it drains. */
void mt__tenant_leave(mt_tenant *t);
/* Forgets t's route once it is quiet; what waits for it follows the new one. */
void mt__tenant_reroute(mt_tenant *t, const char *reason);
/* Puts a new entry into the registry; it is gone when that fails. */
int mt__tenant_enter(mt_tenant *t, mt_error **err);
/* t was used: youngest in the LRU. */
void mt__tenant_touch(mt_tenant *t);

/* tenant.c */
mt_tenant *mt__tenant_new(mt_manager *m, const char *id, bool shared);
/* Frees t at the end of the turn if nothing holds it. */
void mt__tenant_check(mt_tenant *t);
/* Its schema has gone, or another has its name: the host is to say where the
 * tenant is now. */
bool mt__tenant_is_stale(const mt_tenant *t);
/* The same of this entry alone. */
uint64_t mt__tenant_written(const mt_tenant *t);
/* The route has come, or has failed. */
void mt__tenant_routed(mt_tenant *t, const mt_error *err);
void mt__tenant_fail_pending(mt_tenant *t, const mt_error *err);
/* Paused, or about to be routed afresh: what comes waits. */
bool mt__tenant_held(const mt_tenant *t);
/* It was held: what has waited goes on. */
void mt__tenant_resumed(mt_tenant *t);

/* route.c */
/* Makes t the owner of its schema there; the caller owns the error. */
mt_error *mt__route_own(mt_tenant *t, const mt_endpoint *ep,
                        const mt_scope *scope);
/* Forgets what a route that came to nothing has left. */
void mt__route_undo(mt_tenant *t);
/* A share of the pool of t->entry, for t; limits of 0: the pool's. */
void mt__route_share(mt_tenant *t, int max, int max_waiting);
/* Asks for the route unless it is known or asked for. */
int mt__route_start(mt_tenant *t, mt_error **err);
/* Lets go of scope, share and ownership; t must be quiet. */
void mt__route_drop(mt_tenant *t);
void mt__route_forget_question(mt_tenant *t);

/* expiry.c */
/* May t's route be used as it is? t was just touched. */
static inline bool mt__route_is_fresh(const mt_tenant *t) {
  return t->last_used < t->fresh_until && t->epoch == t->manager->epoch;
}
/* It may not: t, which is used nevertheless, or the entry that has taken its
 * place; NULL with *err set. */
mt_tenant *mt__route_look(mt_tenant *t, mt_error **err);
bool mt__route_is_outdated(const mt_tenant *t);
/* The host will be told, once. */
void mt__route_tell_stale(mt_tenant *t);
/* The tag and the limits of the route that has come. */
void mt__route_limit(mt_tenant *t, const mt_route_options *options);
/* The route that has come has that tag: the scope of the entry before, whose
 * reference is the caller's, if it is the same one; else NULL. */
mt_scope *mt__route_keep(mt_tenant *t, uint64_t tag);
/* Lets go of what t holds of the entry before, if anything; the host is told
 * that its route has gone, unless it was kept (reason NULL). */
void mt__route_forget_former(mt_tenant *t, const char *reason);
/* manager->teller's callback. */
void mt__routes_tell(mt_defer *d);
/* reader.c */
/* Its readers take nothing more, and go when they are quiet. */
void mt__readers_detach(mt_tenant *t);
bool mt__readers_busy(const mt_tenant *t);
/* Of a reader: knows the schema by what its tenant knows. */
void mt__reader_follow(mt_tenant *t);
/* A reader may be used: its tenant is as it was, and not paused. */
mt_tenant *mt__reader_live(mt_tenant *t, mt_error **err);

/* flight.c */
/* manager->starter's callback. */
void mt__flights_start(mt_defer *d);
void mt__flight_routed(mt_attempts *f, const mt_error *err);
/* The tenant was paused: its next attempt is due, unless one is under way. */
void mt__flight_resumed(mt_attempts *f);
/* Ends the flight with err for all of its waiters. */
void mt__flight_abort(mt_attempts *f, const mt_error *err);

/* pools.c */
/* The pool for this endpoint (and tenant, when dedicated), made if need be. */
int mt__pools_get(mt_manager *m, mt_endpoint *ep, const char *tenant_id,
                  mt_pool_mode mode, mt_pool_entry **out, mt_error **err);
void mt__pools_close_dedicated(mt_pool_entry *e);
/* Starts to close all; the manager hears of the last one. Returns how many. */
int mt__pools_close_all(mt_manager *m, double timeout_ms);
void mt__pools_free(mt_manager *m);
/* One of manager->pools_closing has closed: the last one ends a disposal. */
void mt__manager_closed_one(mt_manager *m);
/* What the host says at each connect; false: the URL's. */
bool mt__manager_password(void *manager, char *buf, size_t size);

/* listen.c: starts to close all; they are counted in pools_closing. */
void mt__listeners_close_all(mt_manager *m);

/* control.c: of a configuration, what a server's budget is and what a pool is
 * made with. */
int mt__max_connections(const mt_manager_config *c);
mt_pool_options mt__pool_options(const mt_manager_config *c);

mt_error *mt__disposed_error(void);

/* What a caller has set, the defaults of what he does not know. */
void mt__config_read(mt_manager_config *to, const mt_manager_config *from);

/* metrics.c */
typedef struct mt_counts {
  mt_traffic nowhere;
  mt_tally others, shared;
  mt_ranked *ranked; /* by id */
  int n;
  uint64_t least; /* use of the least of them, or less */
} mt_counts;
int mt__counts_init(mt_manager *m);
void mt__counts_fini(mt_manager *m);
void mt__count_eviction(mt_manager *m, const char *reason);
/* It is new, and counts nowhere in particular. */
void mt__tenant_count(mt_tenant *t);
/* It has a route: it counts there, and is ranked. */
void mt__tenant_count_at(mt_tenant *t, mt_pool *pool);
void mt__tenant_uncount(mt_tenant *t); /* its memory goes */
/* It was granted, or err says why not. */
void mt__count_lease(mt_tenant *t, const mt_lease *l, const mt_error *err);

/* Texts ended by NUL; NULL is SQL NULL. */
int mt__req_params(mt_req *req, int n, const char *const *params);

#endif
