/* A version goes out only where it is as good as the one before; one that turns out bad is gone back from; and none of
 * that is forgotten by a crash. The real daemon on a mock broker. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/control.h"
#include "storage/checkpoint.h"
#include "tests/flow/mock_broker.h"

enum { LESSON = 3000, POISON = 1000 };
static const int64_t BEGIN = 1700000000000;

struct world { struct mock_broker *broker; struct daemon_run run; int produced; };

/* Examples, joined already, so that no label depends on when it is read. An item is clicked or it is not, which is easy
 * to learn; where the labels are turned round, all that was learned is wrong. */
static void produce(struct world *world, int count, bool turned)
{
    char text[512];
    for (int i = world->produced; i < world->produced + count; i++) {
        unsigned dice = (unsigned)i * 2654435761u >> 8, user = dice % 97, item = dice / 97 % 20;
        int length = snprintf(
            text, sizeof text,
            "{\"event\":\"example\",\"impression_id\":\"r%d\",\"ts\":%lld,\"user_id\":\"u%u\",\"user\":{\"age\":%u,"
            "\"city\":\"c%u\"},\"behaviors\":[%s],\"context\":{\"hour\":3},\"item_id\":\"i%u\",\"item\":{"
            "\"category\":\"k%u\"},\"clicked\":%s}",
            i, (long long)BEGIN + i * 20, user, 18 + user % 50, user % 7, user % 4 ? "\"i1\",\"i7\"" : "", item,
            item % 5, (item % 3 == 0) != turned ? "true" : "false");
        mock_broker_produce(world->broker, "examples", 0, text, length);
    }
    world->produced += count;
    mock_broker_flush(world->broker);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    world->broker = mock_broker_create();
    daemon_prepare(&world->run);
    static const char *const topic[] = { "examples", "examples.dlq", "announce" };
    for (size_t i = 0; i < 3; i++) mock_broker_topic(world->broker, topic[i], 1);
    *state = world;
    return 0;
}

static bool learned(const json_t *status, int64_t examples)
{
    return status_number(status, "examples.all") >= examples;
}

static void learn(struct world *world, int count, bool turned)
{
    produce(world, count, turned);
    assert_true(daemon_until(&world->run, learned, world->produced));
}

#define TOPICS "impressions: ~, clicks: ~, conversions: ~, examples: examples"
#define EXTRA \
    "evaluation: {window: 1000}\noptimizer: {ranking: {learning_rate: 0.01}, embedding: {learning_rate: 0.01}}\n"
#define GATE ", announce_topic: announce, gate: {max_log_loss_rise: 0.3, max_auc_drop: 0.1, min_examples: 200%s}"

static void configure_each(struct world *world, const char *interval, const char *gate)
{
    char checkpoint[256];
    snprintf(checkpoint, sizeof checkpoint, GATE, gate);
    struct daemon_settings settings = { .topics = TOPICS, .checkpoint_interval = interval,
                                        .extra_checkpoint = checkpoint, .extra = EXTRA };
    daemon_configure(&world->run, world->broker, &settings);
}

static void configure(struct world *world, const char *gate)
{
    configure_each(world, NULL, gate);
}

/* 0: refused; why is shown. */
static uint64_t ask(struct world *world, const char *verb, const char *argument)
{
    struct cs_error err;
    json_t *result = control_request(world->run.socket, verb, argument, &err);
    if (!result) print_message("%s: %s\n", verb, err.message);
    uint64_t version = result ? (uint64_t)json_integer_value(json_object_get(result, "version")) : 0;
    json_decref(result);
    return version;
}

static void assert_done(struct world *world, const char *verb, const char *argument)
{
    json_t *result = daemon_ask(&world->run, verb, argument);
    assert_non_null(result);
    json_decref(result);
}

static bool gate_is_open(struct world *world)
{
    json_t *status = daemon_ask(&world->run, "status", NULL);
    bool open = json_is_true(json_object_get(json_object_get(json_object_get(status, "checkpoint"), "gate"), "open"));
    json_decref(status);
    return open;
}

