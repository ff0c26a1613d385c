/* See host.h. */
#include "run/host.h"

#include <dirent.h>
#include <errno.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/signals.h"
#include "run/throwaway.h"

static int pg_slot = -1;
static const char *pg_url;

void mt_run_host_set_pg(int slot, const char *url) {
  pg_slot = slot;
  pg_url = url;
}

/* read_signal() -> number or nil */
static int read_signal(lua_State *L) {
  int sig = mt_run_signals_read();
  if (sig == 0) return 0;
  lua_pushinteger(L, sig);
  return 1;
}

/* catch_hangup(): SIGHUP is read as the others are */
static int catch_hangup(lua_State *L) {
  (void)L;
  mt_run_signals_catch_hangup();
  return 0;
}

/* isatty(fd) */
static int is_tty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* columns(fd) -> how wide the terminal is, or nil */
static int columns(lua_State *L) {
  struct winsize size;
  if (ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) != 0) return 0;
  if (size.ws_col == 0) return 0;
  lua_pushinteger(L, size.ws_col);
  return 1;
}

/* waits(fd): can reading block, so that the loop should be asked first? */
static int waits(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  struct stat st;
  bool block = fstat(fd, &st) == 0 &&
               (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd));
  lua_pushboolean(L, block);
  return 1;
}

/* -> string ("" at the end), nil when there is nothing yet, nil, message */
static int push_read(lua_State *L, const char *buf, ssize_t n) {
  int saved = errno;
  if (n >= 0) {
    lua_pushlstring(L, buf, (size_t)n);
    return 1;
  }
  lua_pushnil(L);
  if (saved == EAGAIN || saved == EINTR) return 1;
  lua_pushstring(L, strerror(saved));
  return 2;
}

/* read(fd) */
static int read_fd(lua_State *L) {
  char buf[4096];
  ssize_t n = read((int)luaL_checkinteger(L, 1), buf, sizeof buf);
  return push_read(L, buf, n);
}

static void collect_names(lua_State *L, DIR *dir) {
  lua_Integer n = 0;
  lua_newtable(L);
  for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
    lua_pushstring(L, e->d_name);
    lua_rawseti(L, -2, ++n);
  }
}

static int names_of(lua_State *L) {
  collect_names(L, lua_touserdata(L, 1));
  return 1;
}

/* list_dir(path) -> names, or nil when it cannot be read */
static int list_dir(lua_State *L) {
  DIR *dir = opendir(luaL_checkstring(L, 1));
  if (!dir) return 0;
  lua_pushcfunction(L, names_of);
  lua_pushlightuserdata(L, dir);
  int rc = lua_pcall(L, 1, 1, 0); /* no error may pass the open directory */
  closedir(dir);
  return rc == LUA_OK ? 1 : lua_error(L);
}

static int slot_arg(lua_State *L) { return (int)luaL_checkinteger(L, 1); }

/* pg_open() -> slot, or nil, message */
static int pg_open(lua_State *L) {
  char why[256];
  int slot = mt_run_throwaway_open(why, sizeof why);
  if (slot >= 0) {
    lua_pushinteger(L, slot);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, why);
  return 2;
}

/* pg_given() -> slot and URL of the server of --pg, or nothing */
static int pg_given(lua_State *L) {
  if (pg_slot < 0) return 0;
  lua_pushinteger(L, pg_slot);
  lua_pushstring(L, pg_url);
  return 2;
}

/* pg_fd(slot) -> descriptor, -1 when closed */
static int pg_fd(lua_State *L) {
  lua_pushinteger(L, mt_run_throwaway_fd(slot_arg(L)));
  return 1;
}

/* pg_send(slot, line) -> boolean */
static int pg_send(lua_State *L) {
  size_t len;
  const char *line = luaL_checklstring(L, 2, &len);
  lua_pushboolean(L, mt_run_throwaway_send(slot_arg(L), line, len));
  return 1;
}

/* pg_read(slot): as read(fd) */
static int pg_read(lua_State *L) {
  char buf[1024];
  ssize_t n = mt_run_throwaway_read(slot_arg(L), buf, sizeof buf);
  return push_read(L, buf, n);
}

/* pg_set_dir(slot, directory) */
static int pg_set_dir(lua_State *L) {
  mt_run_throwaway_set_dir(slot_arg(L), luaL_checkstring(L, 2));
  return 0;
}

/* pg_end(slot): the end of file follows when all is gone */
static int pg_end(lua_State *L) {
  mt_run_throwaway_end(slot_arg(L));
  return 0;
}

/* pg_finish(slot): after the end of file */
static int pg_finish(lua_State *L) {
  mt_run_throwaway_finish(slot_arg(L));
  return 0;
}

static const luaL_Reg functions[] = {{"read_signal", read_signal},
                                     {"catch_hangup", catch_hangup},
                                     {"isatty", is_tty},
                                     {"columns", columns},
                                     {"waits", waits},
                                     {"read", read_fd},
                                     {"list_dir", list_dir},
                                     {"pg_open", pg_open},
                                     {"pg_given", pg_given},
                                     {"pg_fd", pg_fd},
                                     {"pg_send", pg_send},
                                     {"pg_read", pg_read},
                                     {"pg_set_dir", pg_set_dir},
                                     {"pg_end", pg_end},
                                     {"pg_finish", pg_finish},
                                     {NULL, NULL}};

int mt_run_host_open(lua_State *L) {
  luaL_newlib(L, functions);
  lua_pushinteger(L, mt_run_signals_fd());
  lua_setfield(L, -2, "signal_fd");
  return 1;
}
