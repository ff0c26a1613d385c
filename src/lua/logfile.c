/*
 * What log lines are written to: a file or standard error, by write() without
 * a buffer of its own, and never where it would have to wait for a reader.
 * Used by lua/mtenant/log/stream.lua, which keeps what can't be written now.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "lua/mt_lua.h"

#define MT_LUA_LOGFILE MT_LUA_NAME("logfile")

/* A pipe that poll calls writable has room for so much (PIPE_BUF): that goes
 * in at once, and in one piece, whoever else writes to it. */
enum { CHUNK = 4096 };

typedef struct logfile {
  int fd;     /* -1: closed */
  char *path; /* NULL: standard error, which is not ours to close */
} logfile;

static double clock_ms(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* clock() -> ms since 1970, ms of a clock that is never set */
static int clocks(lua_State *L) {
  lua_pushnumber(L, clock_ms(CLOCK_REALTIME));
  lua_pushnumber(L, clock_ms(CLOCK_MONOTONIC));
  return 2;
}

static int failed(lua_State *L, int error) {
  lua_pushnil(L);
  lua_pushstring(L, strerror(error));
  return 2;
}

static int open_path(const char *path) {
  return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);
}

/* log_file(path or nil) -> file | nil, message; nil: standard error */
static int log_file(lua_State *L) {
  const char *path = luaL_optstring(L, 1, NULL);
  logfile *f = lua_newuserdatauv(L, sizeof *f, 0);
  f->fd = -1;
  f->path = NULL;
  luaL_setmetatable(L, MT_LUA_LOGFILE);
  if (!path) {
    f->fd = STDERR_FILENO;
    return 1;
  }
  f->path = mt_strdup(path);
  if (!f->path) return luaL_error(L, "not enough memory");
  f->fd = open_path(path);
  return f->fd < 0 ? failed(L, errno) : 1;
}

static logfile *check(lua_State *L) {
  return luaL_checkudata(L, 1, MT_LUA_LOGFILE);
}

/* 1: so much as one chunk goes without waiting; 0: it does not; -1: the reader
 * of a pipe has gone, and writing would be a SIGPIPE. */
static int room(const logfile *f) {
  struct pollfd p = {.fd = f->fd, .events = POLLOUT};
  if (poll(&p, 1, 0) != 1) return 0;
  return p.revents & (POLLERR | POLLNVAL) ? -1 : (p.revents & POLLOUT) != 0;
}

static int failed_since(lua_State *L, int error, double began) {
  failed(L, error);
  lua_pushnumber(L, clock_ms(CLOCK_MONOTONIC) - began);
  return 3;
}

/* write(text, from) -> next position, ms it took | nil, message, ms; the
 * position is `from` when nothing could be written now */
static int write_text(lua_State *L) {
  logfile *f = check(L);
  size_t len, at;
  const char *text = luaL_checklstring(L, 2, &len);
  double began = clock_ms(CLOCK_MONOTONIC);
  int can;
  at = (size_t)luaL_optinteger(L, 3, 1) - 1;
  if (f->fd < 0) return failed_since(L, EBADF, began);
  while (at < len && (can = room(f)) != 0) {
    size_t n = len - at < CHUNK ? len - at : CHUNK;
    ssize_t done;
    if (can < 0) return failed_since(L, EPIPE, began);
    done = write(f->fd, text + at, n);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) break;
    if (done < 0) return failed_since(L, errno, began);
    at += (size_t)done;
  }
  lua_pushinteger(L, (lua_Integer)at + 1);
  lua_pushnumber(L, clock_ms(CLOCK_MONOTONIC) - began);
  return 2;
}

/* wait(ms): until something can be written, so long at most */
static int wait_writable(lua_State *L) {
  struct pollfd p = {.fd = check(L)->fd, .events = POLLOUT};
  poll(&p, 1, (int)luaL_checknumber(L, 2));
  return 0;
}

/* reopen() -> true | nil, message: the file of that name, which may be another
 * one now; the old one stays where that fails */
static int reopen(lua_State *L) {
  logfile *f = check(L);
  int fd;
  lua_pushboolean(L, 1);
  if (!f->path || f->fd < 0) return 1;
  fd = open_path(f->path);
  if (fd < 0) return failed(L, errno);
  close(f->fd);
  f->fd = fd;
  return 1;
}

static int close_file(lua_State *L) {
  logfile *f = check(L);
  if (f->path && f->fd >= 0) close(f->fd);
  f->fd = -1;
  mt_free(f->path);
  f->path = NULL;
  return 0;
}

/* set_logger(fn): fn(what, message) is told of callbacks that fail */
static int set_logger(lua_State *L) {
  mt_rt *rt = mt_lua_rt(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_unref(L, LUA_REGISTRYINDEX, rt->log_ref);
  lua_settop(L, 1);
  rt->log_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

void mt_lua_complain(mt_rt *rt, const char *what, const char *message) {
  lua_State *L = rt->L;
  if (rt->log_ref != LUA_NOREF && !rt->closing) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, rt->log_ref);
    lua_pushstring(L, what);
    lua_pushstring(L, message);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK) return;
    lua_pop(L, 1);
  }
  fprintf(stderr, "[mtenant] error in %s: %s\n", what, message);
}

const luaL_Reg mt_lua_log_functions[] = {{"log_file", log_file},
                                         {"clock", clocks},
                                         {"set_logger", set_logger},
                                         {NULL, NULL}};

void mt_lua_log_register(lua_State *L) {
  static const luaL_Reg methods[] = {{"write", write_text},
                                     {"wait", wait_writable},
                                     {"reopen", reopen},
                                     {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", close_file}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_LOGFILE, methods, meta);
}
