/* Scoring with a tower that stays: a block of rows goes through all layers while it is in the second-level cache. */
#include "core/ranking_fixed.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/layer_packed.h"
#include "core/vector_math.h"

enum { BLOCK = 96 };        /* rows; a multiple of what a product works on at once */

struct fixed_tower {
    size_t layers, width, shared, widest;
    struct packed *shared_weight, *weight[FIXED_LAYERS_MAX];        /* weight[0]: own columns alone */
    float *shift[FIXED_LAYERS_MAX];                                 /* [out] */
    size_t out[FIXED_LAYERS_MAX];
    float *output, bias;
};

static float *copy_of(const float *from, size_t count)
{
    float *copy = malloc(count * sizeof *from);
    return copy ? memcpy(copy, from, count * sizeof *from) : NULL;
}

struct fixed_tower *fixed_tower_create(const struct fixed_layer *layer, size_t layers, const float *output, float bias,
                                       size_t width, size_t shared, struct cs_error *err)
{
    struct fixed_tower *tower = calloc(1, sizeof *tower);
    assert(layers <= FIXED_LAYERS_MAX && shared <= width && (!layers || layer[0].in == width));
    if (!tower) goto fail;
    tower->layers = layers;
    tower->width = width;
    tower->shared = shared;
    tower->bias = bias;
    if (!(tower->output = copy_of(output, layers ? layer[layers - 1].out : width))) goto fail;
    for (size_t l = 0; l < layers; l++) {
        const struct fixed_layer *from = &layer[l];
        size_t skip = l ? 0 : shared;
        tower->out[l] = from->out;
        if (from->out > tower->widest) tower->widest = from->out;
        tower->weight[l] = packed_create(from->out, from->in - skip, from->weight + skip, from->in, from->scale);
        if (!tower->weight[l] || !(tower->shift[l] = copy_of(from->shift, from->out))) goto fail;
    }
    if (layers) tower->shared_weight = packed_create(layer->out, shared, layer->weight, width, layer->scale);
    if (!layers || tower->shared_weight) return tower;
fail:
    fixed_tower_destroy(tower);
    cs_fail(err, CS_FAILED, "out of memory: ranking tower");
    return NULL;
}

void fixed_tower_destroy(struct fixed_tower *tower)
{
    if (!tower) return;
    for (size_t l = 0; l < tower->layers; l++) {
        packed_destroy(tower->weight[l]);
        free(tower->shift[l]);
    }
    packed_destroy(tower->shared_weight);
    free(tower->output);
    free(tower);
}

static void score_block(const struct fixed_tower *tower, size_t n, const float *shared_z, size_t ld_shared,
                        const float *start, const float *own_z, size_t ld_own, float *y[2], float *logit)
{
    size_t ld = tower->widest, ld_start = 0;
    const float *x = own_z;
    if (!start) {
        packed_forward(tower->shared_weight, n, shared_z, ld_shared, tower->shift[0], 0, false, y[0], ld);
        start = y[0];
        ld_start = ld;
    }
    for (size_t l = 0; l < tower->layers; l++) {
        packed_forward(tower->weight[l], n, x, l ? ld : ld_own, l ? tower->shift[l] : start, l ? 0 : ld_start, true,
                       y[l % 2], ld);
        x = y[l % 2];
    }
    for (size_t i = 0; i < n; i++)
        logit[i] = tower->bias + vector_dot(x + i * ld, tower->output, tower->out[tower->layers - 1]);
}

void fixed_tower_score(const struct fixed_tower *tower, size_t n, const float *shared_z, size_t ld_shared,
                       const float *own_z, size_t ld_own, float *logit, struct arena *scratch)
{
    if (!tower->layers) {
        for (size_t i = 0; i < n; i++)
            logit[i] = tower->bias + vector_dot(shared_z + i * ld_shared, tower->output, tower->shared) +
                       vector_dot(own_z + i * ld_own, tower->output + tower->shared, tower->width - tower->shared);
        return;
    }
    float *y[2], *start = NULL;
    for (size_t i = 0; i < 2; i++) y[i] = arena_take(scratch, BLOCK * tower->widest * sizeof *y[i]);
    if (!ld_shared) {
        start = arena_take(scratch, tower->widest * sizeof *start);
        packed_forward(tower->shared_weight, 1, shared_z, 0, tower->shift[0], 0, false, start, tower->widest);
    }
    for (size_t i = 0; i < n; i += BLOCK)
        score_block(tower, n - i < BLOCK ? n - i : BLOCK, shared_z + i * ld_shared, ld_shared, start,
                    own_z + i * ld_own, ld_own, y, logit + i);
}
