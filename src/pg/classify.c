/*
 * The class of a SQL text. One pass finds where statements end and the few
 * names that matter anywhere in one; then the leading keywords decide. Where
 * PostgreSQL's grammar is richer than this, the answer errs towards
 * MT_SQL_SESSION.
 */
#include "pg/classify.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "pg/lexer.h"

/* What was seen in one statement, apart from its beginning. */
typedef struct marks {
  const char *start, *end;
  bool into, into_temp; /* INTO as in SELECT INTO */
  bool session_name;    /* a function that changes the session, pg_temp. */
  bool outside_name;    /* one whose effect no reset undoes */
  bool concurrently, with_hold, copy_std;
  bool broken; /* not terminated, or not understood */
} marks;

typedef struct verdict {
  mt_sql_class cls;
  bool lasting, set_transaction, unprovable;
  const char *control;
} verdict;

typedef const char *const word_set[];

static const word_set queries = {"select", "insert", "update",
                                 "delete", "merge",  "values",
                                 "table",  "with",   NULL};
static const word_set paren_queries = {"select", "values", "table", "with",
                                       NULL};
/* Transactional and leaving nothing on the session. */
static const word_set ddl = {"truncate", "comment", "grant",   "revoke",
                             "analyze",  "analyse", "refresh", "reassign",
                             "security", "import",  NULL};
/* Not for a shared pipeline, but they leave nothing on the session. */
static const word_set passing = {"show",    "lock",       "fetch",    "move",
                                 "close",   "notify",     "vacuum",   "cluster",
                                 "reindex", "checkpoint", "unlisten", NULL};
static const word_set create_skip = {
    "or",      "replace",    "local",  "global",  "unlogged",   "recursive",
    "trusted", "procedural", "unique", "default", "constraint", NULL};
static const word_set objects = {
    "access",       "aggregate",   "cast",    "collation",  "conversion",
    "default",      "domain",      "event",   "extension",  "foreign",
    "function",     "group",       "index",   "language",   "large",
    "materialized", "operator",    "owned",   "policy",     "procedural",
    "procedure",    "publication", "role",    "routine",    "rule",
    "schema",       "sequence",    "server",  "statistics", "table",
    "text",         "transform",   "trigger", "type",       "user",
    "view",         NULL};
/* CREATE, ALTER or DROP of these refuses to run in a transaction. */
static const word_set alone = {"database", "tablespace", "subscription",
                               "system", NULL};
/* They leave what a reset takes away. */
static const word_set session = {"reset",   "listen",     "discard",
                                 "execute", "deallocate", NULL};
/* Functions whose effect outlives the transaction. */
static const word_set session_names = {"set_config", "setseed", NULL};
/* ... and a reset of the session too. */
static const word_set outside_names = {
    "pg_create_logical_replication_slot", "pg_create_physical_replication_slot",
    "pg_replication_origin_session_setup",
    "pg_replication_origin_session_reset", NULL};

static bool in_set(const mt_token *t, const char *const *set) {
  for (; *set; set++) {
    if (mt_token_is(t, *set)) return true;
  }
  return false;
}

static bool has_prefix(const mt_token *t, const char *prefix) {
  mt_token head = *t;
  size_t len = strlen(prefix);
  if (t->len < len) return false;
  head.len = len;
  return mt_token_is(&head, prefix);
}

static bool contains(const mt_token *t, const char *part) {
  mt_token tail = *t;
  for (; tail.len > 0; tail.text++, tail.len--) {
    if (has_prefix(&tail, part)) return true;
  }
  return false;
}

static bool is_outside_name(const mt_token *name) {
  return in_set(name, outside_names) || has_prefix(name, "dblink_");
}

static bool is_session_name(const mt_token *name, const mt_lexer *rest) {
  if (in_set(name, session_names)) return true;
  if (has_prefix(name, "pg_temp")) {
    mt_lexer ahead = *rest;
    mt_token dot = mt_lexer_next(&ahead); /* else it is in a search_path */
    return mt_token_is_char(&dot, '.');
  }
  return (has_prefix(name, "pg_advisory_") ||
          has_prefix(name, "pg_try_advisory_")) &&
         !contains(name, "_xact_");
}

/* Of the names above; most others are told by their first letter. Quoted ones
 * count like others, whatever their case. */
