/* Impressions meet their clicks: each rule by itself, then generated streams against the plain joiner. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/joiner.h"
#include "core/random.h"
#include "memory_state.h"
#include "plain_join.h"

enum { WINDOW = 100 };

static struct features *features;
static size_t clicks_told;

static void count_click(void *argument, const struct example *impression)
{
    assert_ptr_equal(argument, &clicks_told);
    assert_int_equal(impression->clicked, 1);
    clicks_told++;
}

static struct joiner *create(struct join_options options)
{
    if (!options.window) options.window = WINDOW;
    if (!options.max_pending) options.max_pending = 1000;
    clicks_told = 0;
    return joiner_create(features, &options, count_click, &clicks_told);
}

static struct event make_event(enum event_kind kind, const char *id, int64_t time)
{
    struct event event = { .kind = kind, .time = time };
    size_t length = strlen(id);
    if (kind == EVENT_IMPRESSION) {
        event.example = example_create(features, length, 1, 0);
        memcpy(example_id(event.example), id, length);
        example_behaviors(event.example)[0] = (uint64_t)time;
        event.example->time = time;
    } else {
        event.id = strdup(id);
        event.id_length = length;
    }
    return event;
}

static void push(struct joiner *joiner, enum event_kind kind, const char *id, int64_t time)
{
    struct event event = make_event(kind, id, time);
    joiner_push(joiner, &event);
    assert_null(event.example);
    assert_null(event.id);
}

static void impression(struct joiner *joiner, const char *id, int64_t time)
{
    push(joiner, EVENT_IMPRESSION, id, time);
}
static void click(struct joiner *joiner, const char *id, int64_t time) { push(joiner, EVENT_CLICK, id, time); }

static void assert_out(struct joiner *joiner, const char *id, bool clicked, int64_t released)
{
    struct example *example = joiner_pop(joiner);
    assert_non_null(example);
    assert_string_equal(example_id(example), id);
    assert_int_equal(example->clicked, clicked);
    assert_true(example->released == released);
    free(example);
}

static void assert_nothing_out(struct joiner *joiner) { assert_null(joiner_pop(joiner)); }

static uint64_t result(const struct joiner *joiner, enum join_result which)
{
    return joiner_counts(joiner).result[which];
}

static void test_window(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    impression(joiner, "a", 0);
    impression(joiner, "b", 0);
    click(joiner, "b", WINDOW); /* the last moment */
    assert_nothing_out(joiner); /* a positive waits as long as a negative */
    assert_int_equal(joiner_pending(joiner), 2);
    joiner_advance(joiner, WINDOW);
    assert_nothing_out(joiner);
    joiner_advance(joiner, WINDOW + 1);
    assert_out(joiner, "a", false, WINDOW);
    assert_out(joiner, "b", true, WINDOW);
    assert_nothing_out(joiner);
    assert_int_equal(result(joiner, JOIN_MATCHED), 1);
    assert_int_equal(result(joiner, JOIN_EXPIRED), 1);
    assert_int_equal(joiner_pending(joiner), 0);
    assert_int_equal(clicks_told, 1);
    joiner_destroy(joiner);
}

static void test_release_at_click(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ .release = RELEASE_CLICK });
    impression(joiner, "a", 0);
    impression(joiner, "b", 0);
    click(joiner, "b", 30);
    assert_out(joiner, "b", true, 30);
    click(joiner, "c", 40);
    impression(joiner, "c", 50);
    assert_out(joiner, "c", true, 50);
    click(joiner, "d", 60);
    impression(joiner, "d", 55); /* out of order: joined when both were there */
    assert_out(joiner, "d", true, 60);
    joiner_advance(joiner, WINDOW + 1);
    assert_out(joiner, "a", false, WINDOW);
    assert_nothing_out(joiner);
    joiner_destroy(joiner);
}

static void test_click_first(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    click(joiner, "a", 0);
    click(joiner, "a", 1);
    click(joiner, "b", 1);
    assert_int_equal(joiner_pending(joiner), 2);
    impression(joiner, "a", WINDOW); /* still waits for it */
    assert_int_equal(clicks_told, 1);
    impression(joiner, "b", WINDOW + 2);
    assert_int_equal(result(joiner, JOIN_ORPHAN), 1);
    joiner_release_all(joiner);
    assert_out(joiner, "a", true, 2 * WINDOW);
    assert_out(joiner, "b", false, 2 * WINDOW + 2);
    assert_int_equal(result(joiner, JOIN_DUPLICATE), 1);
    joiner_destroy(joiner);
}