static bool held(struct world *world, uint64_t *version, int64_t *refused)
{
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_non_null(status);
    const json_t *checkpoint = json_object_get(status, "checkpoint");
    bool is = json_is_true(json_object_get(checkpoint, "held"));
    *version = (uint64_t)json_integer_value(json_object_get(checkpoint, "version"));
    if (refused) *refused = status_number(status, "checkpoint.gate.refused");
    json_decref(status);
    assert_int_equal(checkpoint_current(world->run.checkpoints), *version);
    return is;
}

/* The n-th announcement is this. Read one by one, as an offset beyond the end would begin anew. */
static void announced(struct world *world, int n, const char *event, uint64_t version, const char *cause)
{
    char text[256];
    char *value = NULL;
    for (int i = 0; i <= n; i++) {
        free(value);
        value = mock_broker_read(world->broker, "announce", i, NULL, text);
        assert_non_null(value);
    }
    json_t *message = json_loads(value, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(message, "event")), event);
    assert_int_equal(strtoull(json_string_value(json_object_get(message, "version")), NULL, 10), version);
    if (cause) assert_string_equal(json_string_value(json_object_get(message, "cause")), cause);
    json_decref(message);
    free(value);
}

static void assert_reason(struct world *world, uint64_t version, const char *text)
{
    char path[256], line[2048] = "";
    snprintf(path, sizeof path, "%s/refused/%020" PRIu64 "/reason.txt", world->run.checkpoints, version);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    fclose(file);
    if (!strstr(line, text)) fail_msg("\"%s\" is not in \"%s\"", text, line);
}

/* As the daemon said when it started last. */
static int http_port_of(struct world *world)
{
    char line[1024];
    int port = 0;
    FILE *file = fopen(world->run.log, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        const char *at = strstr(line, " http=");
        if (at) port = atoi(at + strlen(" http="));
    }
    fclose(file);
    return port;
}

/* The daemon's /metrics have this line. */
static void assert_metric(struct world *world, const char *line)
{
    char address[64], *text = NULL;
    size_t size;
    FILE *body = open_memstream(&text, &size);
    CURL *curl = curl_easy_init();
    snprintf(address, sizeof address, "http://127.0.0.1:%d/metrics", http_port_of(world));
    curl_easy_setopt(curl, CURLOPT_URL, address);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, body);
    assert_int_equal(curl_easy_perform(curl), CURLE_OK);
    curl_easy_cleanup(curl);
    fclose(body);
    if (!strstr(text, line)) fail_msg("no \"%s\" in the metrics", line);
    free(text);
}

/* A daemon that has had a lesson and has published so many versions of it. */
static void begin(struct world *world, const char *gate, uint64_t versions)
{
    configure(world, gate);
    daemon_start(&world->run);
    learn(world, LESSON, false);
    for (uint64_t i = 1; i <= versions; i++) assert_int_equal(ask(world, "publish", NULL), i);
}

static void what_got_worse_is_not_published(void **state)
{
    struct world *world = *state;
    uint64_t version;
    int64_t refused;
    begin(world, "", 1);
    assert_true(gate_is_open(world));
    learn(world, POISON, true);
    assert_int_equal(ask(world, "publish", NULL), 0);
    assert_false(gate_is_open(world));
    assert_false(held(world, &version, &refused));
    assert_int_equal(version, 1);
    assert_int_equal(refused, 1);
    assert_metric(world, "coldstream_publish_total{result=\"refused\"} 1\n");
    assert_metric(world, "coldstream_publish_total{result=\"ok\"} 1\n");
    assert_reason(world, 2, "AUC of all users fell from");
    assert_reason(world, 2, "log loss of new users rose from");

    configure(world, ", max_calibration_error: 9");      /* still refused: bounds hold as they are now */
    assert_done(world, "reload", NULL);
    assert_int_equal(ask(world, "publish", NULL), 0);
    assert_reason(world, 2, "AUC of all users fell from");      /* gate.keep_refused of them are kept */
    assert_reason(world, 3, "AUC of all users fell from");
    struct daemon_settings open = { .topics = TOPICS, .extra_checkpoint = ", announce_topic: announce, gate: {}",
                                    .extra = EXTRA };
    daemon_configure(&world->run, world->broker, &open);
    assert_done(world, "reload", NULL);
    assert_int_equal(ask(world, "publish", NULL), 4);
    assert_true(gate_is_open(world));
    announced(world, 0, "published", 1, NULL);
    announced(world, 1, "published", 4, NULL);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void what_turns_out_bad_is_gone_back_from(void **state)
{
    struct world *world = *state;
    uint64_t version;
    begin(world, ", rollback: automatic", 1);
    learn(world, 500, false);
    assert_int_equal(ask(world, "publish", NULL), 2);
    learn(world, 500, false);
    assert_done(world, "snapshot", NULL);               /* judged, and found as good as it was */
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 2);

    learn(world, POISON, true);
    assert_done(world, "snapshot", NULL);
    assert_true(held(world, &version, NULL));
    assert_int_equal(version, 1);
    assert_false(gate_is_open(world));
    assert_int_equal(ask(world, "publish", NULL), 0);
    assert_true(checkpoint_is_marked(world->run.checkpoints, 2, CHECKPOINT_WITHDRAWN));
    announced(world, 2, "rolled_back", 1, "automatic");
    assert_metric(world, "coldstream_rollbacks_total{cause=\"automatic\"} 1\n");
    assert_metric(world, "coldstream_publish_held 1\n");
    assert_metric(world, "coldstream_published_version 1\n");

    assert_int_equal(daemon_stop(&world->run, SIGKILL), -SIGKILL);
    daemon_start(&world->run);
    learn(world, POISON, false);
    announced(world, 3, "current", 1, NULL);
    assert_true(held(world, &version, NULL));
    assert_int_equal(version, 1);
    assert_done(world, "snapshot", NULL);
    assert_done(world, "resume", NULL);
    assert_done(world, "snapshot", NULL);               /* version 1 is not judged by what came after it */
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 1);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

