/*
 * mtenant.h: the public C API of libmtenant.
 *
 * An embedded runtime for multi-tenant PostgreSQL: pooled asynchronous
 * connections, retry and tenant routing. Names that start with `mt_` are the
 * only exported ones. What holds for every function:
 *
 *   Threads      Everything runs on one thread, the thread of the event loop:
 *                calls are made there, and callbacks run there. No call
 *                blocks. Two reactors on two threads share nothing.
 *   Callbacks    run from the loop, never from within the call that they are
 *                given to. They may call anything but mt_manager_free and
 *                mt_reactor_free.
 *   Results      A call that may fail returns MT_OK or a negative MT_E_*. Then
 *                it has done nothing, calls nobody back, and has stored an
 *                error in *err, which the caller frees by mt_error_unref; err
 *                may be NULL.
 *   Ownership    String arguments are copied. A returned string belongs to the
 *                object it was read from. What a callback is given is valid
 *                until it returns.
 *   Time         Durations are milliseconds (double) and end in `_ms`.
 *   Text         UTF-8, ended by NUL.
 *   Structs      that a caller fills in only ever grow at their end, and say
 *                how long they are where they may (mt_manager_config,
 *                mt_stats). Any other change is another MT_ABI_VERSION, and
 *                another soname. Zero a struct before filling it in.
 */
#ifndef MTENANT_H
#define MTENANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MT_VERSION "0.1.0"
#define MT_ABI_VERSION 1

#if defined(__GNUC__)
#define MT_API __attribute__((visibility("default")))
#else
#define MT_API
#endif

/* ---- versions ----------------------------------------------------------- */

/* Of the library that runs: "0.1.0", and its MT_ABI_VERSION. */
MT_API const char *mt_version(void);
MT_API int mt_abi_version(void);

/* ---- errors ------------------------------------------------------------ */

/* X(enum suffix, name, retryable while connecting) */
#define MT_CODE_MAP(X)                               \
  X(REFUSED, "refused", 1)                           \
  X(UNREACHABLE, "unreachable", 1)                   \
  X(DNS, "dns", 1)                                   \
  X(AUTH, "auth", 0)                                 \
  X(TLS, "tls", 0)                                   \
  X(STARTING_UP, "starting_up", 1)                   \
  X(TOO_MANY_CONNECTIONS, "too_many_connections", 1) \
  X(CONNECTION_LOST, "connection_lost", 1)           \
  X(TIMEOUT, "timeout", 0)                           \
  X(CANCELLED, "cancelled", 0)                       \
  X(POOL_EXHAUSTED, "pool_exhausted", 0)             \
  X(BREAKER_OPEN, "breaker_open", 0)                 \
  X(TENANT_NOT_FOUND, "tenant_not_found", 0)         \
  X(INVALID_TENANT_ID, "invalid_tenant_id", 0)       \
  X(POLICY, "policy", 0)                             \
  X(QUERY, "query", 0)                               \
  X(PROTOCOL, "protocol", 0)                         \
  X(OUT_OF_MEMORY, "out_of_memory", 0)               \
  X(DISPOSED, "disposed", 0)                         \
  X(MISUSE, "misuse", 0)

/* Results of calls are MT_OK or one of these, negative. */
#define MT__CODE_ORD(suffix, name, retry) MT__ORD_##suffix,
enum { MT__ORD_OK, MT_CODE_MAP(MT__CODE_ORD) MT__ORD_COUNT };
#define MT__CODE_ENUM(suffix, name, retry) MT_E_##suffix = -MT__ORD_##suffix,
typedef enum mt_code { MT_OK = 0, MT_CODE_MAP(MT__CODE_ENUM) } mt_code;

/* MT_OK if the library that runs is one for this header. To be asked first by
 * who loads the library at run time; the linker sees to it otherwise. */
static inline int mt_check_abi(int wanted) {
  return mt_abi_version() == wanted ? MT_OK : MT_E_MISUSE;
}

/*
 * What went wrong. Immutable and counted: an error handed to a callback is
 * valid until the callback returns; mt_error_ref keeps it longer.
 */
