/* Seeded pseudo-random numbers (splitmix64); not for secrets. */
#ifndef MT_BASE_RAND_H
#define MT_BASE_RAND_H

#include <stddef.h>
#include <stdint.h>

typedef struct mt_rand {
  uint64_t state;
} mt_rand;

void mt_rand_seed(mt_rand *r, uint64_t seed);
uint64_t mt_rand_next(mt_rand *r);
double mt_rand_unit(mt_rand *r); /* [0, 1) */

/* 64-bit hash of a byte string (FNV-1a, finished with splitmix64's mixer);
 * for placement, not for untrusted tables. */
uint64_t mt_hash64(const void *data, size_t len, uint64_t seed);

#endif
