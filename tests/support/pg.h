/*
 * pg: throwaway PostgreSQL servers for C tests, on pg.sh. Calls block and, but
 * for mt_test_pg_psql, end the process with a message when they fail: a test
 * without its server has nothing to say. Servers end with the process, however
 * it ends.
 */
#ifndef MT_TEST_SUPPORT_PG_H
#define MT_TEST_SUPPORT_PG_H

#include <stdbool.h>
#include <stddef.h>

typedef struct mt_test_pg {
  char dir[128]; /* also the directory of the unix socket */
  int port;
  char url[512];       /* the ordinary user `mtenant`, owner of its database */
  char admin_url[512]; /* the superuser, in the same database */
} mt_test_pg;

/*
 * Starts a new server. With `tcp` its URLs name 127.0.0.1 and a free port,
 * else the unix socket. `conf` is NULL or a NULL-ended list of "name=value".
 */
void mt_test_pg_start(mt_test_pg *pg, bool tcp, const char *const *conf);

/* Ends the server and removes its data. */
void mt_test_pg_close(mt_test_pg *pg);

/* Modes: "smart", "fast", "immediate", "kill" (SIGKILL for every process). */
void mt_test_pg_stop(mt_test_pg *pg, const char *mode);
void mt_test_pg_restart(mt_test_pg *pg, const char *mode);
/* After a stop: the same port, the same data. */
void mt_test_pg_start_again(mt_test_pg *pg);

/* Return at once; what they do begins after `delay_ms`. */
void mt_test_pg_start_later(mt_test_pg *pg, int delay_ms);
void mt_test_pg_stop_later(mt_test_pg *pg, int delay_ms, const char *mode);
void mt_test_pg_restart_later(mt_test_pg *pg, int delay_ms, const char *mode);

/*
 * Runs SQL as the superuser, each statement by itself. Fills `out` with the
 * output (unaligned, tuples only), without the last newline. False when a
 * statement failed; the message went to stderr.
 */
bool mt_test_pg_psql(mt_test_pg *pg, const char *sql, char *out, size_t size);

#endif