typedef struct mt_error {
  int code;             /* MT_E_* */
  int refs;             /* private; 0 marks the static out-of-memory error */
  int position;         /* 1-based character in the statement, 0 unknown */
  int statement_number; /* of several statements sent at once: which one
                           failed, from 1; 0 unknown */
  bool retryable;       /* trying the same thing again may help */
  bool ambiguous;       /* a statement was sent, its outcome is unknown */
  char sqlstate[6];     /* "" unless the server said one */
  char severity[12];
  char *detail, *hint, *statement, *server; /* NULL when absent */
#ifdef __cplusplus
  char message[1]; /* longer than that: C++ has no such arrays */
#else
  char message[]; /* one line, no secrets */
#endif
} mt_error;

/* "refused" for MT_E_REFUSED ..., "ok" for MT_OK. Never NULL. */
MT_API const char *mt_code_name(int code);
/* One reference more, which mt_error_unref gives back. */
MT_API mt_error *mt_error_ref(const mt_error *err);
MT_API void mt_error_unref(const mt_error *err); /* NULL is allowed */

/* ---- backoff (docs/retry.md) ------------------------------------------- */

typedef enum mt_jitter {
  MT_JITTER_NONE,
  MT_JITTER_SEED,        /* delay * (1 + U[0, 0.25)), the default */
  MT_JITTER_FULL,        /* U[0, delay] */
  MT_JITTER_EQUAL,       /* delay/2 + U[0, delay/2] */
  MT_JITTER_DECORRELATED /* min(max, U[initial, 3 * previous]) */
} mt_jitter;

typedef struct mt_retry_policy {
  int max_attempts; /* counts the first try; at least 1 */
  double initial_delay_ms, max_delay_ms, multiplier;
  mt_jitter jitter;
  double deadline_ms; /* over all attempts; 0: none */
} mt_retry_policy;

#define MT_RETRY_POLICY_DEFAULT \
  { 3, 100, 5000, 2, MT_JITTER_SEED, 0 }

/*
 * The wait after try `attempt` (from 0) failed, in whole milliseconds.
 * `u` is a random number in [0, 1); `previous_ms` is the last delay, used by
 * decorrelated jitter only. Pure.
 */
MT_API double mt_backoff_delay(const mt_retry_policy *p, int attempt, double u,
                               double previous_ms);

/* ---- the loop ----------------------------------------------------------- */

typedef struct mt_reactor mt_reactor;
struct ev_loop;

/*
 * A reactor on libev. With NULL it makes a loop of its own, to be turned by
 * mt_reactor_run_once. With `loop` it uses the caller's, which it never runs,
 * breaks or destroys, and whose thread all calls are made on. Returns MT_OK or
 * MT_E_OUT_OF_MEMORY. A host should use mt_reactor_ev_attach instead.
 *
 * What nobody waits for (idle connections, maintenance) does not keep ev_run
 * from returning; what is under way does. If the loop is destroyed before the
 * reactor is freed, the reactor goes on with a loop of its own: dispose of the
 * managers then, calling mt_reactor_run_once until they are gone. After fork
 * the child may only use a reactor that was made in it.
 */
MT_API int mt_reactor_ev_new(struct ev_loop *loop, mt_reactor **out);
/*
 * A reactor for any other loop: one descriptor, to be watched for reading, and
 * a step to take when it is readable (or at any other time). Nothing else is
 * to be set: its timers make the descriptor readable, too.
 * Returns MT_OK or MT_E_OUT_OF_MEMORY (which the limit of open files also is).
 */
MT_API int mt_reactor_poll_new(mt_reactor **out);
/* The descriptor, which stays the reactor's: it is neither read nor closed by
 * the caller. -1 for a reactor of another kind. */
MT_API int mt_reactor_fd(const mt_reactor *r);
/* Does what there is to do, without blocking. A step within a step, out of a
 * callback, does nothing. */
MT_API void mt_reactor_step(mt_reactor *r);
/* Milliseconds until there is something to do even if the descriptor does not
 * become readable, -1: nothing. For loops that like to know; the descriptor
 * says the same. */
