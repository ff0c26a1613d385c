/*
 * pgbin: finds the server programs of PostgreSQL 15 or newer. Called once by
 * the throwaway supervisor, as the user that will run them.
 */
#ifndef MT_RUN_PGBIN_H
#define MT_RUN_PGBIN_H

#include <stdbool.h>
#include <stddef.h>

#define MT_RUN_PG_OLDEST 15

/*
 * Looks in $PG_BINDIR (and then nowhere else), in `pg_config --bindir`, in
 * /usr/lib/postgresql (the newest) and in PATH for initdb and postgres.
 * Fills `dir`, or returns false with one line in `why`.
 */
bool mt_run_pgbin_find(char *dir, size_t size, char *why, size_t why_size);

#endif
