/*
 * The session of a connection, brought back to how it was when it was opened:
 * for one that ran something which may have left settings, a role, temporary
 * tables, locks, cursors, channels or prepared statements behind. What the
 * reset did is looked at afterwards, on the server, by a statement that names
 * what is left; only a session with nothing left may serve somebody else.
 */
#ifndef MT_PG_RESET_H
#define MT_PG_RESET_H

#include "pg/conn.h"

typedef enum mt_reset_kind {
  MT_RESET_PARTS,  /* all but the prepared statements, which keep their plans;
                      if that leaves anything: the other kind */
  MT_RESET_DISCARD /* DISCARD ALL, and the scope statements made again */
} mt_reset_kind;

/* Starts it on a quiet, idle connection; the callback on_reset tells the end,
 * later. A connection that is lost, or takes too long, is closed instead
 * (on_close). False: no memory; nothing was started. */
bool mt_conn_reset(mt_conn *c, mt_reset_kind kind);
/* Something changed the session behind the back of the classes: the server
 * reported another value of a setting, or answered with a tag that is not of
 * what was asked. Costs no round trip. */
bool mt_conn_touched(mt_conn *c);
/* Takes what the server reports now as the connection's own. */
void mt__conn_remember(mt_conn *c);
/* Looks at the tag of a user's statement. */
void mt__conn_see_tag(mt_conn *c, const char *tag);

#endif