MT_API double mt_reactor_timeout_ms(mt_reactor *r);
/* Only when everything made on it is gone. NULL is allowed. */
MT_API void mt_reactor_free(mt_reactor *r);
/* One turn; with `block` it may wait for events. For reactors that own their
 * loop; does nothing on a host's. */
MT_API void mt_reactor_run_once(mt_reactor *r, bool block);
/* Monotonic milliseconds. */
MT_API double mt_reactor_now(mt_reactor *r);

/* How a program has compiled libev's header. */
typedef struct mt_ev_abi {
  size_t size; /* of this struct */
  int version_major, multiplicity, minpri, maxpri;
  size_t io_size, timer_size;
  void (*io_start)(void); /* ev_io_start, whatever its type */
} mt_ev_abi;

/* mt_reactor_ev_attach, for who can't call an inline function. */
MT_API int mt_reactor_ev_attach_abi(struct ev_loop *loop, const mt_ev_abi *abi,
                                    mt_reactor **out, mt_error **err);

/*
 * As mt_reactor_ev_new on the host's loop, which may not be NULL, but first
 * compares how the host's file and this library see libev: EV_MULTIPLICITY,
 * EV_COMMON, the priorities, or another copy of libev in the process would
 * crash otherwise. MT_E_MISUSE says what differs; nothing is touched then.
 * There only where ev.h was included before this header.
 */
#if defined(EV_VERSION_MAJOR)
static inline int mt_reactor_ev_attach(struct ev_loop *loop, mt_reactor **out,
                                       mt_error **err) {
  mt_ev_abi abi;
  abi.size = sizeof abi;
  abi.version_major = EV_VERSION_MAJOR;
  abi.multiplicity = !!(EV_MULTIPLICITY);
  abi.minpri = EV_MINPRI;
  abi.maxpri = EV_MAXPRI;
  abi.io_size = sizeof(ev_io);
  abi.timer_size = sizeof(ev_timer);
  abi.io_start = (void (*)(void))ev_io_start;
  return mt_reactor_ev_attach_abi(loop, &abi, out, err);
}
#endif

/* ---- log ---------------------------------------------------------------- */

/* Kinds are those of the debug events: "pool_created", "connection_retry" ...
 */
typedef struct mt_event {
  const char *kind;
  const char *tenant_id; /* NULL: none, "shared": the shared handle */
  const char *schema;
  const char *reason; /* eviction reason */
  const mt_error *error;
  int attempt, max_attempts;
  double delay_ms, total_time_ms;
} mt_event;

/* ---- manager ------------------------------------------------------------ */

typedef struct mt_manager mt_manager;
typedef struct mt_tenant mt_tenant;
typedef struct mt_flight mt_flight;

/* Where a tenant lives. All strings are copied by mt_manager_resolved. */
typedef struct mt_route {
  const char *url;      /* NULL: the manager's */
  const char *schema;   /* required */
  const char *role;     /* NULL: the login's */
  const char *database; /* NULL: the url's; else `public` may be the schema */
  /* Strategy row: several tenants share the schema, and this setting tells
   * its row security policies whose rows to show. Both, or NULL. */
  const char *setting, *setting_value;
} mt_route;

/* Whose the connections of a tenant are: see isolation.mode. */
typedef enum mt_pool_mode {
  MT_POOL_AS_CONFIGURED,
  MT_POOL_SHARED,
  MT_POOL_DEDICATED
} mt_pool_mode;

/* What a route may say beside where the tenant lives. Zero it, set size. */
typedef struct mt_route_options {
  size_t size;
  /* Run-time parameters of its statements: name, value, name, value, ..., NULL;
   * at most 16. NULL: none. docs/configuration.md says which are refused. */
  const char *const *settings;
  int pool_max, max_waiting; /* of this tenant; 0: the manager's */
  mt_pool_mode mode;
} mt_route_options;

/* What happens to a connection between one tenant's session and another's. */
typedef enum mt_reset_mode {
  MT_RESET_AUTO,        /* what touched its session is reset, and verified */
  MT_RESET_ALWAYS,      /* after every transaction and session */
  MT_RESET_DISCARD_ALL, /* as auto, by DISCARD ALL: plans go too */
  MT_RESET_NEVER        /* unsafe: shows what the others prevent */
} mt_reset_mode;

