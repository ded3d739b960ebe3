/* What daemon and tools rely on: scoring makes nothing, a skipped batch changes nothing, a restored learner goes on
 * exactly as the saved one would, and the number of threads does not matter. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gradient/small_model.h"
#include "tests/unit/memory_state.h"

/* Three parts, one after the other: any split must give the same bytes, whoever runs it. */
static void run_in_three(struct parallel *self, parallel_task *task, void *argument)
{
    for (size_t part = 0; part < self->width; part++) task(argument, part, self->width);
}

static struct parallel three_parts = { .width = 3, .run = run_in_three };

struct bench {
    struct features *features;
    struct learner_options options;
    struct learner *learner;
    struct arena *arena;
};

static struct bench bench_create(enum zero_shot_kind kind, struct parallel *parallel)
{
    struct cs_error err = { 0 };
    struct bench b = { .features = small_features(), .arena = arena_create(1 << 14) };
    b.options = (struct learner_options){
        .dimension = SMALL_D, .init_std = 0.1, .seed = 7, .model = small_options(RANKING_BASE_DNN, kind)
    };
    b.learner = learner_create(b.features, &b.options, parallel, &err);
    assert_non_null(b.learner);
    return b;
}

static void bench_destroy(struct bench *b)
{
    learner_destroy(b->learner);
    features_destroy(b->features);
    arena_destroy(b->arena);
}

static struct learner_losses step(struct bench *b, uint64_t seed, float score[SMALL_SIZE])
{
    struct batch *batch = small_batch(b->features, seed, b->arena);
    memcpy(score, learner_score(b->learner, batch), SMALL_SIZE * sizeof *score);
    return learner_learn(b->learner, batch);
}

/* All dense tensors' bytes, and the rows', end to end. */
struct image { uint8_t *bytes; size_t size; };

static void image_add(struct image *image, const void *bytes, size_t size)
{
    image->bytes = realloc(image->bytes, image->size + size);
    memcpy(image->bytes + image->size, bytes, size);
    image->size += size;
}

static bool add_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    image_add(self, tensor->data, tensor_bytes(tensor));
    return true;
}

static bool add_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    (void)err;
    image_add(self, row->row, SMALL_D * sizeof(float));
    image_add(self, row->m, SMALL_D * sizeof(float));
    image_add(self, &row->step, sizeof row->step);
    return true;
}

static struct image image_of(struct bench *b)
{
    struct image image = { 0 };
    assert_true(learner_tensors(b->learner, add_tensor, &image, NULL));
    for (size_t t = 0; t < b->features->table_count; t++)
        assert_true(embedding_each(learner_table(b->learner, t), add_row, &image, NULL));
    return image;
}

static void assert_same_learners(struct bench *a, struct bench *b)
{
    struct image one = image_of(a), other = image_of(b);
    assert_int_equal(one.size, other.size);
    assert_memory_equal(one.bytes, other.bytes, one.size);
    free(one.bytes);
    free(other.bytes);
}

static uint64_t rows_of(struct bench *b)
{
    uint64_t rows = 0;
    for (size_t t = 0; t < b->features->table_count; t++) rows += embedding_rows(learner_table(b->learner, t));
    return rows;
}

static void test_scoring_makes_nothing(void **state)
{
    (void)state;
    struct bench b = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    struct batch *batch = small_batch(b.features, 1, b.arena);
    struct image before = image_of(&b);
    const float *score = learner_score(b.learner, batch);
    for (size_t i = 0; i < SMALL_SIZE; i++) assert_true(score[i] > 0.0f && score[i] < 1.0f);
    struct image after = image_of(&b);
    assert_int_equal(rows_of(&b), 0);
    assert_int_equal(before.size, after.size);
    assert_memory_equal(before.bytes, after.bytes, before.size);
    free(before.bytes);
    free(after.bytes);
    bench_destroy(&b);
}

