/* Snapshots beside a learner that goes on: tensors and records of the moment of the cut, holds, the pace. */
#include "tests/unit/snapshot_fixture.h"
#include <pthread.h>
#include "core/freeze.h"

enum { RECORDS = 20000, STEPS = 30 };
struct learner { float *data; uint32_t *record; uint64_t living[RECORDS / 64 + 1]; struct freeze *freeze; };

static size_t learner_units(const void *self)
{
    (void)self;
    return RECORDS / 64 + 1;
}

static void learner_unit(const void *self, size_t unit, const void **base, const uint64_t **living)
{
    const struct learner *learner = self;
    *base = learner->record + unit * 64 * 16;
    *living = &learner->living[unit];
}

static size_t learner_size(const void *self, const void *base, uint32_t place)
{
    (void)self, (void)base, (void)place;
    return 64;
}

static void learner_write(const void *self, const void *base, uint32_t place, void *into)
{
    (void)self;
    memcpy(into, (const uint32_t *)base + place * 16, 64);
}

static void *commit_in_thread(void *self)
{
    commit(self);
    return NULL;
}

struct step { uint32_t step; const uint32_t *expected; uint32_t found; };

static bool check_step(void *self, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct step *step = self;
    (void)err;
    assert_int_equal(size, 64);
    for (int i = 0; i < 16; i++) assert_int_equal(((const uint32_t *)bytes)[i], step->expected[slot]);
    step->found++;
    return true;
}

static void *take_and_commit_in_thread(void *cut)
{
    snapshot_take_tensors(cut);
    return commit_in_thread(cut);
}

/* What the owner must not do, it does here to show where the cut's numbers come from: it changes them unsettled. */
static void taken_tensors_are_looked_at_no_more(void **state)
{
    for (size_t reserved = 0; reserved < 3000000; reserved += 700000) {     /* none, too little, enough */
        char directory[300];
        snprintf(directory, sizeof directory, "%s-%zu", (const char *)*state, reserved);
        struct snapshot_store *store = open_store(directory);
        float *data = calloc(200000, 4), *back = calloc(200000, 4);
        struct tensor tensor[] = { { .name = "a", .rank = 1, .shape = { 200000 }, .data = data },
                                   { .name = "b", .rank = 1, .shape = { 200000 }, .data = data } };
        if (reserved) assert_true(snapshot_reserve(store, reserved));
        for (int cuts = 0; cuts < 3; cuts++) {
            struct snapshot_cut *cut = snapshot_begin(store);
            struct state_writer *writer = snapshot_writer(cut);
            for (int i = 0; i < 2; i++) assert_true(writer->tensor(writer, &tensor[i], NULL));
            struct state_hold *hold = writer->hold(writer);
            float before = data[0];
            snapshot_take_tensors(cut);
            for (size_t i = 0; i < 200000; i++) data[i] = (float)(cuts + 1);
            hold->settle(hold);
            commit(cut);
            struct snapshot_view *view = open_view(store);
            for (int t = 0; t < 2; t++) {
                struct tensor wanted = tensor[t];
                wanted.data = back;
                assert_true(snapshot_reader(view)->tensor(snapshot_reader(view), &wanted, NULL));
                for (size_t i = 0; i < 200000; i++) assert_true(back[i] == before);
            }
            snapshot_view_close(view);
        }
        /* The owner may settle later than the store lives. */
        struct snapshot_cut *cut = snapshot_begin(store);
        struct state_writer *writer = snapshot_writer(cut);
        assert_true(writer->tensor(writer, &tensor[0], NULL));
        struct state_hold *hold = writer->hold(writer);
        snapshot_take_tensors(cut);
        commit(cut);
        snapshot_close(store);
        hold->settle(hold);
        free(data);
        free(back);
    }
}

