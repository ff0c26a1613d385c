/* What cluster.c and cluster_make.c share. */
#ifndef MT_RUN_CLUSTER_PRIV_H
#define MT_RUN_CLUSTER_PRIV_H

#include "run/cluster.h"

/* Both set c->error and return false; the second one adds the last reason
 * found in the file `log` of the cluster's directory. */
bool mt_run__cluster_fail(mt_run_cluster *c, const char *what);
bool mt_run__cluster_fail_log(mt_run_cluster *c, const char *what,
                              const char *log);

#endif
