/* The table against a dictionary of rows, through random admission, updates, age and restarts; and its edges one by
 * one. */
#include "core/embedding.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/embedding_index.h"
#include "core/optimizer.h"
#include "core/random.h"
#include "tests/unit/memory_state.h"

enum { D = 350, NONE = EMBEDDING_NONE };      /* wide enough that a chunk has but 64 rows */

static const struct optimizer_options adam = { .kind = OPTIMIZER_ADAM, .learning_rate = 0.01, .beta1 = 0.9,
                                               .beta2 = 0.999, .epsilon = 1e-8 };

/* --- Two threads' worth of parts, run in the wrong order. --- */

static void run_backwards(struct parallel *self, parallel_task *task, void *argument)
{
    for (size_t part = self->width; part-- > 0;) task(argument, part, self->width);
}

static struct parallel backwards = { .width = 3, .run = run_backwards };

static struct embedding_table *table_of(uint32_t admit_after, int64_t expire_after, uint64_t max_rows)
{
    struct table_options options = { .name = "item", .admit_after = admit_after, .expire_after = expire_after,
                                     .max_rows = max_rows };
    struct embedding_table *table = embedding_create(&options, D, 0.01, 7, &adam, NULL);
    assert_non_null(table);
    return table;
}

static uint32_t admit_one(struct embedding_table *table, uint64_t key, int64_t time)
{
    uint32_t slot, one = 1;
    embedding_admit(table, &key, &one, 1, time, &slot);
    return slot;
}

static uint32_t find_one(const struct embedding_table *table, uint64_t key)
{
    uint32_t slot;
    embedding_find(table, &key, 1, &slot);
    return slot;
}

/* --- The model: keys 0..KEYS-1 spread over all 64 bits. --- */

enum { KEYS = 700, BATCH = 60, WHOLE = 1 << 20 };

struct entry { bool living; uint32_t waiting, step; int64_t seen, waiting_seen; float row[D], m[D], v[D]; };
struct dictionary { struct entry entry[KEYS]; uint64_t rows, admitted, evicted, refused; };

static uint64_t key_of(size_t i)
{
    if (i < 3) return (uint64_t[]){ 0, UINT64_MAX, 1 }[i];
    return i % 2 ? i : random_bits(5, i);
}

static size_t key_back(uint64_t key)
{
    for (size_t i = 0; i < KEYS; i++) if (key_of(i) == key) return i;
    fail_msg("a key that was never admitted");
    return 0;
}

struct visit { const struct dictionary *model; uint64_t count, last; };

static bool visit_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    (void)err;
    struct visit *visit = self;
    const struct entry *entry = &visit->model->entry[key_back(row->key)];
    assert_true(!visit->count || row->key > visit->last);
    visit->last = row->key;
    visit->count++;
    assert_true(entry->living);
    assert_int_equal(row->step, entry->step);
    assert_int_equal(row->seen, entry->seen);
    assert_memory_equal(row->row, entry->row, sizeof entry->row);
    assert_memory_equal(row->m, entry->m, sizeof entry->m);
    assert_memory_equal(row->v, entry->v, sizeof entry->v);
    return true;
}

static void assert_follows(const struct embedding_table *table, const struct dictionary *model)
{
    struct visit visit = { .model = model };
    assert_true(embedding_each(table, visit_row, &visit, NULL));
    assert_int_equal(visit.count, model->rows);
    assert_int_equal(embedding_rows(table), model->rows);
    assert_int_equal(embedding_admitted(table), model->admitted);
    assert_int_equal(embedding_evicted(table), model->evicted);
    assert_int_equal(embedding_refused(table), model->refused);
    for (size_t i = 0; i < KEYS; i++) assert_int_equal(find_one(table, key_of(i)) != NONE, model->entry[i].living);
}

