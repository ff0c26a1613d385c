/*
 * Lua's patterns, for the code in a sandbox: as in Lua 5.4, on both versions.
 * A pattern may backtrack for longer than the sun shines, and in Lua's own
 * matcher no hook is reached meanwhile; this one looks at the clock.
 */
#include <ctype.h>
#include <stddef.h>

#include "lua/sandbox.h"

enum { MAX_CAPTURES = 32, MAX_DEPTH = 200, LOOK_STEPS = 1024 };

/* Lengths of captures that are none. */
enum { OPEN = -1, POSITION = -2 };

typedef struct matcher {
  lua_State *L;
  mt_sandbox *s;
  const char *begin, *end; /* the subject */
  const char *pend;        /* the pattern's end */
  int depth;
  unsigned steps;
  int captures;
  struct {
    const char *at;
    ptrdiff_t len;
  } capture[MAX_CAPTURES];
} matcher;

static void step(matcher *m) {
  if (++m->steps % LOOK_STEPS == 0) mt__sandbox_check(m->L, m->s);
}

/* ---- single characters --------------------------------------------------------- */

/* Where the item that begins at p ends, without what repeats it. */
static const char *item_end(matcher *m, const char *p) {
  const char *q = p + 1;
  if (*p == '%') {
    if (q == m->pend) luaL_error(m->L, "malformed pattern (ends with '%%')");
    return q + 1;
  }
  if (*p != '[') return q;
  if (q < m->pend && *q == '^') q++;
  do { /* a ']' that comes first is one of the set */
    if (q == m->pend) luaL_error(m->L, "malformed pattern (missing ']')");
    if (*q++ == '%' && q < m->pend) q++;
  } while (q == m->pend || *q != ']');
  return q + 1;
}

static bool in_class(int c, int class) {
  bool in;
  switch (tolower(class)) {
    case 'a':
      in = isalpha(c);
      break;
    case 'c':
      in = iscntrl(c);
      break;
    case 'd':
      in = isdigit(c);
      break;
    case 'g':
      in = isgraph(c);
      break;
    case 'l':
      in = islower(c);
      break;
    case 'p':
      in = ispunct(c);
      break;
    case 's':
      in = isspace(c);
      break;
    case 'u':
      in = isupper(c);
      break;
    case 'w':
      in = isalnum(c);
      break;
    case 'x':
      in = isxdigit(c);
      break;
    case 'z': /* of old */
      in = c == 0;
      break;
    default:
      return class == c;
  }
  return isupper(class) ? !in : in;
}

/* p is at '[', last at the ']' that ends the set. */
static bool in_set(int c, const char *p, const char *last) {
  bool found = true;
  p++;
  if (*p == '^') {
    found = false;
    p++;
  }
  while (p < last) {
    if (*p == '%') { /* behind a range it may take the ']', as in Lua's own */
      if (in_class(c, (unsigned char)p[1])) return found;
      p += 2;
    } else if (p + 2 < last && p[1] == '-') {
      if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2]) return found;
      p += 3;
    } else {
      if ((unsigned char)*p == c) return found;
      p++;
    }
  }
  return !found;
}

/* Is the character at s one that the item from p to ep stands for? */
static bool is_one(matcher *m, const char *s, const char *p, const char *ep) {
  int c;
  if (s >= m->end) return false;
  c = (unsigned char)*s;
  step(m);
  switch (*p) {
    case '.':
      return true;
    case '%':
      return in_class(c, (unsigned char)p[1]);
    case '[':
      return in_set(c, p, ep - 1);
    default:
      return (unsigned char)*p == c;
  }
}

/* ---- matching ------------------------------------------------------------------ */

static const char *here(matcher *m, const char *s, const char *p);

/* As many as there are, then fewer until the rest fits. */
static const char *most(matcher *m, const char *s, const char *p,
                        const char *ep) {
  ptrdiff_t n = 0;
  while (is_one(m, s + n, p, ep)) n++;
  for (; n >= 0; n--) {
    const char *e = here(m, s + n, ep + 1);
    if (e) return e;
  }
  return NULL;
}

static const char *fewest(matcher *m, const char *s, const char *p,
                          const char *ep) {
  for (;;) {
    const char *e = here(m, s, ep + 1);
    if (e) return e;
    if (!is_one(m, s, p, ep)) return NULL;
    s++;
  }
}

static const char *open_capture(matcher *m, const char *s, const char *p,
                                ptrdiff_t len) {
  const char *e;
  if (m->captures == MAX_CAPTURES) luaL_error(m->L, "too many captures");
  m->capture[m->captures].at = s;
  m->capture[m->captures].len = len;
  m->captures++;
  e = here(m, s, p);
  if (!e) m->captures--;
  return e;
}

