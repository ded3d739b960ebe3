/* coldstreamd and coldstream-serve, both as processes, on a mock broker: what was learned reaches the scores that are
 * served over HTTP, by deltas, whatever the broker, the topic and the daemon go through. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/coldstream.h"
#include "storage/delta_format.h"
#include "tests/flow/mock_broker.h"
#include "tools/http_ask.h"

enum { LESSON = 1000, PATIENCE = 60000, BROKERS = 3 };          /* examples; ms */
#define NEVER "1h"      /* full versions are not looked for: deltas alone bring what is new */
#define SOON "50ms"

static const char request[] =
    "{\"requests\":[{\"user\":{\"age\":25,\"city\":\"c1\"},\"behaviors\":[\"i1\",\"i7\"],\"context\":{\"hour\":3},"
    "\"candidates\":[{\"item_id\":\"i3\",\"item\":{\"category\":\"k3\"}},{\"item_id\":\"i9\"},{\"item_id\":\"i12\"},"
    "{\"item_id\":\"i17\",\"item\":{\"category\":\"k2\"}}]},"
    "{\"user\":{\"age\":44},\"behaviors\":[],\"item_id\":\"i5\",\"item\":{\"category\":\"k0\"}}]}";

struct scorer { struct daemon_run run; int port; };
struct world { struct mock_broker *broker; struct daemon_run run; struct scorer scorer, joiner; int produced; };

/* ---- learning */

static void produce(struct world *world, int count)
{
    mock_broker_produce_examples(world->broker, world->produced, count);
    world->produced += count;
}

static bool all_learned(const json_t *status, int64_t examples)
{
    return status_number(status, "examples.all") >= examples;
}

/* A full version of what is learned now: its number. */
static uint64_t publish(struct world *world)
{
    json_t *answer = daemon_ask(&world->run, "publish", NULL);
    assert_non_null(answer);
    uint64_t version = (uint64_t)status_number(answer, "version");
    json_decref(answer);
    return version;
}

/* A number of the daemon's status. */
static int64_t info_of(const struct world *world, const char *path)
{
    json_t *status = daemon_ask(&world->run, "status", NULL);
    int64_t number = status_number(status, path);
    json_decref(status);
    return number;
}

static void begin_with(struct world *world, const char *properties, const char *topic, int partitions)
{
    mock_broker_topic(world->broker, "examples", 1);
    mock_broker_topic(world->broker, "examples.dlq", 1);
    if (partitions) mock_broker_topic(world->broker, topic, partitions);
    struct daemon_settings settings = { .topics = "impressions: ~, clicks: ~, conversions: ~, examples: examples",
                                        .properties = properties,
                                        .extra_checkpoint = ", delta_topic: deltas, delta_interval: 20ms" };
    daemon_configure(&world->run, world->broker, &settings);
    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, published, 1));
}

static void begin(struct world *world, const char *topic, int partitions)
{
    begin_with(world, NULL, topic, partitions);
}

/* ---- serving */

/* body NULL: GET. The HTTP status; 0: no answer. */
static long ask(const struct scorer *scorer, const char *path, const char *body, struct http_answer *answer)
{
    CURL *curl = curl_easy_init();
    assert_non_null(curl);
    long code = http_ask(curl, scorer->port, path, body, body ? strlen(body) : 0, answer);
    curl_easy_cleanup(curl);
    return code;
}

static void wait_a_little(void) { nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL); }

/* Fails with what was awaited, and shows the log, where it does not come. */
#define AWAIT(run, condition, ...)                                      \
    for (int64_t end = clock_monotonic() + PATIENCE; !(condition);) {   \
        if (clock_monotonic() > end) {                                  \
            daemon_show_log(run);                                       \
            fail_msg(__VA_ARGS__);                                      \
        }                                                               \
        wait_a_little();                                                \
    }

static void await_log(const struct scorer *scorer, const char *text)
{
    AWAIT(&scorer->run, daemon_logged(&scorer->run, text), "coldstream-serve logs \"%s\"", text);
}

static int port_of(const struct daemon_run *run)
{
    FILE *file = fopen(run->log, "r");
    char line[1024];
    int port = 0;
    while (file && !port && fgets(line, sizeof line, file)) {
        const char *at = strstr(line, " port=");
        if (at && strchr(line, '\n')) port = atoi(at + 6);
    }
    if (file) fclose(file);
    return port;
}

