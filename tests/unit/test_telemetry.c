/* The Prometheus text: what a scraper relies on. */
#include "daemon/telemetry.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/telemetry_table.h"

static void assert_line(const char *text, const char *line)
{
    char whole[512];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (!strstr(text, whole)) fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void values_and_labels(void **state)
{
    (void)state;
    struct telemetry *telemetry = telemetry_create();
    telemetry_add(telemetry, METRIC_EVENTS, TELEMETRY_LABELS("clicks", "ok"), 3);
    telemetry_add(telemetry, METRIC_EVENTS, TELEMETRY_LABELS("clicks", "ok"), 4);
    telemetry_add(telemetry, METRIC_EVENTS, TELEMETRY_LABELS("a\"b\\c\nd", "ok"), 1);
    telemetry_set(telemetry, METRIC_AUC, TELEMETRY_LABELS("new", "window"), 0.73125);
    telemetry_set(telemetry, METRIC_LOG_LOSS, TELEMETRY_LABELS("all", "start"), NAN);
    telemetry_set(telemetry, METRIC_PUBLISHED_VERSION, NULL, 12345678901);
    assert_true(telemetry_get(telemetry, METRIC_EVENTS, TELEMETRY_LABELS("clicks", "ok")) == 7);
    assert_true(isnan(telemetry_get(telemetry, METRIC_EVENTS, TELEMETRY_LABELS("clicks", "bad"))));
    char *text = telemetry_text(telemetry);
    assert_line(text, "# TYPE coldstream_events_total counter");
    assert_line(text, "coldstream_events_total{topic=\"clicks\",result=\"ok\"} 7");
    assert_line(text, "coldstream_events_total{topic=\"a\\\"b\\\\c\\nd\",result=\"ok\"} 1");
    assert_line(text, "# TYPE coldstream_progressive_auc gauge");
    assert_line(text, "coldstream_progressive_auc{users=\"new\",window=\"window\"} 0.73124999999999996");
    assert_line(text, "coldstream_progressive_logloss{users=\"all\",window=\"start\"} NaN");
    assert_line(text, "coldstream_published_version 12345678901");
    assert_null(strstr(text, "coldstream_steps_total"));        /* never set: left out */
    free(text);
    telemetry_destroy(telemetry);
}

static void histograms_cumulate(void **state)
{
    (void)state;
    struct telemetry *telemetry = telemetry_create();
    telemetry_observe(telemetry, METRIC_STEP_SECONDS, 0.0005);
    telemetry_observe(telemetry, METRIC_STEP_SECONDS, 0.001);       /* bounds are inclusive */
    telemetry_observe(telemetry, METRIC_STEP_SECONDS, 0.3);
    telemetry_observe(telemetry, METRIC_STEP_SECONDS, 1000);
    telemetry_expect(telemetry, METRIC_STEP_SECONDS);               /* takes nothing away */
    telemetry_expect(telemetry, METRIC_SNAPSHOT_SECONDS);
    char *text = telemetry_text(telemetry);
    assert_line(text, "coldstream_snapshot_seconds_bucket{le=\"+Inf\"} 0");
    assert_line(text, "coldstream_snapshot_seconds_count 0");
    assert_line(text, "# TYPE coldstream_step_seconds histogram");
    assert_line(text, "coldstream_step_seconds_bucket{le=\"0.001\"} 2");
    assert_line(text, "coldstream_step_seconds_bucket{le=\"0.25\"} 2");
    assert_line(text, "coldstream_step_seconds_bucket{le=\"0.5\"} 3");
    assert_line(text, "coldstream_step_seconds_bucket{le=\"10\"} 3");
    assert_line(text, "coldstream_step_seconds_bucket{le=\"+Inf\"} 4");
    assert_line(text, "coldstream_step_seconds_count 4");
    assert_non_null(strstr(text, "coldstream_step_seconds_sum 1000.301"));
    free(text);
    telemetry_destroy(telemetry);
}

static void process_and_build(void **state)
{
    (void)state;
    struct telemetry *telemetry = telemetry_create();
    char *text = telemetry_text(telemetry);
    static const char *const names[] = { "process_cpu_seconds_total",     "process_virtual_memory_bytes",
                                         "process_resident_memory_bytes", "process_open_fds",
                                         "process_start_time_seconds",    "coldstream_process_start_time_seconds" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[128];
        snprintf(line, sizeof line, "\n%s ", names[i]);
        const char *at = strstr(text, line);
        if (!at) fail_msg("no %s", names[i]);
        assert_true(strtod(at + strlen(line), NULL) > 0);
    }
    double started = telemetry_get(telemetry, METRIC_START_TIME, NULL), now = (double)time(NULL);
    assert_true(started > now - 3600 && started < now + 2);
    assert_non_null(strstr(text, "\ncoldstream_build_info{version=\""));
    free(text);
    telemetry_destroy(telemetry);
}

/* The rules that promtool checks, over the whole table and over a text in which every metric has a value. */
static void the_text_is_clean(void **state)
{
    (void)state;
    struct telemetry *telemetry = telemetry_create();
    const char *const labels[] = { "x", "y" };
    for (int metric = 0; metric < METRICS; metric++) {
        const struct telemetry_row *row = &telemetry_table[metric];
        if (!row->name) fail_msg("metric %d has no row", metric);
        size_t length = strlen(row->name);
        bool total = length > 6 && strcmp(row->name + length - 6, "_total") == 0;
        if (total != (row->kind == KIND_COUNTER)) fail_msg("%s: _total is for counters", row->name);
        if (strspn(row->name, "abcdefghijklmnopqrstuvwxyz_") != length) fail_msg("%s: name", row->name);
        if (!row->help || row->help[strlen(row->help) - 1] != '.' || strchr(row->help, '\n'))
            fail_msg("%s: help", row->name);
        bool unit = strstr(row->name, "_seconds") || strstr(row->name, "_difference");      /* of scores: no unit */
        if (row->kind == KIND_HISTOGRAM && (row->label[0] || !unit || !row->buckets))
            fail_msg("%s: histogram", row->name);
        for (size_t i = 1; row->buckets && i < row->buckets->count; i++)
            assert_true(row->buckets->bound[i - 1] < row->buckets->bound[i]);
        for (int other = 0; other < metric; other++) assert_string_not_equal(row->name, telemetry_table[other].name);
        if (row->kind == KIND_COUNTER) telemetry_add(telemetry, (enum telemetry_metric)metric, labels, 1);
        else if (row->kind == KIND_GAUGE) telemetry_set(telemetry, (enum telemetry_metric)metric, labels, 1);
        else telemetry_observe(telemetry, (enum telemetry_metric)metric, 1);
    }
    char *text = telemetry_text(telemetry), *rest = text;
    char help[128] = "", type[128] = "";
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        char name[128];
        if (sscanf(line, "# HELP %127s", name) == 1) {
            assert_null(strstr(rest, line));        /* once */
            snprintf(help, sizeof help, "%s", name);
        } else if (sscanf(line, "# TYPE %127s", name) == 1) {
            assert_string_equal(name, help);
            snprintf(type, sizeof type, "%s", name);
        } else {
            assert_memory_equal(line, type, strlen(type));
            const char *blank = strrchr(line, ' ');
            char *end;
            assert_non_null(blank);
            strtod(blank + 1, &end);
            assert_int_equal(*end, 0);
        }
    }
    assert_null(rest);      /* it ended with a line break, after the last line */
    free(text);
    telemetry_destroy(telemetry);
}

