/*
 * target_session_attrs: what a host must be for a connection to it to do. The
 * choice is ours, since libpq is given one address at a time; its rules are
 * libpq's. See docs/failover.md.
 */
#ifndef MT_PG_SESSION_ATTRS_H
#define MT_PG_SESSION_ATTRS_H

#include <stdbool.h>

typedef enum mt_target {
  MT_TARGET_ANY,
  MT_TARGET_READ_WRITE,
  MT_TARGET_READ_ONLY,
  MT_TARGET_PRIMARY,
  MT_TARGET_STANDBY,
  MT_TARGET_PREFER_STANDBY
} mt_target;

/* False: there is no such value. NULL and "" are any. */
bool mt_target_parse(const char *text, mt_target *out);
const char *mt_target_name(mt_target t);
/* What is wrong with a server that reports these ("on" or "off"; NULL: it does
 * not), for a message; NULL: nothing. prefer-standby is standby here: who
 * prefers looks for it first, and then for any. */
const char *mt_target_problem(mt_target t, const char *in_hot_standby,
                              const char *default_transaction_read_only);

#endif