static void start_scorer(const struct world *world, struct scorer *scorer, const char *topic, const char *poll)
{
    char property[128];
    struct http_answer reply;
    daemon_prepare(&scorer->run);
    snprintf(property, sizeof property, "bootstrap.servers=%s", mock_broker_address(world->broker));
    daemon_start_as(&scorer->run, "coldstream-serve",
                    (const char *const[]){ "--checkpoint", world->run.checkpoints, "--listen", "127.0.0.1:0", "--poll",
                                           poll, "--drain", "10ms", "--delta-topic", topic, "--kafka-property",
                                           property, "--kafka-property", "reconnect.backoff.max.ms=500", NULL });
    AWAIT(&scorer->run, (scorer->port = port_of(&scorer->run)) > 0, "coldstream-serve says its port");
    AWAIT(&scorer->run, ask(scorer, "/readyz", NULL, &reply) == 200, "coldstream-serve is ready");
}

static void stop_scorer(struct scorer *scorer)
{
    assert_int_equal(daemon_stop(&scorer->run, SIGTERM), 0);
    daemon_remove(&scorer->run);
}

/* What it answers: the scores, and the version that they are of. */
static char *scores(const struct scorer *scorer, uint64_t *version)
{
    struct http_answer reply;
    assert_int_equal(ask(scorer, "/v1/score", request, &reply), 200);
    json_t *root = json_loads(reply.text, 0, NULL);
    *version = (uint64_t)json_integer_value(json_object_get(root, "version"));
    char *only = json_dumps(json_object_get(root, "scores"), JSON_COMPACT);
    json_decref(root);
    return only;
}

static uint64_t version_of(const struct scorer *scorer)
{
    uint64_t version;
    free(scores(scorer, &version));
    return version;
}

/* By its whole name; -1 where there is none. */
static double any_metric(const struct scorer *scorer, const char *name)
{
    struct http_answer reply;
    char line[128];
    assert_int_equal(ask(scorer, "/metrics", NULL, &reply), 200);
    int length = snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(reply.text, line);
    return at ? strtod(at + length, NULL) : -1;
}

/* "delta_applied_total{result=\"applied\"}" */
static double metric(const struct scorer *scorer, const char *name)
{
    char ours[128];
    snprintf(ours, sizeof ours, "coldstream_%s", name);
    return any_metric(scorer, ours);
}

#define RESULT(name) "delta_applied_total{result=\"" name "\"}"

static double harm(const struct scorer *scorer)
{
    return metric(scorer, RESULT("damaged")) + metric(scorer, RESULT("gap")) + metric(scorer, RESULT("refused")) +
           metric(scorer, RESULT("overflow")) + metric(scorer, RESULT("held"));
}

/* More is learned, and served by deltas: the version rises to that of the last delta, and scores are those of a full
 * version of the same state. */
static void learn_and_compare(struct world *world, const struct scorer *scorer)
{
    uint64_t before, after;
    char error[256] = "", *old = scores(scorer, &before), *text;
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, all_sent, world->produced));
    uint64_t newest = (uint64_t)info_of(world, "deltas.version");
    AWAIT(&scorer->run, version_of(scorer) >= newest, "version %" PRIu64 " is served, %" PRIu64 " is awaited",
          version_of(scorer), newest);
    char *served = scores(scorer, &after);
    assert_true(after > before);
    assert_string_not_equal(served, old);
    publish(world);
    struct coldstream *full = coldstream_open(world->run.checkpoints, NULL, error, sizeof error);
    if (!full) fail_msg("%s", error);
    if (coldstream_score_json(full, request, strlen(request), &text, error, sizeof error)) fail_msg("%s", error);
    json_t *root = json_loads(text, 0, NULL);
    char *expected = json_dumps(json_object_get(root, "scores"), JSON_COMPACT);
    assert_string_equal(served, expected);
    json_decref(root);
    coldstream_close(full);
    free(expected);
    free(served);
    free(text);
    free(old);
}

/* ---- */

