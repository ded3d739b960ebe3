/* The whole way on a mock broker: the real daemon learns and sends deltas, coldstream-serve's reader takes them, and
 * libcoldstream scores by deltas alone what it would by the full checkpoint of the same state. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/delta_follow.h"
#include "daemon/serve_deltas.h"
#include "storage/checkpoint.h"
#include "tests/flow/mock_broker.h"

enum { LESSON = 1500, NEVER = 3600000, PATIENCE = 60 };

static const char request[] =
    "{\"requests\":[{\"user\":{\"age\":25,\"city\":\"c1\"},\"behaviors\":[\"i1\",\"i7\"],\"context\":{\"hour\":3},"
    "\"candidates\":[{\"item_id\":\"i3\",\"item\":{\"category\":\"k3\"}},{\"item_id\":\"i9\"},{\"item_id\":\"i12\"},"
    "{\"item_id\":\"i17\",\"item\":{\"category\":\"k2\"}}]},"
    "{\"user\":{\"age\":44},\"behaviors\":[],\"item_id\":\"i5\",\"item\":{\"category\":\"k0\"}}]}";

struct reader {
    struct coldstream *cs;
    struct serve_deltas *deltas;
    struct telemetry *telemetry;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t sequence;
};

static void on_delta(void *argument, const struct coldstream_delta_report *report)
{
    struct reader *reader = argument;
    pthread_mutex_lock(&reader->mutex);
    serve_deltas_told(reader->deltas, report);
    if (report->result == COLDSTREAM_DELTA_APPLIED) reader->sequence = report->sequence;
    pthread_cond_broadcast(&reader->changed);
    pthread_mutex_unlock(&reader->mutex);
}

static void await_sequence(struct reader *reader, uint64_t sequence)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE;
    pthread_mutex_lock(&reader->mutex);
    while (reader->sequence < sequence)
        if (pthread_cond_timedwait(&reader->changed, &reader->mutex, &until))
            fail_msg("delta %" PRIu64 " is served, %" PRIu64 " awaited", reader->sequence, sequence);
    pthread_mutex_unlock(&reader->mutex);
}

static char *scores(struct coldstream *cs)
{
    char error[256] = "", *text;
    if (coldstream_score_json(cs, request, strlen(request), &text, error, sizeof error)) fail_msg("%s", error);
    json_t *root = json_loads(text, 0, NULL);
    char *only = json_dumps(json_object_get(root, "scores"), JSON_COMPACT);
    json_decref(root);
    free(text);
    return only;
}

/* What is learned now, published whole, opened afresh. */
static struct coldstream *publish(struct daemon_run *run)
{
    char error[256] = "";
    json_t *answer = daemon_ask(run, "publish", NULL);
    assert_non_null(answer);
    json_decref(answer);
    struct coldstream *cs = coldstream_open(run->checkpoints, NULL, error, sizeof error);
    if (!cs) fail_msg("%s", error);
    return cs;
}

static void deltas_alone_lead_to_the_full_checkpoints_scores(void **unused)
{
    (void)unused;
    struct mock_broker *broker = mock_broker_create();
    struct daemon_run run;
    struct reader reader = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    struct cs_error err = { 0 };
    char property[128], error[256] = "";
    daemon_prepare(&run);
    static const char *const topic[] = { "examples", "examples.dlq", "deltas" };
    for (size_t i = 0; i < 3; i++) mock_broker_topic(broker, topic[i], 1);
    struct daemon_settings settings = { .topics = "impressions: ~, clicks: ~, conversions: ~, examples: examples",
                                        .extra_checkpoint = ", delta_topic: deltas, delta_interval: 20ms" };
    daemon_configure(&run, broker, &settings);
    daemon_start(&run);
    mock_broker_produce_examples(broker, 0, LESSON);
    assert_true(daemon_until(&run, published, 1));

    struct coldstream_options options = { .size = sizeof options, .poll_milliseconds = NEVER, .follow = 1,
                                          .on_delta = on_delta, .argument = &reader };
    reader.telemetry = telemetry_create();
    reader.deltas = serve_deltas_create();
    serve_deltas_topic(reader.deltas, "deltas");
    snprintf(property, sizeof property, "bootstrap.servers=%s", mock_broker_address(broker));
    assert_true(serve_deltas_property(reader.deltas, property, &err));
    reader.cs = coldstream_open(run.checkpoints, &options, error, sizeof error);
    if (!reader.cs) fail_msg("%s", error);
    char *first = scores(reader.cs);
    if (!serve_deltas_start(reader.deltas, reader.cs, reader.telemetry, &err)) fail_msg("%s", err.message);

    mock_broker_produce_examples(broker, LESSON, 3 * LESSON);
    /* No more is learned: the last delta holds what the next full checkpoint does. */
    assert_true(daemon_until(&run, all_sent, 4 * LESSON));
    struct coldstream *full = publish(&run);
    struct coldstream_delta_info info = { .size = sizeof info };
    coldstream_delta_state(full, &info);
    await_sequence(&reader, info.sequence);
    char *expected = scores(full), *got = scores(reader.cs);
    assert_string_equal(got, expected);
    assert_string_not_equal(got, first);
    coldstream_delta_state(reader.cs, &info);
    assert_int_equal(info.waiting, 0);
    assert_int_equal(info.count[COLDSTREAM_DELTA_GAP] + info.count[COLDSTREAM_DELTA_DAMAGED], 0);
    serve_deltas_measure(reader.deltas);
    char *text = telemetry_text(reader.telemetry);
    assert_non_null(strstr(text, "coldstream_delta_applied_total{result=\"applied\"} "));
    assert_null(strstr(text, "coldstream_delta_applied_total{result=\"applied\"} 0\n"));
    assert_non_null(strstr(text, "coldstream_delta_lag 0\n"));
    assert_non_null(strstr(text, "coldstream_freshness_seconds_count"));
    free(text);
    free(first);
    free(expected);
    free(got);
    serve_deltas_destroy(reader.deltas);
    coldstream_close(reader.cs);
    coldstream_close(full);
    telemetry_destroy(reader.telemetry);
    assert_int_equal(daemon_stop(&run, SIGTERM), 0);
    daemon_remove(&run);
    mock_broker_destroy(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(deltas_alone_lead_to_the_full_checkpoints_scores) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
