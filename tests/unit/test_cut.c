/* One thread learns while another reads a cut of the same state: every cut equals a plain copy made when it began, cuts
 * that fail in between included, and a learner restored from one goes on as if it had never stopped. Under TSan too. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/embedding_internal.h"
#include "tests/gradient/small_model.h"
#include "tests/unit/memory_state.h"

/* ---- The thread that writes cuts: one at a time, handed over and back. ---- */

enum fate { WRITTEN, FAILED_UNREAD, FAILED_HALFWAY, FAILED_AT_THE_END, FATES };

struct writing {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct memory_state *cut;       /* under way; NULL: none */
    enum fate fate;
    bool over;
};

static void read_a_little(struct memory_state *cut)
{
    uint64_t room[1024];
    for (size_t i = 0; i < cut->sources; i++) {
        size_t size;
        struct state_records *records = &cut->source[i].records;
        records->read(records->self, room, sizeof room, &size);
    }
}

static void *write_cuts(void *argument)
{
    struct writing *writing = argument;
    pthread_mutex_lock(&writing->mutex);
    for (;;) {
        while (!writing->cut && !writing->over) pthread_cond_wait(&writing->changed, &writing->mutex);
        if (!writing->cut) break;
        struct memory_state *cut = writing->cut;
        enum fate fate = writing->fate;
        pthread_mutex_unlock(&writing->mutex);
        if (fate == FAILED_HALFWAY) read_a_little(cut);
        if (fate == WRITTEN || fate == FAILED_AT_THE_END) memory_state_read(cut);
        memory_state_end(cut, fate == WRITTEN);
        pthread_mutex_lock(&writing->mutex);
        writing->cut = NULL;
        pthread_cond_signal(&writing->changed);
    }
    pthread_mutex_unlock(&writing->mutex);
    return NULL;
}

