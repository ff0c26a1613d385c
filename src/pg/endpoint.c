/*
 * Parses connection URLs with libpq's own parser and splits the host list,
 * because hosts are resolved and tried one by one by us. See endpoint.h.
 */
#include "pg/endpoint.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "pg/quote.h"

static const char *value_of(const PQconninfoOption *opts, const char *key) {
  for (; opts && opts->keyword; opts++)
    if (strcmp(opts->keyword, key) == 0)
      return opts->val && *opts->val ? opts->val : NULL;
  return NULL;
}

static int count_items(const char *list) {
  int n = 1;
  if (!list) return 0;
  for (; *list; list++) n += *list == ',';
  return n;
}

/* The i-th item of a comma list, or the only one; NULL: empty or absent.
 * False when memory is short. */
static bool item(char **out, const char *list, int i) {
  const char *end;
  *out = NULL;
  if (!list) return true;
  if (count_items(list) == 1) i = 0;
  while (i-- > 0) {
    list = strchr(list, ',');
    if (!list) return true;
    list++;
  }
  end = strchr(list, ',');
  if (!end) end = list + strlen(list);
  if (end == list) return true;
  *out = mt_strndup(list, (size_t)(end - list));
  return *out != NULL;
}

static bool is_numeric(const char *s) {
  unsigned char buf[sizeof(struct in6_addr)];
  return inet_pton(AF_INET, s, buf) == 1 || inet_pton(AF_INET6, s, buf) == 1;
}

static bool set_host(mt_host *h, const char *hosts, const char *addrs,
                     const char *ports, int i) {
  if (!item(&h->host, hosts, i) || !item(&h->hostaddr, addrs, i) ||
      !item(&h->port, ports, i))
    return false;
  if (!h->port && !(h->port = mt_strdup("5432"))) return false;
  h->is_unix =
      !h->hostaddr && (!h->host || h->host[0] == '/' || h->host[0] == '@');
  if (!h->host || h->is_unix || h->hostaddr || !is_numeric(h->host))
    return true;
  h->hostaddr = mt_strdup(h->host);
  return h->hostaddr != NULL;
}

static bool is_port(const char *s) {
  char *end;
  long n = strtol(s, &end, 10);
  return *s >= '0' && *s <= '9' && *end == '\0' && n >= 1 && n <= 65535;
}

/* Says what is wrong, never with what: a URL that is split in the wrong place
 * has its password anywhere. */
static int malformed(mt_error **err, const char *why) {
  return mt_fail(err, mt_error_new(MT_E_MISUSE, "connection url: %s", why));
}

static int set_hosts(mt_endpoint *ep, const PQconninfoOption *given,
                     const PQconninfoOption *env, mt_error **err) {
  const char *host = value_of(given, "host");
  const char *addr = value_of(given, "hostaddr");
  const char *port = value_of(given, "port");
  int i, n;
  if (!host && !addr) {
    host = value_of(env, "host");
    addr = value_of(env, "hostaddr");
  }
  if (!port) port = value_of(env, "port");
  n = addr ? count_items(addr) : count_items(host);
  if (n == 0) n = 1;
  if (port && count_items(port) > 1 && count_items(port) != n)
    return mt_fail(
        err, mt_error_new(MT_E_MISUSE, "connection url: %d ports for %d hosts",
                          count_items(port), n));
  ep->hosts = mt_calloc((size_t)n * sizeof *ep->hosts);
  if (!ep->hosts) return mt_fail(err, mt_error_oom());
  ep->nhosts = n;
  for (i = 0; i < n; i++) {
    const mt_host *h = &ep->hosts[i];
    if (!set_host(&ep->hosts[i], host, addr, port, i))
      return mt_fail(err, mt_error_oom());
    if (!is_port(h->port))
      return malformed(err, "a port is no number from 1 to 65535");
    if (!h->is_unix && h->host && strchr(h->host, '@'))
      return malformed(err, "there is an \"@\" in a host (%40 in passwords)");
  }
  return MT_OK;
}

/* Where to connect to. */
static bool is_place(const char *key) {
  return strcmp(key, "host") == 0 || strcmp(key, "hostaddr") == 0 ||
         strcmp(key, "port") == 0 || strcmp(key, "target_session_attrs") == 0;
}

static bool is_ours(const char *key) {
  return is_place(key) || strcmp(key, "options") == 0;
}

static int set_params(mt_endpoint *ep, const PQconninfoOption *o,
                      mt_error **err) {
  size_t n = 0, cap = 1;
  const PQconninfoOption *i;
  for (i = o; i->keyword; i++) cap += i->val != NULL;
  ep->keywords = mt_calloc(cap * sizeof *ep->keywords);
  ep->values = mt_calloc(cap * sizeof *ep->values);
  if (!ep->keywords || !ep->values) return mt_fail(err, mt_error_oom());
  for (; o->keyword; o++) {
    if (!o->val || is_ours(o->keyword)) continue;
    ep->values[n] = mt_strdup(o->val);
    ep->keywords[n] = ep->values[n] ? mt_strdup(o->keyword) : NULL;
    if (!ep->keywords[n]) return mt_fail(err, mt_error_oom());
    n++;
  }
  return MT_OK;
}

