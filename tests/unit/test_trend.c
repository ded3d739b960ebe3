/* The status page's history: what is folded, kept, dropped and told again. */
#include "daemon/trend.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { POINTS = 720 };
static const int64_t BEGIN = 1700000400000;      /* a multiple of every step but the week's */

static void add(struct trend *trend, int64_t now, double examples, double lag)
{
    struct trend_sample sample;
    for (int i = 0; i < TREND_FIELDS; i++) sample.value[i] = NAN;
    sample.value[TREND_EXAMPLES] = examples;
    sample.value[TREND_EVENT_LAG] = lag;
    trend_add(trend, now, &sample);
}

static json_t *ask(struct trend *trend, const char *span, int64_t from)
{
    char *text = trend_json(trend, span, from, BEGIN);
    assert_non_null(text);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    free(text);
    return json;
}

static double at(const json_t *json, const char *series, size_t i)
{
    return json_number_value(json_array_get(json_object_get(json_object_get(json, "series"), series), i));
}

static int64_t time_at(const json_t *json, size_t i)
{
    return json_integer_value(json_array_get(json_object_get(json, "time"), i));
}

static size_t points(const json_t *json)
{
    return json_array_size(json_object_get(json, "time"));
}

static void test_each_step_is_a_point_by_its_beginning(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    add(trend, BEGIN + 1200, 10, 3);
    add(trend, BEGIN + 6200, 20, 1);
    json_t *json = ask(trend, NULL, 0);
    assert_string_equal(json_string_value(json_object_get(json, "span")), "1h");
    assert_int_equal(points(json), 2);
    assert_int_equal(time_at(json, 0), BEGIN);
    assert_int_equal(time_at(json, 1), BEGIN + 5000);
    assert_float_equal(at(json, "examples_per_second", 1), 20, 1e-6);
    json_decref(json);
    trend_destroy(trend);
}

static void test_a_wide_step_has_the_mean_and_the_largest_lag(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    for (int i = 0; i < 6; i++) add(trend, BEGIN + i * 5000, 10 + i, i == 2 ? 99 : i);
    add(trend, BEGIN + 30000, 0, 0);
    json_t *json = ask(trend, "6h", 0);
    assert_int_equal(points(json), 2);
    assert_float_equal(at(json, "examples_per_second", 0), 12.5, 1e-6);
    assert_float_equal(at(json, "event_lag_seconds", 0), 99, 1e-6);
    json_decref(json);
    trend_destroy(trend);
}

static void test_what_is_not_known_is_null_and_pulls_no_mean(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    add(trend, BEGIN, NAN, 1);
    add(trend, BEGIN + 5000, 8, NAN);
    json_t *fine = ask(trend, "1h", 0), *wide = ask(trend, "6h", 0);
    json_t *series = json_object_get(fine, "series");
    assert_true(json_is_null(json_array_get(json_object_get(series, "examples_per_second"), 0)));
    assert_true(json_is_null(json_array_get(json_object_get(series, "auc_new"), 1)));
    assert_float_equal(at(wide, "examples_per_second", 0), 8, 1e-6);
    assert_float_equal(at(wide, "event_lag_seconds", 0), 1, 1e-6);
    json_decref(fine);
    json_decref(wide);
    trend_destroy(trend);
}

static void test_memory_is_bounded_and_the_newest_stay(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    for (int i = 0; i < 5 * POINTS; i++) add(trend, BEGIN + i * INT64_C(5000), i, 0);
    json_t *json = ask(trend, "1h", 0);
    assert_int_equal(points(json), POINTS + 1);         /* the open one too */
    assert_float_equal(at(json, "examples_per_second", POINTS), 5 * POINTS - 1, 1e-6);
    assert_float_equal(at(json, "examples_per_second", 0), 4 * POINTS - 1, 1e-6);
    for (size_t i = 1; i < points(json); i++) assert_int_equal(time_at(json, i) - time_at(json, i - 1), 5000);
    json_decref(json);
    json = ask(trend, "24h", 0);                        /* five hours, in steps of two minutes */
    assert_int_equal(points(json), 5 * 30);
    json_decref(json);
    trend_destroy(trend);
}

