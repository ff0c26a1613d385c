/*
 * The one place that knows Lua versions. The binding is written against Lua
 * 5.4; what another version lacks is defined here.
 */
#ifndef MT_LUA_COMPAT_H
#define MT_LUA_COMPAT_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#if LUA_VERSION_NUM < 504
#error "this build of the binding needs Lua 5.4"
#endif

/* A thread on which a callback wrongly yielded is made usable again. */
#define mt_lua_resetthread(L) lua_resetthread(L)

#endif