/* As embedding_admit, which must do what was foreseen. */
static void admit_as_foreseen(struct embedding_table *table, const uint64_t *key, const uint32_t *sightings, size_t n,
                              int64_t time, uint32_t *slot)
{
    uint32_t before[BATCH];
    uint8_t fresh[BATCH];
    float start[BATCH * D], row[BATCH * D];
    embedding_find(table, key, n, before);
    size_t count = embedding_foresee(table, key, sightings, n, before, start, fresh);
    embedding_admit(table, key, sightings, n, time, slot);
    embedding_gather(table, slot, n, row, &parallel_serial);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(fresh[i], before[i] == NONE && slot[i] != NONE);
        count -= fresh[i];
        if (fresh[i]) assert_memory_equal(start + i * D, row + i * D, D * sizeof *row);
    }
    assert_int_equal(count, 0);
}

struct trial { uint32_t admit_after; int64_t expire_after; uint64_t max_rows; size_t batch; };

static void model_admit(struct dictionary *model, const struct trial *trial, struct embedding_table *table,
                        const size_t *who,
                        const uint32_t *sightings, size_t n, int64_t time, uint32_t *slot)
{
    uint64_t key[BATCH];
    bool in_batch[KEYS] = { false };
    for (size_t i = 0; i < n; i++) {
        key[i] = key_of(who[i]);
        in_batch[who[i]] = true;
    }
    admit_as_foreseen(table, key, sightings, n, time, slot);
    /* Who was pushed out is the table's choice, within the rule: nobody of the batch, and (up to 32 rows) the
     * oldest. */
    int64_t newest_gone = INT64_MIN, oldest_left = INT64_MAX;
    for (size_t i = 0; i < KEYS; i++) {
        struct entry *entry = &model->entry[i];
        if (!entry->living || in_batch[i]) continue;
        if (find_one(table, key_of(i)) != NONE) {
            if (entry->seen < oldest_left) oldest_left = entry->seen;
            continue;
        }
        if (entry->seen > newest_gone) newest_gone = entry->seen;
        entry->living = false;
        model->rows--;
        model->evicted++;
    }
    if (trial->max_rows && trial->max_rows <= 32) assert_true(newest_gone <= oldest_left);
    if (newest_gone > INT64_MIN) assert_true(trial->max_rows > 0);
    for (size_t i = 0; i < n; i++) {
        struct entry *entry = &model->entry[who[i]];
        if (entry->living) {
            assert_int_not_equal(slot[i], NONE);
            if (entry->seen < time) entry->seen = time;
            continue;
        }
        entry->waiting += sightings[i];
        entry->waiting_seen = time;
        if (entry->waiting < trial->admit_after) {
            assert_int_equal(slot[i], NONE);
            continue;
        }
        entry->waiting = 0;
        if (slot[i] == NONE) {
            assert_true(trial->max_rows && model->rows >= trial->max_rows);
            model->refused++;
            continue;
        }
        float row[D];
        embedding_gather(table, &slot[i], 1, row, &parallel_serial);
        *entry = (struct entry){ .living = true, .seen = time };
        uint64_t stream = random_stream(7, "item", key[i]);
        for (size_t c = 0; c < D; c++) entry->row[c] = random_normal(stream, c) * 0.01f;
        assert_memory_equal(row, entry->row, sizeof row);
        model->rows++;
        model->admitted++;
    }
    if (trial->max_rows) assert_true(model->rows <= trial->max_rows);
}

static void model_update(struct dictionary *model, struct embedding_table *table, const size_t *who,
                         const uint32_t *slot, size_t n,
                         uint64_t round)
{
    float gradient[BATCH * D], row[BATCH * D];
    for (size_t i = 0; i < n * D; i++) gradient[i] = random_uniform(round, i) - 0.5f;
    embedding_update(table, slot, n, gradient, &backwards);
    for (size_t i = 0; i < n; i++) {
        struct entry *entry = &model->entry[who[i]];
        if (slot[i] != NONE) optimizer_update(&adam, ++entry->step, entry->row, gradient + i * D, entry->m, entry->v,
                                              D);
    }
    embedding_gather(table, slot, n, row, &backwards);
    for (size_t i = 0; i < n; i++) {
        float zeros[D] = { 0 };
        assert_memory_equal(row + i * D, slot[i] == NONE ? zeros : model->entry[who[i]].row, sizeof zeros);
    }
}

