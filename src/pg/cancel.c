/*
 * PQcancel on a detached thread. See cancel.h. The job is the only memory the
 * thread touches; the last of {thread, core} to leave frees it.
 */
#include "pg/cancel.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"

typedef struct job {
  atomic_int refs;
  PGcancel *target;
  int fd;
} job;

struct mt_cancel {
  mt_io io;
  job *job;
  void (*done)(void *data);
  void *data;
};

static void job_unref(job *j) {
  if (atomic_fetch_sub(&j->refs, 1) > 1) return;
  PQfreeCancel(j->target);
  close(j->fd);
  mt_free(j);
}

static void *run(void *arg) {
  job *j = arg;
  uint64_t one = 1;
  char text[256];
  (void)PQcancel(j->target, text, sizeof text);
  if (write(j->fd, &one, sizeof one) < 0) {
    /* an eventfd with room takes 8 bytes; nothing sensible is left to do */
  }
  job_unref(j);
  return NULL;
}

static void drop(mt_cancel *c) {
  mt_io_del(&c->io, false);
  job_unref(c->job);
  mt_free(c);
}

static void on_ready(mt_io *io, unsigned ready) {
  mt_cancel *c = mt_container(io, mt_cancel, io);
  void (*done)(void *) = c->done;
  void *data = c->data;
  (void)ready;
  drop(c);
  done(data);
}

/* All signals stay with the threads that expect them. */
static int spawn(job *j) {
  pthread_attr_t attr;
  pthread_t thread;
  sigset_t all, before;
  int rc;
  if (pthread_attr_init(&attr) != 0) return MT_E_OUT_OF_MEMORY;
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  rc = pthread_create(&thread, &attr, run, j);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  return rc == 0 ? MT_OK : MT_E_OUT_OF_MEMORY;
}

static job *job_new(PGconn *pg) {
  job *j = mt_calloc(sizeof *j);
  if (!j) return NULL;
  atomic_init(&j->refs, 2);
  j->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (j->fd < 0) goto fail_fd;
  j->target = PQgetCancel(pg);
  if (!j->target) goto fail_target;
  return j;
fail_target:
  close(j->fd);
fail_fd:
  mt_free(j);
  return NULL;
}

int mt_cancel_start(mt_reactor *r, PGconn *pg, void (*done)(void *data),
                    void *data, mt_cancel **out) {
  mt_cancel *c = mt_calloc(sizeof *c);
  if (!c) return MT_E_OUT_OF_MEMORY;
  c->job = job_new(pg);
  if (!c->job) {
    mt_free(c);
    return MT_E_OUT_OF_MEMORY;
  }
  c->done = done;
  c->data = data;
  if (spawn(c->job) != MT_OK) {
    job_unref(c->job); /* the thread's share */
    job_unref(c->job);
    mt_free(c);
    return MT_E_OUT_OF_MEMORY;
  }
  c->io.cb = on_ready;
  mt_io_set(r, &c->io, c->job->fd, MT_READ);
  *out = c;
  return MT_OK;
}

void mt_cancel_forget(mt_cancel *c) { drop(c); }
