/* coldstreamd as operators meet it, against a broker: learns everything once, in one order, whatever interrupts it. */
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <xxhash.h>

#include "storage/checkpoint.h"
#include "tests/flow/mock_broker.h"

enum { IMPRESSIONS = 3000, IMPRESSION_PARTITIONS = 3, CLICK_PARTITIONS = 2 };
static const int64_t BEGIN = INT64_C(1700000000000);

struct world { struct mock_broker *broker; struct daemon_run run; };

/* The i-th impression and, for about a third of them, its click; a function of i. 20 ms of event time apart. */
static void produce_event(struct mock_broker *broker, int i)
{
    char text[512];
    unsigned dice = (unsigned)i * 2654435761u;
    int user = (int)(dice % 97), item = (int)(dice / 97 % 50), clicked = (item + user) % 3 == 0;
    int length =
        snprintf(text, sizeof text,
                 "{\"event\":\"impression\",\"impression_id\":\"r%d\",\"ts\":%lld,\"user_id\":\"u%d\",\"user\":{"
                 "\"age\":%d,\"city\":\"c%d\"},"
                 "\"behaviors\":[%s],\"context\":{\"hour\":%d},\"item_id\":\"i%d\",\"item\":{\"category\":\"k%d\"}}",
                 i, (long long)BEGIN + i * 20, user, 18 + user % 50, user % 7, user % 4 ? "\"i1\",\"i7\",\"i3\"" : "",
                 i / 100 % 24, item, item % 5);
    mock_broker_produce(broker, "impressions", user % IMPRESSION_PARTITIONS, text, length);
    if (!clicked) return;
    length = snprintf(text, sizeof text, "{\"event\":\"click\",\"impression_id\":\"r%d\",\"ts\":%lld}", i,
                      (long long)BEGIN + i * 20 + 300);
    mock_broker_produce(broker, "clicks", i % CLICK_PARTITIONS, text, length);
}

static void produce_events(struct mock_broker *broker, int begin, int end)
{
    for (int i = begin; i < end; i++) produce_event(broker, i);
    mock_broker_flush(broker);
}

static void make_topics(struct mock_broker *broker)
{
    mock_broker_topic(broker, "impressions", IMPRESSION_PARTITIONS);
    mock_broker_topic(broker, "clicks", CLICK_PARTITIONS);
    mock_broker_topic(broker, "impressions.dlq", 1);
    mock_broker_topic(broker, "clicks.dlq", 1);
}

enum { BROKERS = 3 };

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    world->broker = mock_broker_create_many(BROKERS);
    daemon_prepare(&world->run);
    *state = world;
    return 0;
}

static bool learned(const json_t *status, int64_t examples)
{
    return status_number(status, "examples.all") >= examples &&
           (examples < IMPRESSIONS || status_number(status, "join.pending") == 0);
}

static bool is_state(const json_t *status, const char *state)
{
    return strcmp(json_string_value(json_object_get(status, "state")), state) == 0;
}
static bool waits(const json_t *status, int64_t argument)
{
    (void)argument;
    return is_state(status, "waiting for brokers");
}
static bool runs(const json_t *status, int64_t argument) { (void)argument; return is_state(status, "running"); }

static uint64_t version_of(const json_t *result)
{
    return result ? (uint64_t)json_integer_value(json_object_get(result, "version")) : 0;
}

static const char all_delayed[] = "evaluation: {delayed: 1}\n";

/* Validations are brought up to date after the counts, once there is time to. */
static bool validated(const json_t *status, int64_t examples)
{
    return status_number(status, "metrics.all.window.examples") >= examples &&
           status_number(status, "delayed_metrics.all.window.examples") >= examples;
}

/* Both validations as the status has them, as text; malloc'd. */
static char *validation_of(const struct daemon_run *run)
{
    assert_true(daemon_until(run, validated, IMPRESSIONS));
    json_t *status = daemon_ask(run, "status", NULL), *both = json_object();
    json_object_set(both, "metrics", json_object_get(status, "metrics"));
    json_object_set(both, "delayed_metrics", json_object_get(status, "delayed_metrics"));
    char *text = json_dumps(both, JSON_SORT_KEYS | JSON_INDENT(1));
    json_decref(both);
    json_decref(status);
    return text;
}

