/*
 * client: one mt_conn in a test, and answers that wait to be looked at. A
 * request stays with its answer until mt_answer_free, so that everything it
 * has can be checked.
 */
#ifndef MT_TEST_SUPPORT_CLIENT_H
#define MT_TEST_SUPPORT_CLIENT_H

#include "pg/conn.h"
#include "pg/result.h"
#include "support/loop.h"

typedef struct mt_client {
  mt_reactor *reactor;
  mt_conn *conn; /* gone once closed */
  mt_conn_options options;
  mt_sql_table *sqls;
  const char *password; /* NULL: the URL's */
  int opened, closed, progress;
  mt_error *why; /* of the close, ours */
  int answers;
} mt_client;

typedef struct mt_answer {
  mt_req *req;
  mt_client *client;
  int done;  /* times it was answered */
  int order; /* among the client's answers, from 1 */
} mt_answer;

/* Sets defaults; a test may change options before it opens. */
void mt_client_init(mt_client *c, mt_reactor *r);
/* Starts to connect. */
void mt_client_start(mt_client *c, const char *url);
/* Connects and waits until it is open and set up; fails the test otherwise. */
void mt_client_open(mt_client *c, mt_reactor *r, const char *url);
/* Connects and waits until that has failed. */
void mt_client_refused(mt_client *c, mt_reactor *r, const char *url);
/* Closes if need be, waits for it, frees what the client has. */
void mt_client_end(mt_client *c);

/* A scope that is used as a tenant's. */
mt_scope *mt_client_scope(uint32_t id, const char *schema);

/* Submits a request that the test has made; it is the answer's from now on. */
void mt_client_submit(mt_client *c, mt_answer *a, mt_req *req);
/* Submits SQL with a scope (NULL: none). Interned: cached by its text. */
void mt_client_send(mt_client *c, mt_answer *a, unsigned flags, mt_scope *scope,
                    const char *sql);
/* The same with n text parameters. */
void mt_client_send_with(mt_client *c, mt_answer *a, unsigned flags,
                         mt_scope *scope, const char *sql, int n,
                         const char *const *params);
/* Sends and waits for the answer. */
void mt_client_run(mt_client *c, mt_answer *a, unsigned flags, mt_scope *scope,
                   const char *sql);
/* The first cell, "" without rows; the answer must be no error. */
const char *mt_answer_text(const mt_answer *a);
/* Code and SQLSTATE ("" for none) of the error that it must have. */
void mt_answer_failed(const mt_answer *a, int code, const char *sqlstate);
void mt_answer_free(mt_answer *a);
/* Runs SQL and asserts its first cell. */
void mt_client_expect(mt_client *c, mt_scope *scope, const char *sql,
                      const char *text);

#endif
