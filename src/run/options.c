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

/* "--name VALUE" or "--name=VALUE"? Then *value is the value, NULL if there is
 * none, and *i its place. */
static bool has_value(const mt_run_options *o, int *i, const char *name,
                      const char **value) {
  const char *arg = o->argv[*i];
  size_t n = strlen(name);
  if (strncmp(arg, name, n) != 0 || (arg[n] != '\0' && arg[n] != '='))
    return false;
  if (arg[n] == '=')
    *value = arg[n + 1] ? arg + n + 1 : NULL;
  else
    *value = *i + 1 < o->argc ? o->argv[++*i] : NULL;
  return true;
}

static bool parse_admin(mt_run_options *o, int *i, bool *ours) {
  const char *arg = o->argv[*i], *value = NULL;
  const struct {
    const char *name, **to;
  } options[] = {{"--admin", &o->admin},
                 {"--admin-token-file", &o->admin_token_file},
                 {"--admin-basic-file", &o->admin_basic_file},
                 {"--admin-ready", &o->admin_ready}};
  for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
    if (!has_value(o, i, options[k].name, &value)) continue;
    *ours = true;
    *options[k].to = value;
    return value ? true : fail(o, "a value is missing after", arg);
  }
  return true;
}

/* Handles argv[*i]; may take the next argument as well. */
static bool parse_one(mt_run_options *o, int *i) {
  const char *arg = o->argv[*i];
  bool ours = false;
  if (!parse_admin(o, i, &ours)) return false;
  if (ours) return true;
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
  if (!o->admin &&
      (o->admin_token_file || o->admin_basic_file || o->admin_ready)) {
    snprintf(o->error, sizeof o->error, "--admin is missing");
    return false;
  }
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
      "  --admin ADDRESS\n"
      "              serve /metrics, /health, /ready and /status.json there:\n"
      "              127.0.0.1:9187, [::1]:9187, unix:/path; port 0 is any\n"
      "  --admin-token-file FILE, --admin-basic-file FILE\n"
      "              who may ask: a token, or user:password, in the first "
      "line;\n"
      "              or in MTENANT_ADMIN_TOKEN, MTENANT_ADMIN_BASIC\n"
      "  --admin-ready all|any\n"
      "              ready when all servers can serve (as by default), or any\n"
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
