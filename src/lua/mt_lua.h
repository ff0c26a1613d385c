/*
 * The binding's inside: one runtime per Lua VM, operations in numbered slots,
 * completions handed to Lua once per turn of the loop.
 *
 * C never yields. A call that waits starts an operation and returns its slot;
 * the Lua scheduler (lua/mtenant/task.lua) suspends the task; when the turn's
 * completions are there, one Lua function is called, which fetches them with
 * next_done() and resumes the tasks. Callbacks run by protected call on one
 * anchored thread.
 */
#ifndef MT_LUA_MT_LUA_H
#define MT_LUA_MT_LUA_H

#include <locale.h>

#include "base/rand.h"
#include "lua/compat.h"
#include "pg/result.h"
#include "reactor/reactor.h"
#include "tenant/tenant.h"

typedef struct mt_rt mt_rt;
typedef struct mt_op mt_op;

typedef enum mt_op_kind {
  MT_OP_SLEEP,
  MT_OP_CONNECT, /* get_db_async */
  MT_OP_ACQUIRE, /* a lease */
  MT_OP_ROUTE,   /* a tenant's route */
  MT_OP_QUERY,   /* on a tenant or on a lease */
  MT_OP_FETCH,   /* rows of a stream */
  MT_OP_PING,    /* of a health check */
  MT_OP_LISTEN,  /* what a listener has heard */
  MT_OP_DISPOSE
} mt_op_kind;

/* How rows are handed out. Order as in lua/mtenant/db.lua. */
typedef enum mt_as { MT_AS_ROWS, MT_AS_ARRAYS, MT_AS_LAZY } mt_as;
/* Beside one of these: part of a pipeline that the user asked for. */
enum { MT_AS_KIND = 15, MT_AS_PIPELINED = 16 };

typedef struct mt_manager_ud {
  mt_rt *rt;
  mt_manager *m;                   /* NULL: closed */
  int callbacks;                   /* registry reference: function(kind, ...) */
  bool hears_tries, hears_entries; /* wants events of each */
} mt_manager_ud;

typedef struct mt_lease_ud {
  mt_rt *rt;
  mt_lease *lease;   /* NULL: released */
  mt_tenant *tenant; /* a reference, for the scope */
  mt_scope *scope;
  char *begin;    /* sent with the first statement */
  char *comment;  /* goes behind each of the user's, owned; NULL: none */
  bool in_tx;     /* BEGIN was sent or will be */
  bool session;   /* scope is set on the session */
  bool scoped;    /* ... and was sent */
  bool fence;     /* fence with the next statement */
  bool looked;    /* the schema is still the same, for what stands alone */
  mt_req *stream; /* single-row request in flight or done */
  bool stream_done;
  struct mt_op *fetch; /* waits for rows */
} mt_lease_ud;

typedef struct mt_listener_ud mt_listener_ud; /* listen.c */

/* A loop that tasks run on, and what is done there. There are two, of which
 * one runs at a time: the real one, and that of mtenant.testing (virtual.c). */
typedef struct mt_loop {
  mt_rt *rt;
  mt_reactor *reactor; /* NULL: not made yet */
  mt_list done;
  mt_defer deliver;
  mt_rand rand;      /* what tasks see as chance */
  uint64_t started;  /* operations */
  uint64_t quiet_at; /* simulated: what had happened when no socket spoke */
  bool borrowed;     /* the host's: neither turned nor freed here */
} mt_loop;

struct mt_op {
  mt_node node; /* loop->done */
  int slot;
  mt_op_kind kind;
  mt_rt *rt;
  mt_loop *loop; /* on which it was started */
  bool finished;
  struct mt_op_timer *timer; /* sleep, or deadline of a query; NULL none */
  bool timer_user;           /* the op's own timeout has passed */
  int stop; /* MT_E_TIMEOUT or MT_E_CANCELLED asked for, 0 no */
  mt_req *req;
  mt_tenant *tenant; /* a reference */
  mt_flight *flight;
  mt_ping *ping;
  bool busy; /* the ping's server was */
  mt_acquire *acquire;
  mt_lease *lease;
  mt_lease_ud *lease_ud; /* its query runs on this lease */
  mt_listener_ud *listener;
  int lease_ref; /* registry reference to the userdata of lease or listener */
  mt_as as;
  bool json;
  mt_error *err;
  int attempts;
  double total_ms;
};