/* While a thread writes the cut the owner settles, changes every number and many records: the cut is of before. */
static void a_cut_is_of_its_moment_while_the_learner_goes_on(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct learner learner = { calloc(200000, 4), calloc((RECORDS + 64) * 16, 4), { 0 }, NULL };
    uint32_t *expected = calloc(RECORDS, 4), *now = calloc(RECORDS, 4), random = 7;
    struct freeze_ops ops = { learner_units, learner_unit, learner_size, learner_write };
    struct tensor tensor = { .name = "w", .rank = 1, .shape = { 200000 }, .data = learner.data };
    learner.freeze = freeze_create(6, &ops, &learner);
    for (uint32_t step = 0; step < STEPS; step++) {
        struct snapshot_cut *cut = snapshot_begin(store);
        struct state_writer *writer = snapshot_writer(cut);
        struct state_records records = freeze_records(learner.freeze);
        assert_true(writer->tensor(writer, &tensor, NULL));
        struct state_hold *hold = writer->hold(writer);
        assert_true(writer->records(writer, "rows", &records, NULL));
        memcpy(expected, now, RECORDS * 4);
        float before = learner.data[0];
        pthread_t thread;
        if (step == STEPS / 2) snapshot_reserve(store, 1 << 20);        /* of use from the next cut on */
        pthread_create(&thread, NULL, step % 2 ? take_and_commit_in_thread : commit_in_thread, cut);
        hold->settle(hold);
        for (size_t i = 0; i < 200000; i++) learner.data[i] = (float)(step + 1);
        for (int i = 0; i < 6000; i++) {
            random = random * 1664525 + 1013904223;
            uint32_t slot = (random >> 8) % RECORDS;
            freeze_touch(learner.freeze, slot);
            now[slot]++;
            learner.living[slot / 64] |= 1ull << slot % 64;
            for (int n = 0; n < 16; n++) learner.record[slot * 16 + (uint32_t)n] = now[slot];
        }
        pthread_join(thread, NULL);
        struct snapshot_view *view = open_view(store);
        float *back = calloc(200000, 4);
        struct tensor wanted = tensor;
        wanted.data = back;
        assert_true(snapshot_reader(view)->tensor(snapshot_reader(view), &wanted, NULL));
        for (size_t i = 0; i < 200000; i++)
            if (back[i] != before) fail_msg("step %u: number %zu is %g", step, i, (double)back[i]);
        struct step check = { step, expected, 0 };
        assert_true(snapshot_reader(view)->each(snapshot_reader(view), "rows", check_step, &check, NULL));
        uint32_t living = 0;
        for (uint32_t slot = 0; slot < RECORDS; slot++) living += expected[slot] > 0;
        assert_int_equal(check.found, living);
        snapshot_view_close(view);
        free(back);
    }
    snapshot_close(store);
    freeze_destroy(learner.freeze);
    free(learner.data);
    free(learner.record);
    free(expected);
    free(now);
}

static void an_abandoned_cut_lets_its_owner_settle(void **state)
{
    struct snapshot_store *store = open_store(*state);
    float data[4] = { 0 };
    struct tensor tensor = weight(data);
    struct snapshot_cut *cut = snapshot_begin(store);
    struct state_writer *writer = snapshot_writer(cut);
    assert_true(writer->tensor(writer, &tensor, NULL));
    struct state_hold *hold = writer->hold(writer), *second = writer->hold(writer);
    snapshot_abandon(cut);
    hold->settle(hold);
    second->settle(second);
    snapshot_close(store);
}

/* A last snapshot wants to be written at once, whatever pace the one under way has. */
static void lifting_the_pace_ends_a_rest(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(40000, 400, 0);
    pthread_t thread;
    for (uint32_t slot = 0; slot < 40000; slot++) toy_set(toy, slot, 1);
    struct snapshot_cut *cut = snapshot_begin(store);
    toy_give(toy, cut, "t");
    snapshot_set_pace(store, 0.01);                 /* minutes, were it not lifted */
    pthread_create(&thread, NULL, commit_in_thread, cut);
    snapshot_set_pace(store, 1);
    pthread_join(thread, NULL);
    assert_toy(toy, store, "t");
    snapshot_close(store);
    toy_destroy(toy);
}
int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(taken_tensors_are_looked_at_no_more),
        TEST(a_cut_is_of_its_moment_while_the_learner_goes_on),
        TEST(an_abandoned_cut_lets_its_owner_settle),
        TEST(lifting_the_pace_ends_a_rest),
    };
    if (!make_root(false)) return 1;
    return run_and_clean(cmocka_run_group_tests(tests, NULL, NULL));
}
