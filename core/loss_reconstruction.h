/* Squared error of a decoder's output against its target: ‖y_i − target_i‖², summed over elements, mean over examples.
 * The target is `count` rows of d floats an example, or fewer: slots that are not there count as zeros. */
#ifndef CORE_LOSS_RECONSTRUCTION_H
#define CORE_LOSS_RECONSTRUCTION_H

#include <stdint.h>

#include "core/arena.h"
#include "core/gemm.h"

/* The target of example i: row offset[i] .. offset[i+1] of value [.., d], row j standing in slot[j] (ascending). */
struct sequence_target { const float *value; const uint32_t *offset, *slot; size_t dimension; };

/* y [n, width] becomes its own gradient (2/n)(y - target). Returns the mean. */
double reconstruction_dense(const struct compute *compute, float *y, size_t n, size_t width, const float *target,
                            size_t ld_target, struct arena *scratch);
double reconstruction_sequence(const struct compute *compute, float *y, size_t n, size_t width,
                               const struct sequence_target *target, struct arena *scratch);

#endif
