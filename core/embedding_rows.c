/* Chunks of records: taking the lowest free slot, letting go of what is old. */
#include "core/embedding_rows.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_BYTES = 512 * 1024,   /* at most; pages are touched as rows come */
    EVICTION_WINDOW = 32,       /* the oldest of so many leaves: exact in a table no larger, close to it in others */
    EVICTIONS_MAX = 8,          /* for one row taken: a lowered limit is reached over many batches */
};

/* ---- as core/freeze.h sees them */

size_t rows_units(const void *self)
{
    return ((const struct rows *)self)->chunks;
}

void rows_unit(const void *self, size_t unit, const void **base, const uint64_t **living)
{
    const struct rows *rows = self;
    const struct chunk *chunk = unit < rows->chunks ? &rows->chunk[unit] : NULL;
    *base = chunk ? chunk->record : NULL;
    *living = chunk && chunk->count ? chunk->living : NULL;
}

static size_t frozen_size(const void *self, const void *base, uint32_t place)
{
    (void)base, (void)place;
    return ((const struct rows *)self)->stride;
}

/* All but `batch`, which its owner changes without a touch. */
static void frozen_write(const void *self, const void *base, uint32_t place, void *into)
{
    const struct rows *rows = self;
    const uint8_t *record = (const uint8_t *)base + place * rows->stride;
    memcpy(into, record, offsetof(struct record, batch));
    memset((uint8_t *)into + offsetof(struct record, batch), 0, sizeof(uint32_t));
    memcpy((uint8_t *)into + sizeof(struct record), record + sizeof(struct record),
           rows->stride - sizeof(struct record));
}

static const struct freeze_ops frozen_ops = { rows_units, rows_unit, frozen_size, frozen_write };

size_t rows_stride(uint32_t dimension, uint32_t moments)
{
    size_t floats = dimension * (1 + (size_t)__builtin_popcount(moments));
    return (sizeof(struct record) + floats * sizeof(float) + 7) / 8 * 8;
}

static size_t chunk_bytes(const struct rows *rows)
{
    return rows->stride * rows->per_chunk;      /* a multiple of 64: both are, of 8 and of 64 */
}

struct rows *rows_create(uint32_t dimension, uint32_t moments, uint64_t max, uint64_t salt, struct cs_error *err)
{
    struct rows *rows = calloc(1, sizeof *rows);
    if (!rows) goto out;
    rows->dimension = dimension;
    rows->moments = moments;
    rows->stride = rows_stride(dimension, moments);
    for (rows->shift = 6; rows->stride << (rows->shift + 1) <= CHUNK_BYTES; rows->shift++) {}
    rows->per_chunk = UINT32_C(1) << rows->shift;
    rows->max = max;
    rows->bytes = sizeof *rows;
    rows->index = embedding_index_create(salt);
    rows->freeze = freeze_create(rows->shift, &frozen_ops, rows);
    if (rows->index && rows->freeze) return rows;
    rows_destroy(rows);
out:
    cs_fail(err, CS_FAILED, "out of memory");
    return NULL;
}

void rows_destroy(struct rows *rows)
{
    if (!rows) return;
    freeze_destroy(rows->freeze);
    freeze_destroy(rows->values);
    free(rows->gone.key);
    for (size_t i = 0; i < rows->chunks; i++) {
        free(rows->chunk[i].record);
        free(rows->chunk[i].living);
    }
    free(rows->chunk);
    free(rows->vacant);
    embedding_index_destroy(rows->index);
    free(rows);
}

void rows_begin_batch(struct rows *rows)
{
    rows->batch++;
    rows->batch_rows = 0;
}

static bool grow_directory(struct rows *rows)
{
    size_t capacity = rows->capacity ? 2 * rows->capacity : 64;
    struct chunk *chunk = realloc(rows->chunk, capacity * sizeof *chunk);
    if (!chunk) return false;
    rows->chunk = chunk;
    uint64_t *vacant = realloc(rows->vacant, capacity / 8);
    if (!vacant) return false;
    rows->vacant = vacant;
    memset((uint8_t *)vacant + rows->capacity / 8, 0, (capacity - rows->capacity) / 8);
    rows->bytes += (capacity - rows->capacity) * sizeof *chunk + (capacity - rows->capacity) / 8;
    rows->capacity = capacity;
    return true;
}

bool rows_reach(struct rows *rows, size_t last)
{
    while (rows->chunks <= last) {
        if ((uint64_t)(rows->chunks + 1) << rows->shift > STATE_SLOTS_MAX) return false;
        if (rows->chunks == rows->capacity && !grow_directory(rows)) return false;
        size_t words = rows->per_chunk / 64;
        uint64_t *bits = calloc(words, sizeof *bits);
        if (!bits) return false;
        rows->chunk[rows->chunks] = (struct chunk){ .living = bits };
        rows->vacant[rows->chunks / 64] |= UINT64_C(1) << rows->chunks % 64;
        rows->bytes += words * sizeof *bits;
        rows->chunks++;
    }
    return true;
}

struct record *rows_occupy(struct rows *rows, uint32_t slot)
{
    size_t number = slot >> rows->shift;
    struct chunk *chunk = &rows->chunk[number];
    uint32_t place = slot & (rows->per_chunk - 1);
    if (!chunk->record) {
        chunk->record = aligned_alloc(64, chunk_bytes(rows));
        if (!chunk->record) return NULL;
        rows->bytes += chunk_bytes(rows);
    }
    chunk->living[place / 64] |= UINT64_C(1) << place % 64;
    if (++chunk->count == rows->per_chunk) rows->vacant[number / 64] &= ~(UINT64_C(1) << number % 64);
    rows->count++;
    return rows_record(rows, slot);
}

