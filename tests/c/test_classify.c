/* pg/classify.c: what each kind of statement is taken for, and that tricks
 * with the lexer change nothing. */
#include "pg/classify.h"

#include <stdio.h>
#include <string.h>

#include "pg/lexer.h"
#include "support/test.h"

#define EMPTY MT_SQL_EMPTY
#define PLAIN MT_SQL_PLAIN
#define DDL MT_SQL_DDL
#define BLOCK MT_SQL_BLOCK
#define SESSION MT_SQL_SESSION
#define COPY MT_SQL_COPY
#define CONTROL MT_SQL_CONTROL

typedef struct row {
  const char *sql;
  mt_sql_class cls;
  bool lasting;
} row;

static void check_rows(const row *rows, size_t n) {
  mt_sql_info info;
  size_t i;
  for (i = 0; i < n; i++) {
    mt_sql_classify(rows[i].sql, strlen(rows[i].sql), &info);
    if (info.cls != rows[i].cls || info.lasting != rows[i].lasting)
      fail_msg("%s: class %d, lasting %d", rows[i].sql, (int)info.cls,
               info.lasting);
  }
}

#define CHECK(rows) check_rows(rows, MT_COUNT(rows))

static void plain_statements(void **state) {
  static const row rows[] = {
      {"select 1", PLAIN, 0},
      {"SELECT * FROM items WHERE id = $1;", PLAIN, 0},
      {"(((select 1)))", PLAIN, 0},
      {"( values (1) ) union (select 2)", PLAIN, 0},
      {"((with a as (select 1) select * from a))", PLAIN, 0},
      {"values (1), (2)", PLAIN, 0},
      {"table items", PLAIN, 0},
      {"insert into t values (1)", PLAIN, 0},
      {"INSERT INTO t SELECT * FROM u", PLAIN, 0},
      {"insert /* c */ into t select a from b returning *", PLAIN, 0},
      {"update t set a = 1", PLAIN, 0},
      {"delete from t", PLAIN, 0},
      {"merge into t using s on t.a = s.a when not matched then insert "
       "values (1)",
       PLAIN, 0},
      {"WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x",
       PLAIN, 0},
      {"with x as (select 1) insert into t select * from x", PLAIN, 0},
      {"with x as (select 1) merge into t using x on true when matched then "
       "delete",
       PLAIN, 0},
      {"select a.into from t", PLAIN, 0},
      {"select 1 as into", PLAIN, 0},
      {"select for_update from t for update skip locked", PLAIN, 0},
      {"select lo_import('/etc/hostname')", PLAIN, 0},
      {"select pg_notify('a', 'b')", PLAIN, 0},
      {"select pg_advisory_xact_lock(1)", PLAIN, 0},
      {"select pg_try_advisory_xact_lock_shared(1)", PLAIN, 0},
      {"select 'set_config(' || $1", PLAIN, 0},
      {"select $a$ set_config('x') ; begin $a$", PLAIN, 0},
      {"select current_setting('a')", PLAIN, 0},
      {"select a from pg_template_of_mine", PLAIN, 0},
      {"explain select 1", PLAIN, 0},
      {"explain analyze select 1", PLAIN, 0},
      {"explain analyse verbose select 1", PLAIN, 0},
      {"explain (analyze, buffers off, format json) insert into t values (1)",
       PLAIN, 0},
      {"explain (select 1)", PLAIN, 0},
      {"explain ((select 1))", PLAIN, 0},
      {"explain (costs off) (select 1)", PLAIN, 0},
      {"select \"begin\", \"a;b\" from t", PLAIN, 0},
      {"select $1, $2$tag$ x $tag$", PLAIN, 0},
      {"select 1 where a <@ b and c @- d", PLAIN, 0},
      {"select arr[1:2], '{}'::int[]", PLAIN, 0},
  };
  (void)state;
  CHECK(rows);
}

static void nothing(void **state) {
  static const row rows[] = {
      {"", EMPTY, 0},
      {" \t\r\n\f\v", EMPTY, 0},
      {";", EMPTY, 0},
      {";;; ;", EMPTY, 0},
      {"-- select 1", EMPTY, 0},
      {"/* a /* b */ c */", EMPTY, 0},
      {"-- a\n;/**/", EMPTY, 0},
  };
  (void)state;
  CHECK(rows);
}

