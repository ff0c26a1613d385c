/* What every C test includes: cmocka, with the headers that it wants first. */
#ifndef MT_TESTS_TEST_H
#define MT_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MT_COUNT(array) (sizeof(array) / sizeof *(array))

#endif