/* One run over all events, nothing in between. validation, where not NULL: as validation_of. */
static uint64_t uninterrupted(struct mock_broker *broker, const char *properties, char **validation)
{
    struct daemon_run run;
    daemon_prepare(&run);
    daemon_configure(&run, broker, &(struct daemon_settings){ .properties = properties, .extra = all_delayed });
    daemon_start(&run);
    assert_true(daemon_until(&run, learned, IMPRESSIONS));
    if (validation) *validation = validation_of(&run);
    assert_int_equal(daemon_stop(&run, SIGTERM), 0);
    uint64_t digest = daemon_digest(&run);
    daemon_remove(&run);
    return digest;
}

static void test_learns_all_and_publishes(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    produce_events(world->broker, 0, IMPRESSIONS);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .extra = all_delayed });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    json_t *result = daemon_ask(&world->run, "publish", NULL);
    assert_true(version_of(result) > 0);
    assert_true(daemon_until(&world->run, validated, IMPRESSIONS));
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_int_equal(status_number(status, "examples.all"), IMPRESSIONS);
    assert_int_equal(status_number(status, "examples.new") + status_number(status, "examples.old"), IMPRESSIONS);
    assert_int_equal(status_number(status, "join.impressions"), IMPRESSIONS);
    assert_int_equal(status_number(status, "join.matched") + status_number(status, "join.expired"), IMPRESSIONS);
    assert_int_equal(status_number(status, "join.matched"), status_number(status, "join.clicks"));
    assert_int_equal(status_number(status, "join.undecided_impressions"), 0);
    assert_int_equal(status_number(status, "join.undecided_clicks"), 0);
    assert_true(status_number(status, "steps") >= IMPRESSIONS / 64);
    assert_int_equal(status_number(status, "delayed_metrics.all.start.examples"), IMPRESSIONS);
    assert_int_equal(status_number(status, "delayed_metrics.all.start.clicks"), status_number(status, "join.matched"));
    assert_int_equal(status_number(status, "shown_waiting"), 0);
    size_t index;
    json_t *source;
    assert_int_equal(json_array_size(json_object_get(status, "sources")), IMPRESSION_PARTITIONS + CLICK_PARTITIONS);
    json_array_foreach(json_object_get(status, "sources"), index, source)
        assert_int_equal(status_number(source, "lag"), 0);

    struct cs_error err;
    struct checkpoint *checkpoint = checkpoint_open(world->run.checkpoints, true, &err);
    assert_non_null(checkpoint);
    assert_int_equal(checkpoint_version(checkpoint), version_of(result));
    assert_true(checkpoint_table(checkpoint, "item") >= 0);
    json_t *manifest = json_loads(checkpoint_manifest(checkpoint), 0, NULL);
    assert_int_equal(status_number(manifest, "examples"), IMPRESSIONS);
    assert_int_equal(json_array_size(json_object_get(manifest, "offsets")), IMPRESSION_PARTITIONS + CLICK_PARTITIONS);
    assert_int_equal(status_number(manifest, "metrics.all.start.examples"), IMPRESSIONS);
    assert_int_equal(status_number(manifest, "delayed_metrics.all.start.examples"), IMPRESSIONS);
    json_decref(manifest);
    checkpoint_close(checkpoint);
    json_decref(result);
    json_decref(status);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void test_order_is_of_the_stream_alone(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    produce_events(world->broker, 0, IMPRESSIONS);
    char *validation[2];
    uint64_t digest = uninterrupted(world->broker, NULL, &validation[0]);
    assert_int_equal(digest, uninterrupted(world->broker, "fetch.message.max.bytes: 4000, queued.min.messages: 7",
                                           &validation[1]));
    assert_string_equal(validation[0], validation[1]);
    assert_int_equal(digest, uninterrupted(world->broker,
                                           "fetch.message.max.bytes: 50000, fetch.wait.max.ms: 5, fetch.min.bytes: 1",
                                           NULL));
    free(validation[0]);
    free(validation[1]);
}

static void test_stop_and_resume_equals_uninterrupted(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    /* With sources that never count as idle the first part leaves examples pending, a batch open and heads in the
     * merge. */
    produce_events(world->broker, 0, IMPRESSIONS / 2);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .idle_after = "1h", .extra = all_delayed });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS / 3));
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);

    /* Killed without a chance to save: what came after the snapshot is read again. */
    daemon_start(&world->run);
    produce_events(world->broker, IMPRESSIONS / 2, IMPRESSIONS * 2 / 3);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS * 6 / 10));
    json_t *result = daemon_ask(&world->run, "snapshot", NULL);
    assert_non_null(result);
    json_decref(result);
    produce_events(world->broker, IMPRESSIONS * 2 / 3, IMPRESSIONS);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS * 8 / 10));
    assert_int_equal(daemon_stop(&world->run, SIGKILL), -SIGKILL);

    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .extra = all_delayed });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    char *resumed = validation_of(&world->run), *expected;
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    assert_int_equal(daemon_digest(&world->run), uninterrupted(world->broker, NULL, &expected));
    assert_string_equal(resumed, expected);
    free(resumed);
    free(expected);
}