static void ddl(void **state) {
  static const row rows[] = {
      {"create table t (a int)", DDL, 0},
      {"create unlogged table t (a int)", DDL, 0},
      {"create table if not exists t (temp int, temporary text)", DDL, 0},
      {"create table temp (a int)", DDL, 0},
      {"create table t as select 1", DDL, 0},
      {"create or replace view v as select 1", DDL, 0},
      {"create recursive view v (n) as select 1", DDL, 0},
      {"create materialized view v as select 1", DDL, 0},
      {"create unique index on t (a)", DDL, 0},
      {"create schema if not exists x", DDL, 0},
      {"create extension citext", DDL, 0},
      {"create constraint trigger x after insert on t execute function f()",
       DDL, 0},
      {"create function f() returns int language sql security definer set "
       "search_path = a, pg_temp as 'select 1; commit'",
       DDL, 0},
      {"create or replace procedure p() language plpgsql as $$begin commit; "
       "end$$",
       DDL, 0},
      {"alter table t add column b int", DDL, 0},
      {"alter role r set search_path = ''", DDL, 0},
      {"alter default privileges grant select on tables to r", DDL, 0},
      {"drop table if exists t cascade", DDL, 0},
      {"drop owned by r", DDL, 0},
      {"comment on table t is 'x'", DDL, 0},
      {"grant select on t to r", DDL, 0},
      {"revoke all on t from r", DDL, 0},
      {"truncate t", DDL, 0},
      {"ANALYZE", DDL, 0},
      {"refresh materialized view concurrently v", DDL, 0},
      {"SELECT a, b INTO t FROM u", DDL, 0},
      {"with x as (select 1) select * into t from x", DDL, 0},
      {"explain analyze create table t as select 1", DDL, 0},
      {"explain (analyze) select * into t from u", DDL, 0},
      /* INSERT as a column's label, so this is SELECT INTO */
      {"select 1 insert into t from u", DDL, 0},
      {"(select 1 merge into t)", DDL, 0},
      {"with x as (select 1) select (2) insert into t from x", DDL, 0},
  };
  (void)state;
  CHECK(rows);
}

static void blocks(void **state) {
  static const row rows[] = {
      {"do $$begin commit; end$$", BLOCK, 0},
      {"DO LANGUAGE plpgsql 'begin end'", BLOCK, 0},
      {"call p(1)", BLOCK, 0},
      {"call p(set_config('a', 'b', false))", SESSION, 1},
  };
  (void)state;
  CHECK(rows);
}

