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
typedef struct mt_ranked mt_ranked; /* one of the tenants that do most */

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

/* What an entry keeps of the one before it, until its own route is there. */
typedef struct mt_former {
  uint64_t tag, verified;
  mt_scope *scope; /* a reference */
  mt_pool_entry *entry;
} mt_former;

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
  /* How long its route holds, see expiry.c. READY only. */
  uint64_t tag; /* which route of the host's it is, 0 unknown */
  double fresh_until, stale_until;
  uint32_t epoch;    /* manager->epoch when the route came */
  mt_node expiring;  /* in manager->expiring: the host will be told */
  mt_former *former; /* of the entry whose place it takes; else NULL */
  mt_defer freeing;
  char *owner_key;     /* endpoint and schema, in manager->owners */
  uint64_t written;    /* it may have written until that tick: when it became
                          READY, and by entries of its id that have drained */
  mt_list readers;     /* entries of its replicas, while it is registered */
  mt_tenant *of;       /* a reader's: whose it is, a reference */
  char *reader_url;    /* a reader's: where it reads; "": where its tenant is */
  mt_traffic *traffic; /* where it counts: its server's, or the manager's for
                          what has no server yet; NULL: nowhere */
  mt_tally *tally;     /* its own, or the one of all the others */
  mt_ranked *ranked;   /* NULL: it is one of the others */
  mt_node same_rank;   /* in ranked->tenants: of one id, old and new entries */
  uint64_t use;        /* while it is one of the others */
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

/* The entry that is in the registry under t's id now, made if need be, also
 * where the route of the one before is outdated; or NULL with *err set. */
mt_tenant *mt_tenant_live(mt_tenant *t, mt_error **err);
/* Routes first where needed, then as mt_share_submit. `req->scope` is set
 * here. How long the route holds is not looked at: mt_tenant_live does that. */
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
/* listen.c: a connection beside the pools, of its own, on which a program
 * listens; one for all tenants of a database. It may be opened again whenever
 * it was closed. */
typedef struct mt_listener mt_listener;
typedef struct mt_listener_callbacks {
  void (*on_open)(void *data);
  /* Of each statement, in their order; err NULL: it was done. */
  void (*on_answer)(void *data, const mt_error *err);
  void (*on_notify)(void *data, const char *channel, const char *payload);
  void (*on_close)(void *data, const mt_error *err); /* the connection's end */
} mt_listener_callbacks;
/* Where the tenant is now, NULL: it has no route yet. Valid as long as it
 * does. */
const char *mt_tenant_place(const mt_tenant *t);
/* For the database where the tenant, which has a route, is now. */
int mt_listener_new(mt_tenant *t, const mt_listener_callbacks *cbs, void *data,
                    mt_listener **out, mt_error **err);
int mt_listener_open(mt_listener *l, mt_error **err); /* not while open */
/* Between on_open and on_close; false: it is not open. */
bool mt_listener_send(mt_listener *l, const char *sql);
void mt_listener_close(mt_listener *l); /* idempotent */
/* Closes it; no callback runs any more. */
void mt_listener_free(mt_listener *l);
typedef struct mt_tenant_view {
  const char *server; /* NULL: it has no route yet */
  size_t waiting;
  int total, idle; /* connections: of a pool of its own, or in use by it */
} mt_tenant_view;
void mt_tenant_look(const mt_tenant *t, mt_tenant_view *v);
/* Unsafe, for tests: pools made from now on reset nothing. */
void mt_manager_keep_sessions(mt_manager *m);
/* metrics.c: what is counted. A statement has ended for whoever asked for it,
 * whatever becomes of the request; each is told once. err NULL: well. */
void mt_tenant_note_end(mt_tenant *t, const mt_req *req, const mt_error *err);
/* The same for one that was not even let in. */
void mt_tenant_note_refused(mt_tenant *t, const mt_req *req, int code);
/* Somebody was told that he gets no lease, or no more of a stream. */
void mt_tenant_note_failed(mt_tenant *t, int code);
/* Something runs again that has failed with that code. */
void mt_tenant_note_retry(mt_tenant *t, int code);

typedef enum mt_eviction {
  MT_EVICTED_LRU,
  MT_EVICTED_TTL,
  MT_EVICTED_MANUAL,
  MT_EVICTED_ERROR,
  MT_EVICTED_SCHEMA_CHANGED,
  MT_EVICTED_OTHER, /* by the host, for its own reasons */
  MT_EVICTIONS
} mt_eviction;
const char *mt_eviction_name(mt_eviction e);
const uint64_t *mt_manager_evictions(const mt_manager *m);

typedef struct mt_server_counts {
  mt_server_view view;
  mt_pool_stats stats;
  const mt_traffic *traffic; /* NULL: not counted */
} mt_server_counts;
void mt_manager_each_traffic(const mt_manager *m,
                             void (*see)(void *data, const mt_server_counts *c),
                             void *data);
/* Of what had no server: unknown tenants, resolvers that failed. NULL: nothing
 * is counted. */
const mt_traffic *mt_manager_nowhere(const mt_manager *m);
/* Those of the tenants that do most; then, with an id of NULL, all others; then
 * the shared handle, with "". Sums over all are those over all servers. */
void mt_manager_each_tally(const mt_manager *m,
                           void (*see)(void *data, const char *id,
                                       const mt_tally *tally),
                           void *data);
/* Sums over entries that are not among those. */
void mt_manager_look_at_others(const mt_manager *m, mt_tenant_view *v,
                               size_t *tenants);
/* False: the shared handle has not been used. */
bool mt_manager_look_at_shared(const mt_manager *m, mt_tenant_view *v);
/* A random number in [0, 1) of the manager's generator. */
double mt_manager_random(mt_manager *m);
/* Sums over all pools. */
void mt_manager_stats(const mt_manager *m, mt_pool_stats *out,
                      int *server_connections);

#endif
