/*
 * Parses the command line. As in `lua`, options end at the first argument
 * that is none; everything after the script belongs to the script.
 */
#include "run/options.h"

#include <stdlib.h>
#include <string.h>

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static bool fail(mt_run_options *o, const char *what, const char *arg) {
  snprintf(o->error, sizeof o->error, "%s '%.150s'", what, arg);
  return false;
}

/* Handles argv[*i]; may take the next argument as well. */
static bool parse_one(mt_run_options *o, int *i) {
  const char *arg = o->argv[*i];
  if (strcmp(arg, "--version") == 0) {
    o->version = true;
  } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
    o->help = true;
  } else if (strcmp(arg, "--pg") == 0) {
    o->pg = true;
  } else if (strcmp(arg, "-i") == 0 && !o->command) {
    o->interactive = true;
  } else if (strncmp(arg, "-e", 2) == 0 && !o->command) {
    if (arg[2] == '\0' && *i + 1 >= o->argc)
      return fail(o, "code is missing after", arg);
    o->evals[o->nevals++] = arg[2] ? arg + 2 : o->argv[++*i];
  } else {
    return fail(o, "unknown option", arg);
  }
  return true;
}

static bool has_work(const mt_run_options *o) {
  return o->script < o->argc || o->nevals > 0 || o->interactive || o->version ||
         o->help;
}

bool mt_run_options_init(mt_run_options *o, int argc, char **argv) {
  memset(o, 0, sizeof *o);
  const char *called = argc > 0 ? base_name(argv[0]) : "";
  o->command = strcmp(called, "mtenant") == 0;
  o->name = o->command ? "mtenant" : "mtenant-run";
  o->argc = argc;
  o->argv = argv;
  o->evals = calloc((size_t)argc + 1, sizeof *o->evals);
  if (!o->evals) return fail(o, "out of memory for", "the arguments");
  int i = 1;
  for (; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; i++) {
    if (strcmp(argv[i], "--") == 0) {
      i++;
      break;
    }
    if (!parse_one(o, &i)) return false;
  }
  o->script = i < argc ? i : argc;
  if (has_work(o)) return true;
  snprintf(o->error, sizeof o->error, "%s is missing",
           o->command ? "the command" : "the script");
  return false;
}

void mt_run_options_fini(mt_run_options *o) { free(o->evals); }

void mt_run_options_help(const mt_run_options *o, FILE *out) {
  fprintf(
      out,
      "usage: %s [options] script.lua [args]\n"
      "Runs a Lua script as a task: any call may wait.\n"
      "\n"
      "  -e code     run code first; may be repeated, the script is optional\n"
      "  -i          then read lines from standard input and run each\n"
      "  --pg        start a private PostgreSQL for this run, thrown away at\n"
      "              its end; DATABASE_URL names it\n"
      "  --version   print the version\n"
      "  -h, --help  print this text\n"
      "  --          end the options\n"
      "  -           (as the script) read the script from standard input\n"
      "\n"
      "Exit status: what the script gives os.exit or returns (0 to 255),\n"
      "else 0; 1 for an error or `return nil, err`; 2 for bad usage; 130 or\n"
      "143 after SIGINT or SIGTERM (a second one ends the run at once).\n",
      o->name);
}
