/* Which batches a stream is cut into: closing rules, histories, held-out users, restarts; and generated streams against
 * a plain version of the whole path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/ingest.h"
#include "core/random.h"
#include "memory_state.h"
#include "plain_join.h"

enum { BEHAVIORS_UNSAID = 255 };

static struct features *features;
static struct arena *arena;

static struct ingest_options defaults(void)
{
    return (struct ingest_options){ .join = { .window = 100, .max_pending = 1000 },
                                    .history = { .max_length = 4, .max_users = 100 },
                                    .batch = { .size = 3 } };
}

static struct ingest *create(const struct ingest_options *options)
{
    struct cs_error err;
    struct ingest *ingest = ingest_create(features, options, &err);
    assert_non_null(ingest);
    return ingest;
}

static void push(struct ingest *ingest, enum event_kind kind, const char *id, int64_t time, uint64_t user,
                 uint64_t item, size_t behaviors, bool clicked)
{
    struct event event = { .kind = kind, .time = time };
    size_t length = strlen(id);
    if (kind == EVENT_IMPRESSION || kind == EVENT_EXAMPLE) {
        event.example = example_create(features, length, behaviors == BEHAVIORS_UNSAID ? 0 : behaviors, 1);
        memcpy(example_id(event.example), id, length);
        for (size_t i = 0; i < event.example->behavior_count; i++) example_behaviors(event.example)[i] = 900 + i;
        example_keys(event.example)[0] = item;
        example_keys_of(event.example)[0] = 1;
        event.example->has_behaviors = behaviors != BEHAVIORS_UNSAID;
        event.example->user = user;
        event.example->item = item;
        event.example->time = event.example->released = time;
        event.example->clicked = clicked;
    } else {
        event.id = strdup(id);
        event.id_length = length;
    }
    ingest_push(ingest, &event);
    assert_null(event.example);
    assert_null(event.id);
}

static void example(struct ingest *ingest, const char *id, int64_t time)
{
    push(ingest, EVENT_EXAMPLE, id, time, 1, 2, 0, false);
}

/* The next batch has exactly these ids, one after the other, or there is none ("") . */
static void assert_batch(struct ingest *ingest, const char *ids)
{
    char found[200] = "";
    size_t used = 0;
    struct batch *batch = ingest_pop(ingest, arena);
    if (batch) assert_true(batch_check(features, batch));
    for (size_t i = 0; batch && i < batch->size; i++)
        used += (size_t)snprintf(found + used, sizeof found - used, "%s", batch->id[i]);
    assert_string_equal(found, ids);
}

static void test_closes_by_size(void **state)
{
    (void)state;
    struct ingest_options options = defaults();
    struct ingest *ingest = create(&options);
    assert_true(ingest_clock(ingest) == INT64_MIN);
    for (const char *id = "a\0b\0c\0d\0"; *id; id += 2) example(ingest, id, 1000000 * *id); /* however far apart */
    assert_batch(ingest, "abc");
    assert_batch(ingest, "");
    assert_int_equal(ingest_open(ingest), 1);
    assert_true(ingest_clock(ingest) == 1000000 * 'd');
    ingest_finish(ingest);
    assert_batch(ingest, "d");
    ingest_finish(ingest);
    assert_batch(ingest, "");
    ingest_destroy(ingest);
}

static void test_closes_by_delay(void **state)
{
    (void)state;
    struct ingest_options options = defaults();
    options.batch.max_delay = 50;
    struct ingest *ingest = create(&options);
    example(ingest, "a", 0);
    example(ingest, "b", 49);
    example(ingest, "c", 50); /* at the first one's + max_delay: opens the next */
    assert_batch(ingest, "ab");
    ingest_advance(ingest, 100);
    assert_batch(ingest, "");
    ingest_advance(ingest, 101);
    assert_batch(ingest, "c");
    example(ingest, "d", 102);
    push(ingest, EVENT_CLICK, "x", 153, 0, 0, 0, false); /* any event moves the clock */
    assert_batch(ingest, "d");
    ingest_destroy(ingest);
}