static void test_duplicates_and_late(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    impression(joiner, "a", 0);
    impression(joiner, "a", 5);
    click(joiner, "a", 6);
    click(joiner, "a", 7);
    impression(joiner, "b", 0);
    joiner_advance(joiner, WINDOW + 1);
    assert_out(joiner, "a", true, WINDOW);
    assert_out(joiner, "b", false, WINDOW);
    impression(joiner, "a", WINDOW + 2); /* ids are remembered for another window */
    click(joiner, "a", WINDOW + 2);
    click(joiner, "b", WINDOW + 2);
    click(joiner, "b", WINDOW + 3);
    struct join_counts counts = joiner_counts(joiner);
    assert_int_equal(counts.duplicate_impressions, 2);
    assert_int_equal(counts.result[JOIN_DUPLICATE], 5);
    assert_int_equal(counts.result[JOIN_LATE], 1);
    assert_int_equal(counts.corrected, 0);
    assert_nothing_out(joiner);
    click(joiner, "b", 2 * WINDOW + 1); /* forgotten by now: waits like any early click */
    assert_int_equal(joiner_pending(joiner), 1);
    joiner_destroy(joiner);
}

static void test_late_click_is_corrected(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ .late_click = LATE_CORRECT });
    impression(joiner, "a", 0);
    joiner_advance(joiner, WINDOW + 1);
    assert_out(joiner, "a", false, WINDOW);
    click(joiner, "a", WINDOW + 50);
    struct example *corrected = joiner_pop(joiner);
    assert_non_null(corrected);
    assert_string_equal(example_id(corrected), "a");
    assert_int_equal(corrected->clicked, 1);
    assert_int_equal(corrected->correction, 1);
    assert_true(corrected->released == WINDOW + 50 && corrected->time == 0);
    assert_int_equal(corrected->behavior_count, 1);
    free(corrected);
    click(joiner, "a", WINDOW + 60);
    assert_nothing_out(joiner);
    struct join_counts counts = joiner_counts(joiner);
    assert_true(counts.corrected == 1 && counts.result[JOIN_LATE] == 1 && counts.result[JOIN_DUPLICATE] == 1);
    assert_int_equal(clicks_told, 1);
    joiner_destroy(joiner);
}

static void test_impression_too_old(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    click(joiner, "a", 1000);
    click(joiner, "b", 1000);
    impression(joiner, "a", 900); /* its click was in time */
    impression(joiner, "b", 899); /* its click was not */
    impression(joiner, "c", 100);
    joiner_advance(joiner, 1001);
    assert_out(joiner, "b", false, 1000);
    assert_out(joiner, "c", false, 1000);
    assert_out(joiner, "a", true, 1000);
    struct join_counts counts = joiner_counts(joiner);
    assert_true(counts.result[JOIN_MATCHED] == 1 && counts.result[JOIN_EXPIRED] == 2 && counts.result[JOIN_LATE] == 1);
    joiner_destroy(joiner);
}

/* Early clicks carry no bias: with `release: window` each example leaves at the same age, whenever its click came. */
static void test_every_example_leaves_at_the_same_age(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    click(joiner, "before", 0);
    impression(joiner, "before", 10);
    impression(joiner, "at once", 20);
    click(joiner, "at once", 20);
    impression(joiner, "never", 30);
    impression(joiner, "last moment", 40);
    click(joiner, "last moment", 40 + WINDOW);
    joiner_advance(joiner, 1000);
    for (int i = 0; i < 4; i++) {
        struct example *example = joiner_pop(joiner);
        assert_non_null(example);
        assert_true(example->released - example->time == WINDOW);
        assert_int_equal(example->clicked, i != 2);
        free(example);
    }
    assert_nothing_out(joiner);
    joiner_destroy(joiner);
}

