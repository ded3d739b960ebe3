/* Where the rows of a table live: records in chunks that never move, found by key, let go by age. The table keeps
 * two: its rows, and (with a width of nothing) the keys that wait for admission.
 *
 *   record   | key u64 | seen i64 | step u32 | batch u32 | float value[width] | padded to 8 bytes |
 *   slot     chunk number * per_chunk + place in the chunk
 *
 * The lowest free slot is taken first, so which slots are free follows from which rows live: no list to keep or
 * save. */
#ifndef CORE_EMBEDDING_ROWS_H
#define CORE_EMBEDDING_ROWS_H

#include "core/embedding_index.h"
#include "core/error.h"

struct record {
    uint64_t key;
    int64_t seen;       /* event time, ms */
    uint32_t step;      /* updates so far; of a waiting key: sightings */
    uint32_t batch;     /* the last batch that read it; in a saved block: its place in the chunk */
    float value[];
};

struct chunk {
    uint8_t *record;            /* NULL while no row of it lives */
    uint64_t *living, *changed; /* bits a slot; changed: since the last save, a row that left included */
    uint32_t count;             /* living */
    bool stored;                /* the state has a block of it */
    bool dirty;
};

struct rows {
    size_t width, stride;       /* floats, bytes a record */
    uint32_t moments;           /* bits of what a block's values hold after the row: 1 m, 2 v */
    uint32_t dimension;
    unsigned shift;             /* log2 of per_chunk */
    uint32_t per_chunk;
    struct chunk *chunk;
    size_t chunks, capacity;
    uint64_t *vacant;           /* a bit a chunk (of capacity): has a free slot */
    struct embedding_index *index;
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

static inline void rows_mark(struct rows *rows, uint32_t slot)
{
    struct chunk *chunk = &rows->chunk[slot >> rows->shift];
    uint32_t place = slot & (rows->per_chunk - 1);
    chunk->changed[place / 64] |= UINT64_C(1) << place % 64;
    chunk->dirty = true;
}

struct rows *rows_create(uint32_t dimension, uint32_t moments, uint64_t max, uint64_t salt, struct cs_error *err);
void rows_destroy(struct rows *rows);
void rows_begin_batch(struct rows *rows);
/* This batch reads it: it stays. */
static inline void rows_hold(struct rows *rows, struct record *record)
{
    rows->batch_rows += record->batch != rows->batch;
    record->batch = rows->batch;
}
/* A cleared record for a key that has none; pushes out old ones where max says so. INDEX_NONE: all are held by this
 * batch, or out of memory. */
uint32_t rows_take(struct rows *rows, uint64_t key);
void rows_drop(struct rows *rows, uint32_t slot);
/* The first living slot from `slot` on, going round; there must be one. */
uint32_t rows_next(const struct rows *rows, uint64_t slot);
void rows_expire(struct rows *rows, int64_t before, size_t budget);     /* drops what was last seen before that */
size_t rows_bytes(const struct rows *rows);

/* For loading: chunks up to `last` are known; a given free slot of them lives, cleared. False, NULL: out of memory. */
bool rows_reach(struct rows *rows, size_t last);
struct record *rows_occupy(struct rows *rows, uint32_t slot, uint64_t key);

#endif
