/*
 * A thread that watches the pollable descriptor where nobody else can: it
 * writes a byte into a Unix socket, to which a host that has no other means
 * (OpenResty without headers, by a cosocket) listens, and waits until the host
 * has stepped. It touches nothing of the core but that descriptor.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/private_dir.h"
#include "lua/mt_lua.h"

#define MT_LUA_PUMP MT_LUA_NAME("pump")

typedef struct pump {
  pthread_t thread;
  bool runs;
  int loop;    /* the core's descriptor */
  int stepped; /* eventfd: the host has stepped, or it is over */
  int listener;
  char dir[64];
  struct sockaddr_un at; /* in dir */
  atomic_bool over;
} pump;

/* Blocks until fd is readable. False: the end. */
static bool wait_for(pump *p, int fd) {
  struct pollfd fds[2] = {{fd, POLLIN, 0}, {p->stepped, POLLIN, 0}};
  while (!p->over) {
    int n = poll(fds, fd == p->stepped ? 1 : 2, -1);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0 && fds[0].revents) return !p->over;
  }
  return false;
}

static void take(int eventfd) {
  uint64_t n;
  while (read(eventfd, &n, sizeof n) < 0 && errno == EINTR) continue;
}

static void *run(void *data) {
  pump *p = data;
  int out = -1;
  if (wait_for(p, p->listener))
    out = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
  while (out >= 0 && wait_for(p, p->loop)) {
    if (send(out, "!", 1, MSG_NOSIGNAL) != 1) break;
    if (!wait_for(p, p->stepped)) break;
    take(p->stepped);
  }
  if (out >= 0) close(out);
  return NULL;
}

static int end(lua_State *L) {
  pump *p = luaL_checkudata(L, 1, MT_LUA_PUMP);
  uint64_t one = 1;
  p->over = true;
  if (p->runs) {
    if (write(p->stepped, &one, sizeof one) < 0) return 0; /* can't be */
    pthread_join(p->thread, NULL);
  }
  p->runs = false;
  if (p->at.sun_path[0]) unlink(p->at.sun_path);
  if (p->dir[0]) rmdir(p->dir);
  p->at.sun_path[0] = p->dir[0] = '\0';
  if (p->listener >= 0) close(p->listener);
  if (p->stepped >= 0) close(p->stepped);
  p->listener = p->stepped = -1;
  return 0;
}

/* stepped(): the host has, and waits for the next byte */
static int stepped(lua_State *L) {
  const pump *p = luaL_checkudata(L, 1, MT_LUA_PUMP);
  uint64_t one = 1;
  if (p->stepped >= 0 && write(p->stepped, &one, sizeof one) < 0)
    return luaL_error(L, "mtenant: %s", strerror(errno));
  return 0;
}

static int path(lua_State *L) {
  const pump *p = luaL_checkudata(L, 1, MT_LUA_PUMP);
  lua_pushstring(L, p->at.sun_path);
  return 1;
}

static bool start_listening(pump *p) {
  if (!mt_private_dir(p->dir, sizeof p->dir, "mtenant")) return false;
  p->at.sun_family = AF_UNIX;
  snprintf(p->at.sun_path, sizeof p->at.sun_path, "%s/pump", p->dir);
  p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return p->listener >= 0 &&
         bind(p->listener, (struct sockaddr *)&p->at, sizeof p->at) == 0 &&
         listen(p->listener, 1) == 0;
}

/* The host's signals are the host's. */
static bool start(pump *p) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  p->runs = pthread_create(&p->thread, NULL, run, p) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return p->runs;
}

/* pump(fd) -> an object: path() of the socket, stepped(), close() */
static int new_pump(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  pump *p = lua_newuserdatauv(L, sizeof *p, 0);
  memset(p, 0, sizeof *p);
  p->loop = fd;
  p->listener = -1;
  p->stepped = eventfd(0, EFD_CLOEXEC);
  luaL_getmetatable(L, MT_LUA_PUMP);
  lua_setmetatable(L, -2);
  if (p->stepped >= 0 && start_listening(p) && start(p)) return 1;
  return luaL_error(L, "mtenant: no socket for the loop: %s", strerror(errno));
}

const luaL_Reg mt_lua_pump_functions[] = {{"pump", new_pump}, {NULL, NULL}};

void mt_lua_pump_register(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"path", path}, {"stepped", stepped}, {"close", end}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", end}, {NULL, NULL}};
  mt_lua_newclass(L, MT_LUA_PUMP, methods, meta);
}