static void model_expire(struct dictionary *model, const struct trial *trial, struct embedding_table *table,
                         int64_t time, size_t budget)
{
    embedding_expire(table, time, budget);
    for (size_t i = 0; i < KEYS && trial->expire_after; i++) {
        struct entry *entry = &model->entry[i];
        if (entry->waiting && entry->waiting_seen < time - trial->expire_after) entry->waiting = 0;
        if (!entry->living || entry->seen >= time - trial->expire_after) continue;
        if (budget < WHOLE && find_one(table, key_of(i)) != NONE) continue;     /* the hand was not there yet */
        entry->living = false;
        model->rows--;
        model->evicted++;
    }
}

static void follows_a_dictionary(void **state)
{
    (void)state;
    static const struct trial trials[] = {
        { 1, 0, 0, BATCH }, { 1, 3000, 0, BATCH }, { 1, 0, 20, 10 }, { 1, 0, 20, BATCH }, { 3, 2000, 30, BATCH },
            { 2, 4000, 200, BATCH },
        { 3, 9000, 0, 5 },
    };
    for (size_t t = 0; t < sizeof trials / sizeof *trials; t++) {
        const struct trial *trial = &trials[t];
        uint64_t chance = random_stream(11, "trial", t), drawn = 0;
        static struct dictionary model;
        memset(&model, 0, sizeof model);
        struct embedding_table *table = table_of(trial->admit_after, trial->expire_after, trial->max_rows),
            *twin = NULL;
        struct memory_state *saved = memory_state_create();
        int64_t time = 1000000;
        for (uint64_t round = 0; round < 400; round++) {
            size_t who[BATCH], n = random_bits(chance, drawn++) % (trial->batch + 1);
            uint32_t sightings[BATCH], slot[BATCH];
            /* a moving window of keys, so that old ones age */
            for (size_t i = 0, from = random_bits(chance, drawn++) % 37; i < n; i++) {
                who[i] = (from + round + i * (1 + round % 5)) % KEYS;
                sightings[i] = 1 + (uint32_t)(random_bits(chance, drawn++) % 2);
            }
            time += (int64_t)(random_bits(chance, drawn++) % 300);
            model_admit(&model, trial, table, who, sightings, n, time, slot);
            model_update(&model, table, who, slot, n, round);
            if (twin) {     /* does the same, and must end with the same bytes */
                uint64_t key[BATCH];
                float gradient[BATCH * D];
                for (size_t i = 0; i < n; i++) key[i] = key_of(who[i]);
                for (size_t i = 0; i < n * D; i++) gradient[i] = random_uniform(round, i) - 0.5f;
                embedding_admit(twin, key, sightings, n, time, slot);
                embedding_update(twin, slot, n, gradient, &parallel_serial);
            }
            if (random_bits(chance, drawn++) % 4 == 0) {
                /* Of waiting keys the model knows only what whole rounds let go. */
                size_t budget = trial->admit_after > 1 ? WHOLE : random_bits(chance, drawn++) % 150;
                model_expire(&model, trial, table, time, budget);
                if (twin) embedding_expire(twin, time, budget);
            }
            if (round % 20 == 0) assert_follows(table, &model);
            if (round % 50 == 49) {
                /* Changes since the last save, on top of what is stored, are all of the table. */
                assert_true(embedding_save(table, &saved->writer, NULL));
                saved->writer.full = false;
                if (twin) {
                    struct memory_state *whole = memory_state_create();
                    assert_true(embedding_save(twin, &whole->writer, NULL));
                    assert_true(memory_state_same(whole, saved));
                    memory_state_destroy(whole);
                    embedding_destroy(twin);
                }
                twin = table;
                table = table_of(trial->admit_after, trial->expire_after, trial->max_rows);
                assert_true(embedding_load(table, &saved->reader, NULL));
                assert_follows(table, &model);
            }
        }
        assert_follows(table, &model);
        embedding_destroy(table);
        embedding_destroy(twin);
        memory_state_destroy(saved);
    }
}

