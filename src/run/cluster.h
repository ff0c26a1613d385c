/*
 * cluster: one throwaway PostgreSQL in a private directory: make it, start,
 * stop, remove it. Used by the supervisor process only, which may wait; every
 * wait but those of the end is cut short when the runner has gone away.
 */
#ifndef MT_RUN_CLUSTER_H
#define MT_RUN_CLUSTER_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct mt_run_cluster {
  /* Set by the caller: false ends whatever waits. Called every few ms. */
  bool (*wanted)(void);
  char bindir[1024];
  char dir[80]; /* "" until made; holds data, socket and logs */
  pid_t server; /* 0: not running */
  char error[512];
} mt_run_cluster;

/*
 * Drops root's privileges for good, makes the directory and the database and
 * starts the server. False with c->error; mt_run_cluster_remove is due in
 * either case.
 */
bool mt_run_cluster_make(mt_run_cluster *c);

/* False with c->error. Starting what runs or stopping what doesn't is fine. */
bool mt_run_cluster_start(mt_run_cluster *c);
bool mt_run_cluster_stop(mt_run_cluster *c);

/* Ends it by SIGQUIT, which is as good as a crash. */
bool mt_run_cluster_kill(mt_run_cluster *c);

/* Stops the server whatever it takes and removes the directory. */
bool mt_run_cluster_remove(mt_run_cluster *c);

#endif
