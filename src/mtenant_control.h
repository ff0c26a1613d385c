/*
 * mtenant_control.h: the part of mtenant.h that looks after a manager while it
 * serves: figures, servers and their breakers, tenants that move or go. The
 * rules are those in the head of mtenant.h, which includes this file.
 */
#ifndef MTENANT_CONTROL_H
#define MTENANT_CONTROL_H

#include "mtenant.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sums since the manager was made, over all its servers. */
typedef struct mt_stats {
  uint64_t opened, lost, connect_failures, retired; /* connections */
  uint64_t leases, requests; /* transactions and sessions; statements */
  uint64_t resets, tainted;  /* sessions that were reset, or closed instead */
  uint64_t queue_full, queue_timeouts, rate_limited; /* refused */
  uint64_t retries, retries_refused;                 /* by the retry budget */
  int open;                                          /* connections, now */
  size_t tenants;                                    /* entries, now */
} mt_stats;

/* Fills in *out; `size` is sizeof *out, fields beyond the library's are 0. */
MT_API void mt_manager_read_stats(const mt_manager *m, mt_stats *out,
                                  size_t size);

/* A server as it is now. Texts are valid until the callback returns. */
typedef struct mt_server_view {
  const char *name;
  mt_breaker_state state;
  const mt_error *cause; /* of the last failure, while it is open; or NULL */
  bool paused;
  int live, idle, connecting, cap; /* connections; cap: at most so many */
  size_t waiting, pools;
} mt_server_view;

/* Calls `see` for each server that is in use, before it returns. `see` may not
 * call the manager. */
MT_API void mt_manager_each_server(const mt_manager *m,
                                   void (*see)(void *data,
                                               const mt_server_view *v),
                                   void *data);

/*
 * The breaker of a server by its name (mt_server_view, mt_error.server). False:
 * nobody has used it yet. Isolated, it is not connected to until its breaker is
 * closed, and statements fail with MT_E_BREAKER_OPEN; closing also forgets
 * failures, so that it is tried at once.
 */
MT_API bool mt_manager_breaker(const mt_manager *m, const char *server,
                               mt_breaker_state *out);
MT_API bool mt_manager_isolate(mt_manager *m, const char *server);
MT_API bool mt_manager_close_breaker(mt_manager *m, const char *server);
/* What is queued for it waits until it is resumed; false as above. Quiet:
 * nothing runs there any more. */
MT_API bool mt_manager_pause_server(mt_manager *m, const char *server);
MT_API bool mt_manager_resume_server(mt_manager *m, const char *server);
MT_API bool mt_manager_server_quiet(const mt_manager *m, const char *server);
/* Connections to the server (NULL: to all) are replaced: idle ones go at once,
 * those in use when they are free. Returns how many pools that concerned. */
MT_API int mt_manager_reconnect(mt_manager *m, const char *server);

/* Drops a tenant's entry: its route is asked for again at its next use. What is
 * in flight finishes. `reason` is the event's, it must stay valid as long as
 * the event: a literal. False: there was none. */
MT_API bool mt_manager_evict(mt_manager *m, const char *id, const char *reason);
/* What the tenant has begun is done, what comes waits until it is resumed, its
 * own timeouts excepted; made if need be, the entry stays. */
MT_API int mt_manager_pause(mt_manager *m, const char *id, mt_error **err);
/* False: it was not paused. */
MT_API bool mt_manager_resume(mt_manager *m, const char *id);
/* Nothing of the tenant is queued or runs. */
MT_API bool mt_manager_quiet(const mt_manager *m, const char *id);

/* Takes over what may change while the manager serves: sizes and budgets of
 * connections, time limits, retry, rate limit, breaker, limits of tenants.
 * Connections that are open stay. `c` starts with mt_manager_config_init. */
MT_API void mt_manager_reconfigure(mt_manager *m, const mt_manager_config *c);

#ifdef __cplusplus
}
#endif

#endif