static void any_key_is_legal_and_found_among_many(void **state)
{
    (void)state;
    struct embedding_index *index = embedding_index_create(9);
    uint64_t edge[] = { 0, 1, UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63 };
    size_t n = 200000, edges = sizeof edge / sizeof *edge;
    uint64_t *key = malloc((n + edges) * sizeof *key);
    uint32_t *slot = malloc((n + edges) * sizeof *slot);
    memcpy(key, edge, sizeof edge);
    for (size_t i = 0; i < n; i++) key[edges + i] = i % 2 ? random_bits(1, i) : i << 32 | 7;
    for (size_t i = 0; i < n + edges; i++) embedding_index_insert(index, key[i], (uint32_t)i);
    embedding_index_find_many(index, key, n + edges, slot);
    for (size_t i = 0; i < n + edges; i++) assert_int_equal(slot[i], i);
    for (size_t i = 0; i < n + edges; i += 2) embedding_index_remove(index, key[i]);
    embedding_index_find_many(index, key, n + edges, slot);
    for (size_t i = 0; i < n + edges; i++) assert_int_equal(slot[i], i % 2 ? i : INDEX_NONE);
    for (size_t i = 0; i < n + edges; i += 2) embedding_index_insert(index, key[i], (uint32_t)i);
    for (size_t i = 0; i < n + edges; i++) assert_int_equal(embedding_index_find(index, key[i]), i);
    struct embedding_index *many = embedding_index_create(9);
    for (size_t i = 0; i < n + edges; i++) slot[i] = (uint32_t)i;
    assert_int_equal(embedding_index_insert_many(many, key, slot, n + edges), n + edges);
    for (size_t i = 0; i < n + edges; i++) assert_int_equal(embedding_index_find(many, key[i]), i);
    assert_int_equal(embedding_index_insert_many(many, (uint64_t[]){ 2, 4, 2, 6 }, slot, 4), 2);
    assert_int_equal(embedding_index_insert_many(many, (uint64_t[]){ 6, key[9] }, slot, 2), 1);
    embedding_index_destroy(many);
    assert_true(embedding_index_bytes(index) < (n + edges) * 48);
    embedding_index_destroy(index);
    free(key);
    free(slot);
}

/* 32 columns of Adam, as served by default: overhead from a hundred thousand rows on. */
static void memory_stays_near_what_a_row_needs(void **state)
{
    (void)state;
    struct table_options options = { .name = "item", .admit_after = 1 };
    struct embedding_table *table = embedding_create(&options, 32, 0.01, 7, &adam, NULL);
    for (uint64_t i = 0; i < 40000; i++) admit_one(table, random_bits(2, i), 5);
    double ratio = (double)embedding_bytes(table) / (double)(embedding_rows(table) * (3 * 32 * 4 + 4));
    assert_true(ratio > 1.0 && ratio < 1.3);
    embedding_destroy(table);
}

static void freed_slots_are_taken_lowest_first_and_rows_never_move(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(1, 1000, 0);
    for (uint64_t key = 0; key < 10; key++)
        assert_int_equal(admit_one(table, key, key == 3 || key == 6 ? 0 : 5000), key);
    embedding_expire(table, 5000, 100);
    assert_int_equal(embedding_rows(table), 8);
    assert_int_equal(find_one(table, 3), NONE);
    assert_int_equal(find_one(table, 9), 9);
    assert_int_equal(admit_one(table, 100, 5000), 3);
    assert_int_equal(admit_one(table, 101, 5000), 6);
    assert_int_equal(admit_one(table, 102, 5000), 10);
    embedding_destroy(table);
}

