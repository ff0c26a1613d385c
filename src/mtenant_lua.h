/*
 * mtenant_lua.h: the Lua module in a C host that has a lua_State and a loop of
 * its own. It is in the library mtenant-lua5.4 (pkg-config mtenant-lua5.4),
 * which has everything of mtenant.h too: a program links one of the two. The
 * Lua files (share/lua/5.4/mtenant) must be on the state's package.path.
 */
#ifndef MTENANT_LUA_H
#define MTENANT_LUA_H

#include "mtenant.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lua_State;

/* For package.preload["mtenant.core"], where Lua shall not look for a file. */
MT_API int luaopen_mtenant_core(struct lua_State *L);

/*
 * Opens the module in L (the Lua files still find it by `require`), so that it
 * runs on `r`: the host's loop resumes its tasks. Before anything is started
 * in L. In Lua everything that waits then goes in `mtenant.spawn`;
 * `mtenant.run`, which would turn the loop, is refused. `r` stays the host's
 * and must outlive L. Dispose of the managers before lua_close, and let the
 * loop turn until that is done. Returns MT_OK or MT_E_MISUSE: something runs
 * already on another loop. Raises Lua's errors of memory.
 */
MT_API int mt_lua_set_reactor(struct lua_State *L, mt_reactor *r);

#ifdef __cplusplus
}
#endif

#endif
