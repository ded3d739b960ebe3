/* The one error type: what of a long message stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/error.h"

enum { LONG = 4000, ROOM = sizeof((struct cs_error *)NULL)->message };

/* "/\xc3\xb8\xc3\xb8..." */
static void fill_path(char path[LONG + 2])
{
    for (int i = 1; i < LONG; i += 2) memcpy(path + i, "\xc3\xb8", 2);
    path[0] = '/';
    path[LONG + 1] = 0;
}

static void a_long_path_does_not_hide_the_reason(void **state)
{
    (void)state;
    char path[LONG + 2];
    struct cs_error err;
    fill_path(path);
    assert_false(cs_fail(&err, CS_REFUSED, "the path of %s is too long", path));
    assert_int_equal(err.code, CS_REFUSED);
    assert_int_equal(strncmp(err.message, "the path of /\xc3\xb8", 15), 0);
    assert_non_null(strstr(err.message, "\xb8...\xc3"));            /* no character is cut */
    assert_string_equal(err.message + strlen(err.message) - 12, " is too long");
    assert_in_range(strlen(err.message), ROOM - 8, ROOM - 1);
    assert_false(cs_fail_errno(&err, ENOENT, "opening %s", path));
    assert_int_equal(strncmp(err.message, "opening /\xc3\xb8", 11), 0);
    assert_string_equal(err.message + strlen(err.message) - 27, ": No such file or directory");
    assert_in_range(strlen(err.message), ROOM - 8, ROOM - 1);
    cs_error_at(&err, "file", 3, 4);
    assert_false(cs_error_prefix(&err, "reading %.20s", "the first of them"));
    assert_int_equal(strncmp(err.message, "reading the first of them: opening /", 36), 0);
    assert_string_equal(err.message + strlen(err.message) - 27, ": No such file or directory");
    assert_string_equal(err.at.source, "file");
    assert_int_equal(err.at.major, 3);
    assert_int_equal(err.code, CS_FAILED);
}

static void what_has_room_is_whole(void **state)
{
    (void)state;
    char text[ROOM];
    struct cs_error err;
    memset(text, 'x', sizeof text);
    text[ROOM - 1] = 0;
    cs_fail(&err, CS_FAILED, "%s", text);
    assert_string_equal(err.message, text);
    cs_fail_errno(&err, EIO, "one");
    assert_string_equal(err.message, "one: Input/output error");
    cs_error_prefix(&err, "two %d", 2);
    assert_string_equal(err.message, "two 2: one: Input/output error");
    assert_false(cs_fail(NULL, CS_FAILED, "x"));
    assert_false(cs_fail_errno(NULL, EIO, "x"));
    assert_false(cs_error_prefix(NULL, "x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_path_does_not_hide_the_reason),
        cmocka_unit_test(what_has_room_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
