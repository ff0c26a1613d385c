/*
 * What is counted: plain numbers and histograms, in the memory of whoever they
 * belong to. Counting allocates nothing, locks nothing and reads no clock.
 *
 *   mt_hist:    how long something took, in log-linear buckets
 *   mt_tally:   the statements and leases of a tenant, or of all of a server
 *   mt_traffic: all that is counted of a server
 *
 * Sums of tallies are exact: all of it is integers.
 */
#ifndef MT_BASE_METRICS_H
#define MT_BASE_METRICS_H

#include "mtenant.h"

/*
 * Microseconds, after HdrHistogram: each power of two is cut into eight, so
 * that a bucket is at most an eighth wider than where it starts; up to 19
 * hours. A bucket has what is more than its lower bound, up to and including
 * its upper one, which is what Prometheus' `le` means.
 */
enum {
  MT_HIST_BITS = 3,
  MT_HIST_TOP = 36, /* 2^36 us and more are in the last one */
  MT_HIST_BUCKETS = (MT_HIST_TOP - MT_HIST_BITS + 1) << MT_HIST_BITS
};

typedef struct mt_hist {
  uint64_t sum_ns;
  uint64_t buckets[MT_HIST_BUCKETS];
} mt_hist;

/* A time, as histograms count it: for several of them found out once. */
typedef struct mt_span {
  unsigned bucket;
  uint64_t ns;
} mt_span;

mt_span mt_span_of(double ms); /* what is negative counts as 0 */
static inline void mt_hist_count_in(mt_hist *h, mt_span s) {
  h->sum_ns += s.ns;
  h->buckets[s.bucket]++;
}
void mt_hist_add(mt_hist *h, double ms);
void mt_hist_merge(mt_hist *to, const mt_hist *from);
uint64_t mt_hist_count(const mt_hist *h);
/* How many took at most 2^i us, for each i from first to last. */
void mt_hist_upto(const mt_hist *h, int first, int last, uint64_t *out);
/* Of the q-th part (0 to 1): no less than it is, and at most an eighth and a
 * microsecond more. 0 when there is none. */
double mt_hist_quantile_ms(const mt_hist *h, double q);

/* The bounds that are told: 64 us, 128 us, ... 16.8 s. */
enum {
  MT_LE_FIRST = 6,
  MT_LE_LAST = 24,
  MT_LES = MT_LE_LAST - MT_LE_FIRST + 1
};

/* Who was last in each of those: an example for who sees the number. */
enum { MT_EXEMPLAR_LEN = 123 };
typedef struct mt_exemplar {
  double ms, at; /* the reactor's time; 0: none */
  char tenant[MT_EXEMPLAR_LEN];
} mt_exemplar;

typedef struct mt_tally {
  uint64_t statements;            /* that have ended, well or badly */
  uint64_t errors[MT__ORD_COUNT]; /* statements, commits and leases that callers
                                     were told have failed, by -code */
  uint64_t ambiguous;             /* ... of which nobody knows the outcome */
  uint64_t leases;                /* granted */
  uint64_t bytes_sent, bytes_received;
  mt_hist query; /* of statements that were answered */
  mt_hist wait;  /* of statements that were sent, and of granted leases */
} mt_tally;

void mt_tally_merge(mt_tally *to, const mt_tally *from);

/* What became of a connection at the end of a lease. */
typedef enum mt_lease_end {
  MT_END_CLEAN,  /* free again as it was */
  MT_END_RESET,  /* free again after a reset */
  MT_END_CLOSED, /* retired, too old, or could not be proven clean */
  MT_END_LOST,
  MT_ENDS
} mt_lease_end;

typedef struct mt_traffic {
  mt_tally all;
  mt_hist connect; /* attempts that succeeded */
  uint64_t connect_errors[MT__ORD_COUNT];
  uint64_t retries[MT__ORD_COUNT]; /* what was tried again, by what it failed */
  /* of breakers, by the new mt_breaker_state */
  uint64_t transitions[MT_BREAKER_ISOLATED + 1];
  uint64_t ends[MT_ENDS];
  uint64_t cache_hits, cache_misses, cache_evictions;
  uint64_t scope_switches; /* units for another scope than the one before */
  mt_exemplar slow[MT_LES + 1];
} mt_traffic;

/* Remembers an example of the statement's bucket, if the one it has is older
 * than a second. Not of an id that is too long for a label. */
void mt_traffic_exemplify(mt_traffic *t, mt_span s, double at,
                          const char *tenant);

#endif