static void session_statements(void **state) {
  static const row rows[] = {
      {"set search_path = a", SESSION, 1},
      {"SET ROLE r", SESSION, 1},
      {"set session characteristics as transaction read only", SESSION, 1},
      {"set time zone 'utc'", SESSION, 1},
      {"SET LOCAL search_path = a, pg_temp", SESSION, 0},
      {"set local \"a.b\" = 1", SESSION, 0},
      {"set local.x = 1", SESSION, 1},
      {"set local to 1", SESSION, 1},
      {"set local = 1", SESSION, 1},
      {"set transaction isolation level serializable", SESSION, 0},
      {"set transaction.x = 1", SESSION, 1},
      {"set constraints all deferred", SESSION, 0},
      {"set constraints \"a\" deferred", SESSION, 0},
      {"reset all", SESSION, 1},
      {"reset role", SESSION, 1},
      {"reset search_path", SESSION, 1},
      {"show all", SESSION, 0},
      {"listen c", SESSION, 1},
      {"unlisten *", SESSION, 0},
      {"notify c, 'x'", SESSION, 0},
      {"prepare p as select 1", SESSION, 1},
      {"prepare transaction as select 1", SESSION, 1},
      {"prepare transaction (int) as select 1", SESSION, 1},
      {"execute p", SESSION, 1},
      {"deallocate all", SESSION, 1},
      {"deallocate mt_scope", SESSION, 1},
      {"discard all", SESSION, 1},
      {"discard temp", SESSION, 1},
      {"discard plans", SESSION, 1},
      {"declare c cursor for select 1", SESSION, 0},
      {"declare c cursor without hold for select 1", SESSION, 0},
      {"DECLARE c CURSOR WITH HOLD FOR select 1", SESSION, 1},
      {"fetch all from c", SESSION, 0},
      {"move 1 in c", SESSION, 0},
      {"close c", SESSION, 0},
      {"lock table t in exclusive mode", SESSION, 0},
      {"vacuum", SESSION, 0},
      {"cluster", SESSION, 0},
      {"reindex index concurrently i", SESSION, 0},
      {"checkpoint", SESSION, 0},
      {"create index concurrently i on t (a)", SESSION, 0},
      {"create unique index concurrently on t (a)", SESSION, 0},
      {"drop index concurrently i", SESSION, 0},
      {"alter table t detach partition p concurrently", SESSION, 0},
      {"create database d", SESSION, 0},
      {"drop database d", SESSION, 0},
      {"alter database d set a = 1", SESSION, 0},
      {"alter system set a = 1", SESSION, 0},
      {"create tablespace s location '/x'", SESSION, 0},
      {"create temp table t (a int)", SESSION, 1},
      {"CREATE TEMPORARY TABLE t (a int)", SESSION, 1},
      {"create local temp table t (a int)", SESSION, 1},
      {"create global temporary table t (a int)", SESSION, 1},
      {"create temp sequence s", SESSION, 1},
      {"create or replace temp view v as select 1", SESSION, 1},
      {"create temp recursive view v (n) as select 1", SESSION, 1},
      {"create table pg_temp.x (a int)", SESSION, 1},
      {"create table \"pg_temp\" . x (a int)", SESSION, 1},
      {"create table pg_temp_3.x (a int)", SESSION, 1},
      {"create function pg_temp.f() returns int language sql as 'select 1'",
       SESSION, 1},
      {"select 1 into temp t", SESSION, 1},
      {"select 1 into temporary table t", SESSION, 1},
      {"select 1 into local temp t", SESSION, 1},
      {"select 1 into pg_temp.t", SESSION, 1},
      {"select 1 insert into temp t", SESSION, 1},
      {"explain analyze create temp table t as select 1", SESSION, 1},
      {"explain analyze execute p", SESSION, 1},
      {"explain (analyze) declare c cursor for select 1", SESSION, 1},
      {"load 'x'", SESSION, 1},
      {"SELECT set_config('a', 'b', false)", SESSION, 1},
      {"select pg_catalog.set_config('a', 'b', true)", SESSION, 1},
      {"select \"set_config\"('a', 'b', false)", SESSION, 1},
      {"select set_config/**/('a', 'b', false)", SESSION, 1},
      {"insert into t select SET_CONFIG('a', 'b', false)", SESSION, 1},
      {"with a as (select set_config('a', 'b', false)) select 1", SESSION, 1},
      {"create table t as select set_config('a', 'b', false)", SESSION, 1},
      {"select U&\"set\\005fconfig\"('a', 'b', false)", SESSION, 1},
      {"select u&\"harmless\" from t", SESSION, 1},
      {"select pg_advisory_lock(1)", SESSION, 1},
      {"select pg_advisory_lock_shared(1)", SESSION, 1},
      {"select pg_try_advisory_lock(1)", SESSION, 1},
      {"select pg_try_advisory_lock_shared(1, 2)", SESSION, 1},
      {"select pg_advisory_unlock(1)", SESSION, 1},
      {"select pg_advisory_unlock_all()", SESSION, 1},
      {"select setseed(0.5)", SESSION, 1},
      {"select dblink_connect('c', 'x')", SESSION, 1},
      {"frobnicate", SESSION, 1},
      {"create frobnication x", SESSION, 1},
      {"create", SESSION, 1},
      {"set", SESSION, 1},
      {"\"select\" 1", SESSION, 1},
      {"(begin)", SESSION, 1},
      {"(insert into t values (1))", SESSION, 1},
      {"explain begin", SESSION, 1},
      {"explain", SESSION, 1},
      {"start", SESSION, 1},
      {"1", SESSION, 1},
  };
  (void)state;
  CHECK(rows);
}

static void copies(void **state) {
  static const row rows[] = {
      {"COPY t FROM STDIN", COPY, 0},
      {"copy t (a, b) from stdin with (format csv)", COPY, 0},
      {"copy t to stdout", COPY, 0},
      {"copy (select a from stdin) to stdout", COPY, 0},
      {"copy t from /* c */ stdin", COPY, 0},
      {"copy t from stdout", COPY, 0},
      {"copy binary t from stdin", COPY, 0},
      {"copy (select set_config('a', 'b', false)) to stdout", COPY, 1},
      {"COPY (select 1) TO '/file'", SESSION, 0},
      {"copy t from 'stdin'", SESSION, 0},
      {"copy t from program 'cat'", SESSION, 0},
      {"copy (select * from stdout) to '/file'", SESSION, 0},
  };
  (void)state;
  CHECK(rows);
}

static void check_control(const char *sql, const char *keyword) {
  mt_sql_info info;
  mt_sql_classify(sql, strlen(sql), &info);
  if (info.cls != CONTROL) fail_msg("%s: class %d", sql, (int)info.cls);
  assert_string_equal(info.control, keyword);
  if (info.lasting) fail_msg("%s: lasting", sql);
}