static void test_learning_lowers_the_losses(void **state)
{
    (void)state;
    struct bench b = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    float score[SMALL_SIZE];
    struct batch *batch = small_batch(b.features, 1, b.arena);
    batch->correction[7] = 0;       /* a correction's loss has no floor */
    learner_score(b.learner, batch);
    struct learner_losses first = learner_learn(b.learner, batch), last = first;
    for (size_t i = 0; i < 150; i++) {
        learner_score(b.learner, batch);
        last = learner_learn(b.learner, batch);
    }
    assert_int_equal(first.step, 0);
    assert_int_equal(last.step, 150);
    assert_int_equal(first.examples, SMALL_SIZE);
    assert_int_equal(first.old_examples, 8);
    assert_true(first.zero_shot_trained && first.mmd >= 0.0);
    assert_true(last.ranking < 0.5 * first.ranking);
    assert_int_equal(learner_steps(b.learner), 151);
    assert_int_equal(learner_zero_shot_steps(b.learner), 151);
    (void)score;
    bench_destroy(&b);
}

/* The rows that a batch brings take part in its own step: two learners, of which one had the rows before (by import),
 * take the same step. */
static bool put_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    struct embedding_row fresh = { .key = row->key, .row = row->row };
    return embedding_put(self, &fresh, err);
}

static void test_new_rows_take_part(void **state)
{
    (void)state;
    struct bench a = bench_create(ZERO_SHOT_MAIL, &parallel_serial), b = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    struct bench rows = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    float unused[SMALL_SIZE];
    struct batch *batch = small_batch(rows.features, 1, rows.arena);
    for (size_t t = 0; t < rows.features->table_count; t++) {        /* the rows as they start */
        uint32_t slot[64];
        embedding_admit(learner_table(rows.learner, t), batch->table[t].key, batch->table[t].sightings,
                        batch->table[t].count, 0, slot);
        assert_true(embedding_each(learner_table(rows.learner, t), put_row, learner_table(b.learner, t), NULL));
    }
    struct learner_losses one = step(&a, 1, unused), other = step(&b, 1, unused);
    assert_true(one.ranking == other.ranking || fabs(one.ranking - other.ranking) < 1e-6);
    assert_float_equal(one.reconstruct_user, other.reconstruct_user, 1e-6);
    struct image image1 = image_of(&a), image2 = image_of(&b);
    assert_int_equal(image1.size, image2.size);
    for (size_t i = 0; i + 8 < 4000; i += 4) {                      /* the first tensors: ranking weights, floats */
        float x, y;
        memcpy(&x, image1.bytes + i, 4);
        memcpy(&y, image2.bytes + i, 4);
        assert_float_equal(x, y, 2e-4);
    }
    free(image1.bytes);
    free(image2.bytes);
    bench_destroy(&a);
    bench_destroy(&b);
    bench_destroy(&rows);
}

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    struct bench a = bench_create(ZERO_SHOT_MAIL, &parallel_serial), b = bench_create(ZERO_SHOT_MAIL, &three_parts);
    float one[SMALL_SIZE], other[SMALL_SIZE];
    for (uint64_t i = 0; i < 4; i++) {
        step(&a, i, one);
        step(&b, i, other);
        assert_memory_equal(one, other, sizeof one);
    }
    assert_same_learners(&a, &b);
    bench_destroy(&a);
    bench_destroy(&b);
}

static void test_non_finite_batch_is_skipped_whole(void **state)
{
    (void)state;
    struct bench a = bench_create(ZERO_SHOT_MAIL, &parallel_serial), b = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    float score[SMALL_SIZE];
    for (uint64_t i = 0; i < 5; i++) {      /* all keys are known afterwards */
        step(&a, i, score);
        step(&b, i, score);
    }
    struct batch *batch = small_batch(a.features, 1, a.arena);
    batch->dense[0] = INFINITY;             /* clipped: harmless */
    struct parameter_set *set = model_parameters(learner_model(a.learner));
    learner_score(a.learner, batch);
    float old = set->value[PARAMETER_RANKING][0];
    set->value[PARAMETER_RANKING][0] = NAN;     /* whatever made it so: the loss is NaN */
    learner_changed(a.learner);
    batch->dense[0] = 0.5f;
    learner_score(a.learner, batch);
    struct learner_losses losses = learner_learn(a.learner, batch);
    set->value[PARAMETER_RANKING][0] = old;
    learner_changed(a.learner);
    assert_true(losses.skipped && !losses.zero_shot_trained);
    assert_int_equal(learner_nonfinite_skipped(a.learner), 1);
    assert_int_equal(learner_steps(a.learner), 5);
    assert_same_learners(&a, &b);
    bench_destroy(&a);
    bench_destroy(&b);
}