static void test_joined_examples_close_by_their_release(void **state)
{
    (void)state;
    struct ingest_options options = defaults();
    options.batch.max_delay = 50;
    struct ingest *ingest = create(&options);
    for (const char *id = "a\0b\0c\0d\0"; *id; id += 2)
        push(ingest, EVENT_IMPRESSION, id, (*id - 'a') * 25, 1, 2, 0, false);
    assert_int_equal(ingest_pending(ingest), 4);
    ingest_advance(ingest, 5000); /* one jump: the same batches as many small steps */
    assert_batch(ingest, "ab");
    assert_batch(ingest, "cd");
    assert_batch(ingest, "");
    ingest_destroy(ingest);
}

static size_t behaviors_of_next(struct ingest *ingest, uint64_t last)
{
    struct batch *batch = ingest_pop(ingest, arena);
    assert_non_null(batch);
    assert_int_equal(batch->size, 1);
    size_t count = batch->behavior.offset[1];
    assert_int_equal(batch->is_new[0], count == 0);
    if (count) assert_true(batch->table[features->behavior_table].key[batch->behavior.row[count - 1]] == last);
    return count;
}

static void test_history(void **state)
{
    (void)state;
    struct ingest_options options = defaults();
    options.batch.size = 1;
    struct ingest *ingest = create(&options);
    /* An example without behaviors reads the history, then adds to it. */
    push(ingest, EVENT_EXAMPLE, "a", 0, 1, 50, BEHAVIORS_UNSAID, true);
    assert_int_equal(behaviors_of_next(ingest, 0), 0);
    push(ingest, EVENT_EXAMPLE, "b", 1, 1, 51, BEHAVIORS_UNSAID, false);
    assert_int_equal(behaviors_of_next(ingest, 50), 1);
    /* Present but empty is what the user has; its click is not the daemon's to remember. */
    push(ingest, EVENT_EXAMPLE, "c", 2, 1, 52, 0, true);
    assert_int_equal(behaviors_of_next(ingest, 0), 0);
    /* An impression takes the history as it was when it came, its own click not among it. */
    push(ingest, EVENT_IMPRESSION, "d", 3, 1, 53, BEHAVIORS_UNSAID, false);
    push(ingest, EVENT_CLICK, "d", 4, 0, 0, 0, false);
    push(ingest, EVENT_IMPRESSION, "e", 5, 1, 54, BEHAVIORS_UNSAID, false);
    ingest_advance(ingest, 1000);
    assert_int_equal(behaviors_of_next(ingest, 50), 1);
    assert_int_equal(behaviors_of_next(ingest, 53), 2);
    /* Only the last max_length of the model count. */
    for (uint64_t i = 0; i < 4; i++) {
        push(ingest, EVENT_EXAMPLE, "f", 2000, 1, 60 + i, BEHAVIORS_UNSAID, true);
        assert_int_equal(behaviors_of_next(ingest, i ? 59 + i : 53), i == 0 ? 2 : 3);
    }
    ingest_destroy(ingest);
}

static void test_hold_out(void **state)
{
    (void)state;
    struct ingest_options options = defaults();
    options.batch.size = 2000;
    options.hold_out_new = 0.3;
    struct ingest *ingest = create(&options);
    for (uint64_t i = 0; i < 2000; i++)
        push(ingest, EVENT_EXAMPLE, "x", (int64_t)i, random_bits(5, i % 1000), 2, 2, false);
    struct batch *batch = ingest_pop(ingest, arena);
    size_t held = 0;
    for (size_t i = 0; i < 1000; i++) {
        held += batch->is_new[i];
        assert_int_equal(batch->is_new[i], batch->is_new[i + 1000]); /* a user is held out always or never */
    }
    assert_in_range(held, 250, 350);
    ingest_destroy(ingest);
}

/* ---- generated streams against a plain version ---- */

struct generated {
    enum event_kind kind;
    uint64_t id;
    int64_t time;
};