/* Said once, not at each snapshot; and it is the version that there is nothing before, not the daemon. */
static void nothing_to_go_back_to_is_said_once(void **state)
{
    struct world *world = *state;
    uint64_t version;
    begin(world, ", rollback: automatic", 1);
    learn(world, POISON, true);
    for (int i = 0; i < 3; i++) assert_done(world, "snapshot", NULL);
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 1);
    assert_int_equal(daemon_logged(&world->run, "quality has fallen since the version was published"), 1);
    assert_int_equal(daemon_logged(&world->run, "no automatic rollback"), 1);
    assert_metric(world, "coldstream_rollbacks_total{cause=\"automatic\"} 0\n");

    learn(world, 2 * LESSON, false);
    assert_int_equal(ask(world, "publish", NULL), 2);
    learn(world, POISON, true);
    assert_done(world, "snapshot", NULL);
    assert_true(held(world, &version, NULL));
    assert_int_equal(version, 1);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

/* What was learned before it went out is not held against a version, however few examples came since: bad ones, fewer
 * than gate.min_examples, in a window that is full. */
static void a_version_is_judged_by_what_came_after_it(void **state)
{
    struct world *world = *state;
    uint64_t version;
    begin(world, ", rollback: automatic", 2);
    learn(world, 150, true);
    assert_done(world, "snapshot", NULL);
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 2);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void a_version_that_says_no_metrics_is_not_judged(void **state)
{
    struct world *world = *state;
    uint64_t version;
    char path[256];
    begin(world, ", rollback: automatic", 2);
    snprintf(path, sizeof path, "%s/%020d/manifest.json", world->run.checkpoints, 2);
    FILE *file = fopen(path, "w");
    fputs("{\"version\": 2}\n", file);
    fclose(file);
    configure(world, ", rollback: automatic, max_calibration_error: 0.0001");    /* which nothing keeps to */
    assert_done(world, "reload", NULL);
    learn(world, 500, false);
    assert_done(world, "snapshot", NULL);
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 2);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

enum { OFTEN = 100 };       /* ms */

/* For so long that a version would be due several times. */
static void snapshots_go_on(struct world *world)
{
    for (int64_t end = clock_monotonic() + 3 * OFTEN; clock_monotonic() < end;) assert_done(world, "snapshot", NULL);
}

