/* Examples as columns, and the keys that each embedding table is asked for, each once.
 *
 *   column.offset[i] .. offset[i+1]   the values of example i, as indexes into table[t].key (a batch-local row number)
 *   behavior                          the same for the behavior sequence, oldest first
 *   dense[column * size + i]          NaN where absent
 *
 * Made by the joining thread, so that the learner's thread meets only small integers. Lives in its own arena. */
#ifndef CORE_BATCH_H
#define CORE_BATCH_H

#include "core/arena.h"
#include "core/event.h"

struct batch_table {
    size_t count;               /* distinct keys, in order of first sight */
    uint64_t *key;              /* [count] */
    uint32_t *sightings;        /* [count] how often in this batch */
};

struct batch_column { uint32_t *offset; uint32_t *row; };

struct batch {
    size_t size;
    struct batch_table *table;          /* [features.table_count] */
    struct batch_column *column;        /* [features.categorical_count] */
    struct batch_column behavior;
    float *dense;                       /* [features.dense_count, size] */
    uint8_t *clicked, *converted, *correction;
    uint8_t *is_new;                    /* the behavior list is empty */
    uint64_t *user;                     /* key of the user id: groups GAUC */
    uint64_t *item;                     /* key of the item id */
    uint64_t *shown;                    /* as in example.shown */
    int64_t *time;                      /* of the impression */
    int64_t *released;                  /* event time at which it left the joiner */
    const char **id;                    /* impression ids, NUL-terminated */
    int64_t last_time;                  /* largest event time (released) in it: the clock of expiry */
    bool shown_only;                    /* impressions as they are shown: to be scored, not learned */
    uint64_t events;                    /* carried along for the owner */
    struct arena *arena;                /* holds all of this */
};

/* Copies the examples into `arena` (reset first); the examples stay the caller's. Costs one hash probe a value. */
struct batch *batch_build(const struct features *features, struct example *const *example, size_t count,
                          struct arena *arena);
/* Example i of a batch again: its values, user, item, labels and times; without an id, and not judged by its showing.
 * The caller frees. */
struct example *batch_example(const struct features *features, const struct batch *batch, size_t i);
/* Every index within its bounds, offsets ascending: for assertions and tests. */
bool batch_check(const struct features *features, const struct batch *batch);

#endif
