/* Deltas of a table: what scoring reads of it, row by row, as it changes. A second set of changed bits beside the
 * snapshot's, since the two are read at their own pace; and the keys of rows that went, since a slot says nothing of
 * who held it. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/embedding_internal.h"

/* What the newest delta was given. */
struct delta_cut {
    struct state_records values;
    struct gone gone;
    atomic_bool failed;             /* set by the thread that read it: all of it is owed */
};

static size_t value_size(const void *self, const void *base, uint32_t place)
{
    (void)base, (void)place;
    return sizeof(uint64_t) + ((const struct rows *)self)->dimension * sizeof(float);
}

static void value_write(const void *self, const void *base, uint32_t place, void *into)
{
    const struct rows *rows = self;
    const struct record *record = (const void *)((const uint8_t *)base + place * rows->stride);
    memcpy(into, &record->key, sizeof record->key);
    memcpy((uint8_t *)into + sizeof record->key, record->value, rows->dimension * sizeof(float));
}

static const struct freeze_ops value_ops = { rows_units, rows_unit, value_size, value_write };

/* ---- who went */

static void add_gone(struct gone *gone, uint64_t key)
{
    if (gone->count == gone->capacity) {
        size_t capacity = gone->capacity ? 2 * gone->capacity : 1024;
        uint64_t *grown = realloc(gone->key, capacity * sizeof *grown);
        if (!grown) {
            gone->lost = true;
            return;
        }
        gone->key = grown;
        gone->capacity = capacity;
    }
    gone->key[gone->count++] = key;
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Each key once, and none that has a row again. */
static void compact(const struct rows *rows, struct gone *gone)
{
    size_t kept = 0;
    if (gone->count > 1) qsort(gone->key, gone->count, sizeof *gone->key, by_key);
    for (size_t i = 0; i < gone->count; i++) {
        uint64_t key = gone->key[i];
        if (kept && gone->key[kept - 1] == key) continue;
        if (embedding_index_find(rows->index, key) == INDEX_NONE) gone->key[kept++] = key;
    }
    gone->count = kept;
}

void rows_note_gone(struct rows *rows, uint64_t key)
{
    struct gone *gone = &rows->gone;
    if (gone->lost) return;
    add_gone(gone, key);
    if (gone->count < EMBEDDING_GONE_MAX) return;
    compact(rows, gone);
    gone->lost = gone->count > EMBEDDING_GONE_MAX / 2;      /* so that compacting stays rare */
}

/* ---- a delta */

static void begin(void *self, bool full, const uint64_t *again, size_t words)
{
    const struct delta_cut *cut = self;
    cut->values.begin(cut->values.self, full, again, words);
}

static enum state_read read(void *self, void *into, size_t room, size_t *size)
{
    const struct delta_cut *cut = self;
    return cut->values.read(cut->values.self, into, room, size);
}

static void end(void *self, bool written)
{
    struct delta_cut *cut = self;
    if (!written) atomic_store_explicit(&cut->failed, true, memory_order_release);
    cut->values.end(cut->values.self, written);
}

void embedding_unwatch(struct embedding_table *table)
{
    if (!table->delta) return;
    freeze_destroy(table->rows->values);
    free(table->rows->gone.key);
    free(table->delta->gone.key);
    free(table->delta);
    table->delta = NULL;
    table->rows->values = NULL;
    table->rows->gone = (struct gone){ 0 };
}

bool embedding_watch(struct embedding_table *table, struct cs_error *err)
{
    embedding_unwatch(table);
    struct freeze *values = freeze_create(table->rows->shift, &value_ops, table->rows);
    table->delta = calloc(1, sizeof *table->delta);
    if (values && table->delta) {
        table->delta->values = freeze_records(values);
        table->rows->values = values;
        return true;
    }
    freeze_destroy(values);
    free(table->delta);
    table->delta = NULL;
    return cs_fail(err, CS_FAILED, "out of memory: deltas of table %s", table->options.name);
}

bool embedding_delta_lost(const struct embedding_table *table)
{
    return table->rows->gone.lost;
}

bool embedding_save_delta(struct embedding_table *table, struct state_writer *writer, struct cs_error *err)
{
    struct delta_cut *cut = table->delta;
    struct rows *rows = table->rows;
    char section[STATE_SECTION_MAX];
    if (atomic_exchange_explicit(&cut->failed, false, memory_order_acquire))
        for (size_t i = 0; i < cut->gone.count; i++) rows_note_gone(rows, cut->gone.key[i]);
    compact(rows, &rows->gone);
    struct gone last = cut->gone;
    cut->gone = rows->gone;
    last.count = 0;
    last.lost = rows->gone.lost;
    rows->gone = last;
    embedding_section(section, "rows", table);
    struct state_records records = { .self = cut, .begin = begin, .read = read, .end = end };
    if (!writer->records(writer, section, &records, err)) return false;
    struct embedding_delta shape = { .dimension = rows->dimension, .rows = freeze_frozen(rows->values) };
    embedding_section(section, "delta", table);
    if (!writer->put(writer, section, 0, &shape, sizeof shape, err)) return false;
    embedding_section(section, "gone", table);
    size_t size = cut->gone.count * sizeof *cut->gone.key;
    return !size || writer->put(writer, section, 0, cut->gone.key, size, err);
}