/* drop: a click later than the window changes nothing, and no history hears of it. */
static void test_late_click_is_dropped(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ .late_click = LATE_DROP });
    impression(joiner, "a", 0);
    click(joiner, "a", WINDOW + 1); /* its own time ends the window */
    assert_out(joiner, "a", false, WINDOW);
    assert_nothing_out(joiner);
    struct join_counts counts = joiner_counts(joiner);
    assert_true(counts.result[JOIN_LATE] == 1 && counts.result[JOIN_EXPIRED] == 1 && counts.corrected == 0);
    assert_int_equal(clicks_told, 0);
    joiner_destroy(joiner);
}

/* correct: also for a click that waited for its impression in vain, as its time is past the window; even where so few
 * ids are remembered that the impression's is forgotten on the spot. */
static void test_late_click_that_waited_is_corrected(void **state)
{
    (void)state;
    for (uint64_t max_pending = 1; max_pending <= 1000; max_pending += 999) {
        struct joiner *joiner =
            create((struct join_options){ .late_click = LATE_CORRECT, .max_pending = max_pending });
        impression(joiner, "x", 0);
        joiner_set_window(joiner, 10);
        click(joiner, "a", 90);
        impression(joiner, "a", 60);
        if (max_pending == 1) assert_out(joiner, "x", false, 90); /* no room for both */
        assert_out(joiner, "a", false, 90);
        struct example *corrected = joiner_pop(joiner);
        assert_non_null(corrected);
        assert_string_equal(example_id(corrected), "a");
        assert_true(corrected->clicked && corrected->correction && corrected->released == 90);
        free(corrected);
        assert_nothing_out(joiner);
        struct join_counts counts = joiner_counts(joiner);
        struct join_held held = joiner_held(joiner);
        assert_true(counts.corrected == 1 && counts.result[JOIN_LATE] == 1 && join_counts_add_up(&counts, &held));
        assert_int_equal(clicks_told, 1);
        joiner_destroy(joiner);
    }
}

/* Each count by itself: off by one is noticed. */
static void test_counts_add_up(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    impression(joiner, "a", 0);
    impression(joiner, "a", 0);
    impression(joiner, "b", 0);
    click(joiner, "a", 1);
    click(joiner, "waits", 1);
    push(joiner, EVENT_CONVERSION, "no click", 1);
    struct join_counts counts = joiner_counts(joiner);
    struct join_held held = joiner_held(joiner);
    assert_true(held.impressions == 1 && held.clicks == 1 && joiner_pending(joiner) == 4);
    assert_true(join_counts_add_up(&counts, &held));
    uint64_t *each[] = { &counts.impressions, &counts.clicks, &counts.duplicate_impressions, &held.impressions,
                         &held.clicks, &counts.result[JOIN_MATCHED], &counts.result[JOIN_EXPIRED],
                         &counts.result[JOIN_LATE], &counts.result[JOIN_DUPLICATE], &counts.result[JOIN_ORPHAN] };
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        ++*each[i];
        assert_false(join_counts_add_up(&counts, &held));
        --*each[i];
    }
    joiner_destroy(joiner);
}

static void test_full(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ .max_pending = 3 });
    impression(joiner, "a", 10);
    impression(joiner, "b", 5);
    click(joiner, "x", 20);
    impression(joiner, "c", 30); /* b has the nearest end */
    assert_out(joiner, "b", false, 30);
    impression(joiner, "d", 30);
    assert_out(joiner, "a", false, 30);
    impression(joiner, "e", 30);
    assert_nothing_out(joiner); /* the click without its impression left */
    assert_int_equal(result(joiner, JOIN_ORPHAN), 1);
    assert_int_equal(joiner_counts(joiner).forced, 3);
    assert_int_equal(joiner_pending(joiner), 3);
    click(joiner, "a", 31); /* told apart: its impression left without it */
    assert_int_equal(result(joiner, JOIN_LATE), 1);
    joiner_destroy(joiner);
}

