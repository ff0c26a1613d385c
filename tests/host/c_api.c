/*
 * The public C API as a host with a libev loop of its own sees it: through the
 * installed header and the shared library. Run by c_hosts.sh, which names the
 * database in DATABASE_URL. Prints `ok NAME` for each check.
 */
#include <ev.h>
#include <mtenant.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ending.h"

/* ---- a host ------------------------------------------------------------------ */

static struct ev_loop *loop;
static mt_reactor *reactor;
static mt_manager *manager;
static mt_tenant *acme;

static void resolve(mt_manager *m, const char *id, uint64_t token, void *data) {
  char schema[64];
  mt_route route = {0};
  (void)data;
  snprintf(schema, sizeof schema, "tenant_%s", id);
  route.schema = schema;
  mt_manager_resolved(m, token, &route, NULL);
}

static void run(void) { mt_host_run(loop, 20.); }

static void open_host(void) {
  mt_manager_callbacks cbs = {0};
  mt_manager_config config;
  mt_manager_config_init(&config);
  config.url = getenv("DATABASE_URL");
  config.max_connections = 4;
  cbs.resolve = resolve;
  loop = ev_loop_new(EVFLAG_AUTO);
  CHECK(mt_reactor_ev_attach(loop, &reactor, NULL) == MT_OK);
  CHECK(mt_manager_new(reactor, &config, &cbs, NULL, &manager, NULL) == MT_OK);
  CHECK(mt_manager_tenant(manager, "acme", &acme, NULL) == MT_OK);
}

static void on_disposed(void *data) { ++*(int *)data; }

static void close_host(void) {
  int disposed = 0;
  mt_tenant_unref(acme);
  mt_manager_dispose(manager, 0, on_disposed, &disposed);
  run();
  CHECK(disposed == 1);
  mt_manager_free(manager);
  mt_reactor_free(reactor);
  ev_loop_destroy(loop);
}

/* ---- answers ------------------------------------------------------------------ */

typedef struct answer {
  int done, code;
  bool retryable, ambiguous;
  char text[64], command[32], sqlstate[6];
} answer;

static void note(answer *a, const mt_error *err) {
  a->done++;
  a->code = err ? err->code : MT_OK;
  if (!err) return;
  a->retryable = err->retryable;
  a->ambiguous = err->ambiguous;
  memcpy(a->sqlstate, err->sqlstate, sizeof a->sqlstate);
}

static void on_answer(void *data, const mt_result *r, const mt_error *err) {
  answer *a = data;
  note(a, err);
  if (err) return;
  snprintf(a->command, sizeof a->command, "%s", mt_result_command(r));
  if (mt_result_rows(r) == 0) return;
  snprintf(a->text, sizeof a->text, "%s", mt_result_value(r, 0, 0));
  CHECK(mt_result_length(r, 0, 0) == strlen(a->text));
  CHECK(mt_result_type(r, 0) != 0);
}

static answer ask(const char *sql) {
  answer a = {0};
  CHECK(mt_tenant_query(acme, sql, 0, NULL, 0, on_answer, &a, NULL) == MT_OK);
  CHECK(!a.done);
  run();
  CHECK(a.done == 1);
  return a;
}

static mt_tx *begun;
static int begins;

static void on_begun(void *data, mt_tx *tx, const mt_error *err) {
  begins++;
  begun = tx;
  if (data) note(data, err);
}

static mt_tx *begin_for(mt_tenant *t, const mt_tx_options *options) {
  begun = NULL;
  CHECK(mt_tenant_begin(t, options, on_begun, NULL, NULL, NULL) == MT_OK);
  run();
  CHECK(begun);
  return begun;
}

static mt_tx *begin(const mt_tx_options *options) {
  return begin_for(acme, options);
}

static answer tx_ask(mt_tx *tx, const char *sql, double timeout_ms) {
  answer a = {0};
  CHECK(mt_tx_query(tx, sql, 0, NULL, timeout_ms, on_answer, &a, NULL) ==
        MT_OK);
  run();
  CHECK(a.done == 1);
  return a;
}

static void on_committed(void *data, const mt_error *err) { note(data, err); }

static answer commit(mt_tx *tx) {
  answer a = {0};
  mt_tx_commit(tx, on_committed, &a);
  CHECK(!a.done);
  run();
  CHECK(a.done == 1);
  return a;
}

