/* Deltas as their readers get them: a plain reader that applies each has, after each, exactly the rows and tensors that
 * the learner had at its cut, whatever failed to be sent in between, while the learner went on all the time. */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/embedding_internal.h"
#include "daemon/delta.h"
#include "tests/gradient/small_model.h"
#include "tests/unit/delta_reader.h"

enum { EPOCH = 1000, STEPS = 120, CUTS = 4 * STEPS };

/* Keeps what it is given; from the `fail_at`-th call on refuses `failures` times. */
struct memory_sink {
    struct { unsigned char *bytes; size_t size; } *record;
    size_t count, room;
    atomic_long fail_at, failures;      /* calls from now */
    unsigned long resets;
};

static bool refuses(struct memory_sink *sink, struct cs_error *err)
{
    if (atomic_load(&sink->failures) <= 0 || atomic_fetch_sub(&sink->fail_at, 1) > 0) return false;
    atomic_fetch_sub(&sink->failures, 1);
    cs_fail(err, CS_FAILED, "refused by the test");
    return true;
}

static bool sink_send(void *self, const void *key, size_t key_size, const void *bytes, size_t size,
                      struct cs_error *err)
{
    struct memory_sink *sink = self;
    struct delta_record parsed;
    char version[32];
    if (refuses(sink, err)) return false;
    if (sink->count == sink->room)
        sink->record = realloc(sink->record, (sink->room = 2 * sink->room + 64) * sizeof *sink->record);
    sink->record[sink->count].bytes = malloc(size);
    memcpy(sink->record[sink->count].bytes, bytes, size);
    sink->record[sink->count++].size = size;
    assert_true(delta_parse(bytes, size, &parsed, err));
    snprintf(version, sizeof version, "%020llu", (unsigned long long)parsed.place.version);
    assert_int_equal(key_size, 20);
    assert_memory_equal(key, version, 20);
    return true;
}

static bool sink_flush(void *self, struct cs_error *err) { return !refuses(self, err); }
static void sink_reset(void *self) { ((struct memory_sink *)self)->resets++; }
static void sink_stop(void *self, int64_t milliseconds) { (void)self, (void)milliseconds; }

/* The learner's own rows and scoring tensors. */
struct image { struct plain_rows rows; struct plain_tensor tensor[64]; size_t tensors; };

struct world {
    struct features *features;
    struct learner_options options;
    struct learner *learner;
    struct arena *arena;
    struct telemetry *telemetry;
    struct memory_sink sink;
    struct deltas *deltas;
    struct image image[CUTS];           /* by sequence */
    uint64_t cuts;
};

struct add { struct image *image; const char *table; };

static bool add_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    (void)err;
    struct add *add = self;
    plain_add(&add->image->rows, add->table, row->key, row->row, SMALL_D);
    return true;
}

static bool add_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    struct image *image = self;
    if (tensor->role != TENSOR_SCORING) return true;
    snprintf(image->tensor[image->tensors].name, TENSOR_NAME_MAX, "%s", tensor->name);
    image->tensor[image->tensors].size = tensor_bytes(tensor);
    image->tensor[image->tensors].bytes = malloc(tensor_bytes(tensor));
    memcpy(image->tensor[image->tensors++].bytes, tensor->data, tensor_bytes(tensor));
    return true;
}

static struct image image_of(struct world *world)
{
    struct image image = { 0 };
    assert_true(model_tensors(learner_model(world->learner), add_tensor, &image, NULL));
    for (size_t t = 0; t < world->features->table_count; t++) {
        struct add add = { &image, world->features->table[t] };
        assert_true(embedding_each(learner_table(world->learner, t), add_row, &add, NULL));
    }
    plain_sort(&image.rows);
    return image;
}

static void image_release(struct image *image)
{
    plain_clear(&image->rows);
    for (size_t i = 0; i < image->tensors; i++) free(image->tensor[i].bytes);
}

static void assert_same(const struct delta_reader *reader, const struct image *image)
{
    assert_int_equal(reader->rows.count, image->rows.count);
    for (size_t i = 0; i < image->rows.count; i++) {
        const struct plain_row *has = &reader->rows.row[i], *should = &image->rows.row[i];
        assert_int_equal(plain_compare(has, should), 0);
        assert_memory_equal(has->value, should->value, SMALL_D * sizeof(float));
    }
    assert_int_equal(reader->tensors, image->tensors);
    for (size_t i = 0; i < image->tensors; i++) {
        assert_string_equal(reader->tensor[i].name, image->tensor[i].name);
        assert_int_equal(reader->tensor[i].size, image->tensor[i].size);
        assert_memory_equal(reader->tensor[i].bytes, image->tensor[i].bytes, image->tensor[i].size);
    }
}