/* batch number of each example in order, by the rules of ingest.h taken literally. */
static size_t plain_batches(const struct plain_out *out, size_t count, size_t size, int64_t max_delay, size_t *batch_of)
{
    size_t batch = 0, begin = 0;
    for (size_t i = 0; i < count; i++) {
        bool full = i - begin == size,
             late = i > begin && max_delay && out[i].released >= out[begin].released + max_delay;
        if (full || late) {
            batch++;
            begin = i;
        }
        batch_of[i] = batch;
    }
    return count ? batch + 1 : 0;
}

static size_t generate(uint64_t seed, size_t ids, struct generated *event)
{
    size_t count = 0;
    for (uint64_t id = 0; id < ids; id++) {
        uint64_t dice = random_bits(seed, id);
        int64_t at = (int64_t)id * 3;
        if (dice % 16) event[count++] = (struct generated){ EVENT_IMPRESSION, id, at };
        if (dice % 3 == 0) event[count++] = (struct generated){ EVENT_CLICK, id, at + (int64_t)(dice >> 40) % 250 };
        if (dice % 13 == 0)
            event[count++] = (struct generated){ EVENT_IMPRESSION, id, at + (int64_t)(dice >> 32) % 90 };
    }
    for (size_t i = 1; i < count; i++) { /* merged streams come by event time */
        struct generated moved = event[i];
        size_t j = i;
        for (; j > 0 && event[j - 1].time > moved.time; j--) event[j] = event[j - 1];
        event[j] = moved;
    }
    return count;
}

static void restart(struct ingest **ingest, struct memory_state *saved, const struct ingest_options *options)
{
    struct cs_error err = { 0 };
    assert_true(ingest_save(*ingest, &saved->writer, &err));
    saved->writer.full = false;
    int64_t clock = ingest_clock(*ingest);
    ingest_destroy(*ingest);
    *ingest = create(options);
    if (!ingest_load(*ingest, &saved->reader, &err)) print_error("%s\n", err.message);
    assert_int_equal(err.code, CS_OK);
    assert_true(ingest_clock(*ingest) == clock);
}

static void drain(struct ingest *ingest, const struct plain_out *out, size_t outs, const size_t *batch_of, size_t *seen,
                  size_t *batches)
{
    struct batch *batch;
    for (; (batch = ingest_pop(ingest, arena)); ++*batches) {
        assert_true(batch_check(features, batch));
        for (size_t i = 0; i < batch->size; i++, ++*seen) {
            assert_true(*seen < outs && batch_of[*seen] == *batches);
            assert_true(strtoull(batch->id[i], NULL, 10) == out[*seen].id);
            assert_int_equal(batch->clicked[i], out[*seen].clicked);
            assert_int_equal(batch->correction[i], out[*seen].correction);
        }
    }
}

static void test_generated_streams(void **state)
{
    (void)state;
    enum { IDS = 600 };
    for (uint64_t seed = 0; seed < 16; seed++) {
        struct ingest_options options = defaults();
        options.join.release = seed & 1 ? RELEASE_CLICK : RELEASE_WINDOW;
        options.join.late_click = seed & 2 ? LATE_CORRECT : LATE_DROP;
        options.batch = (struct batch_options){ .size = 5 + seed % 7, .max_delay = (int64_t)(seed % 5) * 9 };
        static struct generated event[IDS * 3];
        size_t count = generate(seed, IDS, event), seen = 0, batches = 0;

        struct plain_join plain = { .options = options.join, .clock = INT64_MIN };
        for (size_t i = 0; i < count; i++) plain_push(&plain, event[i].kind, event[i].id, event[i].time);
        plain_release_all(&plain);
        size_t *batch_of = malloc((plain.outs + 1) * sizeof *batch_of);
        size_t expected = plain_batches(plain.out, plain.outs, options.batch.size, options.batch.max_delay, batch_of);

        struct ingest *ingest = create(&options);
        struct memory_state saved;
        memory_state_init(&saved);
        for (size_t i = 0; i < count; i++) {
            char id[24];
            snprintf(id, sizeof id, "%llu", (unsigned long long)event[i].id);
            push(ingest, event[i].kind, id, event[i].time, event[i].id % 9, event[i].id, BEHAVIORS_UNSAID, false);
            drain(ingest, plain.out, plain.outs, batch_of, &seen, &batches);
            if (seed % 3 == 0 && i % 41 == 40) restart(&ingest, &saved, &options);
        }
        ingest_finish(ingest);
        drain(ingest, plain.out, plain.outs, batch_of, &seen, &batches);
        assert_int_equal(seen, plain.outs);
        assert_int_equal(batches, expected);
        struct join_counts counts = ingest_counts(ingest);
        assert_memory_equal(&counts, &plain.counts, sizeof counts);
        ingest_destroy(ingest);
        memory_state_release(&saved);
        free(batch_of);
        free(plain.id);
        free(plain.out);
    }
}

