/* From the gradients of what was read to the gradients of the rows that were read: an inverted index (row -> where it
 * was used) is built once a table, then each row's uses are summed in the order of the examples, whichever thread does
 * it. */
#ifndef CORE_ROW_GRADIENT_H
#define CORE_ROW_GRADIENT_H

#include "core/arena.h"
#include "core/batch.h"
#include "core/gemm.h"

enum { NO_USER = UINT32_MAX };

struct row_gradient_source {
    const float *dz;                /* [size, width] */
    const double *rounding;         /* [width] to be taken off each row of it, as ranking_tower's backward says */
    size_t width, dimension;
    size_t group_offset[GROUPS];    /* where a group's pooled vector stands in z */
    size_t behavior_offset;
    const uint32_t *user;           /* NULL, or for each example its row of dattribute or NO_USER */
    const float *dattribute;        /* [.., n_a * d]: more gradient for the user attributes of those examples */
};

/* gradient [batch->table[table].count, d]; zeros for rows that are not present. */
void row_gradient(const struct compute *compute, const struct features *features, const struct batch *batch,
                  size_t table, const uint8_t *present, const struct row_gradient_source *source, float *gradient,
                  struct arena *scratch);

#endif
