/* Delayed validation: each example judged by what was known when its impression was shown, whatever the joiner does
 * with it and whoever restarts in between. The learner here is one whose score says how often it has learned. */
#include <math.h>
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
#include "core/shown.h"
#include "memory_state.h"

enum { WINDOW = 500, IDS = 700 };

static struct features *features;
static struct arena *arena;

struct run {
    struct ingest_options options;
    struct ingest *ingest;
    struct shown *shown;
    struct metrics *expected;       /* of the same examples, by scores that the test noted itself */
    uint64_t learned;               /* batches */
    struct { uint64_t id; float score; } showing[2 * IDS];      /* by number: what the test noted */
    uint64_t numbers;
    size_t judged;
};

static float score_after(uint64_t batches) { return 1.0f / (float)(batches % 50 + 2); }

static struct run run_create(const struct ingest_options *options)
{
    struct cs_error err;
    struct run run = { .options = *options, .ingest = ingest_create(features, options, &err),
                       .shown = shown_create(WINDOW), .expected = metrics_create(WINDOW) };
    assert_non_null(run.ingest);
    return run;
}

static void run_destroy(struct run *run)
{
    ingest_destroy(run->ingest);
    shown_destroy(run->shown);
    metrics_destroy(run->expected);
}

/* As the learn thread does. */
static void take_batches(struct run *run)
{
    struct batch *batch;
    while ((batch = ingest_pop(run->ingest, arena))) {
        float score[64], then[64];
        assert_true(batch->size <= 64 && batch_check(features, batch));
        for (size_t i = 0; i < batch->size; i++) score[i] = score_after(run->learned);
        if (batch->shown_only) {
            shown_keep(run->shown, batch, score);
            continue;
        }
        for (size_t i = 0; i < batch->size; i++) {
            uint64_t number = batch->shown[i];
            then[i] = number == SHOWN_NOW ? score[i] : NAN;
            if (number != SHOWN_NOT && number != SHOWN_NOW && run->options.delayed >= 1) {
                assert_true(number <= run->numbers);
                assert_true(run->showing[number].id == strtoull(batch->id[i], NULL, 10));
                then[i] = run->showing[number].score;
            }
            run->judged += !isnan(then[i]) && !batch->correction[i];
        }
        metrics_observe(run->expected, batch, then);
        shown_judge(run->shown, batch, score);
        run->learned++;
    }
}

static void push(struct run *run, enum event_kind kind, uint64_t number, int64_t time, uint64_t user, bool clicked)
{
    struct event event = { .kind = kind, .time = time };
    char id[24];
    int length = snprintf(id, sizeof id, "%llu", (unsigned long long)number);
    ingest_advance(run->ingest, time);      /* what is due before it is closed before it */
    take_batches(run);
    if (kind == EVENT_IMPRESSION || kind == EVENT_EXAMPLE) {
        event.example = example_create(features, (size_t)length, user % 3, 1);
        memcpy(example_id(event.example), id, (size_t)length);
        for (size_t i = 0; i < user % 3; i++) example_behaviors(event.example)[i] = 5 + i;
        example_keys(event.example)[0] = user;
        example_keys_of(event.example)[0] = 1;
        event.example->has_behaviors = 1;
        event.example->user = random_bits(1, user);
        event.example->time = time;
        event.example->clicked = clicked;
    } else {
        event.id = strdup(id);
        event.id_length = (size_t)length;
    }
    uint64_t learned = run->learned, duplicates = ingest_counts(run->ingest).duplicate_impressions;
    ingest_push(run->ingest, &event);
    bool taken = ingest_counts(run->ingest).duplicate_impressions == duplicates;
    if (kind == EVENT_IMPRESSION && taken && run->options.delayed >= 1) {
        run->showing[++run->numbers].id = number;
        run->showing[run->numbers].score = score_after(learned);
    }
    take_batches(run);
}

static struct metrics_report delayed(const struct run *run, enum metrics_users users, enum metrics_span span)
{
    return metrics_report(shown_metrics(run->shown), users, span);
}

static void assert_near(double value, double expected)
{
    if (!(fabs(value - expected) < 1e-6)) fail_msg("%.9g, %.9g expected", value, expected);
}

