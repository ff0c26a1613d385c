/*
 * state: makes the Lua state of a run and hands over to mtenant.runner.
 * main calls it once; everything in it runs in protected mode.
 */
#ifndef MT_RUN_STATE_H
#define MT_RUN_STATE_H

#include "run/options.h"

/* Runs what the options ask for; returns the exit status. */
int mt_run_state_run(const mt_run_options *o);

#endif