/* What a statement does that finds every connection taken. */
typedef enum mt_queue_policy {
  MT_QUEUE_WAIT,     /* waits its turn, acquire_timeout_ms at most */
  MT_QUEUE_REJECT,   /* fails at once */
  MT_QUEUE_EVICT_LRU /* takes the place of the connection of another pool that
                        was idle for longest; waits if there is none */
} mt_queue_policy;

/* What a statement does that comes before its tenant's rate allows it. */
typedef enum mt_rate_mode {
  MT_RATE_QUEUE,   /* waits its turn, acquire_timeout_ms at most */
  MT_RATE_REJECT,  /* fails at once */
  MT_RATE_THROTTLE /* waits for as long as it takes */
} mt_rate_mode;

/* A tenant's statements a second. Those inside a transaction or session are
 * never held back, what comes next is; so the rate holds on average. */
typedef struct mt_rate_limit {
  double per_second; /* 0: no limit */
  double burst;      /* so many at once, at least 1 */
  mt_rate_mode mode;
} mt_rate_limit;

/* When a server that does not answer is tried again. */
typedef struct mt_breaker_options {
  int failure_threshold;    /* connection attempts that fail in a row */
  double initial_delay_ms;  /* then one attempt after so long, */
  double max_delay_ms;      /* the next after twice that, at most this long */
  double break_duration_ms; /* not 0: always so long instead */
  bool fail_fast; /* statements fail with MT_E_BREAKER_OPEN meanwhile, instead
                     of waiting for the next attempt */
  double failure_ratio;   /* not 0: it opens also when so many of the attempts
                             of the last sampling_duration_ms have failed, */
  int minimum_throughput; /* ... given so many, whatever is open already */
  double sampling_duration_ms;
} mt_breaker_options;

typedef enum mt_breaker_state {
  MT_BREAKER_CLOSED,
  MT_BREAKER_OPEN,
  MT_BREAKER_HALF_OPEN, /* an attempt is under way */
  MT_BREAKER_ISOLATED   /* by hand */
} mt_breaker_state;

/* What may run again: of each server, a token bucket. */
typedef struct mt_retry_budget {
  bool enabled;
  double per_second;   /* tokens that time brings */
  double ratio;        /* ... and each statement */
  double burst;        /* at most so many */
  double tenant_share; /* of these figures: what one tenant has of its own */
} mt_retry_budget;

typedef struct mt_manager_config {
  size_t size;     /* by mt_manager_config_init */
  const char *url; /* NULL: libpq's environment */
  const char *application_name;
  int pool_max, pool_min, max_waiting, cache_statements;
  double idle_timeout_ms, connect_timeout_ms, acquire_timeout_ms,
      max_lifetime_ms, cancel_timeout_ms, statement_timeout_ms,
      idle_transaction_timeout_ms; /* the last: 0, the server's */
  int max_connections;             /* 0: "auto" */
  int processes; /* that share the server's budget evenly; 0 is 1 */
  int max_tenants_touched;
  mt_retry_policy retry;
  bool dedicated, verify_schema;
  mt_reset_mode reset;
  bool pooled; /* behind a pooler in transaction mode (docs/pgbouncer.md) */
  mt_queue_policy queue_policy;
  mt_rate_limit rate_limit;   /* of each tenant */
  mt_breaker_options breaker; /* of each server */
  mt_retry_budget retry_budget;
  int max_pools;
  double pool_ttl_ms;             /* 0: never */
  const char *const *search_path; /* NULL-ended; "$tenant" is the schema */
  uint64_t seed;                  /* 0: from the clock and the pid */
} mt_manager_config;

/* Defaults of docs/configuration.md; must come first. A library that knows
 * more fields than the caller leaves the others at their defaults. */
MT_API void mt_manager_config_init_size(mt_manager_config *c, size_t size);
static inline void mt_manager_config_init(mt_manager_config *c) {
  mt_manager_config_init_size(c, sizeof *c);
}