static void series_are_found_in_whatever_order(void **state)
{
    (void)state;
    static const char *const order[] = { "0123", "0123", "3210", "2013", "1133", "4012" };
    struct telemetry *telemetry = telemetry_create();
    double told[5] = { 0 };
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        for (const char *at = order[i]; *at; at++) {
            const char label[] = { *at, 0 };
            telemetry_set(telemetry, METRIC_CONSUMER_LAG, TELEMETRY_LABELS("clicks", label), ++told[*at - '0']);
        }
    for (int i = 0; i < 5; i++) {
        const char label[] = { (char)('0' + i), 0 };
        assert_true(telemetry_get(telemetry, METRIC_CONSUMER_LAG, TELEMETRY_LABELS("clicks", label)) == told[i]);
    }
    assert_true(isnan(telemetry_get(telemetry, METRIC_CONSUMER_LAG, TELEMETRY_LABELS("clicks", "5"))));
    char *text = telemetry_text(telemetry);
    size_t lines = 0;
    for (const char *at = text; (at = strstr(at, "coldstream_consumer_lag{")); at++) lines++;
    assert_int_equal(lines, 5);
    free(text);
    telemetry_destroy(telemetry);
}

static void *count(void *argument)
{
    for (int i = 0; i < 10000; i++) {
        telemetry_add(argument, METRIC_STEPS, NULL, 1);
        if (i % 1000 == 0) free(telemetry_text(argument));
    }
    return NULL;
}

static void threads_lose_nothing(void **state)
{
    (void)state;
    struct telemetry *telemetry = telemetry_create();
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, count, telemetry);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    assert_true(telemetry_get(telemetry, METRIC_STEPS, NULL) == 40000);
    telemetry_destroy(telemetry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_labels), cmocka_unit_test(histograms_cumulate), cmocka_unit_test(process_and_build),
        cmocka_unit_test(the_text_is_clean), cmocka_unit_test(series_are_found_in_whatever_order),
        cmocka_unit_test(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
