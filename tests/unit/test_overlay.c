/* Levels of changed rows against a plain array of the newest values: whatever is pushed, merged and dropped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "storage/overlay.h"

enum { TABLES = 3, KEYS = 3000, DIMENSION = 5, DELTAS = 400, BASE = 0x7fffffff };

/* What a key's row is: BASE: no delta said anything; 0: it went; otherwise the number of the delta that wrote it. */
static unsigned state[TABLES][KEYS];

static uint64_t key_of(size_t i)
{
    return i < 2 ? (i ? UINT64_MAX : 0) : i % 3 ? i << 32 : (uint64_t)i * 0x123456789abcdefull;
}

static void make_row(float *row, size_t table, size_t key, unsigned delta)
{
    for (size_t i = 0; i < DIMENSION; i++) row[i] = (float)((table * KEYS + key) * 10 + i) + (float)delta / 1024;
}

static struct overlay_level *random_level(uint64_t stream, unsigned delta)
{
    struct overlay_room room[TABLES];
    size_t draw = 0, puts = random_bits(stream, draw++) % (delta % 50 ? 60 : 4000);
    for (size_t t = 0; t < TABLES; t++)
        room[t] = t == 2 && delta % 2 ? (struct overlay_room){ 0, 0 } : (struct overlay_room){ puts, puts };
    struct overlay_level *level = overlay_level_create(TABLES, DIMENSION, room, delta);
    for (size_t i = 0; i < puts; i++) {
        size_t table = random_bits(stream, draw++) % (delta % 2 ? 2 : 3), key = random_bits(stream, draw++) % KEYS;
        bool gone = random_bits(stream, draw++) % 4 == 0;
        float row[DIMENSION];
        make_row(row, table, key, delta);
        overlay_level_put(level, table, key_of(key), gone ? NULL : row);
        state[table][key] = gone ? 0 : delta;
    }
    return level;
}

static void check(const struct overlay *overlay, unsigned expected[TABLES][KEYS])
{
    static const float base[DIMENSION] = { -1 };
    static int table[TABLES * KEYS];
    static uint64_t key[TABLES * KEYS];
    static const float *row[TABLES * KEYS];
    for (size_t i = 0; i < TABLES * KEYS; i++) {
        table[i] = (int)(i % TABLES);
        key[i] = key_of(i / TABLES);
        row[i] = base;
    }
    overlay_find_all(overlay, TABLES * KEYS, table, key, row);
    for (size_t i = 0; i < TABLES * KEYS; i++) {
        unsigned wanted = expected[table[i]][i / TABLES];
        if (wanted == BASE) assert_ptr_equal(row[i], base);
        else if (!wanted) assert_null(row[i]);
        else {
            float made[DIMENSION];
            make_row(made, i % TABLES, i / TABLES, wanted);
            assert_non_null(row[i]);
            assert_memory_equal(row[i], made, sizeof made);
        }
    }
}

static void the_newest_level_speaks(void **unused)
{
    (void)unused;
    static unsigned then[TABLES][KEYS];
    struct overlay overlay = { 0 }, kept = { 0 };
    for (size_t t = 0; t < TABLES; t++)
        for (size_t k = 0; k < KEYS; k++) state[t][k] = BASE;
    for (unsigned delta = 1; delta <= DELTAS; delta++) {
        overlay_push(&overlay, random_level(random_stream(7, "overlay", delta), delta));
        if (delta % 7) overlay_compact(&overlay);
        if (delta % 41 == 0) check(&overlay, state);
        if (delta == DELTAS / 2) {          /* what a reader still holds does not move under it */
            overlay_copy(&kept, &overlay);
            memcpy(then, state, sizeof then);
        }
    }
    check(&overlay, state);
    check(&kept, then);
    overlay_release(&kept);
    overlay_release(&overlay);
}

static void few_levels_are_asked(void **unused)
{
    (void)unused;
    struct overlay overlay = { 0 };
    struct overlay_room room[1] = { { 10000, 10000 } };
    uint64_t key = 0;
    for (unsigned delta = 1; delta <= 200; delta++) {
        struct overlay_level *level = overlay_level_create(1, DIMENSION, room, delta);
        for (size_t i = 0; i < room[0].keys; i++) overlay_level_put(level, 0, ++key << 20, (float[DIMENSION]){ 1 });
        overlay_push(&overlay, level);
        overlay_compact(&overlay);
        assert_true(overlay.levels <= 5);
        assert_int_equal(overlay_rows(&overlay), key);
    }
    assert_true(overlay_bytes(&overlay) < key * (DIMENSION * sizeof(float) + 4 * 16) + (1 << 20));
    overlay_release(&overlay);
}

/* Whoever may write the topic could else take a reader's memory: 8 bytes a key, there, were a row each, here. */
static void keys_that_went_take_no_rows(void **unused)
{
    (void)unused;
    struct overlay overlay = { 0 };
    enum { WIDE = 1 << 16, WENT = 1 << 20 };        /* 256 GiB as rows */
    for (unsigned delta = 1; delta <= 2; delta++) {
        struct overlay_level *level =
            overlay_level_create(1, WIDE, (struct overlay_room[]){ { WENT, 0 } }, delta);
        for (uint64_t key = 0; key < WENT; key++) overlay_level_put(level, 0, key << delta, NULL);
        overlay_push(&overlay, level);
    }
    overlay_compact(&overlay);
    assert_int_equal(overlay.levels, 1);
    const float there = 1, *row[2] = { &there, &there };
    overlay_find_all(&overlay, 2, (int[]){ 0, 0 }, (uint64_t[]){ 1, 2 }, row);
    assert_ptr_equal(row[0], &there);
    assert_null(row[1]);
    overlay_release(&overlay);
}

static void levels_go_once_a_checkpoint_has_them(void **unused)
{
    (void)unused;
    struct overlay overlay = { 0 };
    struct overlay_room room[1] = { { 1, 1 } };
    for (unsigned delta = 1; delta <= 10; delta++) {
        struct overlay_level *level = overlay_level_create(1, DIMENSION, room, delta);
        overlay_level_put(level, 0, delta, (float[DIMENSION]){ (float)delta });
        overlay_push(&overlay, level);
    }
    overlay_drop_through(&overlay, 7);
    assert_int_equal(overlay.levels, 3);
    const float *row[2] = { NULL, NULL };
    overlay_find_all(&overlay, 2, (int[]){ 0, 0 }, (uint64_t[]){ 7, 8 }, row);
    assert_null(row[0]);
    assert_true(row[1] && row[1][0] == 8.0f);
    overlay_compact(&overlay);              /* 8, 9 and 10 are one level: whole until a checkpoint has all three */
    overlay_drop_through(&overlay, 9);
    assert_int_equal(overlay_rows(&overlay), 3);
    overlay_drop_through(&overlay, 10);
    assert_int_equal(overlay.levels, 0);
    overlay_release(&overlay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_level_speaks),
        cmocka_unit_test(few_levels_are_asked),
        cmocka_unit_test(keys_that_went_take_no_rows),
        cmocka_unit_test(levels_go_once_a_checkpoint_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
