/* Scoring with a tower that stays: a block of rows goes through all layers while it is in the second-level cache. */
#include "core/ranking_fixed.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/layer_dense.h"
#include "core/vector_math.h"

enum { BLOCK = 96 };        /* rows; a multiple of what a product works on at once */

struct fixed_tower {
    size_t layers, width, shared, widest;
    struct packed *shared_weight, *weight[LAYERS_MAX];        /* weight[0]: own columns alone */
    float *shift[LAYERS_MAX];                                 /* [out] */
    size_t out[LAYERS_MAX];
    float *output, bias;
};

static float *copy_of(const float *from, size_t count)
{
    float *copy = malloc((count ? count : 1) * sizeof *from);
    return copy ? memcpy(copy, from, count * sizeof *from) : NULL;
}

struct fixed_tower *fixed_tower_create(const struct fixed_layer *layer, size_t layers, const float *output, float bias,
                                       size_t width, size_t shared, struct cs_error *err)
{
    struct fixed_tower *tower = calloc(1, sizeof *tower);
    assert(layers <= LAYERS_MAX && shared <= width && (!layers || layer[0].in == width));
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

/* The layers from `first` on, and the output. */
static void score_rest(const struct fixed_tower *tower, size_t first, size_t n, const float *x, size_t ldx,
                       const float *start, size_t ld_start, float *y[2], float *logit)
{
    size_t ld = tower->widest;
    for (size_t l = first; l < tower->layers; l++) {
        packed_forward(tower->weight[l], n, x, ldx, l ? tower->shift[l] : start, l ? 0 : ld_start, true, y[l % 2], ld,
                       NULL);
        x = y[l % 2];
        ldx = ld;
    }
    for (size_t i = 0; i < n; i++)
        logit[i] = tower->bias + vector_dot(x + i * ldx, tower->output, tower->out[tower->layers - 1]);
}

static void score_block(const struct fixed_tower *tower, size_t n, const float *shared_z, size_t ld_shared,
                        const float *start, const float *own_z, size_t ld_own, float *y[2], float *logit)
{
    size_t ld = tower->widest, ld_start = 0;
    if (!start) {
        packed_forward(tower->shared_weight, n, shared_z, ld_shared, tower->shift[0], 0, false, y[0], ld, NULL);
        start = y[0];
        ld_start = ld;
    }
    score_rest(tower, 0, n, own_z, ld_own, start, ld_start, y, logit);
}

static void take_block(const struct fixed_tower *tower, float *y[2], struct arena *scratch)
{
    for (size_t i = 0; i < 2; i++) y[i] = arena_take(scratch, BLOCK * tower->widest * sizeof *y[i]);
}

/* The first layer's sums over what one user shares. */
static float *multiply_shared(const struct fixed_tower *tower, const float *shared_z, struct arena *scratch)
{
    float *start = arena_take(scratch, tower->widest * sizeof *start);
    packed_forward(tower->shared_weight, 1, shared_z, 0, tower->shift[0], 0, false, start, tower->widest, NULL);
    return start;
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
    float *y[2], *start = ld_shared ? NULL : multiply_shared(tower, shared_z, scratch);
    take_block(tower, y, scratch);
    for (size_t i = 0; i < n; i += BLOCK)
        score_block(tower, n - i < BLOCK ? n - i : BLOCK, shared_z + i * ld_shared, ld_shared, start,
                    own_z + i * ld_own, ld_own, y, logit + i);
}

bool fixed_tower_begin(const struct fixed_tower *tower, size_t n, const float *own_z, size_t ld_own,
                       struct packed_job *job, struct arena *scratch)
{
    if (!tower->layers) return false;
    size_t out = tower->out[0];
    *job = (struct packed_job){ .packed = tower->weight[0], .n = n, .x = own_z, .ldx = ld_own, .ldy = out,
                                .y = arena_take(scratch, n * out * sizeof *job->y) };
    return true;
}

void fixed_tower_end(const struct fixed_tower *tower, struct packed_job *job, const float *shared_z, float *logit,
                     struct arena *scratch)
{
    size_t out = tower->out[0];
    float *y[2], *restrict start = multiply_shared(tower, shared_z, scratch);
    take_block(tower, y, scratch);
    packed_finish(job);
    for (size_t i = 0; i < job->n; i += BLOCK) {
        size_t n = job->n - i < BLOCK ? job->n - i : BLOCK;
        for (size_t r = 0; r < n; r++) {
            float *restrict row = job->y + (i + r) * out;
            for (size_t j = 0; j < out; j++) row[j] = leaky_relu(row[j] + start[j]);
        }
        score_rest(tower, 1, n, job->y + i * out, out, NULL, 0, y, logit + i);
    }
}