static void expiry_looks_at_no_more_than_its_budget(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(1, 1000, 0);
    for (uint64_t key = 0; key < 100; key++) admit_one(table, key, 0);
    embedding_expire(table, 1000, 1 << 20);
    assert_int_equal(embedding_rows(table), 100);       /* seen exactly expire_after ago: stays */
    embedding_expire(table, 1001, 30);
    assert_int_equal(embedding_rows(table), 70);
    embedding_expire(table, 1001, 30);
    assert_int_equal(embedding_rows(table), 40);
    assert_int_equal(embedding_evicted(table), 60);
    embedding_destroy(table);
}

/* In a table far above the window of 32 the choice is near the least recently seen: never among the newer half. */
static void eviction_is_close_to_least_recently_seen(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(1, 0, 2000);
    for (uint64_t i = 0; i < 2000; i++) admit_one(table, random_bits(4, i), (int64_t)(random_bits(6, i) % 100000));
    for (uint64_t i = 0; i < 50; i++) assert_int_not_equal(admit_one(table, i, 200000), NONE);
    for (uint64_t i = 0; i < 2000; i++)
        if ((int64_t)(random_bits(6, i) % 100000) > 40000)
            assert_int_not_equal(find_one(table, random_bits(4, i)), NONE);
    assert_int_equal(embedding_rows(table), 2000);
    assert_int_equal(embedding_evicted(table), 50);
    embedding_destroy(table);
}

static void waiting_keys_are_bounded(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(2, 0, 0);
    enum { N = 4096 };
    uint64_t key[N];
    uint32_t one[N], slot[N];
    for (size_t i = 0; i < N; i++) one[i] = 1;
    for (uint64_t round = 0; round < EMBEDDING_WAITING_MAX / N + 3; round++) {
        for (size_t i = 0; i < N; i++) key[i] = round * N + i;
        embedding_admit(table, key, one, N, (int64_t)round, slot);
    }
    assert_int_equal(embedding_waiting(table), EMBEDDING_WAITING_MAX);
    assert_int_equal(embedding_rows(table), 0);
    /* the last batch waits still: its second sighting */
    assert_int_not_equal(admit_one(table, key[7], 5000), NONE);
    assert_int_equal(embedding_waiting(table), EMBEDDING_WAITING_MAX - 1);
    embedding_destroy(table);
}

static void put_makes_and_replaces_rows(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(5, 0, 0);
    float row[D] = { 1, 2, 3, [D - 1] = 5 }, m[D] = { 6, 7, 8, [D - 1] = 10 }, got[D];
    assert_int_equal(admit_one(table, 42, 10), NONE);
    assert_true(embedding_put(table, &(struct embedding_row){ .key = 42, .row = row, .step = 3, .seen = 77 }, NULL));
    assert_int_equal(embedding_waiting(table), 0);
    uint32_t slot = find_one(table, 42);
    embedding_gather(table, &slot, 1, got, &parallel_serial);
    assert_memory_equal(got, row, sizeof row);
    assert_true(embedding_put(table, &(struct embedding_row){ .key = 42, .row = m, .m = m, .v = row, .step = 9,
                                                              .seen = 78 }, NULL));
    embedding_gather(table, &slot, 1, got, &parallel_serial);
    assert_memory_equal(got, m, sizeof m);
    assert_int_equal(embedding_rows(table), 1);
    embedding_destroy(table);
}

