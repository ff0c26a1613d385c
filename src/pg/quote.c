/* Quoting and checking of names and literals: the rules of PostgreSQL's lexer
 * for UTF-8 text. Pure; only the quoted copies are allocated. */
#include "pg/quote.h"

#include <string.h>

#include "base/alloc.h"

enum { NAME_MAX_BYTES = 63 };

/* Bytes of the character at s, 0 if it is not a valid one (Unicode, table
 * 3-7: the second byte's range depends on the first). */
static size_t char_len(const unsigned char *s, size_t left) {
  unsigned char low = 0x80, high = 0xBF, first = s[0];
  size_t n, i;

  if (first == 0) return 0;
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  n = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (n > left) return 0;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  if (s[1] < low || s[1] > high) return 0;
  for (i = 2; i < n; i++) {
    if (s[i] < 0x80 || s[i] > 0xBF) return 0;
  }
  return n;
}

bool mt_utf8_valid(const char *s, size_t len) {
  const unsigned char *p = (const unsigned char *)s, *end = p + len;
  while (p < end) {
    size_t n = char_len(p, (size_t)(end - p));
    if (n == 0) return false;
    p += n;
  }
  return true;
}

/* prefix, quote, text with quotes (and backslashes) behind `escape`, or behind
 * themselves if that is NUL, quote. */
static char *quoted(const char *prefix, char quote, bool backslashes,
                    char escape, const char *s, size_t len) {
  size_t i, extra = strlen(prefix) + 3;
  char *out, *p;

  for (i = 0; i < len; i++)
    extra += s[i] == quote || (backslashes && s[i] == '\\');
  out = mt_malloc(len + extra);
  if (!out) return NULL;
  p = out;
  while (*prefix) *p++ = *prefix++;
  *p++ = quote;
  for (i = 0; i < len; i++) {
    if (s[i] == quote || (backslashes && s[i] == '\\'))
      *p++ = escape ? escape : s[i];
    *p++ = s[i];
  }
  *p++ = quote;
  *p = '\0';
  return out;
}

char *mt_quote_ident(const char *s, size_t len) {
  return quoted("", '"', false, '\0', s, len);
}

/* With E'' the meaning does not hang on standard_conforming_strings. */
char *mt_quote_literal(const char *s, size_t len) {
  bool escaped = len > 0 && memchr(s, '\\', len) != NULL;
  return quoted(escaped ? "E" : "", '\'', escaped, '\0', s, len);
}

char *mt_quote_escaped(const char *s, char quote) {
  return quoted("", quote, true, '\\', s, strlen(s));
}

const char *mt_name_problem(const char *s, size_t len) {
  if (len == 0) return "is empty";
  if (len > NAME_MAX_BYTES) return "is longer than 63 bytes";
  if (memchr(s, '\0', len)) return "contains a NUL byte";
  if (!mt_utf8_valid(s, len)) return "is not valid UTF-8";
  return NULL;
}

const char *mt_database_name_problem(const char *s, size_t len) {
  static const char *const reserved[] = {"postgres", "template0", "template1"};
  const char *why = mt_name_problem(s, len);
  size_t i;
  for (i = 0; !why && i < sizeof reserved / sizeof *reserved; i++)
    if (len == strlen(reserved[i]) && memcmp(s, reserved[i], len) == 0)
      why = "is the server's own";
  return why;
}

const char *mt_schema_name_problem(const char *s, size_t len) {
  static const char info[] = "information_schema";
  const char *why = mt_name_problem(s, len);

  if (why) return why;
  if (len >= 3 && memcmp(s, "pg_", 3) == 0)
    return "starts with the reserved prefix pg_";
  if (len == sizeof info - 1 && memcmp(s, info, len) == 0)
    return "is reserved (information_schema)";
  /* in a search_path it stands for another name, even in quotes */
  if (len == 5 && memcmp(s, "$user", 5) == 0) return "is reserved ($user)";
  return NULL;
}
