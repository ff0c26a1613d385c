/*
 * Host names to addresses by c-ares, on the reactor: one channel per reactor,
 * made at first use, freed with the reactor.
 */
#ifndef MT_PG_RESOLVER_H
#define MT_PG_RESOLVER_H

#include "mtenant.h"

enum { MT_MAX_ADDRS = 16, MT_ADDR_LEN = 64 };

typedef struct mt_lookup mt_lookup;

/* err NULL: addrs holds n >= 1 numeric addresses, IPv6 and IPv4 in the order
 * that c-ares (RFC 6724) gives; valid during the call. */
typedef void (*mt_lookup_fn)(void *data, const mt_error *err,
                             char (*addrs)[MT_ADDR_LEN], int n);

/* Starts a lookup; fn runs once, later. *out is valid until then. */
int mt_resolve(mt_reactor *r, const char *host, mt_lookup_fn fn, void *data,
               mt_lookup **out, mt_error **err);
/* fn will not run. */
void mt_lookup_cancel(mt_lookup *lookup);

/* Asks these name servers from now on, "127.0.0.1:5353,[::1]:53", instead of
 * the machine's; for all lookups on the reactor. MT_E_MISUSE: they can't be
 * read, or lookups are under way. */
int mt_resolver_set_servers(mt_reactor *r, const char *servers);

#endif
