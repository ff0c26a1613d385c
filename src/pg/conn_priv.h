/* Shared between conn.c (life, connect) and the other files of it. */
#ifndef MT_PG_CONN_PRIV_H
#define MT_PG_CONN_PRIV_H

#include <libpq-fe.h>

#include "pg/conn.h"

/* Starts to connect to the current address: c->pg, NULL: no memory. */
void mt__conn_start(mt_conn *c);
/* The connection is up: prepare what every unit needs. */
void mt__conn_setup(mt_conn *c);
/* The scope statements again, after DISCARD ALL; forgets all others. */
void mt__conn_prepare_scope(mt_conn *c);
/* Sets client_connection_check_interval on the session. */
void mt__conn_set_interval(mt_conn *c);
/* Readiness of an open connection's socket. */
void mt__conn_on_io(mt_conn *c, unsigned ready);
/* Sends what can be sent. */
void mt__conn_flush(mt_conn *c);
/* Reads what a paused stream left behind. */
void mt__conn_process(mt_conn *c);
/* Watches the socket for what is wanted now. */
void mt__conn_update_io(mt_conn *c);
/* While nothing is expected of it, it does not keep a host's loop running. */
void mt__conn_note_quiet(mt_conn *c);
/* Answers everything it holds because it is closed. */
void mt__conn_fail_requests(mt_conn *c);
/* Notes what was sent as a step of the unit; false: it could not be. */
static inline bool mt__add_step(mt_req *req, mt_step kind, int sent) {
  if (sent) req->steps[req->nsteps++] = (uint8_t)kind;
  return sent;
}
static inline int mt__send_text(mt_conn *c, const char *sql) {
  return PQsendQueryParams(c->pg, sql, 0, NULL, NULL, NULL, NULL, 0);
}
/* conn_settings.c. A route's settings: their name, where it is wanted; as a
 * step of a plain unit or a session's; as steps behind BEGIN. False: can't
 * send. */
bool mt__settings_prepare(mt_conn *c, mt_req *req);
bool mt__settings_send(mt_conn *c, mt_req *req, bool session);
bool mt__settings_begin(mt_conn *c, mt_req *req);
/* What a step of theirs has failed by; takes e, the caller owns the result. */
mt_error *mt__settings_failed(mt_conn *c, mt_req *req, mt_error *e);
/* Forgets a prepared statement on the server, in a unit of its own. */
void mt__conn_deallocate(mt_conn *c, uint32_t number);
/* The connection has gone: libpq's last words. */
mt_error *mt__conn_lost(mt_conn *c);
/* Error from a result of the server; statement phase. */
mt_error *mt__result_error(const mt_conn *c, const PGresult *res);
/* conn_attrs.c. The handshake is done: is it the server that is looked for?
 * Ends in mt__conn_opened or mt__conn_address_failed, now or later. */
void mt__attrs_check(mt_conn *c);
/* It is not asked any more. */
void mt__attrs_stop(mt_conn *c);
/* Readiness of the socket while it is asked (c->asking). */
void mt__attrs_on_io(mt_conn *c);
/* Remembers what was wrong with a host. */
void mt__attrs_note(mt_conn *c, const mt_error *err);
/* All hosts were tried: once more from the first one, with less to ask for? */
bool mt__attrs_look_again(mt_conn *c);
/* Why none will do; the caller owns it. */
mt_error *mt__attrs_failure(const mt_conn *c);
/* Looks at what the server has reported of its role; sets c->off_target. */
void mt__attrs_watch(mt_conn *c);
/* A unit was refused by a read-only server, and its Sync is answered: where
 * one that is not was asked for, it may be tried again. */
void mt__attrs_refused(mt_conn *c, mt_req *req);
void mt__conn_opened(mt_conn *c);
/* Takes err; the next address is tried, or the connection closed. */
void mt__conn_address_failed(mt_conn *c, mt_error *err);
/* Sends of one turn together (cork.c): once; when the socket is there; around
 * each unit. The callbacks are taken back with c->turn_end. */
void mt__cork_init(mt_conn *c);
void mt__cork_open(mt_conn *c);
void mt__cork_before(mt_conn *c);
void mt__cork_after(mt_conn *c);
/* Says what a failed connect means for the tenant. */
void mt__conn_explain(const mt_conn *c, mt_error *e);
/* First line of a libpq message, without what comes before the severity's
 * SQLSTATE when there is one; sqlstate gets it ("" otherwise). */
mt_error *mt__connect_error(int code, bool retryable, const char *text);
/* Says what to do if it was a pooler that refused the connection. */
void mt__pooler_explain(mt_error *e);
/* Why the connection can't be used, now that its set-up was answered; NULL: it
 * can. The caller owns it. */
mt_error *mt__setup_error(const mt_conn *c, const mt_req *setup);

#endif
