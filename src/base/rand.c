/* Seeded pseudo-random numbers: Vigna's splitmix64, and FNV-1a on its mixer. */
#include "base/rand.h"

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

void mt_rand_seed(mt_rand *r, uint64_t seed) { r->state = seed; }

uint64_t mt_rand_next(mt_rand *r) {
  r->state += UINT64_C(0x9e3779b97f4a7c15);
  return mix(r->state);
}

/* The upper 53 bits: every value is exact, and 1 is never reached. */
double mt_rand_unit(mt_rand *r) {
  return (double)(mt_rand_next(r) >> 11) * (1.0 / 9007199254740992.0);
}

uint64_t mt_hash64(const void *data, size_t len, uint64_t seed) {
  const unsigned char *p = data;
  uint64_t h = UINT64_C(0xcbf29ce484222325) ^ mix(seed);

  while (len-- > 0) h = (h ^ *p++) * UINT64_C(0x100000001b3);
  return mix(h);
}
