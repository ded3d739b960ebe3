/* Examples into columns: every value found again through its row number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>

#include "core/batch.h"
#include "core/random.h"

enum {
    CITY,
    HOUR,
    ITEM,
    BESIDE
}; /* columns: user, context, item, item; city's table is its own, ITEM and BESIDE share "item" */

static struct features *features;
static struct arena *arena;

static struct example *make(uint64_t seed, size_t behaviors, const size_t keys[4])
{
    size_t count = keys[0] + keys[1] + keys[2] + keys[3];
    char id[24];
    int length = snprintf(id, sizeof id, "id%llu", (unsigned long long)seed);
    struct example *example = example_create(features, (size_t)length, behaviors, count);
    memcpy(example_id(example), id, (size_t)length);
    for (size_t i = 0; i < behaviors; i++) example_behaviors(example)[i] = 1000 + random_bits(seed, i) % 20;
    for (size_t i = 0; i < count; i++) example_keys(example)[i] = 1000 + random_bits(seed + 77, i) % 20;
    for (size_t i = 0; i < 4; i++) example_keys_of(example)[i] = (uint8_t)keys[i];
    example_dense(example)[0] = (float)seed;
    example->clicked = seed & 1;
    example->user = seed * 3;
    example->time = (int64_t)seed;
    example->released = 1000 - (int64_t)seed;
    return example;
}

static void assert_values(const struct batch_column *column, size_t i, const struct batch_table *table,
                          const uint64_t *key, size_t count)
{
    assert_int_equal(column->offset[i + 1] - column->offset[i], count);
    for (size_t j = 0; j < count; j++) assert_true(table->key[column->row[column->offset[i] + j]] == key[j]);
}

static void test_every_value_is_found_again(void **state)
{
    (void)state;
    enum { SIZE = 300 };
    struct example *example[SIZE];
    size_t values[3] = { 0 };
    for (size_t i = 0; i < SIZE; i++) {
        const size_t keys[4] = { i % 3, i % 2, 1, i % 5 };
        example[i] = make(i, i % 7, keys);
        values[features->feature[0].table] += keys[0];
        values[features->feature[2].table] += keys[1];
        values[features->behavior_table] += keys[2] + keys[3] + i % 7;
    }
    struct batch *batch = batch_build(features, example, SIZE, arena);
    assert_true(batch_check(features, batch));
    assert_int_equal(batch->size, SIZE);
    assert_true(batch->last_time == 1000);
    for (size_t i = 0; i < SIZE; i++) {
        const uint64_t *key = example_keys(example[i]);
        for (size_t column = 0; column < 4; column++) {
            size_t table = column == CITY   ? features->feature[0].table
                           : column == HOUR ? features->feature[2].table
                                            : features->behavior_table;
            assert_values(&batch->column[column], i, &batch->table[table], key, example_keys_of(example[i])[column]);
            key += example_keys_of(example[i])[column];
        }
        assert_values(&batch->behavior, i, &batch->table[features->behavior_table], example_behaviors(example[i]),
                      i % 7);
        assert_true(batch->dense[0 * SIZE + i] == (float)i);
        assert_true(isnan(batch->dense[1 * SIZE + i]));
        assert_int_equal(batch->is_new[i], i % 7 == 0);
        assert_int_equal(batch->clicked[i], i & 1);
        assert_true(batch->user[i] == i * 3 && batch->time[i] == (int64_t)i);
        assert_string_equal(batch->id[i], example_id(example[i]));
    }
    for (size_t table = 0; table < features->table_count; table++) {
        size_t sightings = 0;
        for (size_t row = 0; row < batch->table[table].count; row++) {
            sightings += batch->table[table].sightings[row];
            for (size_t other = 0; other < row; other++)
                assert_true(batch->table[table].key[row] != batch->table[table].key[other]);
        }
        assert_int_equal(sightings, values[table]);
    }
    /* Order of first sight: the first example's own keys come first. */
    assert_int_equal(batch->column[ITEM].row[0], 0);
    for (size_t i = 0; i < SIZE; i++) free(example[i]);
}

