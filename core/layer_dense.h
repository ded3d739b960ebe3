/* A dense layer: y = x wᵀ + b, and the activation after it, forward and backward.
 *   x [n, in] with leading dimension ldx; w [out, in]; b [out] or no bias; y [n, out] with ldy
 * LeakyReLU's derivative at 0 is the slope. Costs 2 n in out operations forward, twice that backward. */
#ifndef CORE_LAYER_DENSE_H
#define CORE_LAYER_DENSE_H

#include "core/gemm.h"
#include "core/parameter.h"

#define LEAKY_SLOPE 0.2f

enum activation { ACTIVATION_NONE, ACTIVATION_LEAKY_RELU };

static inline float leaky_relu(float x) { return x > 0.0f ? x : LEAKY_SLOPE * x; }

/* bias may be NULL. */
void dense_forward(const struct compute *compute, const struct parameter *weight, const struct parameter *bias,
                   enum activation activation, size_t n, const float *x, size_t ldx, float *y, size_t ldy);
/* dy is dL/d(activated y) and becomes dL/d(x wᵀ + b) in place; weight and bias gradients are set, not added to; dx
 * (NULL: nobody needs it) = dy w + dx_beta * dx. y is the activated output (read where there is an activation). */
void dense_backward(const struct compute *compute, const struct parameter *weight, const struct parameter *bias,
                    enum activation activation, size_t n, const float *x, size_t ldx, const float *y, size_t ldy,
                    float *dy, size_t lddy, float dx_beta, float *dx, size_t lddx);

/* A row-major [n, width] block copied or added between leading dimensions. */
void block_copy(const struct compute *compute, size_t n, size_t width, const float *from, size_t ld_from, float *to,
                size_t ld_to);
void block_add(const struct compute *compute, size_t n, size_t width, const float *from, size_t ld_from, float *to,
               size_t ld_to);

#endif
