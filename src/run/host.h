/*
 * host: the C functions that runner.lua and throwaway.lua need, as a module
 * table. Nothing here knows the core or the loop; nothing waits.
 */
#ifndef MT_RUN_HOST_H
#define MT_RUN_HOST_H

#include <lua.h>

/* Loader of "mtenant.runner_host", which exists in mtenant-run only. */
int mt_run_host_open(lua_State *L);

/* Tells the module which slot of throwaway.h --pg started. */
void mt_run_host_set_pg(int slot, const char *url);

#endif
