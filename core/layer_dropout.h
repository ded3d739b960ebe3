/* Dropout: each element is kept with probability 1 - rate and then counts 1/(1 - rate) times. The mask is a function of
 * (stream, element), so backward draws it again instead of keeping it.
 *   x [n, width] with ld; element i * width + j */
#ifndef CORE_LAYER_DROPOUT_H
#define CORE_LAYER_DROPOUT_H

#include <stdint.h>

#include "core/gemm.h"

/* Forward on the values, backward on their gradients: the same multiplication. rate 0: nothing is done. */
void dropout_apply(const struct compute *compute, uint64_t stream, double rate, size_t n, size_t width, float *x,
                   size_t ld);

#endif
