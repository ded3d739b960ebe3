/* Deltas of the real daemon on a mock broker: a plain reader that begins with a full checkpoint and follows the topic
 * has byte for byte what the next full checkpoint has, whatever the broker did in between; another run is another
 * epoch. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/parameter.h"
#include "storage/checkpoint.h"
#include "tests/flow/mock_broker.h"
#include "tests/unit/delta_reader.h"

enum { LESSON = 1500, DIMENSION = 8 };
static const int64_t BEGIN = 1700000000000;

struct world { struct mock_broker *broker; struct daemon_run run; int produced; int64_t offset; };

/* Joined already. Items move on with time, so that old ones expire. */
static void produce(struct world *world, int count)
{
    char text[512];
    for (int i = world->produced; i < world->produced + count; i++) {
        unsigned dice = (unsigned)i * 2654435761u >> 8, user = dice % 97;
        int item = (int)(dice / 97 % 20) + i / 100;
        int length = snprintf(
            text, sizeof text,
            "{\"event\":\"example\",\"impression_id\":\"r%d\",\"ts\":%lld,\"user_id\":\"u%u\",\"user\":{\"age\":%u,"
            "\"city\":\"c%u\"},\"behaviors\":[%s],\"context\":{\"hour\":3},\"item_id\":\"i%d\",\"item\":{"
            "\"category\":\"k%d\"},\"clicked\":%s}",
            i, (long long)BEGIN + i * 20, user, 18 + user % 50, user % 7, user % 4 ? "\"i1\",\"i7\"" : "", item,
            item % 5, item % 3 == 0 ? "true" : "false");
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
    static const char *const topic[] = { "examples", "examples.dlq", "deltas" };
    for (size_t i = 0; i < 3; i++) mock_broker_topic(world->broker, topic[i], 1);
    struct daemon_settings settings = { .topics = "impressions: ~, clicks: ~, conversions: ~, examples: examples",
                                        .extra_embedding = ", tables: {item: {expire_after: 10s}}",
                                        .extra_checkpoint = ", delta_topic: deltas, delta_interval: 20ms" };
    daemon_configure(&world->run, world->broker, &settings);
    *state = world;
    return 0;
}

static bool failed(const json_t *status, int64_t times)
{
    return status_number(status, "deltas.failures") >= times;
}

/* ---- full checkpoints, read as the reader's state is */

static bool add_row(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err)
{
    (void)err;
    struct { struct delta_reader *reader; const char *table; } *add = self;
    plain_add(&add->reader->rows, add->table, key, row, dimension);
    return true;
}

struct open { struct checkpoint *checkpoint; struct delta_reader *reader; };

static bool add_table(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    (void)rows;
    struct open *open = self;
    struct { struct delta_reader *reader; const char *table; } add = { open->reader, table };
    return checkpoint_each_row(open->checkpoint, table, add_row, &add, err);
}

static bool add_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    struct delta_reader *reader = self;
    struct plain_tensor *own = &reader->tensor[reader->tensors++];
    *own = (struct plain_tensor){ .bytes = malloc(tensor_bytes(tensor) + 1), .size = tensor_bytes(tensor) };
    snprintf(own->name, sizeof own->name, "%s", tensor->name);
    memcpy(own->bytes, tensor->data, own->size);
    return true;
}

/* The newest full checkpoint, and where the manifest says that it stands in the chain. */
static struct delta_reader full(struct world *world)
{
    struct cs_error err;
    struct delta_reader reader = { 0 };
    struct checkpoint *checkpoint = checkpoint_open(world->run.checkpoints, true, &err);
    if (!checkpoint) fail_msg("%s", err.message);
    struct open open = { checkpoint, &reader };
    assert_true(checkpoint_tables(checkpoint, add_table, &open, &err));
    assert_true(checkpoint_tensors(checkpoint, add_tensor, &reader, &err));
    json_t *manifest = json_loads(checkpoint_manifest(checkpoint), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json_object_get(manifest, "delta"), "topic")), "deltas");
    reader.epoch = (uint64_t)status_number(manifest, "delta.epoch");
    reader.sequence = (uint64_t)status_number(manifest, "delta.sequence");
    json_decref(manifest);
    checkpoint_close(checkpoint);
    plain_sort(&reader.rows);
    return reader;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct plain_tensor *)a)->name, ((const struct plain_tensor *)b)->name);
}