static int setup(void **state)
{
    static const struct table_options tables[] = {
        { .name = "item", .admit_after = 1, .expire_after = 30 },
        { .name = "tags", .admit_after = 2, .max_rows = 6 },
    };
    struct world *world = calloc(1, sizeof *world);
    world->features = small_features();
    world->arena = arena_create(1 << 14);
    world->telemetry = telemetry_create();
    world->options = (struct learner_options){ .dimension = SMALL_D, .init_std = 0.1, .seed = 7, .table = tables,
                                               .table_count = 2,
                                               .model = small_options(RANKING_BASE_DNN, ZERO_SHOT_MAIL) };
    world->learner = learner_create(world->features, &world->options, &parallel_serial, NULL);
    assert_non_null(world->learner);
    *state = world;
    return 0;
}

static void start(struct world *world)
{
    struct delta_sink sink = { &world->sink, sink_send, sink_flush, sink_reset, sink_stop };
    struct deltas_options options = { .topic = "deltas", .fingerprint = "f", .epoch = EPOCH, .version = 5, .retry = 1 };
    struct cs_error err;
    assert_true(learner_watch(world->learner, &err));
    world->deltas = deltas_create(&options, &sink, world->telemetry, &err);
    assert_non_null(world->deltas);
}

static int teardown(void **state)
{
    struct world *world = *state;
    deltas_stop(world->deltas, 0);
    deltas_destroy(world->deltas);
    learner_destroy(world->learner);
    features_destroy(world->features);
    arena_destroy(world->arena);
    telemetry_destroy(world->telemetry);
    for (size_t i = 0; i < world->sink.count; i++) free(world->sink.record[i].bytes);
    free(world->sink.record);
    for (size_t i = 0; i < CUTS; i++) image_release(&world->image[i]);
    free(world);
    return 0;
}

/* Keys move on with the steps, so that rows come, go by age and by number, and some come again. */
static void step(struct world *world, uint64_t seed)
{
    struct batch *batch = small_batch(world->features, seed, world->arena);
    uint64_t moved = seed % 10 == 9 ? 0 : seed / 4;
    for (size_t t = 0; t < world->features->table_count; t++)
        for (size_t i = 0; i < batch->table[t].count; i++) batch->table[t].key[i] += moved;
    batch->last_time = (int64_t)(seed % 1000) * 10;
    for (size_t i = 0; i < batch->size; i++) batch->released[i] = batch->last_time;
    learner_score(world->learner, batch);
    assert_false(learner_learn(world->learner, batch).skipped);
    deltas_learned(world->deltas, batch);
}

static bool cut_if_due(struct world *world)
{
    if (deltas_wait(world->deltas, 1) > 0) return false;
    deltas_cut(world->deltas, world->learner);
    uint64_t sequence = deltas_position(world->deltas).sequence;
    assert_true(sequence < CUTS);
    image_release(&world->image[sequence]);     /* of the chain before, where a new one began */
    world->image[sequence] = image_of(world);
    world->cuts++;
    return true;
}

/* All that was learned is acknowledged. */
static void catch_up(struct world *world)
{
    for (;;) {
        cut_if_due(world);
        struct deltas_view view = deltas_view(world->deltas);
        if (view.newest.version == deltas_position(world->deltas).version && !view.failures_in_row &&
            deltas_wait(world->deltas, 1 << 20) == 1 << 20)
            break;
        sched_yield();
    }
}

static struct delta_reader read_all(struct world *world)
{
    struct delta_reader reader = { .epoch = EPOCH };
    for (size_t i = 0; i < world->sink.count; i++)
        if (delta_reader_take(&reader, world->sink.record[i].bytes, world->sink.record[i].size))
            assert_same(&reader, &world->image[reader.sequence]);
    return reader;
}

static void a_reader_has_what_the_learner_had(void **state)
{
    struct world *world = *state;
    start(world);
    for (uint64_t seed = 1; seed <= STEPS; seed++) {
        step(world, seed);
        cut_if_due(world);
    }
    catch_up(world);
    struct image now = image_of(world);
    struct delta_reader reader = read_all(world);
    assert_same(&reader, &now);
    assert_int_equal(reader.applied, world->cuts);
    assert_int_equal(reader.ignored + reader.cut_short, 0);
    assert_true(reader.applied > 1 && reader.gone_applied > 0 && reader.rows_applied > reader.rows.count);
    assert_true(embedding_evicted(learner_table(world->learner, 3)) > 0);
    image_release(&now);
    delta_reader_release(&reader);
}