/* Not even of keys that it alone brings: they have no row, they were not sighted, they pushed nobody out, the rows that
 * it read were not seen later for it. Two learners, of which one met such a batch, go on as one. */
static void test_a_skipped_batch_leaves_no_trace(void **state)
{
    (void)state;
    struct table_options table[] = { { .name = "item", .admit_after = 2, .max_rows = 6 },
                                     { .name = "tags", .admit_after = 1, .max_rows = 4 } };
    struct bench b[2];
    float score[SMALL_SIZE];
    for (int i = 0; i < 2; i++) {
        b[i] = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
        b[i].options.table = table;
        b[i].options.table_count = 2;
        learner_destroy(b[i].learner);
        b[i].learner = learner_create(b[i].features, &b[i].options, &parallel_serial, NULL);
        for (uint64_t seed = 0; seed < 3; seed++) step(&b[i], seed, score);
    }
    struct batch *batch = small_batch(b[0].features, 9, b[0].arena);
    for (size_t t = 0; t < b[0].features->table_count; t++)
        for (size_t i = 0; i < batch->table[t].count; i += 2) batch->table[t].key[i] += 10;    /* never seen before */
    batch->last_time = 1000;
    struct parameter_set *set = model_parameters(learner_model(b[0].learner));
    float old = set->value[PARAMETER_RANKING][0];
    set->value[PARAMETER_RANKING][0] = NAN;
    learner_changed(b[0].learner);
    learner_score(b[0].learner, batch);
    struct learner_losses losses = learner_learn(b[0].learner, batch);
    set->value[PARAMETER_RANKING][0] = old;
    learner_changed(b[0].learner);
    assert_true(losses.skipped);
    assert_string_equal(losses.nonfinite, "ranking loss");
    assert_null(losses.table);
    for (uint64_t seed = 3; seed < 40; seed++) {
        for (int i = 0; i < 2; i++) {
            batch = small_batch(b[i].features, seed, b[i].arena);
            for (size_t t = 0; t < b[i].features->table_count; t++)
                for (size_t k = 0; k < batch->table[t].count; k++)
                    batch->table[t].key[k] += seed % 4 * 5;         /* some as in the skipped one */
            batch->last_time = (int64_t)seed;
            learner_score(b[i].learner, batch);
            assert_false(learner_learn(b[i].learner, batch).skipped);
        }
        assert_same_learners(&b[0], &b[1]);
        for (size_t t = 0; t < b[0].features->table_count; t++) {
            struct embedding_table *one = learner_table(b[0].learner, t), *other = learner_table(b[1].learner, t);
            assert_int_equal(embedding_admitted(one), embedding_admitted(other));
            assert_int_equal(embedding_evicted(one), embedding_evicted(other));
            assert_int_equal(embedding_refused(one), embedding_refused(other));
            assert_int_equal(embedding_waiting(one), embedding_waiting(other));
        }
    }
    assert_true(embedding_evicted(learner_table(b[0].learner, b[0].features->behavior_table)) > 0);
    bench_destroy(&b[0]);
    bench_destroy(&b[1]);
}

static void test_restored_goes_on_as_the_saved_one(void **state)
{
    (void)state;
    struct bench a = bench_create(ZERO_SHOT_MAIL, &parallel_serial), b = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    struct memory_state memory;
    memory_state_init(&memory);
    float one[SMALL_SIZE], other[SMALL_SIZE];
    for (uint64_t i = 0; i < 3; i++) step(&a, i, one);
    memory.writer.full = true;
    assert_true(learner_save(a.learner, &memory.writer, NULL));
    assert_true(learner_load(b.learner, &memory.reader, NULL));
    assert_same_learners(&a, &b);
    for (uint64_t i = 3; i < 6; i++) {
        step(&a, i, one);
        step(&b, i, other);
        assert_memory_equal(one, other, sizeof one);
    }
    assert_same_learners(&a, &b);
    memory_state_release(&memory);
    bench_destroy(&a);
    bench_destroy(&b);
}