static void assert_same(struct delta_reader *has, struct delta_reader *should)
{
    assert_int_equal(has->sequence, should->sequence);
    assert_int_equal(has->rows.count, should->rows.count);
    for (size_t i = 0; i < should->rows.count; i++) {
        assert_int_equal(plain_compare(&has->rows.row[i], &should->rows.row[i]), 0);
        assert_memory_equal(has->rows.row[i].value, should->rows.row[i].value, DIMENSION * sizeof(float));
    }
    assert_int_equal(has->tensors, should->tensors);
    qsort(has->tensor, has->tensors, sizeof has->tensor[0], by_name);
    qsort(should->tensor, should->tensors, sizeof should->tensor[0], by_name);
    for (size_t i = 0; i < should->tensors; i++) {
        assert_string_equal(has->tensor[i].name, should->tensor[i].name);
        assert_int_equal(has->tensor[i].size, should->tensor[i].size);
        assert_memory_equal(has->tensor[i].bytes, should->tensor[i].bytes, should->tensor[i].size);
    }
}

static void take(void *self, const void *bytes, size_t size)
{
    delta_reader_take(self, bytes, size);
}

static void follow(struct world *world, struct delta_reader *reader)
{
    world->offset = mock_broker_each(world->broker, "deltas", world->offset, take, reader);
}

/* All is learned and sent; then a full checkpoint of just that state. */
static struct delta_reader settle(struct world *world)
{
    assert_true(daemon_until(&world->run, all_sent, world->produced));
    json_t *answer = daemon_ask(&world->run, "publish", NULL);
    assert_non_null(answer);
    json_decref(answer);
    return full(world);
}

/* ---- */

/* Learned only when what is to happen to the deltas of it is arranged. */
static void produce_for(struct world *world, void (*arrange)(struct mock_broker *broker, int requests), int requests)
{
    json_t *answer = daemon_ask(&world->run, "pause", NULL);
    assert_non_null(answer);
    json_decref(answer);
    produce(world, LESSON / 3);
    arrange(world->broker, requests);
    answer = daemon_ask(&world->run, "resume", NULL);
    assert_non_null(answer);
    json_decref(answer);
}

static void a_follower_has_what_the_next_full_checkpoint_has(void **state)
{
    struct world *world = *state;
    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, published, 1));       /* by itself, soon after the first steps */
    struct delta_reader reader = full(world);
    for (int round = 0; round < 3; round++) {
        produce(world, LESSON);
        struct delta_reader next = settle(world);
        uint64_t before = reader.applied;
        follow(world, &reader);
        assert_true(reader.applied > before);
        assert_same(&reader, &next);
        delta_reader_release(&next);
    }
    assert_true(reader.gone_applied > 0);       /* items that expired */
    assert_int_equal(reader.cut_short, 0);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    delta_reader_release(&reader);
}

static void brokers_that_go_away_or_refuse_lose_nothing(void **state)
{
    struct world *world = *state;
    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, published, 1));
    struct delta_reader reader = full(world);
    for (int round = 0; round < 3; round++) {
        produce_for(world, mock_broker_cut_off, 2);
        assert_true(daemon_until(&world->run, all_sent, world->produced));
    }
    produce_for(world, mock_broker_refuse, 2);
    assert_true(daemon_until(&world->run, failed, 1));
    struct delta_reader next = settle(world);
    follow(world, &reader);
    assert_same(&reader, &next);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    delta_reader_release(&next);
    delta_reader_release(&reader);
}

static void another_run_is_another_epoch(void **state)
{
    struct world *world = *state;
    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, published, 1));
    struct delta_reader reader = settle(world);
    world->offset = mock_broker_each(world->broker, "deltas", 0, take, &reader);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, all_sent, world->produced));
    assert_int_equal(daemon_stop(&world->run, SIGKILL), -SIGKILL);
    follow(world, &reader);
    daemon_start(&world->run);
    produce(world, LESSON);
    assert_true(daemon_until(&world->run, published, 1));       /* its own, without being asked */
    struct delta_reader again = full(world);
    assert_true(again.epoch > reader.epoch);
    uint64_t applied = reader.applied;
    int64_t begin = world->offset;
    struct delta_reader next = settle(world);
    follow(world, &reader);
    assert_int_equal(reader.applied, applied);                  /* nothing of the new run fits the old one's state */
    assert_true(reader.ignored > 0);
    world->offset = begin;
    follow(world, &again);
    assert_same(&again, &next);
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
    delta_reader_release(&again);
    delta_reader_release(&next);
    delta_reader_release(&reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_follower_has_what_the_next_full_checkpoint_has, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(brokers_that_go_away_or_refuse_lose_nothing, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(another_run_is_another_epoch, setup, flow_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
