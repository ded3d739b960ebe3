/* Where the rows of a table live: records in chunks that never move, found by key, let go by age. The table keeps
 * two: its rows, and (with values of nothing) the keys that wait for admission.
 *
 *   record   | key u64 | seen i64 | step u32 | batch u32 | float value[] | padded to 8 bytes |
 *   slot     chunk number * per_chunk + place in the chunk
 *
 * The lowest free slot is taken first, so which slots are free follows from which rows live: no list to keep or
 * save.
 *
 * Another thread may be reading the rows as they were at a cut (core/freeze.h): all of a record but `batch` changes
 * only after rows_touch. That thread never reads a record's memory after its touch, and a row is touched when it goes,
 * so the memory of a chunk may be freed with its last row. */
#ifndef CORE_EMBEDDING_ROWS_H
#define CORE_EMBEDDING_ROWS_H

#include "core/embedding_index.h"
#include "core/error.h"
#include "core/freeze.h"

struct record {
    uint64_t key;
    int64_t seen;       /* event time, ms */
    uint32_t step;      /* updates so far; of a waiting key: sightings */
    uint32_t batch;     /* the last batch that read it; no part of the state: 0 there */
    float value[];
};

struct chunk {
    uint8_t *record;            /* NULL while no row of it lives */
    uint64_t *living;           /* a bit a slot */
    uint32_t count;             /* living */
};

struct rows {
    size_t stride;              /* bytes a record */
    uint32_t moments;           /* bits of what a record's values hold after the row: 1 m, 2 v */
    uint32_t dimension;
    unsigned shift;             /* log2 of per_chunk */
    uint32_t per_chunk;
    struct chunk *chunk;
    size_t chunks, capacity;
    uint64_t *vacant;           /* a bit a chunk (of capacity): has a free slot */
    struct embedding_index *index;
    struct freeze *freeze;
    struct freeze *values;      /* changes of keys and rows alone, for deltas; NULL: nobody asks (embedding_delta.c) */
    struct gone { uint64_t *key; size_t count, capacity; bool lost; } gone;     /* where values: whose rows went */
    uint64_t count, max;        /* max 0: no limit */
    uint64_t evicted;
    uint64_t evict_hand, expire_hand;   /* slots */
    uint32_t batch;
    uint64_t batch_rows;        /* living rows that this batch reads */
    size_t bytes;
};

static inline struct record *rows_record(const struct rows *rows, uint32_t slot)
{
    return (struct record *)(rows->chunk[slot >> rows->shift].record + (slot & (rows->per_chunk - 1)) * rows->stride);
}

/* Before every change of a record, its making and its end; not for `batch`. */
static inline void rows_touch(struct rows *rows, uint32_t slot)
{
    freeze_touch(rows->freeze, slot);
    if (rows->values) freeze_touch(rows->values, slot);
}

/* The key's row went: noted for the next delta. */
void rows_note_gone(struct rows *rows, uint64_t key);

/* Bytes of a record: its head, the row and its moments, padded. */
size_t rows_stride(uint32_t dimension, uint32_t moments);
/* The chunks, as core/freeze.h sees them: for the snapshot, and for deltas. */
size_t rows_units(const void *rows);
void rows_unit(const void *rows, size_t unit, const void **base, const uint64_t **living);

struct rows *rows_create(uint32_t dimension, uint32_t moments, uint64_t max, uint64_t salt, struct cs_error *err);
void rows_destroy(struct rows *rows);
void rows_begin_batch(struct rows *rows);
/* This batch reads it: it stays. */
static inline void rows_hold(struct rows *rows, struct record *record)
{
    rows->batch_rows += record->batch != rows->batch;
    record->batch = rows->batch;
}
/* A cleared record for a key that has none, touched; pushes out old ones where max says so. INDEX_NONE: all are held by
 * this batch, or out of memory. */
uint32_t rows_take(struct rows *rows, uint64_t key);
/* What rows_take would do, without doing it: *count rows live, *held of them are read by this batch; false: none. */
bool rows_would_take(const struct rows *rows, uint64_t *count, uint64_t *held);
void rows_drop(struct rows *rows, uint32_t slot);
/* The first living slot from `slot` on, going round; there must be one. */
uint32_t rows_next(const struct rows *rows, uint64_t slot);
void rows_expire(struct rows *rows, int64_t before, size_t budget);     /* drops what was last seen before that */
size_t rows_bytes(const struct rows *rows);

/* For loading: chunks up to `last` are known; a free slot of them lives, its record and the index are still to be
 * filled. False, NULL: out of memory. */
bool rows_reach(struct rows *rows, size_t last);
struct record *rows_occupy(struct rows *rows, uint32_t slot);
static inline bool rows_living(const struct rows *rows, uint32_t slot)
{
    uint32_t place = slot & (rows->per_chunk - 1);
    return rows->chunk[slot >> rows->shift].living[place / 64] >> place % 64 & 1;
}

#endif
