/* Thousands of generated streams, each through the joiner and through the plain one (plain_join.h): shuffled, lost,
 * doubled, delayed, too old, too many; windows that change on the way, clocks that run on by themselves, cuts that are
 * read while events go on, crashes that go back to the last cut. Every example and every count must agree after every
 * event, and the counts must add up to what came in. A failure names its stream: `test_join_property SEED` runs it
 * alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/ingest.h"
#include "core/merge.h"
#include "core/random.h"
#include "memory_state.h"
#include "plain_join.h"

enum { STREAMS = 3000, IDS = 80, STEPS = 600 };

static struct features *features;
static uint64_t first_seed, streams = STREAMS;

/* ---- a stream ---- */

enum step_kind { STEP_IMPRESSION, STEP_CLICK, STEP_CONVERSION, STEP_ADVANCE, STEP_WINDOW };

struct step {
    enum step_kind kind;
    uint64_t id;
    int64_t time, place;    /* STEP_WINDOW: the window; place: where it stands in the stream */
    size_t number;
};

/* What the plain joiner has after a step. */
struct expected {
    size_t outs, pending;
    struct join_counts counts;
    struct join_held held;
    int64_t window;
};

struct stream {
    uint64_t seed, drawn;
    struct join_options options;
    struct step step[STEPS];
    struct expected before, after[STEPS], end;
    size_t steps, at;
    struct plain_out *out;
};

/* What all streams together had, so that none of it can be missing unnoticed. */
static struct {
    struct join_counts counts;
    uint64_t cuts, failed_cuts, crashes, changed_meanwhile, examples;
} had;

static uint64_t draw(struct stream *stream) { return random_bits(stream->seed, stream->drawn++); }
static uint64_t below(struct stream *stream, uint64_t limit) { return limit ? draw(stream) % limit : 0; }
static bool one_in(struct stream *stream, uint64_t n) { return n && draw(stream) % n == 0; }

static void add(struct stream *stream, enum step_kind kind, uint64_t id, int64_t time, int64_t delay)
{
    if (stream->steps == STEPS) return;
    stream->step[stream->steps] =
        (struct step){ .kind = kind, .id = id, .time = time, .place = time + delay, .number = stream->steps };
    stream->steps++;
}