const char *mt_host_name(const mt_host *h) {
  if (h->host) return h->host;
  return h->hostaddr ? h->hostaddr : "local";
}

static char *append(char *s, const char *sep, const char *text) {
  char *out = s ? mt_asprintf("%s%s%s", s, *s ? sep : "", text) : NULL;
  mt_free(s);
  return out;
}

/* Identity of the connections: everything but the password. */
static int set_names(mt_endpoint *ep, mt_error **err) {
  int i;
  char **k;
  ep->server = mt_strdup("");
  for (i = 0; i < ep->nhosts; i++) {
    const mt_host *h = &ep->hosts[i];
    ep->server = append(ep->server, ",", mt_host_name(h));
    ep->server = append(ep->server, ":", h->port);
  }
  if (ep->target != MT_TARGET_ANY)
    ep->server = append(ep->server, " ", mt_target_name(ep->target));
  ep->key = mt_strdup(ep->server ? ep->server : "");
  for (k = ep->keywords; *k; k++) {
    if (strcmp(*k, "password") == 0) continue;
    ep->key = append(ep->key, "\x1f", *k);
    ep->key = append(ep->key, "=", ep->values[k - ep->keywords]);
  }
  if (ep->options) ep->key = append(ep->key, "\x1foptions=", ep->options);
  return ep->key && ep->server ? MT_OK : mt_fail(err, mt_error_oom());
}

/* Is the quote at p one of libpq's own, around a sign of the syntax? */
static bool is_sign(const char *text, const char *p) {
  static const char *const before[] = {"missing ",   "separator ", "matching ",
                                       "character ", "(expected ", " or "};
  size_t i, n;
  if (!p[1] || p[2] != '"') return false;
  for (i = 0; i < sizeof before / sizeof *before; i++) {
    n = strlen(before[i]);
    if ((size_t)(p - text) >= n && memcmp(p - n, before[i], n) == 0)
      return true;
  }
  return false;
}

/* How much of libpq's message may be shown: it quotes what it does not
 * understand, which may be a part of the password, and translated it does so
 * in other quotes. Only the name of an option is shown, where it can't be
 * that. */
static size_t safe_length(const char *text, const char *url) {
  const char *option = strstr(text, "invalid URI query parameter");
  const char *p = text;
  if (!option) option = strstr(text, "invalid connection option");
  if (option && !strchr(url, '@') && !strstr(url, "password"))
    return strcspn(text, "\n");
  for (; *p && *p != '\n' && (unsigned char)*p < 0x80; p++) {
    if (*p != '"') continue;
    if (!is_sign(text, p)) break;
    p += 2;
  }
  return (size_t)(p - text);
}

static int parse_error(const char *url, char *text, mt_error **err) {
  size_t len = text ? safe_length(text, url) : 0;
  mt_error *e =
      text ? mt_error_new(MT_E_MISUSE, "connection url is not valid: %.*s%s",
                          (int)len, text,
                          text[len] && text[len] != '\n' ? "..." : "")
           : mt_error_oom();
  if (text) PQfreemem(text);
  return mt_fail(err, e);
}

static int set_target(mt_endpoint *ep, const PQconninfoOption *given,
                      const PQconninfoOption *env, mt_error **err) {
  const char *text = value_of(given, "target_session_attrs");
  if (!text) text = value_of(env, "target_session_attrs");
  if (mt_target_parse(text, &ep->target)) return MT_OK;
  return malformed(err,
                   "target_session_attrs must be any, read-write, read-only, "
                   "primary, standby or prefer-standby");
}

static int fill(mt_endpoint *ep, const char *url, mt_error **err) {
  char *text = NULL;
  const char *options;
  int rc;
  PQconninfoOption *env, *given = PQconninfoParse(url, &text);
  if (!given) return parse_error(url, text, err);
  env = PQconndefaults();
  rc = env ? set_hosts(ep, given, env, err) : mt_fail(err, mt_error_oom());
  if (rc == MT_OK) rc = set_target(ep, given, env, err);
  if (rc == MT_OK) rc = set_params(ep, given, err);
  options = value_of(given, "options");
  if (!options) options = value_of(env, "options");
  if (rc == MT_OK && options && !(ep->options = mt_strdup(options)))
    rc = mt_fail(err, mt_error_oom());
  if (rc == MT_OK && value_of(given, "dbname") &&
      !(ep->dbname = mt_strdup(value_of(given, "dbname"))))
    rc = mt_fail(err, mt_error_oom());
  if (rc == MT_OK) rc = set_names(ep, err);
  PQconninfoFree(env);
  PQconninfoFree(given);
  return rc;
}