static void saves_what_changed_alone(void **state)
{
    (void)state;
    struct table_options options = { .name = "item", .admit_after = 1, .expire_after = 1000 };
    struct embedding_table *table = embedding_create(&options, 64, 0.01, 7, &adam, NULL);
    struct memory_state *memory = memory_state_create();
    for (uint64_t key = 0; key < 5000; key++) admit_one(table, key, key == 4999 ? 9000 : key < 100 ? 5000 : 8500);
    assert_true(embedding_save(table, &memory->writer, NULL));
    assert_int_equal(memory->given, 5000);
    memory->writer.full = false;
    memory->given = memory->puts = 0;
    assert_true(embedding_save(table, &memory->writer, NULL));
    assert_int_equal(memory->given, 0);
    assert_int_equal(memory->puts, 1);      /* table.item */
    uint32_t slot = admit_one(table, 4999, 9001);
    assert_true(embedding_save(table, &memory->writer, NULL));
    assert_int_equal(memory->given, 1);
    /* Seen no later than it was: no change. Read by a batch: none either. */
    admit_one(table, 4999, 9001);
    float row[64], gradient[64] = { 1 };
    embedding_gather(table, &slot, 1, row, &parallel_serial);
    assert_true(embedding_save(table, &memory->writer, NULL));
    assert_int_equal(memory->given, 1);
    embedding_update(table, &slot, 1, gradient, &parallel_serial);
    assert_true(embedding_save(table, &memory->writer, NULL));
    assert_int_equal(memory->given, 2);
    /* Rows that went are removed. */
    embedding_expire(table, 9900, 1 << 20);
    assert_int_equal(embedding_rows(table), 1);
    assert_true(embedding_save(table, &memory->writer, NULL));
    assert_int_equal(memory->count, 2);
    embedding_destroy(table);
    memory_state_destroy(memory);
}

/* What storage asks for again is given although it has not changed, and what doesn't live is not. */
static void gives_again_what_is_asked_for(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(1, 0, 0);
    struct memory_state *memory = memory_state_create(), *loaded = memory_state_create();
    for (uint64_t key = 0; key < 200; key++) admit_one(table, key, 1);
    assert_true(embedding_save(table, &memory->writer, NULL));
    struct embedding_table *again = table_of(1, 0, 0);
    assert_true(embedding_load(again, &memory->reader, NULL));
    uint64_t asked[4] = { 1, 0, UINT64_C(1) << 63, 1 << 20 };      /* slots 0, 191, and 212, which is free */
    loaded->writer.full = false;
    loaded->again = asked;
    loaded->again_words = 4;
    assert_true(embedding_save(again, &loaded->writer, NULL));      /* nothing was touched since the load */
    assert_int_equal(loaded->given, 2);
    for (uint64_t slot = 0; slot < 192; slot += 191) {
        const struct memory_block *block = memory_find(loaded, "rows.item", slot);
        assert_non_null(block);
        assert_memory_equal(block->bytes, memory_find(memory, "rows.item", slot)->bytes, block->size);
    }
    embedding_destroy(table);
    embedding_destroy(again);
    memory_state_destroy(memory);
    memory_state_destroy(loaded);
}

/* A key that waits when admit_after is lowered to 1 is admitted at its next sighting; then it waits no more. */
static void waiting_keys_outlive_a_lower_limit(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(3, 0, 0);
    struct memory_state *memory = memory_state_create();
    for (uint64_t key = 0; key < 5; key++) admit_one(table, key, 1);
    assert_true(embedding_save(table, &memory->writer, NULL));
    memory->writer.full = false;
    embedding_destroy(table);
    table = table_of(1, 0, 0);
    assert_true(embedding_load(table, &memory->reader, NULL));
    assert_int_not_equal(admit_one(table, 2, 2), NONE);
    assert_int_not_equal(admit_one(table, 77, 2), NONE);
    assert_int_equal(embedding_waiting(table), 4);
    assert_true(embedding_save(table, &memory->writer, NULL));
    embedding_destroy(table);
    table = table_of(3, 0, 0);
    assert_true(embedding_load(table, &memory->reader, NULL));
    assert_int_equal(embedding_rows(table), 2);
    assert_int_equal(embedding_waiting(table), 4);
    assert_int_equal(admit_one(table, 3, 3), NONE);     /* second sighting */
    assert_int_not_equal(admit_one(table, 3, 3), NONE);
    embedding_destroy(table);
    memory_state_destroy(memory);
}

