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
  bool disposing, disposed;
  int pools_closing;
  mt_disposal *disposals;
  mt_disposal first_disposal; /* needs no memory */
  mt_defer disposed_defer;
};

/* manager.c */
void mt__manager_unref(mt_manager *m);
void mt__manager_event(mt_manager *m, const mt_event *ev);
/* Removes t from the registry and lets go of its route when it is quiet. */
void mt__tenant_evict(mt_tenant *t, const char *reason);
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

/* control.c: of a configuration, what a server's budget is and what a pool is
 * made with. */
int mt__max_connections(const mt_manager_config *c);
mt_pool_options mt__pool_options(const mt_manager_config *c);

mt_error *mt__disposed_error(void);

/* What a caller has set, the defaults of what he does not know. */
void mt__config_read(mt_manager_config *to, const mt_manager_config *from);

/* Texts ended by NUL; NULL is SQL NULL. */
int mt__req_params(mt_req *req, int n, const char *const *params);

#endif
