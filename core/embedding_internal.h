/* What embedding.c and embedding_state.c share. */
#ifndef CORE_EMBEDDING_INTERNAL_H
#define CORE_EMBEDDING_INTERNAL_H

#include "core/embedding.h"
#include "core/embedding_rows.h"
#include "core/optimizer.h"

enum { MOMENT_M = 1, MOMENT_V = 2 };

struct embedding_table {
    struct table_options options;
    struct optimizer_options optimizer;
    size_t dimension;
    double init_std;
    uint64_t seed;
    struct rows *rows, *waiting;    /* waiting: NULL where every key is admitted at once, and none ever waited */
    uint64_t admitted, refused;
    struct optimizer_correction *correction;    /* [CORRECTIONS] by step */
    struct delta_cut *delta;        /* NULL: nobody asked for deltas */
};

void embedding_unwatch(struct embedding_table *table);      /* no delta is being read */

bool embedding_create_waiting(struct embedding_table *table, struct cs_error *err);

/* The parts of a record's values; NULL where the optimizer has none. */
static inline float *record_m(struct record *record, size_t dimension, uint32_t moments)
{
    return moments & MOMENT_M ? record->value + dimension : NULL;
}

static inline float *record_v(struct record *record, size_t dimension, uint32_t moments)
{
    return moments & MOMENT_V ? record->value + (moments & MOMENT_M ? 2 : 1) * dimension : NULL;
}

#endif