static void records_are_parsed_within_their_bounds(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(1, 0, 0);
    for (uint64_t key = 0; key < 9; key++) admit_one(table, key + 100, (int64_t)key);
    struct memory_state *memory = memory_state_create();
    assert_true(embedding_save(table, &memory->writer, NULL));
    struct memory_block *head = memory_find(memory, "table.item", 0);
    struct embedding_shape shape;
    struct embedding_row row;
    struct cs_error err;
    assert_true(embedding_shape_parse(head->bytes, head->size, &shape, &err));
    assert_int_equal(shape.dimension, D);
    assert_int_equal(shape.moments, 3);
    assert_int_equal(shape.rows, 9);
    for (size_t size = 0; size < head->size; size++) {
        void *cut = malloc(size ? size : 1);        /* an own allocation: a read beyond it is found */
        memcpy(cut, head->bytes, size);
        assert_false(embedding_shape_parse(cut, size, &shape, &err));
        assert_int_equal(err.code, CS_REFUSED);
        free(cut);
    }
    for (uint64_t slot = 0; slot < 9; slot++) {
        const struct memory_block *block = memory_find(memory, "rows.item", slot);
        float got[D];
        uint32_t place = (uint32_t)slot;
        assert_true(embedding_record_parse(&shape, block->bytes, block->size, &row, &err));
        assert_int_equal(row.key, slot + 100);
        assert_int_equal(row.seen, slot);
        embedding_gather(table, &place, 1, got, &parallel_serial);
        assert_memory_equal(row.row, got, sizeof got);
        assert_ptr_equal(row.m, row.row + D);
        assert_ptr_equal(row.v, row.row + 2 * D);
        for (size_t size = 0; size < block->size; size += 1 + size / 50) {
            void *cut = malloc(size ? size : 1);
            memcpy(cut, block->bytes, size);
            assert_false(embedding_record_parse(&shape, cut, size, &row, &err));
            assert_int_equal(err.code, CS_REFUSED);
            free(cut);
        }
    }
    embedding_destroy(table);
    memory_state_destroy(memory);
}

static void refuses_to_load(struct memory_state *memory, const char *what)
{
    struct embedding_table *table = table_of(2, 0, 0);
    struct cs_error err = { 0 };
    assert_false(embedding_load(table, &memory->reader, &err));
    assert_int_equal(err.code, CS_REFUSED);
    if (!strstr(err.message, what)) fail_msg("\"%s\" does not say \"%s\"", err.message, what);
    embedding_destroy(table);
}

static void damaged_state_is_refused(void **state)
{
    (void)state;
    struct embedding_table *table = table_of(2, 0, 0);
    for (uint64_t key = 0; key < 9; key++) {
        admit_one(table, key, 1);
        if (key != 5) admit_one(table, key, 1);
    }
    struct memory_state *memory = memory_state_create();
    refuses_to_load(memory, "section table.item: missing");
    assert_true(embedding_save(table, &memory->writer, NULL));
    struct embedding_table *sound = table_of(2, 0, 0);
    assert_true(embedding_load(sound, &memory->reader, NULL));
    assert_int_equal(embedding_waiting(sound), 1);
    embedding_destroy(sound);

    struct memory_block *head = memory_find(memory, "table.item", 0);
    /* magic, version, dimension, moments; of the rows and of who waits: slots a chunk, chunks and both hands (high
     * words). Evictions, admissions and refusals may be any number. */
    static const size_t words[] = { 0, 1, 2, 3, 4, 6, 12, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25,
                                    28, 29, 30, 31 };
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        uint32_t *word = (uint32_t *)head->bytes + words[w], was = *word;
        *word = UINT32_MAX;
        refuses_to_load(memory, "section ");
        *word = was;
    }
    struct memory_block *block = memory_find(memory, "rows.item", 3);
    uint64_t *key = block->bytes, was = *key;
    *key = 7;                       /* another's */
    refuses_to_load(memory, "has key 0000000000000007, as slot");
    *key = was;
    block->size -= 8;
    refuses_to_load(memory, "section rows.item: slot 3 has");
    block->size += 8;
    block->id = UINT64_C(1) << 20;          /* beyond the table's chunks */
    refuses_to_load(memory, "section rows.item: slot 1048576");
    block->id = 4;                          /* given twice */
    refuses_to_load(memory, "section rows.item: slot 4 comes twice");
    block->id = 3;
    memory_remove(&memory->writer, "rows.item", 3, NULL);
    refuses_to_load(memory, "section rows.item: 7 records, the table says 8");
    embedding_destroy(table);
    memory_state_destroy(memory);
}