static void transaction_control(void **state) {
  (void)state;
  check_control("BEGIN", "BEGIN");
  check_control("begin isolation level serializable", "BEGIN");
  check_control(";BEGIN", "BEGIN");
  check_control("/**/ BEGIN", "BEGIN");
  check_control("\fBEGIN", "BEGIN");
  check_control("\vBEGIN", "BEGIN");
  check_control("-- x\nbegin", "BEGIN");
  check_control("-- x\rbegin", "BEGIN");
  check_control("/* /* */ select 1 */ begin", "BEGIN");
  check_control("/* -- */ begin", "BEGIN");
  check_control("/*'*/begin/*'*/", "BEGIN");
  check_control("-- '\nbegin -- '", "BEGIN");
  check_control("START TRANSACTION READ ONLY", "START TRANSACTION");
  check_control("COMMIT", "COMMIT");
  check_control("commit and chain", "COMMIT");
  check_control("end", "END");
  check_control("abort", "ABORT");
  check_control("rollback", "ROLLBACK");
  check_control("rollback and chain", "ROLLBACK");
  check_control("rollback work", "ROLLBACK");
  check_control("rollback to a", "ROLLBACK TO");
  check_control("ROLLBACK TRANSACTION TO SAVEPOINT a", "ROLLBACK TO");
  check_control("savepoint a", "SAVEPOINT");
  check_control("savepoint pg_temp", "SAVEPOINT");
  check_control("release savepoint a", "RELEASE");
  check_control("prepare transaction 'x'", "PREPARE TRANSACTION");
  check_control("prepare transaction $$x$$", "PREPARE TRANSACTION");
  check_control("commit prepared 'x'", "COMMIT PREPARED");
  check_control("rollback prepared 'x'", "ROLLBACK PREPARED");
  check_control("select 1; commit", "COMMIT");
  check_control("savepoint a; commit; rollback to a", "COMMIT");
  check_control("begin; commit", "BEGIN");
}

/* A mistake about where a string ends would hide the statement behind it. */
static void strings_end_where_the_server_thinks(void **state) {
  (void)state;
  check_control("select 'a'';commit'; begin", "BEGIN");
  check_control("select 'a\\'; begin --'", "BEGIN");
  check_control("select e'a\\'; commit'; begin", "BEGIN");
  check_control("select E'a\\\\'; begin --'", "BEGIN");
  check_control("select E'a'\n'\\'; commit'; begin", "BEGIN");
  check_control("select E'a' -- c\n  '\\'; commit'; begin", "BEGIN");
  check_control("select 'a'\n'\\'; begin --'", "BEGIN");
  check_control("select xe'\\'; begin --'", "BEGIN");
  check_control("select b'1\\'; begin --'", "BEGIN");
  check_control("select n'\\'; begin --'", "BEGIN");
  check_control("select u&'\\'; begin --'", "BEGIN");
  check_control("select \"a\"\"; commit\"; begin", "BEGIN");
  check_control("select \"a\\\"; begin --\"", "BEGIN");
  check_control("select $$'$$; begin --'", "BEGIN");
  check_control("select $a$ $$ $b$ ; commit $a$; begin", "BEGIN");
  check_control("select $a$ $a$b$; begin", "BEGIN");
  check_control("select a$b$; begin; select c$b$", "BEGIN");
  check_control("select $1; begin; select $2", "BEGIN");
  check_control("select 1$$;commit$$; begin", "BEGIN");
  check_control("select $\xC3\xA9$;commit$\xC3\xA9$; begin", "BEGIN");
  check_control("select $ ; begin ; select $", "BEGIN");
  check_control("select 1 /* ' */; begin /* ' */", "BEGIN");
  check_control("select 1 --/*\n; begin --*/", "BEGIN");
  check_control("select 4 /*/ ; commit */; begin", "BEGIN");
  check_control("select (1 + (2)); begin", "BEGIN");
}