static bool joined(const json_t *status, int64_t impressions)
{
    return status_number(status, "join.impressions") >= impressions;
}

static void lead_all(struct mock_broker *broker, int leader)
{
    for (int p = 0; p < IMPRESSION_PARTITIONS; p++)
        mock_broker_lead(broker, "impressions", p, 1 + (leader + p) % BROKERS);
    for (int p = 0; p < CLICK_PARTITIONS; p++) mock_broker_lead(broker, "clicks", p, 1 + (leader + p) % BROKERS);
}

/* Each partition's leader moves from broker to broker, each time when all it had has been read, and more comes. Nothing
 * is lost, nothing comes twice, and the order is the stream's. */
static void test_leaders_move(void **state)
{
    enum { MOVES = 7, CHUNK = IMPRESSIONS / (MOVES + 1), BEHIND = 100 };       /* for all partitions the merge waits */
    struct world *world = *state;
    make_topics(world->broker);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .idle_after = "1h", .extra = all_delayed });
    daemon_start(&world->run);
    for (int i = 0; i <= MOVES; i++) {
        lead_all(world->broker, i);
        produce_events(world->broker, i * CHUNK, i < MOVES ? (i + 1) * CHUNK : IMPRESSIONS);
        assert_true(daemon_until(&world->run, joined, (i + 1) * CHUNK - BEHIND));
    }
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    lead_all(world->broker, 1);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .extra = all_delayed });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_int_equal(status_number(status, "examples.all"), IMPRESSIONS);
    assert_int_equal(status_number(status, "join.impressions"), IMPRESSIONS);
    assert_int_equal(status_number(status, "join.matched"), status_number(status, "join.clicks"));
    assert_int_equal(status_number(status, "join.duplicate"), 0);
    json_decref(status);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    assert_int_equal(daemon_digest(&world->run), uninterrupted(world->broker, NULL, NULL));
}

static void test_garbage_goes_to_dead_letters(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    produce_events(world->broker, 0, 100);
    mock_broker_produce(world->broker, "impressions", 1, "no JSON at all", 14);
    mock_broker_produce(world->broker, "impressions", 1, NULL, -1);
    mock_broker_produce(world->broker, "clicks", 0, "{\"event\":\"click\",\"ts\":5}", 24);
    /* From the year 2100: were it believed, everything that waits for its click would be too old. */
    static const char future[] = "{\"event\":\"click\",\"impression_id\":\"r1\",\"ts\":4102444800000}";
    mock_broker_produce(world->broker, "clicks", 0, future, (int)sizeof future - 1);
    produce_events(world->broker, 100, IMPRESSIONS);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ 0 });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    json_t *result = daemon_ask(&world->run, "snapshot", NULL);      /* letters are flushed before it */
    assert_non_null(result);
    json_decref(result);
    char text[256];
    char *value = mock_broker_read(world->broker, "impressions.dlq", 0, "coldstream.reason", text);
    assert_string_equal(value, "no JSON at all");
    assert_string_equal(text, "not_json");
    free(value);
    free(mock_broker_read(world->broker, "impressions.dlq", 0, "__connect.errors.partition", text));
    assert_string_equal(text, "1");
    value = mock_broker_read(world->broker, "clicks.dlq", 0, "coldstream.reason", text);
    assert_string_equal(value, "{\"event\":\"click\",\"ts\":5}");
    assert_string_equal(text, "missing");
    free(value);
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_int_equal(status_number(status, "events.empty"), 1);
    assert_int_equal(status_number(status, "events.not_json"), 1);
    assert_int_equal(status_number(status, "events.missing"), 1);
    assert_int_equal(status_number(status, "events.time_out_of_bounds"), 1);
    assert_int_equal(status_number(status, "join.late"), 0);
    json_decref(status);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void test_waits_for_topics_and_brokers(void **state)
{
    struct world *world = *state;
    mock_broker_topic(world->broker, "impressions", IMPRESSION_PARTITIONS);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ 0 });
    mock_broker_down(world->broker, true);
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, waits, 0));
    mock_broker_down(world->broker, false);
    mock_broker_topic(world->broker, "clicks", CLICK_PARTITIONS);
    assert_true(daemon_until(&world->run, runs, 0));
    mock_broker_down(world->broker, true);
    mock_broker_down(world->broker, false);
    produce_events(world->broker, 0, IMPRESSIONS);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    assert_int_equal(daemon_stop(&world->run, SIGINT), 0);
}

