/*
 * Checks a route's run-time parameters, and builds what sets them. See
 * settings.h; docs/configuration.md lists what is refused, and why.
 */
#include "pg/settings.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "pg/quote.h"

/* ---- what may be set --------------------------------------------------------- */

typedef struct refused {
  const char *name, *why;
} refused;

#define SCOPE "belongs to the tenant's scope"
#define PROTOCOL "would change how texts and values are read"
#define TRANSACTION "belongs to the transaction, see db:transaction"
#define DEFAULT "has no effect on a transaction that has begun"
#define GUARD "would take away what keeps tenants apart"
#define CONNECTION "belongs to the connection"
#define LIST "is a list of names, which can't be set here"

static const refused refusals[] = {
    {"search_path", SCOPE},
    {"role", SCOPE},
    {"session_authorization", SCOPE},
    {"is_superuser", SCOPE},
    {"client_encoding", PROTOCOL},
    {"standard_conforming_strings", PROTOCOL},
    {"backslash_quote", PROTOCOL},
    {"transaction_isolation", TRANSACTION},
    {"transaction_read_only", TRANSACTION},
    {"transaction_deferrable", TRANSACTION},
    {"default_transaction_isolation", DEFAULT},
    {"default_transaction_read_only", DEFAULT},
    {"default_transaction_deferrable", DEFAULT},
    {"row_security", GUARD},
    {"session_replication_role", GUARD},
    {"lo_compat_privileges", GUARD},
    {"allow_system_table_mods", GUARD},
    {"seed", "would stay on the connection for other tenants"},
    {"client_connection_check_interval", CONNECTION},
    {"in_hot_standby", CONNECTION},
    {"temp_tablespaces", LIST},
    {"local_preload_libraries", LIST},
    {"session_preload_libraries", LIST}};

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* name, or extension.name */
static bool is_name(const char *s) {
  bool first = true;
  size_t n = strlen(s);
  if (n == 0 || n > 63) return false;
  for (; *s; s++) {
    if (*s == '.' ? first
        : first   ? !is_letter(*s)
                  : !is_letter(*s) && *s != '$' && (*s < '0' || *s > '9'))
      return false;
    first = *s == '.';
  }
  return !first;
}

/* Milliseconds as the server reads a time limit; negative: it is none. */
static double milliseconds(const char *text) {
  static const struct {
    const char *name;
    double ms;
  } units[] = {{"", 1},        {"ms", 1},        {"us", 0.001},    {"s", 1000},
               {"min", 60000}, {"h", 3600000.0}, {"d", 86400000.0}};
  char *end;
  double n = strtod(text, &end);
  size_t i;
  if (end == text || !(n >= 0) || n > 2147483647.0) return -1;
  while (*end == ' ') end++;
  for (i = 0; i < sizeof units / sizeof *units; i++)
    if (strcmp(end, units[i].name) == 0) return n * units[i].ms;
  return -1;
}

const char *mt_setting_problem(const char *name, const char *value) {
  size_t i, len = strlen(value);
  if (!is_name(name)) return "is no name of a parameter";
  for (i = 0; i < sizeof refusals / sizeof *refusals; i++)
    if (strcasecmp(name, refusals[i].name) == 0) return refusals[i].why;
  if (len > MT_SETTING_BYTES) return "has a value of more than 4096 bytes";
  if (!mt_utf8_valid(value, len)) return "has a value that is not UTF-8";
  if (strcasecmp(name, "statement_timeout") == 0 && milliseconds(value) < 0)
    return "must be a time: milliseconds, or with a unit as in \"5s\"";
  return NULL;
}

/* ---- building ---------------------------------------------------------------- */

static char *lower(const char *s) {
  char *out = mt_strdup(s), *p;
  for (p = out; p && *p; p++)
    if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
  return out;
}

