/* Attention pooling (numerics.md, section 3): e_j = queryᵀ tanh(weight x_j + bias), alpha = softmax over an example's
 * positions, h_i = sum of alpha_j x_j. Positions of all examples stand end to end, masked ones left out:
 *   x [positions, d]; example i has positions offset[i] .. offset[i+1]; none: h_i = 0
 * The x are constants: backward makes the parameters' gradients alone. */
#ifndef CORE_LAYER_ATTENTION_H
#define CORE_LAYER_ATTENTION_H

#include <stdint.h>

#include "core/arena.h"
#include "core/gemm.h"
#include "core/parameter.h"

struct attention { struct parameter *weight, *bias, *query; };

struct attention_pass { size_t n, positions; const float *x; const uint32_t *offset; float *hidden, *alpha; };

void attention_add(struct attention *attention, struct parameter_set *set, enum parameter_group group,
                   enum tensor_role role, size_t size, size_t dimension, const char *name);
/* h [n, d] with ldh. The pass keeps what backward needs, in scratch. */
void attention_forward(const struct compute *compute, const struct attention *attention, size_t n, const float *x,
                       const uint32_t *offset, float *h, size_t ldh, struct arena *scratch,
                       struct attention_pass *pass);
/* Overwrites the pass. */
void attention_backward(const struct compute *compute, const struct attention *attention, struct attention_pass *pass,
                        const float *dh, size_t lddh);

#endif