/* Two impressions wait while a batch of two others is learned: they are judged by the score from before it. */
static void test_judged_by_the_score_of_its_showing(void **state)
{
    (void)state;
    struct run run = run_create(&(struct ingest_options){ .join = { .window = 100, .max_pending = 100 },
                                                          .history = { .max_length = 4, .max_users = 10 },
                                                          .batch = { .size = 2 },
                                                          .delayed = 1 });
    push(&run, EVENT_IMPRESSION, 1, 0, 1, false);
    push(&run, EVENT_IMPRESSION, 2, 10, 2, false);
    push(&run, EVENT_CLICK, 1, 20, 0, false);
    push(&run, EVENT_IMPRESSION, 3, 50, 3, false);
    assert_int_equal(shown_waiting(run.shown), 2);         /* a batch's worth was scored, the third waits for more */
    push(&run, EVENT_IMPRESSION, 4, 120, 4, false);        /* 1 and 2 are learned: scored 1/2 then, and when shown */
    assert_int_equal(run.learned, 1);
    struct metrics_report report = delayed(&run, USERS_ALL, SPAN_START);
    assert_int_equal(report.examples, 2);
    assert_near(report.log_loss, (-log(0.5) - log(0.5)) / 2);
    push(&run, EVENT_CLICK, 3, 130, 0, false);
    push(&run, EVENT_CLICK, 4, 140, 0, false);
    ingest_advance(run.ingest, 1000);
    take_batches(&run);
    assert_int_equal(run.learned, 2);
    /* 3 was shown before the batch was learned (1/2), 4 after it (1/3); just before learning both score 1/3. */
    report = delayed(&run, USERS_ALL, SPAN_START);
    assert_int_equal(report.examples, 4);
    assert_int_equal(report.clicks, 3);
    assert_near(report.log_loss, (-log(0.5) - log(0.5) - log(0.5) - log(1.0 / 3)) / 4);
    assert_near(report.calibration, (0.5 + 0.5 + 0.5 + 1.0 / 3) / 3);
    assert_int_equal(delayed(&run, USERS_NEW, SPAN_START).examples, 1);       /* user 3, of 3 % 3 behaviors */
    assert_int_equal(shown_waiting(run.shown), 0);
    run_destroy(&run);
}

static void test_what_is_shown_and_learned_at_once(void **state)
{
    (void)state;
    struct run run = run_create(&(struct ingest_options){ .join = { .window = 100, .max_pending = 100 },
                                                          .history = { .max_length = 4, .max_users = 10 },
                                                          .batch = { .size = 1 },
                                                          .delayed = 1 });
    push(&run, EVENT_EXAMPLE, 1, 0, 1, true);
    push(&run, EVENT_EXAMPLE, 2, 1, 1, false);
    struct metrics_report report = delayed(&run, USERS_ALL, SPAN_WINDOW);
    assert_int_equal(report.examples, 2);
    assert_near(report.log_loss, (-log(0.5) - log(1 - 1.0 / 3)) / 2);
    run_destroy(&run);
}

/* A share: always the same users, all that they are shown; the others cost nothing. */
static void test_share_of_users(void **state)
{
    (void)state;
    struct run run = run_create(&(struct ingest_options){ .join = { .window = 10, .max_pending = 10000 },
                                                          .history = { .max_length = 4, .max_users = 10 },
                                                          .batch = { .size = 16 },
                                                          .delayed = 0.3 });
    for (uint64_t i = 0; i < IDS; i++) push(&run, EVENT_IMPRESSION, i, (int64_t)i, i % 350, false);
    ingest_finish(run.ingest);
    take_batches(&run);
    assert_int_equal(shown_waiting(run.shown), 0);
    size_t judged = delayed(&run, USERS_ALL, SPAN_START).examples;
    assert_in_range(judged, IDS * 2 / 10, IDS * 4 / 10);
    assert_int_equal(judged % 2, 0);        /* each user was shown two */
    run_destroy(&run);
}

struct generated { enum event_kind kind; uint64_t id; int64_t time; };