/* Nobody asks for one. */
static void versions_go_out_by_the_interval_where_there_is_something_new(void **state)
{
    struct world *world = *state;
    uint64_t version;
    int64_t refused;
    configure_each(world, "100ms", "");
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, 0));
    snapshots_go_on(world);                             /* nothing was learned */
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 0);
    learn(world, LESSON, false);
    for (int i = 0; i < 2; i++) {                       /* no step since: none again */
        snapshots_go_on(world);
        assert_false(held(world, &version, NULL));
        assert_int_equal(version, 1);
    }
    learn(world, POISON, true);
    for (int i = 0; i < 2; i++) {
        snapshots_go_on(world);
        assert_false(held(world, &version, &refused));
        assert_int_equal(version, 1);
        assert_int_equal(refused, 1);
    }
    configure_each(world, "100ms", ", max_calibration_error: 9");       /* tried again, and refused as before */
    assert_done(world, "reload", NULL);
    snapshots_go_on(world);
    assert_false(held(world, &version, &refused));
    assert_int_equal(version, 1);
    assert_int_equal(refused, 2);

    assert_int_equal(ask(world, "rollback", "1"), 1);   /* a hold: nothing is even tried */
    learn(world, 2 * LESSON, false);
    snapshots_go_on(world);
    assert_true(held(world, &version, NULL));
    assert_int_equal(version, 1);
    assert_metric(world, "coldstream_publish_total{result=\"failed\"} 0\n");
    assert_done(world, "resume", NULL);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);     /* due, and the last snapshot is made: but no version */
    assert_int_equal(checkpoint_current(world->run.checkpoints), 1);
}