/* What is stored is the same whether the process was restarted on the way or not. */
static void test_restart_leaves_the_same_state(void **state)
{
    (void)state;
    static struct generated event[1800];
    size_t count = generate(4, 600, event);
    struct ingest_options options = defaults();
    struct memory_state stored[2];
    for (size_t run = 0; run < 2; run++) {
        struct ingest *ingest = create(&options);
        struct memory_state saved;
        memory_state_init(&saved);
        for (size_t i = 0; i < count; i++) {
            char id[24];
            snprintf(id, sizeof id, "%llu", (unsigned long long)event[i].id);
            push(ingest, event[i].kind, id, event[i].time, event[i].id % 9, event[i].id, BEHAVIORS_UNSAID, false);
            while (ingest_pop(ingest, arena)) continue;
            if (run && i % 100 == 99) restart(&ingest, &saved, &options);
        }
        memory_state_init(&stored[run]);
        assert_true(ingest_save(ingest, &stored[run].writer, NULL));
        ingest_destroy(ingest);
        memory_state_release(&saved);
    }
    assert_int_equal(stored[0].count, stored[1].count);
    for (size_t i = 0; i < stored[0].count; i++) {
        const struct memory_block *a = &stored[0].block[i], *b = memory_find(&stored[1], a->section, a->id);
        assert_non_null(b);
        assert_int_equal(a->size, b->size);
        assert_memory_equal(a->bytes, b->bytes, a->size);
    }
    memory_state_release(&stored[0]);
    memory_state_release(&stored[1]);
}

/* The open batch is stored while it has examples, and not a moment longer. */
static void test_open_batch_comes_and_goes(void **state)
{
    (void)state;
    struct ingest_options options = defaults();
    struct ingest *ingest = create(&options);
    struct memory_state saved;
    memory_state_init(&saved);
    restart(&ingest, &saved, &options);
    assert_null(memory_find(&saved, "ingest.open", 0));
    example(ingest, "a", 1);
    example(ingest, "b", 2);
    restart(&ingest, &saved, &options);
    assert_int_equal(ingest_open(ingest), 2);
    example(ingest, "c", 3);
    assert_batch(ingest, "abc");
    restart(&ingest, &saved, &options);
    assert_null(memory_find(&saved, "ingest.open", 0));
    assert_int_equal(ingest_open(ingest), 0);
    ingest_destroy(ingest);
    memory_state_release(&saved);
}

int main(void)
{
    struct feature_options feature[] = { { .name = "item_id", .group = GROUP_ITEM, .table = "item" } };
    struct features_options options = {
        .feature = feature, .feature_count = 1, .behavior_table = "item", .behavior_max_length = 3
    };
    features = features_create(&options, NULL);
    arena = arena_create(1 << 16);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closes_by_size),
        cmocka_unit_test(test_closes_by_delay),
        cmocka_unit_test(test_joined_examples_close_by_their_release),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_hold_out),
        cmocka_unit_test(test_generated_streams),
        cmocka_unit_test(test_restart_leaves_the_same_state),
        cmocka_unit_test(test_open_batch_comes_and_goes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_destroy(arena);
    features_destroy(features);
    return failed;
}