/*
 * What results of one statement have in common, kept between queries: column
 * types and names, and one shared metatable that holds the names and the
 * command, so that a small result costs no tables but its rows. NULL types:
 * none is kept here.
 */
typedef struct mt_shape {
  int columns;
  int info_ref;    /* registry: the metatable */
  int names_ref;   /* registry: an array of the names, ours alone */
  unsigned *types; /* with the texts behind, in one block */
  char *texts;     /* the command's verb and the names, each with its NUL */
} mt_shape;

enum { MT_SHAPES = 256 };

struct mt_rt {
  lua_State *L; /* anchored thread for callbacks */
  int thread_ref, turn_ref, error_mt_ref, marker_mt_ref, json_ref, log_ref;
  mt_loop real, simulated;
  mt_loop *loop; /* the one of the two that runs */
  mt_op **ops;   /* by slot - 1 */
  int nops, capops, *free_slots, nfree;
  mt_shape shapes[MT_SHAPES]; /* by statement */
  locale_t c_locale;          /* numbers as SQL writes them */
  bool closing;               /* the VM goes away: Lua is not called any more */
  int managers, leases, watchers; /* alive, for leak checks */
  int background;                 /* of the watchers */
  const void *db_metatable;
};

/* In the registry; another version of the module has names of its own. */
#define MT_LUA_NAME(name) "mtenant." name " " MT_VERSION

#define MT_LUA_RUNTIME MT_LUA_NAME("runtime")
#define MT_LUA_MANAGER MT_LUA_NAME("manager")
#define MT_LUA_DB MT_LUA_NAME("db")
#define MT_LUA_LEASE MT_LUA_NAME("lease")
#define MT_LUA_LISTENER MT_LUA_NAME("listener")
#define MT_LUA_LAZY MT_LUA_NAME("lazy")
#define MT_LUA_LAZY_ROW MT_LUA_NAME("lazy_row")
#define MT_LUA_WATCH MT_LUA_NAME("watch")
#define MT_LUA_FOLDER MT_LUA_NAME("folder")
#define MT_LUA_SANDBOX MT_LUA_NAME("sandbox")
#define MT_LUA_TALLIES MT_LUA_NAME("tallies")

/* module.c */
mt_rt *mt_lua_rt(lua_State *L);
/* Calls the function and nargs arguments on rt->L; false when it raised (the
 * message is logged to stderr with `what`) and nothing is left then. */
bool mt_lua_call(mt_rt *rt, int nargs, int nresults, const char *what);
/* Pushes an error object; tenant_id may be NULL. */
void mt_lua_push_error(lua_State *L, mt_rt *rt, const mt_error *err,
                       const char *tenant_id, int attempts);
/* Pushes nil and the error, drops the reference, returns 2. */
int mt_lua_fail(lua_State *L, mt_error *err, const char *tenant_id);
/* Raises an error object of code misuse. */
int mt_lua_misuse(lua_State *L, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));
void mt_lua_newclass(lua_State *L, const char *name, const luaL_Reg *methods,
                     const luaL_Reg *meta);
/* Fields of the table on the top; a text that is NULL is left out. */
void mt_lua_set_text(lua_State *L, const char *key, const char *v);
void mt_lua_set_number(lua_State *L, const char *key, double v);
void mt_lua_set_integer(lua_State *L, const char *key, lua_Integer v);
void mt_lua_add_methods(lua_State *L, const char *name,
                        const luaL_Reg *methods);

/* virtual.c */
/* One turn of the simulated loop, its clock moving by at most `within_ms`;
 * before that it waits so many real milliseconds for a descriptor, if any is
 * watched, and a little when it has waited in vain since something was begun.
 * False: nothing was left to do. */
bool mt_virtual_turn(mt_rt *rt, double within_ms, int io_wait_ms);
extern const luaL_Reg mt_lua_virtual_functions[];

/* loop.c */
extern const luaL_Reg mt_lua_loop_functions[];

/* pump.c */
extern const luaL_Reg mt_lua_pump_functions[];
void mt_lua_pump_register(lua_State *L);

/* logfile.c */
/* Says that `what` has failed: to the log, or to stderr where there is none. */
void mt_lua_complain(mt_rt *rt, const char *what, const char *message);
extern const luaL_Reg mt_lua_log_functions[];
void mt_lua_log_register(lua_State *L);

/* ops.c */
mt_op *mt_op_new(lua_State *L, mt_op_kind kind);
/* cb(op) after ms milliseconds, unless it has finished by then; again in place
 * of the last one. False: memory is short. */