static int notes(void) { return atoi(ask("SELECT count(*) FROM notes").text); }

/* ---- the library and its loop --------------------------------------------------- */

static void versions(void) {
  CHECK(mt_check_abi(MT_ABI_VERSION) == MT_OK);
  CHECK(mt_check_abi(MT_ABI_VERSION + 1) == MT_E_MISUSE);
  CHECK(strcmp(mt_version(), MT_VERSION) == 0);
}

static int attach(mt_ev_abi *abi) {
  mt_reactor *r = NULL;
  mt_error *err = NULL;
  int rc = mt_reactor_ev_attach_abi(loop, abi, &r, &err);
  CHECK((rc == MT_OK) == !err);
  mt_error_unref(err);
  mt_reactor_free(r);
  return rc;
}

static void another_libev_is_refused(void) {
  const mt_ev_abi good = {sizeof good,
                          EV_VERSION_MAJOR,
                          1,
                          EV_MINPRI,
                          EV_MAXPRI,
                          sizeof(ev_io),
                          sizeof(ev_timer),
                          (void (*)(void))ev_io_start};
  mt_ev_abi abi = good;
  loop = ev_loop_new(EVFLAG_AUTO);
  CHECK(attach(&abi) == MT_OK);
  abi.multiplicity = 0;
  CHECK(attach(&abi) == MT_E_MISUSE);
  abi = good;
  abi.io_size += 8;
  CHECK(attach(&abi) == MT_E_MISUSE);
  abi = good;
  abi.minpri = -5;
  CHECK(attach(&abi) == MT_E_MISUSE);
  abi = good;
  abi.io_start = (void (*)(void))ev_io_stop;
  CHECK(attach(&abi) == MT_E_MISUSE);
  abi = good;
  abi.version_major++;
  CHECK(attach(&abi) == MT_E_MISUSE);
  ev_loop_destroy(loop);
  loop = NULL;
  abi = good;
  CHECK(attach(&abi) == MT_E_MISUSE);
}

static void a_config_says_its_size(void) {
  mt_manager_callbacks cbs = {0};
  mt_manager_config config;
  mt_manager *m = NULL;
  cbs.resolve = resolve;
  CHECK(mt_reactor_ev_new(NULL, &reactor) == MT_OK);
  memset(&config, 0, sizeof config);
  CHECK(mt_manager_new(reactor, &config, &cbs, NULL, &m, NULL) == MT_E_MISUSE);
  memset(&config, 0x55, sizeof config);
  mt_manager_config_init_size(&config, offsetof(mt_manager_config, seed));
  CHECK(config.pool_max == 10 && config.seed == 0x5555555555555555u);
  CHECK(mt_manager_new(reactor, &config, &cbs, NULL, &m, NULL) == MT_OK);
  mt_manager_free(m);
  mt_reactor_free(reactor);
}

static void idle_connections_do_not_keep_the_loop(void) {
  mt_stats stats;
  open_host();
  CHECK(strcmp(ask("SELECT current_schema()").text, "tenant_acme") == 0);
  mt_manager_read_stats(manager, &stats, sizeof stats);
  CHECK(stats.open == 1 && stats.requests >= 1 && stats.tenants == 1);
  CHECK(strcmp(ask("SELECT 'again' FROM pg_sleep(0.05)").text, "again") == 0);
  close_host();
}

static void on_ask_in_gone_loop(void *data, const mt_result *r,
                                const mt_error *err) {
  (void)r;
  note(data, err);
}

static void the_loop_may_go_first(void) {
  answer a = {0};
  int disposed = 0;
  open_host();
  ask("SELECT 1");
  CHECK(mt_tenant_query(acme, "SELECT pg_sleep(60)", 0, NULL, 0,
                        on_ask_in_gone_loop, &a, NULL) == MT_OK);
  ev_run(loop, EVRUN_NOWAIT);
  ev_loop_destroy(loop);
  mt_tenant_unref(acme);
  mt_manager_dispose(manager, 0, on_disposed, &disposed);
  while (!disposed) mt_reactor_run_once(reactor, true);
  CHECK(a.done == 1 && a.code == MT_E_DISPOSED);
  mt_manager_free(manager);
  mt_reactor_free(reactor);
}

/* ---- transactions ----------------------------------------------------------------- */

