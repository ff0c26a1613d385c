/*
 * options: what the command line of mtenant-run (or mtenant) asks for.
 * main calls it once, before anything else. It looks at argv only, never at
 * the environment or at files.
 */
#ifndef MT_RUN_OPTIONS_H
#define MT_RUN_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

typedef struct mt_run_options {
  const char *name; /* "mtenant-run" or "mtenant": prefixes every message */
  int argc;
  char **argv;        /* borrowed from main */
  const char **evals; /* the codes of -e, in order */
  int nevals;
  int script;        /* index of the script or command in argv; argc: none */
  bool command;      /* called as `mtenant`: the script is a command's name */
  bool interactive;  /* -i */
  const char *admin; /* an address; NULL: no admin endpoint */
  const char *admin_token_file, *admin_basic_file, *admin_ready;
  bool pg; /* --pg */
  bool version, help;
  char error[256]; /* why parse returned false */
} mt_run_options;

/* False on bad usage, with the reason in o->error. fini is due in either
 * case. */
bool mt_run_options_init(mt_run_options *o, int argc, char **argv);
void mt_run_options_fini(mt_run_options *o);

/* The help text of mtenant-run; that of mtenant lists scripts, in Lua. */
void mt_run_options_help(const mt_run_options *o, FILE *out);

#endif