/* A dot separates names, of which each may be a word of SQL. */
static char *local_text(const char *name, const char *value) {
  const char *dot = strchr(name, '.');
  size_t len = dot ? (size_t)(dot - name) : strlen(name);
  char *head = mt_quote_ident(name, len), *out = NULL;
  char *rest = dot ? mt_quote_ident(dot + 1, strlen(dot + 1)) : mt_strdup("");
  char *literal = mt_quote_literal(value, strlen(value));
  if (head && rest && literal)
    out = mt_asprintf("SET LOCAL %s%s%s = %s", head, dot ? "." : "", rest,
                      literal);
  mt_free(head);
  mt_free(rest);
  mt_free(literal);
  return out;
}

/* An element of an array's text at the end of `array`, or NULL. */
static char *add_element(char *array, const char *value) {
  char *element = array ? mt_quote_escaped(value, '"') : NULL;
  char *out = element
                  ? mt_asprintf("%s%s%s", array, array[1] ? "," : "", element)
                  : NULL;
  mt_free(element);
  mt_free(array);
  return out;
}

static bool add(mt_settings *s, const char *name, const char *value) {
  s->names[s->n] = lower(name);
  s->pairs[2 * s->n] = mt_strdup(name);
  s->pairs[2 * s->n + 1] = mt_strdup(value);
  s->local[s->n] = s->names[s->n] ? local_text(s->names[s->n], value) : NULL;
  s->name_array = add_element(s->name_array, name);
  s->value_array = add_element(s->value_array, value);
  if (strcasecmp(name, "statement_timeout") == 0)
    s->timeout_ms = milliseconds(value);
  s->n++;
  return s->local[s->n - 1] && s->name_array && s->value_array &&
         s->pairs[2 * s->n - 2] && s->pairs[2 * s->n - 1];
}

static int by_name(const void *a, const void *b) {
  return strcasecmp(*(const char *const *)a, *(const char *const *)b);
}

static mt_settings *empty(int n) {
  mt_settings *s = mt_calloc(sizeof *s);
  if (!s) return NULL;
  s->names = mt_calloc(sizeof *s->names * (size_t)(n + 1));
  s->local = mt_calloc(sizeof *s->local * (size_t)(n + 1));
  s->pairs = mt_calloc(sizeof *s->pairs * (size_t)(2 * n + 1));
  s->name_array = mt_strdup("{");
  s->value_array = mt_strdup("{");
  if (s->names && s->local && s->pairs && s->name_array && s->value_array)
    return s;
  mt_settings_free(s);
  return NULL;
}

static bool close_array(char **array) {
  char *out = mt_asprintf("%s}", *array);
  mt_free(*array);
  *array = out;
  return out;
}

bool mt_settings_new(const char *const *pairs, bool read_only,
                     mt_settings **out) {
  const char *sorted[MT_SETTINGS_MAX][2];
  mt_settings *s;
  int n = 0, i;
  bool ok = true;
  for (; pairs && pairs[2 * n] && n < MT_SETTINGS_MAX; n++) {
    sorted[n][0] = pairs[2 * n];
    sorted[n][1] = pairs[2 * n + 1];
  }
  *out = NULL;
  if (n == 0 && !read_only) return true;
  qsort(sorted, (size_t)n, sizeof *sorted, by_name);
  s = empty(n + 1);
  if (!s) return false;
  for (i = 0; i < n && ok; i++) ok = add(s, sorted[i][0], sorted[i][1]);
  if (ok && read_only) ok = add(s, "transaction_read_only", "on");
  ok = ok && close_array(&s->name_array) && close_array(&s->value_array);
  if (ok)
    *out = s;
  else
    mt_settings_free(s);
  return ok;
}

void mt_settings_free(mt_settings *s) {
  int i;
  if (!s) return;
  for (i = 0; i < s->n; i++) {
    mt_free(s->names[i]);
    mt_free(s->local[i]);
    mt_free(s->pairs[2 * i]);
    mt_free(s->pairs[2 * i + 1]);
  }
  mt_free(s->pairs);
  mt_free(s->names);
  mt_free(s->local);
  mt_free(s->name_array);
  mt_free(s->value_array);
  mt_free(s);
}