/* Each call of a delta is refused once, its flushes too; sometimes the next one's as well. */
static void what_was_refused_comes_with_the_next(void **state)
{
    struct world *world = *state;
    start(world);
    for (uint64_t seed = 1; seed <= STEPS; seed++) {
        atomic_store(&world->sink.fail_at, (long)(seed % 40));
        atomic_store(&world->sink.failures, seed % 4 ? seed % 2 : 2);
        step(world, seed);
        while (!cut_if_due(world)) sched_yield();
        if (seed % 3) step(world, 1000 + seed);             /* while it is being sent */
        for (struct deltas_view view = { 0 }; view.sent + view.failures < world->cuts; sched_yield())
            view = deltas_view(world->deltas);
    }
    atomic_store(&world->sink.failures, 0);
    catch_up(world);
    struct deltas_view view = deltas_view(world->deltas);
    struct image now = image_of(world);
    struct delta_reader reader = read_all(world);
    assert_same(&reader, &now);
    assert_int_equal(reader.applied, view.sent);
    assert_in_range(view.failures, STEPS / 3, STEPS);
    assert_true(view.sent > STEPS / 4 && reader.gone_applied > 0 && reader.cut_short > 0);
    assert_int_equal(view.failures + view.sent, world->cuts);
    assert_int_equal(view.failures, world->sink.resets);
    assert_true(telemetry_get(world->telemetry, METRIC_DELTAS, TELEMETRY_LABELS("failed")) == (double)view.failures);
    image_release(&now);
    delta_reader_release(&reader);
}

/* COMMIT arrived, but nobody was told so: the next delta has the same base, and a reader of both is right. */
static void an_acknowledgement_that_was_lost_does_no_harm(void **state)
{
    struct world *world = *state;
    start(world);
    step(world, 1);
    catch_up(world);
    step(world, 2);
    atomic_store(&world->sink.fail_at, 1 << 20);
    atomic_store(&world->sink.failures, 1);
    while (!cut_if_due(world)) sched_yield();
    while (deltas_view(world->deltas).sent < 2) sched_yield();
    long calls = (1 << 20) - atomic_load(&world->sink.fail_at);
    step(world, 2);                                         /* the same batch: as many calls */
    atomic_store(&world->sink.fail_at, calls - 1);          /* the last flush */
    while (!cut_if_due(world)) sched_yield();
    while (!deltas_view(world->deltas).failures) sched_yield();
    struct delta_reader both = read_all(world);
    assert_int_equal(both.sequence, 3);                     /* it did arrive */
    size_t before = world->sink.count;
    step(world, 3);
    catch_up(world);
    struct delta_record begin;
    assert_true(delta_parse(world->sink.record[before].bytes, world->sink.record[before].size, &begin, NULL));
    assert_int_equal(begin.type, DELTA_BEGIN);
    assert_int_equal(begin.begin.base, 2);
    delta_reader_release(&both);
    both = read_all(world);
    struct image now = image_of(world);
    assert_same(&both, &now);
    image_release(&now);
    delta_reader_release(&both);
}

/* A state saved after delta n and before n + 1 is completed by n + 1, wherever between them it was. */
static void a_full_state_between_two_is_completed_by_the_next(void **state)
{
    struct world *world = *state;
    start(world);
    for (uint64_t seed = 1; seed <= 20; seed++) step(world, seed);
    catch_up(world);
    for (uint64_t seed = 21; seed <= 30; seed++) step(world, seed);
    struct delta_place place = deltas_position(world->deltas);
    assert_int_equal(place.epoch, EPOCH);
    struct image full = image_of(world);
    for (uint64_t seed = 31; seed <= 40; seed++) step(world, seed);
    size_t before = world->sink.count;
    catch_up(world);
    struct delta_reader reader = { .epoch = EPOCH, .sequence = place.sequence, .rows = full.rows };
    full.rows = (struct plain_rows){ 0 };
    for (size_t i = before; i < world->sink.count; i++)
        delta_reader_take(&reader, world->sink.record[i].bytes, world->sink.record[i].size);
    struct image now = image_of(world);
    assert_same(&reader, &now);
    assert_int_equal(reader.applied, 1);
    image_release(&now);
    image_release(&full);
    delta_reader_release(&reader);
}