static bool is_idle(const json_t *status, int64_t argument)
{
    (void)argument;
    return json_is_true(json_object_get(status, "idle"));
}
static bool lags(const json_t *status, int64_t records) { return status_number(status, "lag") == records; }

static void test_lag_is_told_while_paused(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ 0 });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, is_idle, 0));
    json_decref(daemon_ask(&world->run, "pause", NULL));
    static const char click[] = "{\"event\":\"click\",\"impression_id\":\"nobody's\",\"ts\":1700000000000}";
    for (int i = 0; i < 4; i++)
        mock_broker_produce(world->broker, "clicks", i % CLICK_PARTITIONS, click, (int)sizeof click - 1);
    mock_broker_flush(world->broker);
    assert_true(daemon_until(&world->run, lags, 4));
    json_decref(daemon_ask(&world->run, "resume", NULL));
    assert_true(daemon_until(&world->run, lags, 0));
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static void test_refuses_offsets_out_of_range(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    produce_events(world->broker, 0, IMPRESSIONS);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ 0 });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    uint64_t digest = daemon_digest(&world->run);

    struct mock_broker *other = mock_broker_create();       /* the same topics, made anew, shorter */
    make_topics(other);
    produce_events(other, 0, 100);
    daemon_configure(&world->run, other, &(struct daemon_settings){ 0 });
    daemon_start(&world->run);
    assert_int_equal(daemon_wait(&world->run), 65);
    assert_int_equal(daemon_digest(&world->run), digest);
    mock_broker_destroy(other);
}

static void test_refuses_another_model_and_a_second_owner(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    produce_events(world->broker, 0, IMPRESSIONS);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ 0 });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    struct daemon_run second = world->run;
    daemon_start(&second);
    assert_int_equal(daemon_wait(&second), 76);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .extra_model = ", kind: none" });
    daemon_start(&world->run);
    assert_int_equal(daemon_wait(&world->run), 78);         /* a key twice: the configuration itself is wrong */
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .extra_model = ", losses: single" });
    daemon_start(&world->run);
    assert_int_equal(daemon_wait(&world->run), 65);
}

static bool paused(const json_t *status, int64_t argument) { (void)argument; return is_state(status, "paused"); }

static void test_verbs(void **state)
{
    struct world *world = *state;
    make_topics(world->broker);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ 0 });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, runs, 0));
    json_decref(daemon_ask(&world->run, "pause", NULL));
    assert_true(daemon_until(&world->run, paused, 0));
    produce_events(world->broker, 0, IMPRESSIONS);
    json_t *first = daemon_ask(&world->run, "publish", NULL);       /* of nothing learned: asked for all the same */
    assert_true(version_of(first) > 0);
    json_t *status = daemon_ask(&world->run, "status", NULL);
    assert_int_equal(status_number(status, "join.impressions"), 0);
    json_decref(status);
    char hold[300];
    snprintf(hold, sizeof hold, "%s/held.json", world->run.checkpoints);
    assert_int_equal(mkdir(hold, 0700), 0);
    assert_null(daemon_ask(&world->run, "resume", NULL));           /* publishing can't go on, so nothing does */
    for (int i = 0; i < 2; i++) json_decref(daemon_ask(&world->run, "snapshot", NULL));
    assert_true(daemon_until(&world->run, paused, 0));
    assert_int_equal(rmdir(hold), 0);
    json_decref(daemon_ask(&world->run, "resume", NULL));
    assert_true(daemon_until(&world->run, learned, IMPRESSIONS));
    json_t *second = daemon_ask(&world->run, "publish", NULL);
    assert_true(version_of(second) > version_of(first));
    json_t *back = daemon_ask(&world->run, "rollback", NULL);
    assert_int_equal(version_of(back), version_of(first));
    assert_int_equal(checkpoint_current(world->run.checkpoints), version_of(first));
    json_decref(first);
    json_decref(second);
    json_decref(back);

    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .window = "5s" });
    json_t *reloaded = daemon_ask(&world->run, "reload", NULL);
    assert_int_equal(status_number(reloaded, "changed"), 1);
    json_decref(reloaded);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .idle_after = "7s", .window = "5s" });
    assert_null(daemon_ask(&world->run, "reload", NULL));           /* needs a restart */
    assert_null(daemon_ask(&world->run, "log-level", "loud"));
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

