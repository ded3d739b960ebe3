/* Squared error of a decoder's output against its target: ‖y_i − target_i‖², summed over elements, mean over examples.
 * Both run over the examples in parts and sum in doubles across stretches of 256 floats; never fail, take n doubles of
 * scratch, cost one pass over y. Source: MAIL, arXiv:2108.13592, eq 3-4. */
#ifndef CORE_LOSS_RECONSTRUCTION_H
#define CORE_LOSS_RECONSTRUCTION_H

#include <stdint.h>

#include "core/arena.h"
#include "core/gemm.h"

/* The target of example i, a sequence of slots of d floats: row offset[i] .. offset[i+1] of value [.., d], row j
 * standing in slot[j] (ascending within an example, below width / d). Slots that have none count as zeros. */
struct sequence_target { const float *value; const uint32_t *offset, *slot; size_t dimension; };

/* y [n, width] becomes its own gradient (2/n)(y - target), target [n, width] with ld_target. Returns the mean. */
double reconstruction_dense(const struct compute *compute, float *y, size_t n, size_t width, const float *target,
                            size_t ld_target, struct arena *scratch);
double reconstruction_sequence(const struct compute *compute, float *y, size_t n, size_t width,
                               const struct sequence_target *target, struct arena *scratch);

#endif
