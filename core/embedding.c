/* An embedding table: admission, reading, lazy updates, age. Rows themselves are embedding_rows', state
 * embedding_state's. */
#include "core/embedding.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/embedding_internal.h"
#include "core/random.h"

enum {
    AHEAD = 8,              /* rows asked from memory before they are needed */
    GRAIN = 64,             /* rows of a batch that one thread takes at least */
    CORRECTIONS = 4096,     /* steps whose bias corrections are kept: most rows never get further */
};

bool embedding_create_waiting(struct embedding_table *table, struct cs_error *err)
{
    table->waiting = rows_create(0, 0, EMBEDDING_WAITING_MAX, random_stream(table->seed, table->options.name, 0), err);
    return table->waiting != NULL;
}

struct embedding_table *embedding_create(const struct table_options *options, size_t dimension, double init_std,
                                         uint64_t seed, const struct optimizer_options *optimizer, struct cs_error *err)
{
    assert(dimension > 0 && dimension <= 1 << 16 && options->admit_after >= 1);
    struct embedding_table *table = calloc(1, sizeof *table);
    if (!table) {
        cs_fail(err, CS_FAILED, "out of memory");
        return NULL;
    }
    table->options = *options;
    table->optimizer = *optimizer;
    table->dimension = dimension;
    table->init_std = init_std;
    table->seed = seed;
    static const uint32_t moments[] = { 0, MOMENT_V, MOMENT_M | MOMENT_V };
    uint64_t salt = random_stream(seed, options->name, 0);
    table->rows = rows_create((uint32_t)dimension, moments[optimizer_state_count(optimizer->kind)],
                              options->max_rows, salt, err);
    if (!table->rows) goto out;
    if (options->admit_after > 1 && !embedding_create_waiting(table, err)) goto out;
    table->correction = malloc(CORRECTIONS * sizeof *table->correction);
    if (!table->correction) {
        cs_fail(err, CS_FAILED, "out of memory");
        goto out;
    }
    for (size_t step = 1; step < CORRECTIONS; step++) table->correction[step] = optimizer_correction(optimizer, step);
    return table;
out:
    embedding_destroy(table);
    return NULL;
}

void embedding_destroy(struct embedding_table *table)
{
    if (!table) return;
    embedding_unwatch(table);
    rows_destroy(table->rows);
    rows_destroy(table->waiting);
    free(table->correction);
    free(table);
}

static void prefetch(const void *bytes, size_t size)
{
    for (size_t at = 0; at < size; at += 64) __builtin_prefetch((const uint8_t *)bytes + at);
}

void embedding_find(const struct embedding_table *table, const uint64_t *key, size_t n, uint32_t *slot)
{
    embedding_index_find_many(table->rows->index, key, n, slot);
}

static void start_row(const struct embedding_table *table, uint64_t key, float *row)
{
    uint64_t stream = random_stream(table->seed, table->options.name, key);
    for (size_t i = 0; i < table->dimension; i++) row[i] = random_normal(stream, i) * (float)table->init_std;
}

static uint32_t make_row(struct embedding_table *table, uint64_t key, int64_t seen)
{
    uint32_t slot = rows_take(table->rows, key);
    if (slot == EMBEDDING_NONE) return slot;
    struct record *record = rows_record(table->rows, slot);
    size_t d = table->dimension;
    record->seen = seen;
    start_row(table, key, record->value);
    float *v = record_v(record, d, table->rows->moments), initial_v = optimizer_initial_v(&table->optimizer);
    for (size_t i = 0; v && i < d; i++) v[i] = initial_v;
    rows_hold(table->rows, record);
    return slot;
}

/* Sightings of a key without a row, with these; *slot: where it waits, INDEX_NONE: nowhere. */
static uint64_t total_sightings(const struct embedding_table *table, uint64_t key, uint32_t sightings, uint32_t *slot)
{
    *slot = embedding_index_find(table->waiting->index, key);
    return *slot == INDEX_NONE ? sightings : (uint64_t)sightings + rows_record(table->waiting, *slot)->step;
}

size_t embedding_foresee(const struct embedding_table *table, const uint64_t *key, const uint32_t *sightings, size_t n,
                         const uint32_t *slot, float *row, uint8_t *fresh)
{
    uint64_t count = table->rows->count, held = 0;
    size_t found = 0;
    for (size_t i = 0; i < n; i++) held += slot[i] != EMBEDDING_NONE;
    for (size_t i = 0; i < n; i++) {
        uint32_t waits;
        fresh[i] = slot[i] == EMBEDDING_NONE &&
                   (!table->waiting ||
                    total_sightings(table, key[i], sightings[i], &waits) >= table->options.admit_after) &&
                   rows_would_take(table->rows, &count, &held);
        if (fresh[i]) start_row(table, key[i], row + i * table->dimension);
        found += fresh[i];
    }
    return found;
}

