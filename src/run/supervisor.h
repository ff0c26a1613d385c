/*
 * supervisor: the process that owns a throwaway PostgreSQL. mtenant-run starts
 * itself again in this hidden mode (throwaway.c), in a session of its own,
 * with one end of a socket pair as descriptor 3. The socket is its life: at
 * end of file, which the kernel guarantees however the runner went away, it
 * stops the server, removes the directory and exits.
 *
 * Answers are lines: first "ok <directory> <url>" or "error <reason>", then
 * one "ok" or "error <reason>" per command: start, stop, restart, kill.
 */
#ifndef MT_RUN_SUPERVISOR_H
#define MT_RUN_SUPERVISOR_H

#define MT_RUN_SUPERVISOR_ARG "--throwaway-supervisor"
#define MT_RUN_SUPERVISOR_FD 3

/* main of the hidden mode: returns the exit status. */
int mt_run_supervisor_main(void);

#endif