static void mark_name(mt_token name, const mt_lexer *rest, marks *m) {
  name.kind = MT_TOK_WORD;
  if (!has_prefix(&name, "set") && !has_prefix(&name, "pg_") &&
      !has_prefix(&name, "dblink_"))
    return;
  m->session_name |= is_session_name(&name, rest);
  m->outside_name |= is_outside_name(&name);
}

typedef struct scan {
  mt_lexer lx;
  mt_token prev;
  int depth;
  int atomic;         /* open BEGIN ATOMIC and CASE */
  bool routine;       /* CREATE FUNCTION or PROCEDURE */
  uint64_t selecting; /* per parenthesis: a SELECT came before */
} scan;

static uint64_t depth_bit(const scan *s) {
  return UINT64_C(1) << (s->depth < 63 ? s->depth : 63);
}

/* INSERT INTO and MERGE INTO are harmless; but in SELECT 1 insert INTO t the
 * word is a column's label. */
static void mark_into(scan *s, marks *m) {
  static const word_set temp = {"temp", "temporary", "local", "global", NULL};
  mt_lexer ahead = s->lx;
  mt_token next;

  if (mt_token_is(&s->prev, "as") || mt_token_is_char(&s->prev, '.')) return;
  if ((mt_token_is(&s->prev, "insert") || mt_token_is(&s->prev, "merge")) &&
      !(s->selecting & depth_bit(s)))
    return;
  m->into = true;
  next = mt_lexer_next(&ahead);
  if (in_set(&next, temp)) m->into_temp = true;
}

/* The body of a SQL-standard routine has semicolons of its own. */
static void track_atomic(scan *s, const mt_token *t) {
  if (!s->routine || s->depth > 0) return;
  if (s->atomic == 0) {
    if (mt_token_is(t, "atomic") && mt_token_is(&s->prev, "begin"))
      s->atomic = 1;
  } else if (mt_token_is(&s->prev, "as") || mt_token_is_char(&s->prev, '.')) {
    return; /* a label or a column */
  } else if (mt_token_is(t, "case")) {
    s->atomic++;
  } else if (mt_token_is(t, "end")) {
    s->atomic--;
  }
}

static void mark_word(scan *s, const mt_token *t, marks *m) {
  if (mt_token_is(t, "select"))
    s->selecting |= depth_bit(s);
  else if (mt_token_is(t, "into"))
    mark_into(s, m);
  else if (mt_token_is(t, "concurrently"))
    m->concurrently = true;
  else if (mt_token_is(t, "hold"))
    m->with_hold |= mt_token_is(&s->prev, "with");
  else if (mt_token_is(t, "stdin") || mt_token_is(t, "stdout"))
    m->copy_std |= s->depth == 0 && (mt_token_is(&s->prev, "from") ||
                                     mt_token_is(&s->prev, "to"));
  track_atomic(s, t);
}

static void mark_char(scan *s, char c, marks *m) {
  if (c == '(') {
    s->depth++;
    s->selecting &= ~depth_bit(s);
  } else if (c == ')') {
    if (s->depth > 0)
      s->depth--;
    else
      m->broken = true;
  }
}

/* CREATE [OR REPLACE] FUNCTION or PROCEDURE */
static bool starts_routine(mt_lexer lx) {
  mt_token t = mt_lexer_next(&lx);
  if (!mt_token_is(&t, "create")) return false;
  t = mt_lexer_next(&lx);
  if (mt_token_is(&t, "or")) {
    mt_lexer_next(&lx);
    t = mt_lexer_next(&lx);
  }
  return mt_token_is(&t, "function") || mt_token_is(&t, "procedure");
}

/* Reads to behind the statement's semicolon. False at the end of the text. */
static bool next_statement(mt_lexer *lx, marks *m) {
  scan s = {.lx = *lx};
  mt_token t;

  memset(m, 0, sizeof *m);
  m->start = lx->p;
  s.routine = starts_routine(*lx);
  for (t = mt_lexer_next(&s.lx); t.kind != MT_TOK_END;
       t = mt_lexer_next(&s.lx)) {
    if (mt_token_is_char(&t, ';') && s.depth == 0 && s.atomic == 0) break;
    if (t.kind == MT_TOK_WORD) mark_word(&s, &t, m);
    if (t.kind == MT_TOK_CHAR) mark_char(&s, *t.text, m);
    if (t.kind == MT_TOK_UNICODE) m->broken = true; /* any name at all */
    if (t.kind == MT_TOK_WORD || t.kind == MT_TOK_QUOTED)
      mark_name(t, &s.lx, m);
    s.prev = t;
  }
  m->end = t.text;
  m->broken |= s.lx.broken || s.depth > 0 || s.atomic > 0;
  *lx = s.lx;
  return t.kind != MT_TOK_END;
}

