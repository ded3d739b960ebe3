/* What serving relies on: a model filled from another's tensors scores the same, derived weights included. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gradient/finite_difference.h"
#include "tests/gradient/small_model.h"

static struct model *create(const struct features *features, uint64_t seed)
{
    struct model_options options = small_options(RANKING_BASE_DNN, ZERO_SHOT_MAIL);
    options.zero_shot.target = TARGET_SEQUENCE;
    struct model *model = model_create(features, SMALL_D, &options, &parallel_serial, NULL);
    assert_non_null(model);
    model_start(model, seed);
    return model;
}

static void score(struct model *model, const struct features *features, const struct batch *batch, float *probability)
{
    struct arena *scratch = arena_create(1 << 14);
    struct model_rows rows[8];
    for (size_t t = 0; t < features->table_count; t++) {
        size_t count = batch->table[t].count;
        float *row = arena_take(scratch, count * SMALL_D * sizeof *row);
        for (size_t i = 0; i < count; i++) fill(row + i * SMALL_D, SMALL_D, batch->table[t].key[i] + 100 * t);
        rows[t] = (struct model_rows){ row, memset(arena_take(scratch, count), 1, count) };
    }
    model_forward_score(model, batch, rows, scratch, probability);
    arena_destroy(scratch);
}

struct source { struct tensor tensor[128]; size_t count; };

static bool collect(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    struct source *source = self;
    source->tensor[source->count++] = *tensor;
    return true;
}

static bool copy(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    struct source *source = self;
    for (size_t i = 0; i < source->count; i++)
        if (!strcmp(source->tensor[i].name, tensor->name)) {
            if (tensor->role == TENSOR_SCORING) memcpy(tensor->data, source->tensor[i].data, tensor_bytes(tensor));
            return true;
        }
    return false;
}

/* TENSOR_SCORING is all that scoring needs: the other tensors stay another model's. */
static void test_filled_from_tensors(void **state)
{
    (void)state;
    struct features *features = small_features();
    struct model *a = create(features, 1), *b = create(features, 2);
    struct arena *arena = arena_create(1 << 12);
    struct batch *batch = small_batch(features, 3, arena);
    float one[SMALL_SIZE], other[SMALL_SIZE];
    struct source source = { 0 };
    score(a, features, batch, one);
    score(b, features, batch, other);
    assert_memory_not_equal(one, other, sizeof one);
    assert_true(model_tensors(a, collect, &source, NULL));
    assert_true(model_tensors(b, copy, &source, NULL));
    model_changed(b);
    score(b, features, batch, other);
    assert_memory_equal(one, other, sizeof one);
    arena_destroy(arena);
    model_destroy(a);
    model_destroy(b);
    features_destroy(features);
}

/* Where generating is no work, one new user's candidates are multiplied as anybody's are: each scores what it does as
 * an impression of its own, to the last bit. */
static void candidates_of_a_new_user_score_as_impressions(void **state)
{
    (void)state;
    enum { CANDIDATES = 40, VALUES = 4 };
    static const enum zero_shot_kind kind[] = { ZERO_SHOT_NONE, ZERO_SHOT_LINEAR };
    static const uint8_t count[3] = { 1, 2, 1 }, one = 1;
    struct features *features = small_features();
    float value[VALUES][SMALL_D], item[CANDIDATES][SMALL_D], price[CANDIDATES], as_candidate[CANDIDATES],
        as_impression[CANDIDATES], dense[2] = { 0.5f, -1.5f };
    const float *row[VALUES], *item_row[CANDIDATES];
    struct model_shared shared[CANDIDATES];
    struct model_own own[CANDIDATES];
    for (size_t i = 0; i < VALUES; i++) fill(value[i], SMALL_D, 7 + i), row[i] = value[i];
    fill(price, CANDIDATES, 3);
    for (size_t i = 0; i < CANDIDATES; i++) {
        fill(item[i], SMALL_D, 50 + i);
        item_row[i] = item[i];
        shared[i] = (struct model_shared){ .count = count, .row = row, .dense = dense };
        own[i] = (struct model_own){ .count = &one, .row = &item_row[i], .dense = &price[i] };
    }
    for (size_t k = 0; k < sizeof kind / sizeof *kind; k++) {
        struct model_options options = small_options(RANKING_BASE_DNN, kind[k]);
        struct model *model = model_create(features, SMALL_D, &options, &parallel_serial, NULL);
        struct arena *scratch = arena_create(1 << 14);
        assert_non_null(model);
        model_start(model, 5);
        assert_true(model_fix(model, NULL));
        model_score_fixed(model, shared, 1, own, CANDIDATES, scratch, as_candidate);
        model_score_fixed(model, shared, CANDIDATES, own, CANDIDATES, scratch, as_impression);
        assert_true(as_candidate[0] != as_candidate[1]);
        assert_memory_equal(as_candidate, as_impression, sizeof as_candidate);
        arena_destroy(scratch);
        model_destroy(model);
    }
    features_destroy(features);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filled_from_tensors),
        cmocka_unit_test(candidates_of_a_new_user_score_as_impressions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
