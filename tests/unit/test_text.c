/* Texts that others wrote, shown and put into JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/text.h"

static void assert_shown(const char *text, const char *wanted)
{
    char *shown = NULL;
    size_t size;
    FILE *out = open_memstream(&shown, &size);
    size_t columns = text_show(out, text);
    fclose(out);
    assert_string_equal(shown, wanted);
    assert_true(columns <= strlen(wanted));
    free(shown);
}

static void nothing_shown_steers_a_terminal(void **state)
{
    (void)state;
    static const char plain[] = "plain, \xc3\xb8l, \xe2\x82\xac, \xf0\x9f\x98\x80";
    assert_shown(plain, plain);
    assert_shown("two\nlines\t\r", "two\\nlines\\t\\x0d");
    assert_shown("\x1b[2J\x7f", "\\x1b[2J\\x7f");
    assert_shown("\xc2\x9b" "2J \xc2\xa0", "\\u009b2J \xc2\xa0");
    assert_shown("cut \xe2\x82", "cut \\xe2\\x82");
    assert_shown("\xff\xc0\xaf\xed\xa0\x80", "\\xff\\xc0\\xaf\\xed\\xa0\\x80");
}

static void any_text_is_a_json_string(void **state)
{
    (void)state;
    json_t *json = text_json("cut \xe2\x82");
    assert_string_equal(json_string_value(json), "cut \xef\xbf\xbd\xef\xbf\xbd");
    json_decref(json);
    json = text_json_of("%d: %s", 3, "\xff\x1b");
    assert_string_equal(json_string_value(json), "3: \xef\xbf\xbd\x1b");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_shown_steers_a_terminal),
        cmocka_unit_test(any_text_is_a_json_string),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