static const verdict unknown = {
    .cls = MT_SQL_SESSION, .lasting = true, .unprovable = true};
static const verdict lasting = {.cls = MT_SQL_SESSION, .lasting = true};

static verdict passing_session(void) {
  return (verdict){.cls = MT_SQL_SESSION};
}

static verdict query(const marks *m) {
  if (m->into_temp) return lasting;
  return (verdict){.cls = m->into ? MT_SQL_DDL : MT_SQL_PLAIN};
}

static verdict create(mt_lexer *lx, const marks *m) {
  mt_token t = mt_lexer_next(lx);
  while (in_set(&t, create_skip)) t = mt_lexer_next(lx);
  if (mt_token_is(&t, "temp") || mt_token_is(&t, "temporary")) return lasting;
  if (m->concurrently || in_set(&t, alone)) return passing_session();
  return in_set(&t, objects) ? (verdict){.cls = MT_SQL_DDL} : unknown;
}

static verdict alter_or_drop(mt_lexer *lx, const marks *m) {
  mt_token t = mt_lexer_next(lx);
  if (m->concurrently || in_set(&t, alone)) return passing_session();
  return in_set(&t, objects) ? (verdict){.cls = MT_SQL_DDL} : unknown;
}

/* SET LOCAL x, but not SET local.x = 1 or SET local TO 1. */
static verdict set(mt_lexer *lx) {
  verdict v = lasting;
  mt_token t = mt_lexer_next(lx), next = mt_lexer_next(lx);
  bool names = (next.kind == MT_TOK_WORD && !mt_token_is(&next, "to")) ||
               next.kind == MT_TOK_QUOTED;

  if (!names) return v;
  if (mt_token_is(&t, "local") || mt_token_is(&t, "transaction")) {
    v.lasting = false;
    v.set_transaction = true;
  } else if (mt_token_is(&t, "constraints")) {
    v.lasting = false;
  }
  return v;
}

static verdict control(const char *keyword) {
  return (verdict){.cls = MT_SQL_CONTROL, .control = keyword};
}

static verdict prepare(mt_lexer *lx) {
  mt_token t = mt_lexer_next(lx), id = mt_lexer_next(lx);
  if (mt_token_is(&t, "transaction") && id.kind == MT_TOK_LITERAL)
    return control("PREPARE TRANSACTION");
  return lasting;
}

static verdict rollback(mt_lexer *lx) {
  mt_token t = mt_lexer_next(lx);
  if (mt_token_is(&t, "prepared")) return control("ROLLBACK PREPARED");
  if (mt_token_is(&t, "work") || mt_token_is(&t, "transaction"))
    t = mt_lexer_next(lx);
  return control(mt_token_is(&t, "to") ? "ROLLBACK TO" : "ROLLBACK");
}

/* Control statements; any other is left as .control == NULL. */
static verdict transaction(const mt_token *first, mt_lexer *lx) {
  static const char *const same[][2] = {
      {"begin", "BEGIN"},         {"end", "END"},         {"abort", "ABORT"},
      {"savepoint", "SAVEPOINT"}, {"release", "RELEASE"},
  };
  mt_token t;
  size_t i;

  for (i = 0; i < sizeof same / sizeof *same; i++) {
    if (mt_token_is(first, same[i][0])) return control(same[i][1]);
  }
  if (mt_token_is(first, "rollback")) return rollback(lx);
  if (mt_token_is(first, "prepare")) return prepare(lx);
  if (mt_token_is(first, "commit")) {
    t = mt_lexer_next(lx);
    return control(mt_token_is(&t, "prepared") ? "COMMIT PREPARED" : "COMMIT");
  }
  if (mt_token_is(first, "start")) {
    t = mt_lexer_next(lx);
    if (mt_token_is(&t, "transaction")) return control("START TRANSACTION");
  }
  return unknown;
}

/* Moves to the statement that is explained: behind ANALYZE, VERBOSE and
 * options in parentheses, which a query may have as well. */
