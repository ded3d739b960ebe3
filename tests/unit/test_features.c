/* Keys of values and the feature table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <xxhash.h>

#include "core/features.h"
#include "core/random.h"

static void assert_text(double value, const char *expected)
{
    char text[32];
    size_t length = number_text(value, text);
    assert_string_equal(text, expected);
    assert_int_equal(length, strlen(expected));
}

/* What a JavaScript engine prints for these, among them the samples of RFC 8785's appendix B. */
static void test_number_text(void **state)
{
    (void)state;
    assert_text(0, "0");
    assert_text(-0.0, "0");
    assert_text(25.0, "25");
    assert_text(-25.5, "-25.5");
    assert_text(0.1, "0.1");
    assert_text(1.0 / 3, "0.3333333333333333");
    assert_text(5e-324, "5e-324");
    assert_text(-5e-324, "-5e-324");
    assert_text(DBL_MAX, "1.7976931348623157e+308");
    assert_text(DBL_MIN, "2.2250738585072014e-308");
    assert_text(9007199254740992.0, "9007199254740992");
    assert_text(-9007199254740992.0, "-9007199254740992");
    assert_text(295147905179352830000.0, "295147905179352830000");
    assert_text(9.999999999999997e22, "9.999999999999997e+22");
    assert_text(1e23, "1e+23");
    assert_text(1.0000000000000001e23, "1.0000000000000001e+23");
    assert_text(999999999999999700000.0, "999999999999999700000");
    assert_text(999999999999999900000.0, "999999999999999900000");
    assert_text(1e20, "100000000000000000000");
    assert_text(1e21, "1e+21");
    assert_text(9.999999999999997e-7, "9.999999999999997e-7");
    assert_text(0.000001, "0.000001");
    assert_text(1e-7, "1e-7");
    assert_text(333333333.3333332, "333333333.3333332");
    assert_text(333333333.33333325, "333333333.33333325");
    assert_text(-0.0000033333333333333333, "-0.0000033333333333333333");
    assert_text(1424953923781206.2, "1424953923781206.2");
    assert_text(0x1p-44, "5.684341886080802e-14"); /* the 16 digits nearest to these do not read back, the next do */
    assert_text(0x1p122, "5.316911983139664e+36");
    assert_text(0x1p-1017, "7.120236347223045e-307");
    assert_text(0x1p976, "6.386688990511104e+293");
    assert_text(0x1p149, "7.1362384635298e+44");
    assert_text(0x1p-1022 * 2, "4.450147717014403e-308");
}

/* Reads back as the same double, and no shorter %.Ng does. */
static void test_number_text_is_shortest(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = random_bits(7, i);
        if (i % 4 == 0) bits &= UINT64_C(0xfff0000000000000); /* powers of two: the gaps around them differ */
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        char text[32], shorter[40];
        number_text(value, text);
        assert_true(strtod(text, NULL) == value);
        int digits = 0;
        for (const char *at = text; *at && *at != 'e'; at++)
            digits += *at >= '0' && *at <= '9' && (digits || *at != '0');
        if (strchr(text, 'e') && digits > 1) {
            snprintf(shorter, sizeof shorter, "%.*e", digits - 2, value);
            assert_true(strtod(shorter, NULL) != value);
        }
    }
}

static void test_keys(void **state)
{
    (void)state;
    assert_true(key_of_text("25", 2) == XXH3_64bits("25", 2));
    assert_true(key_of_number(25.0) == key_of_text("25", 2));
    const double bound[] = { 18, 25, 35 };
    assert_true(key_of_bucket(17.999, bound, 3) == key_of_text("0", 1));
    assert_true(key_of_bucket(18, bound, 3) == key_of_text("1", 1));
    assert_true(key_of_bucket(34, bound, 3) == key_of_text("2", 1));
    assert_true(key_of_bucket(1e9, bound, 3) == key_of_text("3", 1));
}

static void test_table(void **state)
{
    (void)state;
    double bound[] = { 1, 2 };
    struct feature_options feature[] = {
        { .name = "age", .group = GROUP_USER, .bucket = bound, .bucket_count = 2 },
        { .name = "income", .group = GROUP_USER, .kind = FEATURE_DENSE },
        { .name = "city", .group = GROUP_USER, .table = "place" },
        { .name = "hour", .group = GROUP_CONTEXT },
        { .name = "item_id", .group = GROUP_ITEM, .table = "item" },
        { .name = "price", .group = GROUP_ITEM, .kind = FEATURE_DENSE },
        { .name = "city", .group = GROUP_ITEM, .table = "place" },
    };
    struct features_options options = {
        .feature = feature, .feature_count = 7, .behavior_table = "item", .behavior_max_length = 9
    };
    struct cs_error err;
    struct features *features = features_create(&options, &err);
    assert_non_null(features);
    assert_int_equal(features->table_count, 4);
    const char *const tables[] = { "age", "hour", "item", "place" };
    for (size_t i = 0; i < 4; i++) assert_string_equal(features->table[i], tables[i]);
    assert_int_equal(features->behavior_table, 2);
    assert_int_equal(features->categorical_count, 5);
    assert_int_equal(features->dense_count, 2);
    assert_int_equal(features->group_categorical[GROUP_ITEM], 2);
    assert_int_equal(features->group_categorical_begin[GROUP_ITEM], 3);
    assert_int_equal(features->group_dense_begin[GROUP_ITEM], 1);
    assert_int_equal(features->feature[2].table, 3);
    assert_int_equal(features->feature[2].table, features->feature[6].table);
    bound[0] = 100; /* the table has its own copy */
    assert_true(features->feature[0].bucket[0] == 1);
    features_destroy(features);

    bound[0] = 2;
    assert_null(features_create(&options, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_non_null(strstr(err.message, "age"));
    bound[0] = 1;
    memcpy(feature[1].name, "age", 4);
    assert_null(features_create(&options, &err));
    assert_non_null(strstr(err.message, "twice"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_number_text),
        cmocka_unit_test(test_number_text_is_shortest),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
