/*
 * Tenants: the registry of entries (LRU, TTL), their routes, scopes and
 * shares, and the flights that connect them with retry. The public part is in
 * mtenant.h; the binding uses this header.
 *
 * An entry is NEW until its route is known, ROUTING while somebody is asked,
 * READY afterwards. An evicted entry leaves the registry at once and its
 * memory when nothing of it is in flight and no handle holds it; a handle to
 * it finds (or makes) the new entry of the same id at its next use.
 */
#ifndef MT_TENANT_TENANT_H
#define MT_TENANT_TENANT_H

#include "base/hash.h"
#include "base/rand.h"
#include "pool/pool.h"

typedef enum mt_tenant_state {
  MT_TENANT_NEW,
  MT_TENANT_ROUTING,
  MT_TENANT_READY
} mt_tenant_state;

typedef struct mt_attempts mt_attempts; /* a flight's common part */
typedef struct mt_resolution mt_resolution;

typedef struct mt_pool_entry {
  UT_hash_handle hh;
  mt_manager *manager;
  mt_pool *pool;
  bool dedicated; /* belongs to one tenant, closed with its last entry: an
                     evicted one may still drain beside the new one */
  int users;      /* entries that have it */
  bool closed;
  char key[];
} mt_pool_entry;

struct mt_tenant {
  UT_hash_handle hh, owner_hh;
  mt_node lru; /* in manager->lru while registered, then in draining; a
                  reader's in its tenant's readers */
  mt_manager *manager;
  mt_tenant_state state;
  int refs;        /* handles */
  bool shared;     /* the shared handle's entry */
  bool registered; /* in the registry; false: evicted */
  bool paused;     /* what comes waits in pending and acquires */
  bool rerouting;  /* paused: its route goes once it is quiet */
  mt_scope *scope; /* READY */
  mt_pool_entry *entry;
  mt_share share;
  mt_list pending;  /* requests that wait for the route */
  mt_list acquires; /* leases that wait for the route */
  mt_resolution *resolution;
  mt_attempts *flight;
  double last_used;
  uint64_t verified; /* pool generation of the last ping, 0 never */
  mt_defer freeing;
  char *owner_key;  /* endpoint and schema, in manager->owners */
  uint64_t written; /* it may have written until that tick: when it became
                       READY, and by entries of its id that have drained */
  mt_list readers;  /* entries of its replicas, while it is registered */
  mt_tenant *of;    /* a reader's: whose it is, a reference */
  char *reader_url; /* a reader's: where it reads; "": where its tenant is */
  char id[];
};

/* A lease on its way: for the route first, then in the pool. */
typedef struct mt_acquire {
  mt_node node; /* tenant->acquires while routing */
  mt_tenant *tenant;
  mt_lease *lease;
  bool route_only; /* it wants no lease, only the route */
  /* Runs once, later; with an error there is no lease. The acquire is gone
   * when this returns. */
  void (*on_done)(struct mt_acquire *a, mt_lease *l, const mt_error *err);
  void *data;
} mt_acquire;

/* The entry that is in the registry under t's id now, made if need be; or
 * NULL with *err set. */
mt_tenant *mt_tenant_live(mt_tenant *t, mt_error **err);
/* Routes first where needed, then as mt_share_submit. `req->scope` is set
 * here. */
int mt_tenant_submit(mt_tenant *t, mt_req *req, mt_error **err);
/* As mt_share_cancel and mt_share_take_back, for requests that still wait for
 * the route too. `t` is the live entry that took it. */
mt_cancelled mt_tenant_cancel(mt_tenant *t, mt_req *req);
bool mt_tenant_take_back(mt_tenant *t, mt_req *req);
int mt_tenant_acquire(mt_tenant *t,
                      void (*on_done)(mt_acquire *a, mt_lease *l,
                                      const mt_error *err),
                      void *data, mt_acquire **out, mt_error **err);
/* on_done will not run. */
void mt_acquire_cancel(mt_acquire *a);
/* The same without a lease: on_done once the route is known and the tenant is
 * not paused. */
int mt_tenant_wait_route(mt_tenant *t,
                         void (*on_done)(mt_acquire *a, mt_lease *l,
                                         const mt_error *err),
                         void *data, mt_acquire **out, mt_error **err);