/* Rows that the stream has not named for expire_after go by themselves, and come anew when it does. */
static void test_old_rows_expire(void **state)
{
    (void)state;
    struct bench b = bench_create(ZERO_SHOT_NONE, &parallel_serial);
    struct table_options table[16] = { 0 };
    learner_destroy(b.learner);
    for (size_t t = 0; t < b.features->table_count; t++) {
        table[t] = (struct table_options){ .admit_after = 1, .expire_after = 1000 };
        snprintf(table[t].name, sizeof table[t].name, "%s", b.features->table[t]);
    }
    b.options.table = table;
    b.options.table_count = b.features->table_count;
    assert_non_null(b.learner = learner_create(b.features, &b.options, &parallel_serial, NULL));
    struct batch *other = small_batch(b.features, 1, b.arena);      /* the same examples, of other values */
    for (size_t t = 0; t < b.features->table_count; t++)
        for (size_t i = 0; i < other->table[t].count; i++) other->table[t].key[i] ^= UINT64_C(1) << 63;
    other->last_time = 1000;
    learner_score(b.learner, other);
    learner_learn(b.learner, other);
    uint64_t gone = rows_of(&b), named = 0, evicted = 0;
    for (int i = 0; i < 300; i++) {
        struct batch *batch = small_batch(b.features, 1, b.arena);
        batch->last_time = 2001 + i;
        learner_score(b.learner, batch);
        learner_learn(b.learner, batch);
        named = 0;
        for (size_t t = 0; t < b.features->table_count; t++) named += batch->table[t].count;
    }
    for (size_t t = 0; t < b.features->table_count; t++) evicted += embedding_evicted(learner_table(b.learner, t));
    assert_true(gone > 0);
    assert_int_equal(rows_of(&b), named);
    assert_int_equal(evicted, gone);
    bench_destroy(&b);
}

static void test_fewer_than_two_old_users(void **state)
{
    (void)state;
    struct bench b = bench_create(ZERO_SHOT_MAIL, &parallel_serial);
    b.options.model.zero_shot.sample = 1e-9;
    learner_destroy(b.learner);
    b.learner = learner_create(b.features, &b.options, &parallel_serial, NULL);
    float score[SMALL_SIZE];
    struct learner_losses losses = step(&b, 1, score);
    assert_false(losses.zero_shot_trained || losses.skipped);
    assert_int_equal(learner_zero_shot_steps(b.learner), 0);
    assert_int_equal(learner_steps(b.learner), 1);
    bench_destroy(&b);
}

static void test_kinds_not_built_are_refused(void **state)
{
    (void)state;
    struct features *features = small_features();
    struct cs_error err = { 0 };
    struct model_options options = small_options(RANKING_BASE_DNN, ZERO_SHOT_LLAE);
    assert_null(model_create(features, SMALL_D, &options, &parallel_serial, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_non_null(strstr(err.message, "mail"));
    options = small_options(RANKING_DMR, ZERO_SHOT_NONE);
    assert_null(model_create(features, SMALL_D, &options, &parallel_serial, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_non_null(strstr(err.message, "base_dnn"));
    features_destroy(features);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scoring_makes_nothing),    cmocka_unit_test(test_learning_lowers_the_losses),
        cmocka_unit_test(test_new_rows_take_part),       cmocka_unit_test(test_restored_goes_on_as_the_saved_one),
        cmocka_unit_test(test_threads_do_not_matter),    cmocka_unit_test(test_non_finite_batch_is_skipped_whole),
        cmocka_unit_test(test_a_skipped_batch_leaves_no_trace),
        cmocka_unit_test(test_old_rows_expire),
        cmocka_unit_test(test_fewer_than_two_old_users), cmocka_unit_test(test_kinds_not_built_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