static void transactions_commit(void) {
  mt_tx_options options = {MT_SERIALIZABLE, false, false};
  int before;
  mt_tx *tx;
  open_host();
  before = notes();
  tx = begin(&options);
  CHECK(strcmp(tx_ask(tx, "SHOW transaction_isolation", 0).text,
               "serializable") == 0);
  CHECK(strcmp(tx_ask(tx, "INSERT INTO notes(body) VALUES ('x')", 0).command,
               "INSERT 0 1") == 0);
  CHECK(notes() == before);
  CHECK(commit(tx).code == MT_OK);
  CHECK(notes() == before + 1);
  CHECK(commit(begin(NULL)).code == MT_OK); /* with nothing in it */
  options.read_only = true;
  tx = begin(&options);
  CHECK(strcmp(tx_ask(tx, "DELETE FROM notes", 0).sqlstate, "25006") == 0);
  mt_tx_rollback(tx);
  close_host();
}

static void transactions_roll_back(void) {
  answer a = {0};
  int before;
  mt_tx *tx;
  open_host();
  before = notes();
  tx = begin(NULL);
  tx_ask(tx, "CREATE TABLE other(id int)", 0);
  tx_ask(tx, "DELETE FROM notes", 0);
  mt_tx_rollback(tx);
  CHECK(notes() == before);
  /* while a statement runs: it is cancelled, and answered */
  tx = begin(NULL);
  CHECK(mt_tx_query(tx, "SELECT pg_sleep(60)", 0, NULL, 0, on_answer, &a,
                    NULL) == MT_OK);
  mt_tx_rollback(tx);
  run();
  CHECK(a.done == 1 && a.code != MT_OK);
  /* before it has a connection */
  begins = 0;
  CHECK(mt_tenant_begin(acme, NULL, on_begun, NULL, &tx, NULL) == MT_OK);
  mt_tx_rollback(tx);
  run();
  CHECK(begins == 0);
  mt_tx_rollback(NULL);
  CHECK(strcmp(ask("SELECT to_regclass('other') IS NULL").text, "t") == 0);
  close_host();
}

static void failed_transactions_do_not_commit(void) {
  answer a;
  mt_tx *tx;
  open_host();
  tx = begin(NULL);
  CHECK(strcmp(tx_ask(tx, "SELECT 1/0", 0).sqlstate, "22012") == 0);
  CHECK(strcmp(tx_ask(tx, "SELECT 1", 0).sqlstate, "25P02") == 0);
  a = commit(tx);
  CHECK(a.code != MT_OK && !a.ambiguous);
  tx = begin(NULL);
  a = tx_ask(tx, "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", 0);
  CHECK(a.retryable && strcmp(a.sqlstate, "40001") == 0);
  CHECK(mt_tenant_take_retry(acme));
  mt_tx_rollback(tx);
  tx = begin(NULL);
  CHECK(tx_ask(tx, "SELECT pg_sleep(60)", 50).code == MT_E_TIMEOUT);
  mt_tx_rollback(tx);
  close_host();
}

/* Another schema gets the name of the tenant's, and back. */
static void swap_schemas(void) {
  static const char *const sqls[] = {
      "ALTER SCHEMA tenant_acme RENAME TO tenant_x",
      "ALTER SCHEMA tenant_globex RENAME TO tenant_acme",
      "ALTER SCHEMA tenant_x RENAME TO tenant_globex"};
  mt_tenant *shared;
  mt_tx *tx;
  size_t i;
  CHECK(mt_manager_shared(manager, &shared, NULL) == MT_OK);
  tx = begin_for(shared, NULL);
  for (i = 0; i < sizeof sqls / sizeof *sqls; i++)
    CHECK(tx_ask(tx, sqls[i], 0).code == MT_OK);
  CHECK(commit(tx).code == MT_OK);
  mt_tenant_unref(shared);
}

static void another_schema_of_the_name_is_refused(void) {
  mt_tx *tx;
  open_host();
  tx = begin(NULL);
  CHECK(tx_ask(tx, "SELECT count(*) FROM notes", 0).code == MT_OK);
  swap_schemas();
  CHECK(tx_ask(tx, "SELECT count(*) FROM notes", 0).code ==
        MT_E_TENANT_NOT_FOUND);
  mt_tx_rollback(tx);
  swap_schemas();
  close_host();
}