static uint32_t lowest_free(struct rows *rows)
{
    size_t number = rows->chunks;
    for (size_t word = 0; word < (rows->chunks + 63) / 64; word++) {
        if (!rows->vacant[word]) continue;
        number = word * 64 + (size_t)__builtin_ctzll(rows->vacant[word]);
        break;
    }
    if (!rows_reach(rows, number)) return INDEX_NONE;
    const uint64_t *living = rows->chunk[number].living;
    size_t word = 0;
    while (living[word] == UINT64_MAX) word++;
    return (uint32_t)(number << rows->shift) + (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(~living[word]);
}

void rows_drop(struct rows *rows, uint32_t slot)
{
    size_t number = slot >> rows->shift;
    struct chunk *chunk = &rows->chunk[number];
    uint32_t place = slot & (rows->per_chunk - 1);
    struct record *record = rows_record(rows, slot);
    assert(chunk->living[place / 64] >> place % 64 & 1);
    embedding_index_remove(rows->index, record->key);
    if (rows->batch_rows && record->batch == rows->batch) rows->batch_rows--;
    rows_touch(rows, slot);
    if (rows->values) rows_note_gone(rows, record->key);
    chunk->living[place / 64] &= ~(UINT64_C(1) << place % 64);
    rows->vacant[number / 64] |= UINT64_C(1) << number % 64;
    rows->count--;
    if (--chunk->count) return;
    free(chunk->record);
    chunk->record = NULL;
    rows->bytes -= chunk_bytes(rows);
}

uint32_t rows_next(const struct rows *rows, uint64_t slot)
{
    assert(rows->count > 0);
    size_t number = slot >> rows->shift;
    uint32_t place = (uint32_t)slot & (rows->per_chunk - 1);
    for (;; number++, place = 0) {
        if (number >= rows->chunks) number = 0, place = 0;
        const struct chunk *chunk = &rows->chunk[number];
        if (!chunk->count) continue;
        uint64_t word = chunk->living[place / 64] >> place % 64 << place % 64;
        for (size_t w = place / 64;;) {
            if (word) return (uint32_t)(number << rows->shift) + (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(word);
            if (++w == rows->per_chunk / 64) break;
            word = chunk->living[w];
        }
    }
}

/* The least recently seen among the next EVICTION_WINDOW rows that this batch does not read; the first of equals. */
static uint32_t victim(struct rows *rows)
{
    if (rows->count <= rows->batch_rows) return INDEX_NONE;
    uint64_t candidates = rows->count - rows->batch_rows;
    if (candidates > EVICTION_WINDOW) candidates = EVICTION_WINDOW;
    uint32_t oldest = INDEX_NONE;
    int64_t seen = 0;
    while (candidates) {
        uint32_t slot = rows_next(rows, rows->evict_hand);
        const struct record *record = rows_record(rows, slot);
        rows->evict_hand = (uint64_t)slot + 1;
        if (record->batch == rows->batch && rows->batch_rows) continue;
        if (oldest == INDEX_NONE || record->seen < seen) {
            oldest = slot;
            seen = record->seen;
        }
        candidates--;
    }
    return oldest;
}

uint32_t rows_take(struct rows *rows, uint64_t key)
{
    for (size_t i = 0; rows->max && rows->count >= rows->max; i++) {
        uint32_t slot = i < EVICTIONS_MAX ? victim(rows) : INDEX_NONE;
        if (slot == INDEX_NONE && i == 0) return INDEX_NONE;
        if (slot == INDEX_NONE) break;
        rows_drop(rows, slot);
        rows->evicted++;
    }
    uint32_t slot = lowest_free(rows);
    if (slot == INDEX_NONE) return INDEX_NONE;
    rows_touch(rows, slot);
    struct record *record = rows_occupy(rows, slot);
    if (!record) return INDEX_NONE;
    memset(record, 0, rows->stride);
    record->key = key;
    embedding_index_insert(rows->index, key, slot);
    return slot;
}

bool rows_would_take(const struct rows *rows, uint64_t *count, uint64_t *held)
{
    for (size_t i = 0; rows->max && *count >= rows->max; i++) {
        if (*count <= *held && i == 0) return false;
        if (*count <= *held || i == EVICTIONS_MAX) break;
        --*count;
    }
    ++*count;
    ++*held;
    return true;
}

void rows_expire(struct rows *rows, int64_t before, size_t budget)
{
    size_t total = rows->chunks << rows->shift;
    if (budget > total) budget = total;
    for (size_t looked = 0; looked < budget && rows->count;) {
        if (rows->expire_hand >= total) rows->expire_hand = 0;
        const struct chunk *chunk = &rows->chunk[rows->expire_hand >> rows->shift];
        uint32_t place = (uint32_t)rows->expire_hand & (rows->per_chunk - 1);
        uint64_t word = chunk->count ? chunk->living[place / 64] >> place % 64 : 0;
        uint32_t step = chunk->count ? 64 - place % 64 : rows->per_chunk - place;      /* nothing lives in the rest */
        if (word) {
            step = (uint32_t)__builtin_ctzll(word) + 1;
            uint32_t slot = (uint32_t)rows->expire_hand + step - 1;
            __builtin_prefetch((const uint8_t *)rows_record(rows, slot) + 4 * rows->stride);
            if (rows_record(rows, slot)->seen < before) {
                rows_drop(rows, slot);
                rows->evicted++;
            }
        }
        rows->expire_hand += step;
        looked += step;
    }
}

size_t rows_bytes(const struct rows *rows)
{
    return rows->bytes + embedding_index_bytes(rows->index) + freeze_bytes(rows->freeze) +
           (rows->values ? freeze_bytes(rows->values) + rows->gone.capacity * sizeof *rows->gone.key : 0);
}