static bool skips(const json_t *status, int64_t argument)
{
    return status_number(status, "nonfinite_skipped") >= argument;
}

static bool all_joined(const json_t *status, int64_t argument)
{
    return status_number(status, "join.impressions") == argument && status_number(status, "join.pending") == 0 &&
           status_number(status, "join.open_batch") == 0;
}

/* The lines of a kept batch: how many; each an impression that was produced, none twice. */
static size_t kept_examples(const char *path, bool seen[IMPRESSIONS])
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0, count = 0;
    assert_non_null(file);
    for (; getline(&line, &room, file) > 0; count++) {
        json_t *example = json_loads(line, 0, NULL);
        int number = -1;
        assert_non_null(example);
        assert_int_equal(sscanf(json_string_value(json_object_get(example, "impression_id")), "r%d", &number), 1);
        assert_in_range(number, 0, IMPRESSIONS - 1);
        assert_false(seen[number]);
        seen[number] = true;
        assert_int_equal(json_integer_value(json_object_get(example, "time")), BEGIN + number * 20);
        bool is_new = json_array_size(json_object_get(example, "behaviors")) == 0;
        assert_int_equal(json_is_true(json_object_get(example, "new")), is_new);
        assert_int_equal(json_array_size(json_object_get(json_object_get(example, "features"), "city")), 1);
        json_decref(example);
    }
    free(line);
    fclose(file);
    return count;
}

/* Of all bytes that the snapshot exports: rows, dense parameters, moments, steps. */
static uint64_t exported(const struct daemon_run *run)
{
    char command[512], path[128];
    uint8_t bytes[4096];
    XXH3_state_t *hash = XXH3_createState();
    const char *build = getenv("BUILD");
    snprintf(path, sizeof path, "%s/exported", run->directory);
    snprintf(command, sizeof command, "%s/coldstreamctl export -q --from %s --format safetensors %s",
             build ? build : "build", run->snapshot, path);
    assert_int_equal(system(command), 0);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    XXH3_64bits_reset(hash);
    for (size_t size; (size = fread(bytes, 1, sizeof bytes, file));) XXH3_64bits_update(hash, bytes, size);
    fclose(file);
    uint64_t digest = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return digest;
}

/* A zero-shot tower that is pushed off by its own steps: from some batch on nothing is finite. The daemon goes on,
 * changes nothing more, and the batches can be looked into. */
static void test_keeps_aside_what_is_not_finite(void **state)
{
    enum { KEPT = 16 };
    struct world *world = *state;
    static bool seen[IMPRESSIONS];
    char pattern[192], *last = NULL;
    glob_t found;
    make_topics(world->broker);
    produce_events(world->broker, 0, IMPRESSIONS / 2);
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){
        .extra = "optimizer: {zero_shot: {kind: sgd, learning_rate: 10}}\n" });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, skips, 1));
    json_t *first = daemon_ask(&world->run, "snapshot", NULL);
    assert_non_null(first);
    json_decref(first);
    uint64_t learned_then = exported(&world->run);
    produce_events(world->broker, IMPRESSIONS / 2, IMPRESSIONS);
    assert_true(daemon_until(&world->run, all_joined, IMPRESSIONS));
    assert_true(daemon_until(&world->run, skips, KEPT + 1));
    json_t *status = daemon_ask(&world->run, "status", NULL);
    long steps = (long)status_number(status, "steps");
    assert_true(steps > 0);         /* those before it counted */
    json_decref(status);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    assert_int_equal(exported(&world->run), learned_then);

    snprintf(pattern, sizeof pattern, "%s/aside/*", world->run.snapshot);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, KEPT);     /* the first of the row, and nothing else */
    snprintf(pattern, sizeof pattern, "%s/aside/%020ld-", world->run.snapshot, steps);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        assert_int_equal(strncmp(found.gl_pathv[i], pattern, strlen(pattern)), 0);
        assert_in_range(kept_examples(found.gl_pathv[i], seen), 1, 64);
        last = found.gl_pathv[i];
    }
    assert_true(daemon_logged(&world->run, last));
    globfree(&found);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_learns_all_and_publishes, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_order_is_of_the_stream_alone, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_stop_and_resume_equals_uninterrupted, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_leaders_move, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_garbage_goes_to_dead_letters, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_waits_for_topics_and_brokers, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_lag_is_told_while_paused, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_offsets_out_of_range, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_another_model_and_a_second_owner, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_verbs, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_keeps_aside_what_is_not_finite, setup, flow_teardown),
    };
    return cmocka_run_group_tests_name("daemon", tests, NULL, NULL);
}