static mt_token skip_explain(mt_lexer *lx) {
  static const word_set options = {"analyze", "analyse", "verbose", NULL};
  mt_token t = mt_lexer_next(lx);

  if (mt_token_is_char(&t, '(')) {
    mt_lexer ahead = *lx;
    mt_token inner = mt_lexer_next(&ahead);
    if (mt_token_is_char(&inner, '(') || in_set(&inner, paren_queries))
      return t;
    while (t.kind != MT_TOK_END && !mt_token_is_char(&t, ')'))
      t = mt_lexer_next(lx);
    return mt_lexer_next(lx);
  }
  while (in_set(&t, options)) t = mt_lexer_next(lx);
  return t;
}

/* EXPLAIN ANALYZE runs what it explains; without ANALYZE the same answer is
 * stricter than needed for what is rare. */
static verdict explain(mt_token t, mt_lexer *lx, const marks *m) {
  const char *const *set = queries;
  if (mt_token_is_char(&t, '(')) set = paren_queries;
  while (mt_token_is_char(&t, '(')) t = mt_lexer_next(lx);
  if (in_set(&t, set)) return query(m);
  return mt_token_is(&t, "create") && set == queries ? create(lx, m) : unknown;
}

static verdict other(const mt_token *t, mt_lexer *lx, const marks *m) {
  if (in_set(t, ddl)) return (verdict){.cls = MT_SQL_DDL};
  if (in_set(t, passing)) return passing_session();
  if (in_set(t, session)) return lasting;
  if (mt_token_is(t, "create")) return create(lx, m);
  if (mt_token_is(t, "alter") || mt_token_is(t, "drop"))
    return alter_or_drop(lx, m);
  if (mt_token_is(t, "set")) return set(lx);
  if (mt_token_is(t, "do") || mt_token_is(t, "call"))
    return (verdict){.cls = MT_SQL_BLOCK};
  if (mt_token_is(t, "copy"))
    return (verdict){.cls = m->copy_std ? MT_SQL_COPY : MT_SQL_SESSION};
  if (mt_token_is(t, "declare"))
    return m->with_hold ? lasting : passing_session();
  return transaction(t, lx);
}

static verdict decide(const marks *m) {
  mt_lexer lx;
  mt_token t;
  verdict v;

  mt_lexer_init(&lx, m->start, (size_t)(m->end - m->start));
  t = mt_lexer_next(&lx);
  if (t.kind == MT_TOK_END && !m->broken) return (verdict){.cls = MT_SQL_EMPTY};
  if (mt_token_is(&t, "explain"))
    v = explain(skip_explain(&lx), &lx, m);
  else if (mt_token_is_char(&t, '(') || in_set(&t, queries))
    v = explain(t, &lx, m);
  else
    v = other(&t, &lx, m);
  if (m->broken || m->outside_name) v.unprovable = true;
  if (m->broken ||
      ((m->session_name || m->outside_name) && v.cls != MT_SQL_CONTROL)) {
    if (v.cls < MT_SQL_SESSION) v.cls = MT_SQL_SESSION;
    v.lasting = true;
  }
  return v;
}

/* Of several control statements the one that ends a transaction is named. */
static void name_control(mt_sql_info *out, const char *keyword) {
  static const char *const mild[] = {"SAVEPOINT", "RELEASE", "ROLLBACK TO"};
  bool replace = !out->control[0];
  size_t i;

  for (i = 0; i < sizeof mild / sizeof *mild; i++)
    replace |= strcmp(out->control, mild[i]) == 0;
  if (replace) snprintf(out->control, sizeof out->control, "%s", keyword);
}

static void add_statement(mt_sql_info *out, const marks *m) {
  verdict v = decide(m);

  if (v.cls == MT_SQL_EMPTY) return;
  if (v.cls > out->cls) out->cls = v.cls;
  out->lasting |= v.lasting;
  out->unprovable |= v.unprovable;
  if (out->statements++ == 0) out->set_transaction = v.set_transaction;
  if (v.control) name_control(out, v.control);
}

const char *mt_sql_class_name(mt_sql_class cls) {
  static const char *const names[] = {"empty",   "plain", "ddl",    "block",
                                      "session", "copy",  "control"};
  return names[cls];
}

void mt_sql_classify(const char *sql, size_t len, mt_sql_info *out) {
  mt_lexer lx;
  marks m;
  bool more;

  memset(out, 0, sizeof *out);
  mt_lexer_init(&lx, sql, len);
  do {
    more = next_statement(&lx, &m);
    add_statement(out, &m);
  } while (more);
  out->comment = lx.comment || lx.broken;
}