static int setup_with(void **state, int brokers)
{
    struct world *world = calloc(1, sizeof *world);
    if (!world) abort();
    world->broker = mock_broker_create_many(brokers);
    daemon_prepare(&world->run);
    *state = world;
    return 0;
}

static int setup(void **state) { return setup_with(state, 1); }
static int setup_many(void **state) { return setup_with(state, BROKERS); }

static int teardown(void **state)
{
    struct world *world = *state;
    if (world->scorer.run.pid > 0) daemon_remove(&world->scorer.run);
    if (world->joiner.run.pid > 0) daemon_remove(&world->joiner.run);
    return flow_teardown(state);
}

static void scores_follow_the_stream_through_outages_and_garbage(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer, *joiner = &world->joiner;
    begin(world, "deltas", 1);
    start_scorer(world, scorer, "deltas", NEVER);
    learn_and_compare(world, scorer);
    assert_true(metric(scorer, RESULT("applied")) >= 1);
    assert_true(metric(scorer, "freshness_seconds_count") >= 1);
    assert_true(any_metric(scorer, "process_start_time_seconds") == metric(scorer, "process_start_time_seconds"));

    /* No broker: what is there is served on; afterwards deltas go on from where they were. */
    uint64_t served = version_of(scorer);
    mock_broker_down(world->broker, true);
    await_log(scorer, "Kafka consumer of deltas");
    assert_int_equal(version_of(scorer), served);
    mock_broker_down(world->broker, false);
    learn_and_compare(world, scorer);
    assert_true(harm(scorer) == 0);

    /* Between two deltas: what nobody here wrote. */
    char large[3000];
    memset(large, 'x', sizeof large);
    mock_broker_produce(world->broker, "deltas", 0, "not a delta", 11);
    mock_broker_produce(world->broker, "deltas", 0, NULL, -1);
    mock_broker_produce(world->broker, "deltas", 0, "", 0);
    mock_broker_produce(world->broker, "deltas", 0, large, sizeof large);
    mock_broker_flush(world->broker);
    AWAIT(&scorer->run, metric(scorer, RESULT("damaged")) >= 3, "garbage is counted");
    learn_and_compare(world, scorer);
    assert_true(metric(scorer, RESULT("gap")) + metric(scorer, RESULT("refused")) == 0);

    /* A late joiner passes over what its full version has, garbage too, and is where the other one is. */
    uint64_t other;
    char *first = scores(scorer, &served);
    start_scorer(world, joiner, "deltas", NEVER);
    learn_and_compare(world, joiner);
    AWAIT(&scorer->run, version_of(scorer) == version_of(joiner), "both serve the same version");
    char *one = scores(scorer, &served), *two = scores(joiner, &other);
    assert_string_equal(one, two);
    assert_string_not_equal(one, first);
    free(first);
    free(one);
    free(two);
    stop_scorer(joiner);
    AWAIT(&scorer->run, metric(scorer, "delta_overlay_rows") > 0, "rows that lie over the full version are told");
    AWAIT(&scorer->run, metric(scorer, "delta_lag") == 0, "all is read, and told to be");
    assert_true(metric(scorer, "delta_waiting") == 0);

    /* Another run's deltas wait for a full version, which is not looked for here. */
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, all_sent, world->produced));
    AWAIT(&scorer->run, metric(scorer, RESULT("epoch")) >= 1, "another run's deltas are told");
    AWAIT(&scorer->run, metric(scorer, "delta_waiting") >= 1, "those that wait are told");
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void scores_follow_a_daemon_that_is_restarted_or_killed(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer;
    begin(world, "deltas", 1);
    start_scorer(world, scorer, "deltas", SOON);
    learn_and_compare(world, scorer);
    int64_t epoch = 0;
    for (int round = 0; round < 3; round++) {
        int number = round == 1 ? SIGKILL : SIGTERM;
        if (number == SIGKILL) produce(world, LESSON / 2);      /* in the middle of it */
        assert_int_equal(daemon_stop(&world->run, number), number == SIGKILL ? -SIGKILL : 0);
        /* Nobody else fetches now. Read from its beginning, the topic brings nothing that is not known. */
        if (round == 2) {
            uint64_t served = version_of(scorer);
            mock_broker_truncated(world->broker);
            await_log(scorer, "deltas are read again");
            assert_int_equal(version_of(scorer), served);
        }
        daemon_start(&world->run);
        produce(world, LESSON);
        assert_true(daemon_until(&world->run, published, 1));   /* its own, for its own chain to go on from */
        learn_and_compare(world, scorer);
        json_t *status = daemon_ask(&world->run, "status", NULL);
        assert_true(status_number(status, "deltas.epoch") > epoch);
        epoch = status_number(status, "deltas.epoch");
        json_decref(status);
    }
    assert_true(metric(scorer, RESULT("damaged")) + metric(scorer, RESULT("refused")) == 0);
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

/* What is served goes from deltas to a full version of the same state, to deltas of it, and to another run's: answers
 * and metric name ever larger numbers. */
static void versions_rise_with_what_is_served(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer;
    begin(world, "deltas", 1);
    start_scorer(world, scorer, "deltas", SOON);
    for (int round = 0; round < 3; round++) {
        if (round == 2) {
            assert_int_equal(daemon_stop(&world->run, SIGKILL), -SIGKILL);
            daemon_start(&world->run);
            produce(world, LESSON);
            assert_true(daemon_until(&world->run, published, 1));
        }
        uint64_t before = version_of(scorer);
        learn_and_compare(world, scorer);               /* by deltas, which ends with a full version */
        uint64_t delta = (uint64_t)info_of(world, "deltas.version"),
                 full = (uint64_t)info_of(world, "checkpoint.version");
        assert_true(before < delta && delta < full);
        AWAIT(&scorer->run, version_of(scorer) == full, "the full version %" PRIu64 " is served", full);
        assert_true(metric(scorer, "serving_version") == (double)full);
        assert_true(metric(scorer, "swaps_total{result=\"ok\"}") > round);
    }
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

struct chain { int begins, commits; };

static void count_ends(void *self, const void *bytes, size_t size)
{
    struct chain *chain = self;
    struct delta_record record;
    assert_true(delta_parse(bytes, size, &record, NULL));
    chain->begins += record.type == DELTA_BEGIN;
    chain->commits += record.type == DELTA_COMMIT;
}

static struct chain chain_of(struct world *world)
{
    struct chain chain = { 0 };
    mock_broker_each(world->broker, "deltas", 0, count_ends, &chain);
    return chain;
}

/* kill -9 when the broker has a delta's BEGIN and not its COMMIT: as if it had never been sent. */
static void half_a_delta_is_none(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer;
    uint64_t served, still;
    begin_with(world, "socket.timeout.ms: 300000", "deltas", 1);        /* or the delta is sent again meanwhile */
    start_scorer(world, scorer, "deltas", SOON);
    learn_and_compare(world, scorer);
    struct chain whole = chain_of(world), half;
    assert_int_equal(whole.begins, whole.commits);
    uint64_t full = (uint64_t)info_of(world, "checkpoint.version");
    AWAIT(&scorer->run, version_of(scorer) == full, "the full version %" PRIu64 " is served", full);
    char *before = scores(scorer, &served);

    json_decref(daemon_ask(&world->run, "pause", NULL));
    produce(world, LESSON / 2);
    mock_broker_withhold(world->broker);
    json_decref(daemon_ask(&world->run, "resume", NULL));
    AWAIT(&world->run, (half = chain_of(world)).begins > whole.begins, "a delta begins");
    assert_int_equal(daemon_stop(&world->run, SIGKILL), -SIGKILL);
    half = chain_of(world);
    assert_int_equal(half.begins, whole.begins + 1);
    assert_int_equal(half.commits, whole.commits);
    mock_broker_produce(world->broker, "deltas", 0, "not a delta", 11);
    mock_broker_flush(world->broker);
    AWAIT(&scorer->run, metric(scorer, RESULT("damaged")) == 1, "all of the half is read, and what follows it");
    char *after = scores(scorer, &still);
    assert_int_equal(still, served);
    assert_string_equal(after, before);
    assert_true(metric(scorer, RESULT("unfinished")) == 0);

    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, published, 1));
    learn_and_compare(world, scorer);
    assert_true(metric(scorer, RESULT("damaged")) == 1 && metric(scorer, RESULT("refused")) == 0);
    assert_true(metric(scorer, RESULT("unfinished")) == 1);
    free(before);
    free(after);
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

/* The leaders of what is learned from and of the deltas move from broker to broker, also in the middle of a delta. */
static void leaders_move(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer;
    begin(world, "deltas", 1);
    start_scorer(world, scorer, "deltas", NEVER);
    for (int move = 0; move < 2 * BROKERS; move++) {
        produce(world, LESSON / 4);
        mock_broker_lead(world->broker, "deltas", 0, 1 + move % BROKERS);
        mock_broker_lead(world->broker, "examples", 0, 1 + (move + 1) % BROKERS);
        learn_and_compare(world, scorer);
    }
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_int_equal(status_number(status, "examples.all"), world->produced);
    assert_int_equal(status_number(status, "deltas.failures"), 0);
    assert_true(metric(scorer, RESULT("applied")) <= (double)status_number(status, "deltas.sent"));
    json_decref(status);
    assert_true(harm(scorer) == 0 && metric(scorer, RESULT("unfinished")) == 0);
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void pass_over(void *self, const void *bytes, size_t size) { (void)self, (void)bytes, (void)size; }

static void a_topic_of_many_partitions_is_neither_written_nor_read(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer;
    begin(world, "deltas", 3);
    mock_broker_produce(world->broker, "deltas", 0, "not a delta", 11);
    mock_broker_flush(world->broker);
    start_scorer(world, scorer, "deltas", SOON);
    await_log(scorer, "the delta topic has more than one partition");
    produce(world, LESSON);
    AWAIT(&world->run, daemon_logged(&world->run, "it has 3 partitions, allowed is 1"), "the daemon says so");
    assert_true(daemon_until(&world->run, all_learned, world->produced));       /* learning goes on */
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_int_equal(status_number(status, "deltas.sent"), 0);
    assert_non_null(strstr(json_string_value(json_object_get(json_object_get(status, "deltas"), "error")),
                           "3 partitions, allowed is 1"));
    json_decref(status);
    /* Full versions come through. */
    uint64_t version = publish(world);
    AWAIT(&scorer->run, version_of(scorer) == version, "version %" PRIu64 " is served", version);
    assert_true(metric(scorer, RESULT("applied")) == 0 && metric(scorer, RESULT("damaged")) == 0);
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    assert_int_equal(mock_broker_each(world->broker, "deltas", 0, pass_over, NULL), 1);
}

static void a_wrong_topics_name_is_told_and_full_versions_are_served(void **state)
{
    struct world *world = *state;
    struct scorer *scorer = &world->scorer;
    begin(world, "deltas", 1);
    /* The mock broker would make any topic that it is asked about. */
    mock_broker_topic(world->broker, "detlas", 1);
    mock_broker_hide(world->broker, "detlas", true);
    start_scorer(world, scorer, "detlas", SOON);
    await_log(scorer, "deltas can't be read, tried again each second");
    assert_true(daemon_logged(&scorer->run, "topic=detlas"));
    assert_true(daemon_logged(&scorer->run, "--delta-topic is the daemon's checkpoint.delta_topic"));
    uint64_t version = publish(world);
    AWAIT(&scorer->run, version_of(scorer) == version, "version %" PRIu64 " is served", version);
    /* A topic may come later. */
    mock_broker_hide(world->broker, "detlas", false);
    mock_broker_produce(world->broker, "detlas", 0, "not a delta", 11);
    mock_broker_flush(world->broker);
    AWAIT(&scorer->run, metric(scorer, RESULT("damaged")) >= 1, "the topic is read, once it is there");
    stop_scorer(scorer);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

int main(void)
{
    curl_global_init(CURL_GLOBAL_ALL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(scores_follow_the_stream_through_outages_and_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(scores_follow_a_daemon_that_is_restarted_or_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(versions_rise_with_what_is_served, setup, teardown),
        cmocka_unit_test_setup_teardown(half_a_delta_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(leaders_move, setup_many, teardown),
        cmocka_unit_test_setup_teardown(a_topic_of_many_partitions_is_neither_written_nor_read, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wrong_topics_name_is_told_and_full_versions_are_served, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
