/*
 * Run-time parameters of routes. What passes is a name and a value that are
 * sent as one SET LOCAL, whose name and value read back the same, and none that
 * a tenant's scope rests on; arrays of both read back the same.
 */
#include <strings.h>

#include "fuzz/fuzz.h"
#include "pg/classify.h"
#include "pg/settings.h"

/* A few of those that must never pass, however they are written. */
static const char *const never[] = {"search_path",
                                    "role",
                                    "session_authorization",
                                    "client_encoding",
                                    "standard_conforming_strings",
                                    "row_security",
                                    "transaction_read_only"};

/* A quoted thing at `at`, without its quotes; the place behind it. */
static const char *unquote(const char *at, char quote, char *out) {
  FUZZ_CHECK(*at == quote);
  for (at++; *at != quote || at[1] == quote; at++) {
    FUZZ_CHECK(*at);
    if (*at == quote) at++;
    *out++ = *at;
  }
  *out = '\0';
  return at + 1;
}

/* SET LOCAL "name" = 'value', or "a"."b"; backslashes are E'' doubled. */
static void check_text(const char *text, const char *name, const char *value) {
  static const char begin[] = "SET LOCAL ";
  mt_sql_info info;
  char part[256];
  char *read = malloc(strlen(text) + 1), *to = read;
  const char *at = text + sizeof begin - 1;
  FUZZ_CHECK(read && strncmp(text, begin, sizeof begin - 1) == 0);
  mt_sql_classify(text, strlen(text), &info);
  FUZZ_CHECK(info.statements == 1);
  at = unquote(at, '"', part);
  strcpy(read, part);
  while (*at == '.') {
    at = unquote(at + 1, '"', part);
    strcat(strcat(read, "."), part);
  }
  FUZZ_CHECK(strcasecmp(read, name) == 0);
  FUZZ_CHECK(strncmp(at, " = ", 3) == 0);
  at += 3;
  if (*at == ' ') at++;
  if (*at == 'E') {
    const char *p;
    at = unquote(at + 1, '\'', read);
    for (p = read; *p; p++) {
      if (*p == '\\') FUZZ_CHECK(*++p == '\\');
      *to++ = *p;
    }
    *to = '\0';
  } else {
    at = unquote(at, '\'', read);
  }
  FUZZ_CHECK(!*at && strcmp(read, value) == 0);
  free(read);
}

/* An array of one text. */
static void check_array(const char *array, const char *element) {
  const char *p = array;
  FUZZ_CHECK(*p++ == '{' && *p++ == '"');
  for (; *element; element++) {
    if (*p == '\\') p++;
    FUZZ_CHECK(*p++ == *element);
  }
  FUZZ_CHECK(strcmp(p, "\"}") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  size_t len, i;
  char *name = fuzz_text(&in, fuzz_byte(&in) % 80u, &len);
  char *value = fuzz_rest(&in, &len);
  const char *pairs[] = {name, value, NULL};
  const char *problem = mt_setting_problem(name, value);
  mt_settings *s = NULL;
  if (problem) {
    FUZZ_CHECK(*problem && !strchr(problem, '\n'));
  } else {
    for (i = 0; i < sizeof never / sizeof *never; i++)
      FUZZ_CHECK(strcasecmp(name, never[i]) != 0);
    FUZZ_CHECK(mt_settings_new(pairs, false, &s) && s && s->n == 1);
    check_text(s->local[0], name, value);
    check_array(s->name_array, name);
    check_array(s->value_array, value);
    FUZZ_CHECK(s->timeout_ms >= 0);
    mt_settings_free(s);
  }
  free(name);
  free(value);
  return 0;
}