static void every_optimizer_keeps_its_state(void **state)
{
    (void)state;
    static const struct optimizer_options kinds[] = {
        { .kind = OPTIMIZER_ADAGRAD, .learning_rate = 0.05, .epsilon = 1e-8, .initial_accumulator = 0.1 },
        { .kind = OPTIMIZER_FTRL, .learning_rate = 0.1, .beta = 1.0, .l1 = 0.001, .initial_accumulator = 0.1 },
        { .kind = OPTIMIZER_SGD, .learning_rate = 0.01 },
    };
    for (size_t k = 0; k < 3; k++) {
        struct table_options options = { .name = "item", .admit_after = 1 };
        struct embedding_table *table = embedding_create(&options, D, 0.01, 7, &kinds[k], NULL);
        float row[D], m[D] = { 0 }, v[D], gradient[D] = { 1, -2, 3, -4, 5 }, got[D];
        uint32_t slot = admit_one(table, 5, 1);
        embedding_gather(table, &slot, 1, row, &parallel_serial);
        for (size_t c = 0; c < D; c++) v[c] = optimizer_initial_v(&kinds[k]);
        for (uint64_t step = 1; step <= 3; step++) {
            optimizer_update(&kinds[k], step, row, gradient, m, v, D);
            embedding_update(table, &slot, 1, gradient, &parallel_serial);
        }
        struct memory_state *memory = memory_state_create();
        assert_true(embedding_save(table, &memory->writer, NULL));
        embedding_destroy(table);
        table = embedding_create(&options, D, 0.01, 7, &kinds[k], NULL);
        assert_true(embedding_load(table, &memory->reader, NULL));
        optimizer_update(&kinds[k], 4, row, gradient, m, v, D);
        embedding_update(table, &slot, 1, gradient, &parallel_serial);
        embedding_gather(table, &slot, 1, got, &parallel_serial);
        assert_memory_equal(got, row, sizeof row);
        embedding_destroy(table);
        memory_state_destroy(memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_a_dictionary),
        cmocka_unit_test(any_key_is_legal_and_found_among_many),
        cmocka_unit_test(memory_stays_near_what_a_row_needs),
        cmocka_unit_test(freed_slots_are_taken_lowest_first_and_rows_never_move),
        cmocka_unit_test(expiry_looks_at_no_more_than_its_budget),
        cmocka_unit_test(eviction_is_close_to_least_recently_seen),
        cmocka_unit_test(waiting_keys_are_bounded),
        cmocka_unit_test(put_makes_and_replaces_rows),
        cmocka_unit_test(saves_what_changed_alone),
        cmocka_unit_test(gives_again_what_is_asked_for),
        cmocka_unit_test(waiting_keys_outlive_a_lower_limit),
        cmocka_unit_test(records_are_parsed_within_their_bounds),
        cmocka_unit_test(damaged_state_is_refused),
        cmocka_unit_test(every_optimizer_keeps_its_state),
    };
    return cmocka_run_group_tests_name("embedding", tests, NULL, NULL);
}
