/* An encoder or decoder of the zero-shot tower: three dense layers, of which the second and third also see the block's
 * input.
 *
 *   x [n, in] --drop--> 0 --leaky--> | out 0 | x | --drop--> 1 --leaky--> | out 1 | x | --> 2 (leaky in an encoder)
 *
 * The bars are one buffer each: a layer writes its output straight into the next one's concatenation. Dropout falls on
 * the copy that a layer reads; the x that the third layer sees is the block's input as it came. */
#ifndef CORE_LAYER_BLOCK_H
#define CORE_LAYER_BLOCK_H

#include "core/arena.h"
#include "core/layer_dense.h"

enum { BLOCK_LAYERS = 3 };

struct block {
    struct parameter *weight[BLOCK_LAYERS], *bias[BLOCK_LAYERS];
    size_t in, width[BLOCK_LAYERS];
    enum activation last;
    char name[64];
};

struct block_pass {
    size_t n, ldx;
    const float *x;             /* the block's input */
    float *first;               /* what layer 0 read: x itself, or its dropped-out copy */
    float *out[BLOCK_LAYERS];   /* out[0] [n, width 0 + in], out[1] [n, width 1 + in], out[2] [n, width 2] */
    double dropout;
    uint64_t stream[2];
};

void block_add_parameters(struct block *block, struct parameter_set *set, enum parameter_group group,
                          enum tensor_role role, size_t in, const size_t width[BLOCK_LAYERS], enum activation last,
                          const char *name);
/* dropout 0 (as serving) or the rate, with masks by (seed, layer's name, step). y [n, width 2] is the output, kept as
 * pass->out[2]. */
void block_forward(const struct compute *compute, const struct block *block, size_t n, const float *x, size_t ldx,
                   double dropout, uint64_t seed, uint64_t step, float *y, struct arena *scratch,
                   struct block_pass *pass);
/* Without the last layer: pass->out[1] is filled, pass->out[2] NULL. */
void block_forward_hidden(const struct compute *compute, const struct block *block, size_t n, const float *x,
                          size_t ldx, double dropout, uint64_t seed, uint64_t step, struct arena *scratch,
                          struct block_pass *pass);
/* dy [n, width 2] dense, overwritten. dx [n, in] with lddx: added to where add, otherwise set. */
void block_backward(const struct compute *compute, const struct block *block, const struct block_pass *pass, float *dy,
                    float *dx, size_t lddx, bool add, struct arena *scratch);

#endif