static void test_conversions(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    push(joiner, EVENT_CONVERSION, "early", 0);
    impression(joiner, "early", 1);
    impression(joiner, "a", 1);
    click(joiner, "a", 2);
    push(joiner, EVENT_CONVERSION, "a", 3);
    push(joiner, EVENT_CONVERSION, "nobody", 3);
    joiner_release_all(joiner);
    for (int i = 0; i < 2; i++) {
        struct example *example = joiner_pop(joiner);
        assert_int_equal(example->converted, 1);
        assert_int_equal(example->clicked, i);
        free(example);
    }
    assert_int_equal(joiner_counts(joiner).conversions, 3);
    assert_int_equal(result(joiner, JOIN_ORPHAN), 0); /* orphans are clicks */
    joiner_destroy(joiner);
}

static void test_set_window(void **state)
{
    (void)state;
    struct joiner *joiner = create((struct join_options){ 0 });
    impression(joiner, "a", 0);
    joiner_set_window(joiner, 10);
    impression(joiner, "b", 0);
    joiner_advance(joiner, 50);
    assert_out(joiner, "b", false, 10);
    assert_nothing_out(joiner);
    joiner_advance(joiner, WINDOW + 1);
    assert_out(joiner, "a", false, WINDOW);
    joiner_destroy(joiner);
}

/* ---- generated streams ---- */

struct generated {
    enum event_kind kind;
    uint64_t id;
    int64_t time;
};

/* Impressions and clicks of `ids` ids: some lost, some twice, some far too late, the whole out of order by up to `mess`
 * ms. */
static size_t generate(uint64_t seed, size_t ids, int64_t mess, struct generated *event)
{
    size_t count = 0;
    uint64_t n = 0;
    int64_t at = 1000;
    for (uint64_t id = 0; id < ids; id++) {
        at += (int64_t)(random_bits(seed, n++) % 4);
        uint64_t dice = random_bits(seed, n++);
        if (dice % 16) event[count++] = (struct generated){ EVENT_IMPRESSION, id, at };
        if (dice % 11 == 0)
            event[count++] = (struct generated){ EVENT_IMPRESSION, id, at + (int64_t)(dice >> 32) % 300 };
        if (dice % 3 == 0)
            event[count++] = (struct generated){ EVENT_CLICK, id, at + (int64_t)(dice >> 40) % 250 - 10 };
        if (dice % 15 == 0) event[count++] = (struct generated){ EVENT_CLICK, id, at + (int64_t)(dice >> 24) % 250 };
        if (dice % 7 == 0)
            event[count++] = (struct generated){ EVENT_CONVERSION, id, at + (int64_t)(dice >> 48) % 120 };
    }
    /* Insertion by a disturbed time: near its place, not at it. */
    int64_t *place = malloc(count * sizeof *place);
    for (size_t i = 0; i < count; i++) {
        struct generated moved = event[i];
        int64_t key = moved.time + (mess ? (int64_t)(random_bits(seed, n++) % (uint64_t)mess) : 0);
        size_t j = i;
        for (; j > 0 && place[j - 1] > key; j--) {
            event[j] = event[j - 1];
            place[j] = place[j - 1];
        }
        event[j] = moved;
        place[j] = key;
    }
    free(place);
    return count;
}

static void assert_same_counts(struct join_counts a, struct join_counts b) { assert_memory_equal(&a, &b, sizeof a); }

static void drain(struct joiner *joiner, const struct plain_join *plain, size_t *seen)
{
    struct example *example;
    while ((example = joiner_pop(joiner))) {
        assert_true(*seen < plain->outs);
        const struct plain_out *expected = &plain->out[(*seen)++];
        assert_true(strtoull(example_id(example), NULL, 10) == expected->id);
        assert_true(example->released == expected->released);
        assert_int_equal(example->clicked, expected->clicked);
        assert_int_equal(example->converted, expected->converted);
        assert_int_equal(example->correction, expected->correction);
        assert_true(example_check(features, example, example->size));
        free(example);
    }
    assert_int_equal(*seen, plain->outs);
}

static void save_and_load(struct joiner **joiner, struct memory_state *saved, const struct join_options *options)
{
    struct cs_error err = { 0 };
    assert_true(joiner_save(*joiner, &saved->writer, &err));
    saved->writer.full = false;
    joiner_destroy(*joiner);
    *joiner = joiner_create(features, options, NULL, NULL);
    if (!joiner_load(*joiner, &saved->reader, &err)) print_error("%s\n", err.message);
    assert_int_equal(err.code, CS_OK);
}