int mt_endpoint_parse(const char *url, mt_endpoint **out, mt_error **err) {
  int rc;
  mt_endpoint *ep = mt_calloc(sizeof *ep);
  if (!ep) return mt_fail(err, mt_error_oom());
  ep->refs = 1;
  rc = fill(ep, url, err);
  if (rc == MT_OK)
    *out = ep;
  else
    mt_endpoint_unref(ep);
  return rc;
}

/* ---- another server ------------------------------------------------------- */

/* key='value', as a connection string has it */
static char *add_option(char *text, const char *key, const char *value) {
  char *quoted = mt_quote_escaped(value, '\'');
  char *out =
      quoted ? mt_asprintf("%s%s%s=%s", text, *text ? " " : "", key, quoted)
             : NULL;
  mt_free(quoted);
  mt_free(text);
  return out;
}

static char *joined(const PQconninfoOption *own, const PQconninfoOption *base) {
  const PQconninfoOption *o;
  char *text = mt_strdup("");
  for (o = own; text && o->keyword; o++)
    if (o->val) text = add_option(text, o->keyword, o->val);
  for (o = base; text && o && o->keyword; o++)
    if (o->val && !is_place(o->keyword) && !value_of(own, o->keyword))
      text = add_option(text, o->keyword, o->val);
  return text;
}

int mt_endpoint_inherit(const char *url, const char *base, char **out,
                        mt_error **err) {
  char *text = NULL;
  PQconninfoOption *own = PQconninfoParse(url, &text), *other = NULL;
  if (!own) return parse_error(url, text, err);
  if (base && !(other = PQconninfoParse(base, &text))) {
    PQconninfoFree(own);
    return parse_error(base, text, err);
  }
  *out = joined(own, other);
  PQconninfoFree(own);
  PQconninfoFree(other);
  return *out ? MT_OK : mt_fail(err, mt_error_oom());
}

/* ---- another database ------------------------------------------------------- */

/* strdup of what may be NULL; false when memory is short. */
static bool copy(char **to, const char *from) {
  *to = from ? mt_strdup(from) : NULL;
  return !from || *to;
}

static bool copy_hosts(mt_endpoint *ep, const mt_endpoint *base) {
  int i;
  ep->hosts = mt_calloc((size_t)base->nhosts * sizeof *ep->hosts);
  if (!ep->hosts) return false;
  ep->nhosts = base->nhosts;
  for (i = 0; i < ep->nhosts; i++) {
    const mt_host *h = &base->hosts[i];
    ep->hosts[i].is_unix = h->is_unix;
    if (!copy(&ep->hosts[i].host, h->host) ||
        !copy(&ep->hosts[i].hostaddr, h->hostaddr) ||
        !copy(&ep->hosts[i].port, h->port))
      return false;
  }
  return true;
}

static bool add_param(mt_endpoint *ep, size_t n, const char *key,
                      const char *value) {
  return copy(&ep->values[n], value) && copy(&ep->keywords[n], key);
}

static bool copy_params(mt_endpoint *ep, const mt_endpoint *base,
                        const char *dbname) {
  size_t n = 0, i, cap = 2;
  while (base->keywords[cap - 2]) cap++;
  ep->keywords = mt_calloc(cap * sizeof *ep->keywords);
  ep->values = mt_calloc(cap * sizeof *ep->values);
  if (!ep->keywords || !ep->values) return false;
  for (i = 0; base->keywords[i]; i++) {
    if (strcmp(base->keywords[i], "dbname") == 0) continue;
    if (!add_param(ep, n++, base->keywords[i], base->values[i])) return false;
  }
  return add_param(ep, n, "dbname", dbname);
}

int mt_endpoint_with_database(const mt_endpoint *base, const char *dbname,
                              mt_endpoint **out, mt_error **err) {
  mt_endpoint *ep = mt_calloc(sizeof *ep);
  if (!ep) return mt_fail(err, mt_error_oom());
  ep->refs = 1;
  ep->tenant_database = true;
  ep->target = base->target;
  if (copy_hosts(ep, base) && copy_params(ep, base, dbname) &&
      copy(&ep->options, base->options) && copy(&ep->dbname, dbname) &&
      set_names(ep, NULL) == MT_OK) {
    *out = ep;
    return MT_OK;
  }
  mt_endpoint_unref(ep);
  return mt_fail(err, mt_error_oom());
}

mt_endpoint *mt_endpoint_ref(mt_endpoint *ep) {
  ep->refs++;
  return ep;
}

static void free_list(char **list) {
  char **s;
  for (s = list; s && *s; s++) mt_free(*s);
  mt_free(list);
}

void mt_endpoint_unref(mt_endpoint *ep) {
  int i;
  if (!ep || --ep->refs > 0) return;
  for (i = 0; i < ep->nhosts; i++) {
    mt_free(ep->hosts[i].host);
    mt_free(ep->hosts[i].hostaddr);
    mt_free(ep->hosts[i].port);
  }
  mt_free(ep->hosts);
  free_list(ep->keywords);
  free_list(ep->values);
  mt_free(ep->options);
  mt_free(ep->dbname);
  mt_free(ep->key);
  mt_free(ep->server);
  mt_free(ep);
}