/* Counts sightings of a key without a row; true when it is due, and then it waits no longer. */
static bool is_due(struct embedding_table *table, uint64_t key, uint32_t sightings, int64_t time)
{
    if (!table->waiting) return true;
    uint32_t slot;
    uint64_t total = total_sightings(table, key, sightings, &slot);
    if (total >= table->options.admit_after) {
        if (slot != INDEX_NONE) rows_drop(table->waiting, slot);
        return true;
    }
    if (slot == INDEX_NONE) slot = rows_take(table->waiting, key);
    if (slot == INDEX_NONE) return false;
    rows_touch(table->waiting, slot);
    struct record *record = rows_record(table->waiting, slot);
    record->step = (uint32_t)total;
    if (record->seen < time) record->seen = time;
    rows_hold(table->waiting, record);
    return false;
}

void embedding_admit(struct embedding_table *table, const uint64_t *key, const uint32_t *sightings, size_t n,
                     int64_t time, uint32_t *slot)
{
    struct rows *rows = table->rows;
    rows_begin_batch(rows);
    if (table->waiting) rows_begin_batch(table->waiting);
    embedding_index_find_many(rows->index, key, n, slot);
    /* First all rows that are there, so that none of them is pushed out for a new one. */
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n && slot[i + AHEAD] != EMBEDDING_NONE)
            __builtin_prefetch(rows_record(rows, slot[i + AHEAD]), 1);
        if (slot[i] == EMBEDDING_NONE) continue;
        struct record *record = rows_record(rows, slot[i]);
        rows_hold(rows, record);
        if (record->seen >= time) continue;
        rows_touch(rows, slot[i]);
        record->seen = time;
    }
    for (size_t i = 0; i < n; i++) {
        if (slot[i] != EMBEDDING_NONE || !is_due(table, key[i], sightings[i], time)) continue;
        assert(embedding_index_find(rows->index, key[i]) == INDEX_NONE);    /* keys of a batch are distinct */
        slot[i] = make_row(table, key[i], time);
        if (slot[i] == EMBEDDING_NONE) table->refused++;
        else table->admitted++;
    }
}

struct move {
    const struct embedding_table *table;
    const uint32_t *slot;
    size_t n;
    float *row;
    const float *gradient;
};

static void gather_part(void *argument, size_t part, size_t parts)
{
    const struct move *move = argument;
    const struct rows *rows = move->table->rows;
    size_t d = move->table->dimension, begin, end;
    parallel_share(move->n, GRAIN, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        if (i + AHEAD < end && move->slot[i + AHEAD] != EMBEDDING_NONE)
            prefetch(rows_record(rows, move->slot[i + AHEAD])->value, d * sizeof(float));
        float *row = move->row + i * d;
        if (move->slot[i] == EMBEDDING_NONE) memset(row, 0, d * sizeof *row);
        else memcpy(row, rows_record(rows, move->slot[i])->value, d * sizeof *row);
    }
}

static void update_part(void *argument, size_t part, size_t parts)
{
    const struct move *move = argument;
    const struct embedding_table *table = move->table;
    const struct rows *rows = table->rows;
    size_t d = table->dimension, begin, end;
    parallel_share(move->n, GRAIN, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        if (i + AHEAD < end && move->slot[i + AHEAD] != EMBEDDING_NONE)
            prefetch(rows_record(rows, move->slot[i + AHEAD]), rows->stride);
        if (move->slot[i] == EMBEDDING_NONE) continue;
        struct record *record = rows_record(rows, move->slot[i]);
        if (record->step < UINT32_MAX) record->step++;
        struct optimizer_correction correction =
            record->step < CORRECTIONS ? table->correction[record->step]
                : optimizer_correction(&table->optimizer, record->step);
        optimizer_apply(&table->optimizer, correction, record->value, move->gradient + i * d,
                        record_m(record, d, rows->moments), record_v(record, d, rows->moments), d);
    }
}

static void run(struct parallel *parallel, parallel_task *task, struct move *move)
{
    if (move->n <= GRAIN) task(move, 0, 1);
    else parallel->run(parallel, task, move);
}