static void test_who_asks_again_gets_the_newest_point_and_later_ones(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    add(trend, BEGIN, 1, 0);
    add(trend, BEGIN + 5000, 2, 0);
    json_t *json = ask(trend, "1h", BEGIN + 5000);
    assert_int_equal(points(json), 1);
    json_decref(json);
    add(trend, BEGIN + 7000, 4, 0);                     /* the open step goes on */
    add(trend, BEGIN + 10000, 5, 0);
    json = ask(trend, "1h", BEGIN + 5000);
    assert_int_equal(points(json), 2);
    assert_float_equal(at(json, "examples_per_second", 0), 3, 1e-6);
    json_decref(json);
    json = ask(trend, "1h", INT64_MAX);
    assert_int_equal(points(json), 0);
    json_decref(json);
    trend_destroy(trend);
}

static void test_a_clock_set_back_leaves_the_order(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    add(trend, BEGIN + 60000, 1, 0);
    add(trend, BEGIN, 2, 0);
    add(trend, BEGIN + 65000, 3, 0);
    json_t *json = ask(trend, "1h", 0);
    assert_int_equal(points(json), 2);
    assert_int_equal(time_at(json, 0), BEGIN + 60000);
    json_decref(json);
    trend_destroy(trend);
}

static void test_happenings_are_bounded_and_the_newest_is_first(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    for (int i = 1; i <= 100; i++) {
        struct trend_happening one = { .time = BEGIN + i, .ok = i % 2, .number = (uint64_t)i, .seconds = 0.5 };
        one.stall = one.freshness = NAN;
        snprintf(one.text, sizeof one.text, "%s", i == 100 ? "no \xff\xfe text" : "\"</script>");
        trend_happened(trend, TREND_SNAPSHOTS, &one);
    }
    struct trend_happening outage = { .time = BEGIN };
    trend_happened(trend, TREND_OUTAGES, &outage);
    trend_ended(trend, TREND_OUTAGES, BEGIN + 9);
    json_t *json = ask(trend, "7d", 0), *snapshots = json_object_get(json, "snapshots");
    json_t *first = json_array_get(snapshots, 0);
    assert_int_equal(json_array_size(snapshots), TREND_HAPPENINGS);
    assert_int_equal(json_integer_value(json_object_get(first, "number")), 100);
    assert_string_equal(json_string_value(json_object_get(first, "text")), "no \xef\xbf\xbd\xef\xbf\xbd text");
    assert_true(json_is_null(json_object_get(first, "freshness_seconds")));
    assert_string_equal(json_string_value(json_object_get(json_array_get(snapshots, 1), "text")), "\"</script>");
    assert_int_equal(json_array_size(json_object_get(json, "versions")), 0);
    json_t *ended = json_array_get(json_object_get(json, "outages"), 0);
    assert_int_equal(json_integer_value(json_object_get(ended, "until")), BEGIN + 9);
    json_decref(json);
    trend_destroy(trend);
}

static void test_there_are_only_these_spans(void **state)
{
    (void)state;
    struct trend *trend = trend_create();
    assert_null(trend_json(trend, "2h", 0, BEGIN));
    assert_null(trend_json(trend, "", 0, BEGIN));
    char spans[64];
    snprintf(spans, sizeof spans, "%s", trend_spans);
    for (char *rest = spans, *span; (span = strsep(&rest, ", ")) != NULL;)
        if (*span) json_decref(ask(trend, span, 0));
    trend_destroy(trend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_step_is_a_point_by_its_beginning),
        cmocka_unit_test(test_a_wide_step_has_the_mean_and_the_largest_lag),
        cmocka_unit_test(test_what_is_not_known_is_null_and_pulls_no_mean),
        cmocka_unit_test(test_memory_is_bounded_and_the_newest_stay),
        cmocka_unit_test(test_who_asks_again_gets_the_newest_point_and_later_ones),
        cmocka_unit_test(test_a_clock_set_back_leaves_the_order),
        cmocka_unit_test(test_happenings_are_bounded_and_the_newest_is_first),
        cmocka_unit_test(test_there_are_only_these_spans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
