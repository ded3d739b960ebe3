/* Three dense layers with the input carried along. */
#include "core/layer_block.h"

#include <stdio.h>

#include "core/layer_dropout.h"
#include "core/random.h"

void block_add_parameters(struct block *block, struct parameter_set *set, enum parameter_group group,
                          enum tensor_role role, size_t in, const size_t width[BLOCK_LAYERS], enum activation last,
                          const char *name)
{
    block->in = in;
    block->last = last;
    snprintf(block->name, sizeof block->name, "%s", name);
    for (size_t l = 0; l < BLOCK_LAYERS; l++) {
        block->width[l] = width[l];
        size_t reads = l ? width[l - 1] + in : in;
        block->weight[l] = parameter_add(set, group, role, START_GLOROT, width[l], reads, "%s.%zu.weight", name, l);
        block->bias[l] = parameter_add(set, group, role, START_ZERO, width[l], 0, "%s.%zu.bias", name, l);
    }
}

void block_forward_hidden(const struct compute *compute, const struct block *block, size_t n, const float *x,
                          size_t ldx, double dropout, uint64_t seed, uint64_t step, struct arena *scratch,
                          struct block_pass *pass)
{
    size_t in = block->in, w0 = block->width[0], w1 = block->width[1], ld0 = w0 + in, ld1 = w1 + in;
    *pass = (struct block_pass){ .n = n, .x = x, .ldx = ldx, .dropout = dropout };
    pass->out[0] = arena_take(scratch, n * ld0 * sizeof(float));
    pass->out[1] = arena_take(scratch, n * ld1 * sizeof(float));
    const float *first = x;
    size_t ld_first = ldx;
    if (dropout > 0.0) {
        for (size_t l = 0; l < 2; l++) {
            char name[80];
            snprintf(name, sizeof name, "%s.%zu", block->name, l);
            pass->stream[l] = random_stream(seed, name, step);
        }
        first = pass->first = arena_take(scratch, n * in * sizeof(float));
        ld_first = in;
        block_copy(compute, n, in, x, ldx, pass->first, in);
        dropout_apply(compute, pass->stream[0], dropout, n, in, pass->first, in);
    }
    dense_forward(compute, block->weight[0], block->bias[0], ACTIVATION_LEAKY_RELU, n, first, ld_first, pass->out[0],
                  ld0);
    block_copy(compute, n, in, x, ldx, pass->out[0] + w0, ld0);
    /* A dropped output is 0 and a kept one keeps its sign: backward's derivative can still be read off it, since a
     * dropped element's gradient is 0 anyway. */
    if (dropout > 0.0) dropout_apply(compute, pass->stream[1], dropout, n, ld0, pass->out[0], ld0);
    dense_forward(compute, block->weight[1], block->bias[1], ACTIVATION_LEAKY_RELU, n, pass->out[0], ld0, pass->out[1],
                  ld1);
    block_copy(compute, n, in, x, ldx, pass->out[1] + w1, ld1);
}

void block_forward(const struct compute *compute, const struct block *block, size_t n, const float *x, size_t ldx,
                   double dropout, uint64_t seed, uint64_t step, float *y, struct arena *scratch,
                   struct block_pass *pass)
{
    block_forward_hidden(compute, block, n, x, ldx, dropout, seed, step, scratch, pass);
    pass->out[2] = y;
    dense_forward(compute, block->weight[2], block->bias[2], block->last, n, pass->out[1], block->width[1] + block->in,
                  pass->out[2], block->width[2]);
}

void block_backward(const struct compute *compute, const struct block *block, const struct block_pass *pass, float *dy,
                    float *dx, size_t lddx, bool add, struct arena *scratch)
{
    size_t n = pass->n, in = block->in, w0 = block->width[0], w1 = block->width[1], w2 = block->width[2], ld0 = w0 + in,
           ld1 = w1 + in;
    float *d1 = arena_take(scratch, n * ld1 * sizeof(float)), *d0 = arena_take(scratch, n * ld0 * sizeof(float));
    dense_backward(compute, block->weight[2], block->bias[2], block->last, n, pass->out[1], ld1, pass->out[2], w2, dy,
                   w2, 0.0f, d1, ld1);
    dense_backward(compute, block->weight[1], block->bias[1], ACTIVATION_LEAKY_RELU, n, pass->out[0], ld0, pass->out[1],
                   ld1, d1, ld1, 0.0f, d0, ld0);
    dropout_apply(compute, pass->stream[1], pass->dropout, n, ld0, d0, ld0);
    if (pass->dropout > 0.0) {      /* layer 0 read a dropped-out copy: through the mask before it is added */
        float *dfirst = arena_take(scratch, n * in * sizeof(float));
        dense_backward(compute, block->weight[0], block->bias[0], ACTIVATION_LEAKY_RELU, n, pass->first, in,
                       pass->out[0], ld0, d0, ld0, 0.0f, dfirst, in);
        dropout_apply(compute, pass->stream[0], pass->dropout, n, in, dfirst, in);
        (add ? block_add : block_copy)(compute, n, in, dfirst, in, dx, lddx);
    } else {
        dense_backward(compute, block->weight[0], block->bias[0], ACTIVATION_LEAKY_RELU, n, pass->x, pass->ldx,
                       pass->out[0], ld0, d0, ld0, add ? 1.0f : 0.0f, dx, lddx);
    }
    block_add(compute, n, in, d0 + w0, ld0, dx, lddx);
    block_add(compute, n, in, d1 + w1, ld1, dx, lddx);
}