/* None of them may wait. They run from the loop; on_event and password also
 * from within calls. */
typedef struct mt_manager_callbacks {
  /*
   * Required. Asked once per new tenant entry: answer now or later with
   * mt_manager_resolved(m, token, route or NULL, error or NULL).
   */
  void (*resolve)(mt_manager *m, const char *tenant_id, uint64_t token,
                  void *data);
  /*
   * Optional: may the failed attempt be tried again, and after which delay?
   * `*delay_ms` holds the computed delay; a negative value stops.
   */
  void (*on_retry)(mt_manager *m, const char *tenant_id, int attempt,
                   const mt_error *err, double elapsed_ms, double *delay_ms,
                   void *data);
  /* Optional: overrides whether `err` is worth another attempt. */
  bool (*is_retryable)(mt_manager *m, const mt_error *err, void *data);
  /* Optional: debug events and hooks. */
  void (*on_event)(mt_manager *m, const mt_event *ev, void *data);
  /* Optional: writes the password into buf (NUL-ended), false: none. */
  bool (*password)(mt_manager *m, char *buf, size_t size, void *data);
} mt_manager_callbacks;

/*
 * Makes a manager; no I/O. On failure *err (may be NULL) is set and owned by
 * the caller. `data` is handed to every callback.
 */
MT_API int mt_manager_new(mt_reactor *r, const mt_manager_config *config,
                          const mt_manager_callbacks *cbs, void *data,
                          mt_manager **out, mt_error **err);
/* The answer to `resolve`, exactly once per token, at once or later, also after
 * dispose. NULL and NULL is MT_E_TENANT_NOT_FOUND. */
MT_API void mt_manager_resolved(mt_manager *m, uint64_t token,
                                const mt_route *route, const mt_error *err);
/* The same for a route that has options (NULL: none). */
MT_API void mt_manager_resolved_with(mt_manager *m, uint64_t token,
                                     const mt_route *route,
                                     const mt_route_options *options,
                                     const mt_error *err);
/*
 * Fails every waiter with MT_E_DISPOSED, cancels what runs, closes all
 * connections, then calls `done` (may be NULL) exactly once and not before
 * this returns. Idempotent: every call's `done` is called; one given while an
 * earlier one waits needs memory, and where there is none is called at once.
 * timeout_ms <= 0 takes the default of 5000.
 */
MT_API void mt_manager_dispose(mt_manager *m, double timeout_ms,
                               void (*done)(void *data), void *data);
/* After dispose has called back (or before any use). Handles stay valid until
 * they are released. */
MT_API void mt_manager_free(mt_manager *m);

/*
 * The entry of a tenant, made if there is none; no I/O. The id must already
 * be valid. The caller owns one reference: mt_tenant_unref.
 */
MT_API int mt_manager_tenant(mt_manager *m, const char *id, mt_tenant **out,
                             mt_error **err);
/* The shared handle (scope `public`), same ownership. */
MT_API int mt_manager_shared(mt_manager *m, mt_tenant **out, mt_error **err);
MT_API void mt_tenant_unref(mt_tenant *t);
/* The id; NULL for the shared handle. */
MT_API const char *mt_tenant_id(const mt_tenant *t);
/* The schema, or NULL while no route is known. */
MT_API const char *mt_tenant_schema(const mt_tenant *t);

/*
 * Routed, fenced, connected and pinged, with retry; concurrent calls share
 * one flight. Returns MT_OK (then `done` is called exactly once, later) or an
 * error (then never). `*out` (may be NULL) allows mt_flight_cancel.
 */
typedef void (*mt_connect_fn)(void *data, const mt_error *err, int attempts,
                              double total_time_ms);
MT_API int mt_tenant_connect(mt_tenant *t, mt_connect_fn done, void *data,
                             mt_flight **out, mt_error **err);
/* The waiter gets MT_E_CANCELLED in the next turn; the flight goes on for
 * others. */
MT_API void mt_flight_cancel(mt_flight *f);

#ifdef __cplusplus
}
#endif

#include "mtenant_control.h"
#include "mtenant_query.h"

#endif