static size_t generate(uint64_t seed, struct generated *event)
{
    size_t count = 0;
    for (uint64_t id = 0; id < IDS; id++) {
        uint64_t dice = random_bits(seed, id);
        int64_t at = (int64_t)id * 3;
        if (dice % 16) event[count++] = (struct generated){ EVENT_IMPRESSION, id, at };
        if (dice % 3 == 0) event[count++] = (struct generated){ EVENT_CLICK, id, at + (int64_t)(dice >> 40) % 250 };
        if (dice % 13 == 0)     /* twice, or too late */
            event[count++] = (struct generated){ EVENT_IMPRESSION, id, at + (int64_t)(dice >> 32) % 90 };
        if (dice % 29 == 0) event[count++] = (struct generated){ EVENT_EXAMPLE, IDS - 1, at };
    }
    for (size_t i = 1; i < count; i++) {
        struct generated moved = event[i];
        size_t j = i;
        for (; j > 0 && event[j - 1].time > moved.time; j--) event[j] = event[j - 1];
        event[j] = moved;
    }
    return count;
}

static void restart(struct run *run, struct memory_state *saved)
{
    struct cs_error err = { 0 };
    assert_true(ingest_save(run->ingest, &saved->writer, &err));
    assert_true(shown_save(run->shown, &saved->writer, &err));
    saved->writer.full = false;
    ingest_destroy(run->ingest);
    shown_destroy(run->shown);
    run->ingest = ingest_create(features, &run->options, &err);
    run->shown = shown_create(WINDOW);
    if (!ingest_load(run->ingest, &saved->reader, &err) || !shown_load(run->shown, &saved->reader, &err))
        fail_msg("%s", err.message);
}

static void assert_same_report(struct metrics_report a, struct metrics_report b)
{
    assert_memory_equal(&a, &b, sizeof a);
}

/* However it leaves the joiner, matched, expired, forced out, corrected, too old; with restarts and without. */
static void test_generated_streams(void **state)
{
    (void)state;
    static struct generated event[IDS * 4];
    for (uint64_t seed = 0; seed < 16; seed++) {
        struct ingest_options options = { .join = { .window = 100, .max_pending = seed & 4 ? 20 : 1000 },
                                          .history = { .max_length = 4, .max_users = 10 },
                                          .batch = { .size = 5 + seed % 7, .max_delay = (int64_t)(seed % 5) * 9 },
                                          .delayed = 1 };
        options.join.release = seed & 1 ? RELEASE_CLICK : RELEASE_WINDOW;
        options.join.late_click = seed & 2 ? LATE_CORRECT : LATE_DROP;
        size_t count = generate(seed, event);
        struct memory_state saved;
        memory_state_init(&saved);
        struct run run = run_create(&options);
        for (size_t i = 0; i < count; i++) {
            push(&run, event[i].kind, event[i].id, event[i].time, event[i].id % 9, event[i].id % 2);
            if (seed & 8 && i % 17 == 16) restart(&run, &saved);
        }
        ingest_finish(run.ingest);
        take_batches(&run);
        assert_true(run.judged > IDS * 9 / 10);
        assert_int_equal(delayed(&run, USERS_ALL, SPAN_START).examples, run.judged);
        for (enum metrics_users users = 0; users < USERS_GROUPS; users++)
            for (enum metrics_span span = 0; span < SPANS; span++)
                assert_same_report(delayed(&run, users, span), metrics_report(run.expected, users, span));
        assert_int_equal(shown_waiting(run.shown), 0);
        memory_state_release(&saved);
        run_destroy(&run);
    }
}