static void test_check_sees_damage(void **state)
{
    (void)state;
    struct example *example[2] = { make(1, 2, (size_t[4]){ 1, 1, 1, 0 }), make(2, 0, (size_t[4]){ 1, 0, 1, 1 }) };
    struct batch *batch = batch_build(features, example, 2, arena);
    assert_true(batch_check(features, batch));
    batch->column[CITY].row[1] = (uint32_t)batch->table[features->feature[0].table].count;
    assert_false(batch_check(features, batch));
    batch = batch_build(features, example, 2, arena);
    batch->is_new[0] = 1;
    assert_false(batch_check(features, batch));
    batch = batch_build(features, example, 2, arena);
    batch->behavior.offset[1] = 3;
    assert_false(batch_check(features, batch));
    free(example[0]);
    free(example[1]);
}

static void test_empty_batch(void **state)
{
    (void)state;
    struct batch *batch = batch_build(features, NULL, 0, arena);
    assert_int_equal(batch->size, 0);
    assert_true(batch_check(features, batch));
}

/* What is scored again later must be what was learned. */
static void test_an_example_comes_back_out(void **state)
{
    (void)state;
    enum { SIZE = 40 };
    struct example *example[SIZE];
    for (size_t i = 0; i < SIZE; i++) {
        const size_t keys[4] = { i % 3, i % 2, 1, i % 5 };
        example[i] = make(i, i % 7, keys);
    }
    struct batch *batch = batch_build(features, example, SIZE, arena);
    for (size_t i = 0; i < SIZE; i++) {
        struct example *back = batch_example(features, batch, i);
        assert_true(example_check(features, back, back->size));
        assert_int_equal(back->key_count, example[i]->key_count);
        assert_int_equal(back->behavior_count, example[i]->behavior_count);
        assert_memory_equal(example_behaviors(back), example_behaviors(example[i]), back->behavior_count * 8);
        assert_memory_equal(example_keys(back), example_keys(example[i]), back->key_count * 8);
        assert_memory_equal(example_keys_of(back), example_keys_of(example[i]), back->column_count);
        for (size_t column = 0; column < features->dense_count; column++) {
            float was = example_dense(example[i])[column], is = example_dense(back)[column];
            assert_true(was == is || (isnan(was) && isnan(is)));
        }
        assert_int_equal(back->clicked, example[i]->clicked);
        assert_true(back->user == example[i]->user && back->time == example[i]->time);
        assert_true(back->released == example[i]->released);
        free(back);
        free(example[i]);
    }
}

/* Room for max_length behaviors is all that a sequence has (core/zero_shot_mail.c). */
static void test_no_more_behaviors_than_may_be(void **state)
{
    (void)state;
    const size_t keys[4] = { 1, 1, 1, 1 }, most = features->behavior_max_length;
    struct example *full = make(1, most, keys), *over = make(1, most + 1, keys);
    assert_true(example_check(features, full, full->size));
    assert_false(example_check(features, over, over->size));
    free(full);
    free(over);
}

int main(void)
{
    struct feature_options feature[] = {
        { .name = "city" },
        { .name = "income", .kind = FEATURE_DENSE },
        { .name = "hour", .group = GROUP_CONTEXT },
        { .name = "item_id", .group = GROUP_ITEM, .table = "item" },
        { .name = "beside", .group = GROUP_ITEM, .table = "item" },
        { .name = "price", .group = GROUP_ITEM, .kind = FEATURE_DENSE },
    };
    struct features_options options = {
        .feature = feature, .feature_count = 6, .behavior_table = "item", .behavior_max_length = 10
    };
    features = features_create(&options, NULL);
    arena = arena_create(1 << 16);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value_is_found_again),
        cmocka_unit_test(test_an_example_comes_back_out),
        cmocka_unit_test(test_no_more_behaviors_than_may_be),
        cmocka_unit_test(test_check_sees_damage),
        cmocka_unit_test(test_empty_batch),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_destroy(arena);
    features_destroy(features);
    return failed;
}