static void writing_begin(struct writing *writing)
{
    *writing = (struct writing){ .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    assert_int_equal(pthread_create(&writing->thread, NULL, write_cuts, writing), 0);
}

static void writing_hand_over(struct writing *writing, struct memory_state *cut, enum fate fate)
{
    pthread_mutex_lock(&writing->mutex);
    writing->cut = cut;
    writing->fate = fate;
    pthread_cond_signal(&writing->changed);
    pthread_mutex_unlock(&writing->mutex);
}

static bool writing_is_done(struct writing *writing, bool wait)
{
    pthread_mutex_lock(&writing->mutex);
    while (wait && writing->cut) pthread_cond_wait(&writing->changed, &writing->mutex);
    bool done = !writing->cut;
    pthread_mutex_unlock(&writing->mutex);
    return done;
}

static void writing_end(struct writing *writing)
{
    pthread_mutex_lock(&writing->mutex);
    writing->over = true;
    pthread_cond_signal(&writing->changed);
    pthread_mutex_unlock(&writing->mutex);
    pthread_join(writing->thread, NULL);
}

/* ---- A table whose rows come, change and go ---- */

enum { D = 350, KEYS = 400, BATCH = 40, CUTS = 60 };       /* wide: 64 rows a chunk, so that chunks empty and return */

static const struct optimizer_options adam = { .kind = OPTIMIZER_ADAM, .learning_rate = 0.01, .beta1 = 0.9,
                                               .beta2 = 0.999, .epsilon = 1e-8 };

static struct embedding_table *table_create(void)
{
    struct table_options options = { .name = "item", .admit_after = 4, .expire_after = 900, .max_rows = 150 };
    struct embedding_table *table = embedding_create(&options, D, 0.01, 7, &adam, NULL);
    assert_non_null(table);
    return table;
}

struct life { struct embedding_table *table; uint64_t chance, drawn; int64_t time; };

static uint64_t draw(struct life *life, uint64_t below) { return random_bits(life->chance, life->drawn++) % below; }

/* A batch of a moving window of keys, and now and then a long silence, in which all but a few rows expire. */
static void live(struct life *life)
{
    uint64_t key[BATCH], first = draw(life, KEYS), n = 1 + draw(life, BATCH);
    uint32_t sightings[BATCH], slot[BATCH];
    float gradient[BATCH * D];
    for (size_t i = 0; i < n; i++) {
        key[i] = (first + i) % KEYS;
        sightings[i] = 1 + (uint32_t)draw(life, 2);
    }
    for (size_t i = 0; i < n * D; i++) gradient[i] = (float)(i % 7) - 3.0f;
    life->time += (int64_t)draw(life, 40) == 0 ? 1000 : 5;
    embedding_admit(life->table, key, sightings, n, life->time, slot);
    embedding_update(life->table, slot, n, gradient, &parallel_serial);
    embedding_expire(life->table, life->time, 100);
}

static void copy_rows(struct memory_state *plain, const char *section, const struct rows *rows)
{
    struct record *record = malloc(rows->stride);
    for (uint32_t slot = 0; slot < rows->chunks << rows->shift; slot++) {
        if (!rows_living(rows, slot)) continue;
        memcpy(record, rows_record(rows, slot), rows->stride);
        record->batch = 0;
        memory_store(plain, section, slot, record, rows->stride);
    }
    free(record);
}

static struct memory_state *plain_copy(const struct embedding_table *table)
{
    struct memory_state *plain = memory_state_create();
    copy_rows(plain, "rows.item", table->rows);
    copy_rows(plain, "waiting.item", table->waiting);
    return plain;
}

/* But for the table's own record, which is put at once. */
static void assert_equals_copy(struct memory_state *cut, struct memory_state *plain)
{
    const struct memory_block *head = memory_find(cut, "table.item", 0);
    memory_store(plain, "table.item", 0, head->bytes, head->size);
    assert_true(memory_state_same(cut, plain));
    memory_state_destroy(plain);
}

static void every_cut_equals_a_copy_made_when_it_began(void **state)
{
    (void)state;
    struct life life = { .table = table_create(), .chance = random_stream(3, "life", 0), .time = 1000 };
    struct memory_state *cut = memory_state_create();
    struct writing writing;
    size_t fates[FATES] = { 0 };
    writing_begin(&writing);
    cut->later = true;
    for (size_t i = 0; i < CUTS; i++) {
        for (uint64_t steps = draw(&life, 8); steps > 0; steps--) live(&life);
        struct memory_state *plain = plain_copy(life.table);
        enum fate fate = i % 2 ? (enum fate)draw(&life, FATES) : WRITTEN;
        fates[fate]++;
        assert_true(embedding_save(life.table, &cut->writer, NULL));
        if (draw(&life, 2)) live(&life);        /* before a single record is read */
        writing_hand_over(&writing, cut, fate);
        while (live(&life), !writing_is_done(&writing, false)) {}
        if (fate == WRITTEN) {
            cut->writer.full = false;
            assert_equals_copy(cut, plain);
        } else {
            memory_state_destroy(plain);
        }
    }
    for (size_t fate = 0; fate < FATES; fate++) assert_true(fates[fate] > 0);
    assert_true(freeze_set_aside(life.table->rows->freeze) > 0);
    assert_true(freeze_set_aside(life.table->waiting->freeze) > 0);
    assert_true(embedding_evicted(life.table) > KEYS);      /* slots that died and were born again */
    writing_end(&writing);
    embedding_destroy(life.table);
    memory_state_destroy(cut);
}

/* ---- A learner ---- */

struct pupil { struct features *features; struct learner *learner; struct arena *arena; };

static struct pupil pupil_create(void)
{
    struct pupil pupil = { .features = small_features(), .arena = arena_create(1 << 14) };
    struct table_options item = { .name = "item", .admit_after = 2, .max_rows = 4 };
    struct learner_options options = {
        .dimension = SMALL_D, .init_std = 0.1, .seed = 7, .table = &item, .table_count = 1,
        .model = small_options(RANKING_BASE_DNN, ZERO_SHOT_MAIL)
    };
    options.model.ranking.dropout = 0.2;
    options.model.zero_shot.sample = 0.7;
    pupil.learner = learner_create(pupil.features, &options, &parallel_serial, NULL);
    assert_non_null(pupil.learner);
    return pupil;
}

static void pupil_destroy(struct pupil *pupil)
{
    learner_destroy(pupil->learner);
    features_destroy(pupil->features);
    arena_destroy(pupil->arena);
}

static void learn(struct pupil *pupil, uint64_t step)
{
    arena_reset(pupil->arena);
    struct batch *batch = small_batch(pupil->features, step, pupil->arena);
    learner_score(pupil->learner, batch);
    assert_false(learner_learn(pupil->learner, batch).skipped);
}

static struct memory_state *whole_state(struct pupil *pupil)
{
    struct memory_state *whole = memory_state_create();
    assert_true(learner_save(pupil->learner, &whole->writer, NULL));
    return whole;
}

static void restored_from_a_cut_goes_on_as_if_never_stopped(void **state)
{
    (void)state;
    enum { LEARNED_CUTS = 9, STEPS = 4 };
    struct pupil pupil = pupil_create(), restored[LEARNED_CUTS];
    struct memory_state *cut = memory_state_create();
    struct writing writing;
    uint64_t step = 0, first[LEARNED_CUTS];
    writing_begin(&writing);
    cut->later = true;
    for (size_t i = 0; i < LEARNED_CUTS; i++) {
        bool written = i % 3 != 1;
        for (uint64_t end = step + STEPS; step < end; step++) learn(&pupil, step);
        assert_true(learner_save(pupil.learner, &cut->writer, NULL));
        first[i] = written ? step : 0;      /* nothing to go on from: from the start */
        writing_hand_over(&writing, cut, written ? WRITTEN : FAILED_AT_THE_END);
        for (uint64_t end = step + STEPS; step < end; step++) learn(&pupil, step);
        writing_is_done(&writing, true);
        restored[i] = pupil_create();
        if (!written) continue;
        cut->writer.full = false;
        assert_true(learner_load(restored[i].learner, &cut->reader, NULL));
    }
    writing_end(&writing);
    struct memory_state *never_stopped = whole_state(&pupil);
    for (size_t i = 0; i < LEARNED_CUTS; i++) {
        for (uint64_t at = first[i]; at < step; at++) learn(&restored[i], at);
        struct memory_state *whole = whole_state(&restored[i]);
        assert_true(memory_state_same(never_stopped, whole));
        memory_state_destroy(whole);
        pupil_destroy(&restored[i]);
    }
    memory_state_destroy(never_stopped);
    memory_state_destroy(cut);
    pupil_destroy(&pupil);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_equals_a_copy_made_when_it_began),
        cmocka_unit_test(restored_from_a_cut_goes_on_as_if_never_stopped),
    };
    return cmocka_run_group_tests_name("cut", tests, NULL, NULL);
}
