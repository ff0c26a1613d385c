/*
 * Connection URLs and conninfo strings. What parses has hosts with ports, and
 * a key without the password; what does not parse never shows the password.
 */
#include "base/alloc.h"
#include "base/err.h"
#include "fuzz/fuzz.h"
#include "pg/endpoint.h"

#define SECRET "Xq7SecretZz"

static const char *param(const mt_endpoint *ep, const char *key) {
  size_t i;
  for (i = 0; ep->keywords[i]; i++)
    if (strcmp(ep->keywords[i], key) == 0) return ep->values[i];
  return NULL;
}

static void check_hosts(const mt_endpoint *ep) {
  int i;
  FUZZ_CHECK(ep->nhosts > 0);
  for (i = 0; i < ep->nhosts; i++) {
    const mt_host *h = &ep->hosts[i];
    long port = h->port ? strtol(h->port, NULL, 10) : 0;
    FUZZ_CHECK(port >= 1 && port <= 65535);
    FUZZ_CHECK(h->is_unix || h->host || h->hostaddr);
  }
  FUZZ_CHECK(!param(ep, "host") && !param(ep, "port") && !param(ep, "options"));
}

/* Another database is another connection, and all else stays. */
static void check_database(const mt_endpoint *ep, const char *dbname) {
  mt_endpoint *other = NULL, *same = NULL;
  const char *password = param(ep, "password");
  FUZZ_CHECK(mt_endpoint_with_database(ep, dbname, &other, NULL) == MT_OK);
  FUZZ_CHECK(mt_endpoint_with_database(other, dbname, &same, NULL) == MT_OK);
  check_hosts(other);
  FUZZ_CHECK(strcmp(other->dbname, dbname) == 0);
  FUZZ_CHECK(strcmp(param(other, "dbname"), dbname) == 0);
  FUZZ_CHECK(strcmp(other->server, ep->server) == 0);
  FUZZ_CHECK(strcmp(other->key, same->key) == 0);
  FUZZ_CHECK(!password || strcmp(param(other, "password"), password) == 0);
  mt_endpoint_unref(other);
  mt_endpoint_unref(same);
}

/* The secret is in the URL once. */
static void check_secret(const mt_endpoint *ep) {
  const char *password = param(ep, "password");
  if (!password || !strstr(password, SECRET)) return;
  FUZZ_CHECK(!strstr(ep->key, SECRET) && !strstr(ep->server, SECRET));
}

static void parse(const char *url, const char *dbname, bool secret) {
  mt_endpoint *ep = NULL;
  mt_error *err = NULL;
  int rc = mt_endpoint_parse(url, &ep, &err);
  if (rc != MT_OK) {
    FUZZ_CHECK(rc == MT_E_MISUSE && err && err->code == rc && !ep);
    FUZZ_CHECK(!secret || !strstr(err->message, SECRET));
    FUZZ_CHECK(!strchr(err->message, '\n'));
    mt_error_unref(err);
    return;
  }
  FUZZ_CHECK(!err && ep->key && ep->server);
  check_hosts(ep);
  if (secret) check_secret(ep);
  check_database(ep, dbname);
  mt_endpoint_unref(ep);
}

/* Where a password is: before it and behind it may be anything. */
static char *with_secret(uint8_t kind, const char *a, const char *b) {
  switch (kind % 3) {
    case 0:
      return mt_asprintf("postgresql://u:%s" SECRET "%s@h/d", a, b);
    case 1:
      return mt_asprintf("host=h password=%s" SECRET "%s dbname=d", a, b);
    default:
      return mt_asprintf("postgres://h/d?password=%s" SECRET "%s&port=1", a, b);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_input in = {data, size};
  uint8_t kind = fuzz_byte(&in);
  size_t len;
  char *a = fuzz_text(&in, kind < 128 ? in.left : kind % 16u, &len);
  char *b = fuzz_rest(&in, &len), *url;

  if (kind < 128) {
    parse(a, b, false);
  } else if (!strstr(a, SECRET) && !strstr(b, SECRET)) {
    url = with_secret(kind / 16, a, b);
    FUZZ_CHECK(url);
    parse(url, a, true);
    mt_free(url);
  }
  free(a);
  free(b);
  return 0;
}