static int by_place(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static void generate(struct stream *stream, uint64_t seed)
{
    static const int64_t starts[] = { 0, -500, INT64_C(1700000000000) };
    *stream = (struct stream){ .seed = random_stream(seed, "join", 0) };
    uint64_t window = 1 + below(stream, one_in(stream, 4) ? 10 : 200);
    stream->options = (struct join_options){
        .window = (int64_t)window,
        .release = seed & 1 ? RELEASE_CLICK : RELEASE_WINDOW,
        .late_click = seed & 2 ? LATE_CORRECT : LATE_DROP,
        .max_pending = one_in(stream, 4) ? 1 + below(stream, 12) : 100000,
    };
    /* Each stream has its own habits; 0: never. */
    uint64_t lost = below(stream, 12), twice = below(stream, 12), clicks = 1 + below(stream, 5),
             clicked_twice = 2 + below(stream, 8), conversions = below(stream, 9), slow = below(stream, 6),
             pace = 1 + below(stream, one_in(stream, 3) ? window : 8), clock_runs = below(stream, 2) * 20,
             windows = below(stream, 3) ? 0 : 15, replayed = below(stream, 3) ? 0 : 30;
    uint64_t mess = one_in(stream, 3) ? 0 : one_in(stream, 2) ? below(stream, window) : below(stream, 4 * window);
    int64_t time = starts[below(stream, 3)];
    size_t ids = 1 + below(stream, IDS);
    for (uint64_t id = 0; id < ids; id++) {
        time += (int64_t)below(stream, pace);
        if (!one_in(stream, lost)) add(stream, STEP_IMPRESSION, id, time, (int64_t)below(stream, mess));
        if (one_in(stream, twice))
            add(stream, STEP_IMPRESSION, id, time + (int64_t)below(stream, 2) * (int64_t)below(stream, window),
                (int64_t)below(stream, 3 * window));
        for (bool more = one_in(stream, clicks); more; more = one_in(stream, clicked_twice)) {
            uint64_t late = one_in(stream, slow) ? 3 * window : window + 2;
            int64_t early = one_in(stream, 6) ? (int64_t)below(stream, window) : 0;
            add(stream, STEP_CLICK, id, time + (int64_t)below(stream, late) - early, (int64_t)below(stream, mess));
        }
        if (one_in(stream, conversions))
            add(stream, STEP_CONVERSION, id, time + (int64_t)below(stream, 3 * window) - (int64_t)below(stream, window),
                (int64_t)below(stream, mess));
        if (one_in(stream, clock_runs)) add(stream, STEP_ADVANCE, 0, time + (int64_t)below(stream, 2 * window), 0);
        if (one_in(stream, windows)) {
            add(stream, STEP_WINDOW, 0, time, 0);
            if (stream->steps < STEPS) stream->step[stream->steps - 1].time = (int64_t)below(stream, 2 * window);
        }
        if (stream->steps && one_in(stream, replayed)) { /* a producer sends the last ones once more */
            size_t again = 1 + below(stream, stream->steps < 10 ? stream->steps : 10), from = stream->steps - again;
            for (size_t i = 0; i < again; i++) {
                struct step step = stream->step[from + i];
                if (step.kind < STEP_ADVANCE) add(stream, step.kind, step.id, step.time, (int64_t)(mess + window));
            }
        }
    }
    qsort(stream->step, stream->steps, sizeof *stream->step, by_place);
}

/* ---- the plain joiner, once through ---- */

static struct expected seen_plain(struct plain_join *plain)
{
    return (struct expected){ .outs = plain->outs,
                              .pending = plain_count(plain, true),
                              .counts = plain->counts,
                              .held = plain_held(plain),
                              .window = plain->options.window };
}

static void expect(struct stream *stream)
{
    struct plain_join plain = { .options = stream->options, .clock = INT64_MIN };
    stream->before = seen_plain(&plain);
    for (size_t i = 0; i < stream->steps; i++) {
        const struct step *step = &stream->step[i];
        if (step->kind == STEP_ADVANCE)
            plain_advance(&plain, step->time);
        else if (step->kind == STEP_WINDOW)
            plain.options.window = step->time;
        else
            plain_push(&plain, (enum event_kind)step->kind, step->id, step->time);
        stream->after[i] = seen_plain(&plain);
    }
    plain_release_all(&plain);
    stream->end = seen_plain(&plain);
    stream->out = plain.out;
    free(plain.id);
    for (int i = 0; i < JOIN_RESULTS; i++) had.counts.result[i] += plain.counts.result[i];
    had.counts.duplicate_impressions += plain.counts.duplicate_impressions;
    had.counts.conversions += plain.counts.conversions;
    had.counts.corrected += plain.counts.corrected;
    had.counts.forced += plain.counts.forced;
    had.examples += plain.outs;
}

/* ---- comparing ---- */

static uint64_t seed_of_failure;

#define CHECK(stream, condition)                                                                                       \
    do {                                                                                                               \
        if (condition) break;                                                                                          \
        print_error("stream %llu, step %zu of %zu: %s\n", (unsigned long long)seed_of_failure, (stream)->at,           \
                    (stream)->steps, #condition);                                                                      \
        fail();                                                                                                        \
    } while (0)

static struct event event_of(const struct step *step)
{
    struct event event = { .kind = (enum event_kind)step->kind, .time = step->time };
    char id[24];
    size_t length = (size_t)snprintf(id, sizeof id, "%llu", (unsigned long long)step->id);
    if (event.kind == EVENT_IMPRESSION) {
        event.example = example_create(features, length, 0, 1);
        memcpy(example_id(event.example), id, length);
        example_keys(event.example)[0] = step->id;
        example_keys_of(event.example)[0] = 1;
        event.example->user = step->id % 7;
        event.example->item = step->id;
        event.example->time = step->time;
    } else {
        event.id = strdup(id);
        event.id_length = length;
    }
    return event;
}

static void compare_counts(const struct stream *stream, struct join_counts counts, struct join_held held,
                           const struct expected *expected)
{
    CHECK(stream, memcmp(&counts, &expected->counts, sizeof counts) == 0);
    CHECK(stream, memcmp(&held, &expected->held, sizeof held) == 0);
    CHECK(stream, join_counts_add_up(&counts, &held));
    /* The words: all outcomes together are all that came in; a match is an impression's and a click's. */
    uint64_t outcomes = counts.result[JOIN_MATCHED];
    for (int i = 0; i < JOIN_RESULTS; i++) outcomes += counts.result[i];
    CHECK(stream, counts.impressions + counts.clicks == outcomes + held.impressions + held.clicks);
}

static void compare(const struct stream *stream, struct joiner *joiner, const struct expected *expected, size_t *seen)
{
    for (struct example *example; (example = joiner_pop(joiner)); ++*seen) {
        CHECK(stream, *seen < expected->outs);
        const struct plain_out *out = &stream->out[*seen];
        CHECK(stream, strtoull(example_id(example), NULL, 10) == out->id && example->item == out->id);
        CHECK(stream, example->time == out->time && example->released == out->released);
        CHECK(stream, example->clicked == out->clicked && example->converted == out->converted);
        CHECK(stream, example->correction == out->correction);
        CHECK(stream, example_check(features, example, example->size));
        memset(example, 0xee, example->size); /* it is ours: nothing that is saved may point at it */
        free(example);
    }
    CHECK(stream, *seen == expected->outs && joiner_pending(joiner) == expected->pending);
    compare_counts(stream, joiner_counts(joiner), joiner_held(joiner), expected);
}

/* ---- the joiner, with cuts and crashes ---- */

struct run {
    struct stream *stream;
    struct joiner *joiner;
    size_t next, seen;              /* the stream's next step; examples that came out */
    struct memory_state saved;
    enum { NO_CUT, BEGUN, READ } cut;
    bool restorable;                /* the last cut was written */
    size_t cut_next, cut_seen, crashes;
};

static const struct expected *before_next(const struct run *run)
{
    return run->next ? &run->stream->after[run->next - 1] : &run->stream->before;
}

static struct joiner *create(const struct run *run)
{
    struct join_options options = run->stream->options;
    options.window = before_next(run)->window;
    return joiner_create(features, &options, NULL, NULL);
}

static void end_cut(struct run *run, bool written)
{
    if (run->cut == BEGUN) memory_state_read(&run->saved);
    memory_state_end(&run->saved, written);
    run->restorable = written;
    run->cut = NO_CUT;
    ++*(written ? &had.cuts : &had.failed_cuts);
    had.changed_meanwhile += run->next != run->cut_next;
}

static void crash(struct run *run)
{
    struct cs_error err = { 0 };
    joiner_destroy(run->joiner);
    run->next = run->cut_next;
    run->seen = run->cut_seen;
    run->joiner = create(run);
    if (!joiner_load(run->joiner, &run->saved.reader, &err)) print_error("%s\n", err.message);
    CHECK(run->stream, err.code == CS_OK);
    run->crashes++;
    had.crashes++;
    compare(run->stream, run->joiner, before_next(run), &run->seen);
}

/* Perhaps the snapshot's thread does something, perhaps the process dies. */
static void meanwhile(struct run *run, uint64_t often)
{
    struct stream *stream = run->stream;
    if (run->cut == NO_CUT && one_in(stream, often)) {
        CHECK(stream, joiner_save(run->joiner, &run->saved.writer, NULL));
        run->saved.writer.full = false;
        run->cut = BEGUN;
        run->restorable = false;
        run->cut_next = run->next;
        run->cut_seen = run->seen;
    } else if (run->cut == BEGUN && one_in(stream, 6)) {
        memory_state_read(&run->saved);
        run->cut = READ;
    } else if (run->cut != NO_CUT && one_in(stream, 8)) {
        end_cut(run, !one_in(stream, 4));
    } else if (run->restorable && run->crashes < 4 && one_in(stream, 20)) {
        crash(run);
    }
}

static void run_joiner(struct stream *stream)
{
    struct run run = { .stream = stream };
    uint64_t often = one_in(stream, 3) ? 0 : 1 + below(stream, 30);
    memory_state_init(&run.saved);
    run.saved.later = true;
    run.joiner = create(&run);
    while (run.next < stream->steps) {
        const struct step *step = &stream->step[run.next];
        stream->at = run.next++;
        if (step->kind == STEP_ADVANCE) {
            joiner_advance(run.joiner, step->time);
        } else if (step->kind == STEP_WINDOW) {
            joiner_set_window(run.joiner, step->time);
        } else {
            struct event event = event_of(step);
            joiner_push(run.joiner, &event);
        }
        compare(stream, run.joiner, before_next(&run), &run.seen);
        meanwhile(&run, often);
    }
    joiner_release_all(run.joiner);
    compare(stream, run.joiner, &stream->end, &run.seen);
    CHECK(stream, stream->end.held.impressions == 0 && stream->end.held.clicks == 0);
    if (run.cut != NO_CUT) end_cut(&run, true);
    joiner_destroy(run.joiner);
    memory_state_release(&run.saved);
}

static void each_stream(void (*body)(struct stream *))
{
    static struct stream stream;
    memset(&had, 0, sizeof had);
    for (uint64_t seed = first_seed; seed < first_seed + streams; seed++) {
        seed_of_failure = seed;
        generate(&stream, seed);
        expect(&stream);
        body(&stream);
        free(stream.out);
    }
}

static void test_joiner_is_the_plain_one(void **state)
{
    (void)state;
    each_stream(run_joiner);
    print_message("examples %llu, cuts %llu written and %llu failed, %llu of them changed while read, crashes %llu\n",
                  (unsigned long long)had.examples, (unsigned long long)had.cuts, (unsigned long long)had.failed_cuts,
                  (unsigned long long)had.changed_meanwhile, (unsigned long long)had.crashes);
    if (streams == 1) return;
    for (int i = 0; i < JOIN_RESULTS; i++) assert_true(had.counts.result[i] > STREAMS);
    assert_true(had.counts.duplicate_impressions > STREAMS && had.counts.conversions > STREAMS);
    assert_true(had.counts.corrected > STREAMS && had.counts.forced > STREAMS && had.examples > 10 * STREAMS);
    assert_true(had.cuts > STREAMS && had.failed_cuts > STREAMS / 4 && had.crashes > STREAMS / 2);
    assert_true(had.changed_meanwhile > STREAMS);
}

/* ---- the same through ingest: histories and batches besides, restarts between two events ---- */

static void restart(struct ingest **ingest, struct memory_state *saved, struct ingest_options *options, int64_t window)
{
    struct cs_error err = { 0 };
    assert_true(ingest_save(*ingest, &saved->writer, &err));
    saved->writer.full = false;
    ingest_destroy(*ingest);
    options->join.window = window;
    *ingest = ingest_create(features, options, &err);
    if (!ingest_load(*ingest, &saved->reader, &err)) print_error("%s\n", err.message);
    assert_int_equal(err.code, CS_OK);
}

static void take_batches(const struct stream *stream, struct ingest *ingest, struct arena *arena, size_t *seen)
{
    for (struct batch *batch; (batch = ingest_pop(ingest, arena)); arena_reset(arena))
        for (size_t i = 0; i < batch->size; i++, ++*seen) {
            CHECK(stream, *seen < stream->end.outs);
            CHECK(stream, strtoull(batch->id[i], NULL, 10) == stream->out[*seen].id);
            CHECK(stream, batch->clicked[i] == stream->out[*seen].clicked);
            CHECK(stream, batch->correction[i] == stream->out[*seen].correction);
        }
}

static void run_ingest(struct stream *stream)
{
    struct ingest_options options = { .join = stream->options,
                                      .history = { .max_length = 3, .max_users = 5 },
                                      .batch = { .size = 1 + below(stream, 9) } };
    struct ingest *ingest = ingest_create(features, &options, NULL);
    struct arena *arena = arena_create(1 << 16);
    struct memory_state saved;
    memory_state_init(&saved);
    uint64_t often = 5 + below(stream, 60);
    size_t seen = 0;
    for (stream->at = 0; stream->at < stream->steps; stream->at++) {
        const struct step *step = &stream->step[stream->at];
        if (step->kind == STEP_ADVANCE) {
            ingest_advance(ingest, step->time);
        } else if (step->kind == STEP_WINDOW) {
            ingest_set_join_window(ingest, step->time);
        } else {
            struct event event = event_of(step);
            ingest_push(ingest, &event);
        }
        take_batches(stream, ingest, arena, &seen);
        const struct expected *expected = &stream->after[stream->at];
        CHECK(stream, seen + ingest_open(ingest) == expected->outs);
        if (one_in(stream, often)) restart(&ingest, &saved, &options, expected->window);
        compare_counts(stream, ingest_counts(ingest), ingest_held(ingest), expected);
    }
    ingest_finish(ingest);
    take_batches(stream, ingest, arena, &seen);
    CHECK(stream, seen == stream->end.outs);
    compare_counts(stream, ingest_counts(ingest), ingest_held(ingest), &stream->end);
    ingest_destroy(ingest);
    arena_destroy(arena);
    memory_state_release(&saved);
}

static void test_ingest_is_the_plain_one(void **state)
{
    (void)state;
    uint64_t all = streams;
    if (streams > STREAMS / 4) streams = STREAMS / 4;
    each_stream(run_ingest);
    streams = all;
}

/* ---- several partitions: which are idle when may change the order of examples, never which they are ---- */

enum { PARTITIONS = 4, JOINED = 150, JOIN_WINDOW = 400 };

struct partition {
    struct step step[2 * JOINED];
    size_t count, pushed, index;
};

/* Each impression in one partition, its click in another, each nearly in order of time. */
static void spread(struct stream *stream, struct partition *partition, bool *clicked)
{
    int64_t time = 0;
    for (size_t i = 0; i < PARTITIONS; i++) partition[i].count = partition[i].pushed = 0;
    stream->steps = 0;
    for (uint64_t id = 0; id < JOINED; id++) {
        time += (int64_t)below(stream, 20);
        add(stream, STEP_IMPRESSION, id, time, (int64_t)below(stream, JOIN_WINDOW / 16));
        clicked[id] = one_in(stream, 3);
        if (clicked[id])
            add(stream, STEP_CLICK, id, time + (int64_t)below(stream, JOIN_WINDOW / 2),
                (int64_t)below(stream, JOIN_WINDOW / 16));
    }
    qsort(stream->step, stream->steps, sizeof *stream->step, by_place);
    for (size_t i = 0; i < stream->steps; i++) {
        struct partition *one = &partition[below(stream, PARTITIONS)];
        one->step[one->count++] = stream->step[i];
    }
}

/* No partition is pushed further ahead than `lag` of the one that is furthest behind. */
static bool may_push(const struct partition *partition, const struct partition *one, int64_t lag)
{
    if (one->pushed == one->count) return false;
    for (size_t i = 0; i < PARTITIONS; i++)
        if (partition[i].pushed < partition[i].count &&
            one->step[one->pushed].time > partition[i].step[partition[i].pushed].time + lag)
            return false;
    return true;
}

static void join_merged(struct stream *stream, struct merge *merge, struct joiner *joiner, size_t *positives,
                        size_t *times)
{
    struct merge_entry entry;
    for (size_t from, waiting_for; merge_pop(merge, &entry, &from, &waiting_for);) joiner_push(joiner, &entry.event);
    for (struct example *example; (example = joiner_pop(joiner)); free(example)) {
        CHECK(stream, example->item < JOINED);
        times[example->item]++;
        positives[example->item] += example->clicked;
    }
}

static void merge_with_idles(struct stream *stream, struct partition *partition, int64_t lag, uint64_t idles,
                             size_t *positives, size_t *times)
{
    struct join_options options = { .window = JOIN_WINDOW, .max_pending = 100000 };
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL);
    struct merge *merge = merge_create();
    size_t left = stream->steps;
    memset(positives, 0, JOINED * sizeof *positives);
    memset(times, 0, JOINED * sizeof *times);
    for (size_t i = 0; i < PARTITIONS; i++) {
        partition[i].index = merge_add_source(merge, i);
        partition[i].pushed = 0;
    }
    while (left) {
        struct partition *one = &partition[below(stream, PARTITIONS)];
        for (uint64_t burst = 1 + below(stream, 6); burst && may_push(partition, one, lag); burst--, left--) {
            struct merge_entry entry = { .has_event = true, .event = event_of(&one->step[one->pushed]),
                                         .offset = (int64_t)one->pushed };
            one->pushed++;
            merge_push(merge, one->index, &entry);
        }
        if (one->pushed == one->count || one_in(stream, idles)) merge_set_idle(merge, one->index, true);
        join_merged(stream, merge, joiner, positives, times);
    }
    for (size_t i = 0; i < PARTITIONS; i++) merge_set_idle(merge, partition[i].index, true);
    join_merged(stream, merge, joiner, positives, times);
    joiner_release_all(joiner);
    join_merged(stream, merge, joiner, positives, times);
    struct join_counts counts = joiner_counts(joiner);
    struct join_held held = joiner_held(joiner);
    CHECK(stream, join_counts_add_up(&counts, &held));
    joiner_destroy(joiner);
    merge_destroy(merge);
}

static void test_idle_partitions_change_no_example(void **state)
{
    (void)state;
    static struct stream stream;
    static struct partition partition[PARTITIONS];
    static bool clicked[JOINED];
    static size_t positives[JOINED], times[JOINED];
    for (uint64_t seed = 0; seed < 200; seed++) {
        seed_of_failure = seed;
        stream = (struct stream){ .seed = random_stream(seed, "merge", 0) };
        spread(&stream, partition, clicked);
        for (uint64_t idles = 0; idles < 5; idles++) {
            /* A partition that comes back within the window: the same examples with the same labels. */
            merge_with_idles(&stream, partition, JOIN_WINDOW / 4, idles, positives, times);
            for (size_t id = 0; id < JOINED; id++) CHECK(&stream, times[id] == 1 && positives[id] == clicked[id]);
            /* However late it comes back: each impression is an example once. */
            merge_with_idles(&stream, partition, INT64_C(1) << 40, idles, positives, times);
            for (size_t id = 0; id < JOINED; id++) CHECK(&stream, times[id] == 1 && positives[id] <= clicked[id]);
        }
    }
}

int main(int argc, char **argv)
{
    struct feature_options feature[] = { { .name = "item_id", .group = GROUP_ITEM, .table = "item" } };
    struct features_options options = {
        .feature = feature, .feature_count = 1, .behavior_table = "item", .behavior_max_length = 3
    };
    features = features_create(&options, NULL);
    if (argc > 1) {
        first_seed = strtoull(argv[1], NULL, 10);
        streams = 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joiner_is_the_plain_one),
        cmocka_unit_test(test_ingest_is_the_plain_one),
        cmocka_unit_test(test_idle_partitions_change_no_example),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    features_destroy(features);
    return failed;
}