static void compare(uint64_t seed, struct join_options options, size_t ids, int64_t mess, size_t save_every)
{
    struct generated *event = malloc(ids * 5 * sizeof *event);
    size_t count = generate(seed, ids, mess, event), seen = 0;
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL);
    struct plain_join plain = { .options = options, .clock = INT64_MIN };
    struct memory_state saved;
    memory_state_init(&saved);
    for (size_t i = 0; i < count; i++) {
        char id[24];
        snprintf(id, sizeof id, "%llu", (unsigned long long)event[i].id);
        push(joiner, event[i].kind, id, event[i].time);
        plain_push(&plain, event[i].kind, event[i].id, event[i].time);
        drain(joiner, &plain, &seen);
        assert_int_equal(joiner_pending(joiner), plain_count(&plain, true));
        if (save_every && i % save_every == save_every - 1) save_and_load(&joiner, &saved, &options);
    }
    joiner_release_all(joiner);
    plain_release_all(&plain);
    drain(joiner, &plain, &seen);
    struct join_counts c = joiner_counts(joiner);
    assert_same_counts(c, plain.counts);
    /* Nothing is lost: every event ended in exactly one outcome. */
    uint64_t decided = c.impressions - c.duplicate_impressions;
    assert_true(c.clicks + c.duplicate_impressions == c.result[JOIN_MATCHED] + c.result[JOIN_LATE] +
                                                          c.result[JOIN_DUPLICATE] + c.result[JOIN_ORPHAN]);
    assert_true(decided == c.result[JOIN_MATCHED] + c.result[JOIN_EXPIRED]);
    assert_int_equal(plain.outs, decided + c.corrected);
    assert_true(c.result[JOIN_MATCHED] > 0 && c.result[JOIN_EXPIRED] > 0 && c.result[JOIN_DUPLICATE] > 0);
    joiner_destroy(joiner);
    memory_state_release(&saved);
    free(plain.id);
    free(plain.out);
    free(event);
}

static void test_generated_streams(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct join_options options = { .window = 60 + (int64_t)seed * 5,
                                        .release = seed & 1 ? RELEASE_CLICK : RELEASE_WINDOW,
                                        .late_click = seed & 2 ? LATE_CORRECT : LATE_DROP,
                                        .max_pending = seed % 5 == 4 ? 20 : 100000 };
        compare(seed, options, 400, (int64_t)(seed % 4) * 90, seed % 3 == 2 ? 37 : 0);
    }
}

static void test_many_ids_keep_their_place(void **state)
{
    (void)state; /* several blocks, growth of the table, reuse of entries */
    struct join_options options = { .window = 3000, .max_pending = 100000, .late_click = LATE_CORRECT };
    compare(99, options, 3000, 500, 2500);
}

static size_t given_by_save(struct joiner *joiner, struct memory_state *saved)
{
    saved->given = saved->puts = 0;
    assert_true(joiner_save(joiner, &saved->writer, NULL));
    saved->writer.full = false;
    assert_int_equal(saved->puts, 1); /* the header */
    return saved->given;
}

static void many_impressions(struct joiner *joiner, int count)
{
    for (int i = 0; i < count; i++) {
        char id[24];
        snprintf(id, sizeof id, "%d", i);
        impression(joiner, id, i);
    }
}

static void test_save_gives_only_what_changed(void **state)
{
    (void)state;
    struct join_options options = { .window = 1000000, .max_pending = 1000000 };
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL);
    struct memory_state saved;
    memory_state_init(&saved);
    many_impressions(joiner, 8000);
    assert_int_equal(given_by_save(joiner, &saved), 8000);
    assert_int_equal(given_by_save(joiner, &saved), 0);
    click(joiner, "17", 8000);
    push(joiner, EVENT_CONVERSION, "4711", 8000);
    click(joiner, "early", 8000);
    assert_int_equal(given_by_save(joiner, &saved), 3);
    joiner_advance(joiner, 1000001); /* the first one leaves: its entry remembers the id alone */
    free(joiner_pop(joiner));
    save_and_load(&joiner, &saved, &options);
    assert_int_equal(saved.given, 4);
    assert_int_equal(joiner_pending(joiner), 8000);
    assert_int_equal(given_by_save(joiner, &saved), 0); /* what was loaded is no change */
    joiner_destroy(joiner);
    memory_state_release(&saved);
}

