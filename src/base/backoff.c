/*
 * How long to wait after a failed try: a pure function of the policy, the
 * try's number and a random number. Jitter "seed" spreads above the cap by up
 * to a quarter, the others stay below it.
 */
#include <math.h>

#include "mtenant.h"

/* Largest result: whole milliseconds stay exact in a double. */
#define LONGEST_MS 9007199254740991.0

/* NaN, like everything below zero, is no wait at all. */
static double not_negative(double v) { return v > 0 ? v : 0; }

/* initial * multiplier^attempt, at most cap; what overflows (inf, or NaN from
 * 0 * inf) gives the cap. */
static double base_delay(const mt_retry_policy *p, int attempt, double cap) {
  double d = p->initial_delay_ms * pow(p->multiplier, attempt);
  return d < cap ? not_negative(d) : cap;
}

static double decorrelated(const mt_retry_policy *p, double u,
                           double previous_ms, double cap) {
  double low = not_negative(p->initial_delay_ms), high = 3 * previous_ms, d;
  if (!(high > low)) high = low;
  d = low + u * (high - low);
  return d < cap ? d : cap;
}

double mt_backoff_delay(const mt_retry_policy *p, int attempt, double u,
                        double previous_ms) {
  double cap = not_negative(p->max_delay_ms), d;

  d = base_delay(p, attempt > 0 ? attempt : 0, cap);
  switch (p->jitter) {
    case MT_JITTER_SEED:
      d *= 1 + u * 0.25;
      break;
    case MT_JITTER_FULL:
      d *= u;
      break;
    case MT_JITTER_EQUAL:
      d = d / 2 + u * d / 2;
      break;
    case MT_JITTER_DECORRELATED:
      d = decorrelated(p, u, previous_ms, cap);
      break;
    case MT_JITTER_NONE:
      break;
  }
  return floor(d < LONGEST_MS ? not_negative(d) : LONGEST_MS);
}
