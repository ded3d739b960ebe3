/* Gradients of embedding rows. */
#include "core/row_gradient.h"

#include <string.h>

struct use { const float *gradient; const double *rounding; float share; };    /* share: 1/count of a list's values */

struct index { const uint8_t *present; uint32_t *end; const double *none; struct use *use; };   /* use NULL: counting */

static void note(struct index *index, uint32_t row, const float *gradient, const double *rounding, float share)
{
    if (index->use) index->use[index->end[row]] = (struct use){ gradient, rounding, share };
    index->end[row]++;
}

static void visit_column(struct index *index, const struct features *features, const struct feature *feature,
                         const struct batch *batch, const struct row_gradient_source *s)
{
    const struct batch_column *column = &batch->column[feature->column];
    size_t attributes = features->group_categorical[GROUP_USER], at = s->group_offset[feature->group], d = s->dimension;
    size_t attribute = feature->column - features->group_categorical_begin[feature->group];
    for (size_t i = 0; i < batch->size; i++) {
        size_t values = 0;
        for (uint32_t j = column->offset[i]; j < column->offset[i + 1]; j++) values += index->present[column->row[j]];
        if (!values) continue;
        float share = 1.0f / (float)values;
        bool more = feature->group == GROUP_USER && s->user && s->user[i] != NO_USER;
        for (uint32_t j = column->offset[i]; j < column->offset[i + 1]; j++) {
            uint32_t row = column->row[j];
            if (!index->present[row]) continue;
            note(index, row, s->dz + i * s->width + at, s->rounding + at, share);
            if (more) note(index, row, s->dattribute + (s->user[i] * attributes + attribute) * d, index->none, share);
        }
    }
}

static void visit(struct index *index, const struct features *features, const struct batch *batch, size_t table,
                  const struct row_gradient_source *s)
{
    for (size_t f = 0; f < features->count; f++) {
        const struct feature *feature = &features->feature[f];
        if (feature->kind == FEATURE_CATEGORICAL && feature->table == table)
            visit_column(index, features, feature, batch, s);
    }
    if (table != features->behavior_table) return;
    for (size_t i = 0; i < batch->size; i++)
        for (uint32_t j = batch->behavior.offset[i]; j < batch->behavior.offset[i + 1]; j++)
            if (index->present[batch->behavior.row[j]])
                note(index, batch->behavior.row[j], s->dz + i * s->width + s->behavior_offset,
                     s->rounding + s->behavior_offset, 1.0f);
}

struct task { const struct use *use; const uint32_t *begin; size_t rows, dimension; float *gradient; };

enum { STRIP = 64 };        /* columns summed at once */

/* In doubles: a row that every example reads has a gradient of zero below a batch normalisation, and what floats leave
 * of that zero would move it as far as a gradient does (Adam divides by its size). */
static void sum_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    size_t first, last, d = t->dimension;
    parallel_share(t->rows, 16, part, parts, &first, &last);
    for (size_t row = first; row < last; row++)
        for (size_t strip = 0; strip < d; strip += STRIP) {
            size_t width = d - strip < STRIP ? d - strip : STRIP;
            double sum[STRIP] = { 0 };
            for (uint32_t u = t->begin[row]; u < t->begin[row + 1]; u++) {
                const float *restrict from = t->use[u].gradient + strip;
                const double *restrict rounding = t->use[u].rounding + strip;
                double share = (double)t->use[u].share;
                for (size_t k = 0; k < width; k++) sum[k] += share * ((double)from[k] - rounding[k]);
            }
            for (size_t k = 0; k < width; k++) t->gradient[row * d + strip + k] = (float)sum[k];
        }
}

void row_gradient(const struct compute *compute, const struct features *features, const struct batch *batch,
                  size_t table, const uint8_t *present, const struct row_gradient_source *source, float *gradient,
                  struct arena *scratch)
{
    size_t rows = batch->table[table].count;
    /* Counts stand two places up; summed, begin[row + 1] is where the row's uses begin, and filling moves it to where
     * they end, which is where the next row's begin. */
    uint32_t *begin = arena_take_zeroed(scratch, (rows + 2) * sizeof *begin);
    const double *none = arena_take_zeroed(scratch, source->dimension * sizeof *none);
    struct index index = { .present = present, .end = begin + 2, .none = none };
    visit(&index, features, batch, table, source);
    for (size_t row = 0; row < rows; row++) begin[row + 2] += begin[row + 1];
    index = (struct index){ .present = present,
                            .end = begin + 1,
                            .none = none,
                            .use = arena_take(scratch, (begin[rows + 1] + 1) * sizeof(struct use)) };
    visit(&index, features, batch, table, source);
    struct task task = { index.use, begin, rows, source->dimension, gradient };
    compute_run(compute, (begin[rows] + rows) * source->dimension, sum_part, &task);
}