bool mt_op_after(mt_op *op, double ms, void (*cb)(mt_op *op));
/* Its result is there (takes err's reference); it is delivered this turn. */
void mt_op_finish(mt_op *op, mt_error *err);
/* Undo for an operation that could not be started. */
void mt_op_drop(mt_op *op);
int mt_op_push_slot(lua_State *L, mt_op *op);
extern const luaL_Reg mt_lua_ops_functions[];
void mt_ops_close(mt_rt *rt);
void mt_ops_forget_simulated(mt_rt *rt);

/* query.c */
enum { MT_INLINE_PARAMS = 16 };
typedef struct mt_params {
  int n;
  const char **values;
  size_t *lens;
  const char *inline_values[MT_INLINE_PARAMS];
  size_t inline_lens[MT_INLINE_PARAMS];
  char inline_bufs[MT_INLINE_PARAMS][40];
} mt_params;
/* Arguments from `first` on as texts, valid while they are on the stack;
 * raises for what has no SQL form. Leaves one value more on the stack. */
void mt_lua_params(lua_State *L, int first, mt_params *p);
void mt_lua_push_list_key(lua_State *L);
/* Prepares op and req for a query; wires them. False: memory is short, and op
 * is to be dropped. */
bool mt_query_wire(mt_op *op, mt_req *req);
void mt_query_cancel(mt_op *op, int code);

/* rows.c */
void mt_lua_push_rows(lua_State *L, mt_rt *rt, mt_req *req, mt_as as,
                      bool json);
/* Pushes an array of the streamed single-row results (cleared here). */
void mt_lua_shapes_free(mt_rt *rt);
void mt_lua_push_batch(lua_State *L, mt_rt *rt, const mt_req *req,
                       mt_result **rows, int n, mt_as as, bool json);
/* value.c */
void mt_lua_push_value(lua_State *L, mt_rt *rt, const char *v, size_t len,
                       unsigned type, bool json);

/* lazy.c */
void mt_lua_push_lazy(lua_State *L, mt_rt *rt, mt_req *req, bool json);
void mt_lua_lazy_register(lua_State *L);
/* manager.c, db.c, lease.c, watch.c, folder.c */
void mt_lua_manager_register(lua_State *L);
int mt_lua_manager_new(lua_State *L);
void mt_lua_db_register(lua_State *L);
void mt_lua_push_db(lua_State *L, mt_tenant *t);
/* SQL at index 2, interned; raises for what is no SQL text. */
mt_sql *mt_lua_check_sql(lua_State *L, mt_manager *m);
/* A copy of the argument at index, a text or nil, in place of the last one. */
void mt_lua_take_text(lua_State *L, int index, char **text);
void mt_lua_lease_register(lua_State *L);
void mt_lua_push_lease(lua_State *L, mt_rt *rt, mt_op *op);
void mt_lua_watch_register(lua_State *L);
int mt_lua_watch_fd(lua_State *L);
void mt_lua_folder_register(lua_State *L);
int mt_lua_watch_folder(lua_State *L);

/* route.c */
int mt_lua_check_route(lua_State *L);
int mt_lua_server_url(lua_State *L);
/* resolved(token, route) or resolved(token, nil, err) */
int mt_lua_resolved(lua_State *L);

/* sandbox.c */
void mt_lua_sandbox_register(lua_State *L);
int mt_lua_sandbox_new(lua_State *L);

/* listen.c */
void mt_lua_listen_register(lua_State *L);
int mt_lua_push_listener(lua_State *L, mt_tenant *t);
void mt_lua_push_events(lua_State *L, mt_op *op);
void mt_lua_listen_cancel(mt_op *op);

/* metrics.c */
extern const luaL_Reg mt_lua_metrics_methods[];
void mt_lua_metrics_register(lua_State *L);

/* health.c */
extern const luaL_Reg mt_lua_health_methods[];
/* What a breaker state is called. */
const char *mt_lua_state_name(mt_breaker_state state);
/* The manager at index 1. */
mt_manager_ud *mt_lua_check_manager(lua_State *L);

/* config.c */
enum { MT_LUA_PATH_NAMES = 32 };
/* The boolean in the table at index 1. */
bool mt_lua_flag(lua_State *L, const char *key);
/* Reads the table at index 1; path has room for MT_LUA_PATH_NAMES + 1. */
void mt_lua_read_config(lua_State *L, mt_manager_config *c, const char **path);

#endif