static const char *close_capture(matcher *m, const char *s, const char *p) {
  int i = m->captures - 1;
  const char *e;
  while (i >= 0 && m->capture[i].len != OPEN) i--;
  if (i < 0) luaL_error(m->L, "invalid pattern capture");
  m->capture[i].len = s - m->capture[i].at;
  e = here(m, s, p);
  if (!e) m->capture[i].len = OPEN;
  return e;
}

/* %bxy: from an x to the y that balances it. */
static const char *balance(matcher *m, const char *s, const char *p) {
  char open, close;
  int nested = 1;
  if (m->pend - p < 2)
    luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
  open = p[0];
  close = p[1];
  if (s >= m->end || *s != open) return NULL;
  while (++s < m->end) {
    step(m);
    if (*s == close) {
      if (--nested == 0) return s + 1;
    } else if (*s == open) {
      nested++;
    }
  }
  return NULL;
}

/* %f[set]: between a character that is not in the set and one that is. The
 * subject has a NUL at either end. */
static bool at_frontier(matcher *m, const char *s, const char *p,
                        const char *ep) {
  int before = s == m->begin ? 0 : (unsigned char)s[-1];
  int behind = s == m->end ? 0 : (unsigned char)*s;
  return !in_set(before, p, ep - 1) && in_set(behind, p, ep - 1);
}

/* %1 to %9: what was captured, again. */
static const char *again(matcher *m, const char *s, char digit) {
  int i = digit - '1';
  size_t len;
  if (i < 0 || i >= m->captures || m->capture[i].len == OPEN)
    luaL_error(m->L, "invalid capture index %%%d", i + 1);
  if (m->capture[i].len == POSITION) return NULL; /* as in Lua's own */
  len = (size_t)m->capture[i].len;
  mt__sandbox_charge(m->L, m->s, len / 8);
  if ((size_t)(m->end - s) < len || memcmp(m->capture[i].at, s, len) != 0)
    return NULL;
  return s + len;
}

/* One item that is no capture. NULL: no match; else where to go on, with *p
 * behind the item. `*done`: the rest has matched as well. */
static const char *one_item(matcher *m, const char *s, const char **p,
                            bool *done) {
  const char *ep = item_end(m, *p), *e;
  char repeat = '\0';
  if (ep < m->pend) repeat = *ep;
  *done = true;
  switch (repeat) {
    case '*':
      return most(m, s, *p, ep);
    case '+':
      return is_one(m, s, *p, ep) ? most(m, s + 1, *p, ep) : NULL;
    case '-':
      return fewest(m, s, *p, ep);
    case '?':
      if (is_one(m, s, *p, ep) && (e = here(m, s + 1, ep + 1))) return e;
      *p = ep + 1;
      break;
    default:
      if (!is_one(m, s, *p, ep)) return NULL;
      s++;
      *p = ep;
  }
  *done = false;
  return s;
}

/* An item that begins with '%' and stands for no single character; as
 * one_item, NULL and *p unchanged if it is none of them. */
static const char *special(matcher *m, const char *s, const char **p,
                           bool *is_special) {
  const char *q = *p + 1, *ep;
  *is_special =
      q < m->pend && (*q == 'b' || *q == 'f' || isdigit((unsigned char)*q));
  if (!*is_special) return NULL;
  if (*q == 'b') {
    *p = q + 3;
    return balance(m, s, q + 1);
  }
  if (*q != 'f') {
    *p = q + 1;
    return again(m, s, *q);
  }
  if (++q >= m->pend || *q != '[')
    luaL_error(m->L, "missing '[' after '%%f' in pattern");
  *p = ep = item_end(m, q);
  return at_frontier(m, s, q, ep) ? s : NULL;
}

/* Where a match of the pattern's rest p ends that begins at s; or NULL. */
static const char *rest(matcher *m, const char *s, const char *p) {
  while (s && p < m->pend) {
    bool done = false;
    const char *e;
    step(m);
    if (*p == '(') {
      bool position = p + 1 < m->pend && p[1] == ')';
      return open_capture(m, s, p + 1 + position, position ? POSITION : OPEN);
    }
    if (*p == ')') return close_capture(m, s, p + 1);
    if (*p == '$' && p + 1 == m->pend) return s == m->end ? s : NULL;
    if (*p == '%') {
      e = special(m, s, &p, &done);
      if (done) {
        s = e;
        continue;
      }
    }
    s = one_item(m, s, &p, &done);
    if (done) return s;
  }
  return s;
}

static const char *here(matcher *m, const char *s, const char *p) {
  const char *e;
  if (++m->depth > MAX_DEPTH) luaL_error(m->L, "pattern too complex");
  e = rest(m, s, p);
  m->depth--;
  return e;
}

/* ---- for Lua -------------------------------------------------------------------- */

static void push_capture(matcher *m, int i) {
  ptrdiff_t len = m->capture[i].len;
  if (len == OPEN) luaL_error(m->L, "unfinished capture");
  if (len == POSITION)
    lua_pushinteger(m->L, m->capture[i].at - m->begin + 1);
  else
    lua_pushlstring(m->L, m->capture[i].at, (size_t)len);
}

