/*
 * throwaway: the runner's side of throwaway PostgreSQL servers: starts a
 * supervisor process, talks to it, ends all of them at exit. main uses it for
 * --pg, the host table for mtenant.throwaway. Slots are small numbers.
 */
#ifndef MT_RUN_THROWAWAY_H
#define MT_RUN_THROWAWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * Starts a supervisor; its first line answers whether the server is up.
 * Returns a slot, or -1 with one line in `why`. Does not wait.
 */
int mt_run_throwaway_open(char *why, size_t size);

/* The socket: non-blocking, to be watched for reading. -1: closed. */
int mt_run_throwaway_fd(int slot);

/* Sends one line. False when the supervisor is gone. */
bool mt_run_throwaway_send(int slot, const char *line, size_t len);

/* As read(2); 0 is the end of the supervisor. */
ssize_t mt_run_throwaway_read(int slot, char *buf, size_t size);

/*
 * Waits for the first answer, but not longer than until a first signal.
 * True with the server's URL, which stays valid with the slot; false with one
 * line in `why` ("" after a signal).
 */
bool mt_run_throwaway_await(int slot, const char **url, char *why, size_t size);

/* Notes the server's directory, to be removed if its supervisor is killed. */
void mt_run_throwaway_set_dir(int slot, const char *dir);

/* Asks for the end; the supervisor closes the socket when it is done. */
void mt_run_throwaway_end(int slot);

/* Waits, within a bound, for a supervisor on its way out; frees the slot. */
void mt_run_throwaway_finish(int slot);

/* Asks all for the end and finishes them. */
void mt_run_throwaway_close_all(void);

#endif
