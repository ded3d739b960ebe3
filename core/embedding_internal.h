/* What embedding.c, embedding_state.c and embedding_delta.c share. */
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

/* "<kind>.<table>" */
void embedding_section(char section[STATE_SECTION_MAX], const char *kind, const struct embedding_table *table);

/* The parts of a record's values; NULL where the optimizer has none. */
static inline float *record_m(struct record *record, size_t dimension, uint32_t moments)
{
    return moments & MOMENT_M ? record->value + dimension : NULL;
}

static inline float *record_v(struct record *record, size_t dimension, uint32_t moments)
{
    return moments & MOMENT_V ? record->value + (moments & MOMENT_M ? 2 : 1) * dimension : NULL;
}

static inline struct embedding_row embedding_row_of(const struct record *record, size_t dimension, uint32_t moments)
{
    struct record *parts = (struct record *)(uintptr_t)record;          /* only looked at */
    return (struct embedding_row){ .key = record->key, .row = record->value, .step = record->step, .seen = record->seen,
                                   .m = record_m(parts, dimension, moments), .v = record_v(parts, dimension, moments) };
}

#endif