/* Full versions and deltas share one rising row of numbers, in the order of their states. */
static void a_full_version_s_number_stands_between_two_deltas(void **state)
{
    struct world *world = *state;
    uint64_t last = 0;
    start(world);
    for (uint64_t round = 1; round <= 4; round++) {
        step(world, round);
        catch_up(world);
        assert_true(deltas_view(world->deltas).newest.version > last);
        last = deltas_view(world->deltas).newest.version;
        for (int i = 0; i < 2; i++) {
            uint64_t number = deltas_number(world->deltas);
            assert_true(number > last);
            last = number;
        }
    }
    assert_int_equal(deltas_number(NULL), 0);
}

static void samples_are_event_times_of_what_was_learned(void **state)
{
    struct world *world = *state;
    start(world);
    for (uint64_t seed = 1; seed <= 60; seed++) step(world, seed);      /* 720 examples */
    catch_up(world);
    struct delta_record begin;
    assert_true(delta_parse(world->sink.record[0].bytes, world->sink.record[0].size, &begin, NULL));
    assert_in_range(begin.begin.samples, DELTA_SAMPLES_MAX / 2, DELTA_SAMPLES_MAX);
    assert_int_equal(begin.begin.watermark, 600);
    int64_t last = 0;
    for (size_t i = 0; i < begin.begin.samples; i++) {
        int64_t time;
        memcpy(&time, begin.begin.sample + i * sizeof time, sizeof time);
        assert_true(time >= last && time % 10 == 0 && time <= 600);
        last = time;
    }
    assert_true(last > 580);
    assert_true(telemetry_get(world->telemetry, METRIC_DELTAS, TELEMETRY_LABELS("ok")) == 1);
}

/* Memory is bounded: where too much went, a new chain begins, and a full checkpoint is wanted. */
static void too_much_that_went_begins_a_new_chain(void **state)
{
    struct world *world = *state;
    start(world);
    assert_true(deltas_wants_checkpoint(world->deltas));
    assert_false(deltas_wants_checkpoint(world->deltas));
    step(world, 1);
    catch_up(world);
    struct rows *rows = learner_table(world->learner, 0)->rows;
    for (uint64_t i = 0; i < EMBEDDING_GONE_MAX; i++) rows_note_gone(rows, 1000 + i % (EMBEDDING_GONE_MAX / 2));
    assert_false(learner_delta_lost(world->learner));
    for (uint64_t i = 0; !learner_delta_lost(world->learner) && i <= EMBEDDING_GONE_MAX; i++)
        rows_note_gone(rows, UINT64_C(1) << 40 | i);
    assert_true(learner_delta_lost(world->learner));
    assert_true(rows->gone.count <= EMBEDDING_GONE_MAX);
    step(world, 2);
    while (deltas_wait(world->deltas, 1) > 0) sched_yield();
    deltas_cut(world->deltas, world->learner);
    struct delta_place place = deltas_position(world->deltas);
    assert_true(place.epoch > EPOCH);
    assert_int_equal(place.sequence, 0);
    assert_true(deltas_wants_checkpoint(world->deltas));
    struct delta_reader reader = { .epoch = place.epoch };
    struct image full = image_of(world);
    reader.rows = full.rows;
    full.rows = (struct plain_rows){ 0 };
    size_t before = world->sink.count;
    step(world, 3);
    catch_up(world);
    for (size_t i = before; i < world->sink.count; i++)
        delta_reader_take(&reader, world->sink.record[i].bytes, world->sink.record[i].size);
    struct image now = image_of(world);
    assert_same(&reader, &now);
    image_release(&now);
    image_release(&full);
    delta_reader_release(&reader);
}

static void nothing_is_sent_when_nothing_was_learned(void **state)
{
    struct world *world = *state;
    start(world);
    assert_int_equal(deltas_wait(world->deltas, 77), 77);
    step(world, 1);
    assert_int_equal(deltas_wait(world->deltas, 77), 0);
    catch_up(world);
    assert_int_equal(deltas_wait(world->deltas, 77), 77);
    assert_int_equal(deltas_wait(NULL, 77), 77);
    assert_int_equal(deltas_position(NULL).epoch, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_reader_has_what_the_learner_had, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_refused_comes_with_the_next, setup, teardown),
        cmocka_unit_test_setup_teardown(an_acknowledgement_that_was_lost_does_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_state_between_two_is_completed_by_the_next, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_version_s_number_stands_between_two_deltas, setup, teardown),
        cmocka_unit_test_setup_teardown(samples_are_event_times_of_what_was_learned, setup, teardown),
        cmocka_unit_test_setup_teardown(too_much_that_went_begins_a_new_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_sent_when_nothing_was_learned, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