/* Is that so now? */
bool mt_tenant_is_routed(const mt_tenant *t);
/*
 * reader.c. The entry for what reads t at another server (NULL: at its own), in
 * read-only transactions of the same scope; a reference. t's route must be
 * known. It is no tenant in the registry: it goes when t's entry goes, and then
 * takes nothing more (MT_E_CONNECTION_LOST; nothing has run).
 */
int mt_tenant_reader(mt_tenant *t, const char *url, mt_tenant **out,
                     mt_error **err);
/* The tick of the reactor until which something of the tenant's may have
 * written; its readers do not. */
uint64_t mt_tenant_written(const mt_tenant *t);
mt_tenant *mt_tenant_ref(mt_tenant *t);
/* Why no tenant of this id can have that route, as far as the route itself
 * tells; NULL: nothing. */
mt_error *mt_route_problem(const char *id, bool shared, const mt_route *route,
                           const mt_route_options *options);
/* What is wrong with its url, as an error of the route; takes err. */
mt_error *mt_route_url_error(const char *id, mt_error *err);
/* As mt_manager_resolved_with. True: somebody still asked, and it was taken. */
bool mt_manager_answer(mt_manager *m, uint64_t token, const mt_route *route,
                       const mt_route_options *options, const mt_error *err);
/* Something of it is queued, in flight, leased or being connected. */
bool mt_tenant_busy(const mt_tenant *t);

/* Interned SQL of this manager; NULL when memory is short. */
mt_sql *mt_manager_sql(mt_manager *m, const char *sql, size_t len);
/* No callback is made any more: their data is about to go. After dispose. */
void mt_manager_detach(mt_manager *m);
mt_reactor *mt_manager_reactor(const mt_manager *m);
const mt_manager_config *mt_manager_get_config(const mt_manager *m);
bool mt_manager_disposed(const mt_manager *m);
/* The registered entry, or NULL; does not touch its place in the LRU. */
mt_tenant *mt_manager_find(const mt_manager *m, const char *id);
size_t mt_manager_count(const mt_manager *m);
/* Oldest first; `next` of NULL starts, NULL ends. */
mt_tenant *mt_manager_next(const mt_manager *m, const mt_tenant *t);
/* Closes the connections of the tenant's pool, those in use once they are
 * free. False: there is no such entry, or it has no route yet. */
bool mt_manager_retire(mt_manager *m, const char *id);
/* ping.c: for health checks. A tenant's ping is in its scope, so it fails where
 * the schema is gone; neither counts as a use. */
typedef struct mt_ping mt_ping;
typedef enum mt_ping_end {
  MT_PING_OK,
  MT_PING_BUSY,  /* not in time, for others were in front of it */
  MT_PING_FAILED /* or the server did not answer in time */
} mt_ping_end;
/* err is the caller's; NULL for MT_PING_OK. */
typedef void (*mt_ping_fn)(void *data, mt_ping_end end, const mt_error *err,
                           double took_ms);
/* MT_OK: done runs once, later. */
int mt_manager_ping_server(mt_manager *m, const char *server, double timeout_ms,
                           mt_ping_fn done, void *data, mt_ping **out,
                           mt_error **err);
int mt_manager_ping_tenant(mt_manager *m, const char *id, double timeout_ms,
                           mt_ping_fn done, void *data, mt_ping **out,
                           mt_error **err);
void mt_ping_cancel(mt_ping *p); /* done will not run */
/* A pool on the configuration's own server, if nobody has used that yet. */
int mt_manager_use_own_server(mt_manager *m, mt_error **err);
const char *mt_manager_own_server(const mt_manager *m);
typedef struct mt_tenant_view {
  const char *server; /* NULL: it has no route yet */
  size_t waiting;
  int total, idle; /* connections: of a pool of its own, or in use by it */
} mt_tenant_view;
void mt_tenant_look(const mt_tenant *t, mt_tenant_view *v);
/* Unsafe, for tests: pools made from now on reset nothing. */
void mt_manager_keep_sessions(mt_manager *m);
/* A random number in [0, 1) of the manager's generator. */
double mt_manager_random(mt_manager *m);
/* Sums over all pools. */
void mt_manager_stats(const mt_manager *m, mt_pool_stats *out,
                      int *server_connections);

#endif