static void load(struct joiner **joiner, struct memory_state *saved, const struct join_options *options)
{
    struct cs_error err = { 0 };
    *joiner = joiner_create(features, options, NULL, NULL);
    if (!joiner_load(*joiner, &saved->reader, &err)) print_error("%s\n", err.message);
    assert_int_equal(err.code, CS_OK);
}

/* A cut is what was there at the save, whatever happens to its entries before it is read: matched, corrected, released
 * and popped, forgotten, their places taken by others. */
static void test_cut_stays_as_it_was(void **state)
{
    (void)state;
    struct join_options options = { .window = 5000, .max_pending = 100000, .late_click = LATE_CORRECT };
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL), *other;
    struct memory_state at_once, later, again;
    memory_state_init(&at_once);
    memory_state_init(&later);
    memory_state_init(&again);
    many_impressions(joiner, 3000);
    for (int i = 0; i < 3000; i += 3) {
        char id[24];
        snprintf(id, sizeof id, "%d", i + 5);
        click(joiner, id, 3000);
    }
    joiner_advance(joiner, 6000); /* some left, and are remembered */
    for (struct example *example; (example = joiner_pop(joiner));) free(example);
    assert_true(joiner_save(joiner, &at_once.writer, NULL));

    later.later = true;
    assert_true(joiner_save(joiner, &later.writer, NULL));
    for (int i = 0; i < 3000; i += 2) {
        char id[24];
        snprintf(id, sizeof id, "%d", i);
        click(joiner, id, 6000);
        push(joiner, EVENT_CONVERSION, id, 6000);
    }
    joiner_advance(joiner, 20000);
    many_impressions(joiner, 4000); /* too old: they leave at once, and their ids take the places */
    for (struct example *example; (example = joiner_pop(joiner));) {
        memset(example, 0xee, example->size);
        free(example);
    }
    memory_state_read(&later);
    memory_state_end(&later, true);
    later.later = false;
    assert_true(memory_state_same(&at_once, &later));

    /* A restart from it is whole, also where all is given anew. */
    load(&other, &later, &options);
    assert_true(joiner_save(other, &again.writer, NULL));
    assert_true(memory_state_same(&at_once, &again));
    joiner_destroy(other);

    /* And a cut that could not be written is owed: the next gives its changes and those since. */
    later.writer.full = false;
    later.later = true;
    assert_true(joiner_save(joiner, &later.writer, NULL));
    memory_state_read(&later);
    memory_state_end(&later, false);
    impression(joiner, "one more", 20001);
    assert_true(joiner_save(joiner, &later.writer, NULL));
    memory_state_read(&later);
    memory_state_end(&later, true);
    memory_state_release(&again);
    memory_state_init(&again);
    load(&other, &later, &options);
    assert_true(joiner_save(other, &again.writer, NULL));
    memory_state_release(&at_once);
    memory_state_init(&at_once);
    assert_true(joiner_save(joiner, &at_once.writer, NULL));
    memory_state_release(&at_once);
    memory_state_init(&at_once);
    at_once.writer.full = true;
    assert_true(joiner_save(joiner, &at_once.writer, NULL));
    assert_true(memory_state_same(&at_once, &again));
    joiner_destroy(other);
    joiner_destroy(joiner);
    memory_state_release(&at_once);
    memory_state_release(&later);
    memory_state_release(&again);
}

/* The same with the reading thread at work meanwhile (a matter for the thread sanitizer too). */
static void test_cut_is_read_while_events_go_on(void **state)
{
    (void)state;
    struct join_options options = { .window = 5000, .max_pending = 100000, .late_click = LATE_CORRECT };
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL);
    struct memory_state at_once, later;
    memory_state_init(&at_once);
    memory_state_init(&later);
    many_impressions(joiner, 6000);
    for (struct example *example; (example = joiner_pop(joiner));) free(example);
    assert_true(joiner_save(joiner, &at_once.writer, NULL));
    later.later = true;
    assert_true(joiner_save(joiner, &later.writer, NULL));
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, memory_state_read, &later), 0);
    for (int i = 0; i < 6000; i++) {
        char id[24];
        snprintf(id, sizeof id, "%d", i * 7 % 6000);
        click(joiner, id, 6000 + i);
        snprintf(id, sizeof id, "new %d", i);
        impression(joiner, id, 6000 + i);
        for (struct example *example; (example = joiner_pop(joiner));) {
            memset(example, 0xee, example->size);
            free(example);
        }
    }
    pthread_join(reader, NULL);
    memory_state_end(&later, true);
    assert_true(memory_state_same(&at_once, &later));
    joiner_destroy(joiner);
    memory_state_release(&at_once);
    memory_state_release(&later);
}

