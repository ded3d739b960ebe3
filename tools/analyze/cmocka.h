/* For the analyzers alone, before the real cmocka.h: an assertion that fails does not return, which the real one's
 * declarations do not say. */
#ifndef TOOLS_ANALYZE_CMOCKA_H
#define TOOLS_ANALYZE_CMOCKA_H

#include_next <cmocka.h>

#include <stdlib.h>
#include <string.h>

#undef assert_true
#undef assert_false
#undef assert_non_null
#undef assert_null
#undef assert_int_equal
#undef assert_int_not_equal
#undef assert_string_equal
#undef fail
#undef fail_msg
#define assert_true(c) ((c) ? (void)0 : abort())
#define assert_false(c) ((c) ? abort() : (void)0)
#define assert_non_null(c) ((c) ? (void)0 : abort())
#define assert_null(c) ((c) ? abort() : (void)0)
#define assert_int_equal(a, b) ((a) == (b) ? (void)0 : abort())
#define assert_int_not_equal(a, b) ((a) == (b) ? abort() : (void)0)
#define assert_string_equal(a, b) (strcmp(a, b) ? abort() : (void)0)
#define fail() abort()
#define fail_msg(...) (print_error(__VA_ARGS__), abort())

#endif