/* The captures; without any the whole match, if it is wanted. */
static int push_captures(matcher *m, const char *s, const char *e, bool whole) {
  int i;
  if (m->captures == 0 && whole) {
    lua_pushlstring(m->L, s, (size_t)(e - s));
    return 1;
  }
  luaL_checkstack(m->L, m->captures, "too many captures");
  for (i = 0; i < m->captures; i++) push_capture(m, i);
  return m->captures;
}

/* Subject and pattern are the first two arguments. */
static const char *prepare(matcher *m, lua_State *L, size_t *plen) {
  size_t len;
  const char *p;
  memset(m, 0, offsetof(matcher, capture));
  m->L = L;
  m->s = mt__sandbox_of(L);
  m->begin = luaL_checklstring(L, 1, &len);
  m->end = m->begin + len;
  p = luaL_checklstring(L, 2, plen);
  m->pend = p + *plen;
  mt__sandbox_charge(L, m->s, 16);
  return p;
}

/* The third argument, as an offset; past the end if there is no such place. */
static size_t start_at(matcher *m, lua_State *L) {
  lua_Number at = luaL_optnumber(L, 3, 1);
  size_t len = (size_t)(m->end - m->begin);
  if (!(at > -(lua_Number)len)) return at < 0 || at == 0 ? 0 : len + 1;
  if (at < 0) return len - (size_t)-at;
  if (at > (lua_Number)len + 1) return len + 1;
  return at < 1 ? 0 : (size_t)at - 1;
}

/* The first match from s on that is no empty one at `last`; NULL: none. */
static const char *search(matcher *m, const char **s, const char *p,
                          bool anchored, const char *last) {
  for (; *s <= m->end; ++*s) {
    const char *e;
    m->captures = m->depth = 0;
    e = here(m, *s, p);
    if (e && e != last) return e;
    if (anchored) break;
    step(m);
  }
  return NULL;
}

static int find_or_match(lua_State *L, bool find) {
  matcher m;
  size_t plen, from;
  const char *p = prepare(&m, L, &plen), *s, *e;
  bool anchored = plen > 0 && *p == '^';
  from = start_at(&m, L);
  if (from > (size_t)(m.end - m.begin)) {
    lua_pushnil(L);
    return 1;
  }
  s = m.begin + from;
  e = search(&m, &s, p + anchored, anchored, NULL);
  if (!e) {
    lua_pushnil(L);
    return 1;
  }
  if (!find) return push_captures(&m, s, e, true);
  lua_pushinteger(L, s - m.begin + 1);
  lua_pushinteger(L, e - m.begin);
  return 2 + push_captures(&m, s, e, false);
}

/* find(text, without magic, from) */
static int find_plain(lua_State *L) {
  matcher m;
  size_t plen, from;
  const char *p = prepare(&m, L, &plen), *at = NULL;
  from = start_at(&m, L);
  mt__sandbox_charge(L, m.s, (size_t)(m.end - m.begin) / 8);
  if (from <= (size_t)(m.end - m.begin))
    at = plen == 0 ? m.begin + from
                   : memmem(m.begin + from, (size_t)(m.end - m.begin) - from, p,
                            plen);
  if (!at) {
    lua_pushnil(L);
    return 1;
  }
  lua_pushinteger(L, at - m.begin + 1);
  lua_pushinteger(L, at - m.begin + (ptrdiff_t)plen);
  return 2;
}

/* string.find */
int mt__sandbox_find(lua_State *L) {
  size_t plen, i;
  const char *p = luaL_checklstring(L, 2, &plen);
  if (lua_toboolean(L, 4)) return find_plain(L);
  for (i = 0; i < plen; i++)
    if (strchr("^$*+?.([%-", p[i]) && p[i]) return find_or_match(L, true);
  return find_plain(L);
}

/* string.match */
int mt__sandbox_match(lua_State *L) { return find_or_match(L, false); }

/* step(text, pattern, from, last, anchored) -> begin, behind, captures...: the
 * next match for gmatch and gsub, other than an empty one at last. */
int mt__sandbox_step(lua_State *L) {
  matcher m;
  size_t plen, from;
  const char *p = prepare(&m, L, &plen), *s, *e, *last = NULL;
  bool anchored = lua_toboolean(L, 5);
  from = start_at(&m, L);
  if (!lua_isnoneornil(L, 4)) last = m.begin + lua_tointeger(L, 4) - 1;
  if (from > (size_t)(m.end - m.begin)) return 0;
  s = m.begin + from;
  e = search(&m, &s, p + anchored, anchored, last);
  if (!e) return 0;
  lua_pushinteger(L, s - m.begin + 1);
  lua_pushinteger(L, e - m.begin + 1);
  return 2 + push_captures(&m, s, e, true);
}
