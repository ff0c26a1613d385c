/*
 * watch_folder(path, fn) -> watcher | nil, message: calls fn(names) on the loop
 * when something in the folder is new, written, renamed or gone; a name is ""
 * where what happened is not known. In the background: nobody waits for it.
 */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "lua/mt_lua.h"

typedef struct folder {
  mt_io io;
  mt_rt *rt;
  int fd; /* inotify; -1: closed */
  int fn; /* registry reference */
} folder;

/* fn may close f, and the collector take it: f is not looked at afterwards. */
static void on_ready(mt_io *io, unsigned ready) {
  folder *f = mt_container(io, folder, io);
  mt_rt *rt = f->rt;
  lua_State *L = rt->L;
  _Alignas(struct inotify_event) char buf[4096];
  ssize_t n = read(f->fd, buf, sizeof buf), at = 0;
  int count = 0;
  (void)ready;
  if (n <= 0 || rt->closing || !lua_checkstack(L, 8)) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, f->fn);
  lua_newtable(L);
  while (at < n) {
    const struct inotify_event *e = (const void *)(buf + at);
    at += (ssize_t)(sizeof *e + e->len);
    lua_pushstring(L, e->len > 0 ? e->name : "");
    lua_rawseti(L, -2, ++count);
  }
  mt_lua_call(rt, 1, 0, "folder callback");
}

static int folder_close(lua_State *L) {
  folder *f = luaL_checkudata(L, 1, MT_LUA_FOLDER);
  if (f->fd < 0) return 0;
  mt_io_del(&f->io, false);
  close(f->fd);
  f->fd = -1;
  luaL_unref(L, LUA_REGISTRYINDEX, f->fn);
  f->rt->watchers--;
  f->rt->background--;
  return 0;
}

static int fail(lua_State *L, int code) {
  lua_pushnil(L);
  lua_pushstring(L, strerror(code));
  return 2;
}

/* The descriptor, or -1 with errno. */
static int watch(const char *path) {
  enum {
    WHAT = IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
  };
  int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), saved;
  if (fd < 0) return -1;
  if (inotify_add_watch(fd, path, WHAT | IN_ONLYDIR) >= 0) return fd;
  saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

int mt_lua_watch_folder(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  folder *f;
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  f = lua_newuserdatauv(L, sizeof *f, 0);
  memset(f, 0, sizeof *f);
  f->rt = mt_lua_rt(L);
  f->fd = -1;
  luaL_setmetatable(L, MT_LUA_FOLDER);
  lua_pushvalue(L, 2);
  f->fn = luaL_ref(L, LUA_REGISTRYINDEX);
  f->fd = watch(path);
  if (f->fd < 0) {
    int code = errno;
    luaL_unref(L, LUA_REGISTRYINDEX, f->fn);
    return fail(L, code);
  }
  f->io.cb = on_ready;
  f->rt->watchers++;
  f->rt->background++;
  mt_io_set(f->rt->loop->reactor, &f->io, f->fd, MT_READ);
  mt_io_set_background(&f->io, true);
  return 1;
}

void mt_lua_folder_register(lua_State *L) {
  static const luaL_Reg methods[] = {{"close", folder_close}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", folder_close}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_FOLDER, methods, meta);
}
