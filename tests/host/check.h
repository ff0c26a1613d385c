/* What programs of C hosts check, and how they say what is not so. */
#ifndef MT_TESTS_HOST_CHECK_H
#define MT_TESTS_HOST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(cond)                                               \
  do {                                                            \
    if (!(cond)) {                                                \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #cond); \
      exit(1);                                                    \
    }                                                             \
  } while (0)

#endif
