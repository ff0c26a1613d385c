/*
 * A C program with no Lua: it connects two tenants with retry, prints rows,
 * and writes in a transaction that is tried again when the server asks
 * for it. DATABASE_URL names a database with a schema tenant_ID for each.
 *
 *   cc plain.c $(pkg-config --cflags --libs mtenant) -o plain
 *   DATABASE_URL=postgres:///app ./plain acme globex
 *
 * The library makes the loop here; embed.c runs on the host's.
 */
#include <mtenant.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct app {
  mt_manager *manager;
  int left;   /* tenants that are not done */
  int failed; /* ... and those that did not succeed */
} app;

typedef struct work {
  app *app;
  mt_tenant *tenant;
  mt_tx *tx;
  int attempt;
} work;

static void finish(work *w, const char *what, const mt_error *err) {
  if (err) {
    fprintf(stderr, "%s: %s: %s (%s%s)\n", mt_tenant_id(w->tenant), what,
            err->message, mt_code_name(err->code),
            err->ambiguous ? ", outcome unknown" : "");
    w->app->failed++;
  }
  mt_tx_rollback(w->tx); /* NULL where none is open */
  w->tx = NULL;
  mt_tenant_unref(w->tenant);
  w->app->left--;
}

/* For calls that did not start: the error is ours to free. */
static void refuse(work *w, const char *what, mt_error *err) {
  finish(w, what, err);
  mt_error_unref(err);
}

/* ---- 3. a transaction ----------------------------------------------------- */

static void start_transaction(work *w);

static void on_committed(void *data, const mt_error *err) {
  work *w = data;
  if (!err) printf("%s: committed\n", mt_tenant_id(w->tenant));
  finish(w, "commit", err);
}

static void on_inserted(void *data, const mt_result *r, const mt_error *err) {
  work *w = data;
  mt_tx *tx = w->tx;
  if (err && err->retryable && w->attempt < 3 &&
      mt_tenant_take_retry(w->tenant)) {
    mt_tx_rollback(tx); /* a program with timers would wait here */
    w->tx = NULL;
    w->attempt++;
    start_transaction(w);
    return;
  }
  if (err) {
    finish(w, "insert", err);
    return;
  }
  printf("%s: %s\n", mt_tenant_id(w->tenant), mt_result_command(r));
  w->tx = NULL; /* the commit takes it */
  mt_tx_commit(tx, on_committed, w);
}

static void on_begun(void *data, mt_tx *tx, const mt_error *err) {
  const char *params[] = {"written in C"};
  work *w = data;
  mt_error *why = NULL;
  w->tx = tx;
  if (err)
    finish(w, "begin", err);
  else if (mt_tx_query(tx, "INSERT INTO notes (body) VALUES ($1), (NULL)", 1,
                       params, 1000, on_inserted, w, &why) != MT_OK)
    refuse(w, "insert", why);
}

static void start_transaction(work *w) {
  const mt_tx_options options = {MT_SERIALIZABLE, false, false};
  mt_error *err = NULL;
  if (mt_tenant_begin(w->tenant, &options, on_begun, w, NULL, &err) != MT_OK)
    refuse(w, "begin", err);
}

/* ---- 2. a statement -------------------------------------------------------- */

static void on_rows(void *data, const mt_result *r, const mt_error *err) {
  work *w = data;
  int row, column;
  if (err) {
    finish(w, "select", err);
    return;
  }
  for (row = 0; row < mt_result_rows(r); row++)
    for (column = 0; column < mt_result_columns(r); column++) {
      const char *value = mt_result_value(r, row, column);
      printf("%s: %s = %s\n", mt_tenant_id(w->tenant),
             mt_result_name(r, column), value ? value : "NULL");
    }
  start_transaction(w);
}

/* ---- 1. connect, with retry ------------------------------------------------ */

static void on_connected(void *data, const mt_error *err, int attempts,
                         double total_time_ms) {
  const char *params[] = {"42"};
  work *w = data;
  mt_error *why = NULL;
  (void)attempts;
  (void)total_time_ms;
  if (err)
    finish(w, "connect", err);
  else if (mt_tenant_query(w->tenant,
                           "SELECT current_schema() AS schema, $1::int AS n, "
                           "NULL AS nothing",
                           1, params, 1000, on_rows, w, &why) != MT_OK)
    refuse(w, "select", why);
}

/* Where does the tenant live? May also be answered later. */
static void on_resolve(mt_manager *m, const char *id, uint64_t token,
                       void *data) {
  char schema[64];
  mt_route route = {0};
  (void)data;
  snprintf(schema, sizeof schema, "tenant_%s", id);
  route.schema = schema;
  mt_manager_resolved(m, token, &route, NULL);
}

static void on_retry(mt_manager *m, const char *id, int attempt,
                     const mt_error *err, double elapsed_ms, double *delay_ms,
                     void *data) {
  (void)m;
  (void)elapsed_ms;
  (void)data;
  fprintf(stderr, "%s: attempt %d: %s; again in %.0f ms\n", id, attempt,
          err->message, *delay_ms);
}

static void start(app *a, work *w, const char *id) {
  mt_error *err = NULL;
  w->app = a;
  if (mt_manager_tenant(a->manager, id, &w->tenant, &err) != MT_OK) {
    fprintf(stderr, "%s: %s\n", id, err->message);
    mt_error_unref(err);
    a->failed++;
    return;
  }
  a->left++;
  if (mt_tenant_connect(w->tenant, on_connected, w, NULL, &err) != MT_OK)
    refuse(w, "connect", err);
}

static void on_disposed(void *data) { *(int *)data = 1; }

int main(int argc, char **argv) {
  app a = {0};
  work *works = calloc((size_t)argc, sizeof *works);
  mt_reactor *reactor;
  mt_manager_config config;
  mt_manager_callbacks callbacks = {0};
  mt_error *err = NULL;
  mt_stats stats;
  int i, disposed = 0;

  setvbuf(stdout, NULL, _IOLBF, 0);
  if (!works || mt_check_abi(MT_ABI_VERSION) != MT_OK ||
      mt_reactor_ev_new(NULL, &reactor) != MT_OK)
    return 1;
  mt_manager_config_init(&config);
  config.url = getenv("DATABASE_URL");
  config.retry.max_attempts = 5;
  callbacks.resolve = on_resolve;
  callbacks.on_retry = on_retry;
  if (mt_manager_new(reactor, &config, &callbacks, &a, &a.manager, &err) !=
      MT_OK) {
    fprintf(stderr, "%s\n", err->message);
    mt_error_unref(err);
    return 1;
  }

  for (i = 1; i < argc; i++) start(&a, &works[i], argv[i]);
  while (a.left > 0) mt_reactor_run_once(reactor, true);

  mt_manager_read_stats(a.manager, &stats, sizeof stats);
  printf("%d tenants\n", (int)stats.tenants);
  mt_manager_dispose(a.manager, 0, on_disposed, &disposed);
  while (!disposed) mt_reactor_run_once(reactor, true);
  mt_manager_free(a.manager);
  mt_reactor_free(reactor);
  free(works);
  return a.failed > 0;
}
