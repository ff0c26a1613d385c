/* base/alloc.c. */
#include "base/alloc.h"

#include <errno.h>
#include <string.h>

#include "support/test.h"

static void calloc_zeroes(void **state) {
  static const char zero[100];
  char *p = mt_malloc(100);
  (void)state;
  memset(p, 'x', 100);
  mt_free(p);
  p = mt_calloc(100);
  assert_memory_equal(p, zero, 100);
  mt_free(p);
}

static void realloc_keeps_contents(void **state) {
  char *p = mt_realloc(NULL, 4);
  (void)state;
  memcpy(p, "abc", 4);
  p = mt_realloc(p, 10000);
  assert_string_equal(p, "abc");
  mt_free(p);
}

static void strings_are_copied(void **state) {
  char *p;
  (void)state;
  assert_null(mt_strdup(NULL));
  p = mt_strdup("");
  assert_string_equal(p, "");
  mt_free(p);
  p = mt_strndup("abcdef", 3);
  assert_string_equal(p, "abc");
  mt_free(p);
  p = mt_strndup("a\0b", 3);
  assert_memory_equal(p, "a\0b\0", 4);
  mt_free(p);
  p = mt_asprintf("%s-%05d", "x", 42);
  assert_string_equal(p, "x-00042");
  mt_free(p);
}

static void free_keeps_errno(void **state) {
  (void)state;
  errno = EPIPE;
  mt_free(NULL);
  mt_free(mt_malloc(1));
  assert_int_equal(errno, EPIPE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(calloc_zeroes),
      cmocka_unit_test(realloc_keeps_contents),
      cmocka_unit_test(strings_are_copied),
      cmocka_unit_test(free_keeps_errno),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
