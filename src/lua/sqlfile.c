/*
 * luaopen_mtenant_sqlfile: files of SQL taken apart by PostgreSQL's own parser
 * (libpg_query). A module of its own, so that only who runs migrations loads
 * that library. Pure functions over strings.
 */
#include <pg_query.h>
#include <stdio.h>

#include "base/alloc.h"
#include "lua/compat.h"
#include "pg/classify.h"
#include "pg/lexer.h"
#include "pg/sqlfile.h"

__attribute__((visibility("default"))) int luaopen_mtenant_sqlfile(
    lua_State *L);

enum { MAX_BYTES = 32 << 20 };

/* ---- places ----------------------------------------------------------------- */

static bool starts_char(char c) { return ((unsigned char)c & 0xC0) != 0x80; }

/* Offset of the n-th character, from 0. */
static size_t offset_of(const char *text, size_t len, lua_Integer n) {
  size_t at = 0;
  for (; at < len; at++)
    if (starts_char(text[at]) && n-- == 0) return at;
  return len;
}

static void place(const char *text, size_t at, lua_Integer *line,
                  lua_Integer *column) {
  size_t i;
  *line = *column = 1;
  for (i = 0; i < at; i++) {
    if (text[i] == '\n') {
      ++*line;
      *column = 1;
    } else if (starts_char(text[i])) {
      ++*column;
    }
  }
}

/* position(text, n) -> byte, line, column */
static int position(lua_State *L) {
  size_t len, at;
  const char *text = luaL_checklstring(L, 1, &len);
  lua_Integer n = luaL_checkinteger(L, 2), line, column;
  at = offset_of(text, len, n > 0 ? n - 1 : 0);
  place(text, at, &line, &column);
  lua_pushinteger(L, (lua_Integer)at + 1);
  lua_pushinteger(L, line);
  lua_pushinteger(L, column);
  return 3;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

/* -> nil, { message, line, column, position } */
static int push_problem(lua_State *L, const char *text, const char *message,
                        size_t at) {
  lua_Integer line, column;
  place(text, at, &line, &column);
  lua_pushnil(L);
  lua_newtable(L);
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  set_integer(L, "line", line);
  set_integer(L, "column", column);
  set_integer(L, "position", (lua_Integer)at + 1);
  return 2;
}

/* ---- split ------------------------------------------------------------------ */

static void set_copy(lua_State *L, const mt_sqlfile *f, size_t begin,
                     size_t end) {
  size_t i;
  for (i = 0; i < f->ncopies; i++) {
    const mt_copy_data *c = &f->copies[i];
    if (c->semicolon < begin || c->semicolon > end) continue;
    set_integer(L, "copy_first", (lua_Integer)c->first + 1);
    set_integer(L, "copy_last", (lua_Integer)c->last);
    return;
  }
}

/* Pushes a statement, without the comments and blanks around it. False, and
 * nothing pushed, if there is nothing else. `from` is where its line is
 * counted from. */
static bool push_statement(lua_State *L, const mt_sqlfile *f, size_t begin,
                           size_t end, size_t *from, lua_Integer *line) {
  mt_lexer lx;
  mt_token t;
  mt_sql_info info;
  size_t first = begin, last = end;
  mt_lexer_init(&lx, f->text + begin, end - begin);
  t = mt_lexer_next(&lx);
  if (t.kind == MT_TOK_END) return false;
  /* of a quoted token the text is what is inside: no statement begins so */
  first = (size_t)(t.text - f->text);
  while (last > first && strchr(" \t\r\n\f\v", f->text[last - 1])) last--;
  for (; *from < first; ++*from)
    if (f->text[*from] == '\n') ++*line;
  mt_sql_classify(f->text + first, last - first, &info);
  lua_newtable(L);
  set_integer(L, "first", (lua_Integer)first + 1);
  set_integer(L, "last", (lua_Integer)last);
  set_integer(L, "line", *line);
  lua_pushstring(L, mt_sql_class_name(info.cls));
  lua_setfield(L, -2, "class");
  lua_pushboolean(L, info.lasting);
  lua_setfield(L, -2, "lasting");
  if (info.cls == MT_SQL_CONTROL) {
    lua_pushstring(L, info.control);
    lua_setfield(L, -2, "keyword");
  }
  if (info.cls == MT_SQL_COPY) set_copy(L, f, first, end);
  return true;
}

typedef struct work {
  mt_sqlfile f;
  PgQuerySplitResult r;
  bool parsed;
} work;

/* Protected, so that what libpg_query has made is freed if Lua's memory ends:
 * (lightuserdata) -> statements | nil, problem */
static int build(lua_State *L) {
  work *w = lua_touserdata(L, 1);
  const mt_sqlfile *f = &w->f;
  size_t from = 0;
  lua_Integer n = 0, line = 1;
  int i;
  if (f->problem) return push_problem(L, f->text, f->problem, f->problem_at);
  if (w->r.error) {
    int at = w->r.error->cursorpos;
    return push_problem(L, f->text, w->r.error->message,
                        offset_of(f->text, f->len, at > 0 ? at - 1 : 0));
  }
  lua_newtable(L);
  for (i = 0; i < w->r.n_stmts; i++) {
    size_t begin = (size_t)w->r.stmts[i]->stmt_location;
    size_t len = (size_t)w->r.stmts[i]->stmt_len;
    size_t end = len ? begin + len : f->len;
    if (push_statement(L, f, begin, end, &from, &line))
      lua_rawseti(L, -2, (int)++n);
  }
  return 1;
}

/* split(text) -> statements | nil, problem */
static int split(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  work w = {0};
  int status;
  if (len > MAX_BYTES) return push_problem(L, "", "longer than 32 MiB", 0);
  w.f.text = mt_malloc(len + 1);
  if (!w.f.text) return luaL_error(L, "not enough memory");
  memcpy(w.f.text, text, len + 1);
  w.f.len = len;
  if (!mt_sqlfile_blank(&w.f)) {
    mt_sqlfile_fini(&w.f);
    mt_free(w.f.text);
    return luaL_error(L, "not enough memory");
  }
  if (!w.f.problem) {
    w.r = pg_query_split_with_parser(w.f.text);
    w.parsed = true;
  }
  lua_pushcfunction(L, build);
  lua_pushlightuserdata(L, &w);
  status = lua_pcall(L, 1, 2, 0);
  if (w.parsed) pg_query_free_split_result(w.r);
  mt_sqlfile_fini(&w.f);
  mt_free(w.f.text);
  if (status != 0) return lua_error(L);
  return 2;
}

int luaopen_mtenant_sqlfile(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, split);
  lua_setfield(L, -2, "split");
  lua_pushcfunction(L, position);
  lua_setfield(L, -2, "position");
  return 1;
}
