/*
 * proc: child processes and files of the throwaway supervisor: start, wait
 * within a bound, read a program's output, kill what is left, remove a tree.
 * It runs in a process of its own that has no loop, so it may wait.
 */
#ifndef MT_RUN_PROC_H
#define MT_RUN_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * Starts argv[0] (a path) with default signals, standard input from the file
 * `in` and output appended to the file `out`; NULL is /dev/null. The child is
 * sent SIGQUIT if this process dies. Returns its pid, or -1 with errno.
 */
pid_t mt_run_proc_start(const char *const argv[], const char *in,
                        const char *out);

/*
 * The first line that argv[0] (looked up in PATH) prints, without its
 * newline. False when it cannot run, fails or prints nothing.
 */
bool mt_run_proc_line(const char *const argv[], char *buf, size_t size);

void mt_run_proc_sleep(int ms);

/* Reaps `pid` if it has ended; *status is as from waitpid. */
bool mt_run_proc_ended(pid_t pid, int *status);

/* The same, waiting up to `ms`. */
bool mt_run_proc_await(pid_t pid, int ms, int *status);

/* Kills all children, and theirs as they become ours (subreaper). */
void mt_run_proc_kill_all(void);

/* True when the tree is gone; symbolic links are not followed. */
bool mt_run_proc_remove_tree(const char *dir);

#endif
