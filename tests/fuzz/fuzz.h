/*
 * What the fuzz targets share: a check that stays on in every build, and
 * reading choices off the front of an input. See README.md.
 */
#ifndef MT_TESTS_FUZZ_FUZZ_H
#define MT_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer calls it with one input after the other, in one process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property of the code under test; libFuzzer keeps the input that broke it.
 */
#define FUZZ_CHECK(cond)                                                   \
  do {                                                                     \
    if (!(cond)) {                                                         \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond); \
      abort();                                                             \
    }                                                                      \
  } while (0)

typedef struct fuzz_input {
  const uint8_t *at;
  size_t left;
} fuzz_input;

/* The next byte, 0 at the end. */
static inline uint8_t fuzz_byte(fuzz_input *in) {
  if (in->left == 0) return 0;
  in->left--;
  return *in->at++;
}

/* The next n bytes at most, in a block of their own and NUL-ended, so that
 * reading beyond them is noticed. *len without the NUL. */
static inline char *fuzz_text(fuzz_input *in, size_t n, size_t *len) {
  char *s;
  *len = n < in->left ? n : in->left;
  s = malloc(*len + 1);
  FUZZ_CHECK(s);
  if (*len > 0) memcpy(s, in->at, *len);
  s[*len] = '\0';
  in->at += *len;
  in->left -= *len;
  return s;
}

static inline char *fuzz_rest(fuzz_input *in, size_t *len) {
  return fuzz_text(in, in->left, len);
}

#endif
