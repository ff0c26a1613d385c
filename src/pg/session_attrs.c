/* See session_attrs.h. */
#include "pg/session_attrs.h"

#include <string.h>

static const char *const names[] = {"any",     "read-write", "read-only",
                                    "primary", "standby",    "prefer-standby"};

bool mt_target_parse(const char *text, mt_target *out) {
  size_t i;
  *out = MT_TARGET_ANY;
  if (!text || !*text) return true;
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(text, names[i]) != 0) continue;
    *out = (mt_target)i;
    return true;
  }
  return false;
}

const char *mt_target_name(mt_target t) { return names[t]; }

static bool is_on(const char *setting) {
  return setting && strcmp(setting, "on") == 0;
}

const char *mt_target_problem(mt_target t, const char *in_hot_standby,
                              const char *default_transaction_read_only) {
  bool standby = is_on(in_hot_standby);
  bool read_only = standby || is_on(default_transaction_read_only);
  if (t == MT_TARGET_ANY) return NULL;
  if (!in_hot_standby || !default_transaction_read_only)
    return "does not say whether it is a standby (PostgreSQL 14 and newer do, "
           "poolers may not)";
  switch (t) {
    case MT_TARGET_READ_WRITE:
      return read_only ? "is read-only" : NULL;
    case MT_TARGET_READ_ONLY:
      return read_only ? NULL : "is not read-only";
    case MT_TARGET_PRIMARY:
      return standby ? "is a standby" : NULL;
    default:
      return standby ? NULL : "is not a standby";
  }
}