void embedding_gather(const struct embedding_table *table, const uint32_t *slot, size_t n, float *row,
                      struct parallel *parallel)
{
    run(parallel, gather_part, &(struct move){ .table = table, .slot = slot, .n = n, .row = row });
}

void embedding_update(struct embedding_table *table, const uint32_t *slot, size_t n, const float *gradient,
                      struct parallel *parallel)
{
    for (size_t i = 0; i < n; i++)      /* by the owner's thread, before any part begins */
        if (slot[i] != EMBEDDING_NONE) rows_touch(table->rows, slot[i]);
    run(parallel, update_part, &(struct move){ .table = table, .slot = slot, .n = n, .gradient = gradient });
}

void embedding_expire(struct embedding_table *table, int64_t time, size_t budget)
{
    if (table->options.expire_after <= 0 || time < INT64_MIN + table->options.expire_after) return;
    rows_expire(table->rows, time - table->options.expire_after, budget);
    if (!table->waiting) return;
    rows_expire(table->waiting, time - table->options.expire_after, budget);
}

void embedding_set_learning_rate(struct embedding_table *table, double learning_rate)
{
    table->optimizer.learning_rate = learning_rate;
}

const char *embedding_name(const struct embedding_table *table)
{
    return table->options.name;
}

size_t embedding_dimension(const struct embedding_table *table)
{
    return table->dimension;
}

uint64_t embedding_rows(const struct embedding_table *table)
{
    return table->rows->count;
}

uint64_t embedding_admitted(const struct embedding_table *table)
{
    return table->admitted;
}

uint64_t embedding_evicted(const struct embedding_table *table)
{
    return table->rows->evicted;
}

uint64_t embedding_refused(const struct embedding_table *table)
{
    return table->refused;
}

uint64_t embedding_waiting(const struct embedding_table *table)
{
    return table->waiting ? table->waiting->count : 0;
}

uint64_t embedding_set_aside(const struct embedding_table *table)
{
    return freeze_set_aside(table->rows->freeze) + (table->waiting ? freeze_set_aside(table->waiting->freeze) : 0);
}

size_t embedding_bytes(const struct embedding_table *table)
{
    return sizeof *table + CORRECTIONS * sizeof *table->correction + rows_bytes(table->rows) +
           (table->waiting ? rows_bytes(table->waiting) : 0);
}

struct place { uint64_t key; uint32_t slot; };

static int by_key(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

bool embedding_each(const struct embedding_table *table, embedding_visitor *visit, void *self, struct cs_error *err)
{
    const struct rows *rows = table->rows;
    struct place *place = malloc((rows->count + 1) * sizeof *place);
    if (!place) return cs_fail(err, CS_FAILED, "out of memory");
    uint64_t at = 0;
    for (uint64_t i = 0; i < rows->count; i++) {
        uint32_t slot = rows_next(rows, at);
        place[i] = (struct place){ rows_record(rows, slot)->key, slot };
        at = (uint64_t)slot + 1;
    }
    qsort(place, rows->count, sizeof *place, by_key);
    bool ok = true;
    for (uint64_t i = 0; ok && i < rows->count; i++) {
        struct embedding_row row = embedding_row_of(rows_record(rows, place[i].slot), table->dimension, rows->moments);
        ok = visit(self, &row, err);
    }
    free(place);
    return ok;
}

bool embedding_put(struct embedding_table *table, const struct embedding_row *row, struct cs_error *err)
{
    struct rows *rows = table->rows;
    size_t d = table->dimension;
    uint32_t slot = embedding_index_find(rows->index, row->key);
    if (slot == EMBEDDING_NONE) {
        if (table->waiting) {
            uint32_t waiting = embedding_index_find(table->waiting->index, row->key);
            if (waiting != INDEX_NONE) rows_drop(table->waiting, waiting);
        }
        rows_begin_batch(rows);
        slot = rows_take(rows, row->key);
        if (slot == EMBEDDING_NONE) return cs_fail(err, CS_FAILED, "table %s: no room for another row",
                                                   table->options.name);
        table->admitted++;
    }
    rows_touch(rows, slot);
    struct record *record = rows_record(rows, slot);
    record->seen = row->seen;
    record->step = row->step;
    memcpy(record->value, row->row, d * sizeof(float));
    float *m = record_m(record, d, rows->moments), *v = record_v(record, d, rows->moments);
    float initial_v = optimizer_initial_v(&table->optimizer);
    for (size_t i = 0; m && i < d; i++) m[i] = row->m ? row->m[i] : 0.0f;
    for (size_t i = 0; v && i < d; i++) v[i] = row->v ? row->v[i] : initial_v;
    return true;
}