static void unfinished_texts_are_never_plain(void **state) {
  static const row rows[] = {
      {"select 'a", SESSION, 1},
      {"select e'a\\'", SESSION, 1},
      {"select e'a\\", SESSION, 1},
      {"select \"a", SESSION, 1},
      {"select \"", SESSION, 1},
      {"select $$a", SESSION, 1},
      {"select $a$ $a", SESSION, 1},
      {"select /* a", SESSION, 1},
      {"select /* /* */", SESSION, 1},
      {"/*", SESSION, 1},
      {"'", SESSION, 1},
      {"select (1", SESSION, 1},
      {"select 1)", SESSION, 1},
      {"select u&\"a", SESSION, 1},
      {"select u&'a", SESSION, 1},
      {"select (1; commit", SESSION, 1},
      {"create function f() returns int begin atomic select 1; commit", SESSION,
       1},
  };
  mt_sql_info info;
  (void)state;
  CHECK(rows);
  mt_sql_classify("select 1\0; begin", 16, &info);
  assert_true(info.cls > PLAIN && info.lasting);
}

/* Else what is behind the end of a word in our tables is read too. */
static void a_name_with_a_nul_is_no_word(void **state) {
  mt_token t = {MT_TOK_WORD, "set\0\0set", 8};
  (void)state;
  assert_false(mt_token_is(&t, "set\0\0set"));
  t.len = 4;
  assert_false(mt_token_is(&t, "set"));
  t.len = 3;
  assert_true(mt_token_is(&t, "set"));
}

static void check_count(const char *sql, int statements, mt_sql_class cls) {
  mt_sql_info info;
  mt_sql_classify(sql, strlen(sql), &info);
  if (info.statements != statements || info.cls != cls)
    fail_msg("%s: %d statements, class %d", sql, info.statements,
             (int)info.cls);
}

static void statements_are_counted(void **state) {
  (void)state;
  check_count("", 0, EMPTY);
  check_count("select 1", 1, PLAIN);
  check_count(";;select 1;;", 1, PLAIN);
  check_count("select 1; select 2", 2, PLAIN);
  check_count("select 1; create table t (a int); select 2", 3, DDL);
  check_count("select ';'; set a = 1;", 2, SESSION);
  check_count("create rule r as on insert to t do (select 1; select 2)", 1,
              DDL);
}

static void routine_bodies_are_one_statement(void **state) {
  (void)state;
  check_count(
      "create function f() returns int language sql begin atomic "
      "select 1; select case when true then 1 else 2 end; select 3; end",
      1, DDL);
  check_count(
      "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); "
      "SELECT a.end, 1 AS end FROM a; END; select 1",
      2, DDL);
  check_control("create procedure p() begin atomic select 1; end; commit",
                "COMMIT");
  /* names that only look like a body */
  check_control(
      "create function begin(atomic int) returns int return 1; commit",
      "COMMIT");
  check_control("create function f(begin atomic) returns int return 1; commit",
                "COMMIT");
  check_control("select begin atomic; commit", "COMMIT");
}

static bool sets_transaction(const char *sql) {
  mt_sql_info info;
  mt_sql_classify(sql, strlen(sql), &info);
  return info.set_transaction;
}

static void set_transaction_is_seen_in_front(void **state) {
  (void)state;
  assert_true(sets_transaction("set transaction read only"));
  assert_true(sets_transaction(";; SET LOCAL a = 1; select 1"));
  assert_false(sets_transaction("select 1; set transaction read only"));
  assert_false(sets_transaction("set a = 1"));
  assert_false(sets_transaction("set constraints all deferred"));
}

/* Any cut of a text is scanned within its bounds. */
static void cut_texts_stay_in_bounds(void **state) {
  static const char sql[] =
      "select E'a\\''\n'b', $t$ x $t$, U&\"y\", \"q\"\"\" /* /* */ */ from "
      "(t) -- c\n; create function f() begin atomic select 1; end; begin";
  char copy[sizeof sql];
  mt_sql_info info;
  size_t len, from;
  (void)state;
  for (from = 0; from < sizeof sql; from++) {
    for (len = 0; from + len < sizeof sql; len++) {
      char *end = copy + sizeof copy - len;
      memcpy(end, sql + from, len);
      mt_sql_classify(end, len, &info);
      assert_in_range(info.cls, EMPTY, CONTROL);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plain_statements),
      cmocka_unit_test(nothing),
      cmocka_unit_test(ddl),
      cmocka_unit_test(blocks),
      cmocka_unit_test(session_statements),
      cmocka_unit_test(copies),
      cmocka_unit_test(transaction_control),
      cmocka_unit_test(strings_end_where_the_server_thinks),
      cmocka_unit_test(unfinished_texts_are_never_plain),
      cmocka_unit_test(a_name_with_a_nul_is_no_word),
      cmocka_unit_test(statements_are_counted),
      cmocka_unit_test(routine_bodies_are_one_statement),
      cmocka_unit_test(set_transaction_is_seen_in_front),
      cmocka_unit_test(cut_texts_stay_in_bounds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
