/*
 * signals: SIGINT and SIGTERM become bytes in a pipe that the loop watches;
 * the second one, or ten seconds, ends the process at once. Used by main and
 * through the host table by runner.lua; never calls Lua.
 */
#ifndef MT_RUN_SIGNALS_H
#define MT_RUN_SIGNALS_H

/* Installs the handlers. 0, or -1 with errno. */
int mt_run_signals_init(void);

/* The end to watch for reading; non-blocking. */
int mt_run_signals_fd(void);

/* From now on SIGHUP is a number in the pipe, too, and does not end the
 * process. 0, or -1 with errno. */
int mt_run_signals_catch_hangup(void);

/* Takes the first signal's number out of the pipe; 0 when there is none. */
int mt_run_signals_read(void);

/* The first signal's number, taken out or not; 0 before it. */
int mt_run_signals_first(void);

#endif
