/* Histograms and tallies. See metrics.h. */
#include "base/metrics.h"

#include <string.h>

enum { PARTS = 1 << MT_HIST_BITS };

#define EXEMPLAR_MS 1000.0
#define LONGEST_MS 1e9 /* eleven days; what is longer counts as that */

/* ---- buckets ---------------------------------------------------------------- */

/* The bucket of (lower, upper]: of a whole number that is what n - 1 has among
 * [lower, upper). */
static unsigned index_of(uint64_t us) {
  unsigned octave;
  if (us < PARTS) return (unsigned)us;
  if (us >> MT_HIST_TOP) return MT_HIST_BUCKETS - 1;
  octave = 63u - (unsigned)__builtin_clzll(us);
  return ((octave - MT_HIST_BITS + 1) << MT_HIST_BITS) +
         (unsigned)((us >> (octave - MT_HIST_BITS)) & (PARTS - 1));
}

static uint64_t upper_us(unsigned i) {
  unsigned octave = i >> MT_HIST_BITS, part = i & (PARTS - 1);
  if (octave == 0) return i + 1;
  return (uint64_t)(PARTS + part + 1) << (octave - 1);
}

static double sane(double ms) {
  if (!(ms > 0)) return 0;
  return ms < LONGEST_MS ? ms : LONGEST_MS;
}

/* Rounded up, and one less. */
static uint64_t below_us(double ms) {
  double us = ms * 1000;
  uint64_t whole = (uint64_t)us;
  return whole > 0 && (double)whole == us ? whole - 1 : whole;
}

mt_span mt_span_of(double ms) {
  ms = sane(ms);
  return (mt_span){index_of(below_us(ms)), (uint64_t)(ms * 1e6 + 0.5)};
}

void mt_hist_add(mt_hist *h, double ms) { mt_hist_count_in(h, mt_span_of(ms)); }

void mt_hist_merge(mt_hist *to, const mt_hist *from) {
  int i;
  to->sum_ns += from->sum_ns;
  for (i = 0; i < MT_HIST_BUCKETS; i++) to->buckets[i] += from->buckets[i];
}

/* ---- reading ---------------------------------------------------------------- */

uint64_t mt_hist_count(const mt_hist *h) {
  uint64_t n = 0;
  int i;
  for (i = 0; i < MT_HIST_BUCKETS; i++) n += h->buckets[i];
  return n;
}

void mt_hist_upto(const mt_hist *h, int first, int last, uint64_t *out) {
  uint64_t n = 0;
  unsigned i = 0, end;
  int k;
  for (k = first; k <= last; k++) {
    end = index_of((uint64_t)1 << k);
    for (; i < end; i++) n += h->buckets[i];
    out[k - first] = n;
  }
}

double mt_hist_quantile_ms(const mt_hist *h, double q) {
  uint64_t all = mt_hist_count(h), n = 0, wanted;
  unsigned i;
  if (all == 0) return 0;
  wanted = (uint64_t)(q * (double)all + 0.5);
  if (wanted < 1) wanted = 1;
  if (wanted > all) wanted = all;
  for (i = 0; i < MT_HIST_BUCKETS - 1; i++) {
    n += h->buckets[i];
    if (n >= wanted) break;
  }
  return (double)upper_us(i) / 1000;
}

/* ---- tallies ---------------------------------------------------------------- */

void mt_tally_merge(mt_tally *to, const mt_tally *from) {
  int i;
  to->statements += from->statements;
  for (i = 0; i < MT__ORD_COUNT; i++) to->errors[i] += from->errors[i];
  to->ambiguous += from->ambiguous;
  to->leases += from->leases;
  to->bytes_sent += from->bytes_sent;
  to->bytes_received += from->bytes_received;
  mt_hist_merge(&to->query, &from->query);
  mt_hist_merge(&to->wait, &from->wait);
}

/* ---- examples --------------------------------------------------------------- */

/* The first of the bounds that are told which its bucket does not exceed. */
static unsigned le_of(unsigned bucket) {
  unsigned octave = (bucket >> MT_HIST_BITS) + MT_HIST_BITS; /* its upper one */
  if (octave <= MT_LE_FIRST) return 0;
  return octave <= MT_LE_LAST ? octave - MT_LE_FIRST : MT_LES;
}

void mt_traffic_exemplify(mt_traffic *t, mt_span s, double at,
                          const char *tenant) {
  mt_exemplar *e = &t->slow[le_of(s.bucket)];
  size_t len;
  if (e->at > 0 && at - e->at < EXEMPLAR_MS) return;
  len = strlen(tenant);
  if (len >= sizeof e->tenant) return;
  memcpy(e->tenant, tenant, len + 1);
  e->ms = (double)s.ns / 1e6;
  e->at = at;
}