static void versions_are_an_interval_apart(void **state)
{
    enum { INTERVAL = 3000 };
    struct world *world = *state;
    uint64_t version;
    int64_t before = 0;
    configure_each(world, "3s", "");
    daemon_start(&world->run);
    learn(world, LESSON, false);
    for (version = 0; !version; held(world, &version, NULL)) {
        before = clock_monotonic();
        assert_done(world, "snapshot", NULL);
    }
    learn(world, 100, false);
    assert_done(world, "snapshot", NULL);
    held(world, &version, NULL);
    if (clock_monotonic() - before < INTERVAL) assert_int_equal(version, 1);    /* on a slow machine it may be time */
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void what_can_not_be_written_is_counted_and_told(void **state)
{
    struct world *world = *state;
    char aside[160];
    begin(world, "", 1);
    snprintf(aside, sizeof aside, "%s.aside", world->run.checkpoints);
    assert_int_equal(rename(world->run.checkpoints, aside), 0);
    FILE *file = fopen(world->run.checkpoints, "w");    /* no directory */
    assert_non_null(file);
    fclose(file);
    for (int64_t i = 1; i <= 2; i++) {
        assert_int_equal(ask(world, "publish", NULL), 0);
        json_t *status = daemon_ask(&world->run, "status", NULL);
        assert_int_equal(status_number(status, "checkpoint.failures"), i);
        json_decref(status);
    }
    assert_metric(world, "coldstream_publish_total{result=\"failed\"} 2\n");
    assert_int_equal(unlink(world->run.checkpoints), 0);
    assert_int_equal(rename(aside, world->run.checkpoints), 0);
    assert_int_equal(ask(world, "publish", NULL), 2);
    assert_metric(world, "coldstream_publish_total{result=\"ok\"} 2\n");
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

/* The preset: however bad a version turns out, going back is an operator's. */
static void nobody_goes_back_unasked(void **state)
{
    struct world *world = *state;
    uint64_t version;
    begin(world, "", 2);
    learn(world, POISON, true);
    assert_done(world, "snapshot", NULL);
    assert_false(held(world, &version, NULL));
    assert_int_equal(version, 2);
    assert_metric(world, "coldstream_rollbacks_total{cause=\"automatic\"} 0\n");
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void assert_refused(struct world *world, const char *version, const char *why)
{
    struct cs_error err;
    assert_null(control_request(world->run.socket, "rollback", version, &err));
    if (!strstr(err.message, why)) fail_msg("rollback %s: %s", version, err.message);
}

static void operators_go_back_and_pin(void **state)
{
    struct world *world = *state;
    uint64_t version;
    begin(world, "", 3);
    assert_refused(world, "9", "has no version 9; there are 1, 2, 3");
    assert_refused(world, "one", "\"one\" is not a version: a decimal number as in `ls`");
    assert_refused(world, "0", "\"0\" is not a version");
    assert_refused(world, "1 ", "\"1 \" is not a version");
    assert_refused(world, "18446744073709551615", "has no version 18446744073709551615; there are 1, 2, 3");
    assert_refused(world, "18446744073709551617", "17\" is not a version: a decimal number of 64 bits");
    assert_refused(world, "99999999999999999999", "99\" is not a version: a decimal number of 64 bits");
    assert_int_equal(ask(world, "pin", NULL), 0);
    assert_int_equal(ask(world, "pin", "00000000000000000001"), 1);
    assert_int_equal(ask(world, "rollback", NULL), 2);
    assert_int_equal(ask(world, "publish", NULL), 0);
    announced(world, 3, "rolled_back", 2, "operator");
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    daemon_start(&world->run);
    learn(world, 100, false);
    assert_true(held(world, &version, NULL));
    assert_int_equal(version, 2);
    assert_done(world, "resume", NULL);
    for (uint64_t i = 4; i <= 8; i++) assert_int_equal(ask(world, "publish", NULL), i);
    uint64_t *all;
    size_t count;
    assert_true(checkpoint_list(world->run.checkpoints, &all, &count, NULL));
    assert_int_equal(count, 4);
    assert_int_equal(all[0], 1);                        /* pinned; then the newest three */
    assert_int_equal(all[1], 6);
    free(all);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

/* ---- kill -9 at any moment */

static void assert_whole(struct world *world)
{
    struct cs_error err = { 0 };
    struct checkpoint *checkpoint = checkpoint_open(world->run.checkpoints, true, &err);
    if (!checkpoint) fail_msg("%s", err.message);
    assert_int_equal(checkpoint_version(checkpoint), checkpoint_current(world->run.checkpoints));
    checkpoint_close(checkpoint);
    uint64_t *all;
    size_t count;
    assert_true(checkpoint_list(world->run.checkpoints, &all, &count, &err));
    for (size_t i = 0; i < count; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%020" PRIu64, world->run.checkpoints, all[i]);
        if (!(checkpoint = checkpoint_open(path, true, &err))) fail_msg("%s", err.message);
        checkpoint_close(checkpoint);
    }
    free(all);
}

/* Asks in a process of its own, so that the daemon can be killed before it answers. */
static pid_t ask_aside(struct world *world, const char *verb)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    json_t *result = daemon_ask(&world->run, verb, NULL);
    _exit(result ? 0 : 1);
}

static void killed_around_a_publication_or_rollback(void **state)
{
    struct world *world = *state;
    enum { ROUNDS = 16 };
    begin(world, "", 3);
    for (int round = 0; round < ROUNDS; round++) {
        const char *verb = round % 2 ? "rollback" : "publish";
        uint64_t before = checkpoint_current(world->run.checkpoints), after, version;
        pid_t asker = ask_aside(world, verb);
        nanosleep(&(struct timespec){ .tv_nsec = round * round * 150000L }, NULL);     /* 0 to 34 ms */
        assert_int_equal(daemon_stop(&world->run, SIGKILL), -SIGKILL);
        int status;
        assert_int_equal(waitpid(asker, &status, 0), asker);
        bool answered = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        after = checkpoint_current(world->run.checkpoints);
        assert_whole(world);
        daemon_start(&world->run);
        assert_true(daemon_until(&world->run, learned, LESSON));
        bool is_held = held(world, &version, NULL);
        if (round % 2) {
            assert_true(is_held ? version < before : version == before);
            if (answered || after != before) assert_true(is_held);
        } else {
            assert_false(is_held);
            assert_int_equal(version, after);
            assert_true(answered ? version > before : version >= before);
        }
        assert_whole(world);
        assert_done(world, "resume", NULL);
        assert_true(ask(world, "publish", NULL) > version);
    }
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, flow_teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_got_worse_is_not_published),
        TEST(what_turns_out_bad_is_gone_back_from),
        TEST(nothing_to_go_back_to_is_said_once),
        TEST(a_version_is_judged_by_what_came_after_it),
        TEST(a_version_that_says_no_metrics_is_not_judged),
        TEST(versions_go_out_by_the_interval_where_there_is_something_new),
        TEST(versions_are_an_interval_apart),
        TEST(what_can_not_be_written_is_counted_and_told),
        TEST(nobody_goes_back_unasked),
        TEST(operators_go_back_and_pin),
        TEST(killed_around_a_publication_or_rollback),
    };
    return cmocka_run_group_tests_name("versions", tests, NULL, NULL);
}
