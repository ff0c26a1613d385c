/*
 * Where and as whom to connect: a parsed connection URL or conninfo string,
 * merged with libpq's environment for the host list. Immutable and counted.
 */
#ifndef MT_PG_ENDPOINT_H
#define MT_PG_ENDPOINT_H

#include <stdbool.h>

#include "mtenant.h"
#include "pg/session_attrs.h"

typedef struct mt_host {
  char *host;     /* name or socket directory; NULL: libpq's default socket */
  char *hostaddr; /* numeric address given by the user, or NULL */
  char *port;
  bool is_unix;
} mt_host;

typedef struct mt_endpoint {
  int refs;
  char *key;    /* equal for equal connections; no password */
  char *server; /* "host:port[,host:port]", for messages and the budget; with
                   target_session_attrs behind, those are other servers */
  mt_target target;
  mt_host *hosts;
  int nhosts;
  char **keywords, **values; /* the rest, NULL-ended; no host, port, options */
  char *options;             /* the user's own, or NULL */
  char *dbname;              /* for messages, or NULL */
  bool tenant_database;      /* made by mt_endpoint_with_database */
} mt_endpoint;

/* What a host is called in messages. */
const char *mt_host_name(const mt_host *h);

/* Parses; the message of a failure (MT_E_MISUSE) never shows a password. */
int mt_endpoint_parse(const char *url, mt_endpoint **out, mt_error **err);
/* `url` with the options that `base` (may be NULL) names and it does not, but
 * for where to connect to. mt_free; it has passwords. */
int mt_endpoint_inherit(const char *url, const char *base, char **out,
                        mt_error **err);
/* The same, but for the database. */
int mt_endpoint_with_database(const mt_endpoint *base, const char *dbname,
                              mt_endpoint **out, mt_error **err);
mt_endpoint *mt_endpoint_ref(mt_endpoint *ep);
void mt_endpoint_unref(mt_endpoint *ep); /* NULL allowed */

#endif