/* Counts and what waits must agree, or the state is not what was saved. */
static void test_state_that_does_not_add_up_is_refused(void **state)
{
    (void)state;
    struct join_options options = { .window = 100, .max_pending = 1000 };
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL), *other;
    struct memory_state early, late;
    memory_state_init(&early);
    memory_state_init(&late);
    impression(joiner, "a", 1);
    assert_true(joiner_save(joiner, &early.writer, NULL));
    click(joiner, "a", 2);
    early.writer.full = true;
    assert_true(joiner_save(joiner, &late.writer, NULL));
    struct memory_block *header = memory_find(&early, "joiner", 0), *newer = memory_find(&late, "joiner", 0);
    assert_int_equal(header->size, newer->size);
    memcpy(header->bytes, newer->bytes, newer->size);
    struct cs_error err = { 0 };
    other = joiner_create(features, &options, NULL, NULL);
    assert_false(joiner_load(other, &early.reader, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "contradict"));
    joiner_destroy(other);
    joiner_destroy(joiner);
    memory_state_release(&early);
    memory_state_release(&late);
}

static void test_damaged_state_is_refused(void **state)
{
    (void)state;
    struct join_options options = { .window = 100, .max_pending = 1000 };
    struct joiner *joiner = joiner_create(features, &options, NULL, NULL);
    struct memory_state saved;
    memory_state_init(&saved);
    impression(joiner, "first", 1);
    click(joiner, "second", 2);
    assert_true(joiner_save(joiner, &saved.writer, NULL));
    joiner_destroy(joiner);
    size_t refused = 0, loaded = 0;
    for (size_t i = 0; i < saved.count; i++)
        for (size_t byte = 0; byte < saved.block[i].size; byte++) {
            uint8_t *at = (uint8_t *)saved.block[i].bytes + byte;
            *at ^= 0x41;
            joiner = joiner_create(features, &options, NULL, NULL);
            struct cs_error err = { 0 };
            if (joiner_load(joiner, &saved.reader, &err)) {
                joiner_release_all(joiner); /* what is let in does no harm */
                loaded++;
            } else {
                assert_int_equal(err.code, CS_REFUSED);
                refused++;
            }
            joiner_destroy(joiner);
            *at ^= 0x41;
        }
    assert_true(refused > 20 && loaded > 20);
    memory_state_release(&saved);
}

int main(void)
{
    struct feature_options feature[] = { { .name = "item_id", .group = GROUP_ITEM, .table = "item" } };
    struct features_options options = {
        .feature = feature, .feature_count = 1, .behavior_table = "item", .behavior_max_length = 5
    };
    features = features_create(&options, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_release_at_click),
        cmocka_unit_test(test_click_first),
        cmocka_unit_test(test_duplicates_and_late),
        cmocka_unit_test(test_late_click_is_corrected),
        cmocka_unit_test(test_impression_too_old),
        cmocka_unit_test(test_every_example_leaves_at_the_same_age),
        cmocka_unit_test(test_late_click_is_dropped),
        cmocka_unit_test(test_late_click_that_waited_is_corrected),
        cmocka_unit_test(test_counts_add_up),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_set_window),
        cmocka_unit_test(test_generated_streams),
        cmocka_unit_test(test_many_ids_keep_their_place),
        cmocka_unit_test(test_save_gives_only_what_changed),
        cmocka_unit_test(test_cut_stays_as_it_was),
        cmocka_unit_test(test_cut_is_read_while_events_go_on),
        cmocka_unit_test(test_state_that_does_not_add_up_is_refused),
        cmocka_unit_test(test_damaged_state_is_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    features_destroy(features);
    return failed;
}