/* More numbers than one block holds: what is stored follows, block by block, and comes back whole. */
static void test_state_keeps_up(void **state)
{
    (void)state;
    enum { MANY = 5000, STEP = 50 };
    uint8_t none[STEP] = { 0 };
    uint64_t number[STEP];
    float score[STEP];
    struct memory_state saved;
    struct cs_error err = { 0 };
    memory_state_init(&saved);
    struct shown *shown = shown_create(WINDOW), *loaded = NULL;
    for (size_t i = 0; i < MANY; i++) number[i % STEP] = 1 + i, score[i % STEP] = (float)i / MANY;
    for (uint64_t first = 1; first <= MANY; first += STEP) {
        for (size_t i = 0; i < STEP; i++) number[i] = first + i, score[i] = (float)(first + i) / MANY;
        shown_keep(shown, &(struct batch){ .size = STEP, .shown = number }, score);
        if (first % 500 != 1) continue;
        assert_true(shown_save(shown, &saved.writer, &err));
        saved.writer.full = false;
    }
    assert_true(shown_save(shown, &saved.writer, &err));
    saved.puts = 0;
    assert_true(shown_save(shown, &saved.writer, &err));
    assert_true(saved.puts <= 2);       /* nothing changed: headers alone */

    /* All of the first 3000 go, in an order of their own; some later ones too. */
    for (uint64_t i = 0; i < 3000 / STEP; i++) {
        for (size_t j = 0; j < STEP; j++) number[j] = 1 + (i + j * (3000 / STEP)) % 3000;
        if (i == 7) for (size_t j = 0; j < STEP; j++) number[j] = 4000 + j;
        shown_judge(shown, &(struct batch){ .size = STEP, .shown = number, .clicked = none, .is_new = none,
                                            .correction = none, .user = number }, score);
    }
    assert_int_equal(shown_waiting(shown), MANY - 3000);
    assert_true(shown_save(shown, &saved.writer, &err));
    loaded = shown_create(WINDOW);
    if (!shown_load(loaded, &saved.reader, &err)) fail_msg("%s", err.message);
    assert_int_equal(shown_waiting(loaded), MANY - 3000);
    for (uint64_t i = 0; i < MANY; i += STEP) {
        for (size_t j = 0; j < STEP; j++) number[j] = 1 + i + j;
        struct batch batch = { .size = STEP, .shown = number, .clicked = none, .is_new = none, .correction = none,
                               .user = number };
        shown_judge(shown, &batch, score);
        shown_judge(loaded, &batch, score);
        for (enum metrics_span span = 0; span < SPANS; span++)
            assert_same_report(metrics_report(shown_metrics(shown), USERS_ALL, span),
                               metrics_report(shown_metrics(loaded), USERS_ALL, span));
    }
    assert_int_equal(shown_waiting(loaded), 0);
    assert_true(shown_save(loaded, &saved.writer, &err));
    for (size_t i = 0; i < saved.count; i++) assert_string_not_equal(saved.block[i].section, "shown.scores");
    shown_destroy(shown);
    shown_destroy(loaded);
    memory_state_release(&saved);
}

static void test_damage_is_refused(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    uint64_t number[2] = { 7, 8 };
    float score[2] = { 0.25f, 0.5f };
    struct memory_state saved;
    memory_state_init(&saved);
    struct shown *shown = shown_create(WINDOW);
    assert_false(shown_load(shown, &saved.reader, &err));       /* nothing stored */
    assert_int_equal(err.code, CS_REFUSED);
    shown_keep(shown, &(struct batch){ .size = 2, .shown = number }, score);
    assert_true(shown_save(shown, &saved.writer, &err));
    shown_destroy(shown);
    struct memory_block *block = memory_find(&saved, "shown.scores", 0);
    assert_non_null(block);
    for (int damage = 0; damage < 3; damage++) {
        uint8_t *bytes = block->bytes, byte = bytes[8 + 7 * 4 + 3];
        if (damage == 0) block->size -= 4;
        if (damage == 1) bytes[0] ^= 1;                                 /* not where a block begins */
        if (damage == 2) bytes[8 + 7 * 4 + 3] = 0xc0;                   /* a score below 0 */
        shown = shown_create(WINDOW);
        assert_false(shown_load(shown, &saved.reader, &err));
        assert_non_null(strstr(err.message, "shown.scores"));
        shown_destroy(shown);
        if (damage == 0) block->size += 4;
        if (damage == 1) bytes[0] ^= 1;
        bytes[8 + 7 * 4 + 3] = byte;
    }
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
        cmocka_unit_test(test_judged_by_the_score_of_its_showing),
        cmocka_unit_test(test_what_is_shown_and_learned_at_once),
        cmocka_unit_test(test_share_of_users),
        cmocka_unit_test(test_generated_streams),
        cmocka_unit_test(test_state_keeps_up),
        cmocka_unit_test(test_damage_is_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_destroy(arena);
    features_destroy(features);
    return failed;
}