static void some_statements_are_misuse(void) {
  static const char *const sqls[] = {"COMMIT", "BEGIN", "SAVEPOINT a",
                                     "COPY notes TO STDOUT",
                                     "SELECT 1; SELECT 2"};
  mt_tx *tx;
  size_t i;
  open_host();
  tx = begin(NULL);
  for (i = 0; i < sizeof sqls / sizeof *sqls; i++)
    CHECK(mt_tx_query(tx, sqls[i], 0, NULL, 0, on_answer, NULL, NULL) ==
          MT_E_MISUSE);
  CHECK(strcmp(tx_ask(tx, "SELECT 'fine'", 0).text, "fine") == 0);
  CHECK(commit(tx).code == MT_OK);
  close_host();
}

static void a_tenant_without_schema(void) {
  mt_tenant *gone;
  answer a = {0};
  open_host();
  CHECK(mt_manager_tenant(manager, "gone", &gone, NULL) == MT_OK);
  begun = NULL;
  CHECK(mt_tenant_begin(gone, NULL, on_begun, NULL, NULL, NULL) == MT_OK);
  run();
  a = tx_ask(begun, "SELECT 1", 0);
  CHECK(a.code == MT_E_TENANT_NOT_FOUND);
  mt_tx_rollback(begun);
  mt_tenant_unref(gone);
  close_host();
}

static void disposed_transactions_end(void) {
  answer a = {0};
  int disposed = 0;
  mt_tx *tx;
  open_host();
  tx = begin(NULL);
  tx_ask(tx, "SELECT 1", 0);
  mt_manager_dispose(manager, 0, on_disposed, &disposed);
  CHECK(mt_tx_query(tx, "SELECT 1", 0, NULL, 0, on_answer, &a, NULL) ==
        MT_E_DISPOSED);
  a = commit(tx);
  CHECK(a.code == MT_E_DISPOSED);
  run();
  CHECK(disposed == 1);
  close_host();
}

/* ---- control ----------------------------------------------------------------------- */

static char server[128];

static void see(void *data, const mt_server_view *v) {
  ++*(int *)data;
  snprintf(server, sizeof server, "%s", v->name);
  CHECK(v->state == MT_BREAKER_CLOSED && v->live == 1 && v->cap == 4);
}

static void breakers_by_hand(void) {
  mt_breaker_state state;
  int servers = 0;
  open_host();
  ask("SELECT 1");
  mt_manager_each_server(manager, see, &servers);
  CHECK(servers == 1);
  CHECK(!mt_manager_isolate(manager, "nobody"));
  CHECK(mt_manager_isolate(manager, server));
  CHECK(mt_manager_breaker(manager, server, &state));
  CHECK(state == MT_BREAKER_ISOLATED);
  CHECK(mt_tenant_query(acme, "SELECT 1", 0, NULL, 0, on_answer, NULL, NULL) ==
        MT_E_BREAKER_OPEN);
  CHECK(mt_manager_close_breaker(manager, server));
  CHECK(ask("SELECT 1").code == MT_OK);
  CHECK(mt_manager_evict(manager, "acme", "by hand"));
  CHECK(strcmp(ask("SELECT 'routed again'").text, "routed again") == 0);
  close_host();
}

int main(void) {
  static const struct {
    const char *name;
    void (*check)(void);
  } checks[] = {
      {"versions", versions},
      {"another libev is refused", another_libev_is_refused},
      {"a config says its size", a_config_says_its_size},
      {"idle connections do not keep the loop",
       idle_connections_do_not_keep_the_loop},
      {"the loop may go first", the_loop_may_go_first},
      {"transactions commit", transactions_commit},
      {"transactions roll back", transactions_roll_back},
      {"failed transactions do not commit", failed_transactions_do_not_commit},
      {"another schema of the name is refused",
       another_schema_of_the_name_is_refused},
      {"some statements are misuse", some_statements_are_misuse},
      {"a tenant without schema", a_tenant_without_schema},
      {"disposed transactions end", disposed_transactions_end},
      {"breakers by hand", breakers_by_hand},
  };
  size_t i;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (i = 0; i < sizeof checks / sizeof *checks; i++) {
    checks[i].check();
    printf("ok %s\n", checks[i].name);
  }
  return 0;
}
