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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filled_from_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
